import assert from 'node:assert/strict'
import { test } from 'node:test'
import { endOf, mediaFailure, mediaNote, nameOf, pillOf, REFUSAL_SHOWS, stageFailure, statusOf } from '../../js/page/status.js'

const member = (state, presence = 'here', name = 'Ada') => ({ id: name, name, presence, call: { state } })
const room = (members = [], { state = 'joined', joined = true, ended } = {}) => ({
  members: new Map(members.map((m) => [m.id, m])), signal: { state }, joined, ended,
})
const key = (...args) => statusOf(room(...args)).key

test('the status line: what matters most', () => {
  assert.equal(key([], { state: 'connecting', joined: false }), 'connecting')
  assert.equal(key([], { state: 'waiting', joined: false }), 'unreachable')
  assert.equal(key(), 'waiting')
  assert.equal(key([member('connecting')]), 'calling')
  assert.equal(key([member('unanswered')]), 'unanswered')
  assert.equal(key([member('blocked')]), 'blocked')
  assert.equal(key([member('connected')]), 'connected')
  assert.equal(key([member('connected'), member('connected', 'here', 'Bob')]), 'connectedMany')
  assert.equal(key([member('connected'), member('unstable', 'here', 'Bob')]), 'unstable')
  assert.equal(key([member('connected', 'away')]), 'peer-away-call-up')
  assert.equal(key([member('unstable', 'away')]), 'peer-away')
  assert.equal(key([member('connected')], { state: 'waiting' }), 'signal-lost-call-up')
  assert.equal(key([member('unstable')], { state: 'connecting' }), 'signal-lost')
  assert.equal(statusOf(room(), { key: 'peer-back' }).key, 'peer-back')
  assert.equal(statusOf(room([], { state: 'waiting' }), { key: 'peer-back' }).key, 'signal-lost')
})

test('the end in plain words', () => {
  const refused = (error) => endOf({ why: 'refused', error }).key
  assert.equal(endOf({ why: 'left' }).key, 'left')
  assert.equal(endOf({ why: 'closed', code: 4500 }).key, 'replaced')
  assert.equal(endOf({ why: 'closed', code: 4501 }).key, 'kicked')
  assert.equal(endOf({ why: 'closed', code: 1008 }).key, 'signal-ended')
  for (const ended of [{ why: 'closed', code: 1008 }, { why: 'refused', error: { code: 'room-full' } }]) {
    assert.equal(key([member('connected')], { ended }), 'signal-ended-call-up')
  }
  assert.equal(refused({ code: 'room-full' }), 'room-full')
  assert.equal(refused({ code: 'room-full', retryAfter: 8 }), 'room-full-retry')
  assert.equal(refused({ code: 'forbidden' }), 'forbidden')
  assert.equal(refused({ code: 'bad-message', message: 'why' }), 'refused')
})

test('devices: each fault has its own text', () => {
  const note = (faults) => mediaNote({ problems: new Map(Object.entries(faults)) })?.key
  assert.equal(note({}), undefined)
  assert.equal(note({ audio: 'missing', video: 'missing' }), 'media-missing-both')
  assert.equal(note({ video: 'missing' }), 'media-missing-video')
  assert.equal(note({ audio: 'missing' }), 'media-missing-audio')
  assert.equal(note({ audio: 'missing', video: 'busy' }), 'media-missing-audio')
  for (const problem of ['insecure', 'denied', 'busy', 'failed']) {
    assert.equal(note({ video: problem }), `media-${problem}`)
    assert.equal(mediaFailure({ problems: new Map([['video', problem]]) }), problem)
  }
  assert.equal(mediaFailure({ problems: new Map() }), undefined)
})

test('the card in the stage: why there is nobody to be seen', () => {
  const failure = (...args) => stageFailure(room(...args))
  const blocked = (iceServers) => ({ ...member('blocked'), call: { state: 'blocked', pc: { getConfiguration: () => ({ iceServers }) } } })
  assert.equal(failure(), undefined)
  assert.deepEqual(failure([], { state: 'waiting', joined: false }), { key: 'unreachable' })
  assert.equal(failure([], { state: 'connecting', joined: false }), undefined)
  const trying = room([], { state: 'waiting', joined: false })
  stageFailure(trying)
  assert.deepEqual(stageFailure(Object.assign(trying, { signal: { state: 'connecting' } })), { key: 'unreachable' }, 'it stays during the next try')
  assert.equal(stageFailure(Object.assign(trying, { joined: true })), undefined)
  assert.equal(failure([], { state: 'waiting' }), undefined) // was there before: a banner says so
  assert.deepEqual(failure([blocked([])]), { key: 'relay-missing', values: { name: 'Ada' } })
  assert.equal(failure([blocked([{ urls: 'stun:s.example' }])]).key, 'relay-missing')
  assert.equal(failure([blocked([{ urls: ['stun:s.example', 'turns:t.example'] }])]).key, 'blocked')
  assert.equal(failure([member('unanswered')]).key, 'unanswered')
  assert.equal(failure([member('unanswered', 'away')]), undefined)
  assert.equal(failure([blocked([]), member('connected', 'here', 'Bob')]), undefined) // the tile says it
})

test('a relay that refuses: said after a while, where no path can come', () => {
  const ago = (ms, more = {}) => ({ code: 401, text: 'Unauthorized', url: 'turn:t.example', at: performance.now() - ms, ...more })
  const refused = (refusal, { state = 'connecting', sdp = '', presence } = {}) =>
    ({ ...member('connecting', presence), call: { state, refusal, pc: { localDescription: { sdp }, getConfiguration: () => ({}) } } })
  const card = (...args) => stageFailure(room([refused(...args)]))
  const late = ago(REFUSAL_SHOWS)
  assert.deepEqual(card(late), { key: 'relay-refused', values: { name: 'Ada', answer: '401 Unauthorized', url: 'turn:t.example' } })
  assert.equal(card(ago(REFUSAL_SHOWS - 500)), undefined)
  assert.equal(card(late, { sdp: 'a=candidate:1 1 udp 1 192.0.2.1 1 typ relay' }), undefined, 'another URL gave a candidate')
  assert.equal(card(ago(REFUSAL_SHOWS, { url: 'stun:s.example' })), undefined)
  assert.equal(card(late, { presence: 'away' }), undefined)
  assert.equal(card(late, { state: 'unstable' }).key, 'relay-refused')
  assert.equal(card(late, { state: 'blocked' }).key, 'relay-refused')
  assert.equal(card(ago(REFUSAL_SHOWS, { text: 'x'.repeat(1000) })).values.answer.length, 104)
  assert.equal(card(ago(REFUSAL_SHOWS, { text: '' })).values.answer, '401')
  assert.equal(card(ago(REFUSAL_SHOWS, { text: 'Wrong.' })).values.answer, '401 Wrong')
  assert.deepEqual(statusOf(room([refused(late)])).key, 'relay-refused')
  assert.equal(statusOf(room([refused(late), member('connected', 'here', 'Bob')])).key, 'calling')
})

test('the pill', () => {
  const pill = (members, path, state) => pillOf(room(members, { state }), path)
  assert.equal(pill([]), 'waiting')
  assert.equal(pill([], undefined, 'connecting'), 'connecting')
  assert.equal(pill([member('connecting')]), 'connecting')
  assert.equal(pill([member('connected')]), 'connecting') // until the path is known
  assert.equal(pill([member('connected')], 'direct'), 'direct')
  assert.equal(pill([member('connected')], 'relay'), 'relay')
  assert.equal(pill([member('unstable')], 'direct'), 'reconnecting')
  assert.equal(pill([member('connected')], 'direct', 'waiting'), 'reconnecting')
})

test('somebody without a name has one', () => {
  assert.equal(nameOf({ name: '' }), 'Guest')
  assert.equal(nameOf({ name: 'Ada' }), 'Ada')
})
