// @ts-check
/**
 * The inspector's memory: every envelope between this page and the server, and what the connections
 * to the others made of them, in the order of time. It knows nothing of the page.
 *
 * Secrets never get in: an entry is a masked copy from the moment it is made.
 */
import { readCandidate } from './explain-sdp.js'

/** @import { Call } from '../call.js' */
/** @import { Room } from '../room.js' */
/** @import { SignalingClient } from '../signaling.js' */

/** Entries that are kept, the newest ones. */
export const MAX_ENTRIES = 500
/** Bytes of envelopes that are kept: what a flood of large messages may cost in memory. */
export const MAX_BYTES = 4 << 20
/** How long slow motion holds each envelope that goes out, in milliseconds. */
export const SLOW_MOTION = 1000
/** What stands in place of a secret. */
export const MASK = '•••'

/** Members whose values are secrets, wherever they stand in an envelope. */
const SECRETS = new Set(['session', 'replaces', 'token', 'credential', 'password', 'authorization', 'ice-pwd', 'icepwd'])
/** Lines of a description that hold a key: the password of its ICE checks, and SDES. */
const SECRET_LINES = /^(a=(?:ice-pwd|crypto):)[^\r\n]*/gim
/** A room's name from this length on is masked in the download wherever it stands: a shorter one is part of other words. */
const ROOM_AS_KEY = 8
/** Nesting beyond this is cut off: the protocol allows 64. */
const MAX_DEPTH = 64

/**
 * `out` and `in` are envelopes, `note` is something that happened in this browser.
 * @typedef {'out' | 'in' | 'note'} Lane
 *
 * What an entry belongs to, for filters and colours.
 * @typedef {'room' | 'description' | 'candidate' | 'message' | 'alive' | 'error' | 'state'} Group
 *
 * @typedef {object} Entry
 * @property {number} n  1, 2, 3 … for as long as the page lives
 * @property {number} at  milliseconds since 1970
 * @property {Lane} lane
 * @property {string} type  of the envelope, or what the note is about: `ice`, `connection`, `signaling` …
 * @property {Group} group
 * @property {string} [from]  id of the peer that sent it
 * @property {string} [to]  id of the peer that it is for
 * @property {number} bytes  on the wire; 0 for a note
 * @property {any} message  the envelope, masked; for a note its facts
 * @property {string} sentence  key of what it is for, in plain words
 * @property {Record<string, string | number>} values  for that sentence
 * @property {string} [peer]  id of the peer whom it concerns
 * @property {number} [slot]  the peer's lane in the diagram, from 0
 * @property {boolean} [relayed]  the server passes it on, to or from a peer
 *
 * A peer as the diagram shows it: its lane stays the same, and is taken again after it has left.
 * @typedef {{ id: string, name: string, slot: number, present: boolean }} Lifeline
 */

/** @type {Record<string, Group>} */
const GROUPS = {
  join: 'room',
  joined: 'room',
  leave: 'room',
  left: 'room',
  'peer-joined': 'room',
  'peer-away': 'room',
  'peer-back': 'room',
  'peer-left': 'room',
  'ice-servers': 'room',
  offer: 'description',
  answer: 'description',
  candidate: 'candidate',
  message: 'message',
  ack: 'alive',
  ping: 'alive',
  pong: 'alive',
  report: 'alive',
  error: 'error',
}
/** @type {Group[]} every group, in the order of the filters */
export const ALL_GROUPS = ['room', 'description', 'candidate', 'message', 'alive', 'error', 'state']

const RELAYED = new Set(['offer', 'answer', 'candidate', 'message'])

/**
 * A copy without secrets: session keys, tokens, relay credentials and ICE passwords.
 * @param {unknown} value
 * @param {string} [name]  of the member that has this value
 * @param {boolean} [inServer]  inside an RTCIceServer, where `username` is part of the credentials
 * @param {number} [depth]
 * @returns {any}
 */
export function mask(value, name = '', inServer = false, depth = 0) {
  if (SECRETS.has(name.toLowerCase()) || (inServer && name === 'username')) return value === undefined ? undefined : MASK
  if (typeof value === 'string') return value.replace(SECRET_LINES, `$1${MASK}`)
  if (typeof value !== 'object' || value === null) return value
  if (depth >= MAX_DEPTH) return '…'
  if (Array.isArray(value)) return value.map((item) => mask(item, '', inServer, depth + 1))
  const within = inServer || 'urls' in value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, mask(item, key, within || key === 'iceServers', depth + 1)]),
  )
}

/**
 * Fires:
 * - `entry` Entry: something was added; `held` Entry: the same while it is paused
 * - `change`: everything may be different (cleared, resumed, another lane, slow motion)
 */
export class Inspector extends EventTarget {
  /** @type {Entry[]} */
  #entries = []
  #bytes = 0
  #count = 0
  /** When the first entry since the last `clear` was made, in milliseconds since 1970. */
  begun = 0
  #paused = false
  #slow = false
  /** @type {Map<string, Lifeline>} */
  #peers = new Map()
  /** @type {Map<string, string>} the last ICE user fragment that each side used: a new one is an ICE restart */
  #ufrags = new Map()
  #joins = 0
  /** @type {Set<string>} every room that was joined, or asked for */
  #rooms = new Set()
  /** @type {SignalingClient | undefined} */
  #signaling
  /** @type {AbortController | undefined} ends the listeners on #signaling */
  #watching
  /** @type {WeakSet<Call>} */
  #calls = new WeakSet()
  #now

  /** @param {{ now?: () => number }} [options]  `now`: milliseconds since 1970 */
  constructor({ now = () => Date.now() } = {}) {
    super()
    this.#now = now
  }

  /** @returns {readonly Entry[]} oldest first, at most MAX_ENTRIES */
  get entries() {
    return this.#entries
  }

  /** @returns {Lifeline[]} one a lane: who has it now, or had it last */
  get lifelines() {
    /** @type {Lifeline[]} */
    const lanes = []
    for (const peer of this.#peers.values()) lanes[peer.slot] = peer
    return lanes
  }

  get paused() {
    return this.#paused
  }

  get slow() {
    return this.#slow
  }

  // --- what it watches ------------------------------------------------------------------------

  /**
   * Watches a client from now on, instead of the one before.
   * @param {SignalingClient} signaling
   */
  watch(signaling) {
    this.#watching?.abort()
    this.#watching = new AbortController()
    const { signal } = this.#watching
    this.#signaling = signaling
    this.#joins = 0
    this.#peers.clear()
    this.#ufrags.clear()
    this.#applySlow()
    /** @param {string} type @param {(detail: any) => void} handle */
    const on = (type, handle) =>
      signaling.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail), { signal })
    on('envelope', (envelope) => this.#envelope(envelope))
    on('state', (state) => this.#signalState(state))
  }

  /**
   * Watches a room: its client, and the call with each member.
   * @param {Room} room
   */
  watchRoom(room) {
    this.watch(room.signaling)
    const signal = this.#watching?.signal
    room.addEventListener(
      'member',
      (event) => {
        const { id, call } = /** @type {CustomEvent} */ (event).detail
        this.watchCall(id, call)
      },
      { signal },
    )
    for (const { id, call } of room.members.values()) this.watchCall(id, call)
  }

  /**
   * Notes what becomes of a call. Watching it twice is watching it once.
   * @param {string} peerId
   * @param {Call} call
   */
  watchCall(peerId, call) {
    if (this.#calls.has(call)) return
    this.#calls.add(call)
    const over = new AbortController()
    let connection = new AbortController()
    const { signal } = over
    this.#watchConnection(peerId, call.pc, connection.signal)
    call.addEventListener('channel', () => this.#note(peerId, 'channel', 'open', {}), { signal })
    call.addEventListener(
      'rebuilt',
      () => {
        connection.abort()
        connection = new AbortController()
        this.#note(peerId, 'call', 'rebuilt', {})
        this.#watchConnection(peerId, call.pc, connection.signal)
      },
      { signal },
    )
    call.addEventListener(
      'state',
      () => {
        if (call.state === 'unanswered' || call.state === 'blocked') this.#note(peerId, 'call', call.state, {})
        if (call.state !== 'closed') return
        this.#note(peerId, 'call', 'closed', {})
        connection.abort()
        over.abort()
      },
      { signal },
    )
  }

  /**
   * @param {string} peerId
   * @param {RTCPeerConnection} pc
   * @param {AbortSignal} signal
   */
  #watchConnection(peerId, pc, signal) {
    /** @param {string} event @param {string} type @param {() => string} state */
    const on = (event, type, state) =>
      pc.addEventListener(event, () => state() !== 'new' && this.#note(peerId, type, state(), {}), { signal })
    on('signalingstatechange', 'signaling', () => pc.signalingState)
    on('icegatheringstatechange', 'gathering', () => pc.iceGatheringState)
    on('iceconnectionstatechange', 'ice', () => pc.iceConnectionState)
    on('connectionstatechange', 'connection', () => pc.connectionState)
    pc.addEventListener('connectionstatechange', () => pc.connectionState === 'connected' && this.#path(peerId, pc, signal), { signal })
    pc.addEventListener('track', ({ track }) => this.#note(peerId, 'track', track.kind, {}), { signal })
    pc.addEventListener(
      'icecandidateerror',
      ({ errorCode, errorText, url }) =>
        this.#note(peerId, 'candidate-error', 'failed', { code: errorCode, text: errorText, url: url ?? '' }),
      { signal },
    )
  }

  /**
   * Notes which pair of candidates was chosen.
   * @param {string} peerId
   * @param {RTCPeerConnection} pc
   * @param {AbortSignal} signal
   */
  async #path(peerId, pc, signal) {
    try {
      const path = chosenPath(await pc.getStats())
      if (path && !signal.aborted) this.#note(peerId, 'path', path.relayed ? 'relay' : 'direct', path)
    } catch {
      // A connection that has just been closed tells nothing any more.
    }
  }

  // --- what it says ---------------------------------------------------------------------------

  /** The view stands still; everything is still kept. */
  pause() {
    if (this.#paused) return
    this.#paused = true
    this.dispatchEvent(new Event('change'))
  }

  resume() {
    if (!this.#paused) return
    this.#paused = false
    this.dispatchEvent(new Event('change'))
  }

  /**
   * Slow motion: each envelope that goes out is held for a second.
   * @param {boolean} on
   */
  setSlow(on) {
    this.#slow = on
    this.#applySlow()
    this.dispatchEvent(new Event('change'))
  }

  clear() {
    this.#entries = []
    this.#bytes = 0
    this.dispatchEvent(new Event('change'))
  }

  /**
   * Everything that is kept, as JSON text to be saved. Secrets are masked in it, and so are the names of
   * rooms: whoever knows one that nobody can guess is let in by it.
   * @param {(key: string, values: Record<string, string | number>) => string} [words]  puts a sentence in words
   */
  export(words) {
    const entries = this.#entries.map(({ n, at, lane, type, from, to, bytes, message, sentence, values }) => ({
      n,
      at: new Date(at).toISOString(),
      lane,
      type,
      from,
      to,
      bytes,
      says: words ? words(sentence, 'room' in values ? { ...values, room: MASK } : values) : sentence,
      message,
    }))
    const saved = new Date(this.#now()).toISOString()
    return JSON.stringify({ format: 'duet-inspector', version: 1, saved, entries }, withoutRooms(this.#rooms), 2)
  }

  #applySlow() {
    if (this.#signaling) this.#signaling.delay = this.#slow ? SLOW_MOTION : 0
  }

  // --- envelopes ------------------------------------------------------------------------------

  /** @param {{ direction: 'in' | 'out', message: unknown, bytes: number }} envelope */
  #envelope({ direction, message, bytes }) {
    // What is no JSON cannot be looked through.
    const m = typeof message === 'object' && message !== null ? mask(message) : MASK
    const type = text(m.type) ?? 'unknown'
    this.#follow(direction, type, m)
    const peer = m.from ?? m.to ?? m.peer?.id
    const { key, values } = sentenceOf(direction, type, m, { joins: this.#joins, description: this.#descriptionKind(direction, type, m) })
    this.#add({
      lane: direction,
      type,
      group: (Object.hasOwn(GROUPS, type) && GROUPS[type]) || 'message',
      from: text(m.from),
      to: text(m.to),
      bytes,
      message: m,
      sentence: key,
      values: { name: this.#nameOf(peer), ...values },
      peer: text(peer),
      relayed: RELAYED.has(type),
    })
    if (type === 'peer-left') this.#left(peer)
  }

  /**
   * Keeps account of who is there.
   * @param {'in' | 'out'} direction
   * @param {string} type
   * @param {any} m
   */
  #follow(direction, type, m) {
    if (direction === 'out') {
      if (type === 'join') {
        this.#joins++
        this.#rooms.add(String(m.room))
      }
      return
    }
    if (type === 'joined' && Array.isArray(m.peers)) {
      const here = new Set(m.peers.map((/** @type {any} */ peer) => peer?.id))
      for (const { id } of [...this.#peers.values()]) if (!here.has(id)) this.#left(id)
      for (const peer of m.peers) this.#arrived(peer)
    }
    if (type === 'peer-joined') this.#arrived(m.peer)
  }

  /** @param {any} peer */
  #arrived(peer) {
    const id = text(peer?.id)
    if (!id) return
    const known = this.#peers.get(id)
    const slot = known?.slot ?? this.#freeSlot()
    for (const other of [...this.#peers.values()]) if (other.slot === slot && other.id !== id) this.#peers.delete(other.id)
    this.#peers.set(id, { id, name: text(peer.name) ?? '', slot, present: true })
    this.dispatchEvent(new Event('change'))
  }

  #freeSlot() {
    const taken = new Set([...this.#peers.values()].filter((peer) => peer.present).map((peer) => peer.slot))
    let slot = 0
    while (taken.has(slot)) slot++
    return slot
  }

  /** @param {unknown} id */
  #left(id) {
    const peer = this.#peers.get(String(id))
    if (peer) peer.present = false
    this.#ufrags.delete(`in ${id}`)
    this.#ufrags.delete(`out ${id}`)
  }

  /** @param {unknown} id */
  #nameOf(id) {
    return this.#peers.get(String(id))?.name ?? ''
  }

  /**
   * Whether a description is the first one to or from this peer, an ICE restart, or a change of what
   * is sent. The user fragment tells.
   * @param {'in' | 'out'} direction
   * @param {string} type
   * @param {any} m
   * @returns {'first' | 'restart' | 'again'}
   */
  #descriptionKind(direction, type, m) {
    if (type !== 'offer' && type !== 'answer') return 'first'
    const ufrag = /^a=ice-ufrag:(\S+)/m.exec(String(m.sdp))?.[1] ?? ''
    const whose = `${direction} ${m.from ?? m.to}`
    const before = this.#ufrags.get(whose)
    this.#ufrags.set(whose, ufrag)
    if (before === undefined) return 'first'
    return before === ufrag ? 'again' : 'restart'
  }

  // --- notes ----------------------------------------------------------------------------------

  /** @param {{ state: string, retryIn?: number, code?: number }} detail */
  #signalState({ state, retryIn, code }) {
    if (state === 'waiting') {
      this.#note(undefined, 'socket', state, { seconds: Math.round((retryIn ?? 0) / 100) / 10, code: code ?? 1006 })
    } else if (state === 'connecting' || state === 'closed') {
      this.#note(undefined, 'socket', state, {})
    }
  }

  /**
   * @param {string | undefined} peer
   * @param {string} type
   * @param {string} state
   * @param {Record<string, any>} facts
   */
  #note(peer, type, state, facts) {
    this.#add({
      lane: 'note',
      type,
      group: 'state',
      bytes: 0,
      message: { state, ...facts },
      sentence: `inspector.note.${type}-${state}`,
      values: { name: this.#nameOf(peer), ...facts },
      peer,
    })
  }

  /** @param {Omit<Entry, 'n' | 'at' | 'slot'>} entry */
  #add(entry) {
    const slot = entry.peer === undefined ? undefined : this.#peers.get(entry.peer)?.slot
    /** @type {Entry} */
    const made = { n: ++this.#count, at: this.#now(), ...entry, slot }
    if (this.#entries.length === 0) this.begun = made.at
    this.#entries.push(made)
    this.#bytes += made.bytes
    while (this.#entries.length > MAX_ENTRIES || (this.#bytes > MAX_BYTES && this.#entries.length > 1)) {
      this.#bytes -= this.#entries.shift()?.bytes ?? 0
    }
    this.dispatchEvent(new CustomEvent(this.#paused ? 'held' : 'entry', { detail: made }))
  }
}

/**
 * What an envelope is for: the key of its sentence, and what to fill in.
 * @param {'in' | 'out'} direction
 * @param {string} type
 * @param {any} m  masked
 * @param {{ joins: number, description: 'first' | 'restart' | 'again' }} context
 * @returns {{ key: string, values?: Record<string, string | number> }}
 */
function sentenceOf(direction, type, m, { joins, description }) {
  const key = `inspector.${direction}.${type}`
  switch (type) {
    case 'join':
      if (joins > 1) return { key: `${key}-again` }
      return { key: m.replaces === undefined ? key : `${key}-reload`, values: { room: text(m.room) ?? '' } }
    case 'joined': {
      const count = m.peers?.length ?? 0
      if (m.resumed) return { key: `${key}-resumed` }
      if (joins > 1) return { key: `${key}-anew` }
      return { key: `${key}-${count === 0 ? 'alone' : 'others'}`, values: { count } }
    }
    case 'offer':
    case 'answer':
      return { key: description === 'first' ? key : `${key}-${description}` }
    case 'candidate':
      return { key: `${key}-${m.candidate?.candidate ? (readCandidate(m.candidate.candidate)?.kind ?? 'host') : 'end'}` }
    case 'peer-left':
      return { key: `${key}-${REASONS.has(m.reason) ? m.reason : 'error'}` }
    case 'error':
      return { key: ERRORS.has(m.code) ? `${key}-${m.code}` : key, values: { what: text(m.for) ?? '', message: text(m.message) ?? '' } }
    case 'ack':
      return { key, values: { received: Number(m.received) || 0 } }
    default:
      return { key: Object.hasOwn(GROUPS, type) ? key : `inspector.${direction}.unknown`, values: { type } }
  }
}

const REASONS = new Set(['left', 'timeout', 'replaced', 'kicked', 'overflow', 'error'])
/** Error codes with a sentence of their own; the others show what the server says. */
const ERRORS = new Set(['room-full', 'no-peer', 'busy', 'rate-limited', 'out-of-sync'])

/**
 * For JSON.stringify: masks members called `room`, and the longer ones of these names in any other text,
 * also as they stand in a link.
 * @param {Iterable<string>} rooms
 */
function withoutRooms(rooms) {
  const names = [...rooms].filter((room) => room.length >= ROOM_AS_KEY).flatMap((room) => [room, encodeURIComponent(room)])
  return (/** @type {string} */ key, /** @type {unknown} */ value) => {
    if (key === 'room') return MASK
    return typeof value === 'string' ? names.reduce((all, name) => all.replaceAll(name, MASK), value) : value
  }
}

/** @param {unknown} value */
const text = (value) => (typeof value === 'string' ? value : undefined)

/**
 * The pair of candidates over which a connection runs. Chromium names it in the transport's report,
 * Firefox marks the pair.
 * @param {RTCStatsReport} report
 */
function chosenPath(report) {
  const all = [...report.values()]
  const id = all.find((s) => s.type === 'transport' && s.selectedCandidatePairId)?.selectedCandidatePairId
  const pair = id ? report.get(id) : all.find((s) => s.type === 'candidate-pair' && s.selected)
  const local = report.get(pair?.localCandidateId)
  const remote = report.get(pair?.remoteCandidateId)
  if (!local || !remote) return undefined
  return {
    local: String(local.candidateType),
    remote: String(remote.candidateType),
    protocol: String(local.protocol).toUpperCase(),
    relayed: local.candidateType === 'relay' || remote.candidateType === 'relay',
  }
}
