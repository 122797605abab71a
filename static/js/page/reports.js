// @ts-check
/**
 * Reports to the server how calls fare, where the user agreed to it: the state, whether the path is
 * direct or relayed, and how long it took. No addresses, no descriptions (docs/protocol.md, section 2).
 */

/** @import { Room } from '../room.js' */
/** @import { Summary } from '../stats.js' */

/**
 * @param {Room} room
 * @param {object} options
 * @param {() => boolean} options.allowed  asked before each report
 * @param {(peerId: string) => Summary['path'] | undefined} options.pathOf
 * @param {AbortSignal} options.signal
 * @param {() => number} [options.now]  milliseconds
 */
export function reportCalls(room, { allowed, pathOf, signal, now = () => performance.now() }) {
  const { signaling } = room
  /** @type {Map<string, number>} when a peer was answered, or answered */
  const answered = new Map()
  /** @type {Map<string, string>} what was reported of a peer last */
  const reported = new Map()
  let isKnown = true // to the server

  signaling.addEventListener('envelope', (event) => {
    const { message } = /** @type {CustomEvent} */ (event).detail
    const peer = message.from ?? message.to
    if (message.type === 'answer' && peer && !answered.has(peer)) answered.set(peer, now())
  }, { signal })
  signaling.addEventListener('refused', (event) => {
    if (/** @type {CustomEvent} */ (event).detail.for === 'report') isKnown = false
  }, { signal })

  const look = () => {
    for (const { id, call } of room.members.values()) {
      const path = pathOf(id)
      const state = call.state === 'connected' ? 'connected' : call.state === 'unstable' ? 'disconnected' : call.state === 'blocked' ? 'failed' : ''
      if (!state || reported.get(id) === state || (state === 'connected' && (!path || path === 'unknown'))) continue
      const first = !reported.has(id) && answered.has(id)
      reported.set(id, state)
      if (!isKnown || !allowed()) continue
      signaling.report({
        state,
        path: path === 'unknown' ? undefined : path,
        after: first && state === 'connected' ? Math.round(now() - /** @type {number} */ (answered.get(id))) : undefined,
      })
    }
  }
  room.addEventListener('change', look, { signal })
  return look
}
