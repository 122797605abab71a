// @ts-check
/** The stage: who is there, oneself, and what stands in the way. */
import { button, find, icon, make, onRefusal, play, say, show, start } from './dom.js'
import { nameOf } from './status.js'
import { text } from './texts.js'

/** @import { MediaState, Member } from '../room.js' */
/** @import { LocalMedia } from '../media.js' */
/** @import { PillState, Status } from './status.js' */

/** How long a toast stays, in milliseconds. */
const TOAST = 5000

export class CallView {
  #toastTimer = 0
  #onVideo

  /** @param {(video: HTMLVideoElement) => void} onVideo  called for each new video element of another */
  constructor(onVideo) {
    this.#onVideo = onVideo
    onRefusal(() => show(find('#autoplay'), true))
    button('#hear').addEventListener('click', () => this.hear())
  }

  /** Plays what could not be played without a gesture. Call it from one. */
  hear() {
    show(find('#autoplay'), false)
    for (const video of document.querySelectorAll('video')) if (video.srcObject) start(video)
  }

  /**
   * One tile a member, with its state in data attributes.
   * @param {Iterable<Member>} members
   */
  members(members) {
    const tiles = find('#tiles')
    const kept = new Set()
    for (const member of members) {
      const tile = this.#tile(tiles, member)
      this.#show(tile, member)
      kept.add(tile)
    }
    for (const tile of tiles.querySelectorAll('.tile')) {
      if (kept.has(tile)) continue
      play(/** @type {HTMLVideoElement} */ (find('video', tile)), null)
      tile.remove()
      show(find('#autoplay'), false)
    }
    find('#stage').dataset.count = String(kept.size)
  }

  /** @param {HTMLElement} tile @param {Member} member */
  #show(tile, member) {
    const name = nameOf(member)
    const { state, stream } = member.call
    tile.dataset.state = state
    tile.dataset.presence = member.presence
    tile.dataset.video = sendsVideo(member) ? 'on' : 'off'
    tile.dataset.screen = String(/** @type {any} */ (member.media).screen === true)
    tile.dataset.muted = String(!member.media.audio)
    caption(find('.caption', tile), name, member.media.audio)
    say(find('.avatar', tile), [...name][0]?.toUpperCase() ?? '')
    say(find('.tile-note', tile), state === 'connected' ? '' : text(noteOf(state), { name }))
    const video = /** @type {HTMLVideoElement} */ (find('video', tile))
    video.setAttribute('aria-label', name)
    play(video, stream)
  }

  /** @param {HTMLElement} tiles @param {Member} member */
  #tile(tiles, member) {
    const present = tiles.querySelector(`.tile[data-peer="${CSS.escape(member.id)}"]`)
    if (present) return /** @type {HTMLElement} */ (present)
    const { content } = /** @type {HTMLTemplateElement} */ (find('#tile'))
    tiles.append(document.importNode(content, true))
    const tile = /** @type {HTMLElement} */ (tiles.lastElementChild)
    tile.dataset.peer = member.id
    this.#onVideo(/** @type {HTMLVideoElement} */ (find('video', tile)))
    return tile
  }

  /**
   * @param {LocalMedia} media
   * @param {MediaState} sending
   * @param {string} name
   */
  own(media, sending, name) {
    const tile = find('#own')
    const sharing = media.screen !== undefined
    play(/** @type {HTMLVideoElement} */ (find('video', tile)), media.stream)
    tile.dataset.video = sending.video ? 'on' : 'off'
    tile.dataset.screen = String(sharing)
    caption(find('.caption', tile), text(sharing ? 'yourScreen' : 'you'), sending.audio)
    say(find('.avatar', tile), [...(name || text('you'))][0]?.toUpperCase() ?? '')
    button('#microphone').setAttribute('aria-pressed', String(sending.audio))
    button('#camera').setAttribute('aria-pressed', String(media.camera !== undefined))
    const share = button('#share')
    share.setAttribute('aria-pressed', String(sharing))
    find('span', share).dataset.text = sharing ? 'shareStop' : 'share'
    say(find('span', share), text(sharing ? 'shareStop' : 'share'))
  }

  /**
   * What goes on for a while, above the stage.
   * @param {Status | undefined} status
   */
  banner(status) {
    const banner = find('#banner')
    banner.dataset.key = status?.key ?? ''
    banner.dataset.level = status?.level ?? 'busy'
    say(find('#banner-text'), status ? text(status.key, status.values) : '')
    show(banner, status !== undefined)
  }

  /** What is wrong with our own devices. @param {Status | undefined} note */
  note(note) {
    const line = find('#status-note')
    line.dataset.key = note?.key ?? ''
    say(find('#note-text'), note ? text(note.key, note.values) : '')
    show(line, note !== undefined)
  }

  /**
   * @param {PillState} state
   * @param {number} [rtt]  milliseconds
   */
  pill(state, rtt) {
    const pill = button('#pill')
    pill.dataset.state = state
    const path = text(`pill.${state}`)
    const known = rtt !== undefined && (state === 'direct' || state === 'relay')
    say(find('#pill-text'), known ? text('pill.rtt', { path, ms: Math.max(1, Math.round(rtt)) }) : path)
    const more = state === 'direct' || state === 'relay' ? `${text(`pill.${state}.title`)} ` : ''
    pill.title = `${more}${text('pill.title')}`
  }

  /** What the last toast said stands elsewhere now. */
  hush() {
    find('#toast').replaceChildren()
  }

  /** A short word on something that has just happened. @param {string} words @param {string} [who] */
  toast(words, who) {
    const toast = find('#toast')
    toast.replaceChildren(...(who ? [make('b', '', who), ' '] : []), make('span', '', words))
    clearTimeout(this.#toastTimer)
    this.#toastTimer = window.setTimeout(() => toast.replaceChildren(), TOAST)
  }
}

/**
 * @param {Element} element
 * @param {string} name
 * @param {boolean} audible
 */
function caption(element, name, audible) {
  const label = audible ? name : `${name} (${text('muted')})`
  if (element.getAttribute('data-words') === label) return
  element.setAttribute('data-words', label)
  const mark = icon('mic-off')
  mark.setAttribute('class', 'muted-mark')
  const muted = make('span', 'unseen', ` (${text('muted')})`)
  element.replaceChildren(...(audible ? [] : [mark]), make('span', '', name), ...(audible ? [] : [muted]))
}

/** @param {string} state */
function noteOf(state) {
  if (state === 'unstable') return 'unstable'
  return state === 'blocked' || state === 'unanswered' ? state : 'calling'
}

/** @param {Member} member */
function sendsVideo({ call, media }) {
  return media.video && call.stream.getVideoTracks().some((track) => track.readyState === 'live' && !track.muted)
}
