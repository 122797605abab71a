// @ts-check
/**
 * The signaling client: one seat in one room over however many connections it takes
 * (docs/protocol.md, section 5).
 */
import { Backoff } from './backoff.js'
import { Outbox } from './outbox.js'
import { afterClose, CLOSE, decode, joinIsHopeless, parse, sizeOf, SUBPROTOCOL } from './protocol.js'
import { fire, realClock, Timers } from './timers.js'

/** @import { ErrorMessage, Joined, OutMessage, ServerMessage } from './protocol.js' */
/** @import { Clock } from './timers.js' */

/** No `joined` this long after a connection was begun: it is given up. */
const JOIN_DEADLINE = 10_000
/** A `ping` is sent when nothing has come for this long. */
const IDLE = 25_000
/** A connection that stays silent this long after a `ping` is given up, without waiting for its close. */
const PONG_DEADLINE = 5_000
/** The same where a call has lost its path, or the network has changed: it takes little to come back. */
const URGENT_DEADLINE = 1_000
/** A connection counts as stable, and the waits start short again, this long after `joined`. */
const STABLE = 5_000
/** An `ack` goes out after this many counted messages, or this long after the first of them. */
const ACK_EVERY = 8
const ACK_DELAY = 1_000
/** The longest message, in bytes: 64 KiB (section 1), less what the number adds to it. */
const MAX_MESSAGE = 65_500

/**
 * Why it is over: `left` (we did), `refused` (the join, with its `error`) or `closed` (by the server).
 * @typedef {{ why: 'left' | 'refused' | 'closed', code?: number, error?: ErrorMessage }} End
 *
 * - `idle`: `connect` was not called yet
 * - `connecting`: a socket is being opened
 * - `joining`: `join` was sent
 * - `joined`: messages flow
 * - `waiting`: the connection was lost, the next one is `retryIn` milliseconds away
 * - `closed`: over for good
 * @typedef {'idle' | 'connecting' | 'joining' | 'joined' | 'waiting' | 'closed'} SignalState
 *
 * @typedef {object} Envelope
 * @property {'in' | 'out'} direction
 * @property {any} message  as parsed; a string where it is no JSON
 * @property {number} bytes  of its text in UTF-8
 * @property {number} at  milliseconds, of the client's clock
 *
 * @typedef {object} SignalingOptions
 * @property {string} url  ws: or wss:
 * @property {string} room
 * @property {string} [name]
 * @property {string} [token]
 * @property {string} [session]  the key of the seat; made here where it is left out
 * @property {string} [replaces]  the key of an earlier load of this page, whose seat is to end
 * @property {new (url: string, protocol: string) => WebSocket} [WebSocket]
 * @property {Clock} [clock]
 * @property {() => number} [random]  in [0, 1)
 * @property {(bytes: Uint8Array<ArrayBuffer>) => Uint8Array} [fill]  cryptographic randomness
 */

/**
 * A new session key: 24 random bytes as base64url, 32 characters. crypto.randomUUID is missing on
 * insecure origins.
 * @param {(bytes: Uint8Array<ArrayBuffer>) => Uint8Array} [fill]
 */
export function newSessionKey(fill = (bytes) => crypto.getRandomValues(bytes)) {
  const bytes = fill(new Uint8Array(24))
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_')
}

/**
 * Fires, each with its `detail`:
 * - `state` `{ state, retryIn?, code? }`: see SignalState
 * - `joined` Joined: on every connection. With `resumed` nothing was lost; without it the seat is new
 *   and whatever was under way is unknown
 * - `message` RoomMessage | PeerMessage | IceServers: exactly once and in order
 * - `session` string: the key has changed
 * - `refused` ErrorMessage & `{ sent? }`: the server refused a message of ours, `sent`; `busy` and
 *   `rate-limited` are tried again by themselves. `too-big` comes without a text and from here: over 64 KiB
 *   the server would end the connection (close code 1009)
 * - `envelope` Envelope: each message as it is on the wire, before it is handled. Keys, tokens and
 *   credentials are in it
 * - `closed` End
 */
export class SignalingClient extends EventTarget {
  /**
   * Slow motion, in milliseconds: each message but `ping` and `ack` is held this long before it is
   * written, in order. For whoever wants to watch.
   */
  delay = 0
  /** @type {SignalState} */
  #state = 'idle'
  /** @type {string | undefined} */
  #id
  /** @type {WebSocket | undefined} */
  #socket
  /** @type {AbortController | undefined} ends the listeners of #socket */
  #listening
  #outbox = new Outbox()
  /** The last counted message handled, and how many of them are not acknowledged. */
  #received = 0
  #unacknowledged = 0
  #attempt = 0
  /** How long a lost connection keeps its seat, in milliseconds, and until when it keeps ours. */
  #grace = 0
  #keptUntil = 0
  /** @type {number | undefined} the attempt that got us the seat whose messages we count */
  #since
  #options
  #session
  #replaces
  #WebSocket
  #clock
  #timers
  #reconnects
  #retries

  /** @param {SignalingOptions} options */
  constructor(options) {
    super()
    this.#options = options
    this.#session = options.session ?? newSessionKey(options.fill)
    this.#replaces = options.replaces
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket
    this.#clock = options.clock ?? realClock
    this.#timers = new Timers(this.#clock)
    this.#reconnects = new Backoff({ random: options.random })
    this.#retries = new Backoff({ random: options.random })
  }

  get state() {
    return this.#state
  }

  /** Our id in the room, once joined. It stays the same for as long as the session key does. */
  get id() {
    return this.#id
  }

  /** The key of the seat: a secret between this client and the server. */
  get session() {
    return this.#session
  }

  connect() {
    if (this.#state === 'idle') this.#open()
  }

  /**
   * Sends a message, or keeps it until there is a connection: at most 256 wait. `wanted` is asked just
   * before it is written; on false it is dropped. It returns false when the message was not accepted:
   * there is no seat yet or any more, too much waits, or it is longer than the server takes (`refused`
   * tells of that).
   * @param {OutMessage} message
   * @param {() => boolean} [wanted]
   */
  send(message, wanted) {
    if (this.#state === 'closed' || this.#id === undefined) return false
    if (sizeOf(JSON.stringify(message)) > MAX_MESSAGE) {
      fire(this, 'refused', { code: 'too-big', for: message.type, sent: message })
      return false
    }
    const accepted = this.#outbox.add(message, wanted, this.#clock.now() + this.delay)
    this.#flush()
    return accepted
  }

  /**
   * Tells the operator how a call fares, now or never (docs/protocol.md, section 2).
   * @param {{ state: string, path?: string, after?: number }} report
   */
  report(report) {
    if (this.#state === 'joined') this.#write({ type: 'report', ...report })
  }

  /** Gives the seat up and ends the client. Safe while a page goes away. */
  leave() {
    if (this.#state === 'closed') return
    if (this.#state === 'joined') {
      this.#outbox.release()
      this.#outbox.add({ type: 'leave' })
      this.#flush(Infinity)
    }
    this.#end({ why: 'left' }, CLOSE.normal)
  }

  /**
   * Finds out at once whether the connection still lives. Call it when the network changed or the page
   * woke up: a socket may be dead for minutes before its close comes.
   * @param {boolean} [urgent]  something else has failed already: 1 s without an answer is enough, and the
   *   next connection is begun without a wait
   */
  probe(urgent) {
    if (this.#state === 'waiting') this.#open()
    else if (this.#state === 'joined') this.#ping(urgent)
  }

  // --- one connection -------------------------------------------------------------------------

  #open() {
    this.#timers.cancel('reconnect')
    this.#listening = new AbortController()
    const { signal } = this.#listening
    const socket = (this.#socket = new this.#WebSocket(this.#options.url, SUBPROTOCOL))
    socket.addEventListener('open', () => this.#opened(), { signal })
    socket.addEventListener('message', (event) => this.#read(event.data), { signal })
    socket.addEventListener('close', (event) => this.#lost(event.code), { signal })
    this.#timers.set('join', JOIN_DEADLINE, () => this.#giveUp())
    this.#setState('connecting')
  }

  #opened() {
    if (this.delay > 0) this.#timers.set('slow', this.delay, () => this.#join())
    else this.#join()
  }

  #join() {
    const { room, name, token } = this.#options
    this.#write({
      type: 'join',
      room,
      name: name || undefined,
      token,
      session: this.#session,
      attempt: ++this.#attempt,
      since: this.#since,
      received: this.#received,
      replaces: this.#replaces,
    })
    this.#setState('joining')
  }

  /** Leaves the socket to itself: nothing it still says is heard. Its seat waits for us. */
  #giveUp() {
    this.#drop(CLOSE.reconnecting, 'reconnecting')
    this.#comeBack(1006)
  }

  /** @param {number} code  the close code of the connection that has ended */
  #lost(code) {
    this.#drop()
    const next = afterClose(code)
    if (next === 'end') return this.#end({ why: 'closed', code })
    if (next === 'new-session') this.#renew()
    this.#comeBack(code)
  }

  /** Our counters and the server's contradict each other: start again with a new seat. */
  #outOfSync() {
    this.#drop(CLOSE.outOfSync, 'out-of-sync')
    this.#renew()
    this.#comeBack(CLOSE.outOfSync)
  }

  /**
   * @param {number} code
   * @param {number} [least]  milliseconds to wait at least
   */
  #comeBack(code, least = 0) {
    if (this.#state === 'closed') return // a listener has left
    const now = this.#clock.now()
    if (this.#state === 'joined') this.#keptUntil = now + this.#grace
    // While our seat is kept, half of that time at most: there is always time for another try.
    const left = this.#keptUntil - now
    const retryIn = Math.max(least, this.#reconnects.next(left > 0 ? left / 2 : undefined))
    this.#timers.set('reconnect', retryIn, () => this.#open())
    this.#setState('waiting', { retryIn, code })
  }

  /** The next seat is another one, and takes the place of this one. */
  #renew() {
    this.#replaces = this.#session
    this.#session = newSessionKey(this.#options.fill)
    this.#attempt = 0
    this.#since = undefined
    this.#startCounting()
    fire(this, 'session', this.#session)
  }

  #startCounting() {
    this.#outbox.reset()
    this.#received = 0
  }

  /**
   * Ends this connection and everything that waits for it.
   * @param {number} [code]  to close with, where it is still open
   * @param {string} [reason]
   */
  #drop(code, reason) {
    this.#listening?.abort()
    this.#timers.cancelAll()
    this.#unacknowledged = 0
    if (code !== undefined) this.#socket?.close(code, reason)
    this.#socket = undefined
  }

  /**
   * @param {End} end
   * @param {number} [code]
   */
  #end(end, code) {
    this.#drop(code)
    this.#setState('closed')
    fire(this, 'closed', end)
  }

  // --- what arrives ---------------------------------------------------------------------------

  /** @param {unknown} text */
  #read(text) {
    const m = decode(text)
    this.#show('in', m.type === 'unknown' ? (parse(text) ?? text) : m, text)
    if (this.#state !== 'closed') this.#receive(m) // unless a listener has left
  }

  /** @param {ServerMessage} m */
  #receive(m) {
    this.#heard()
    if (m.seq !== undefined && !this.#count(m.seq)) return
    switch (m.type) {
      case 'joined':
        return this.#joined(m)
      case 'ack':
        if (!this.#outbox.acknowledge(m.received)) this.#outOfSync()
        return
      case 'error':
        return m.for === 'join' ? this.#refusedJoin(m) : this.#refused(m)
      case 'pong':
      case 'left':
      case 'unknown':
        return
      default:
        fire(this, 'message', m)
    }
  }

  /**
   * Counts a message in. It returns false for one that was handled before, or must not be: nothing
   * comes before `joined`.
   * @param {number} seq
   */
  #count(seq) {
    if (this.#state !== 'joined' || seq <= this.#received) return false
    if (seq > this.#received + 1) {
      this.#outOfSync()
      return false
    }
    this.#received = seq
    if (++this.#unacknowledged >= ACK_EVERY) this.#acknowledge()
    else if (this.#unacknowledged === 1) this.#timers.set('ack', ACK_DELAY, () => this.#acknowledge())
    return true
  }

  #acknowledge() {
    this.#timers.cancel('ack')
    this.#unacknowledged = 0
    this.#write({ type: 'ack', received: this.#received })
  }

  /** @param {Joined} m */
  #joined(m) {
    if (this.#state !== 'joining') return
    if (!m.resumed) this.#startCounting()
    else if (!this.#outbox.resume(m.received)) return this.#outOfSync()
    this.#timers.cancel('join')
    this.#timers.set('stable', STABLE, () => this.#reconnects.reset())
    if (!m.resumed || this.#since === undefined) this.#since = this.#attempt
    this.#id = m.id
    this.#grace = m.grace * 1000
    this.#replaces = undefined
    this.#setState('joined')
    if (this.state === 'closed') return // a listener has left
    this.#outbox.release()
    this.#flush()
    fire(this, 'joined', m)
  }

  /** @param {ErrorMessage} error */
  #refusedJoin(error) {
    if (joinIsHopeless(error.code)) return this.#end({ why: 'refused', error }, CLOSE.normal)
    if (error.code === 'out-of-sync') return this.#outOfSync()
    this.#drop(CLOSE.reconnecting, 'reconnecting')
    this.#comeBack(1006, (error.retryAfter ?? 0) * 1000)
  }

  /**
   * A message of ours was refused: handled, but not accepted.
   * @param {ErrorMessage} error
   */
  #refused(error) {
    const { code, ref } = error
    const sent = ref === undefined ? undefined : this.#outbox.find(ref)
    if (ref !== undefined && (code === 'busy' || code === 'rate-limited')) this.#tryAgain(ref)
    fire(this, 'refused', { ...error, sent })
  }

  /** @param {number} ref */
  #tryAgain(ref) {
    if (!this.#outbox.hold(ref) || this.#timers.has('retry')) return
    this.#timers.cancel('calm')
    this.#timers.set('retry', 500 + this.#retries.next(), () => {
      this.#outbox.release()
      this.#flush()
      this.#timers.set('calm', STABLE, () => this.#retries.reset())
    })
  }

  // --- signs of life --------------------------------------------------------------------------

  #heard() {
    this.#timers.cancel('pong')
    this.#timers.cancel('urgent')
    this.#timers.set('idle', IDLE, () => this.#ping())
  }

  /** @param {boolean} [urgent] */
  #ping(urgent) {
    if (this.#socket?.readyState !== 1) return this.#giveUp()
    this.#write({ type: 'ping' })
    if (!this.#timers.has('pong')) this.#timers.set('pong', PONG_DEADLINE, () => this.#giveUp())
    if (!urgent || this.#timers.has('urgent')) return
    this.#timers.set('urgent', URGENT_DEADLINE, () => {
      this.#giveUp()
      this.probe()
    })
  }

  // --- what goes out --------------------------------------------------------------------------

  /** @param {number} [now]  what is held until then is written */
  #flush(now = this.#clock.now()) {
    if (this.#state !== 'joined') return
    for (const message of this.#outbox.take(now)) this.#write(message)
    const next = this.#outbox.nextDue
    if (next !== undefined) this.#timers.set('slow', next - now, () => this.#flush())
  }

  /** @param {object} message */
  #write(message) {
    if (this.#socket?.readyState !== 1) return
    const text = JSON.stringify(message)
    this.#socket.send(text)
    this.#show('out', message, text)
  }

  /**
   * @param {Envelope['direction']} direction
   * @param {unknown} message
   * @param {unknown} text
   */
  #show(direction, message, text) {
    fire(this, 'envelope', { direction, message, bytes: sizeOf(text), at: this.#clock.now() })
  }

  /**
   * @param {SignalState} state
   * @param {{ retryIn?: number, code?: number }} [more]
   */
  #setState(state, more) {
    this.#state = state
    fire(this, 'state', { state, ...more })
  }
}

/**
 * Lets a client follow the life of its page, until `signal` is aborted: it leaves when the page goes
 * for good, and looks after its connection when the page or the network comes back or changes.
 * @param {object} client  a SignalingClient, or a Room
 * @param {() => void} client.probe
 * @param {() => void} client.leave
 * @param {() => void} [client.networkChanged]  in place of `probe`, where the network is what changed
 * @param {object} page
 * @param {EventTarget} page.window
 * @param {EventTarget & { visibilityState: string }} page.document
 * @param {EventTarget} [page.connection]  navigator.connection, where there is one
 * @param {AbortSignal} page.signal
 */
export function followPage(client, { window, document, connection, signal }) {
  const probe = () => client.probe()
  const changed = () => (client.networkChanged ? client.networkChanged() : client.probe())
  window.addEventListener('online', changed, { signal })
  connection?.addEventListener('change', changed, { signal })
  window.addEventListener('pageshow', probe, { signal })
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && probe(), { signal })
  window.addEventListener(
    'pagehide',
    (event) => {
      // A persisted page may come back: its seat waits, and `pageshow` takes it again.
      if (!(/** @type {PageTransitionEvent} */ (event).persisted)) client.leave()
    },
    { signal },
  )
}
