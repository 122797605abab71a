// @ts-check
/** The page's elements. Text of others enters through textContent only. */
import { nameOf } from './status.js'
import { text } from './texts.js'

/** @import { MediaState, Member } from './room.js' */
/** @import { Status } from './status.js' */
/** @import { TextKey } from './texts.js' */

/**
 * @template {Element} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [parent]
 */
function find(selector, parent = document) {
  const element = parent.querySelector(selector)
  if (!element) throw new Error(`no element ${selector}`)
  return /** @type {T} */ (element)
}

export const elements = {
  form: /** @type {HTMLFormElement} */ (find('#join')),
  room: /** @type {HTMLInputElement} */ (find('#room')),
  name: /** @type {HTMLInputElement} */ (find('#name')),
  skipMedia: find('#skip-media'),
  hear: find('#hear'),
  copyLink: find('#copy-link'),
  microphone: find('#microphone'),
  camera: find('#camera'),
  hangUp: find('#hang-up'),
  chatForm: /** @type {HTMLFormElement} */ (find('#chat-form')),
  chatText: /** @type {HTMLInputElement} */ (find('#chat-text')),
}

/** Fills in the texts that the page's markup only names. */
export function fillTexts() {
  /** @param {string} name @param {(element: Element, words: string) => void} fill */
  const each = (name, fill) => {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      fill(element, text(/** @type {TextKey} */ (element.getAttribute(name))))
    }
  }
  each('data-text', (element, words) => (element.textContent = words))
  each('data-label', (element, words) => element.setAttribute('aria-label', words))
  each('data-placeholder', (element, words) => element.setAttribute('placeholder', words))
}

/**
 * Shows the form, the wait for the devices or the call. The state stands in `data-phase` of the root
 * element, where style sheet and tests find it.
 * @param {'lobby' | 'asking' | 'call'} phase
 * @param {string} [room]
 */
export function showPhase(phase, room = '') {
  document.documentElement.dataset.phase = phase
  find('#lobby').hidden = phase !== 'lobby'
  find('#call').hidden = phase === 'lobby'
  elements.skipMedia.hidden = phase !== 'asking'
  elements.copyLink.hidden = phase === 'lobby'
  find('#room-title').textContent = phase === 'lobby' ? '' : room
  document.title = phase === 'lobby' ? 'duet' : `${room} · duet`
}

/**
 * The status line, with its key in `data-key`, and what is wrong with our own devices.
 * @param {Status} status
 * @param {Status} [note]
 */
export function showStatus(status, note) {
  const line = find('#status')
  line.dataset.key = status.key
  line.dataset.level = status.level ?? 'quiet'
  say(find('#status-text'), text(status.key, status.values))
  const noteElement = find('#status-note')
  noteElement.hidden = !note
  noteElement.dataset.key = note?.key ?? ''
  say(noteElement, note ? text(note.key, note.values) : '')
}

/**
 * Changes a text only where it differs, so that a screen reader does not say it again.
 * @param {Element} element
 * @param {string} words
 */
function say(element, words) {
  if (element.textContent !== words) element.textContent = words
}

/**
 * @param {MediaStream} stream
 * @param {MediaState} media
 */
export function showOwn(stream, media) {
  const tile = find('#own')
  show(find('video', tile), stream)
  tile.dataset.video = media.video ? 'on' : 'off'
  say(find('.caption', tile), media.audio ? text('you') : `${text('you')} (${text('muted')})`)
  elements.microphone.setAttribute('aria-pressed', String(media.audio))
  elements.camera.setAttribute('aria-pressed', String(media.video))
}

/**
 * One tile a member, with its state in data attributes.
 * @param {Iterable<Member>} members
 */
export function showMembers(members) {
  const stage = find('#stage')
  const kept = new Set()
  for (const member of members) {
    const tile = tileOf(stage, member)
    tile.dataset.state = member.call.state
    tile.dataset.presence = member.presence
    tile.dataset.video = sendsVideo(member) ? 'on' : 'off'
    const name = nameOf(member)
    say(find('.caption', tile), member.media.audio ? name : `${name} (${text('muted')})`)
    say(find('.avatar', tile), [...name][0]?.toUpperCase() ?? '')
    show(find('video', tile), member.call.stream)
    kept.add(tile)
  }
  for (const tile of stage.querySelectorAll('.tile')) if (!kept.has(tile)) removeTile(tile)
  stage.dataset.count = String(kept.size)
}

/** @param {Member} member */
function sendsVideo({ call, media }) {
  return media.video && call.stream.getVideoTracks().some((track) => track.readyState === 'live' && !track.muted)
}

/**
 * @param {HTMLElement} stage
 * @param {Member} member
 * @returns {HTMLElement}
 */
function tileOf(stage, member) {
  const selector = `.tile[data-peer="${CSS.escape(member.id)}"]`
  const present = stage.querySelector(selector)
  if (present) return /** @type {HTMLElement} */ (present)
  const template = /** @type {HTMLTemplateElement} */ (find('#tile'))
  stage.append(document.importNode(template.content, true))
  const tile = /** @type {HTMLElement} */ (stage.lastElementChild)
  tile.dataset.peer = member.id
  return tile
}

/** @param {Element} tile */
function removeTile(tile) {
  /** @type {HTMLVideoElement} */ (find('video', tile)).srcObject = null
  tile.remove()
  elements.hear.hidden = true
}

/**
 * Plays a stream. Where the browser wants a gesture first, a button asks for it.
 * @param {HTMLElement} element
 * @param {MediaStream} stream
 */
function show(element, stream) {
  const video = /** @type {HTMLVideoElement} */ (element)
  if (video.srcObject === stream) return
  video.srcObject = stream
  video.play().catch((error) => {
    if (error.name === 'NotAllowedError') elements.hear.hidden = false
  })
}

/** Plays what could not be played without a gesture. Call it from one. */
export function hearAll() {
  elements.hear.hidden = true
  for (const video of document.querySelectorAll('video')) {
    video.play().catch(() => {
      elements.hear.hidden = false
    })
  }
}

/**
 * @param {string} who
 * @param {string} words
 * @param {'own' | 'other' | 'note'} kind
 */
export function addChat(who, words, kind) {
  const log = find('#chat-log')
  const line = document.createElement('li')
  line.className = kind
  const name = document.createElement('b')
  name.textContent = who
  const body = document.createElement('span')
  body.textContent = words
  line.append(...(who ? [name, ' '] : []), body)
  log.append(line)
  log.scrollTop = log.scrollHeight
}

export function clearChat() {
  find('#chat-log').replaceChildren()
}

/**
 * The own address of the room, to be sent to others.
 * @param {string} room
 */
export async function copyLink(room) {
  const url = new URL(location.href)
  url.hash = encodeURIComponent(room)
  const label = find('span', elements.copyLink)
  try {
    await navigator.clipboard.writeText(url.href)
    label.textContent = text('copied')
  } catch {
    label.textContent = text('copyFailed')
  }
  setTimeout(() => (label.textContent = text('copyLink')), 4000)
}
