// @ts-check
/**
 * When a call's path is repaired, and how: a pure function of what happened and when. All times are
 * milliseconds of one clock.
 *
 * Browsers differ in what they report of a dead path: one side may stay `disconnected` for ever while
 * the other becomes `failed`, and with a relay that cannot be reached the state may stay `new`. So
 * nothing here waits for `failed`.
 */

/** Never connected this long after the start: it is said, and tried anew. */
const START = 15_000
/** `disconnected` often heals by itself; after this long it does not. */
const DISCONNECTED = 2_000
/** After a changed network a `disconnected` within this time is not given those two seconds. */
const SUSPECT = 10_000
/** A path that stays up this long counts as repaired: the waits start short again. */
const STABLE = 5_000
/** This many restarts in vain, and then a new connection: a rebuild. */
const RESTARTS = 3
/** The wait after the first try, and how much longer it is after each further one. */
const WAIT = 5_000
const LONGER = 1_000
/** So that media is back within 10 s of its path; and after many tries in vain, less often. */
const CAP = 8_000
const MANY = 20
const CAP_OF_MANY = 30_000

/**
 * @typedef {object} Recovery
 * @property {'new' | 'up' | 'down'} path  never connected yet; connected; was connected
 * @property {number} lateAt  when the start counts as late; Infinity: it does not any more
 * @property {number} actAt  when the next try is due; Infinity: none is
 * @property {number} notBefore  the earliest time of the next try
 * @property {number} upSince
 * @property {number} suspectUntil
 * @property {number} restarts  in a row, since the last rebuild
 * @property {number} tries  restarts and rebuilds since the path was last stable
 * @property {boolean} broken  this connection is of no use any more
 *
 * - `connected`, `disconnected`, `failed`: the states of the RTCPeerConnection
 * - `network`: this device has another network, or one again
 * - `silent`: a check of the path after that found that nothing comes
 * - `offered`: the peer tries by itself
 * - `broken`: the browser could not apply a description
 * - `rebuilt`: the peer wants a new connection, and there is one now
 * - `tick`: time has passed. `open`: an offer waits for its answer, so that another would be no try
 * @typedef {'connected' | 'disconnected' | 'failed' | 'network' | 'silent' | 'offered' | 'broken' | 'rebuilt'} RecoveryEvent
 * @typedef {{ type: RecoveryEvent } | { type: 'tick', open?: boolean }} RecoveryInput
 *
 * - `restart`: restart ICE
 * - `rebuild`: make a new RTCPeerConnection
 * - `check`: find out whether anything still comes over the path
 * - `late`: the start takes unusually long
 * @typedef {'restart' | 'rebuild' | 'check' | 'late'} RecoveryAction
 */

/**
 * @param {number} now
 * @returns {Recovery}
 */
export function startRecovery(now) {
  return {
    path: 'new',
    lateAt: now + START,
    actAt: Infinity,
    notBefore: now,
    upSince: now,
    suspectUntil: now,
    restarts: 0,
    tries: 0,
    broken: false,
  }
}

/**
 * When `step` wants a `tick`.
 * @param {Recovery} state
 */
export const nextTick = ({ lateAt, actAt }) => Math.min(lateAt, actAt)

/**
 * @param {Recovery} state
 * @param {RecoveryInput} event
 * @param {number} now
 * @returns {{ state: Recovery, actions: RecoveryAction[] }}
 */
export function step(state, event, now) {
  switch (event.type) {
    case 'connected':
      return to({ ...state, path: 'up', upSince: now, lateAt: Infinity, actAt: Infinity })
    case 'disconnected':
      return to(due(lost(state, now), now < state.suspectUntil ? now : now + DISCONNECTED))
    case 'failed':
      return to(due(lost(state, now), now))
    case 'silent':
      return to(due(state, now))
    case 'network':
      if (state.path === 'up') return to({ ...state, suspectUntil: now + SUSPECT }, 'check')
      return to(due({ ...state, tries: 0 }, now))
    case 'broken':
      if (state.path === 'up') return to(state)
      return to(due({ ...state, broken: true }, now))
    case 'offered':
      return to(state.path === 'up' ? state : postponed(state, now))
    case 'rebuilt':
      return to(rebuilt(state, now))
    case 'tick':
      return tick(state, event.open === true, now)
  }
}

/**
 * @param {Recovery} state
 * @param {RecoveryAction[]} actions
 */
const to = (state, ...actions) => ({ state, actions })

/**
 * @param {Recovery} state
 * @param {boolean} open
 * @param {number} now
 * @returns {{ state: Recovery, actions: RecoveryAction[] }}
 */
function tick(state, open, now) {
  if (now >= state.lateAt) {
    const { state: next, actions } = tick(due({ ...state, lateAt: Infinity }, now), open, now)
    return to(next, 'late', ...actions)
  }
  if (now < state.actAt) return to(state)
  if (open && !state.broken) return to({ ...state, actAt: now + WAIT })
  const rebuild = state.broken || state.restarts >= RESTARTS
  const next = {
    ...state,
    broken: false,
    restarts: rebuild ? 0 : state.restarts + 1,
    tries: state.tries + 1,
    notBefore: now + wait(state.tries),
    // A path that is up by name only shows by `disconnected` that this one try was not enough.
    actAt: state.path === 'up' ? Infinity : now + wait(state.tries),
  }
  return to(next, rebuild ? 'rebuild' : 'restart')
}

/**
 * The path is down. A path that was up only for a moment was not repaired.
 * @param {Recovery} state
 * @param {number} now
 * @returns {Recovery}
 */
function lost(state, now) {
  if (state.path !== 'up') return state
  const stable = now - state.upSince >= STABLE
  return { ...state, path: 'down', restarts: stable ? 0 : state.restarts, tries: stable ? 0 : state.tries }
}

/**
 * A try is due at `at`, or before where one was, but not too soon after the last.
 * @param {Recovery} state
 * @param {number} at
 * @returns {Recovery}
 */
function due(state, at) {
  return { ...state, actAt: Math.max(Math.min(at, state.actAt), state.notBefore) }
}

/**
 * Somebody has just tried: give it time.
 * @param {Recovery} state
 * @param {number} now
 * @returns {Recovery}
 */
function postponed(state, now) {
  const notBefore = Math.max(state.notBefore, now + WAIT)
  return { ...state, notBefore, actAt: state.actAt === Infinity ? Infinity : Math.max(state.actAt, notBefore) }
}

/**
 * There is a new connection, which has yet to come up.
 * @param {Recovery} state
 * @param {number} now
 * @returns {Recovery}
 */
function rebuilt(state, now) {
  const path = state.path === 'new' ? 'new' : 'down'
  return postponed({ ...state, path, restarts: 0, broken: false, actAt: Math.max(now, Math.min(state.actAt, now + CAP)) }, now)
}

/** @param {number} tries */
function wait(tries) {
  return tries < MANY ? Math.min(CAP, WAIT + LONGER * tries) : CAP_OF_MANY
}
