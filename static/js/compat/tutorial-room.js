// @ts-check
/** The part of a tutorial's server, played in the page: what compat/socket-io.js loads. */
import { ClientError, errorOfEnd } from '../errors.js'
import { socketURL } from '../protocol.js'
import { TabSession } from '../session.js'
import { followPage, newSessionKey, SignalingClient } from '../signaling.js'
import { realClock, Timers } from '../timers.js'

/** @import { Joined, PeerMessage, RoomMessage } from '../protocol.js' */
/** @import { End, SignalingOptions } from '../signaling.js' */

/** What only the server says: from a peer it is not believed. */
const SERVERS = ['connect', 'connect_error', 'disconnect', 'reconnecting', 'reconnect', 'error',
  'created', 'join', 'joined', 'otherjoin', 'leaved', 'bye', 'full']
/** An event and its arguments fit into this many bytes of JSON: a message into 64 KiB. */
const MAX_BYTES = 65_000

const tab = await TabSession.open({ storage: storageOfTab(), locks: navigator.locks, newTab: () => newSessionKey() })

/** Browsers that keep nothing for a page throw on the mere access. */
function storageOfTab() {
  try {
    return sessionStorage
  } catch {
    return undefined
  }
}

/**
 * One stay in one room, from the join on. With `counts` (after `create or join`) the newcomer hears
 * `created` or `joined`, those inside `join`, and all of them `ready`; otherwise (after `join`) they hear
 * `joined` and `otherjoin`. Whoever goes, the others hear `bye`; where no seat is free one hears `full`.
 * What others emit is heard as it is. A connection that is lost and comes back loses nothing:
 * `reconnecting` and `reconnect` tell of it. `disconnect` means that the server has ended it.
 */
export class TutorialRoom {
  #name
  #counts
  #hear
  #signaling
  #joined
  #over = new AbortController()
  #timers
  /** @type {string | undefined} as whom the others know us */
  #id
  /** @type {Set<string>} */
  #others = new Set()
  /** @type {Set<string>} of them, who may still come back after a restart of the server */
  #missing = new Set()

  /**
   * @param {object} options
   * @param {string} options.page  URL of duet's page
   * @param {string} options.room
   * @param {boolean} options.counts
   * @param {(event: string, ...args: any[]) => void} options.hear
   * @param {Partial<SignalingOptions>} [options.signaling]
   */
  constructor({ page, room, counts, hear, signaling }) {
    const { signal } = this.#over
    this.#name = room
    this.#counts = counts
    this.#hear = hear
    this.#timers = new Timers(signaling?.clock ?? realClock)
    const replaces = tab.memory.room === room ? tab.memory.key : undefined // an earlier load of this page
    this.#signaling = new SignalingClient({ url: socketURL(page), replaces, ...signaling, room })
    this.#joined = new Promise((resolve) => this.#signaling.addEventListener('joined', resolve, { signal }))
    this.#remember(this.#signaling.session)
    this.#on('session', (key) => this.#remember(key))
    this.#on('state', ({ state }) => state === 'waiting' && this.#waiting(page))
    this.#on('joined', (m) => this.#arrived(m))
    this.#on('message', (m) => this.#receive(m))
    this.#on('refused', (error) => this.#refused(error))
    this.#on('closed', (end) => this.#closed(end))
    const { connection } = /** @type {{ connection?: EventTarget }} */ (/** @type {unknown} */ (navigator))
    followPage(this.#signaling, { window, document, connection, signal })
    this.#signaling.connect()
  }

  get name() {
    return this.#name
  }

  /** Whether it has ended, by either side. */
  get over() {
    return this.#over.signal.aborted
  }

  /**
   * Sends an event to everybody else. Before the join is answered it waits.
   * @param {string} event
   * @param {unknown[]} args
   */
  async send(event, args) {
    const data = { event, args }
    if (new TextEncoder().encode(JSON.stringify(data)).length > MAX_BYTES) return this.#hear('error', new ClientError('too-big'))
    await this.#joined
    if (!this.#signaling.send({ type: 'message', data }) && !this.over) this.#hear('error', new ClientError('busy'))
  }

  /** Nothing of it is heard any more. */
  leave() {
    this.#end()
    this.#signaling.leave()
  }

  /** @param {Joined} m */
  #arrived({ id, peers, resumed, grace }) {
    const here = peers.map((peer) => peer.id)
    if (this.#id !== id) return this.#startAs(id, here)
    this.#hear('reconnect', this.#name, id)
    if (resumed) return // who came and went meanwhile is told one by one
    for (const other of this.#others) if (!here.includes(other)) this.#missing.add(other)
    this.#timers.set('missing', 1000 * grace, () => this.#missing.forEach((other) => this.#left(other)))
    for (const other of here) this.#came(other)
  }

  /**
   * The first time, or as somebody new to the others.
   * @param {string} id
   * @param {string[]} here
   */
  #startAs(id, here) {
    for (const other of this.#others) this.#left(other)
    this.#others = new Set(here)
    this.#id = id
    this.#hear(this.#counts && here.length === 0 ? 'created' : 'joined', this.#name, id)
    if (this.#counts && here.length > 0) this.#hear('ready', this.#name, id)
  }

  /** @param {RoomMessage | PeerMessage} m */
  #receive(m) {
    if (m.type === 'peer-joined') this.#came(m.peer.id)
    else if (m.type === 'peer-left') this.#left(m.peer.id)
    else if (m.type === 'message') {
      const { event, args } = /** @type {{ event?: unknown, args?: unknown }} */ (m.data ?? {})
      if (typeof event === 'string' && !SERVERS.includes(event) && Array.isArray(args)) this.#hear(event, ...args)
    }
  }

  /** @param {string} id */
  #came(id) {
    this.#missing.delete(id)
    if (this.#others.has(id)) return // the same page: its call goes on
    this.#others.add(id)
    for (const event of this.#counts ? ['join', 'ready'] : ['otherjoin']) this.#hear(event, this.#name, id)
  }

  /** @param {string} id */
  #left(id) {
    this.#missing.delete(id)
    if (this.#others.delete(id)) this.#hear('bye', this.#name, id)
  }

  /** @param {string} page */
  #waiting(page) {
    if (this.#id !== undefined) return this.#hear('reconnecting', this.#name, this.#id)
    this.#hear('connect_error', new ClientError('unreachable',
      `${page} does not answer. Does duet run there, and does its DUET_ALLOWED_ORIGINS name ${location.origin}? Trying again.`))
  }

  /**
   * A tutorial's server says nothing when nobody is there; the other two go out later by themselves.
   * @param {{ code: string, message?: string }} error
   */
  #refused({ code, message }) {
    if (!['no-peer', 'busy', 'rate-limited'].includes(code)) this.#hear('error', new ClientError(code, message))
  }

  /** @param {End} end */
  #closed(end) {
    this.#end()
    if (end.error?.code === 'room-full') this.#hear('full', this.#name)
    else if (end.error) this.#hear('error', errorOfEnd(end))
    else if (end.why === 'closed') this.#hear('disconnect', 'io server disconnect')
  }

  #end() {
    this.#over.abort()
    this.#timers.cancelAll()
  }

  /** @param {string} key */
  #remember(key) {
    tab.remember({ room: this.#name, key })
  }

  /**
   * @param {string} type
   * @param {(detail: any) => void} handle
   */
  #on(type, handle) {
    const { signal } = this.#over
    this.#signaling.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail), { signal })
  }
}
