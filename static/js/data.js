// @ts-check
/**
 * Files over a data channel, straight from browser to browser.
 *
 * Wire format, version 1. The channel is ordered and reliable, `negotiated` with id 1. Text frames are
 * JSON; a binary frame is the next piece of the file that was announced last. One file at a time goes each
 * way, and `id` counts the sender's files from 1:
 *
 *     sender                                          receiver
 *     {type: 'file', v: 1, id, name, size, mime} ->
 *                                                  <- {type: 'accept', id, from}    bytes it has already
 *     binary frames of up to 16 KiB, from `from` on ->
 *     {type: 'end', id, sha256} ->                                                  hexadecimal
 *                                                  <- {type: 'done', id, sha256}
 *     {type: 'drop', id} ->            at any time <- {type: 'refuse', id, code}    the end of this file
 *
 * A sender that has a new channel to the same peer announces its file again, and goes on at `from` or
 * hears how it has ended. What one side does not know (types, members) it ignores.
 */
import { ClientError } from './errors.js'
import { Sha256 } from './sha256.js'
import { fire, realClock, Timers } from './timers.js'

/** @import { Clock } from './timers.js' */

const VERSION = 1
/** Every browser takes messages of this size from every other. */
const CHUNK = 16 << 10
/** Sending stops above HIGH bytes in the channel's buffer, and goes on below LOW. */
const HIGH = 1 << 20
const LOW = 256 << 10
/** Read from the file at once. */
const BLOCK = 256 << 10
/** Received bytes kept in memory before they become a part of a Blob, which browsers may put on disk. */
const SLICE = 1 << 20
/** Progress is told after this many bytes. */
const STEP = 64 << 10
/** Files that may wait to be sent. */
const MAX_QUEUED = 64
/** How long an announcement waits for its answer, in milliseconds. */
const ANSWER = 30_000
/** How long files wait for another channel when theirs is closed, in milliseconds. */
const GRACE = 10_000
/** The longest text frame, in UTF-16 units. Longer ones are ignored. */
const MAX_TEXT = 4096
/** The longest name, in code points. */
const MAX_NAME = 128
const BINARY = 'application/octet-stream'
/** The largest file that is received unless the options say otherwise, in bytes. */
export const MAX_FILE = 2 ** 31

/**
 * How a transfer ends that does not succeed.
 * - `cancelled`, by either side
 * - `not-connected`: the peer or the connection is gone, or was not there
 * - `too-big`: larger than the receiver takes
 * - `busy`: too many are queued
 * - `damaged`: the hashes differ
 * - `unreadable`: the file was changed or removed while it was read
 * - `unanswered`: the peer has said nothing to the announcement for 30 s; an older client takes no files
 * - `unsupported`, `bad-file`: the two sides do not understand each other
 * @typedef {'cancelled' | 'not-connected' | 'too-big' | 'busy' | 'damaged' | 'unreadable' | 'unanswered' | 'unsupported'
 *   | 'bad-file'} FileCode
 *
 * @typedef {object} ReceivedFile
 * @property {number} id
 * @property {string} name  safe to show and to save under
 * @property {string} type  MIME type by the sender's word; ''
 * @property {number} size  bytes
 * @property {string} sha256  hexadecimal
 * @property {Blob} blob  always application/octet-stream: a browser saves it and never runs it as a page of this origin
 *
 * @typedef {object} SendFileOptions
 * @property {string} [name]  default: the File's own
 * @property {string} [type]
 * @property {AbortSignal} [signal]  cancels
 * @property {(progress: { sent: number, size: number }) => void} [onprogress]  bytes given to the channel
 *
 * @typedef {Pick<RTCDataChannel, 'readyState' | 'bufferedAmount' | 'bufferedAmountLowThreshold' | 'binaryType'
 *   | 'addEventListener' | 'send'>} FileChannel
 *
 * @typedef {object} Outgoing
 * @property {number} id
 * @property {Blob} blob
 * @property {{ name: string, mime: string }} header
 * @property {SendFileOptions['onprogress']} onprogress
 * @property {(error?: ClientError) => void} settle
 * @property {string} [sha256]  known once everything has been sent
 *
 * @typedef {object} Incoming
 * @property {number} id
 * @property {string} name
 * @property {string} type
 * @property {number} size
 * @property {number} received  bytes
 * @property {Blob[]} parts
 * @property {Uint8Array<ArrayBuffer>} slice  what is not yet a part
 * @property {number} filled  bytes of `slice`
 * @property {Sha256} hash
 */

/**
 * What goes to and comes from one peer. Sent files queue. Fires:
 * - `file` ReceivedFile: complete, its hash compared
 * - `progress` `{ id, name, received, size }`: of a file that comes in; the first has `received` 0
 * - `failed` `{ id, name, code }`: a file that came in ends without being complete
 */
export class Files extends EventTarget {
  /** @type {FileChannel} */
  #channel
  #maxSize
  #timers
  #ids = 0
  /** @type {Outgoing[]} the first is on its way */
  #queue = []
  /** @type {Incoming | undefined} */
  #incoming
  /**
   * How the last file that came in ended. It may have been lost with a channel.
   * @type {{ type: 'done' | 'refuse', id: number, sha256?: string, code?: FileCode } | undefined}
   */
  #answer
  /**
   * A file was cancelled while there was no channel to say so.
   * @type {{ type: 'drop', id: number } | undefined}
   */
  #owed
  /** Ends what belongs to the channel of now. */
  #over = new AbortController()
  #closed = false

  /**
   * @param {object} options
   * @param {FileChannel} options.channel  ordered and reliable; it need not be open yet
   * @param {number} [options.maxSize]  of a file that is received, in bytes
   * @param {Clock} [options.clock]
   */
  constructor({ channel, maxSize = MAX_FILE, clock = realClock }) {
    super()
    this.#maxSize = maxSize
    this.#timers = new Timers(clock)
    this.#channel = channel
    this.#attach()
  }

  /**
   * Goes on over another channel to the same peer: after a new RTCPeerConnection. Files that are under
   * way continue where they were. Call it no later than 10 s after the old channel has closed.
   * @param {FileChannel} channel
   */
  use(channel) {
    if (this.#closed) return
    this.#over.abort()
    this.#timers.cancelAll()
    this.#channel = channel
    this.#attach()
  }

  /**
   * Sends a file, after those sent before it. It resolves when the peer has it all and has confirmed its
   * SHA-256, and rejects with a ClientError of a FileCode.
   * @param {Blob} blob
   * @param {SendFileOptions} [options]
   * @returns {Promise<void>}
   */
  send(blob, { name, type = blob.type, signal, onprogress } = {}) {
    if (this.#closed || this.#channel.readyState === 'closed') return Promise.reject(errorOf('not-connected'))
    if (signal?.aborted) return Promise.reject(errorOf('cancelled'))
    if (this.#queue.length >= MAX_QUEUED) return Promise.reject(errorOf('busy'))
    return new Promise((resolve, reject) => {
      /** @type {Outgoing} */
      const job = {
        id: ++this.#ids,
        blob,
        header: { name: fileName(name ?? ('name' in blob ? String(blob.name) : '')), mime: mimeType(type) },
        onprogress,
        settle: (error) => {
          signal?.removeEventListener('abort', cancel)
          if (error) reject(error)
          else resolve()
        },
      }
      const cancel = () => this.#drop(job, errorOf('cancelled'))
      signal?.addEventListener('abort', cancel)
      if (this.#queue.push(job) === 1) this.#announce()
    })
  }

  /**
   * Takes no more of a file that is coming in.
   * @param {number} id
   */
  cancel(id) {
    if (this.#incoming?.id === id) this.#refuse(id, 'cancelled')
  }

  /**
   * The end: there will be no other channel. Everything under way ends with `not-connected`. Call it when
   * you close the connection, of which the channel itself may say nothing.
   */
  close() {
    if (this.#closed) return
    this.#closed = true
    this.#end()
  }

  // --- the channel ----------------------------------------------------------------------------

  #attach() {
    const channel = this.#channel
    const { signal } = (this.#over = new AbortController())
    channel.binaryType = 'arraybuffer'
    channel.bufferedAmountLowThreshold = LOW
    channel.addEventListener('open', () => this.#announce(), { signal })
    channel.addEventListener('message', ({ data }) => this.#receive(data), { signal })
    channel.addEventListener('close', () => this.#lose(), { signal })
    this.#announce()
  }

  /** @param {object} message */
  #say(message) {
    if (this.#channel.readyState === 'open') this.#channel.send(JSON.stringify(message))
  }

  /** The channel is closed. The peer may be making another: one side always learns of it first. */
  #lose() {
    this.#over.abort()
    this.#timers.cancel('answer')
    this.#timers.set('gone', GRACE, () => this.#end())
  }

  /** The peer is gone. */
  #end() {
    this.#over.abort()
    this.#timers.cancelAll()
    if (this.#incoming) this.#fail(this.#incoming, 'not-connected')
    for (const job of this.#queue.splice(0)) job.settle(errorOf('not-connected'))
  }

  /** @param {unknown} data */
  #receive(data) {
    if (data instanceof ArrayBuffer) return this.#take(new Uint8Array(data))
    if (typeof data !== 'string' || data.length > MAX_TEXT) return
    let m
    try {
      m = JSON.parse(data)
    } catch {
      return
    }
    if (!Number.isSafeInteger(m?.id)) return
    if (m.type === 'file') return this.#offered(m)
    const job = this.#queue[0]?.id === m.id ? this.#queue[0] : undefined
    const file = this.#incoming?.id === m.id ? this.#incoming : undefined
    if (m.type === 'accept' && job) this.#stream(job, m.from)
    else if (m.type === 'done' && job) this.#confirmed(job, m.sha256)
    else if (m.type === 'refuse' && job) this.#settle(job, errorOf(refusal(m.code)))
    else if (m.type === 'end' && file) this.#complete(file, m.sha256)
    else if (m.type === 'drop' && file) this.#fail(file, 'cancelled')
  }

  // --- sending --------------------------------------------------------------------------------

  #announce() {
    if (this.#channel.readyState !== 'open') return
    if (this.#owed) this.#say(this.#owed)
    this.#owed = undefined
    const [job] = this.#queue
    if (!job) return
    this.#say({ type: 'file', v: VERSION, id: job.id, size: job.blob.size, ...job.header })
    this.#timers.set('answer', ANSWER, () => this.#drop(job, errorOf('unanswered')))
  }

  /**
   * @param {Outgoing} job
   * @param {unknown} from
   */
  async #stream(job, from) {
    if (!this.#timers.has('answer')) return // it has been accepted before
    this.#timers.cancel('answer')
    const { blob, id, onprogress } = job
    const { size } = blob
    const channel = this.#channel
    const { signal } = this.#over
    const gone = () => signal.aborted || this.#queue[0] !== job
    const start = typeof from === 'number' && from >= 0 && from <= size ? Math.floor(from) : 0
    const hash = new Sha256()
    try {
      for (let at = 0; at < size; at += BLOCK) {
        const block = new Uint8Array(await blob.slice(at, at + BLOCK).arrayBuffer())
        if (gone()) return
        hash.update(block)
        for (let i = Math.max(0, start - at); i < block.length; i += CHUNK) {
          while (channel.bufferedAmount >= HIGH) await drained(channel, signal)
          if (gone()) return
          channel.send(block.subarray(i, i + CHUNK))
          const sent = at + Math.min(i + CHUNK, block.length)
          if (sent % STEP === 0 || sent === size) onprogress?.({ sent, size })
        }
      }
      job.sha256 = hash.digest()
      this.#say({ type: 'end', id, sha256: job.sha256 })
    } catch (error) {
      if (gone()) return
      if (channel.readyState === 'open') this.#drop(job, errorOf('unreadable', error))
      else this.#lose()
    }
  }

  /**
   * @param {Outgoing} job
   * @param {unknown} sha256
   */
  #confirmed(job, sha256) {
    this.#settle(job, job.sha256 && job.sha256 === sha256 ? undefined : errorOf('damaged'))
  }

  /**
   * @param {Outgoing} job
   * @param {ClientError} error
   */
  #drop(job, error) {
    if (this.#queue[0] === job) this.#owed ??= { type: 'drop', id: job.id }
    this.#settle(job, error)
  }

  /**
   * @param {Outgoing} job
   * @param {ClientError} [error]
   */
  #settle(job, error) {
    const at = this.#queue.indexOf(job)
    if (at < 0) return
    this.#queue.splice(at, 1)
    job.settle(error)
    if (at > 0) return
    this.#timers.cancel('answer')
    this.#announce()
  }

  // --- receiving ------------------------------------------------------------------------------

  /** @param {Record<string, unknown> & { id: number }} m  whatever came: nothing of it is certain */
  #offered({ id, v, name, mime, size }) {
    const known = this.#incoming
    if (known?.id === id && known.size === size) return this.#say({ type: 'accept', id, from: known.received })
    if (known) this.#fail(known, 'cancelled')
    if (this.#answer?.id === id) return this.#say(this.#answer)
    const sound = typeof name === 'string' && typeof size === 'number' && Number.isSafeInteger(size) && size >= 0
    if (v !== VERSION) return this.#refuse(id, 'unsupported')
    if (!sound) return this.#refuse(id, 'bad-file')
    if (size > this.#maxSize) {
      this.#fail({ id, name: fileName(name) }, 'too-big')
      return this.#refuse(id, 'too-big')
    }
    const file = (this.#incoming = {
      id,
      name: fileName(name),
      type: mimeType(mime),
      size,
      received: 0,
      parts: [],
      slice: new Uint8Array(Math.min(size, SLICE)),
      filled: 0,
      hash: new Sha256(),
    })
    this.#progress(file)
    this.#say({ type: 'accept', id, from: 0 })
  }

  /** @param {Uint8Array<ArrayBuffer>} bytes  the next piece, or the rest of a file that was refused */
  #take(bytes) {
    const file = this.#incoming
    if (!file) return
    const before = file.received
    file.received += bytes.length
    if (file.received > file.size) return this.#refuse(file.id, 'bad-file')
    file.hash.update(bytes)
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + file.slice.length - file.filled)
      file.slice.set(piece, file.filled)
      file.filled += piece.length
      at += piece.length
      if (file.filled === file.slice.length) this.#store(file)
    }
    if (Math.floor(file.received / STEP) > Math.floor(before / STEP)) this.#progress(file)
  }

  /** @param {Incoming} file */
  #store(file) {
    file.parts.push(new Blob([file.slice.subarray(0, file.filled)]))
    file.filled = 0
  }

  /**
   * @param {Incoming} file
   * @param {unknown} expected
   */
  #complete(file, expected) {
    if (file.received !== file.size) return this.#refuse(file.id, 'bad-file')
    const sha256 = file.hash.digest()
    if (sha256 !== expected) return this.#refuse(file.id, 'damaged')
    if (file.filled) this.#store(file)
    const { id, name, type, size, parts } = file
    this.#incoming = undefined
    this.#say((this.#answer = { type: 'done', id, sha256 }))
    fire(this, 'file', { id, name, type, size, sha256, blob: new Blob(parts, { type: BINARY }) })
  }

  /**
   * @param {number} id
   * @param {FileCode} code
   */
  #refuse(id, code) {
    this.#say((this.#answer = { type: 'refuse', id, code }))
    if (this.#incoming?.id === id) this.#fail(this.#incoming, code)
  }

  /**
   * @param {Pick<Incoming, 'id' | 'name'>} file
   * @param {FileCode} code
   */
  #fail({ id, name }, code) {
    this.#incoming = undefined
    fire(this, 'failed', { id, name, code })
  }

  /** @param {Incoming} file */
  #progress({ id, name, received, size }) {
    fire(this, 'progress', { id, name, received, size })
  }
}

/**
 * Resolves when the channel's buffer has run low. When the channel is given up it never does.
 * @param {FileChannel} channel
 * @param {AbortSignal} signal
 */
function drained(channel, signal) {
  return new Promise((resolve) => channel.addEventListener('bufferedamountlow', resolve, { once: true, signal }))
}

/**
 * What only files end with; the other codes have their texts in errors.js.
 * @type {Partial<Record<FileCode, string>>}
 */
const ERRORS = {
  'bad-file': 'The file was not announced or sent as it should be.',
  damaged: 'The file did not arrive as it was sent. Send it again.',
  unanswered: 'The other side does not answer. It may take no files, or the connection is interrupted.',
  unreadable: 'The file was changed or removed while it was read. Choose it again.',
  unsupported: 'The other side does not take files of this version.',
}

/**
 * @param {FileCode} code
 * @param {unknown} [cause]
 */
function errorOf(code, cause) {
  const retryable = code === 'damaged' || code === 'unanswered' || undefined
  return new ClientError(code, ERRORS[code], { retryable, cause })
}

/**
 * @param {unknown} code  what the peer says
 * @returns {FileCode}
 */
function refusal(code) {
  return code === 'cancelled' || code === 'too-big' || code === 'damaged' || code === 'unsupported' ? code : 'bad-file'
}

/**
 * A name that does no harm where it is shown or saved: the last part of a path, without control
 * characters and those that turn the direction of text, of at most 128 characters with its ending.
 * @param {string} name
 */
export function fileName(name) {
  const last = name.split(/[/\\]/).pop() ?? ''
  const clean = last.replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/gu, '')
  const letters = [...clean.replace(/^[.\s]+|[.\s]+$/g, '')]
  const dot = letters.lastIndexOf('.')
  const ending = dot > 0 && letters.length - dot <= 16 ? letters.splice(dot) : []
  return [...letters.slice(0, MAX_NAME - ending.length), ...ending].join('') || 'file'
}

/** @param {unknown} type */
function mimeType(type) {
  return typeof type === 'string' && /^[\w.+-]{1,63}\/[\w.+-]{1,63}$/.test(type) ? type : ''
}
