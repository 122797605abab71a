// @ts-check
/** One stay in one room, from the wish to join to the end of the call. */
import { followPage, SignalingClient } from '../signaling.js'
import { socketURL } from '../protocol.js'
import { MAX_CHAT, Room } from '../room.js'
import { summarize } from '../stats.js'
import { reportCalls } from './reports.js'
import { endOf, mediaNote, nameOf, pillOf, REFUSAL_SHOWS, stageFailure, statusOf } from './status.js'
import { onLanguage } from './texts.js'

/** @import { Kind } from '../call.js' */
/** @import { LocalMedia } from '../media.js' */
/** @import { LeaveReason } from '../protocol.js' */
/** @import { Member, Quality } from '../room.js' */
/** @import { TabSession } from '../session.js' */
/** @import { End } from '../signaling.js' */
/** @import { Summary } from '../stats.js' */
/** @import { Inspector } from './inspector.js' */
/** @import { Failure, PillState, Status } from './status.js' */

/** How long something that has happened stays in the status line, in milliseconds. */
const NEWS = 4000
/** How often the connections are measured, in milliseconds. */
const MEASURE = 1000

/**
 * What is to be shown of it.
 * @typedef {object} Picture
 * @property {Room} room
 * @property {Status} status
 * @property {Status | undefined} note  what is wrong with our own devices
 * @property {Failure | undefined} failure  what stands in the stage
 * @property {PillState} pill
 * @property {number | undefined} rtt  the longest round trip, in milliseconds
 */

/**
 * Fires:
 * - `picture` Picture
 * - `member` Member, `chat` `{ from, text }`: as of Room
 * - `announcement` string: what the server's operator says
 * - `measured` `Map<string, Summary>`: by peer id, once a second in a call
 * - `over` `{ why: Status, lasted, retryAfter? }`: `lasted` in milliseconds, `retryAfter` in seconds
 */
export class Visit extends EventTarget {
  /** @type {Room | undefined} */
  room
  media
  where
  #tab
  #inspector
  #quality
  #over = new AbortController()
  /** @type {Status | undefined} */
  #news
  #newsTimer = 0
  #measureTimer = 0
  /** @type {Map<string, Summary>} */
  #measured = new Map()
  /** When the first connection came up, in milliseconds of performance.now(). */
  #since = 0
  #noteIsRead = ''
  #report = () => {}
  #reports
  #token
  /** Calls that were up at the last look. */
  #up = 0

  /**
   * @param {object} options
   * @param {TabSession} options.tab
   * @param {{ room: string, name: string }} options.where
   * @param {string} [options.token]  of the invitation
   * @param {LocalMedia} options.media  opened, or not; whoever opened them closes them
   * @param {Inspector} options.inspector
   * @param {Quality} [options.quality]
   * @param {() => boolean} [options.reports]  whether the server may be told how calls fare
   */
  constructor({ tab, where, token, media, inspector, quality, reports = () => false }) {
    super()
    this.#reports = reports
    this.#token = token
    this.#tab = tab
    this.where = where
    this.media = media
    this.#inspector = inspector
    this.#quality = quality
  }

  get isOver() {
    return this.#over.signal.aborted
  }

  /** @param {() => number} [now] */
  begin(now = () => performance.now()) {
    const { signal } = this.#over
    const signaling = new SignalingClient({
      url: socketURL(document.baseURI),
      ...this.where,
      token: this.#token,
      replaces: this.#tab.memory.key,
    })
    this.#tab.remember({ ...this.where, key: signaling.session, inCall: true })
    signaling.addEventListener('session', () => this.#tab.remember({ key: signaling.session }))
    const room = (this.room = new Room({
      signaling,
      tracks: this.media.tracks,
      media: this.#sending,
      quality: this.#quality,
    }))
    followPage(room, { window, document, connection: /** @type {any} */ (navigator).connection, signal })
    this.#inspector.watchRoom(room)
    this.#report = reportCalls(room, { allowed: this.#reports, pathOf: (id) => this.#measured.get(id)?.path, signal })
    this.media.addEventListener('change', () => this.#mediaChanged(), { signal })
    onLanguage(() => this.#render(), { signal })
    this.#follow(room, now)
    this.#measureTimer = window.setInterval(() => this.#measure(room), MEASURE)
    room.join()
    this.#render()
  }

  /** @param {Status} [why] */
  end(why = { key: 'left' }, retryAfter = 0) {
    if (this.isOver) return
    this.#over.abort()
    clearTimeout(this.#newsTimer)
    clearInterval(this.#measureTimer)
    this.room?.leave()
    this.#tab.remember({ inCall: false })
    const lasted = this.#since ? performance.now() - this.#since : 0
    this.dispatchEvent(new CustomEvent('over', { detail: { why, lasted, retryAfter } }))
  }

  /** Somebody has read what is wrong with the devices; it is shown again when that changes. */
  dismissNote() {
    this.#noteIsRead = mediaNote(this.media)?.key ?? ''
    this.#render()
  }

  get #sending() {
    const { media } = this
    return {
      audio: media.track('audio')?.enabled === true,
      video: media.track('video') !== undefined,
      screen: media.screen !== undefined,
    }
  }

  get sending() {
    return this.#sending
  }

  /**
   * @param {Room} room
   * @param {() => number} now
   */
  #follow(room, now) {
    /** @param {string} type @param {(detail: any) => void} handle */
    const on = (type, handle) =>
      room.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail), {
        signal: this.#over.signal,
      })
    on('change', () => {
      const up = [...room.members.values()].filter(({ call }) => call.state === 'connected').length
      if (up > 0) this.#since ||= now()
      if (up > this.#up) this.#measure(room) // the path is known now
      this.#up = up
      if (room.ended && room.members.size === 0) this.#closed(room.ended)
      else this.#render()
    })
    on('member', (member) => {
      this.dispatchEvent(new CustomEvent('member', { detail: member }))
      member.call.addEventListener('refused', () => setTimeout(() => this.#render(), REFUSAL_SHOWS))
      this.#tell(undefined)
    })
    on('member-back', (member) => this.#tell({ key: 'peer-back', values: { name: nameOf(member) } }))
    on('member-left', ({ member, reason }) => this.#tell(departure(member, reason)))
    on('chat', (detail) => this.dispatchEvent(new CustomEvent('chat', { detail })))
    on('message', ({ from, data }) => {
      const words = typeof data === 'string' ? data : data?.text
      if (!from && typeof words === 'string') this.dispatchEvent(new CustomEvent('announcement', { detail: words.slice(0, MAX_CHAT) }))
    })
    on('trouble', (error) => console.warn('duet:', error))
  }

  /**
   * There is neither signaling nor a call any more.
   * @param {End} end
   */
  #closed(end) {
    if (end.why === 'left') return // the page goes, and a reload is to come back into the call
    const retryAfter = end.error?.code === 'room-full' ? end.error.retryAfter : 0
    const why = endOf(end)
    this.end({ ...why, values: { room: this.where.room, ...why.values } }, retryAfter)
  }

  #mediaChanged() {
    for (const kind of /** @type {Kind[]} */ (['audio', 'video'])) {
      this.room?.setTrack(kind, this.media.track(kind) ?? null).catch((error) => console.warn('duet:', error))
    }
    this.room?.setMedia(this.#sending)
    this.#render()
  }

  /** @param {Status | undefined} news  what has happened; undefined: older news no longer matter */
  #tell(news) {
    this.#news = news
    clearTimeout(this.#newsTimer)
    if (news) this.#newsTimer = window.setTimeout(() => this.#tell(undefined), NEWS)
    this.#render()
  }

  /** @param {Room} room */
  async #measure(room) {
    /** @type {Map<string, Summary>} */
    const measured = new Map()
    for (const { id, call } of room.members.values()) {
      if (call.state === 'closed') continue
      try {
        measured.set(id, summarize(this.#measured.get(id), await call.getStats(), performance.now()))
      } catch {
        // A connection that has just been closed tells nothing any more.
      }
    }
    if (this.isOver) return
    this.#measured = measured
    this.#report()
    this.dispatchEvent(new CustomEvent('measured', { detail: measured }))
    this.#render()
  }

  #render() {
    const { room } = this
    if (this.isOver || !room) return
    const summaries = [...room.members.keys()].flatMap((id) => this.#measured.get(id) ?? [])
    const path = summaries.some((s) => s.path === 'relay') ? 'relay' : summaries[0]?.path
    const times = summaries.flatMap((s) => s.rtt ?? [])
    const note = mediaNote(this.media)
    /** @type {Picture} */
    const picture = {
      room,
      status: statusOf(room, this.#news),
      note: note?.key === this.#noteIsRead ? undefined : note,
      failure: stageFailure(room),
      pill: pillOf(room, path),
      rtt: times.length ? Math.max(...times) : undefined,
    }
    this.dispatchEvent(new CustomEvent('picture', { detail: picture }))
  }
}

/**
 * @param {Member} member
 * @param {LeaveReason} reason
 * @returns {Status}
 */
function departure(member, reason) {
  return { key: `peer-left-${reason}`, values: { name: nameOf(member) } }
}
