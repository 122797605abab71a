// Stand-ins for data channels, devices, permissions and sound, driven by the tests.

/** One end of a data channel, with a buffer that empties a little in each turn of the event loop. */
export class FakeChannel extends EventTarget {
  readyState = 'connecting'
  binaryType = 'blob'
  bufferedAmount = 0
  bufferedAmountLowThreshold = 0
  /** The most that ever waited. */
  peak = 0
  /** Bytes that leave in one turn. */
  rate = 128 << 10
  /** Frames that were sent, texts parsed; binary ones as their length. */
  sent = []
  /** Changes or swallows (undefined) what leaves. */
  tamper = (data) => data
  #waiting = []
  #running = false

  send(data) {
    if (this.readyState !== 'open') throw new DOMException('not open', 'InvalidStateError')
    // Copied at once, as browsers do.
    const frame = typeof data === 'string' ? data : new Uint8Array(data).slice().buffer
    this.sent.push(typeof frame === 'string' ? JSON.parse(frame) : frame.byteLength)
    this.#waiting.push(frame)
    this.bufferedAmount += sizeOf(frame)
    this.peak = Math.max(this.peak, this.bufferedAmount)
    this.#run()
  }

  /** Texts sent of a type. */
  said(type) {
    return this.sent.filter((frame) => frame.type === type)
  }

  open() {
    this.readyState = 'open'
    this.dispatchEvent(new Event('open'))
  }

  /** Ends both sides at once; what waits is lost. `told`: whether this side learns of it. */
  cut({ told = true } = {}) {
    for (const end of [this, this.other]) {
      end.readyState = 'closed'
      end.#waiting = []
      if (told) end.dispatchEvent(new Event('close'))
    }
  }

  /** The other side says something that no well-behaved one would. */
  hear(data) {
    const frame = typeof data === 'object' && !(data instanceof ArrayBuffer) ? JSON.stringify(data) : data
    this.dispatchEvent(new MessageEvent('message', { data: frame }))
  }

  async #run() {
    if (this.#running) return
    this.#running = true
    while (this.#waiting.length) {
      await new Promise((resolve) => setImmediate(resolve))
      for (let left = this.rate; left > 0 && this.#waiting.length; ) left -= this.#deliver(this.#waiting.shift())
    }
    this.#running = false
  }

  #deliver(frame) {
    const size = sizeOf(frame)
    const before = this.bufferedAmount
    this.bufferedAmount -= size
    const data = this.tamper(frame)
    if (data !== undefined && this.other.readyState === 'open') this.other.hear(data)
    const low = this.bufferedAmountLowThreshold
    if (before > low && this.bufferedAmount <= low) this.dispatchEvent(new Event('bufferedamountlow'))
    return size
  }
}

function sizeOf(frame) {
  return typeof frame === 'string' ? frame.length : frame.byteLength
}

/** Both ends of a channel, open. */
export function channelPair() {
  const [a, b] = [new FakeChannel(), new FakeChannel()]
  a.other = b
  b.other = a
  a.readyState = b.readyState = 'open'
  return [a, b]
}

/** Resolves with the next such event's detail. */
export function next(target, type) {
  return new Promise((resolve) => target.addEventListener(type, ({ detail }) => resolve(detail), { once: true }))
}

export class FakeTrack extends EventTarget {
  readyState = 'live'
  enabled = true
  muted = false
  contentHint = ''
  constructor(kind, deviceId = '') {
    super()
    this.kind = kind
    this.deviceId = deviceId
  }
  getSettings() {
    return { deviceId: this.deviceId }
  }
  /** As the specification has it: without an event. */
  stop() {
    this.readyState = 'ended'
  }
  /** By the system or the user. */
  end() {
    this.readyState = 'ended'
    this.dispatchEvent(new Event('ended'))
  }
}

/** navigator.mediaDevices with one of each, until the test changes that. */
export class FakeDevices extends EventTarget {
  list = [
    { kind: 'audioinput', deviceId: 'mic', label: 'Mic' },
    { kind: 'videoinput', deviceId: 'cam', label: 'Cam' },
    { kind: 'audiooutput', deviceId: 'speaker', label: 'Speaker' },
  ]
  /** Names of the errors that asking for a kind gives: `audio`, `video`, `both`, `screen`, or a device id. */
  errors = {}
  /** What was asked for. */
  asked = []
  /** Every track that was given. */
  given = []
  /** Set by `hold`: the browser waits for the user. */
  #held

  hold() {
    let release
    this.#held = new Promise((resolve) => (release = resolve))
    return release
  }

  async enumerateDevices() {
    return this.list
  }

  async getUserMedia(constraints) {
    this.asked.push(constraints)
    await this.#held
    const kinds = Object.keys(constraints)
    const name = (kinds.length === 2 && this.errors.both) || kinds.map((kind) => this.#errorOf(kind, constraints[kind])).find(Boolean)
    if (name) throw new DOMException('', name)
    return this.#give(kinds.map((kind) => new FakeTrack(kind, this.#choose(kind, constraints[kind]))))
  }

  async getDisplayMedia(constraints) {
    this.asked.push({ screen: constraints })
    await this.#held
    if (this.errors.screen) throw new DOMException(this.errors.screenMessage ?? '', this.errors.screen)
    return this.#give([new FakeTrack('video', 'screen')])
  }

  #errorOf(kind, { deviceId }) {
    if (this.errors[kind]) return this.errors[kind]
    if (deviceId?.exact && !this.list.some((d) => d.deviceId === deviceId.exact)) return 'OverconstrainedError'
    const id = this.#choose(kind, { deviceId })
    return id === undefined ? 'NotFoundError' : this.errors[id]
  }

  #choose(kind, { deviceId }) {
    const ids = this.list.filter((d) => d.kind === `${kind}input`).map((d) => d.deviceId)
    const wish = deviceId?.exact ?? deviceId?.ideal
    return ids.includes(wish) ? wish : ids[0]
  }

  #give(tracks) {
    this.given.push(...tracks)
    return { getTracks: () => tracks, getVideoTracks: () => tracks.filter((t) => t.kind === 'video') }
  }
}

export class FakePermissions {
  camera = Object.assign(new EventTarget(), { state: 'prompt' })
  microphone = Object.assign(new EventTarget(), { state: 'prompt' })

  async query({ name }) {
    return this[name]
  }

  to(name, state) {
    this[name].state = state
    this[name].dispatchEvent(new Event('change'))
  }
}

/** An AudioContext whose sound is a constant. */
export class FakeAudioContext {
  /** @type {FakeAudioContext[]} */
  static all = []
  static first = 'suspended'
  state = FakeAudioContext.first
  resumes = 0
  sources = []
  /** What every sample is. */
  sample = 0

  constructor() {
    FakeAudioContext.all.push(this)
  }
  async resume() {
    this.resumes++
  }
  async close() {
    this.state = 'closed'
  }
  createAnalyser() {
    return { fftSize: 4, getFloatTimeDomainData: (samples) => samples.fill(this.sample) }
  }
  createMediaStreamSource(stream) {
    const source = { track: stream.getTracks()[0], connected: 0, connect: () => source.connected++, disconnect: () => source.connected-- }
    this.sources.push(source)
    return source
  }
}
