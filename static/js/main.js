// @ts-check
/**
 * The page: joins form, devices, room and view. For tests and for the curious, `window.duet` holds
 * `{ room, media }` of the running call, and the elements carry their state: `data-phase` on the root,
 * `data-key` on `#status` and `#status-note`, `data-state`, `data-presence` and `data-video` on `.tile`.
 */
import { LocalMedia } from './media.js'
import { isName, isRoom, socketURL } from './protocol.js'
import { MAX_CHAT, Room } from './room.js'
import { TabSession } from './session.js'
import { followPage, newSessionKey, SignalingClient } from './signaling.js'
import { endOf, mediaNote, nameOf, statusOf } from './status.js'
import { text } from './texts.js'
import * as view from './view.js'

/** @import { Kind } from './call.js' */
/** @import { Member } from './room.js' */
/** @import { End } from './signaling.js' */
/** @import { Status } from './status.js' */

/** How long something that has happened stays in the status line, in milliseconds. */
const NEWS = 4000

/** One stay in one room, from the form's submission to the return to the form. */
class Visit {
  /** @type {Room | undefined} */
  room
  media = new LocalMedia()
  #tab
  #where
  #over = new AbortController()
  /** @type {Status | undefined} */
  #news
  #newsTimer = 0

  /**
   * @param {TabSession} tab
   * @param {{ room: string, name: string }} where
   */
  constructor(tab, where) {
    this.#tab = tab
    this.#where = where
  }

  async begin() {
    view.clearChat()
    view.showPhase('asking', this.#where.room)
    view.showStatus({ key: 'asking', level: 'busy' })
    this.media.addEventListener('change', () => this.#mediaChanged())
    // Joining before the devices are there would cost every call a second negotiation.
    await Promise.race([this.media.open(), this.#skipped()])
    if (this.#over.signal.aborted) return
    view.showPhase('call', this.#where.room)
    this.#join()
  }

  /** @param {Status} [status]  what the form says next */
  end(status = { key: 'left' }) {
    if (this.#over.signal.aborted) return
    this.#over.abort()
    clearTimeout(this.#newsTimer)
    this.room?.leave()
    this.media.close()
    this.#tab.remember({ inCall: false })
    view.showMembers([])
    view.showPhase('lobby')
    view.showStatus(status)
  }

  /** @param {Kind} kind */
  async toggle(kind) {
    const track = this.media.track(kind)
    if (kind === 'audio' && track) track.enabled = !track.enabled
    else if (track) this.media.stop(kind)
    else await this.media.ensure(kind)
    this.#mediaChanged()
  }

  /** @param {string} words */
  say(words) {
    if (this.room?.chat(words)) view.addChat(text('you'), words, 'own')
    else view.addChat('', text('notSent'), 'note')
  }

  get #sending() {
    return { audio: this.media.track('audio')?.enabled === true, video: this.media.track('video') !== undefined }
  }

  #skipped() {
    return new Promise((resolve) => {
      view.elements.skipMedia.addEventListener('click', resolve, { once: true, signal: this.#over.signal })
    })
  }

  #join() {
    const signaling = new SignalingClient({
      url: socketURL(document.baseURI),
      ...this.#where,
      replaces: this.#tab.memory.key,
    })
    this.#tab.remember({ ...this.#where, key: signaling.session, inCall: true })
    signaling.addEventListener('session', () => this.#tab.remember({ key: signaling.session }))
    followPage(signaling, { window, document, signal: this.#over.signal })
    this.room = new Room({ signaling, tracks: this.media.tracks, media: this.#sending })
    this.#follow(this.room)
    this.room.join()
  }

  /** @param {Room} room */
  #follow(room) {
    /** @param {string} type @param {(detail: any) => void} handle */
    const on = (type, handle) =>
      room.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail), {
        signal: this.#over.signal,
      })
    on('change', () => (room.ended && room.members.size === 0 ? this.#closed(room.ended) : this.#render()))
    on('member', () => this.#tell(undefined))
    on('member-back', (member) => this.#tell({ key: 'peer-back', values: { name: nameOf(member) } }))
    on('member-left', ({ member, reason }) => this.#tell(departure(member, reason)))
    on('chat', ({ from, text: words }) => view.addChat(nameOf(from), words, 'other'))
    on('trouble', (error) => console.warn('duet:', error))
  }

  /**
   * There is neither signaling nor a call any more.
   * @param {End} end
   */
  #closed(end) {
    if (end.why === 'left') return // the page goes, and a reload is to come back into the call
    this.end(endOf(end))
    const wait = end.error?.code === 'room-full' ? end.error.retryAfter : undefined
    if (wait) tryAgain(this.#where, wait)
  }

  #mediaChanged() {
    if (this.#over.signal.aborted) return
    for (const kind of /** @type {const} */ (['audio', 'video'])) {
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

  #render() {
    if (this.#over.signal.aborted) return
    view.showOwn(this.media.stream, this.#sending)
    if (!this.room) return
    view.showMembers(this.room.members.values())
    view.showStatus(statusOf(this.room, this.#news), mediaNote(this.media))
  }
}

/**
 * @param {Member} member
 * @param {import('./protocol.js').LeaveReason} reason
 * @returns {Status}
 */
function departure(member, reason) {
  return { key: `peer-left-${reason}`, values: { name: nameOf(member) } }
}

/** @type {Visit | undefined} */
let visit
let retryTimer = 0
const tab = await TabSession.open({
  storage: storageOfTab(),
  locks: navigator.locks,
  newTab: () => newSessionKey(),
})

/** Browsers that keep nothing for a page throw on the mere access. */
function storageOfTab() {
  try {
    return sessionStorage
  } catch {
    return undefined
  }
}

/** @param {{ room: string, name: string }} where */
function begin(where) {
  clearTimeout(retryTimer)
  visit?.end()
  history.replaceState(null, '', `#${encodeURIComponent(where.room)}`)
  visit = new Visit(tab, where)
  Object.assign(window, { duet: visit })
  visit.begin()
}

/**
 * @param {{ room: string, name: string }} where
 * @param {number} seconds
 */
function tryAgain(where, seconds) {
  retryTimer = window.setTimeout(() => begin(where), seconds * 1000)
}

/** The room that the page's address names. */
function roomInAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1))
  } catch {
    return ''
  }
}

/** A name that nobody guesses: ten letters, 47 bits. */
function newRoom() {
  const letters = [...crypto.getRandomValues(new Uint32Array(10))].map((n) => String.fromCharCode(97 + (n % 26)))
  return `${letters.slice(0, 3).join('')}-${letters.slice(3, 7).join('')}-${letters.slice(7).join('')}`
}

const { elements } = view
view.fillTexts()
view.showPhase('lobby')
view.showStatus({ key: 'lobby' })
elements.room.value = roomInAddress() || newRoom()
elements.name.value = tab.memory.name ?? ''
elements.chatText.maxLength = MAX_CHAT

elements.form.addEventListener('submit', (event) => {
  event.preventDefault()
  const where = { room: elements.room.value.trim(), name: elements.name.value.trim() }
  elements.room.setCustomValidity(isRoom(where.room) ? '' : text('badRoom'))
  elements.name.setCustomValidity(isName(where.name) ? '' : text('badName'))
  if (elements.form.reportValidity()) begin(where)
})
for (const input of [elements.room, elements.name]) {
  input.addEventListener('input', () => input.setCustomValidity(''))
}
elements.microphone.addEventListener('click', () => visit?.toggle('audio'))
elements.camera.addEventListener('click', () => visit?.toggle('video'))
elements.hangUp.addEventListener('click', () => visit?.end())
elements.hear.addEventListener('click', () => view.hearAll())
elements.copyLink.addEventListener('click', () => view.copyLink(elements.room.value.trim()))
elements.chatForm.addEventListener('submit', (event) => {
  event.preventDefault()
  const words = elements.chatText.value.trim()
  if (words) visit?.say(words)
  elements.chatForm.reset()
})
window.addEventListener('hashchange', () => {
  clearTimeout(retryTimer)
  const room = roomInAddress()
  if (room && room !== elements.room.value) {
    visit?.end({ key: 'lobby' })
    elements.room.value = room
  }
})

// A reload in mid-call goes back into the call.
if (tab.memory.inCall && tab.memory.room === roomInAddress()) {
  begin({ room: tab.memory.room, name: tab.memory.name ?? '' })
}
