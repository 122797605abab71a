// @ts-check
/** What the doctor asks the STUN and TURN servers, through the browser's own ICE agent. */
import { realClock } from '../timers.js'
import { bad, brief, none, ok } from './doctor-server.js'

/** @import { Clock } from '../timers.js' */
/** @import { Finding } from './doctor-server.js' */

/** How long one server may take, in milliseconds. */
export const PATIENCE = 8_000
/** How long a connection through the relay may take. */
const LOOP_PATIENCE = 15_000

/**
 * One URL of an RTCIceServer (RFC 7064, RFC 7065).
 * @typedef {'udp' | 'tcp' | 'tls'} Transport
 * @typedef {{ kind: 'stun' | 'turn', transport: Transport, url: string, server: RTCIceServer }} Target
 *
 * @typedef {'host' | 'mdns' | 'srflx' | 'relay'} CandidateKind
 *
 * What an ICE agent found. `took`: milliseconds to the kind that was looked for, or to the end.
 * @typedef {{ kinds: Set<CandidateKind>, errors: { code: number, said: string }[], complete: boolean, took: number }} Gathered
 *
 * @typedef {object} IceEnv
 * @property {new (configuration: RTCConfiguration) => RTCPeerConnection} RTCPeerConnection
 * @property {Clock} clock
 */

/** @returns {IceEnv} */
export const browserIceEnv = () => ({ RTCPeerConnection, clock: realClock })

/**
 * Takes the servers apart, one target a URL. What is no STUN or TURN URL is left out.
 * @param {RTCIceServer[]} servers
 * @returns {Target[]}
 */
export function targetsOf(servers) {
  return servers.flatMap(({ urls, ...credentials }) => [urls].flat().flatMap((url) => {
    const [, scheme = '', secure = ''] = /^(stun|turn)(s?):/i.exec(url) ?? []
    if (!scheme) return []
    const transport = secure ? 'tls' : /[?&]transport=tcp\b/i.test(url) ? 'tcp' : 'udp'
    return { kind: /** @type {Target['kind']} */ (scheme.toLowerCase()), transport, url, server: { urls: [url], ...credentials } }
  }))
}

/**
 * Lets the browser look for ways to itself, until it has found `wanted`, or all, or its time is over.
 * @param {IceEnv} env
 * @param {RTCConfiguration} configuration
 * @param {CandidateKind} [wanted]
 * @returns {Promise<Gathered>}
 */
export async function gather({ RTCPeerConnection, clock }, configuration, wanted) {
  const began = clock.now()
  /** @type {Gathered} */
  const found = { kinds: new Set(), errors: [], complete: false, took: 0 }
  /** @type {RTCPeerConnection | undefined} */
  let pc
  /** @type {unknown} */
  let timer
  try {
    const connection = (pc = new RTCPeerConnection(configuration))
    await new Promise((resolve, reject) => {
      timer = clock.setTimeout(() => resolve(undefined), PATIENCE)
      connection.addEventListener('icecandidate', ({ candidate }) => {
        if (candidate?.candidate) found.kinds.add(kindOf(candidate))
        found.complete = candidate === null
        if (found.complete || (wanted && found.kinds.has(wanted))) resolve(undefined)
      })
      connection.addEventListener('icecandidateerror', ({ errorCode, errorText }) => {
        found.errors.push({ code: errorCode, said: errorText })
      })
      connection.createDataChannel('')
      connection.setLocalDescription().catch(reject)
    })
  } catch (error) {
    found.errors.push({ code: 0, said: /** @type {Error} */ (error).message }) // a URL that this browser does not take
  }
  clock.clearTimeout(timer)
  pc?.close()
  found.took = clock.now() - began
  return found
}

/** @param {RTCIceCandidate} candidate @returns {CandidateKind} */
function kindOf({ type, candidate }) {
  if (type === 'srflx' || type === 'relay') return type
  return /\.local\b/.test(candidate) ? 'mdns' : 'host'
}

/**
 * @param {IceEnv} env
 * @param {Target} target
 * @returns {Promise<Finding>}
 */
export async function askStun(env, { url, server }) {
  const { kinds, errors, complete, took } = await gather(env, { iceServers: [server] }, 'srflx')
  const [error] = errors
  if (kinds.has('srflx')) return ok('found', { url, ms: brief(took) })
  if (error) return bad('failed', { url, ...error, code: error.code || '' })
  // A browser that tells errors and ends without any got an answer, which it had no use for.
  return complete && 'onicecandidateerror' in env.RTCPeerConnection.prototype ? ok('same', { url }) : bad('silent', { url })
}

/**
 * @param {IceEnv} env
 * @param {Target} target
 * @returns {Promise<Finding>}
 */
export async function askTurn(env, { url, server }) {
  const { kinds, errors, took } = await gather(env, { iceServers: [server], iceTransportPolicy: 'relay' }, 'relay')
  if (kinds.has('relay')) return ok('found', { url, ms: brief(took) })
  // The server's own word says more than that one of several ways to it failed (701).
  const error = errors.find(({ code }) => code >= 300 && code < 700) ?? errors[0]
  if (!error) return bad('silent', { url, seconds: PATIENCE / 1000 })
  return bad(turnFault(error.code), { url, said: error.said, code: error.code || '' })
}

/** STUN error codes (RFC 8489, section 14.8; RFC 8656, section 19); pion's servers say 400 for a wrong password. @param {number} code */
function turnFault(code) {
  if ([400, 401, 403, 431, 441].includes(code)) return 'credentials'
  return code === 486 || code === 508 ? 'quota' : 'failed'
}

/**
 * Two connections in this page, which have no way to each other but the relay: does a message pass?
 * @param {IceEnv} env
 * @param {RTCIceServer[]} iceServers  those that gave a relayed address
 * @returns {Promise<Finding>}
 */
export async function askLoop({ RTCPeerConnection, clock }, iceServers) {
  if (iceServers.length === 0) return none('no-relay')
  const ends = [0, 1].map(() => new RTCPeerConnection({ iceServers, iceTransportPolicy: 'relay' }))
  const [a, b] = /** @type {[RTCPeerConnection, RTCPeerConnection]} */ (ends)
  /** @type {unknown} */
  let timer
  try {
    return await new Promise((resolve, reject) => {
      timer = clock.setTimeout(() => resolve(bad('failed')), LOOP_PATIENCE)
      for (const [from, to] of [[a, b], [b, a]]) {
        from?.addEventListener('icecandidate', ({ candidate }) => candidate && to?.addIceCandidate(candidate).catch(reject))
        from?.addEventListener('connectionstatechange', () => from.connectionState === 'failed' && resolve(bad('failed')))
      }
      b.addEventListener('datachannel', ({ channel }) => channel.addEventListener('message', ({ data }) => channel.send(data)))
      const channel = a.createDataChannel('')
      let sent = 0
      channel.addEventListener('open', () => {
        sent = clock.now()
        channel.send('duet doctor')
      })
      channel.addEventListener('message', () => resolve(ok('passes', { ms: brief(clock.now() - sent) })))
      introduce(a, b).catch(reject)
    })
  } catch {
    return bad('failed')
  } finally {
    clock.clearTimeout(timer)
    for (const end of ends) end.close()
  }
}

/** @param {RTCPeerConnection} a @param {RTCPeerConnection} b */
async function introduce(a, b) {
  await a.setLocalDescription()
  await b.setRemoteDescription(/** @type {RTCSessionDescription} */ (a.localDescription))
  await b.setLocalDescription()
  await a.setRemoteDescription(/** @type {RTCSessionDescription} */ (b.localDescription))
}

/**
 * Which kinds of way to itself this browser finds. Where it does not take one of the servers, it is asked
 * without any.
 * @param {IceEnv} env
 * @param {RTCIceServer[]} iceServers
 * @returns {Promise<Set<CandidateKind>>}
 */
export async function candidateKinds(env, iceServers) {
  const { kinds, errors } = await gather(env, { iceServers })
  return kinds.size === 0 && errors.length > 0 ? (await gather(env, { iceServers: [] })).kinds : kinds
}
