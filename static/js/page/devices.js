// @ts-check
/** The choices of microphone, camera and speaker, before the call and in it. */
import { canChooseSpeaker, setSpeaker } from '../media.js'
import { make, select, show } from './dom.js'
import { onLanguage, text } from './texts.js'

/** @import { Device, LocalMedia } from '../media.js' */
/** @import { Store } from './store.js' */

const KINDS = /** @type {const} */ ([
  { list: 'audio', setting: 'audioinput', selects: ['#mic-select', '#call-mic-select'] },
  { list: 'video', setting: 'videoinput', selects: ['#camera-select', '#call-camera-select'] },
  { list: 'speaker', setting: 'audiooutput', selects: ['#speaker-select', '#call-speaker-select'] },
])

export class DeviceChoice {
  /** @type {LocalMedia | undefined} */
  #media
  #store
  #trouble

  /**
   * @param {Store} store
   * @param {(error: unknown) => void} trouble  a device could not be used
   */
  constructor(store, trouble) {
    this.#store = store
    this.#trouble = trouble
    for (const { list, setting, selects } of KINDS) {
      for (const id of selects) select(id).addEventListener('change', () => this.#choose(list, setting, select(id).value))
    }
    onLanguage(() => this.refresh())
  }

  /**
   * Chooses for these media from now on, beginning with what was chosen last.
   * @param {LocalMedia} media
   * @param {AbortSignal} signal
   */
  async follow(media, signal) {
    this.#media = media
    media.addEventListener('devicechange', () => this.refresh(), { signal })
    const { audioinput, videoinput } = this.#store.settings
    if (audioinput) await media.use('audio', audioinput).catch(() => {})
    if (videoinput) await media.use('video', videoinput).catch(() => {})
    await this.refresh()
  }

  /** Lists what there is. Names appear once the reader has allowed the devices. */
  async refresh() {
    const media = this.#media
    if (!media) return
    const devices = await media.devices()
    for (const { list, setting, selects } of KINDS) {
      const now = list === 'speaker' ? this.#store.settings[setting] : media.track(list)?.getSettings().deviceId
      for (const id of selects) this.#fill(select(id), devices[list], now ?? this.#store.settings[setting], list === 'speaker')
    }
  }

  /** Plays an element where the reader has chosen. @param {HTMLMediaElement} element */
  playWhereChosen(element) {
    const { audiooutput } = this.#store.settings
    if (audiooutput) setSpeaker(element, audiooutput)
  }

  /**
   * @param {HTMLSelectElement} field
   * @param {Device[]} devices
   * @param {string | undefined} now
   * @param {boolean} isSpeaker
   */
  #fill(field, devices, now, isSpeaker) {
    const known = devices.filter(({ id }) => id !== '')
    const options = known.map(({ id, label }, n) => {
      const option = make('option', '', label || text('device', { number: n + 1 }))
      option.value = id
      return option
    })
    const hidden = isSpeaker && !canChooseSpeaker()
    if (options.length === 0 || (isSpeaker && !known.some(({ id }) => id === 'default'))) {
      const none = make('option', '', text(isSpeaker ? 'systemSpeaker' : devices.length ? 'device' : 'noDevice', { number: 1 }))
      none.value = ''
      options.unshift(none)
    }
    field.replaceChildren(...options)
    field.value = known.some(({ id }) => id === now) ? /** @type {string} */ (now) : (options[0]?.value ?? '')
    field.disabled = options.length < 2
    for (const label of field.labels ?? []) show(label, !hidden)
    show(field, !hidden)
  }

  /**
   * @param {'audio' | 'video' | 'speaker'} list
   * @param {'audioinput' | 'videoinput' | 'audiooutput'} setting
   * @param {string} id
   */
  async #choose(list, setting, id) {
    try {
      if (list === 'speaker') for (const video of document.querySelectorAll('video')) await setSpeaker(video, id)
      else await this.#media?.use(list, id)
      this.#store.set({ [setting]: id })
    } catch (error) {
      this.#trouble(error)
    }
    await this.refresh()
  }
}
