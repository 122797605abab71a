// Stand-ins for time, sockets and peer connections, driven by the tests.

/** A clock that moves only when told to. */
export class FakeClock {
  #now = 0
  #ids = 0
  #timers = new Map()

  now = () => this.#now

  setTimeout = (run, ms) => {
    const id = ++this.#ids
    this.#timers.set(id, { run, at: this.#now + ms, id })
    return id
  }

  clearTimeout = (id) => this.#timers.delete(id)

  get pending() {
    return this.#timers.size
  }

  /** Milliseconds until the next timer fires; Infinity where none is set. */
  get idleFor() {
    return (this.#next()?.at ?? Infinity) - this.#now
  }

  /** Moves on by `ms`, running what falls due in order, and lets promises settle in between. */
  async advance(ms) {
    const end = this.#now + ms
    await settle()
    while (this.#runNext(end)) await settle()
    this.#now = end
  }

  /** The same for code without promises. */
  run(ms) {
    const end = this.#now + ms
    while (this.#runNext(end));
    this.#now = end
  }

  #next() {
    let next
    for (const t of this.#timers.values()) if (!next || t.at < next.at || (t.at === next.at && t.id < next.id)) next = t
    return next
  }

  /** Runs the first timer that is due by `end`, and reports whether there was one. */
  #runNext(end) {
    const due = this.#next()
    if (!due || due.at > end) return false
    this.#now = Math.max(this.#now, due.at)
    this.#timers.delete(due.id)
    due.run()
    return true
  }
}

/** Lets everything that is only waiting for promises happen. */
export async function settle() {
  for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve))
}

/** A WebSocket of which the test plays the server. */
export class FakeWebSocket extends EventTarget {
  /** @type {FakeWebSocket[]} */
  static all = []
  static get last() {
    return FakeWebSocket.all.at(-1)
  }

  readyState = 0
  sent = []
  closed = undefined

  constructor(url, protocol) {
    super()
    Object.assign(this, { url, protocol })
    FakeWebSocket.all.push(this)
  }

  send(text) {
    if (this.readyState !== 1) throw new Error('not open')
    this.sent.push(JSON.parse(text))
  }

  close(code, reason) {
    this.closed = { code, reason }
    this.readyState = 2
  }

  // The server's side.

  accept() {
    this.readyState = 1
    this.dispatchEvent(new Event('open'))
  }

  say(message) {
    this.dispatchEvent(new MessageEvent('message', { data: JSON.stringify(message) }))
  }

  end(code) {
    this.readyState = 3
    this.dispatchEvent(Object.assign(new Event('close'), { code }))
  }
}

class FakeTransceiver {
  currentTrack
  mid = null
  constructor(kind, direction, track = null) {
    this.kind = kind
    this.direction = direction
    this.currentTrack = track
    this.receiver = { track: Object.assign(new EventTarget(), { kind, readyState: 'live', muted: false }) }
    this.sender = {
      parameters: { encodings: [{}] },
      replaceTrack: async (t) => void (this.currentTrack = t),
      getParameters: () => structuredClone(this.sender.parameters),
      setParameters: async (p) => void (this.sender.parameters = p),
    }
  }
}

/** How the operations of a closed connection end. */
const forever = () => new Promise(() => {})

let ufragCount = 0
let fingerprints = 0

/**
 * An RTCPeerConnection reduced to its signaling: the state machine with implicit rollback, the chain
 * of operations, `negotiationneeded` and strict candidates (as Firefox has them).
 */
export class FakePeerConnection extends EventTarget {
  /** @type {FakePeerConnection[]} */
  static all = []
  signalingState = 'stable'
  connectionState = 'new'
  currentLocalDescription = null
  currentRemoteDescription = null
  pendingLocalDescription = null
  pendingRemoteDescription = null
  candidates = []
  restarts = 0
  transceivers = []
  rollbacks = 0
  /** Data channels by label. */
  channels = {}
  /** What getStats reports of the one path that there is. */
  bytesReceived = 0
  fingerprint = `sha-256 ${++fingerprints}`
  /** What an answer of ours says about DTLS. */
  answerSetup = 'active'
  /** Microtask turns that setLocalDescription takes. */
  delay = 1
  #ufrag = `u${++ufragCount}`
  #wants = 0 // own changes so far
  #agreed = 0 // of these, how many are negotiated
  #offered = 0
  #needed = false // negotiationneeded was fired, and nothing was agreed since
  #pendingUfrag = ''
  #chain = Promise.resolve()

  constructor(configuration) {
    super()
    this.configuration = configuration
    FakePeerConnection.all.push(this)
  }

  get localDescription() {
    return this.pendingLocalDescription ?? this.currentLocalDescription
  }
  get remoteDescription() {
    return this.pendingRemoteDescription ?? this.currentRemoteDescription
  }

  /** A change that needs an offer of our own. */
  change() {
    this.#wants++
    this.#checkNegotiation()
  }

  addTrack(track) {
    this.transceivers.push(new FakeTransceiver(track.kind, 'sendrecv', track))
    this.change()
  }
  addTransceiver(kind, { direction }) {
    this.transceivers.push(new FakeTransceiver(kind, direction))
    this.change()
  }
  getTransceivers() {
    return this.transceivers
  }
  get channel() {
    return this.channels.duet
  }
  createDataChannel(label, options) {
    this.channels[label] = Object.assign(new EventTarget(), {
      label,
      options,
      readyState: 'connecting',
      bufferedAmount: 0,
      sent: [],
      send(text) {
        this.sent.push(JSON.parse(text))
      },
      close() {
        this.readyState = 'closed'
        this.dispatchEvent(new Event('close'))
      },
    })
    this.change()
    return this.channels[label]
  }
  async getStats() {
    return new Map([['pair', { type: 'candidate-pair', bytesReceived: this.bytesReceived, responsesReceived: 0 }]])
  }
  getConfiguration() {
    return this.configuration
  }
  setConfiguration(configuration) {
    this.configuration = configuration
  }
  restartIce() {
    this.restarts++
    this.#pendingUfrag = `u${++ufragCount}`
    this.change()
  }
  close() {
    this.signalingState = 'closed'
    this.connectionState = 'closed'
  }

  setLocalDescription() {
    return this.#operate(async () => {
      for (let i = 0; i < this.delay; i++) await null
      if (this.signalingState === 'closed') return forever()
      if (this.signalingState === 'have-remote-offer') return this.#settleAnswer('answer')
      this.#offered = this.#wants
      if (this.#pendingUfrag) this.#ufrag = this.#pendingUfrag
      this.pendingLocalDescription = { type: 'offer', sdp: this.#sdp('actpass') }
      this.signalingState = 'have-local-offer'
    })
  }

  setRemoteDescription({ type, sdp }) {
    return this.#operate(async () => {
      await null
      if (this.signalingState === 'closed') return forever()
      if (type === 'offer') {
        if (this.signalingState === 'have-local-offer') this.#rollback()
        this.pendingRemoteDescription = { type, sdp }
        this.signalingState = 'have-remote-offer'
      } else {
        if (this.signalingState !== 'have-local-offer') throw new Error(`InvalidStateError: answer in ${this.signalingState}`)
        this.currentLocalDescription = this.pendingLocalDescription
        this.currentRemoteDescription = { type, sdp }
        this.pendingLocalDescription = null
        this.#agreed = this.#offered
        this.#pendingUfrag = ''
        this.#stable()
      }
    })
  }

  async addIceCandidate(candidate) {
    const ufrag = candidate?.usernameFragment
    if (!this.remoteDescription) throw new Error('InvalidStateError: no remote description')
    if (ufrag && !this.remoteDescription.sdp.includes(`a=ice-ufrag:${ufrag}\r\n`)) throw new Error('OperationError: Unknown ufrag')
    this.candidates.push(candidate ?? null)
  }

  // The test's side.

  connection(state) {
    this.connectionState = state
    this.dispatchEvent(new Event('connectionstatechange'))
  }

  gather(candidate) {
    const init = candidate && { candidate, sdpMid: '0', sdpMLineIndex: 0, usernameFragment: this.#ufrag }
    this.dispatchEvent(Object.assign(new Event('icecandidate'), { candidate: init && { toJSON: () => init } }))
    return init
  }

  #settleAnswer() {
    // Our first tracks find their place in the other side's offer; later changes need one of our own.
    if (!this.currentLocalDescription) this.#agreed = this.#wants
    this.currentRemoteDescription = this.pendingRemoteDescription
    this.currentLocalDescription = { type: 'answer', sdp: this.#sdp(this.answerSetup) }
    this.pendingRemoteDescription = null
    this.#stable()
  }

  #rollback() {
    this.rollbacks++
    this.pendingLocalDescription = null
    this.signalingState = 'stable'
  }

  #stable() {
    this.signalingState = 'stable'
    this.#needed = false
    this.#checkNegotiation()
  }

  #checkNegotiation() {
    if (this.signalingState !== 'stable' || this.#agreed >= this.#wants || this.#needed) return
    this.#needed = true
    this.#operate(async () => {}).then(() => {
      if (this.signalingState === 'stable') this.dispatchEvent(new Event('negotiationneeded'))
    })
  }

  #operate(operation) {
    const result = this.#chain.then(() => (this.signalingState === 'closed' ? forever() : operation()))
    this.#chain = result.catch(() => {})
    return result
  }

  #sdp(setup) {
    return `v=0\r\na=ice-ufrag:${this.#ufrag}\r\na=fingerprint:${this.fingerprint}\r\na=setup:${setup}\r\na=changes:${this.#wants}\r\n`
  }
}

export class FakeMediaStream {
  #tracks
  constructor(tracks = []) {
    this.#tracks = [...tracks]
  }
  getTracks() {
    return this.#tracks
  }
  getVideoTracks() {
    return this.#tracks.filter((t) => t.kind === 'video')
  }
  addTrack(track) {
    if (!this.#tracks.includes(track)) this.#tracks.push(track)
  }
  removeTrack(track) {
    this.#tracks = this.#tracks.filter((t) => t !== track)
  }
}

/** Random numbers that are the same in every run (mulberry32). */
export function seeded(seed) {
  let a = seed >>> 0
  return () => {
    a = (a + 0x6d2b79f5) >>> 0
    let t = Math.imul(a ^ (a >>> 15), 1 | a)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
