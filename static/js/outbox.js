// @ts-check
/** @import { OutMessage } from './protocol.js' */

/**
 * @typedef {object} Entry
 * @property {OutMessage | { type: 'leave' }} message
 * @property {() => boolean} wanted  asked when it is about to be written
 * @property {number} due  not written before then
 * @property {number} order  of adding
 * @property {number} seq  0 until it is written
 * @property {boolean} refused  its number is used up, and the message held to go out under another
 */

/**
 * Acknowledged entries that are kept for a refusal that comes after the acknowledgement: an `ack` or
 * `joined` overtakes the errors that the server has waiting, up to 256, and what is sent meanwhile may
 * be acknowledged before them too.
 */
const RECENT = 1024

/**
 * The counted messages of one seat on their way to the server (docs/protocol.md, section 5). They stay
 * until the server acknowledges them, survive the connection, and are numbered when they are written:
 * what has become pointless before that (an offer that was rolled back) is never sent.
 */
export class Outbox {
  /** @type {Entry[]} not acknowledged, in order: first those with a seq, then those without */
  #entries = []
  /** @type {Entry[]} */
  #recent = []
  /** @type {Entry[]} refused ones and, to keep their order, everything later for the same peers */
  #held = []
  #added = 0
  #sent = 0
  #acked = 0
  #limit

  /** @param {number} [limit]  messages held at most */
  constructor(limit = 256) {
    this.#limit = limit
  }

  /** How many messages wait: unwritten, unacknowledged or refused. */
  get size() {
    return this.#entries.filter((entry) => !entry.refused).length + this.#held.length
  }

  /**
   * Takes a message. It returns false where there is no room for it.
   * @param {Entry['message']} message
   * @param {() => boolean} [wanted]
   * @param {number} [due]  when it may be written, in the time that `take` is given
   */
  add(message, wanted = () => true, due = 0) {
    this.#forgetUnwanted()
    if (this.size >= this.#limit) return false
    const entry = { message, wanted, due, order: ++this.#added, seq: 0, refused: false }
    const waits = this.#held.some((other) => shareTarget(other, entry))
    ;(waits ? this.#held : this.#entries).push(entry)
    return true
  }

  /**
   * Numbers and returns what has not been written to this connection, up to the first that is not due.
   * @param {number} [now]
   */
  take(now = Infinity) {
    this.#forgetUnwanted()
    const unwritten = this.#entries.filter((entry) => entry.seq === 0)
    const end = unwritten.findIndex((entry) => entry.due > now)
    const due = end < 0 ? unwritten : unwritten.slice(0, end)
    for (const entry of due) entry.seq = ++this.#sent
    return due.map((entry) => ({ ...entry.message, seq: entry.seq }))
  }

  /** When the first message that is not written may be; undefined where there is none. */
  get nextDue() {
    return this.#entries.find((entry) => entry.seq === 0)?.due
  }

  /**
   * The server has handled everything up to `received`. It returns false where that cannot be.
   * @param {number} received
   */
  acknowledge(received) {
    if (received > this.#sent || received < this.#acked) return false
    this.#acked = received
    const done = this.#entries.filter((entry) => entry.seq > 0 && entry.seq <= received)
    this.#entries = this.#entries.slice(done.length)
    this.#recent = [...this.#recent, ...done].slice(-RECENT)
    return true
  }

  /**
   * The seat is back on a new connection. What the server has not handled is written again, with
   * numbers from `received` + 1: the old connection can add nothing any more. It returns false where
   * the counters contradict each other.
   * @param {number} received
   */
  resume(received) {
    if (!this.acknowledge(received)) return false
    for (const entry of this.#entries) entry.seq = 0
    this.#sent = received
    return true
  }

  /** A new seat counts from 1, and nobody knows what became of the messages of the old one. */
  reset() {
    this.#entries = []
    this.#recent = []
    this.#held = []
    this.#sent = this.#acked = 0
  }

  /**
   * The message that was written as `seq`, if it is still known.
   * @param {number} seq
   */
  find(seq) {
    return this.#written(seq)?.message
  }

  /**
   * The server has refused `seq` for now: it is held until `release`, and what follows to the same
   * peer behind it. The refused number is used up. It returns false for an unknown `seq`.
   * @param {number} seq
   */
  hold(seq) {
    const found = this.#written(seq)
    if (!found) return false
    this.#held.push({ ...found, seq: 0 })
    found.refused = true
    this.#recent = this.#recent.filter((entry) => entry !== found)
    return true
  }

  /** Puts what was held in line again, in its old place among what is not written. */
  release() {
    const written = this.#entries.filter((entry) => entry.seq > 0)
    const due = [...this.#entries.slice(written.length), ...this.#held].sort((a, b) => a.order - b.order)
    this.#entries = [...written, ...due]
    this.#held = []
  }

  /** @param {number} seq */
  #written(seq) {
    return [...this.#entries, ...this.#recent].find((entry) => entry.seq === seq)
  }

  #forgetUnwanted() {
    this.#entries = this.#entries.filter((entry) => entry.seq > 0 || entry.wanted())
    this.#held = this.#held.filter((entry) => entry.wanted())
  }
}

/**
 * Whether some peer gets both: a message without `to` goes to all.
 * @param {Entry} a
 * @param {Entry} b
 */
function shareTarget(a, b) {
  const [to, other] = [a, b].map(({ message }) => ('to' in message ? message.to : undefined))
  return to === undefined || other === undefined || to === other
}
