// @ts-check
/**
 * The wire protocol, version 1, as a client sees it (docs/protocol.md): message types, the check of
 * what arrives, and what each close code asks of a client.
 */

/**
 * A member of the room other than oneself.
 * @typedef {{ id: string, name?: string, away?: boolean }} Peer
 *
 * Relayed messages, as received. `from` is the server's word.
 * @typedef {{ type: 'offer' | 'answer', from: string, sdp: string, seq?: number }} DescriptionMessage
 * @typedef {{ type: 'candidate', from: string, candidate: RTCIceCandidateInit | null, seq?: number }} CandidateMessage
 * @typedef {{ type: 'message', from: string, data: unknown, seq?: number }} DataMessage
 * @typedef {DescriptionMessage | CandidateMessage | DataMessage} PeerMessage
 *
 * @typedef {'left' | 'timeout' | 'replaced' | 'kicked' | 'overflow' | 'error'} LeaveReason
 * @typedef {{ type: 'peer-joined', peer: Peer, seq?: number }} PeerJoined
 * @typedef {{ type: 'peer-away', peer: Peer, seq?: number }} PeerAway
 * @typedef {{ type: 'peer-back', peer: Peer, seq?: number }} PeerBack
 * @typedef {{ type: 'peer-left', peer: Peer, reason: LeaveReason, seq?: number }} PeerLeft
 * @typedef {PeerJoined | PeerAway | PeerBack | PeerLeft} RoomMessage
 *
 * @typedef {object} Joined
 * @property {'joined'} type
 * @property {string} room
 * @property {string} id  one's own id
 * @property {Peer[]} peers  earliest first, without oneself
 * @property {boolean} resumed  the same seat as before, with its counters
 * @property {number} received  the last `seq` of ours that the server handled
 * @property {number} grace  seconds a lost connection keeps its seat
 * @property {RTCIceServer[]} iceServers
 *
 * @typedef {object} ErrorMessage
 * @property {'error'} type
 * @property {string} code
 * @property {string} message  for people
 * @property {string} [for]  the type of the message it answers
 * @property {number} [ref]  that message's `seq`
 * @property {number} [retryAfter]  seconds
 * @property {number} [seq]
 *
 * @typedef {{ type: 'left', room: string, seq?: number }} Left
 * New credentials for the relay, before the old ones expire.
 * @typedef {{ type: 'ice-servers', iceServers: RTCIceServer[], seq?: number }} IceServers
 * @typedef {{ type: 'ack', received: number, seq?: undefined }} Ack
 * @typedef {{ type: 'pong', seq?: undefined }} Pong
 * What this version does not know, or cannot read. It counts where it carries a `seq`.
 * @typedef {{ type: 'unknown', seq?: number }} Unknown
 *
 * @typedef {PeerMessage | RoomMessage | (Joined & { seq?: undefined }) | ErrorMessage | Left | IceServers | Ack | Pong | Unknown} ServerMessage
 *
 * What a client relays. Without `to` it goes to everybody else in the room.
 * @typedef {{ type: 'offer' | 'answer', sdp: string, to?: string }
 *   | { type: 'candidate', candidate: RTCIceCandidateInit | null, to?: string }
 *   | { type: 'message', data: unknown, to?: string }} OutMessage
 */

/** The WebSocket subprotocol (section 1). */
export const SUBPROTOCOL = 'duet.v1'

/** Close codes that a client sends (section 7). */
export const CLOSE = Object.freeze({ normal: 1000, outOfSync: 4002, reconnecting: 4100 })

/**
 * What to do after a connection ended with `code` (section 7): `resume` the seat, come back as a
 * `new-session`, or `end` for good.
 * @param {number} code
 * @returns {'resume' | 'new-session' | 'end'}
 */
export function afterClose(code) {
  if (code === CLOSE.outOfSync) return 'new-session'
  if (code >= 4500) return 'end'
  return [1002, 1003, 1007, 1008, 1009, 1010].includes(code) ? 'end' : 'resume'
}

/**
 * The `join` errors that another try does not change. All others are worth one.
 * @param {string} code
 */
export function joinIsHopeless(code) {
  return ['room-full', 'unauthorized', 'forbidden', 'bad-message', 'unknown-type'].includes(code)
}

/**
 * Where the WebSocket of the page at `base` is: `ws` next to it, so that a sub-path behind a proxy
 * works. Query and fragment do not matter.
 * @param {string} base  an absolute http: or https: URL, such as document.baseURI
 */
export function socketURL(base) {
  const url = new URL('ws', base)
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
  return url.href
}

/**
 * The bytes of a text in UTF-8.
 * @param {unknown} text
 */
export const sizeOf = (text) => new TextEncoder().encode(String(text)).length

const CONTROL = /\p{Cc}/u
const BIDI_OVERRIDE = /[\u202a-\u202e\u2066-\u2069]/u

/**
 * Whether the server takes `room` as a room's name (section 2): 1 to 128 bytes of UTF-8, no control
 * characters, no white space at either end.
 * @param {string} room
 */
export function isRoom(room) {
  const bytes = sizeOf(room)
  return bytes >= 1 && bytes <= 128 && room === room.trim() && !CONTROL.test(room) && room.isWellFormed()
}

/**
 * Whether the server takes `name` as a peer's name (section 2): at most 64 characters, no control or
 * bidirectional-override characters.
 * @param {string} name
 */
export function isName(name) {
  return [...name].length <= 64 && !CONTROL.test(name) && !BIDI_OVERRIDE.test(name) && name.isWellFormed()
}

/** @param {unknown} v */
const isString = (v) => typeof v === 'string'
/** @param {unknown} v */
const isCount = (v) => Number.isSafeInteger(v) && /** @type {number} */ (v) >= 0
/** @param {unknown} v @returns {v is Record<string, unknown>} */
const isObject = (v) => typeof v === 'object' && v !== null && !Array.isArray(v)
/** @param {unknown} v */
const isPeer = (v) => isObject(v) && isString(v.id)
/** @param {Record<string, unknown>} m */
const isDescription = (m) => isString(m.from) && isString(m.sdp)
/** @param {Record<string, unknown>} m */
const hasPeer = (m) => isPeer(m.peer)

/** @type {Record<string, (m: Record<string, unknown>) => boolean>} */
const checks = {
  joined: (m) =>
    isString(m.room) && isString(m.id) && Array.isArray(m.peers) && m.peers.every(isPeer) &&
    typeof m.resumed === 'boolean' && isCount(m.received) && Array.isArray(m.iceServers),
  'peer-joined': hasPeer,
  'peer-away': hasPeer,
  'peer-back': hasPeer,
  'peer-left': (m) => hasPeer(m) && isString(m.reason),
  offer: isDescription,
  answer: isDescription,
  candidate: (m) => isString(m.from) && (m.candidate === null || isObject(m.candidate)),
  message: (m) => isString(m.from) && 'data' in m,
  left: (m) => isString(m.room),
  'ice-servers': (m) => Array.isArray(m.iceServers),
  ack: (m) => isCount(m.received),
  pong: () => true,
  error: (m) => isString(m.code),
}

/**
 * The value of a JSON text; undefined where it is none.
 * @param {unknown} text
 * @returns {unknown}
 */
export function parse(text) {
  try {
    return JSON.parse(String(text))
  } catch {
    return undefined
  }
}

/**
 * Reads one message of the server. What is not understood comes back as `unknown`, with its `seq`
 * where it has one: it still counts, since the protocol grows by adding.
 * @param {unknown} text
 * @returns {ServerMessage}
 */
export function decode(text) {
  const m = parse(text)
  if (!isObject(m)) return { type: 'unknown' }
  const seq = isCount(m.seq) && m.seq !== 0 ? /** @type {number} */ (m.seq) : undefined
  const type = String(m.type)
  if (!Object.hasOwn(checks, type) || !checks[type]?.(m)) return { type: 'unknown', seq }
  return /** @type {ServerMessage} */ (/** @type {unknown} */ ({ ...m, seq }))
}
