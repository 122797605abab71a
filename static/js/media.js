// @ts-check
/** The camera, the microphone and the screen, and why they may not be there. */
import { ClientError } from './errors.js'
import { fire } from './timers.js'

/** @import { Kind } from './call.js' */

/**
 * Why there is no picture or no sound. Each has its own text.
 * - `insecure`: browsers give devices to https:// and localhost only
 * - `denied`: by the user, the browser's settings, the page that embeds us, or the system
 * - `missing`: no such device
 * - `busy`: another program has it, or the system took it away
 * - `failed`: anything else
 * @typedef {'insecure' | 'denied' | 'missing' | 'busy' | 'failed'} MediaProblem
 *
 * `muted`: captured, but silent or black by our switch or the system's.
 * @typedef {'off' | 'asking' | 'live' | 'muted' | MediaProblem} CaptureState
 *
 * Before the user has allowed anything, `id` and `label` are empty.
 * @typedef {{ id: string, label: string }} Device
 * @typedef {{ audio: Device[], video: Device[], speaker: Device[] }} Devices
 */

/** @type {Record<string, MediaProblem>} */
const PROBLEMS = {
  NotAllowedError: 'denied',
  SecurityError: 'denied',
  InvalidStateError: 'denied', // without a click before it
  NotFoundError: 'missing',
  OverconstrainedError: 'missing',
  NotReadableError: 'busy',
  AbortError: 'busy',
}

/**
 * @param {unknown} error  what getUserMedia or getDisplayMedia threw
 * @returns {MediaProblem}
 */
export function problemOf(error) {
  return PROBLEMS[error instanceof Error ? error.name : ''] ?? 'failed'
}

/** English texts of what a call of ours rejects with. All but `denied` are worth another try as they are. */
const ERRORS = Object.freeze({
  denied: 'Camera or microphone are not allowed. Allow them for this page and try again.',
  missing: 'No camera or microphone was found. Plug one in and try again.',
  busy: 'Another program uses the camera or the microphone. Close it and try again.',
  failed: 'The camera or the microphone could not be opened.',
})

/**
 * The error that a call of ours rejects with: its code is `insecure`, or `media-` and the problem.
 * @param {MediaProblem} [problem]
 * @param {unknown} [cause]
 */
export function mediaError(problem = 'failed', cause) {
  if (problem === 'insecure') return new ClientError(problem, undefined, { cause })
  return new ClientError(`media-${problem}`, ERRORS[problem], { retryable: problem !== 'denied', cause })
}

/**
 * What happened and what to do, as keys of texts: `media-<key>`, and `media-step-<step>` for each step.
 * @param {unknown} error  what was thrown, or a MediaProblem
 * @param {{ secure?: boolean, framed?: boolean, userAgent?: string }} [env]
 * @returns {{ key: MediaProblem, steps: string[] }}
 */
export function explain(error, env = {}) {
  const {
    secure = globalThis.isSecureContext !== false,
    framed = globalThis.parent !== globalThis.self,
    userAgent = globalThis.navigator?.userAgent ?? '',
  } = env
  const problem = typeof error === 'string' ? /** @type {MediaProblem} */ (error) : problemOf(error)
  const key = secure ? problem : 'insecure'
  if (key !== 'denied') return { key, steps: STEPS[key] }
  // Chromium says `Permission denied by system` where macOS or Windows is in the way.
  if (error instanceof Error && /system/i.test(error.message)) return { key, steps: ['system', 'reload'] }
  const browser = /firefox/i.test(userAgent) ? 'firefox' : /chrom/i.test(userAgent) ? 'chromium' : 'safari'
  return { key, steps: [...(framed ? ['frame'] : []), `allow-${browser}`, 'system', 'retry'] }
}

const STEPS = {
  insecure: ['https', 'localhost'],
  missing: ['plug', 'system', 'retry'],
  busy: ['close-others', 'other-device', 'retry'],
  failed: ['replug', 'restart', 'retry'],
}

/** @type {Record<Kind, MediaTrackConstraints>} */
const CONSTRAINTS = {
  audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
  video: { width: { ideal: 1280 }, height: { ideal: 720 } },
}
const PERMISSIONS = { audio: 'microphone', video: 'camera' }
/** @type {Kind[]} */
const KINDS = ['audio', 'video']

/**
 * @typedef {object} MediaOptions
 * @property {Partial<Record<Kind, boolean | MediaTrackConstraints>>} [constraints]  false: never opened by `open`
 * @property {MediaDevices} [devices]  undefined on insecure origins
 * @property {boolean} [secure]
 * @property {MediaStream} [stream]
 * @property {Pick<Permissions, 'query'>} [permissions]
 * @property {new () => AudioContext} [AudioContext]  for `level`
 * @property {EventTarget} [page]  on which a gesture wakes the level meters
 */

/**
 * What this machine gives of sound and picture. Fires:
 * - `change`: tracks, problems or their state
 * - `ended` `{ kind, problem? }`: a device was taken away; without a problem another has taken over
 * - `devicechange`: `devices()` gives another list now
 * - `permission` `{ kind, state }`: the user has changed what this page may do
 */
export class LocalMedia extends EventTarget {
  /** What is sent, for the own tile: the microphone, and the screen while it is shared or else the camera. */
  stream
  /** @type {Map<Kind, MediaProblem>} */
  problems = new Map()
  /** @type {MediaStreamTrack | undefined} */
  screen
  /** @type {Map<Kind, MediaStreamTrack>} */
  #captured = new Map()
  /** @type {Map<Kind, Promise<boolean>>} questions that the browser has not answered */
  #asking = new Map()
  /** @type {Map<Kind, string>} device ids that the user chose */
  #chosen = new Map()
  /** Counted up when a kind is switched off: what the browser gives after that is not wanted any more. */
  #turns = { audio: 0, video: 0, screen: 0 }
  #options
  #devices
  #secure
  /** @type {AbortController | undefined} ends the listeners */
  #open
  #levels

  /** @param {MediaOptions} [options] */
  constructor(options = {}) {
    super()
    const { navigator } = globalThis
    const { devices = navigator?.mediaDevices, secure = globalThis.isSecureContext, stream = new MediaStream() } = options
    this.#options = { permissions: navigator?.permissions, ...options }
    this.#devices = devices
    this.#secure = secure
    this.stream = stream
    this.#levels = new Levels(options)
  }

  get tracks() {
    return this.stream.getTracks()
  }

  get microphone() {
    return this.#live('audio')
  }

  /** Goes on while the screen is sent in its place. */
  get camera() {
    return this.#live('video')
  }

  /**
   * What is sent of a kind.
   * @param {Kind} kind
   */
  track(kind) {
    return this.tracks.find((track) => track.kind === kind && track.readyState === 'live')
  }

  /**
   * @param {Kind} kind
   * @returns {CaptureState}
   */
  state(kind) {
    const track = this.#live(kind)
    if (track) return track.enabled && !track.muted ? 'live' : 'muted'
    return this.#asking.has(kind) ? 'asking' : (this.problems.get(kind) ?? 'off')
  }

  /**
   * Opens what there is: both, or else one without the other. Without any it still returns; `problems`
   * says why.
   * @param {Kind[]} [kinds]
   */
  async open(kinds = KINDS) {
    const wanted = kinds.filter((kind) => this.#options.constraints?.[kind] !== false && !this.#live(kind))
    if (!wanted.length || (await this.#add(wanted)) || wanted.length === 1) return
    for (const kind of await this.#worthAlone(wanted)) await this.#add([kind])
  }

  /**
   * The microphone or the camera, opened now if it is not.
   * @param {Kind} kind
   * @returns {Promise<MediaStreamTrack | undefined>}
   */
  async ensure(kind) {
    if (!this.#live(kind)) await (this.#asking.get(kind) ?? this.#add([kind]))
    return this.#live(kind)
  }

  /**
   * Captures from another device from now on. What is switched off stays so: the choice is remembered.
   * It rejects with a ClientError, and goes on with the old device, where the new one cannot be opened.
   * @param {Kind} kind
   * @param {string} id  of `devices()`
   */
  async use(kind, id) {
    const old = this.#live(kind)
    const before = this.#chosen.get(kind)
    this.#chosen.set(kind, id)
    if (!old && !this.problems.has(kind)) return
    if (old && old.getSettings().deviceId === id) return
    try {
      await this.#capture([kind], true).catch((error) => {
        if (!old || problemOf(error) !== 'busy') throw error
        old.stop() // many phones have one camera open at a time
        return this.#capture([kind], true)
      })
    } catch (error) {
      if (before === undefined) this.#chosen.delete(kind)
      else this.#chosen.set(kind, before)
      if (old?.readyState === 'ended') await this.#add([kind])
      throw mediaError(this.#problem(error), error)
    } finally {
      this.#changed()
    }
  }

  /** What can be chosen. Some browsers list speakers only after a microphone was allowed, or never. */
  async devices() {
    /** @type {Devices} */
    const found = { audio: [], video: [], speaker: [] }
    for (const { kind, deviceId, label } of (await this.#devices?.enumerateDevices().catch(() => [])) ?? []) {
      if (deviceId === 'communications') continue // Chromium's second name for a device that is in the list
      const list = kind === 'audioinput' ? found.audio : kind === 'videoinput' ? found.video : found.speaker
      list.push({ id: deviceId, label })
    }
    return found
  }

  /**
   * Ends the capture of a kind, and with it the device's light. A shared screen goes on.
   * @param {Kind} kind
   */
  stop(kind) {
    this.#turns[kind]++
    this.#asking.delete(kind)
    this.#captured.get(kind)?.stop()
    this.#captured.delete(kind)
    this.#changed()
  }

  /**
   * Asks which screen, window or tab to share and sends that in place of the camera, which comes back
   * when sharing ends, here or in the browser's own bar. Needs a click shortly before. It rejects with a
   * ClientError: `cancelled` when the user chose nothing, `unsupported` on most phones.
   */
  async shareScreen() {
    const turn = ++this.#turns.screen
    if (!this.#devices?.getDisplayMedia) {
      if (!this.#secure) throw mediaError('insecure')
      throw new ClientError('unsupported', 'This browser cannot share the screen.')
    }
    const stream = await this.#devices
      .getDisplayMedia({ video: { frameRate: { ideal: 15, max: 30 } }, audio: false })
      .catch((error) => {
        const refused = error?.name === 'NotAllowedError' && !/system/i.test(error.message)
        throw refused ? new ClientError('cancelled') : mediaError(problemOf(error), error)
      })
    const [track] = stream.getVideoTracks()
    if (!track || turn !== this.#turns.screen) {
      track?.stop()
      throw new ClientError('cancelled')
    }
    track.contentHint = 'detail' // sharp letters rather than smooth movement
    track.addEventListener('ended', () => track === this.screen && this.stopSharing())
    this.screen?.stop()
    this.screen = track
    this.#changed()
    return track
  }

  stopSharing() {
    this.#turns.screen++
    this.screen?.stop()
    this.screen = undefined
    this.#changed()
  }

  /**
   * A meter for a track's loudness, or for the microphone as it is switched and changed. Close it.
   * @param {MediaStreamTrack} [track]
   */
  level(track) {
    return this.#levels.meter(track ? () => track : () => this.#live('audio'))
  }

  /** Ends everything. `open` begins anew. */
  close() {
    this.#open?.abort()
    this.#open = undefined
    this.#levels.close()
    this.stopSharing()
    for (const kind of KINDS) this.stop(kind)
  }

  // --- capture --------------------------------------------------------------------------------

  /** @param {Kind} kind */
  #live(kind) {
    const track = this.#captured.get(kind)
    return track?.readyState === 'live' ? track : undefined
  }

  /**
   * Captures, or notes why not. It returns whether that went well.
   * @param {Kind[]} kinds
   */
  #add(kinds) {
    const asked = this.#capture(kinds, false)
      .then(() => true)
      .catch((error) => {
        for (const kind of kinds) this.problems.set(kind, this.#problem(error))
        return false
      })
      .finally(() => {
        for (const kind of kinds) if (this.#asking.get(kind) === asked) this.#asking.delete(kind)
        this.#changed()
      })
    for (const kind of kinds) this.#asking.set(kind, asked)
    this.#changed()
    return asked
  }

  /** @param {unknown} error */
  #problem(error) {
    return this.#devices || this.#secure ? problemOf(error) : 'insecure'
  }

  /**
   * @param {Kind[]} kinds
   * @param {boolean} exact  the chosen device or none
   */
  async #capture(kinds, exact) {
    this.#listen()
    if (!this.#devices) throw new Error('no media devices')
    const turns = { ...this.#turns }
    const constraints = kinds.map((kind) => [kind, this.#constraints(kind, exact)])
    const stream = await this.#devices.getUserMedia(Object.fromEntries(constraints))
    for (const track of stream.getTracks()) {
      const kind = /** @type {Kind} */ (track.kind)
      if (turns[kind] === this.#turns[kind]) this.#adopt(kind, track)
      else track.stop() // switched off while the browser asked
    }
    for (const kind of kinds) this.problems.delete(kind)
  }

  /**
   * @param {Kind} kind
   * @param {boolean} exact
   */
  #constraints(kind, exact) {
    const own = this.#options.constraints?.[kind]
    const id = this.#chosen.get(kind)
    return {
      ...CONSTRAINTS[kind],
      ...(typeof own === 'object' ? own : {}),
      ...(id ? { deviceId: exact ? { exact: id } : { ideal: id } } : {}),
    }
  }

  /**
   * A missing or busy camera must not cost the microphone, nor one that is blocked beforehand. What was
   * refused just now is not asked for again.
   * @param {Kind[]} kinds  which could not be had together
   */
  async #worthAlone(kinds) {
    const problem = this.problems.get(/** @type {Kind} */ (kinds[0])) ?? ''
    if (problem !== 'denied') return ['missing', 'busy'].includes(problem) ? kinds : []
    const allowed = await Promise.all(kinds.map(async (kind) => (await this.#permission(kind))?.state !== 'denied'))
    return allowed.includes(false) ? kinds.filter((_, i) => allowed[i]) : []
  }

  /**
   * @param {Kind} kind
   * @param {MediaStreamTrack} track
   */
  #adopt(kind, track) {
    const old = this.#captured.get(kind)
    if (old) {
      track.enabled = old.enabled // muted stays muted
      old.stop()
    }
    this.#captured.set(kind, track)
    const { deviceId } = track.getSettings()
    track.addEventListener('ended', () => this.#lost(kind, track, deviceId))
    for (const type of ['mute', 'unmute']) track.addEventListener(type, () => this.#changed())
  }

  /**
   * A device was pulled out, or taken away by the system or in the browser's settings. Another microphone
   * takes over; a camera is never switched on unasked.
   * @param {Kind} kind
   * @param {MediaStreamTrack} track
   * @param {string} [deviceId]
   */
  async #lost(kind, track, deviceId) {
    if (this.#captured.get(kind) !== track) return
    const turn = ++this.#turns[kind]
    this.#captured.delete(kind)
    const devices = (await this.devices())[kind]
    const denied = (await this.#permission(kind))?.state === 'denied'
    if (turn !== this.#turns[kind] || this.#captured.has(kind)) return // the user was faster
    const there = devices.some(({ id }) => id === deviceId)
    this.problems.set(kind, denied ? 'denied' : there ? 'busy' : 'missing')
    if (kind === 'audio' && !denied && devices.length) await this.#add([kind])
    else this.#changed()
    fire(this, 'ended', { kind, problem: this.problems.get(kind) })
  }

  // --- what the user and the system change ----------------------------------------------------

  #listen() {
    if (this.#open) return
    const { signal } = (this.#open = new AbortController())
    this.#devices?.addEventListener?.('devicechange', () => this.#devicesChanged(), { signal })
    for (const kind of KINDS) {
      this.#permission(kind).then((status) => {
        if (!signal.aborted) status?.addEventListener('change', () => this.#allowed(kind, status.state), { signal })
      })
    }
  }

  /** What was missing may be there now: `off` says that trying makes sense again. */
  async #devicesChanged() {
    const devices = await this.devices()
    for (const kind of KINDS) {
      if (this.problems.get(kind) === 'missing' && devices[kind].length) this.problems.delete(kind)
    }
    fire(this, 'devicechange')
    this.#changed()
  }

  /**
   * @param {Kind} kind
   * @param {PermissionState} state
   */
  #allowed(kind, state) {
    if (state !== 'denied' && this.problems.get(kind) === 'denied') this.problems.delete(kind)
    fire(this, 'permission', { kind, state })
    this.#changed()
  }

  /**
   * Undefined where the browser does not tell.
   * @param {Kind} kind
   */
  async #permission(kind) {
    const name = /** @type {PermissionName} */ (PERMISSIONS[kind])
    try {
      return await this.#options.permissions?.query({ name })
    } catch {
      return undefined
    }
  }

  #changed() {
    const sent = [this.#live('audio'), this.screen ?? this.#live('video')]
    for (const track of this.tracks) if (!sent.includes(track)) this.stream.removeTrack(track)
    for (const track of sent) if (track) this.stream.addTrack(track)
    fire(this, 'change')
  }
}

/**
 * @typedef {object} Meter
 * @property {number} value  loudness now, 0 (silence, -60 dBFS or less) to 1 (full scale)
 * @property {() => void} close
 */

/** Loudness, measured in one AudioContext that is there while a meter is. */
class Levels {
  #AudioContext
  #page
  /** @type {AudioContext | undefined} */
  #context
  /** @type {Set<Meter>} */
  #meters = new Set()
  /** Browsers start sound after a gesture or while they capture; Safari also stops it for a phone call. */
  #wake = () => this.#context?.state === 'running' || this.#context?.resume().catch(() => {})

  /** @param {Pick<MediaOptions, 'AudioContext' | 'page'>} options */
  constructor({ AudioContext = globalThis.AudioContext, page = globalThis.document }) {
    this.#AudioContext = AudioContext
    this.#page = page
  }

  /**
   * @param {() => MediaStreamTrack | undefined} trackNow
   * @returns {Meter}
   */
  meter(trackNow) {
    const levels = this
    /** @type {MediaStreamTrack | undefined} */
    let track
    /** @type {AudioNode | undefined} */
    let source
    /** @type {AnalyserNode | undefined} */
    let analyser
    let samples = new Float32Array()
    const follow = () => {
      if (track === trackNow()) return
      source?.disconnect()
      track = trackNow()
      const context = track && this.#start()
      if (!track || !context) return
      analyser ??= context.createAnalyser()
      samples = new Float32Array(analyser.fftSize)
      source = context.createMediaStreamSource(new MediaStream([track]))
      source.connect(analyser)
    }
    /** @type {Meter} */
    const meter = {
      get value() {
        if (levels.#meters.has(meter)) follow()
        if (!track || !analyser) return 0
        analyser.getFloatTimeDomainData(samples)
        const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length
        return Math.min(1, Math.max(0, 1 + Math.log10(power || 1e-9) / 6))
      },
      close() {
        source?.disconnect()
        track = undefined
        if (levels.#meters.delete(meter) && levels.#meters.size === 0) levels.#stop()
      },
    }
    this.#meters.add(meter)
    return meter
  }

  close() {
    for (const meter of [...this.#meters]) meter.close()
  }

  #start() {
    if (!this.#context && this.#AudioContext) {
      this.#context = new this.#AudioContext()
      for (const type of ['pointerdown', 'keydown']) this.#page?.addEventListener(type, this.#wake)
    }
    this.#wake()
    return this.#context
  }

  #stop() {
    for (const type of ['pointerdown', 'keydown']) this.#page?.removeEventListener(type, this.#wake)
    this.#context?.close().catch(() => {})
    this.#context = undefined
  }
}

/** Whether this browser lets a page choose where sound comes out. Safari does not. */
export function canChooseSpeaker() {
  return 'setSinkId' in (globalThis.HTMLMediaElement?.prototype ?? {})
}

/**
 * Plays an element's sound on another device. It returns false where that is not possible.
 * @param {HTMLMediaElement} element
 * @param {string} id  of `devices().speaker`; '' for the system's choice
 */
export async function setSpeaker(element, id) {
  if (!('setSinkId' in element)) return false
  return element.setSinkId(id).then(
    () => true,
    () => false,
  )
}
