import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LocalMedia, problemOf } from '../../js/media.js'
import { endOf, mediaNote, statusOf } from '../../js/status.js'
import { text } from '../../js/texts.js'
import { FakeMediaStream } from './fakes.mjs'

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

test('texts are filled in', () => {
  assert.equal(text('calling', { name: '<Ada>' }), 'Calling <Ada> …')
  assert.equal(text('calling', { name: '{name}' }), 'Calling {name} …')
})

/** Devices of which some are there; the others fail with an error of this name. */
function devices(faults) {
  const asked = []
  return {
    asked,
    async getUserMedia(constraints) {
      const kinds = Object.keys(constraints)
      asked.push(kinds.join('+'))
      const fault = kinds.map((kind) => faults[kind]).find(Boolean)
      if (fault) throw Object.assign(new Error(), { name: fault })
      return new FakeMediaStream(kinds.map((kind) =>
        Object.assign(new EventTarget(), { kind, readyState: 'live', stop() { this.readyState = 'ended' } })))
    },
  }
}

const open = async (faults, env = {}) => {
  const media = new LocalMedia({ devices: devices(faults), secure: true, stream: new FakeMediaStream(), ...env })
  await media.open()
  return { kinds: media.tracks.map((t) => t.kind), note: mediaNote(media)?.key, media }
}

test('devices: each fault has its own text, and one missing device does not cost the other', async () => {
  const cases = [
    [{}, ['audio', 'video'], undefined],
    [{ video: 'NotFoundError' }, ['audio'], 'media-missing-video'],
    [{ audio: 'NotFoundError' }, ['video'], 'media-missing-audio'],
    [{ audio: 'NotFoundError', video: 'NotFoundError' }, [], 'media-missing-both'],
    [{ audio: 'NotAllowedError', video: 'NotAllowedError' }, [], 'media-denied'],
    [{ video: 'NotReadableError' }, ['audio'], 'media-busy'],
    [{ audio: 'TypeError', video: 'TypeError' }, [], 'media-failed'],
  ]
  for (const [faults, kinds, note] of cases) {
    const got = await open(faults)
    assert.deepEqual([got.kinds, got.note], [kinds, note], JSON.stringify(faults))
  }
  assert.equal((await open({}, { devices: undefined, secure: false })).note, 'media-insecure')
  assert.equal((await open({}, { devices: undefined, secure: true })).note, 'media-failed')
})

test('a refusal is not asked for twice', async () => {
  const refusing = devices({ audio: 'NotAllowedError', video: 'NotAllowedError' })
  await open({}, { devices: refusing })
  assert.deepEqual(refusing.asked, ['audio+video'])
})

test('a device can be switched off and on, and pulled out', async () => {
  const { media } = await open({})
  const [, camera] = media.tracks
  media.stop('video')
  assert.equal(camera.readyState, 'ended')
  assert.equal(media.track('video'), undefined)
  const again = await media.ensure('video')
  assert.equal(again, media.track('video'))
  assert.equal(await media.ensure('video'), again)
  again.readyState = 'ended'
  again.dispatchEvent(new Event('ended'))
  assert.equal(media.track('video'), undefined)
  assert.equal(mediaNote(media).key, 'media-busy')
  media.close()
  assert.deepEqual(media.tracks, [])
})

test('names of errors', () => {
  const of = (name) => problemOf(Object.assign(new Error(), { name }))
  assert.deepEqual(['NotAllowedError', 'SecurityError', 'NotFoundError', 'OverconstrainedError', 'NotReadableError', 'AbortError', 'TypeError'].map(of),
    ['denied', 'denied', 'missing', 'missing', 'busy', 'busy', 'failed'])
  assert.equal(problemOf('nonsense'), 'failed')
})
