// A model of the server (docs/protocol.md, section 5) and of the network, and clients that live in it:
// every step checks what the protocol promises. A sequence of steps is a list of plain objects, so that
// a failing one can be cut down to what matters.
import { followPage, SignalingClient } from '../../js/signaling.js'
import { FakeClock, seeded } from './fakes.mjs'

/** What a promise that does not hold throws. */
export class Violation extends Error {}

function check(holds, ...what) {
  if (!holds) throw new Violation(what.map((w) => (typeof w === 'string' ? w : JSON.stringify(w))).join(' '))
}

const OUTBOX = 256 // messages that a client keeps
const EVENTS = 64 // places for the room's own events in a seat's ring
const ERRORS = 256 // places for errors
const FINAL = new Set([1008, 4500, 4501]) // close codes that nobody comes back from
const overlap = (a, b) => a.to === undefined || b.to === undefined || a.to === b.to

/** An EventTarget that lets what its listeners throw through to whoever fires the event. */
class Emitter {
  #listeners = []

  addEventListener(type, run, { signal } = {}) {
    this.#listeners.push({ type, run, signal })
  }

  dispatchEvent(event) {
    for (const { type, run, signal } of [...this.#listeners]) if (type === event.type && !signal?.aborted) run(event)
  }
}

// --- the network ------------------------------------------------------------------------------

/** One WebSocket with its two directions. What was said waits here until a step moves it. */
class Wire extends Emitter {
  readyState = 0
  /** Frames on their way: messages, or `{ close: code }`. */
  up = []
  down = []
  /** Nothing moves. */
  stalled = false
  /** The connection is gone; each end finds out in its own time. */
  cut = false
  conn

  constructor(app) {
    super()
    this.app = app
    this.openedAt = app.world.clock.now()
  }

  // The client's side.

  send(text) {
    check(this.readyState === 1, 'a message was written to a socket that is not open')
    check(this.app.wire === this, 'a message was written to a socket that was given up')
    const m = JSON.parse(text)
    this.app.wrote(m)
    this.up.push(m)
  }

  close(code) {
    check(code === 1000 || (code >= 3000 && code <= 4999), 'a page cannot close with', code)
    if (this.readyState > 1) return
    if (this.readyState === 0) this.cut = true
    this.readyState = 2
    this.up.push({ close: code })
  }

  // The network's side.

  open() {
    if (this.readyState !== 0 || this.cut) return
    this.readyState = 1
    this.conn = this.app.world.server.connect()
    this.dispatchEvent({ type: 'open' })
  }

  moveUp(n) {
    for (; n > 0 && !this.cut && this.up.length > 0; n--) this.conn?.receive(this.up.shift())
  }

  /** Lets the server write up to `n` messages, of which the client gets nothing yet. */
  write(n) {
    for (; n > 0 && !this.cut; n--) {
      const frame = this.conn?.next()
      if (!frame) return
      this.down.push(frame)
    }
  }

  moveDown(n) {
    for (; n > 0 && !this.cut; n--) {
      if (this.down.length === 0) this.write(1)
      const frame = this.down.shift()
      if (!frame) return
      if (frame.close) return this.ended(frame.close)
      this.app.heard(this, frame)
      this.dispatchEvent({ type: 'message', data: JSON.stringify(frame) })
    }
  }

  /** The connection breaks. What is on its way is lost. */
  break() {
    this.cut = true
    this.up = []
    this.down = []
  }

  /** The client's end finds out. */
  ended(code) {
    if (this.readyState === 3) return
    const heard = this.app.wire === this && this.readyState < 2
    this.break()
    this.readyState = 3
    if (heard) this.app.least = 0
    this.dispatchEvent({ type: 'close', code })
    if (heard && FINAL.has(code)) check(this.app.ended, 'not ended by', code)
  }
}

// --- the server -------------------------------------------------------------------------------

/** The server's side of a connection. */
class Conn {
  seat
  open = true
  direct = []

  constructor(server) {
    this.server = server
  }

  next() {
    if (this.direct.length > 0) return this.direct.shift()
    return this.seat?.conn === this ? this.seat.next() : undefined
  }

  receive(m) {
    if (!this.open) return
    if (m.close) this.lost(m.close)
    else this.server.handle(this, m)
  }

  /** The server closes it, after an error where there is one. */
  end(code, error) {
    if (!this.open) return
    this.open = false
    if (error) this.direct.push({ type: 'error', message: '', ...error })
    this.direct.push({ close: code })
  }

  /** The connection ended with `code`; 1006 stands for none. */
  lost(code) {
    if (!this.open) return
    this.open = false
    if (this.seat?.conn === this) this.server.lost(this.seat, code)
  }
}

let seatCount = 0

class Seat {
  /** Which of all seats this is: the model's own knowledge. */
  uid = ++seatCount
  /** Everything counted that was said to this seat: number n is log[n - 1]. */
  log = []
  sent = 0
  acked = 0
  received = 0
  owed = 0
  ackDue = false
  away = false
  conn
  timers = {}

  constructor(server, { session, id, attempt }) {
    Object.assign(this, { server, session, id, attempt })
  }

  next() {
    if (this.ackDue) {
      this.ackDue = false
      return { type: 'ack', received: this.received }
    }
    if (this.sent === this.log.length) return
    return this.log[this.sent++].frame
  }

  waiting(kind) {
    return this.log.slice(this.acked).filter((entry) => entry.kind === kind).length
  }

  /** Says something counted; `kind` names who uses the place: `event`, `error` or the sender's seat. */
  say(kind, frame) {
    if ((kind === 'event' && this.waiting(kind) >= EVENTS) || (kind === 'error' && this.waiting(kind) >= ERRORS)) {
      this.overflowed = true
    } else {
      this.log.push({ kind, frame: { ...frame, seq: this.log.length + 1 } })
    }
  }

  acknowledge(received) {
    if (received < this.acked || received > this.sent) return false
    this.acked = received
    return true
  }

  oweAck() {
    if (++this.owed >= 8) this.dueAck()
    else if (this.timers.ack === undefined) this.timers.ack = this.server.clock.setTimeout(() => this.dueAck(), 1000)
  }

  dueAck() {
    this.stop('ack')
    this.owed = 0
    this.ackDue = this.conn !== undefined
  }

  stop(name) {
    this.server.clock.clearTimeout(this.timers[name])
    delete this.timers[name]
  }
}

/** One room of the server, with the counters of all its seats. */
class Server {
  seats = []
  conns = new Set()
  /** Counted messages to be refused with `rate-limited`. */
  limited = 0
  /** The error with which the next join is refused. */
  refuseJoin
  grace = 30_000

  constructor(world, { capacity, ring }) {
    Object.assign(this, { world, clock: world.clock, capacity, ring })
  }

  connect() {
    const conn = new Conn(this)
    this.conns.add(conn)
    return conn
  }

  handle(conn, m) {
    if (m.type === 'join') this.join(conn, m)
    else if (m.type === 'ping') conn.direct.push({ type: 'pong' })
    else if (!conn.seat) conn.direct.push({ type: 'error', code: 'not-joined', message: '', for: m.type, ref: m.seq })
    else if (conn.seat.conn === conn) this.act(conn.seat, m)
    this.endOverflowed()
  }

  join(conn, m) {
    if (this.refuseJoin) {
      conn.direct.push({ type: 'error', message: '', for: 'join', ...this.refuseJoin })
      this.refuseJoin = undefined
      return
    }
    let seat = this.seats.find((s) => s.session === m.session)
    if (seat && m.attempt < seat.attempt) {
      return void conn.direct.push({ type: 'error', code: 'stale-attempt', message: '', for: 'join' })
    }
    const replaced = this.seats.find((s) => s.session === m.replaces)
    if (replaced) this.free(replaced, 'replaced', 4500)
    // A client that counts since another join never learnt of this seat.
    const resumed = seat !== undefined && (m.since === undefined || m.since === seat.since)
    if (seat) {
      this.fence(seat)?.end(4500)
      const received = resumed ? m.received : 0
      if (!seat.acknowledge(received) || (!resumed && seat.received > 0)) {
        check(this.world.tampered, 'a join with received', received, 'where', seat.acked, 'to', seat.sent, 'is possible')
        this.free(seat, 'error')
        return conn.end(4002, { code: 'out-of-sync', for: 'join' })
      }
      seat.attempt = m.attempt
      if (seat.away) this.tellOthers(seat, { type: 'peer-back', peer: { id: seat.id } })
      seat.away = false
      seat.stop('grace')
      seat.sent = seat.acked
    } else {
      if (this.seats.length >= this.capacity) {
        const retryAfter = this.seats.some((s) => s.away) ? 30 : undefined
        return void conn.direct.push({ type: 'error', code: 'room-full', message: '', for: 'join', retryAfter })
      }
      seat = new Seat(this, { session: m.session, id: `id of ${m.session}`, attempt: m.attempt })
      this.world.logs.set(seat.uid, seat.log)
      this.tellOthers(seat, { type: 'peer-joined', peer: { id: seat.id } })
      this.seats.push(seat)
    }
    if (!resumed || m.since === undefined) seat.since = m.attempt
    seat.stop('ack')
    seat.owed = 0
    seat.ackDue = false
    seat.conn = conn
    conn.seat = seat
    conn.direct.push({
      type: 'joined', room: m.room, id: seat.id, resumed, received: seat.received, grace: 30, iceServers: [],
      peers: this.seats.filter((s) => s !== seat).map(({ id, away }) => ({ id, away })),
      uid: seat.uid, // not in the protocol
    })
  }

  act(seat, m) {
    if (m.type === 'ack') {
      if (this.limited > 0 && this.limited--) return seat.say('error', { type: 'error', code: 'rate-limited', message: '', for: 'ack' })
      if (seat.acknowledge(m.received)) return
      check(this.world.tampered, 'an ack of', m.received, 'where', seat.acked, 'to', seat.sent, 'is possible')
      return this.free(seat, 'error', 4002, { code: 'out-of-sync', for: 'ack' })
    }
    if (m.seq <= seat.received) {
      check(this.world.tampered, 'number', m.seq, 'was sent twice')
      return seat.oweAck()
    }
    if (m.seq !== seat.received + 1) {
      check(this.world.tampered, 'number', m.seq, 'came after', seat.received)
      return this.free(seat, 'error', 4002, { code: 'out-of-sync', for: m.type, ref: m.seq })
    }
    seat.received++
    seat.oweAck()
    if (m.type === 'leave') return this.free(seat, 'left')
    const code = this.relay(seat, m)
    if (code) {
      this.world.refused(m)
      seat.say('error', { type: 'error', code, message: '', for: m.type, ref: m.seq })
    }
  }

  /** The code with which the message is refused, if it is. */
  relay(seat, m) {
    if (this.limited > 0 && this.limited--) return 'rate-limited'
    const targets = this.seats.filter((s) => s !== seat && (m.to === undefined || s.id === m.to))
    if (targets.length === 0) return 'no-peer'
    if (targets.some((s) => s.waiting(seat.id) >= this.ring / (this.capacity - 1))) return 'busy'
    this.world.accepted(seat, m)
    for (const s of targets) s.say(seat.id, { type: 'message', from: seat.id, data: m.data })
  }

  lost(seat, code) {
    this.fence(seat)
    if (code === 1000 || code === 1005 || code >= 4500) return this.free(seat, 'left')
    seat.away = true
    seat.timers.grace = this.clock.setTimeout(() => this.free(seat, 'timeout'), code === 1001 ? 8000 : this.grace)
    this.tellOthers(seat, { type: 'peer-away', peer: { id: seat.id } })
    this.endOverflowed()
  }

  fence(seat) {
    const conn = seat.conn
    seat.conn = undefined
    return conn
  }

  /** Ends a seat, and its connection with `code`. */
  free(seat, reason, code, error) {
    const conn = this.fence(seat)
    for (const name of Object.keys(seat.timers)) seat.stop(name)
    this.seats = this.seats.filter((s) => s !== seat)
    if (code) conn?.end(code, error)
    this.tellOthers(seat, { type: 'peer-left', peer: { id: seat.id }, reason })
    this.endOverflowed()
  }

  tellOthers(seat, event) {
    for (const s of this.seats) if (s !== seat) s.say('event', event)
  }

  endOverflowed() {
    const seat = this.seats.find((s) => s.overflowed)
    if (seat) this.free(seat, 'overflow', 4001)
  }

  /** It ends, and another one begins that knows nothing. */
  restart() {
    for (const seat of this.seats.splice(0)) {
      for (const name of Object.keys(seat.timers)) seat.stop(name)
      this.fence(seat)
    }
    for (const conn of this.conns) conn.end(1012)
    this.conns.clear()
  }
}

// --- a client ---------------------------------------------------------------------------------

/** A page with a client: what it was promised, and whether it got that. */
class App {
  wires = []
  /** Everything that `send` took, in order. */
  items = []
  /** Of the present seat, as far as the page knows it: its uid, and what it was handed. */
  seat
  handled = 0
  ended = false
  /** What the page does from inside its next event of a type. */
  armed = new Map()
  timers = new Set()
  failures = 0 // connections in a row that were not stable
  least = 0 // milliseconds that the last refusal asks for
  unacknowledged = []
  acknowledged = 0 // of what was handled
  acked = 0 // of what was written
  bySeq = new Map()

  constructor(world, number, seed) {
    Object.assign(this, { world, number, seed })
    const { clock } = world
    const random = seeded(seed)
    const app = this
    this.window = new Emitter()
    this.client = new SignalingClient({
      url: 'ws://host/ws',
      room: 'demo',
      clock: {
        now: clock.now,
        setTimeout: (run, ms) => {
          const id = clock.setTimeout(() => (this.timers.delete(id), run()), ms)
          this.timers.add(id)
          return id
        },
        clearTimeout: (id) => (this.timers.delete(id), clock.clearTimeout(id)),
      },
      random: () => (this.lastRandom = random()),
      fill: (bytes) => bytes.map(() => random() * 256),
      WebSocket: class {
        constructor() {
          return app.openWire()
        }
      },
    })
    for (const type of ['state', 'joined', 'message', 'session', 'refused', 'closed']) {
      this.client.addEventListener(type, ({ detail }) => this.on(type, detail))
    }
    const document = Object.assign(new Emitter(), { visibilityState: 'visible' })
    followPage(this.client, { window: this.window, document, signal: new AbortController().signal })
    this.client.connect()
  }

  get wire() {
    return this.wires.at(-1)
  }

  get now() {
    return this.world.clock.now()
  }

  // What the client does.

  openWire() {
    check(!this.ended, 'a socket was opened after the end')
    check(!this.wires.some((w) => w.readyState < 2), 'a second socket was opened beside a living one')
    check(this.due === undefined || this.probed || this.now === this.due, 'reconnected at', this.now, 'instead of', this.due)
    this.due = undefined
    this.probed = false
    this.wires = this.wires.filter((w) => w.readyState !== 3 || w.conn?.open)
    this.wires.push(new Wire(this))
    this.heardAt = this.now
    return this.wire
  }

  wrote(m) {
    check(!this.ended, 'a message was written after the end')
    if (m.type === 'ack') {
      // The eighth is acknowledged in the same breath as it is handed over.
      check(m.received === this.handled || m.received === this.handled + 1, 'ack', m.received, 'where', this.handled, 'were handled')
      this.unacknowledged = []
      this.acknowledged = m.received
    }
    if (m.type === 'join') this.unacknowledged = []
    if (m.type !== 'message') return
    const item = this.items[m.data.n]
    for (const other of this.items) {
      if (other === item) break
      const waits = other.open && (!other.written || other.held) && other.wanted
      check(!waits || !overlap(item, other), 'message', item.n, 'was written before', other.n)
    }
    item.written = true
    item.held = false
    item.seq = m.seq
    this.bySeq.set(m.seq, item)
  }

  // What it hears.

  heard(wire, frame) {
    if (wire !== this.wire || wire.readyState !== 1) return
    this.heardAt = this.now
    if (this.client.state === 'joined' && frame.type === 'ack') this.done(frame.received)
    if (this.client.state === 'joining' && frame.type === 'joined' && frame.resumed) this.done(frame.received)
    this.least = frame.type === 'error' && frame.for === 'join' ? (frame.retryAfter ?? 0) * 1000 : 0
  }

  done(received) {
    for (; this.acked < received; this.acked++) {
      const item = this.bySeq.get(this.acked + 1)
      if (item?.seq === this.acked + 1 && !item.held) item.waits = false
    }
  }

  on(type, detail) {
    try {
      check(!this.ended, type, 'was fired after the end')
      this[`on_${type}`](detail)
      const act = this.armed.get(type)
      this.armed.delete(type)
      act?.()
    } catch (violation) {
      this.world.violation ??= violation // an EventTarget keeps it to itself
    }
  }

  on_state({ state, retryIn }) {
    if (state === 'joined') {
      this.stableAt = this.now + 5000
      this.wasJoined = true
    }
    if (state !== 'waiting') return
    if (this.now >= this.stableAt) this.failures = 0
    this.stableAt = Infinity
    if (this.wasJoined) this.keptUntil = this.now + this.world.server.grace
    this.wasJoined = false
    const kept = this.keptUntil > this.now ? Math.max(500, (this.keptUntil - this.now) / 2) : Infinity
    const limit = Math.min(15_000, 500 * 2 ** this.failures++, kept)
    const want = Math.max(this.least, this.lastRandom * limit)
    check(retryIn === want, 'waits', retryIn, 'instead of', want)
    this.due = this.now + retryIn
    this.probed = false
    this.least = 0
    this.unacknowledged = []
  }

  on_joined(m) {
    if (m.resumed) {
      check(this.seat === undefined || this.seat === m.uid, 'resumed: true for a seat that the page has never seen')
    } else {
      this.forget()
    }
    this.seat = m.uid
    for (const item of this.items) if (item.open) item.seat = m.uid
  }

  on_message(m) {
    this.handle(m)
  }

  on_refused(error) {
    if (error.seq !== undefined) this.handle(error)
    if (error.ref === undefined || error.seq === undefined) return
    const item = this.items[error.sent?.data?.n]
    check(item !== undefined, 'number', error.ref, 'was refused, and what it was is not known')
    if (error.code === 'busy' || error.code === 'rate-limited') {
      item.held = item.waits = true
    } else item.open = false
  }

  /** A counted message was handed over: it must be the next one of the page's seat. */
  handle(m) {
    this.handled++
    if (this.handled > this.acknowledged) this.unacknowledged.push(this.now)
    check(m.seq === this.handled, 'number', m.seq, 'was handed over after', this.handled - 1)
    const said = this.world.log(this.seat)[m.seq - 1]?.frame
    const same = said && said.type === m.type && said.data?.n === m.data?.n && said.from === m.from && said.ref === m.ref
    check(same, 'handed over', m, 'where', said, 'was said')
  }

  on_session() {
    check(this.world.tampered, 'the session was given up without a reason')
    this.forget()
    this.seat = undefined
  }

  on_closed() {
    this.forget()
    this.ended = true
    check(this.timers.size === 0, this.timers.size, 'timers run after the end')
  }

  /** Whatever was under way is reported as unknown. */
  forget() {
    for (const item of this.items) item.open = item.waits = false
    this.handled = this.acked = this.acknowledged = 0
    this.unacknowledged = []
    this.bySeq.clear()
  }

  // What the page does.

  send(to, sometimesUnwanted) {
    const item = { n: this.items.length, to, seat: this.seat, open: true, waits: true, wanted: true }
    this.items.push(item)
    const waiting = this.items.filter((i) => i.waits && i !== item)
    const wanted = sometimesUnwanted ? () => item.wanted : undefined
    const taken = this.client.send({ type: 'message', data: { app: this.number, n: item.n }, ...(to && { to }) }, wanted)
    if (!taken) item.open = item.waits = false
    check(!taken || waiting.filter((i) => i.wanted).length < OUTBOX, 'a message was taken beside', waiting.length)
    const may = !this.ended && this.client.id !== undefined && waiting.length < OUTBOX
    check(taken || !may, 'a message was not taken beside', waiting.length)
    return item
  }

  /** What holds at any time. */
  verify() {
    const { client } = this
    const living = this.wires.filter((w) => w.readyState < 2)
    check(living.length <= 1, living.length, 'sockets live')
    check(this.ended === (client.state === 'closed'), 'state', client.state)
    if (this.ended) {
      check(living.length === 0, 'a socket lives after the end')
      check(this.timers.size === 0, this.timers.size, 'timers run after the end')
      return
    }
    const age = this.now - this.wire.openedAt
    if (client.state === 'connecting' || client.state === 'joining') check(age <= 10_000, 'no joined for', age)
    if (client.state === 'joined') check(this.now - this.heardAt <= 30_000, 'silent for', this.now - this.heardAt)
    if (client.state === 'waiting') check(this.due >= this.now, 'overslept')
    if (client.state === 'joined' && this.wire.readyState === 1) {
      check(this.unacknowledged.length < 8, this.unacknowledged.length, 'are not acknowledged')
      check(!(this.now - this.unacknowledged[0] > 1000), 'not acknowledged after', this.now - this.unacknowledged[0])
    }
  }
}

// --- the world --------------------------------------------------------------------------------

/** What may happen, and how often. Each takes numbers a and b in [0, 1). */
const steps = {
  open: [16, (w, app) => app.wire.open()],
  up: [22, (w, app, a) => app.wire.stalled || app.wire.moveUp(1 + a * 6)],
  down: [22, (w, app, a) => app.wire.stalled || app.wire.moveDown(1 + a * 6)],
  write: [3, (w, app, a) => app.wire.write(1 + a * 6)],
  send: [14, (w, app, a, b) => w.send(app, 1 + a * 3, b)],
  burst: [0.5, (w, app, a, b) => w.send(app, 20 + a ** 3 * 280, b)],
  unwanted: [1, (w, app, a) => app.items.filter((i) => i.open).slice(-1 - a * 4).forEach((i) => (i.wanted = !i.fickle))],
  wait: [10, (w, app, a) => w.wait([20, 300, 1000, 5000, 11_000][Math.floor(a * 5)])],
  sleep: [0.6, (w) => w.wait(31_000)],
  // One connection breaks, after some of what was on its way.
  cut: [4, (w, app, a, b) => {
    const { wire } = app
    if (!wire.stalled) (wire.moveUp(a * 6), wire.moveDown(b * 6))
    wire.break()
    if (a < 0.6) wire.ended(1006)
    if (b < 0.6) wire.conn?.lost(1006)
  }],
  refused: [1, (w, app) => app.wire.readyState === 0 && app.wire.ended(1006)],
  stall: [1.5, (w, app) => (app.wire.stalled = true)],
  // An old connection, or one that stood still, moves again.
  late: [5, (w, app, a, b) => {
    const wire = app.wires[Math.floor(a * app.wires.length)]
    wire.stalled = false
    if (wire.cut) return b < 0.5 ? wire.ended(1006) : wire.conn?.lost(1006)
    wire.moveUp(b * 8)
    wire.moveDown(b * 8)
  }],
  // The page.
  online: [2, (w, app) => w.probe(app, 'online')],
  pageshow: [1, (w, app) => {
    app.wire.break()
    if (app.wire.readyState === 1) app.wire.conn.lost(1001)
    if (app.wire.readyState < 2) app.wire.readyState = 3
    w.probe(app, 'pageshow')
  }],
  pagehide: [0.4, (w, app, a) => app.window.dispatchEvent({ type: 'pagehide', persisted: a < 0.5 })],
  leave: [0.3, (w, app) => app.client.leave()],
  inside: [2, (w, app, a, b) => {
    const type = ['state', 'joined', 'message', 'session', 'refused'][Math.floor(a * 5)]
    const acts = [() => w.probe(app, 'online'), () => app.client.leave(), () => type !== 'state' && w.send(app, 2, b)]
    app.armed.set(type, acts[Math.floor(b * 3)])
  }],
  // The server.
  restart: [0.4, (w) => w.server.restart()],
  busy: [1.5, (w, app, a) => (w.server.limited = Math.floor(a * 20))],
  refuse: [0.7, (w, app, a) => {
    const code = ['server-full', 'rate-limited', 'stale-attempt', 'bad-message'][Math.floor(a * 3.1)]
    w.server.refuseJoin = { code, retryAfter: code === 'rate-limited' ? 20 : undefined }
  }],
  slow: [0.7, (w, app) => w.seatOf(app) && w.end(app, 4001)],
  kick: [0.2, (w, app) => w.seatOf(app) && w.server.free(w.seatOf(app), 'kicked', 4501)],
  policy: [0.2, (w, app) => w.seatOf(app) && w.server.free(w.seatOf(app), 'error', 1008, { code: 'rate-limited', ref: w.seatOf(app).received })],
  steal: [0.2, (w, app) => w.seatOf(app) && w.server.free(w.seatOf(app), 'left', 4500)],
  // What TCP does not do, and a broken proxy might.
  loseUp: [0.7, (w, app) => w.lose(app.wire.up)],
  loseDown: [0.7, (w, app) => (app.wire.write(2), w.lose(app.wire.down))],
  twiceUp: [0.5, (w, app) => w.double(app.wire.up)],
  twiceDown: [0.5, (w, app) => w.double(app.wire.down)],
}

const kinds = Object.keys(steps)
const total = kinds.reduce((sum, kind) => sum + steps[kind][0], 0)

/** The steps of a seed, and how the room is set up. */
export function sequence(seed, length = 120) {
  const random = seeded(seed)
  const clients = random() < 0.7 ? 2 : 3
  const setup = { seed, clients, capacity: random() < 0.9 ? Math.max(2, clients) : 2, ring: [6, 24, 256][Math.floor(random() * 3)] }
  const list = []
  for (let i = 0; i < length; i++) {
    let at = random() * total
    const kind = kinds.find((k) => (at -= steps[k][0]) < 0)
    list.push({ kind, app: Math.floor(random() * clients), a: random(), b: random() })
  }
  return { setup, list }
}

class World {
  clock = new FakeClock()
  /** Something was lost, doubled or made up on purpose: `out-of-sync` may follow. */
  tampered = false
  count = { sent: 0, accepted: 0, handed: 0, connections: 0 }
  logs = new Map()

  constructor({ seed, clients, capacity, ring }) {
    this.seed = seed
    this.server = new Server(this, { capacity, ring })
    this.apps = Array.from({ length: clients }, (_, i) => new App(this, i, seed * 100 + i))
    this.started = clients
  }

  run({ kind, app, a, b }) {
    if (this.apps[app].ended) {
      const old = this.apps[app]
      this.retire(old)
      this.apps[app] = new App(this, ++this.started, this.seed * 100 + this.started)
    }
    steps[kind][1](this, this.apps[app], a, b)
    this.verify()
  }

  verify() {
    if (this.violation) throw this.violation
    for (const app of this.apps) app.verify()
  }

  /** Of an app that has ended only the server's side of its connections is left. */
  retire(app) {
    for (const wire of app.wires) {
      wire.moveUp(Infinity)
      wire.conn?.lost(1006)
    }
  }

  seatOf(app) {
    return this.server.seats.find((s) => s.conn && s.conn === app.wire.conn)
  }

  /** Everything that was said to a seat. */
  log(uid) {
    return this.logs.get(uid) ?? []
  }

  accepted(seat, m) {
    this.count.accepted++
    const app = this.apps.find((x) => x.number === m.data.app)
    const item = app?.items[m.data.n]
    if (!item) return // from a connection of an app that has ended
    check(!item.accepted, 'message', item.n, 'was accepted twice')
    check(item.seat === seat.uid || app.seat === undefined, 'message', item.n, 'of seat', item.seat, 'was accepted in seat', seat.uid)
    for (const other of app.items) {
      if (other === item) break
      const skipped = other.open && other.wanted && !other.accepted && !other.refused && overlap(item, other)
      check(!skipped, 'message', item.n, 'was accepted before', other.n)
    }
    item.accepted = true
  }

  refused(m) {
    const item = this.apps.find((x) => x.number === m.data.app)?.items[m.data.n]
    if (item) item.refused = true
  }

  send(app, n, b) {
    const others = this.server.seats.filter((s) => s.session !== app.client.session)
    for (let i = 1; i <= n; i++) {
      const to = b < 0.4 ? undefined : others[i % others.length]?.id
      const item = app.send(to, b > 0.8)
      item.fickle = b > 0.8
    }
  }

  probe(app, event) {
    app.probed = true
    app.window.dispatchEvent({ type: event })
  }

  /** A connection ends for no fault of its own: its seat waits. */
  end(app, code) {
    const { conn } = this.seatOf(app)
    conn.end(code)
    this.server.lost(conn.seat, 1006)
  }

  /** Loses a counted message that another one follows. */
  lose(frames) {
    if (!frames[0]?.seq || !frames[1]?.seq) return
    frames.shift()
    this.tampered = true
  }

  double(frames) {
    if (!frames[0]?.seq) return
    frames.unshift(frames[0])
    this.tampered = true
  }

  /** Lets time pass, timer by timer. */
  wait(ms) {
    for (const end = this.clock.now() + ms; this.clock.now() < end; ) {
      this.clock.run(Math.min(this.clock.idleFor, end - this.clock.now()))
      this.verify()
    }
  }

  /** No more faults: everything that was taken arrives, or was reported. */
  settle() {
    this.server.limited = 0
    this.server.refuseJoin = undefined
    for (const app of this.apps) app.armed.clear()
    let least = Infinity
    for (let since; ; this.wait(Math.min(this.clock.idleFor, 5000))) {
      const wires = this.apps.flatMap((app) => app.wires)
      for (const wire of [...wires, ...wires]) { // twice: what one says, the other answers
        wire.open()
        if (wire.stalled || wire.cut) (wire.break(), wire.conn?.lost(1006))
        wire.moveUp(Infinity)
        wire.moveDown(Infinity)
      }
      this.verify()
      const living = this.apps.filter((app) => !app.ended)
      const left = living.flatMap((app) => app.items).filter((i) => i.open && !i.accepted && i.wanted).length
      if (left === 0 && living.every((app) => this.isSettled(app))) return
      if (left < least) [least, since] = [left, this.clock.now()]
      check(this.clock.now() - since < 120_000, left, 'messages wait for nothing in', living.map((app) => app.client.state))
    }
  }

  isSettled(app) {
    const seat = this.seatOf(app)
    return app.client.state === 'joined' && app.handled === seat?.log.length
  }
}

/** Plays a sequence. It returns the violation that it ends with, if it does, and what happened. */
export function play({ setup, list }) {
  const world = new World(setup)
  try {
    for (const step of list) world.run(step)
    world.settle()
    world.verify()
  } catch (violation) {
    return { violation, world }
  }
  return { world }
}

/** Leaves out of a failing sequence whatever it fails without. */
export function shrink({ setup, list }) {
  for (let size = Math.ceil(list.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let from = 0; from < list.length; ) {
      const fewer = list.toSpliced(from, size)
      if (play({ setup, list: fewer }).violation) list = fewer
      else from += size
    }
  }
  return { setup, list }
}
