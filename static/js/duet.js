// @ts-check
/**
 * Calls between browsers, to begin with:
 *
 *     const room = await connect('wss://example.org/ws', { room: 'demo', media: true })
 *     room.addEventListener('track', ({ detail: { peer, stream } }) => show(peer, stream))
 */
import { ClientError, errorOfEnd, needed } from './errors.js'
import { isName, isRoom, sizeOf } from './protocol.js'
import { MAX_CHAT, Room } from './room.js'
import { followPage, SignalingClient } from './signaling.js'
import { Call } from './call.js'
import { fire, hear, realClock, Timers } from './timers.js'

/** @import { Kind } from './call.js' */
/** @import { SendFileOptions } from './data.js' */
/** @import { LocalMedia } from './media.js' */
/** @import { Member, Quality } from './room.js' */
/** @import { End } from './signaling.js' */
/** @import { Clock } from './timers.js' */

export { ClientError }

/** Not in the room this long after `connect`: it is given up, in milliseconds. */
const TIMEOUT = 20_000
/** The longest `send`, in bytes of JSON: the server takes messages of 64 KiB, this and its envelope. */
const MAX_DATA = 65_000
/** How often the quality of each path is measured, in milliseconds. */
const MEASURE = 3_000

/**
 * @typedef {object} ConnectOptions
 * @property {string} room  1 to 128 bytes
 * @property {string} [name]  at most 64 characters, shown to the others
 * @property {string} [token]
 * @property {boolean | { audio?: boolean, video?: boolean } | MediaStream | LocalMedia} [media]  what to send:
 *   true opens camera and microphone. A MediaStream or LocalMedia stays the caller's, who closes it
 * @property {Quality} [quality]
 * @property {string} [session]  the key of the seat; made here where it is left out
 * @property {string} [replaces]  the key of an earlier load of this page, whose seat is to end
 * @property {RTCIceServer[]} [iceServers]  beside those of the server
 * @property {RTCIceTransportPolicy} [iceTransportPolicy]
 * @property {AbortSignal} [signal]  gives up, or leaves
 * @property {number} [timeout]  for joining, in milliseconds
 * @property {false | { window: EventTarget, document: EventTarget & { visibilityState: string }, connection?: EventTarget }} [page]
 *   whose life and network to follow; left out: those of this page, where there is one
 * @property {new (url: string, protocol: string) => WebSocket} [WebSocket]
 * @property {new (configuration: RTCConfiguration) => RTCPeerConnection} [RTCPeerConnection]
 * @property {new () => MediaStream} [MediaStream]
 * @property {Clock} [clock]
 * @property {() => number} [random]  in [0, 1)
 *
 * @typedef {'connecting' | 'joined' | 'reconnecting' | 'closed'} RoomState
 * @typedef {import('./stats.js').Summary} Stats
 */

/**
 * Joins a room. It resolves when we are in it, and rejects with a ClientError: `room-full`,
 * `unreachable`, `media-denied` and so on. With `media` it rejects only where nothing of what was asked
 * for could be opened; `room.media.problems` tells of the rest.
 * @param {string | URL} url  ws: or wss:, absolute or relative to the page
 * @param {ConnectOptions} options
 */
export async function connect(url, options) {
  const room = new JoinedRoom(socketAddress(url), options)
  await room.opened
  return room
}

/** Somebody else in the room. What it says of itself changes; the object stays the same. */
export class Peer {
  /** @type {'good' | 'fair' | 'poor' | undefined} of the path to it, measured every 3 s */
  quality
  /** @type {Stats | undefined} */
  stats
  #member

  /** @param {Member} member */
  constructor(member) {
    this.#member = member
  }

  get id() {
    return this.#member.id
  }

  /** May be empty. */
  get name() {
    return this.#member.name
  }

  /** `away`: its signaling is lost, and expected back. `gone`: not expected; its media still comes. */
  get presence() {
    return this.#member.presence
  }

  /** What it sends us: at most one audio and one video track. The object stays the same. */
  get stream() {
    return this.#member.call.stream
  }

  /** What it says that it sends. */
  get media() {
    return this.#member.media
  }

  /** Of the path to it. */
  get state() {
    return this.#member.call.state
  }

  /** What is below: its RTCPeerConnection is `call.pc`. */
  get call() {
    return this.#member.call
  }
}

/**
 * A room that we are in; `connect` makes it. Fires, each with its `detail`:
 * - `peer` Peer: for each that is there or comes
 * - `peer-left` `{ peer, reason }`, `peer-away` Peer, `peer-back` Peer
 * - `track` `{ peer, track, stream }`
 * - `peer-change` Peer: its state, name, media, presence or quality
 * - `chat` `{ peer, text }`, `message` `{ peer, data }`; without a peer it is the server's operator who speaks
 * - `file` `{ peer, name, type, size, blob, sha256 }`; `file-progress` `{ peer, id, name, received, size }`,
 *   `file-failed` `{ peer, id, name, code }`
 * - `media`: what we send has changed
 * - `state` RoomState
 * - `closed` ClientError: why it is over. Where only the server is gone, running calls go on
 * - `trouble` Error: nothing that needs an answer; for the log
 */
export class JoinedRoom extends EventTarget {
  /** @type {Map<string, Peer>} by id, in order of arrival */
  peers = new Map()
  /** @type {LocalMedia | undefined} camera, microphone and screen, once they were asked for */
  media
  /** @type {Promise<void>} settles when we are in the room, or are not to be */
  opened
  /** @type {RoomState} */
  #state = 'connecting'
  /** @type {{ type: string, detail: unknown }[] | undefined} held until the caller can have listeners */
  #early = []
  /** @type {MediaStream | undefined} */
  #given
  #ownsMedia = false
  /** @type {Map<Kind, MediaStreamTrack | undefined>} */
  #sending = new Map()
  #over = new AbortController()
  /** @type {(error: ClientError) => void} rejects `opened` */
  #giveUp = () => {}
  #options
  #clock
  #timers
  /** @type {Room} */
  #room

  /**
   * @param {string} url
   * @param {ConnectOptions} options
   */
  constructor(url, options) {
    super()
    const { room, name = '', clock = realClock, RTCPeerConnection, MediaStream } = options
    if (!isRoom(room)) throw new ClientError('bad-message', 'A room name has 1 to 128 bytes, and no spaces around it.')
    if (!isName(name)) throw new ClientError('bad-message', 'A name has at most 64 characters, none of them for control.')
    this.#options = options
    this.#clock = clock
    this.#timers = new Timers(clock)
    this.#room = new Room({
      ...options,
      signaling: new SignalingClient({ ...options, url }),
      media: { audio: false, video: false },
      newCall: (o) => new Call({ ...o, RTCPeerConnection, MediaStream, clock }),
    })
    this.#follow()
    this.opened = this.#open()
  }

  /** Our id. It is the same across reconnects and restarts of the server. */
  get id() {
    return this.#room.signaling.id ?? ''
  }

  get state() {
    return this.#state
  }

  /** What we send: for the own picture. */
  get stream() {
    return this.media?.stream ?? this.#given
  }

  /** For whoever wants to watch each envelope (its `envelope` event), or slow them down (its `delay`). */
  get signaling() {
    return this.#room.signaling
  }

  // --- commands -------------------------------------------------------------------------------

  /**
   * Microphone on or off. Off is silence; the device stays open, so that on is at once.
   * @param {boolean} on
   */
  setMic(on) {
    return this.#switch('audio', on)
  }

  /**
   * Camera on or off. Off closes the device, and puts its light out.
   * @param {boolean} on
   */
  setCamera(on) {
    return this.#switch('video', on)
  }

  /** Sends the screen in the camera's place, until `stopSharing`, or until the user stops it. */
  async shareScreen() {
    return (await this.#localMedia()).shareScreen()
  }

  async stopSharing() {
    this.media?.stopSharing()
    await this.#mediaChanged()
  }

  /**
   * @param {Kind} kind
   * @param {string} deviceId  of `(await room.media.devices())`
   */
  async switchDevice(kind, deviceId) {
    await (await this.#localMedia()).use(kind, deviceId)
  }

  /**
   * How good the picture may be that we send: `low`, `medium` or `high`. The more peers, the less of it
   * for each.
   * @param {Quality} quality
   */
  setQuality(quality) {
    this.#room.setQuality(quality)
  }

  /**
   * Says something to everybody who can be reached, from browser to browser. It resolves to how many that
   * were.
   * @param {string} text  at most 4,000 UTF-16 units
   */
  async sendChat(text) {
    if (text.length > MAX_CHAT) throw new ClientError('too-big')
    const count = this.#room.chat(text)
    if (count === 0) throw new ClientError('not-connected')
    return count
  }

  /**
   * Sends any JSON value to all, or to one, over the server: each gets it exactly once and in order,
   * however often connections break. It resolves when it is on its way.
   * @param {unknown} data  at most 65,000 bytes as JSON
   * @param {{ to?: string }} [options]  a peer's id
   */
  async send(data, { to } = {}) {
    const bytes = sizeOf(JSON.stringify(data) ?? '')
    if (bytes === 0) throw new ClientError('bad-message', 'This value has no JSON.')
    if (bytes > MAX_DATA) throw new ClientError('too-big')
    if (to === undefined ? this.peers.size === 0 : !this.peers.has(to)) throw new ClientError('no-peer')
    if (!this.#room.send(data, to)) throw new ClientError(this.#state === 'closed' ? 'not-connected' : 'busy')
  }

  /**
   * Sends a file from browser to browser, to all or to one. It resolves when each has it and has
   * confirmed its SHA-256.
   * @param {Blob} file
   * @param {SendFileOptions & { to?: string }} [options]  `onprogress` is called for each peer
   */
  async sendFile(file, { to, ...options } = {}) {
    const up = [...this.peers.values()].filter((peer) => (to ?? peer.id) === peer.id && peer.state === 'connected')
    if (up.length === 0) throw new ClientError('not-connected')
    await Promise.all(up.map(({ call }) => call.files.send(file, options)))
  }

  /** Hangs up. The others are told. What `connect` has opened is closed. */
  async leave() {
    this.#room.leave()
  }

  // --- joining and the end --------------------------------------------------------------------

  async #open() {
    const { signal, page = thisPage(), timeout = TIMEOUT } = this.#options
    const joined = new Promise((resolve, reject) => {
      this.#room.signaling.addEventListener('joined', resolve, { once: true })
      this.#giveUp = reject
    })
    const stop = () => this.#stop('aborted')
    signal?.addEventListener('abort', stop, { signal: this.#over.signal })
    try {
      if (signal?.aborted) stop()
      await Promise.race([this.#openMedia(), joined])
      if (page) followPage(this.#room, { ...page, signal: this.#over.signal })
      this.#timers.set('join', timeout, () => this.#stop('unreachable'))
      this.#room.join()
      await joined
    } catch (error) {
      this.#room.leave()
      throw asClientError(error)
    } finally {
      this.#timers.cancel('join')
      // What happens from now on can be heard: whoever has awaited us runs before this.
      this.#timers.set('early', 0, () => this.#release())
    }
    this.#measureLater()
  }

  /** @param {import('./errors.js').ErrorCode} code  why */
  #stop(code) {
    this.#giveUp(new ClientError(code))
    this.#room.leave()
  }

  #release() {
    const events = this.#early ?? []
    this.#early = undefined
    for (const { type, detail } of events) this.#fire(type, detail)
  }

  /** @param {End} end */
  #closed(end) {
    this.#timers.cancelAll()
    this.#release()
    this.#giveUp(errorOfEnd(end))
    this.#setState('closed')
    this.#fire('closed', errorOfEnd(end))
    this.#finish()
  }

  /** There is neither signaling nor a call any more. */
  #finish() {
    if (this.#state !== 'closed' || this.peers.size > 0) return
    this.#over.abort()
    if (this.#ownsMedia) this.media?.close()
  }

  /** @param {RoomState} state */
  #setState(state) {
    if (state === this.#state) return
    this.#state = state
    this.#fire('state', state)
  }

  // --- what happens ---------------------------------------------------------------------------

  #follow() {
    const room = this.#room
    hear(room, 'member', (member) => this.#arrived(member))
    hear(room, 'member-left', ({ member, reason }) => {
      const peer = this.#peer(member)
      this.peers.delete(member.id)
      this.#fire('peer-left', { peer, reason })
      this.#finish()
    })
    for (const what of ['away', 'back', 'change']) hear(room, `member-${what}`, (member) => this.#fire(`peer-${what}`, this.#peer(member)))
    hear(room, 'track', ({ member, track }) => {
      const peer = this.#peer(member)
      this.#fire('track', { peer, track, stream: peer?.stream })
    })
    hear(room, 'chat', ({ from, text }) => this.#fire('chat', { peer: this.#peer(from), text }))
    hear(room, 'message', ({ from, data }) => this.#fire('message', { peer: from && this.#peer(from), data }))
    hear(room, 'trouble', (error) => this.#fire('trouble', error))
    hear(room, 'closed', (end) => this.#closed(end))
    room.signaling.addEventListener('state', () => {
      const { state } = room.signaling
      if (state === 'closed') return // `closed` follows
      this.#setState(state === 'joined' ? 'joined' : this.id ? 'reconnecting' : 'connecting')
    })
  }

  /** @param {Member} member */
  #arrived(member) {
    const peer = new Peer(member)
    this.peers.set(member.id, peer)
    const { files } = member.call
    hear(files, 'file', (file) => this.#fire('file', { peer, ...file }))
    for (const type of ['progress', 'failed']) hear(files, type, (file) => this.#fire(`file-${type}`, { peer, ...file }))
    this.#fire('peer', peer)
  }

  /** @param {Member} member */
  #peer(member) {
    return this.peers.get(member.id)
  }

  /**
   * @param {string} type
   * @param {unknown} [detail]
   */
  #fire(type, detail) {
    if (this.#early) this.#early.push({ type, detail })
    else fire(this, type, detail)
  }

  #measureLater() {
    if (this.#state !== 'closed') this.#timers.set('measure', MEASURE, () => this.#measure().catch((error) => this.#fire('trouble', error)))
  }

  async #measure() {
    const { summarize } = await import('./stats.js')
    for (const peer of this.peers.values()) {
      if (peer.state !== 'connected') continue
      const report = await peer.call.getStats()
      const stats = summarize(peer.stats, report, this.#clock.now())
      const changed = stats.quality !== peer.quality
      peer.stats = stats
      peer.quality = stats.quality
      if (changed) this.#fire('peer-change', peer)
    }
    this.#measureLater()
  }

  // --- media ----------------------------------------------------------------------------------

  async #openMedia() {
    const { media } = this.#options
    if (!media || this.#over.signal.aborted) return
    if (media !== true && 'getTracks' in media) this.#given = media
    else if (media !== true && 'ensure' in media) this.#adopt(media)
    else await this.#openDevices(media === true ? { audio: true, video: true } : media)
    await this.#mediaChanged()
  }

  /** @param {{ audio?: boolean, video?: boolean }} wanted */
  async #openDevices(wanted) {
    const media = await this.#localMedia()
    const kinds = /** @type {const} */ (['audio', 'video']).filter((kind) => wanted[kind])
    await media.open(kinds)
    if (this.#over.signal.aborted) return media.close()
    const [kind] = kinds
    if (kind && !kinds.some((each) => media.track(each))) throw await problemOf(media, kind)
  }

  /** Device code is loaded when it is first needed. */
  async #localMedia() {
    if (this.media) return this.media
    const { LocalMedia } = await loadMedia()
    if (this.media) return this.media
    this.#ownsMedia = true
    return this.#adopt(new LocalMedia())
  }

  /** @param {LocalMedia} media */
  #adopt(media) {
    this.media = media
    media.addEventListener('change', () => this.#mediaChanged(), { signal: this.#over.signal })
    return media
  }

  /** @param {Kind} kind */
  #track(kind) {
    return this.media?.track(kind) ?? this.#given?.getTracks().find((t) => t.kind === kind && t.readyState === 'live')
  }

  /**
   * @param {Kind} kind
   * @param {boolean} on
   */
  async #switch(kind, on) {
    const track = this.#track(kind)
    if (track && (kind === 'audio' || this.#given?.getTracks().includes(track))) track.enabled = on
    else if (on) {
      const media = await this.#localMedia()
      if (!(await media.ensure(kind))) throw await problemOf(media, kind)
    } else this.media?.stop(kind)
    await this.#mediaChanged()
  }

  /** Everybody gets what there is to send now, and is told what it is. */
  async #mediaChanged() {
    if (this.#over.signal.aborted) return
    const [audio, video] = [this.#track('audio'), this.#track('video')]
    const screen = video !== undefined && video === this.media?.screen
    this.#room.setMedia({ audio: audio?.enabled === true, video: video?.enabled === true, screen })
    this.#fire('media')
    try {
      await Promise.all([this.#sendTrack('audio', audio), this.#sendTrack('video', video)])
    } catch (error) {
      this.#fire('trouble', error)
    }
  }

  /**
   * @param {Kind} kind
   * @param {MediaStreamTrack | undefined} track
   */
  async #sendTrack(kind, track) {
    if (this.#sending.get(kind) === track) return
    this.#sending.set(kind, track)
    await this.#room.setTrack(kind, track ?? null)
  }
}

const loadMedia = () => needed(import('./media.js'))

/**
 * @param {LocalMedia} media
 * @param {Kind} kind
 */
async function problemOf(media, kind) {
  const { mediaError } = await loadMedia()
  return mediaError(media.problems.get(kind))
}

/** @param {unknown} error */
function asClientError(error) {
  if (error instanceof ClientError) return error
  const insecure = error instanceof Error && error.name === 'SecurityError' // ws: on a page of https:
  return new ClientError(insecure ? 'insecure' : 'failed', undefined, { cause: error })
}

/**
 * The address of the server's WebSocket; http: becomes ws:, and https: wss:.
 * @param {string | URL} url
 */
function socketAddress(url) {
  const base = globalThis.document?.baseURI
  if (!URL.canParse(String(url), base)) throw new ClientError('bad-url')
  const address = new URL(String(url), base)
  address.protocol = address.protocol.replace(/^http/, 'ws')
  address.hash = ''
  if (!/^wss?:$/.test(address.protocol)) throw new ClientError('bad-url')
  return address.href
}

/** @returns {Exclude<ConnectOptions['page'], false>} */
function thisPage() {
  const { window, document, navigator } = globalThis
  if (!window || !document) return undefined
  const connection = /** @type {{ connection?: EventTarget }} */ (/** @type {unknown} */ (navigator)).connection
  return { window, document, connection }
}
