// @ts-check
/** What the status line, the pill and the cards say: the one thing that matters most right now. */
import { text } from './texts.js'

/** @import { Call } from '../call.js' */
/** @import { End } from '../signaling.js' */
/** @import { Room, Member } from '../room.js' */
/** @import { LocalMedia, MediaProblem } from '../media.js' */
/** @import { TextKey, Values } from './texts.js' */

/** A relay that refuses matters when no path has come up so long after, in milliseconds. */
export const REFUSAL_SHOWS = 2000

/**
 * @typedef {object} Status
 * @property {TextKey} key
 * @property {Values} [values]
 * @property {'quiet' | 'busy' | 'good' | 'bad'} [level]
 *
 * A failure: the texts `card.KEY.title`, `.what`, `.step1` and so on.
 * @typedef {{ key: string, values?: Values }} Failure
 *
 * @typedef {'direct' | 'relay' | 'reconnecting' | 'connecting' | 'waiting'} PillState
 */

/**
 * @param {Pick<Room, 'members' | 'signal' | 'joined' | 'ended'>} room
 * @param {Status} [news]  something that has just happened
 * @returns {Status}
 */
export function statusOf(room, news) {
  const members = [...room.members.values()]
  const callIsUp = members.some(({ call }) => call.state === 'connected')
  if (room.ended) return endOf(room.ended, callIsUp)
  if (room.signal.state !== 'joined') return signalOf(room, callIsUp)
  if (news) return news
  if (members.length === 0) return { key: 'waiting', level: 'quiet' }
  const refused = members.map((member) => refusalOf(member)).find(Boolean)
  if (refused && !callIsUp) return { key: 'relay-refused', values: refused.values, level: 'bad' }
  return members.map(memberStatus).find((status) => status.key !== 'connected') ?? allConnected(members)
}

/**
 * @param {Pick<Room, 'signal' | 'joined'>} room
 * @param {boolean} callIsUp
 * @returns {Status}
 */
function signalOf({ signal, joined }, callIsUp) {
  if (callIsUp) return { key: 'signal-lost-call-up', level: 'busy' }
  if (joined) return { key: 'signal-lost', level: 'busy' }
  return signal.state === 'waiting' ? { key: 'unreachable', level: 'bad' } : { key: 'connecting', level: 'busy' }
}

/**
 * @param {Member} member
 * @returns {Status}
 */
function memberStatus(member) {
  const values = { name: nameOf(member) }
  const { state } = member.call
  if (member.presence !== 'here') {
    return { key: state === 'connected' ? 'peer-away-call-up' : 'peer-away', values, level: 'busy' }
  }
  switch (state) {
    case 'connected':
      return { key: 'connected', values, level: 'good' }
    case 'unstable':
      return { key: 'unstable', values, level: 'busy' }
    case 'blocked':
    case 'unanswered':
      return { key: state, values, level: 'bad' }
    default:
      return { key: 'calling', values, level: 'busy' }
  }
}

/**
 * @param {Member[]} members
 * @returns {Status}
 */
function allConnected(members) {
  const [only] = members
  if (only && members.length === 1) return { key: 'connected', values: { name: nameOf(only) }, level: 'good' }
  return { key: 'connectedMany', values: { count: members.length }, level: 'good' }
}

/**
 * @param {End} end
 * @param {boolean} [callIsUp]
 * @returns {Status}
 */
export function endOf({ why, code = 0, error }, callIsUp = false) {
  if (why === 'left') return { key: 'left', level: 'quiet' }
  if (code === 4501) return { key: 'kicked', level: 'bad' }
  if (code >= 4500) return { key: 'replaced', level: 'bad' }
  if (callIsUp) return { key: 'signal-ended-call-up', values: { code: error?.code ?? code }, level: 'bad' }
  if (why === 'closed') return { key: 'signal-ended', values: { code }, level: 'bad' }
  switch (error?.code) {
    case 'room-full':
      if (error.retryAfter) return { key: 'room-full-retry', values: { seconds: error.retryAfter }, level: 'bad' }
      return { key: 'room-full', level: 'bad' }
    case 'unauthorized':
    case 'forbidden':
      return { key: error.code, level: 'bad' }
    default:
      return { key: 'refused', values: { message: error?.message ?? '' }, level: 'bad' }
  }
}

/**
 * Why others cannot see or hear us; undefined where they can.
 * @param {Pick<LocalMedia, 'problems'>} media
 * @returns {Status | undefined}
 */
export function mediaNote({ problems }) {
  const problem = problems.get('audio') ?? problems.get('video')
  if (!problem) return undefined
  if (problem !== 'missing') return { key: `media-${problem}` }
  if (problems.get('audio') === 'missing' && problems.get('video') === 'missing') return { key: 'media-missing-both' }
  return { key: problems.has('audio') ? 'media-missing-audio' : 'media-missing-video' }
}

/**
 * The card that explains a fault of the devices.
 * @param {Pick<LocalMedia, 'problems'>} media
 * @returns {MediaProblem | undefined}
 */
export function mediaFailure({ problems }) {
  return problems.get('audio') ?? problems.get('video')
}

/**
 * Rooms that were not reached at the first try: their card stays while the next ones are made.
 * @type {WeakSet<object>}
 */
const unreached = new WeakSet()

/**
 * The card that stands in the stage: why there is nobody to be seen. It is shown only while no call
 * is up.
 * @param {Pick<Room, 'members' | 'signal' | 'joined' | 'ended'>} room
 * @returns {Failure | undefined}
 */
export function stageFailure(room) {
  const members = [...room.members.values()]
  if (members.some(({ call }) => call.state === 'connected')) return undefined
  if (room.signal.state === 'waiting') unreached.add(room)
  if (!room.joined && !room.ended && unreached.has(room)) return { key: 'unreachable' }
  for (const member of members) {
    const values = { name: nameOf(member) }
    const refused = refusalOf(member)
    if (refused) return refused
    if (member.call.state === 'blocked') return { key: hasRelay(member.call) ? 'blocked' : 'relay-missing', values }
    if (member.call.state === 'unanswered' && member.presence === 'here') return { key: 'unanswered', values }
  }
  return undefined
}

/**
 * The relay's refusal, where there is no path and no relayed one can come: no URL gave a candidate.
 * @param {Member} member
 * @returns {Failure | undefined}
 */
function refusalOf(member) {
  const { refusal, pc } = member.call
  if (!refusal || member.presence !== 'here' || performance.now() - refusal.at < REFUSAL_SHOWS) return undefined
  const { code, text: words, url } = refusal
  if (!/^turns?:/i.test(url) || / typ relay/.test(pc.localDescription?.sdp ?? '')) return undefined
  return { key: 'relay-refused', values: { name: nameOf(member), answer: `${code} ${words.slice(0, 100)}`.replace(/[ .]+$/, ''), url } }
}

/** @param {Pick<Call, 'pc'>} call */
function hasRelay({ pc }) {
  const servers = pc?.getConfiguration?.().iceServers ?? []
  return servers.some(({ urls }) => [urls].flat().some((url) => /^turns?:/i.test(url ?? '')))
}

/**
 * @param {Pick<Room, 'members' | 'signal'>} room
 * @param {'direct' | 'relay' | 'unknown'} [path]  of the media, where it is known
 * @returns {PillState}
 */
export function pillOf({ members, signal }, path) {
  const states = [...members.values()].map(({ call }) => call.state)
  const lost = signal.state !== 'joined' && signal.state !== 'idle'
  if (states.includes('unstable') || (lost && states.includes('connected'))) return 'reconnecting'
  if (!states.includes('connected')) return states.length === 0 && !lost ? 'waiting' : 'connecting'
  return path === 'relay' ? 'relay' : path === 'direct' ? 'direct' : 'connecting'
}

/** @param {Pick<Member, 'name'>} member */
export function nameOf(member) {
  return member.name || text('somebody')
}
