// @ts-check
/** Files of one call. What does the work, data.js, is loaded when the first file is sent or comes. */
import { ClientError, needed } from './errors.js'
import { fire, hear } from './timers.js'

/** @import { FileChannel, Files, SendFileOptions } from './data.js' */

/** Frames that may come while it is loaded. A sender waits after its first. */
const MAX_EARLY = 64

/** Fires what Files fires: `file`, `progress`, `failed`. */
export class CallFiles extends EventTarget {
  /** @type {RTCDataChannel} */
  #channel
  /** @type {Files | undefined} */
  #files
  /** @type {unknown[]} */
  #early = []
  #closed = false

  /** @param {RTCDataChannel} channel  ordered, reliable, negotiated with id 1 */
  constructor(channel) {
    super()
    this.#channel = channel
    this.use(channel)
  }

  /**
   * Goes on over another channel to the same peer (Files.use).
   * @param {RTCDataChannel} channel
   */
  use(channel) {
    this.#channel.removeEventListener('message', this.#hold)
    this.#channel = channel
    if (this.#files) return this.#files.use(channel)
    this.#early = []
    channel.addEventListener('message', this.#hold)
  }

  /**
   * Sends a file, after those sent before it. It resolves when the peer has it and has confirmed its
   * SHA-256, and rejects with a ClientError.
   * @param {Blob} blob
   * @param {SendFileOptions} [options]
   */
  async send(blob, options) {
    if (this.#closed) throw new ClientError('not-connected')
    return (await this.#load()).send(blob, options)
  }

  /**
   * Takes no more of a file that is coming in.
   * @param {number} id
   */
  cancel(id) {
    this.#files?.cancel(id)
  }

  close() {
    this.#closed = true
    this.#channel.removeEventListener('message', this.#hold)
    this.#files?.close()
  }

  #hold = (/** @type {MessageEvent} */ { data }) => {
    if (this.#early.length < MAX_EARLY) this.#early.push(data)
    this.#load().catch(() => {}) // its sender gives up by itself
  }

  async #load() {
    const module = await needed(import('./data.js'))
    return this.#files ?? this.#start(module)
  }

  /** @param {typeof import('./data.js')} module */
  #start({ Files }) {
    const channel = this.#channel
    channel.removeEventListener('message', this.#hold)
    const files = (this.#files = new Files({ channel: /** @type {FileChannel} */ (channel) }))
    for (const type of ['file', 'progress', 'failed']) hear(files, type, (detail) => fire(this, type, detail))
    if (this.#closed) files.close()
    for (const data of this.#early.splice(0)) channel.dispatchEvent(new MessageEvent('message', { data }))
    return files
  }
}
