// @ts-check
/** Before the call: how one will look and sound, with which devices, and whether all is well. */
import { isName } from '../protocol.js'
import { CardHost } from './cards.js'
import { askServer, showDevices, showSecure, showServer } from './checks.js'
import { button, find, input, play, say, show } from './dom.js'
import { mediaFailure, mediaNote } from './status.js'
import { onLanguage, text } from './texts.js'

/** @import { Kind } from '../call.js' */
/** @import { LocalMedia, Meter } from '../media.js' */

/** How often a server that did not answer is asked again, in milliseconds. */
const ASK_AGAIN = 5000

export class Prejoin {
  /** @type {LocalMedia | undefined} */
  #media
  #room = ''
  /** @type {AbortController | undefined} ends this visit of the page */
  #here
  #card = new CardHost(find('#prejoin-card'))
  /** @type {Meter | undefined} */
  #meter
  #frame = 0
  /** @type {number | undefined | 'busy'} */
  #server = 'busy'
  #name = input('#name')
  #fault = find('#name-fault')
  /** @type {() => void} */
  #joinWithout

  /**
   * @param {object} on
   * @param {(name: string) => void} on.join
   * @param {(name: string) => void} on.joinWithout
   */
  constructor(on) {
    find('#join').addEventListener('submit', (event) => {
      event.preventDefault()
      if (this.#nameIsFine()) on.join(this.#name.value.trim())
    })
    this.#joinWithout = () => this.#nameIsFine() && on.joinWithout(this.#name.value.trim())
    button('#join-without').addEventListener('click', () => this.#joinWithout())
    this.#name.addEventListener('input', () => this.#setFaulty(false))
    button('#prejoin-mic').addEventListener('click', () => this.#media && toggle(this.#media, 'audio'))
    button('#prejoin-camera').addEventListener('click', () => this.#media && toggle(this.#media, 'video'))
    onLanguage(() => this.#here && this.#render())
  }

  /**
   * @param {string} room
   * @param {string} name
   * @param {LocalMedia} media
   */
  enter(room, name, media) {
    this.leave()
    this.#here = new AbortController()
    const { signal } = this.#here
    this.#room = room
    this.#media = media
    this.#name.value ||= name
    this.#setFaulty(false)
    media.addEventListener('change', () => this.#render(), { signal })
    this.#ask(signal)
    this.#render()
  }

  leave() {
    this.#here?.abort()
    this.#here = undefined
    this.#meter?.close()
    this.#meter = undefined
    cancelAnimationFrame(this.#frame)
    play(/** @type {HTMLVideoElement} */ (find('#preview')), null)
  }

  /** @param {AbortSignal} signal */
  async #ask(signal) {
    this.#server = 'busy'
    while (!signal.aborted) {
      const answer = await askServer()
      if (signal.aborted) return
      this.#server = answer
      showServer(answer)
      if (answer !== undefined) return
      await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN))
    }
  }

  #render() {
    const media = this.#media
    if (!media) return
    const microphone = media.microphone
    const camera = media.camera
    say(find('#prejoin-title'), text('prejoinTitle', { room: this.#room }))
    play(/** @type {HTMLVideoElement} */ (find('#preview')), media.stream)
    find('#preview-box').dataset.video = camera ? 'on' : 'off'
    say(find('#preview-note'), camera ? '' : previewNote(media))
    button('#prejoin-mic').setAttribute('aria-pressed', String(microphone?.enabled === true))
    button('#prejoin-camera').setAttribute('aria-pressed', String(camera !== undefined))
    if (microphone && !this.#meter) this.#measure(media)
    this.#checks(media)
    const failure = mediaFailure(media)
    const again = { label: /** @type {const} */ ('tryAgain'), run: () => void media.open() }
    const without = { label: /** @type {const} */ ('joinWithout'), run: () => this.#joinWithout() }
    this.#card.show(failure && { key: failure }, failure === 'insecure' ? [without] : [again])
    const nothing = failure !== undefined && !microphone && !camera
    show(find('#preview-box'), !nothing) // the card stands in its place
    show(button('#join-without'), !nothing)
    show(find('#join .devices'), failure !== 'insecure')
  }

  /** @param {LocalMedia} media */
  #checks(media) {
    showSecure(globalThis.isSecureContext)
    showServer(this.#server)
    const note = mediaNote(media)
    const states = [media.state('audio'), media.state('video')]
    if (note) showDevices(note.key)
    else if (states.includes('asking')) showDevices('busy')
    else showDevices(states.every((state) => state === 'live') ? 'ok' : 'off')
  }

  /** @param {LocalMedia} media */
  #measure(media) {
    this.#meter = media.level()
    const bar = find('#level')
    const draw = () => {
      const percent = Math.round(100 * (this.#meter?.value ?? 0))
      bar.setAttribute('aria-valuenow', String(percent))
      find('span', bar).style.transform = `scaleX(${percent / 100})`
      this.#frame = requestAnimationFrame(draw)
    }
    draw()
  }

  #nameIsFine() {
    this.#setFaulty(!isName(this.#name.value.trim()))
    if (!this.#fault.hidden) this.#name.focus()
    return this.#fault.hidden
  }

  /** @param {boolean} faulty */
  #setFaulty(faulty) {
    this.#fault.textContent = faulty ? text('badName') : ''
    show(this.#fault, faulty)
    this.#name.setAttribute('aria-invalid', String(faulty))
  }
}

/** @param {LocalMedia} media */
function previewNote(media) {
  const state = media.state('video')
  if (state === 'asking') return text('previewAsking')
  return text(state === 'off' ? 'previewOff' : 'previewNone')
}

/**
 * Switches the microphone or the camera. A muted microphone stays open, so that it is back at once; a
 * camera that is off is closed, and its light goes out.
 * @param {LocalMedia} media
 * @param {Kind} kind
 */
export async function toggle(media, kind) {
  const microphone = media.microphone
  if (kind === 'audio' && microphone) microphone.enabled = !microphone.enabled
  else if (kind === 'video' && media.camera) return media.stop('video')
  else await media.ensure(kind)
  media.dispatchEvent(new Event('change'))
}
