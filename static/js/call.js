// @ts-check
/** One call with one remote peer, for as long as the peer keeps its id. */
import { CallFiles } from './files.js'
import { nextTick, startRecovery, step } from './recovery.js'
import { belongs, dtlsRole, fingerprintOf, ufragOf, ufrags, withDtlsRole } from './sdp.js'
import { fire, realClock, Timers } from './timers.js'

/** @import { CandidateMessage, DescriptionMessage, OutMessage } from './protocol.js' */
/** @import { RecoveryAction, RecoveryEvent } from './recovery.js' */
/** @import { Clock } from './timers.js' */

/** The older side of a call holds its own first offer this long, to let the newcomer's come first. */
const HOLD = 3_000
/** An offer without an answer is sent again after this long. */
const ANSWER = 10_000
/** Nothing received in this time, after the network has changed: the path is dead. */
const CHECK = 2_000
/**
 * Candidates of a restart are held back until the answer, then this long for the peer to tell all of its
 * own, and then this long for our checks of them.
 */
const GATHERED = 2_000
const HEAD_START = 2_000
/** Candidates that may wait for their description. */
const MAX_WAITING = 64
/** `say` stops above this many bytes waiting. */
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
 * How much video is sent: bits per second at most, and by how much its width and height are divided.
 * @typedef {{ maxBitrate: number, scaleResolutionDownBy: number }} VideoLimits
 *
 * `at`: when, on the call's clock, in milliseconds. `url` has no credentials: there is no place for them in it.
 * @typedef {{ code: number, text: string, url: string, at: number }} Refusal
 *
 * @typedef {object} CallOptions
 * @property {boolean} polite  yields when the first offers cross: towards peers that were in the room before us
 * @property {boolean} offersFirst  the newcomer does; the other side holds its first offer for 3 s
 * @property {(message: OutMessage, wanted: () => boolean) => boolean} send  to the peer (SignalingClient.send)
 * @property {MediaStreamTrack[]} [tracks]  what we send
 * @property {VideoLimits} [limits]
 * @property {RTCIceServer[]} [iceServers]
 * @property {RTCIceTransportPolicy} [iceTransportPolicy]
 * @property {new (configuration: RTCConfiguration) => RTCPeerConnection} [RTCPeerConnection]
 * @property {new () => MediaStream} [MediaStream]
 * @property {Clock} [clock]
 */

/**
 * Perfect negotiation (W3C WebRTC 1.0, section 10.7) over a signaling path that loses nothing but may
 * pause for long.
 *
 * A path that breaks is repaired with ICE restarts, and after three in vain with a new
 * RTCPeerConnection: a *rebuild*. Its offer needs no message of its own. The fingerprint in it is
 * another one, by which the peer knows that it has to make a new connection too, whoever is polite;
 * what the abandoned connection had still sent is told by the old fingerprint, and dropped.
 *
 * Fires `state` (CallState), `track` (a MediaStreamTrack, new in `stream`), `media` (the remote stream or
 * one of its tracks has changed), `data` (an object the peer sent
 * with `say`), `channel` (`say` works now), `rebuilt` (`pc` is a new one), `refused` (there is a `refusal`),
 * `trouble` (an Error, for the log).
 */
export class Call extends EventTarget {
  /** The remote media: the first audio and the first video track that the peer sends. */
  stream
  /** @type {RTCPeerConnection} the connection, for statistics and tests; a rebuild replaces it */
  pc
  /** Files to and from the peer. They outlive a rebuild. */
  files
  /** The peer's signaling is away: what we send it waits, and is not sent again. */
  away = false
  /**
   * What a STUN or TURN server answered instead of a candidate, the first time since the call was up: RFC
   * 8489, section 14.8, and RFC 8656, section 19, name the codes (400 to 599). A server that cannot be
   * reached (701) has answered nothing.
   * @type {Refusal | undefined}
   */
  refusal
  /** @type {CallState} */
  #state = 'connecting'
  #polite
  #send
  #timers
  #clock
  #RTCPeerConnection
  /** @type {RTCConfiguration} */
  #configuration
  /** What we send, as one stream: its sound and picture stay in step. */
  #sent
  /** @type {Map<string, MediaStreamTrack>} by kind */
  #tracks
  /** @type {VideoLimits | undefined} */
  #limits
  #recovery
  /** Incoming messages are handled strictly in order: this is the end of the line. */
  #line = Promise.resolve()
  /** Our first offer is held back; #wantsOffer says that there is one. */
  #holding
  #wantsOffer = false
  /** Counts our offers, so that only the newest is ever sent. */
  #offer = 0
  /** @type {string | undefined} the peer's fingerprint on the connection that we have abandoned */
  #abandoned

  // Of the one RTCPeerConnection that there is now:
  #life = new AbortController()
  /** @type {RTCDataChannel | undefined} */
  #channel
  /** The flags of the pattern. Messages are handled one after another, so no answer is ever "pending". */
  #makingOffer = false
  #ignoreOffer = false
  /** @type {Set<string | undefined>} user fragments of offers that were ignored */
  #ignored = new Set()
  /** @type {(RTCIceCandidateInit | null)[]} candidates that came before their description */
  #waiting = []
  /**
   * What sends our candidates of a restart, held while the old path lives so that Firefox does not check
   * before we do; undefined: none are. On a restart Chromium takes the controlling role and Firefox keeps it, and the
   * tie-breakers decide (RFC 8445, section 7.3.1.1). A check of Firefox's that comes before that nominates
   * in vain, and only once: Chromium would go on sending to ports that Firefox has given up, for seconds.
   * @type {(() => void)[] | undefined}
   */
  #held
  #toFirefox = false
  /** @type {'active' | 'passive' | undefined} the peer's DTLS role, fixed by the first answer */
  #peerRole

  /** @param {CallOptions} options */
  constructor({
    polite,
    offersFirst,
    send,
    tracks = [],
    limits,
    iceServers = [],
    iceTransportPolicy = 'all',
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
    this.#configuration = { iceServers, iceTransportPolicy, bundlePolicy: 'max-bundle' }
    this.#RTCPeerConnection = RTCPeerConnection
    this.#limits = limits
    this.#tracks = new Map(tracks.map((track) => [track.kind, track]))
    this.stream = new MediaStream()
    this.#sent = new MediaStream()
    this.#recovery = startRecovery(clock.now())
    this.pc = this.#makeConnection(offersFirst)
    this.files = new CallFiles(filesChannel(this.pc))
    if (this.#holding) this.#timers.set('hold', HOLD, () => this.#stopHolding())
    this.#wake()
  }

  get state() {
    return this.#state
  }

  /**
   * Takes a message from the peer. Call it in the order of arrival; the promise is for tests.
   * @param {DescriptionMessage | CandidateMessage} m
   */
  receive(m) {
    this.#line = this.#line.then(() => this.#handleOnce(m)).catch((error) => this.#report(error))
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
   * This device has another network, or one again: a broken path is repaired at once, and a healthy one
   * looked at.
   */
  networkChanged() {
    this.#recover('network')
  }

  /**
   * Sends `track`, or nothing with null, in place of what was sent of this kind. Only the first track of
   * a kind needs a new negotiation.
   * @param {Kind} kind
   * @param {MediaStreamTrack | null} track
   */
  async setTrack(kind, track) {
    if (this.#state === 'closed') return
    if (track) this.#tracks.set(kind, track)
    else this.#tracks.delete(kind)
    const { pc } = this
    const transceiver = this.#transceiver(kind)
    if (!transceiver) {
      if (track) pc.addTrack(track, this.#sent)
      return
    }
    await transceiver.sender.replaceTrack(track).catch((error) => {
      if (this.#isCurrent(pc)) throw error
    })
    if (!this.#isCurrent(pc)) return // the next connection sends it anyway
    if (track && !transceiver.direction.startsWith('send')) {
      transceiver.direction = transceiver.direction === 'recvonly' ? 'sendrecv' : 'sendonly'
    }
  }

  /**
   * How much video is sent from now on.
   * @param {VideoLimits} limits
   */
  async setLimits(limits) {
    this.#limits = limits
    await this.#applyLimits()
  }

  /**
   * Says something to the peer directly, over the data channel. It returns false when that is not
   * possible now.
   * @param {object} data
   */
  say(data) {
    if (this.#channel?.readyState !== 'open' || this.#channel.bufferedAmount > MAX_BUFFERED) return false
    this.#channel.send(JSON.stringify(data))
    return true
  }

  getStats() {
    return this.pc.getStats()
  }

  /**
   * New TURN credentials. They are used from the next ICE restart on.
   * @param {RTCIceServer[]} iceServers
   */
  setIceServers(iceServers) {
    if (this.#state === 'closed') return
    this.#configuration.iceServers = iceServers
    this.pc.setConfiguration({ ...this.pc.getConfiguration(), iceServers })
  }

  close() {
    if (this.#state === 'closed') return
    this.#timers.cancelAll()
    this.#life.abort()
    this.files.close()
    this.pc.close()
    this.#setState('closed')
  }

  // --- set-up ---------------------------------------------------------------------------------

  /** @param {boolean} offers  whether its first offer is ours */
  #makeConnection(offers) {
    const pc = (this.pc = new this.#RTCPeerConnection(this.#configuration))
    const { signal } = (this.#life = new AbortController())
    this.#makingOffer = this.#ignoreOffer = this.#wantsOffer = false
    this.#ignored = new Set()
    this.#waiting = []
    this.#held = undefined
    this.#peerRole = undefined
    this.#listen(pc, signal)
    this.#channel = this.#openChannel(pc, signal)
    this.#addMedia(pc, offers)
    return pc
  }

  /**
   * @param {RTCPeerConnection} pc
   * @param {AbortSignal} signal
   */
  #listen(pc, signal) {
    pc.addEventListener('negotiationneeded', () => this.#negotiate(), { signal })
    pc.addEventListener('icecandidate', (e) => this.#sendCandidate(e.candidate?.toJSON() ?? null), { signal })
    pc.addEventListener('icecandidateerror', (e) => this.#refused(e), { signal })
    pc.addEventListener('connectionstatechange', () => this.#watch(), { signal })
    pc.addEventListener('track', ({ track, transceiver }) => this.#addRemote(track, transceiver, signal), { signal })
  }

  /**
   * @param {RTCPeerConnection} pc
   * @param {AbortSignal} signal
   */
  #openChannel(pc, signal) {
    const channel = pc.createDataChannel('duet', { negotiated: true, id: 0 })
    channel.addEventListener('open', () => fire(this, 'channel'), { signal })
    channel.addEventListener('message', ({ data }) => this.#heard(data), { signal })
    return channel
  }

  /** @param {string} text  whatever came */
  #heard(text) {
    try {
      fire(this, 'data', JSON.parse(text))
    } catch (error) {
      this.#report(error)
    }
  }

  /**
   * The first offer asks for sound and picture even where there is none to give. The other side adds
   * only what it has: the offer makes the rest.
   * @param {RTCPeerConnection} pc
   * @param {boolean} askForAll
   */
  #addMedia(pc, askForAll) {
    for (const kind of /** @type {const} */ (['audio', 'video'])) {
      const track = this.#tracks.get(kind)
      if (track) pc.addTrack(track, this.#sent)
      else if (askForAll) pc.addTransceiver(kind, { direction: 'recvonly' })
    }
  }

  /** @param {Kind} kind */
  #transceiver(kind) {
    return this.pc.getTransceivers().find((t) => t.receiver.track.kind === kind && t.direction !== 'stopped')
  }

  /**
   * @param {MediaStreamTrack} track
   * @param {RTCRtpTransceiver} transceiver
   * @param {AbortSignal} signal
   */
  #addRemote(track, transceiver, signal) {
    if (this.#transceiver(/** @type {Kind} */ (track.kind)) !== transceiver) return
    for (const old of this.stream.getTracks()) {
      if (old.kind === track.kind && old !== track) this.stream.removeTrack(old)
    }
    this.stream.addTrack(track)
    for (const type of ['mute', 'unmute', 'ended']) track.addEventListener(type, this.#mediaChanged, { signal })
    fire(this, 'track', track)
    this.#mediaChanged()
  }

  #mediaChanged = () => fire(this, 'media')

  /** @param {boolean} [whole]  and sends a whole picture: a browser that missed some may take 3 s to ask for it */
  async #applyLimits(whole = false) {
    const sender = this.#transceiver('video')?.sender
    if (!this.#limits || !sender || this.#state === 'closed') return
    const parameters = sender.getParameters()
    const [encoding] = parameters.encodings ?? []
    if (!encoding) return
    Object.assign(encoding, this.#limits)
    await sender.setParameters(parameters, { encodingOptions: [{ keyFrame: whole }] }).catch((error) => this.#report(error))
  }

  // --- negotiation ----------------------------------------------------------------------------

  async #negotiate() {
    if (this.#holding) {
      this.#wantsOffer = true
      return
    }
    const { pc } = this
    try {
      this.#makingOffer = true
      await pc.setLocalDescription()
      if (this.#isCurrent(pc) && pc.signalingState === 'have-local-offer') this.#sendOffer()
    } catch (error) {
      if (this.#isCurrent(pc)) this.#report(error)
    } finally {
      if (this.#isCurrent(pc)) this.#makingOffer = false
    }
  }

  /** @param {RTCPeerConnection} pc */
  #isCurrent(pc) {
    return pc === this.pc && this.#state !== 'closed'
  }

  #stopHolding() {
    this.#timers.cancel('hold')
    this.#holding = false
    if (this.#wantsOffer && this.pc.signalingState === 'stable') this.#negotiate()
    this.#wantsOffer = false
  }

  /** Sends the newest offer, with the candidates that were found so far. */
  #sendOffer() {
    const { pc } = this
    if (this.#state === 'connected' && this.#toFirefox && !isFirefox(pc.localDescription?.sdp)) this.#held ??= []
    const offer = ++this.#offer
    const open = () => offer === this.#offer && this.#isCurrent(pc) && pc.signalingState === 'have-local-offer'
    this.#sendDescription(open)
    this.#timers.set('answer', ANSWER, () => {
      if (!open() || this.away) return
      this.#abandoned = undefined // a peer that does not rebuild answers with the fingerprint it had
      this.#sendOffer()
    })
  }

  /** @param {() => boolean} wanted */
  #sendDescription(wanted) {
    const { type, sdp } = /** @type {{ type: 'offer' | 'answer', sdp: string }} */ (this.pc.localDescription)
    this.#send({ type, sdp }, wanted)
  }

  /** @param {RTCIceCandidateInit | null} candidate */
  #sendCandidate(candidate) {
    const { pc } = this
    const wanted = () => this.#isCurrent(pc) && belongs(candidate, pc.localDescription?.sdp)
    const send = () => this.#send({ type: 'candidate', candidate }, wanted)
    if (this.#held) this.#held.push(send)
    else send()
  }

  #release = () => {
    const held = this.#held ?? []
    this.#held = undefined
    for (const send of held) send()
  }

  /**
   * Operations of a connection that was closed never end: the line goes on without them.
   * @param {DescriptionMessage | CandidateMessage} m
   */
  async #handleOnce(m) {
    if (this.#state === 'closed' || (m.type !== 'candidate' && !this.#isForNow(m))) return
    const { pc } = this
    const { signal } = this.#life
    const done = new AbortController()
    const replaced = new Promise((resolve) => signal.addEventListener('abort', resolve, { signal: done.signal }))
    try {
      await Promise.race([this.#handle(m, pc), replaced])
    } catch (error) {
      if (!this.#isCurrent(pc)) return
      this.#report(error)
      if (m.type !== 'candidate') this.#recover('broken')
    } finally {
      done.abort()
    }
  }

  /**
   * Whether a description is for the connection that there is now. It makes a new one where the peer
   * has.
   * @param {DescriptionMessage} m
   */
  #isForNow({ type, sdp }) {
    this.#toFirefox = isFirefox(sdp)
    const theirs = fingerprintOf(sdp)
    const known = fingerprintOf(this.pc.remoteDescription?.sdp)
    if (theirs && theirs === this.#abandoned) return false
    if (!theirs || !known || theirs === known) return true
    // An answer from another connection than ours was made for: both begin anew.
    this.#rebuild(type === 'answer')
    this.#recover('rebuilt')
    return type === 'offer'
  }

  /**
   * @param {DescriptionMessage | CandidateMessage} m
   * @param {RTCPeerConnection} pc
   */
  async #handle(m, pc) {
    if (m.type === 'candidate') return this.#receiveCandidate(m.candidate)
    return m.type === 'offer' ? this.#receiveOffer(m.sdp, pc) : this.#receiveAnswer(m.sdp, pc)
  }

  /**
   * @param {string} sdp
   * @param {RTCPeerConnection} pc
   */
  async #receiveOffer(sdp, pc) {
    const glare = this.#makingOffer || pc.signalingState === 'have-local-offer'
    // Once there was an answer, the one who gave it never yields, whatever the order of arrival is by now:
    // Chromium draws nothing more when the first answerer rolls a restart of ICE back.
    this.#ignoreOffer = glare && (this.#peerRole ? this.#peerRole === 'passive' : !this.#polite)
    if (this.#ignoreOffer) {
      this.#ignored = ufrags(sdp)
      return
    }
    this.#recover('offered')
    this.#release()
    await pc.setRemoteDescription({ type: 'offer', sdp }) // rolls our own offer back where there is one
    if (!this.#isCurrent(pc)) return
    await this.#addWaiting()
    await pc.setLocalDescription()
    if (!this.#isCurrent(pc)) return
    this.#peerRole ??= dtlsRole(pc.localDescription?.sdp) === 'active' ? 'passive' : 'active'
    this.#sendDescription(() => this.#isCurrent(pc))
    this.#abandoned = undefined
    // If we still need an offer of our own, `negotiationneeded` fires again.
    this.#wantsOffer = false
    this.#stopHolding()
    await this.#applyLimits()
  }

  /**
   * @param {string} sdp
   * @param {RTCPeerConnection} pc
   */
  async #receiveAnswer(sdp, pc) {
    this.#ignoreOffer = false
    if (pc.signalingState !== 'have-local-offer') return // to an offer that is no longer open
    // Firefox may take the other DTLS role when it answers an ICE restart, which Chromium does not survive.
    await pc.setRemoteDescription({ type: 'answer', sdp: this.#peerRole ? withDtlsRole(sdp, this.#peerRole) : sdp })
    if (!this.#isCurrent(pc)) return
    this.#timers.cancel('answer')
    this.#abandoned = undefined
    this.#peerRole ??= dtlsRole(sdp)
    if (this.#held) this.#timers.set('held', GATHERED, this.#release)
    await this.#addWaiting()
    await this.#applyLimits()
  }

  // --- candidates -----------------------------------------------------------------------------

  /** @param {RTCIceCandidateInit | null} candidate */
  async #receiveCandidate(candidate) {
    const ufrag = candidate ? ufragOf(candidate) : undefined
    if (ufrag ? this.#ignored.has(ufrag) : this.#ignoreOffer || this.#abandoned) return
    if (this.#isDue(candidate)) return this.#addCandidate(candidate)
    if (this.#waiting.length < MAX_WAITING) this.#waiting.push(candidate)
  }

  /**
   * Whether the description it belongs to is there.
   * @param {RTCIceCandidateInit | null} candidate
   */
  #isDue(candidate) {
    const { remoteDescription } = this.pc
    return remoteDescription !== null && belongs(candidate, remoteDescription.sdp)
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
    const all = !candidate?.candidate && this.pc.signalingState === 'stable'
    if (all && this.#held) this.#timers.set('held', HEAD_START, this.#release)
  }

  /** @param {RTCPeerConnectionIceErrorEvent} event */
  #refused({ errorCode: code, errorText: text, url }) {
    if (this.refusal || code > 699 || this.#state === 'connected') return
    this.refusal = { code, text, url: url ?? '', at: this.#clock.now() }
    fire(this, 'refused')
  }

  // --- recovery -------------------------------------------------------------------------------

  #watch() {
    const state = this.pc.connectionState
    if (state !== 'connected' && state !== 'disconnected' && state !== 'failed') return
    this.#recover(state)
    if (state !== 'connected') this.#release()
    const up = this.#state === 'connected' || this.#state === 'unstable'
    if (state === 'connected') {
      this.refusal = undefined
      if (this.#state === 'unstable') this.#applyLimits(true)
      this.#setState('connected')
    } else if (up) this.#setState('unstable')
    else if (state === 'failed') this.#setState('blocked')
  }

  /** @param {RecoveryEvent | 'tick'} type */
  #recover(type) {
    if (this.#state === 'closed') return
    const open = this.pc.signalingState === 'have-local-offer'
    const { state, actions } = step(this.#recovery, { type, open }, this.#clock.now())
    this.#recovery = state
    this.#wake()
    for (const action of actions) this.#act(action)
  }

  #wake() {
    const at = nextTick(this.#recovery)
    if (at === Infinity) this.#timers.cancel('recovery')
    else this.#timers.set('recovery', Math.max(0, at - this.#clock.now()), () => this.#recover('tick'))
  }

  /** @param {RecoveryAction} action */
  #act(action) {
    switch (action) {
      case 'restart':
        return this.pc.restartIce()
      case 'rebuild':
        return this.#rebuild(true)
      case 'check':
        return this.#check()
      case 'late':
        return this.#setState(this.pc.remoteDescription ? 'blocked' : 'unanswered')
    }
  }

  /** @param {boolean} offers  whether we offer the new connection, or answer the peer's */
  #rebuild(offers) {
    this.#abandoned = offers ? fingerprintOf(this.pc.remoteDescription?.sdp) : undefined
    this.#holding = !offers // until the peer's offer is answered
    for (const name of ['hold', 'answer', 'check', 'held']) this.#timers.cancel(name)
    const old = this.pc
    this.#life.abort()
    this.files.use(filesChannel(this.#makeConnection(offers)))
    old.close()
    if (this.#state === 'connected') this.#setState('unstable')
    fire(this, 'rebuilt')
  }

  /** Whether anything, if only an answer to ICE's own checks, has come for some time. */
  async #check() {
    const { pc } = this
    const before = await received(pc)
    if (!this.#isCurrent(pc)) return
    this.#timers.set('check', CHECK, async () => {
      const silent = (await received(pc)) === before
      if (silent && this.#isCurrent(pc)) this.#recover('silent')
    })
  }

  /** @param {CallState} state */
  #setState(state) {
    if (state === this.#state) return
    this.#state = state
    fire(this, 'state', state)
  }

  /** @param {unknown} error */
  #report(error) {
    if (this.#state !== 'closed') fire(this, 'trouble', error)
  }
}

/** @param {string} [sdp]  as it was made: Chromium shows that of its peer with another first line */
function isFirefox(sdp = '') {
  return sdp.includes('o=mozilla')
}

/** @param {RTCPeerConnection} pc */
function filesChannel(pc) {
  return pc.createDataChannel('files', { negotiated: true, id: 1 })
}

/**
 * A count that grows with everything that comes over the connection's path.
 * @param {RTCPeerConnection} pc
 */
async function received(pc) {
  let sum = 0
  for (const entry of (await pc.getStats()).values()) {
    if (entry.type === 'candidate-pair') sum += (entry.bytesReceived ?? 0) + (entry.responsesReceived ?? 0)
  }
  return sum
}
