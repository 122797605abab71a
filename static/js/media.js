// @ts-check
/** The camera and the microphone, and why they may not be there. */

/** @import { Kind } from './call.js' */

/**
 * Why there is no picture or no sound. Each has its own text.
 * @typedef {'insecure' | 'denied' | 'missing' | 'busy' | 'failed'} MediaProblem
 */

/**
 * @param {unknown} error  what getUserMedia threw
 * @returns {MediaProblem}
 */
export function problemOf(error) {
  switch (error instanceof Error ? error.name : '') {
    case 'NotAllowedError':
    case 'SecurityError':
      return 'denied'
    case 'NotFoundError':
    case 'OverconstrainedError':
      return 'missing'
    case 'NotReadableError':
    case 'AbortError':
      return 'busy'
    default:
      return 'failed'
  }
}

/** @type {Record<Kind, MediaTrackConstraints>} */
const CONSTRAINTS = {
  audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  video: { width: { ideal: 1280 }, height: { ideal: 720 } },
}

/**
 * What this machine gives of sound and picture. Fires `change`.
 */
export class LocalMedia extends EventTarget {
  /** What is captured; for the own tile. */
  stream
  /** @type {Map<Kind, MediaProblem>} */
  problems = new Map()
  #devices
  #secure

  /**
   * @param {object} [env]
   * @param {MediaDevices} [env.devices]  undefined on insecure origins
   * @param {boolean} [env.secure]
   * @param {MediaStream} [env.stream]
   */
  constructor({
    devices = globalThis.navigator?.mediaDevices,
    secure = globalThis.isSecureContext,
    stream = new MediaStream(),
  } = {}) {
    super()
    this.#devices = devices
    this.#secure = secure
    this.stream = stream
  }

  get tracks() {
    return this.stream.getTracks()
  }

  /**
   * Opens what there is: both, or else one without the other. Without any it still returns; `problems`
   * says why.
   */
  async open() {
    if (await this.#add(['audio', 'video'])) return
    // A missing or busy camera must not cost the microphone. A refusal is not asked for twice.
    if (['missing', 'busy'].includes(this.problems.get('video') ?? '')) {
      await this.#add(['audio'])
      await this.#add(['video'])
    }
  }

  /**
   * The track of a kind, opened now if there is none.
   * @param {Kind} kind
   * @returns {Promise<MediaStreamTrack | undefined>}
   */
  async ensure(kind) {
    if (!this.track(kind)) await this.#add([kind])
    return this.track(kind)
  }

  /** @param {Kind} kind */
  track(kind) {
    return this.tracks.find((track) => track.kind === kind && track.readyState === 'live')
  }

  /**
   * Ends the capture of a kind, and with it the device's light.
   * @param {Kind} kind
   */
  stop(kind) {
    this.#drop(kind)
    this.#changed()
  }

  close() {
    this.stop('audio')
    this.stop('video')
  }

  /** @param {Kind[]} kinds */
  async #add(kinds) {
    try {
      if (!this.#devices) throw new Error('no media devices')
      const stream = await this.#devices.getUserMedia(
        Object.fromEntries(kinds.map((kind) => [kind, CONSTRAINTS[kind]])),
      )
      for (const track of stream.getTracks()) this.#adopt(track)
      for (const kind of kinds) this.problems.delete(kind)
      return true
    } catch (error) {
      const problem = this.#devices || this.#secure ? problemOf(error) : 'insecure'
      for (const kind of kinds) this.problems.set(kind, problem)
      return false
    } finally {
      this.#changed()
    }
  }

  /** @param {MediaStreamTrack} track */
  #adopt(track) {
    const kind = /** @type {Kind} */ (track.kind)
    this.#drop(kind)
    this.stream.addTrack(track)
    // A device that is pulled out, or taken away by the system.
    track.addEventListener('ended', () => {
      this.problems.set(kind, 'busy')
      this.#changed()
    })
  }

  /** @param {Kind} kind */
  #drop(kind) {
    for (const track of this.tracks.filter((t) => t.kind === kind)) {
      track.stop()
      this.stream.removeTrack(track)
    }
  }

  #changed() {
    this.dispatchEvent(new Event('change'))
  }
}
