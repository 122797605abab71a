// @ts-check
/** One call with one remote peer: one RTCPeerConnection for as long as the peer keeps its id. */
import { dtlsRole, ufragOf, ufrags, withDtlsRole } from './sdp.js'
import { realClock, Timers } from './timers.js'

/** @import { CandidateMessage, DescriptionMessage, OutMessage } from './protocol.js' */
/** @import { Clock } from './timers.js' */

/** The older side of a call holds its own first offer this long, to let the newcomer's come first. */
const HOLD = 3_000
/** Not connected this long after the start: the state says so. It is still tried. */
const START = 15_000
/** `disconnected` often heals by itself; after this long it gets an ICE restart. */
const DISCONNECTED = 2_000
/** The wait between ICE restarts: doubled each time, up to the cap. */
const RESTART_EVERY = 5_000
const RESTART_CAP = 40_000
/** An offer without an answer is sent again after this long. */
const ANSWER = 10_000
/** Candidates that may wait for their description. */
const MAX_WAITING = 64
/** Sending in `datachannel` messages stops above this many bytes waiting. */
const MAX_BUFFERED = 1 << 20

/**
 * - `connecting`: never connected yet, trying
 * - `unanswered`, `blocked`: the same after 15 s; the peer has not answered, or no path was found
 * - `connected`
 * - `unstable`: was connected, being repaired
 * - `closed`
 * @typedef {'connecting' | 'unanswered' | 'blocked' | 'connected' | 'unstable' | 'closed'} CallState
 *
 * @typedef {'audio' | 'video'} Kind
 *
 * @typedef {object} CallOptions
 * @property {boolean} polite  yields when offers cross: towards peers that were in the room before us
 * @property {boolean} offersFirst  the newcomer does; the other side holds its first offer for 3 s
 * @property {(message: OutMessage, wanted: () => boolean) => boolean} send  to the peer (SignalingClient.send)
 * @property {MediaStreamTrack[]} [tracks]  what we send
 * @property {RTCIceServer[]} [iceServers]
 * @property {new (configuration: RTCConfiguration) => RTCPeerConnection} [RTCPeerConnection]
 * @property {new () => MediaStream} [MediaStream]
 * @property {Clock} [clock]
 */

/**
 * Perfect negotiation (W3C WebRTC 1.0, section 10.7) over a signaling path that loses nothing but may
 * pause for long. Fires `state` (CallState), `media` (the remote stream has changed), `data` (an
 * object the peer sent with `say`), `channel` (`say` works now), `trouble` (an Error, for the log).
 */
export class Call extends EventTarget {
  /** The remote media: the first audio and the first video track that the peer sends. */
  stream
  /** The connection, for statistics and tests. */
  pc
  /** The peer's signaling is away: what we send it waits, and is not sent again. */
  away = false
  /** @type {CallState} */
  #state = 'connecting'
  #polite
  #send
  #channel
  #timers
  #clock
  /** What we send, as one stream: its sound and picture stay in step. */
  #sent
  /** The flags of the pattern. Messages are handled one after another, so no answer is ever "pending". */
  #makingOffer = false
  #ignoreOffer = false
  /** @type {Set<string | undefined>} user fragments of offers that were ignored */
  #ignored = new Set()
  /** @type {(RTCIceCandidateInit | null)[]} candidates that came before their description */
  #waiting = []
  /** Our first offer is held back; #wantsOffer says that there is one. */
  #holding
  #wantsOffer = false
  /** Counts our offers, so that only the newest is ever sent. */
  #offer = 0
  /** @type {'active' | 'passive' | undefined} the peer's DTLS role, fixed by the first answer */
  #peerRole
  #restarts = 0
  #nextRestart = 0
  /** Incoming messages are handled strictly in order: this is the end of the line. */
  #line = Promise.resolve()

  /** @param {CallOptions} options */
  constructor({
    polite,
    offersFirst,
    send,
    tracks = [],
    iceServers = [],
    RTCPeerConnection = globalThis.RTCPeerConnection,
    MediaStream = globalThis.MediaStream,
    clock = realClock,
  }) {
    super()
    this.#polite = polite
    this.#send = send
    this.#clock = clock
    this.#timers = new Timers(clock)
    this.#holding = !offersFirst
    this.stream = new MediaStream()
    this.#sent = new MediaStream()
    const pc = (this.pc = new RTCPeerConnection({ iceServers, bundlePolicy: 'max-bundle' }))
    this.#listen(pc)
    this.#channel = this.#openChannel(pc)
    this.#addMedia(tracks, offersFirst)
    if (this.#holding) this.#timers.set('hold', HOLD, () => this.#stopHolding())
    this.#timers.set('start', START, () => this.#notConnected())
  }

  get state() {
    return this.#state
  }

  /**
   * Takes a message from the peer. Call it in the order of arrival; the promise is for tests.
   * @param {DescriptionMessage | CandidateMessage} m
   */
  receive(m) {
    this.#line = this.#line.then(() => this.#handle(m)).catch((error) => this.#report(error))
    return this.#line
  }

  /**
   * One of the two seats is new, though both peers are what they were (the server was restarted, or a
   * grace period ran out): what was on its way is lost. The order of arrival may have changed.
   * @param {{ polite: boolean }} order
   */
  resync({ polite }) {
    if (this.#state === 'closed') return
    this.#polite = polite
    if (this.#holding) this.#stopHolding()
    else if (this.pc.signalingState === 'have-local-offer') this.#sendOffer()
    else if (this.pc.connectionState !== 'connected') this.pc.restartIce()
  }

  /**
   * Sends `track`, or nothing with null, in place of what was sent of this kind. Only the first track of
   * a kind needs a new negotiation.
   * @param {Kind} kind
   * @param {MediaStreamTrack | null} track
   */
  async setTrack(kind, track) {
    if (this.#state === 'closed') return
    const transceiver = this.#transceiver(kind)
    if (!transceiver) {
      if (track) this.pc.addTrack(track, this.#sent)
      return
    }
    await transceiver.sender.replaceTrack(track)
    if (track && !transceiver.direction.startsWith('send')) {
      transceiver.direction = transceiver.direction === 'recvonly' ? 'sendrecv' : 'sendonly'
    }
  }

  /**
   * Says something to the peer directly, over the data channel. It returns false when that is not
   * possible now.
   * @param {object} data
   */
  say(data) {
    if (this.#channel.readyState !== 'open' || this.#channel.bufferedAmount > MAX_BUFFERED) return false
    this.#channel.send(JSON.stringify(data))
    return true
  }

  /**
   * New TURN credentials. They are used from the next ICE restart on.
   * @param {RTCIceServer[]} iceServers
   */
  setIceServers(iceServers) {
    if (this.#state === 'closed') return
    this.pc.setConfiguration({ ...this.pc.getConfiguration(), iceServers })
  }

  close() {
    if (this.#state === 'closed') return
    this.#timers.cancelAll()
    this.pc.close()
    this.#setState('closed')
  }

  // --- set-up ---------------------------------------------------------------------------------

  /** @param {RTCPeerConnection} pc */
  #listen(pc) {
    pc.addEventListener('negotiationneeded', () => this.#negotiate())
    pc.addEventListener('icecandidate', ({ candidate }) => this.#sendCandidate(candidate?.toJSON() ?? null))
    pc.addEventListener('connectionstatechange', () => this.#watch())
    pc.addEventListener('track', ({ track, transceiver }) => this.#addRemote(track, transceiver))
  }

  /** @param {RTCPeerConnection} pc */
  #openChannel(pc) {
    const channel = pc.createDataChannel('duet', { negotiated: true, id: 0 })
    channel.addEventListener('open', () => this.dispatchEvent(new Event('channel')))
    channel.addEventListener('message', ({ data }) => {
      try {
        this.dispatchEvent(new CustomEvent('data', { detail: JSON.parse(data) }))
      } catch (error) {
        this.#report(error)
      }
    })
    return channel
  }

  /**
   * The newcomer's offer asks for sound and picture even where it has none to give. The other side
   * adds only what it has: the offer makes the rest.
   * @param {MediaStreamTrack[]} tracks
   * @param {boolean} askForAll
   */
  #addMedia(tracks, askForAll) {
    for (const kind of /** @type {const} */ (['audio', 'video'])) {
      const track = tracks.find((t) => t.kind === kind)
      if (track) this.pc.addTrack(track, this.#sent)
      else if (askForAll) this.pc.addTransceiver(kind, { direction: 'recvonly' })
    }
  }

  /** @param {Kind} kind */
  #transceiver(kind) {
    return this.pc.getTransceivers().find((t) => t.receiver.track.kind === kind && t.direction !== 'stopped')
  }

  /**
   * @param {MediaStreamTrack} track
   * @param {RTCRtpTransceiver} transceiver
   */
  #addRemote(track, transceiver) {
    if (this.#transceiver(/** @type {Kind} */ (track.kind)) !== transceiver) return
    for (const old of this.stream.getTracks()) {
      if (old.kind === track.kind && old !== track) this.stream.removeTrack(old)
    }
    this.stream.addTrack(track)
    for (const type of ['mute', 'unmute', 'ended']) track.addEventListener(type, this.#mediaChanged)
    this.#mediaChanged()
  }

  #mediaChanged = () => this.dispatchEvent(new Event('media'))

  // --- negotiation ----------------------------------------------------------------------------

  async #negotiate() {
    if (this.#state === 'closed') return
    if (this.#holding) {
      this.#wantsOffer = true
      return
    }
    try {
      this.#makingOffer = true
      await this.pc.setLocalDescription()
      if (this.pc.signalingState === 'have-local-offer') this.#sendOffer()
    } catch (error) {
      this.#report(error)
    } finally {
      this.#makingOffer = false
    }
  }

  #stopHolding() {
    this.#timers.cancel('hold')
    this.#holding = false
    if (this.#wantsOffer && this.pc.signalingState === 'stable') this.#negotiate()
    this.#wantsOffer = false
  }

  /** Sends the newest offer, with the candidates that were found so far. */
  #sendOffer() {
    const offer = ++this.#offer
    const open = () => offer === this.#offer && this.pc.signalingState === 'have-local-offer'
    this.#sendDescription(open)
    this.#timers.set('answer', ANSWER, () => open() && !this.away && this.#sendOffer())
  }

  /** @param {() => boolean} wanted */
  #sendDescription(wanted) {
    const description = /** @type {RTCSessionDescription} */ (this.pc.localDescription)
    const type = /** @type {'offer' | 'answer'} */ (description.type)
    this.#send({ type, sdp: description.sdp }, wanted)
  }

  /** @param {RTCIceCandidateInit | null} candidate */
  #sendCandidate(candidate) {
    const ufrag = candidate ? ufragOf(candidate) : undefined
    const current = () => !ufrag || ufrags(this.pc.localDescription?.sdp).has(ufrag)
    this.#send({ type: 'candidate', candidate }, () => this.#state !== 'closed' && current())
  }

  /** @param {DescriptionMessage | CandidateMessage} m */
  async #handle(m) {
    if (this.#state === 'closed') return
    if (m.type === 'candidate') return this.#receiveCandidate(m.candidate)
    return m.type === 'offer' ? this.#receiveOffer(m.sdp) : this.#receiveAnswer(m.sdp)
  }

  /** @param {string} sdp */
  async #receiveOffer(sdp) {
    const glare = this.#makingOffer || this.pc.signalingState === 'have-local-offer'
    this.#ignoreOffer = glare && !this.#polite
    if (this.#ignoreOffer) {
      this.#ignored = ufrags(sdp)
      return
    }
    await this.pc.setRemoteDescription({ type: 'offer', sdp }) // rolls our own offer back where there is one
    await this.#addWaiting()
    await this.pc.setLocalDescription()
    this.#learnRole('ours')
    this.#sendDescription(() => this.#state !== 'closed')
    // If we still need an offer of our own, `negotiationneeded` fires again.
    this.#wantsOffer = false
    this.#stopHolding()
  }

  /** @param {string} sdp */
  async #receiveAnswer(sdp) {
    this.#ignoreOffer = false
    if (this.pc.signalingState !== 'have-local-offer') return // to an offer that is no longer open
    // Firefox may take the other DTLS role when it answers an ICE restart, which Chromium does not survive.
    await this.pc.setRemoteDescription({ type: 'answer', sdp: this.#peerRole ? withDtlsRole(sdp, this.#peerRole) : sdp })
    this.#timers.cancel('answer')
    this.#learnRole('theirs')
    await this.#addWaiting()
  }

  /** @param {'ours' | 'theirs'} answer  whose answer it was */
  #learnRole(answer) {
    if (this.#peerRole) return
    if (answer === 'theirs') this.#peerRole = dtlsRole(this.pc.remoteDescription?.sdp)
    else if (dtlsRole(this.pc.localDescription?.sdp) === 'active') this.#peerRole = 'passive'
    else this.#peerRole = 'active'
  }

  // --- candidates -----------------------------------------------------------------------------

  /** @param {RTCIceCandidateInit | null} candidate */
  async #receiveCandidate(candidate) {
    const ufrag = candidate ? ufragOf(candidate) : undefined
    if (ufrag ? this.#ignored.has(ufrag) : this.#ignoreOffer) return
    if (this.#isDue(candidate)) return this.#addCandidate(candidate)
    if (this.#waiting.length < MAX_WAITING) this.#waiting.push(candidate)
  }

  /**
   * Whether the description it belongs to is there.
   * @param {RTCIceCandidateInit | null} candidate
   */
  #isDue(candidate) {
    const sdp = this.pc.remoteDescription?.sdp
    const ufrag = candidate ? ufragOf(candidate) : undefined
    return sdp !== undefined && (!ufrag || ufrags(sdp).has(ufrag))
  }

  async #addWaiting() {
    const due = this.#waiting.filter((candidate) => this.#isDue(candidate))
    this.#waiting = this.#waiting.filter((candidate) => !due.includes(candidate))
    for (const candidate of due) await this.#addCandidate(candidate)
  }

  /**
   * A candidate that cannot be used does not harm the others.
   * @param {RTCIceCandidateInit | null} candidate  null: there are no more
   */
  async #addCandidate(candidate) {
    await this.pc.addIceCandidate(candidate ?? undefined).catch((error) => this.#report(error))
  }

  // --- recovery -------------------------------------------------------------------------------

  #watch() {
    switch (this.pc.connectionState) {
      case 'connected':
        this.#timers.cancel('start')
        this.#timers.cancel('restart')
        this.#restarts = this.#nextRestart = 0
        return this.#setState('connected')
      case 'disconnected':
        this.#wasConnected() && this.#setState('unstable')
        return this.#restartIn(DISCONNECTED)
      case 'failed':
        this.#setState(this.#wasConnected() ? 'unstable' : 'blocked')
        return this.#restartIn(0)
    }
  }

  #wasConnected() {
    return this.#state === 'connected' || this.#state === 'unstable'
  }

  #notConnected() {
    this.#setState(this.pc.remoteDescription ? 'blocked' : 'unanswered')
  }

  /** @param {number} ms */
  #restartIn(ms) {
    const wait = Math.max(ms, this.#nextRestart - this.#clock.now())
    this.#timers.set('restart', wait, () => this.#restart())
  }

  /** Restarts ICE, again and again with growing waits, until the state is `connected`. */
  #restart() {
    if (this.pc.signalingState === 'stable') this.pc.restartIce()
    const wait = Math.min(RESTART_CAP, RESTART_EVERY * 2 ** this.#restarts++)
    this.#nextRestart = this.#clock.now() + wait
    this.#restartIn(wait)
  }

  /** @param {CallState} state */
  #setState(state) {
    if (state === this.#state) return
    this.#state = state
    this.dispatchEvent(new CustomEvent('state', { detail: state }))
  }

  /** @param {unknown} error */
  #report(error) {
    if (this.#state !== 'closed') this.dispatchEvent(new CustomEvent('trouble', { detail: error }))
  }
}
