// @ts-check
/** What can go wrong, as one kind of error: a code, a text for people, and whether trying again helps. */

/** @import { End } from './signaling.js' */

/**
 * Codes of the protocol (docs/protocol.md, section 6), and of the client alone.
 * @typedef {'bad-message' | 'unknown-type' | 'not-joined' | 'already-joined' | 'room-full' | 'no-peer' | 'busy'
 *   | 'rate-limited' | 'unauthorized' | 'forbidden' | 'stale-attempt' | 'out-of-sync' | 'server-full'
 *   | 'unreachable' | 'closed' | 'replaced' | 'kicked' | 'left' | 'aborted' | 'insecure' | 'bad-url'
 *   | 'media-denied' | 'media-missing' | 'media-busy' | 'media-failed' | 'too-big' | 'cancelled'
 *   | 'not-connected' | 'bad-file' | 'damaged' | 'unreadable' | 'unsupported' | 'failed'} ErrorCode
 */

/**
 * English texts: what happened and what to do. Those with `retry` are worth another try as they are.
 * The server's errors bring a text of their own, and so do those of media.js and data.js.
 * @type {Partial<Record<ErrorCode, { text?: string, retry?: true }>>}
 */
const KNOWN = {
  'room-full': { retry: true },
  'server-full': { retry: true },
  'no-peer': { text: 'Nobody is there to receive it. Wait until somebody joins.', retry: true },
  busy: { text: 'Too much is waiting to be sent. Try again in a moment.', retry: true },
  'rate-limited': { retry: true },
  'out-of-sync': { retry: true },
  unreachable: { text: 'The server does not answer. Check the address and the network, then try again.', retry: true },
  replaced: { text: 'Another page or tab of yours has taken this place.' },
  kicked: { text: 'The operator closed the room or removed you from it.' },
  left: { text: 'You have left the room.' },
  aborted: { text: 'Stopped before it was done.' },
  insecure: { text: 'Browsers allow this only on secure pages: use https:// and wss://, or localhost.' },
  'bad-url': { text: 'This is not the address of a server, such as wss://example.org/ws.' },
  'too-big': { text: 'This is more than can be sent at once. Send less, or in parts.' },
  cancelled: { text: 'Cancelled.' },
  'not-connected': { text: 'There is no connection to anybody now. Try again when there is.', retry: true },
  failed: { text: 'Something unexpected went wrong.', retry: true },
}

/** Everything that this library rejects a promise with. */
export class ClientError extends Error {
  /** One of ErrorCode, or a newer server's own. */
  code
  /** Whether the same once more, later, may work without anybody changing anything. */
  retryable
  /** Seconds to wait before that, where it is known. */
  retryAfter

  /**
   * @param {ErrorCode | (string & {})} code
   * @param {string} [message]  for people
   * @param {object} [more]
   * @param {boolean} [more.retryable]
   * @param {number} [more.retryAfter]  seconds
   * @param {unknown} [more.cause]
   */
  constructor(code, message, { retryable, retryAfter, cause } = {}) {
    const known = Object.hasOwn(KNOWN, code) ? KNOWN[/** @type {ErrorCode} */ (code)] : undefined
    super(message ?? known?.text ?? code, { cause })
    this.name = 'ClientError'
    this.code = code
    this.retryable = retryable ?? known?.retry === true
    this.retryAfter = retryAfter
  }
}

/**
 * A part of the library that is loaded when it is first needed. Where that fails it can be tried again.
 * @template T
 * @param {Promise<T>} module  what `import` gives
 */
export function needed(module) {
  return module.catch((cause) => {
    throw new ClientError('unreachable', undefined, { cause })
  })
}

/**
 * Why there is no signaling any more.
 * @param {End} end
 */
export function errorOfEnd({ why, code = 0, error }) {
  if (why === 'left') return new ClientError('left')
  if (error) return new ClientError(error.code, error.message, { retryAfter: error.retryAfter })
  if (code === 4501) return new ClientError('kicked')
  if (code >= 4500) return new ClientError('replaced')
  return new ClientError('closed', `The server ended the connection (close code ${code}).`)
}
