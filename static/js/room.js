// @ts-check
/** A room as one of its members sees it: who is there, and a call with each of them. */
import { Call } from './call.js'
import { ClientError } from './errors.js'
import { SignalingClient } from './signaling.js'
import { fire, hear, realClock, Timers } from './timers.js'

/** @import { Kind, VideoLimits } from './call.js' */
/** @import { IceServers, Joined, LeaveReason, Peer, PeerMessage, RoomMessage } from './protocol.js' */
/** @import { End, SignalState } from './signaling.js' */
/** @import { Clock } from './timers.js' */

/** A member whose seat is gone and whose media has stopped is removed after this long. */
const FADE = 10_000
/** In place of a member's id: the operator of the server speaks. */
const SERVER = 'server'
/** The longest chat text, in UTF-16 units. */
export const MAX_CHAT = 4000

/**
 * What a quality means: bits per second of video to one member at most, and to all of them together.
 */
const QUALITY = {
  low: { each: 250_000, all: 750_000 },
  medium: { each: 800_000, all: 2_400_000 },
  high: { each: 2_500_000, all: 6_000_000 },
}

/**
 * @typedef {object} Member
 * @property {string} id
 * @property {string} name  may be empty
 * @property {'here' | 'away' | 'gone'} presence  of its signaling: connected, its seat waits, or no seat
 *   any more while its media still comes
 * @property {Call} call
 * @property {MediaState} media
 *
 * What a member sends, by its own word. Until it says otherwise: sound, and picture of a camera.
 * @typedef {{ audio: boolean, video: boolean, screen?: boolean }} MediaState
 *
 * @typedef {keyof typeof QUALITY} Quality
 *
 * What members tell each other over the data channel.
 * @typedef {{ type: 'chat', text: string } | ({ type: 'media' } & MediaState)} Said
 *
 * @typedef {object} RoomOptions
 * @property {SignalingClient} signaling  not yet connected
 * @property {MediaStreamTrack[]} [tracks]  what we send to everybody
 * @property {MediaState} [media]  what we say that we send
 * @property {Quality} [quality]
 * @property {RTCIceServer[]} [iceServers]  beside those of the server
 * @property {RTCIceTransportPolicy} [iceTransportPolicy]
 * @property {(options: import('./call.js').CallOptions) => Call} [newCall]
 * @property {Clock} [clock]
 */

/**
 * How much video each of `peers` members gets: in a mesh every one costs our uplink its own stream. A
 * screen keeps its pixels, since text has to stay readable.
 * @param {Quality} quality
 * @param {number} peers
 * @param {boolean} [screen]
 * @returns {VideoLimits}
 */
export function videoLimits(quality, peers, screen = false) {
  const { each, all } = QUALITY[quality]
  const maxBitrate = Math.floor(Math.min(each, all / Math.max(1, peers)))
  const scale = maxBitrate >= 600_000 ? 1 : maxBitrate >= 200_000 ? 2 : 4
  return { maxBitrate, scaleResolutionDownBy: screen ? 1 : scale }
}

/**
 * Joins calls to the room's events. A lost connection never ends a call, and a peer that keeps its id
 * keeps its call. Fires:
 * - `change`: members, their calls or our signaling have changed
 * - `member` Member: somebody new
 * - `member-left` `{ member, reason }`
 * - `member-away` Member, `member-back` Member
 * - `member-change` Member: its name, presence, media or the state of its call
 * - `chat` `{ from: Member, text }`
 * - `message` `{ from?: Member, data }`: what a member sent with `send`; without `from` what the server's
 *   operator says
 * - `track` `{ member: Member, track }`
 * - `closed` End: there is no signaling any more. Running calls go on, unless another page took our
 *   place, the operator removed us, or we left
 * - `trouble` Error: for the log
 */
export class Room extends EventTarget {
  /** @type {Map<string, Member>} by id, in order of arrival */
  members = new Map()
  signaling
  /** @type {End | undefined} */
  ended
  /** Whether the room was joined at least once, and when the next connection is due. */
  joined = false
  /** @type {{ state: SignalState, retryIn?: number, code?: number }} */
  signal = { state: 'idle' }
  /** @type {string | undefined} */
  #id
  /** @type {RTCIceServer[]} */
  #iceServers = []
  #ownIceServers
  #iceTransportPolicy
  /** @type {Map<Kind, MediaStreamTrack>} */
  #tracks
  /** @type {MediaState} */
  #media
  /** @type {Quality} */
  #quality
  /** @type {VideoLimits} */
  #limits
  #newCall
  #timers

  /** @param {RoomOptions} options */
  constructor({
    signaling,
    tracks = [],
    media = { audio: true, video: true },
    quality = 'high',
    iceServers = [],
    iceTransportPolicy,
    newCall = (options) => new Call(options),
    clock = realClock,
  }) {
    super()
    this.signaling = signaling
    this.#tracks = new Map(tracks.map((track) => [/** @type {Kind} */ (track.kind), track]))
    this.#media = media
    this.#quality = quality
    this.#limits = videoLimits(quality, 1)
    this.#iceServers = this.#ownIceServers = iceServers
    this.#iceTransportPolicy = iceTransportPolicy
    this.#newCall = newCall
    this.#timers = new Timers(clock)
    hear(signaling, 'joined', (detail) => this.#joined(detail))
    hear(signaling, 'message', (detail) => this.#receive(detail))
    hear(signaling, 'refused', (detail) => this.#refused(detail))
    hear(signaling, 'closed', (detail) => this.#closed(detail))
    hear(signaling, 'state', (detail) => {
      this.signal = detail
      this.#changed()
    })
  }

  join() {
    this.signaling.connect()
  }

  /** Hangs up. The others are told before their connections end. */
  leave() {
    this.signaling.leave()
    for (const member of [...this.members.values()]) this.#remove(member, 'left') // whose calls outlived the signaling
  }

  /** Looks after the signaling connection at once: the page woke up. */
  probe() {
    this.signaling.probe()
  }

  /** This device has another network, or one again: looks after every connection at once. */
  networkChanged() {
    this.signaling.probe(true)
    for (const call of this.#calls) call.networkChanged()
  }

  /**
   * Sends any JSON value to one member or to all, over the server: exactly once and in order, also while
   * a connection is down. It returns false when it was not accepted (SignalingClient.send).
   * @param {unknown} data
   * @param {string} [to]  a member's id
   */
  send(data, to) {
    return this.signaling.send({ type: 'message', data, ...(to !== undefined && { to }) })
  }

  /**
   * Says something to everybody who can be reached. It returns how many that were.
   * @param {string} text  at most MAX_CHAT long
   */
  chat(text) {
    return this.#say({ type: 'chat', text: text.slice(0, MAX_CHAT) })
  }

  /**
   * Sends another track of this kind to everybody, or none.
   * @param {Kind} kind
   * @param {MediaStreamTrack | null} track
   */
  async setTrack(kind, track) {
    if (track) this.#tracks.set(kind, track)
    else this.#tracks.delete(kind)
    await Promise.all(this.#calls.map((call) => call.setTrack(kind, track)))
  }

  /**
   * Tells everybody what we send.
   * @param {MediaState} media
   */
  setMedia(media) {
    this.#media = { ...media }
    this.#say({ type: 'media', ...this.#media })
    this.#limitVideo()
  }

  get quality() {
    return this.#quality
  }

  /**
   * How good the picture may be that we send. The more members, the less of it for each.
   * @param {Quality} quality
   */
  setQuality(quality) {
    this.#quality = quality
    this.#limitVideo()
  }

  #limitVideo() {
    const limits = videoLimits(this.#quality, this.members.size, this.#media.screen)
    if (JSON.stringify(limits) === JSON.stringify(this.#limits)) return
    this.#limits = limits
    for (const call of this.#calls) call.setLimits(limits)
  }

  /** @param {Said} data */
  #say(data) {
    return this.#calls.filter((call) => call.say(data)).length
  }

  // --- the room's events ----------------------------------------------------------------------

  /** @param {Joined} m */
  #joined(m) {
    const first = !this.joined
    this.joined = true
    this.#useIceServers(m.iceServers)
    if (this.#id !== m.id) this.#startAnew(m.id)
    // A resumed seat gets every event that it missed, one by one: the list would only anticipate them.
    if (first || !m.resumed) this.#meet(m.peers)
    // Signaling and media were both lost, as with a changed network: now they can be repaired.
    for (const call of this.#calls) if (call.state === 'unstable') call.networkChanged()
    this.#changed()
  }

  /**
   * We are somebody new to the others, who will call our new id.
   * @param {string} id
   */
  #startAnew(id) {
    this.#id = id
    for (const member of [...this.members.values()]) this.#remove(member, 'replaced')
  }

  /**
   * Those who were here before us: we are polite to them and call them.
   * @param {Peer[]} peers
   */
  #meet(peers) {
    const here = new Set(peers.map((peer) => peer.id))
    for (const member of this.members.values()) if (!here.has(member.id)) this.#gone(member, 'timeout')
    for (const peer of peers) this.#arrived(peer, { polite: true })
  }

  /** @param {RoomMessage | PeerMessage | IceServers} m */
  #receive(m) {
    switch (m.type) {
      case 'ice-servers':
        return this.#useIceServers(m.iceServers)
      case 'message':
        return this.#deliver(m.from, m.data)
      case 'peer-joined':
        this.#arrived(m.peer, { polite: false })
        break
      case 'peer-away':
        return this.#setPresence(m.peer, 'away')
      case 'peer-back':
        return this.#setPresence(m.peer, 'here')
      case 'peer-left':
        this.#left(m.peer, m.reason)
        break
      case 'offer':
      case 'answer':
      case 'candidate':
        this.members.get(m.from)?.call.receive(m)
        return
    }
    this.#changed()
  }

  /**
   * @param {string} id
   * @param {unknown} data
   */
  #deliver(id, data) {
    const from = this.members.get(id)
    if (from || id === SERVER) fire(this, 'message', { from, data })
  }

  /**
   * @param {Peer} peer
   * @param {{ polite: boolean }} order
   */
  #arrived(peer, { polite }) {
    const known = this.members.get(peer.id)
    if (!known) return this.#add(peer, polite)
    // The same id is the same page with the same connection: it goes on.
    this.#timers.cancel(peer.id)
    known.name = peer.name ?? ''
    place(known, presenceOf(peer))
    known.call.resync({ polite })
    this.#changed(known)
  }

  /**
   * @param {Peer} peer
   * @param {boolean} polite
   */
  #add(peer, polite) {
    const call = this.#newCall({
      polite,
      offersFirst: polite,
      iceServers: this.#iceServers,
      iceTransportPolicy: this.#iceTransportPolicy,
      limits: this.#limits,
      tracks: [...this.#tracks.values()],
      send: (message, wanted) => this.signaling.send({ ...message, to: peer.id }, wanted),
    })
    /** @type {Member} */
    const member = { id: peer.id, name: peer.name ?? '', presence: 'here', call, media: { audio: true, video: true, screen: false } }
    place(member, presenceOf(peer))
    this.members.set(peer.id, member)
    this.#limitVideo()
    this.#follow(member)
    fire(this, 'member', member)
  }

  /** @param {Member} member */
  #follow(member) {
    const { call } = member
    call.addEventListener('state', () => {
      if (call.state === 'unstable') this.signaling.probe(true) // the network may have changed for both
      this.#fade(member)
      this.#changed(member)
    })
    call.addEventListener('channel', () => call.say({ type: 'media', ...this.#media }))
    hear(call, 'data', (data) => this.#heard(member, data))
    hear(call, 'trouble', (error) => this.#report(error))
    call.addEventListener('media', () => this.#changed(member))
    call.addEventListener('rebuilt', () => this.#changed(member))
    hear(call, 'track', (track) => fire(this, 'track', { member, track }))
  }

  /**
   * @param {Peer} peer
   * @param {'here' | 'away'} presence
   */
  #setPresence(peer, presence) {
    const member = this.members.get(peer.id)
    if (!member) return
    place(member, presence)
    fire(this, presence === 'away' ? 'member-away' : 'member-back', member)
    this.#changed(member)
  }

  /**
   * @param {Peer} peer
   * @param {LeaveReason} reason
   */
  #left(peer, reason) {
    const member = this.members.get(peer.id)
    if (!member) return
    if (reason === 'left' || reason === 'replaced' || reason === 'kicked') this.#remove(member, reason)
    else this.#gone(member, reason)
  }

  /**
   * Its signaling is gone, which by itself does not end its media.
   * @param {Member} member
   * @param {LeaveReason} reason
   */
  #gone(member, reason) {
    place(member, 'gone')
    this.#fade(member, reason)
    this.#changed(member)
  }

  /**
   * Nobody can repair the call of a member that is gone: it ends some time after its media stops.
   * @param {Member} member
   * @param {LeaveReason} [reason]
   */
  #fade(member, reason = 'timeout') {
    if (member.presence !== 'gone' || member.call.state === 'closed') return
    if (member.call.state === 'connected') this.#timers.cancel(member.id)
    else this.#timers.set(member.id, FADE, () => this.#remove(member, reason))
  }

  /**
   * @param {Member} member
   * @param {LeaveReason} reason
   */
  #remove(member, reason) {
    this.#timers.cancel(member.id)
    this.members.delete(member.id)
    member.call.close()
    this.#limitVideo()
    fire(this, 'member-left', { member, reason })
    this.#changed()
  }

  /** @param {End} end */
  #closed(end) {
    this.ended = end
    const over = end.why === 'left' || (end.code ?? 0) >= 4500
    for (const member of [...this.members.values()]) {
      if (over) this.#remove(member, 'left')
      else this.#gone(member, 'timeout')
    }
    fire(this, 'closed', end)
    this.#changed()
  }

  // --- what members say -----------------------------------------------------------------------

  /**
   * @param {Member} member
   * @param {unknown} data  whatever came: nothing of it is certain
   */
  #heard(member, data) {
    if (typeof data !== 'object' || data === null || !('type' in data)) return
    if (data.type === 'chat' && 'text' in data && typeof data.text === 'string') {
      const text = data.text.slice(0, MAX_CHAT)
      fire(this, 'chat', { from: member, text })
    } else if (data.type === 'media' && 'audio' in data && 'video' in data) {
      const screen = 'screen' in data && data.screen === true
      member.media = { audio: data.audio === true, video: data.video === true, screen }
      this.#changed(member)
    }
  }

  /** @param {{ code: string, message?: string }} error  what the server said, or signaling by itself */
  #refused({ code, message }) {
    this.#report(new ClientError(code, message && `${code}: ${message}`))
  }

  // --- helpers --------------------------------------------------------------------------------

  get #calls() {
    return [...this.members.values()].map(({ call }) => call)
  }

  /** @param {RTCIceServer[]} servers */
  #useIceServers(servers) {
    const iceServers = [...this.#ownIceServers, ...servers]
    if (JSON.stringify(iceServers) === JSON.stringify(this.#iceServers)) return
    this.#iceServers = iceServers
    for (const call of this.#calls) call.setIceServers(iceServers)
  }

  /** @param {Member} [member]  of whom alone something has changed */
  #changed(member) {
    if (member) fire(this, 'member-change', member)
    fire(this, 'change')
  }

  /** @param {unknown} error */
  #report(error) {
    fire(this, 'trouble', error)
  }
}

/** @param {Peer} peer */
function presenceOf({ away }) {
  return away ? 'away' : 'here'
}

/**
 * @param {Member} member
 * @param {Member['presence']} presence
 */
function place(member, presence) {
  member.presence = presence
  member.call.away = presence !== 'here'
}
