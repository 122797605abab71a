// @ts-check
/** What the doctor asks the server: is it there, is its clock right, do WebSockets come through, for how long. */
import { CLOSE, decode, isRoom, socketURL, SUBPROTOCOL } from '../protocol.js'
import { realClock } from '../timers.js'
import { newRoom } from './home.js'

/** @import { ServerMessage } from '../protocol.js' */
/** @import { Clock } from '../timers.js' */

/** How long one answer may take, in milliseconds. */
export const PATIENCE = 10_000
/** Beyond this difference of the clocks, in milliseconds, tokens and credentials look expired, or not yet valid. */
const CLOCK_TOLERANCE = 30_000
/** How long a silent connection is watched, in milliseconds. */
export const IDLE = 120_000

/**
 * What became of a question. `outcome` names its texts, together with the line it belongs to. `none`: it
 * could not be asked, or the answer is a matter of taste.
 * @typedef {{ state: 'ok' | 'bad' | 'none' | 'busy', outcome: string, values?: Record<string, string | number> }} Finding
 *
 * What the doctor stands on, for tests to replace.
 * @typedef {object} Env
 * @property {string} base  the address of the page
 * @property {typeof globalThis.fetch} fetch
 * @property {new (url: string, protocol: string) => WebSocket} WebSocket
 * @property {Clock} clock
 * @property {() => number} time  the clock on the wall, in milliseconds since 1970
 */

/** @returns {Env} */
export function browserEnv() {
  return {
    base: document.baseURI,
    fetch: (...request) => fetch(...request),
    WebSocket,
    clock: realClock,
    time: () => Date.now(),
  }
}

/** @type {(outcome: string, values?: Finding['values']) => Finding} */
export const ok = (outcome, values) => ({ state: 'ok', outcome, values })
/** @type {(outcome: string, values?: Finding['values']) => Finding} */
export const bad = (outcome, values) => ({ state: 'bad', outcome, values })
/** @type {(outcome: string, values?: Finding['values']) => Finding} */
export const none = (outcome, values) => ({ state: 'none', outcome, values })

/** A time for people, in whole milliseconds, never 0. @param {number} ms */
export const brief = (ms) => Math.max(1, Math.round(ms))

/** @param {number} status */
const isGateway = (status) => status === 502 || status === 504

/**
 * A request next to the page; undefined: no answer.
 * @param {Env} env
 * @param {string} path
 * @param {string} [method]
 */
function request(env, path, method = 'GET') {
  return env
    .fetch(new URL(path, env.base), { method, cache: 'no-store', credentials: 'same-origin', signal: AbortSignal.timeout(PATIENCE) })
    .catch(() => undefined)
}

/**
 * Whether the server is alive, and what its clock says.
 * @param {Env} env
 * @returns {Promise<{ health: Finding, clock: Finding }>}
 */
export async function askHealth(env) {
  const asked = env.clock.now()
  const answer = await request(env, 'healthz')
  const took = env.clock.now() - asked
  return { health: healthOf(answer?.status, took), clock: clockOf(answer?.headers.get('date'), env.time() - took / 2) }
}

/** @param {number | undefined} status @param {number} took */
function healthOf(status, took) {
  if (status === undefined) return bad('unreachable')
  if (status === 200) return ok('answers', { ms: brief(took) })
  return bad(isGateway(status) ? 'gateway' : 'status', { status })
}

/**
 * Compares the server's clock, which says whole seconds, with ours.
 * @param {string | null | undefined} date  of the answer
 * @param {number} now  ours at that moment, in milliseconds since 1970
 */
function clockOf(date, now) {
  const theirs = Date.parse(date ?? '')
  if (Number.isNaN(theirs)) return none('unknown')
  const ahead = theirs + 500 - now
  const seconds = Math.max(1, Math.ceil(Math.abs(ahead) / 1000))
  if (Math.abs(ahead) <= CLOCK_TOLERANCE) return ok('right', { seconds: seconds + 1 })
  return bad(ahead > 0 ? 'ahead' : 'behind', { seconds })
}

/**
 * The room to ask for: one that nobody has, unless the token is for another one only. A token says so in
 * its claims (docs/tokens.md), which are read, not checked: that is the server's part.
 * @param {{ room: string, token?: string }} invitation
 */
export function roomFor({ room, token }) {
  if (!token) return `doctor-${newRoom()}`
  const claim = roomClaim(token)
  const own = claim.slice(0, -1) + newRoom()
  return claim.endsWith('*') && isRoom(own) ? own : room || claim
}

/** @param {string} token */
function roomClaim(token) {
  try {
    const bytes = Uint8Array.from(atob((token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/')), (c) => c.charCodeAt(0))
    return String(JSON.parse(new TextDecoder().decode(bytes)).room ?? '')
  } catch {
    return ''
  }
}

/**
 * A connection of the doctor's own: it asks one thing at a time, and is silent in between.
 * @typedef {ServerMessage | { type: 'closed', code: number } | { type: 'silent' }} Answer
 */
export class Connection {
  /** The close code, once it is closed. @type {Promise<number>} */
  closed
  #socket
  #clock
  /** @type {((message: ServerMessage) => void) | undefined} */
  #hear

  /** @param {WebSocket} socket  open @param {Clock} clock */
  constructor(socket, clock) {
    this.#socket = socket
    this.#clock = clock
    this.closed = new Promise((resolve) => socket.addEventListener('close', ({ code }) => resolve(code)))
    socket.addEventListener('message', ({ data }) => this.#hear?.(decode(data)))
  }

  /**
   * Opens a connection; undefined: there is none to be had.
   * @param {Env} env
   * @returns {Promise<Connection | undefined>}
   */
  static open({ base, WebSocket, clock }) {
    return new Promise((resolve) => {
      const socket = new WebSocket(socketURL(base), SUBPROTOCOL)
      const timer = clock.setTimeout(() => {
        socket.close()
        resolve(undefined)
      }, PATIENCE)
      const answered = (/** @type {Connection | undefined} */ connection) => {
        clock.clearTimeout(timer)
        resolve(connection)
      }
      socket.addEventListener('open', () => answered(new Connection(socket, clock)))
      socket.addEventListener('close', () => answered(undefined))
    })
  }

  /**
   * Says something and waits for the answer of that type, or an error.
   * @param {object} message
   * @param {ServerMessage['type']} type
   * @returns {Promise<Answer>}
   */
  ask(message, type) {
    return new Promise((resolve) => {
      const timer = this.#clock.setTimeout(() => resolve({ type: 'silent' }), PATIENCE)
      const end = (/** @type {Answer} */ answer) => {
        this.#clock.clearTimeout(timer)
        resolve(answer)
      }
      this.closed.then((code) => end({ type: 'closed', code }))
      this.#hear = (m) => (m.type === type || m.type === 'error') && end(m)
      this.#socket.send(JSON.stringify(message))
    })
  }

  /** @param {{ room: string, token?: string }} seat */
  join({ room, token }) {
    return this.ask({ type: 'join', room, name: 'duet doctor', token }, 'joined')
  }

  close() {
    this.#socket.close(CLOSE.normal)
  }
}

/**
 * Opens a WebSocket, asks for a sign of life and for a place in a room, and gives all of it up again.
 * `iceServers` is undefined where the server did not get as far as naming them.
 * @param {Env} env
 * @param {{ room: string, token?: string }} invitation
 * @returns {Promise<{ websocket: Finding, origin: Finding, join: Finding, iceServers?: RTCIceServer[] }>}
 */
export async function askSocket(env, invitation) {
  const { origin } = new URL(env.base)
  const connection = await Connection.open(env)
  if (!connection) return { ...(await whyClosed(env, origin)), join: none('not-asked') }
  try {
    const began = env.clock.now()
    const pong = await connection.ask({ type: 'ping' }, 'pong')
    const allowed = ok('allowed', { origin })
    if (pong.type !== 'pong') return { websocket: bad('silent', { seconds: PATIENCE / 1000 }), origin: allowed, join: none('not-asked') }
    const websocket = ok('open', { ms: brief(env.clock.now() - began) })
    const asked = env.clock.now()
    const answer = await connection.join({ room: roomFor(invitation), token: invitation.token })
    const join = joinOf(answer, Boolean(invitation.token), env.clock.now() - asked)
    return { websocket, origin: allowed, join, iceServers: answer.type === 'joined' ? answer.iceServers : undefined }
  } finally {
    connection.close()
  }
}

/**
 * A browser does not say why there is no WebSocket. Plain requests to the same place find out: the server
 * answers a GET with 426, and refuses a POST, which carries the page's origin, as it refuses a handshake.
 * @param {Env} env
 * @param {string} origin
 */
async function whyClosed(env, origin) {
  const unknown = none('not-asked')
  const got = await request(env, 'ws')
  if (!got) return { websocket: bad('unreachable'), origin: unknown }
  const { status } = got
  if (status === 426 || status === 400) {
    const posted = await request(env, 'ws', 'POST')
    if (posted?.status !== 403) return { websocket: bad('upgrade', { status }), origin: unknown }
    return { websocket: none('origin'), origin: bad('refused', { origin, said: await firstLine(posted) }) }
  }
  if (isGateway(status)) return { websocket: bad('gateway', { status }), origin: unknown }
  if ([403, 429, 503].includes(status)) return { websocket: bad('refused', { status, said: await firstLine(got) }), origin: unknown }
  return { websocket: bad('elsewhere', { status }), origin: unknown }
}

/** What an answer says to people, if it says something short. @param {Response} response */
async function firstLine(response) {
  const isText = response.headers.get('content-type')?.startsWith('text/plain')
  const [line = ''] = isText ? (await response.text()).trim().split('\n') : []
  return line.slice(0, 300)
}

/**
 * @param {Answer} answer
 * @param {boolean} hasToken
 * @param {number} took
 */
function joinOf(answer, hasToken, took) {
  switch (answer.type) {
    case 'joined':
      return ok('joined', { ms: brief(took) })
    case 'error':
      if (answer.code === 'unauthorized' && !hasToken) return none('token')
      if (answer.code === 'room-full' && hasToken) return none('full')
      return bad('refused', { code: answer.code, said: String(answer.message) })
    case 'closed':
      return bad('closed', { code: answer.code })
    default:
      return bad('silent', { seconds: PATIENCE / 1000 })
  }
}

/**
 * Holds a connection on which nothing is said, and finds out how long it lives.
 * @param {Env} env
 * @param {{ room: string, token?: string }} invitation
 * @param {object} how
 * @param {(seconds: number) => void} how.tick  each second, while it lives
 * @param {AbortSignal} how.signal  ends it
 * @returns {Promise<Finding>}
 */
export async function watchIdle(env, invitation, { tick, signal }) {
  const connection = await Connection.open(env)
  try {
    if (!connection || (await connection.join({ room: roomFor(invitation), token: invitation.token })).type !== 'joined') return bad('failed')
    const { clock } = env
    const began = clock.now()
    const lived = () => Math.round((clock.now() - began) / 1000)
    const seconds = IDLE / 1000
    for (let second = 1; second <= seconds && !signal.aborted; second++) {
      tick(second - 1)
      const code = await Promise.race([connection.closed, pause(clock, began + second * 1000 - clock.now(), signal)])
      if (code !== undefined) return bad(isCut(code) ? 'cut' : 'ended', { lived: lived(), code })
    }
    if (signal.aborted) return none('stopped', { lived: lived() })
    const pong = await connection.ask({ type: 'ping' }, 'pong')
    return pong.type === 'pong' ? ok('lived', { seconds }) : bad('dead', { seconds })
  } finally {
    connection?.close()
  }
}

/** Not the server's own word (docs/protocol.md, section 7). @param {number} code */
const isCut = (code) => code < 1007

/**
 * @param {Clock} clock
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<undefined>}
 */
function pause(clock, ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clock.clearTimeout(timer)
      signal.removeEventListener('abort', end)
      resolve(undefined)
    }
    const timer = clock.setTimeout(end, ms)
    signal.addEventListener('abort', end)
  })
}
