import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MAX_CHAT, Room } from '../../js/room.js'
import { FakeClock } from './fakes.mjs'

class FakeSignaling extends EventTarget {
  sent = []
  accepts = true
  connect() {}
  send(message) {
    this.sent.push(message)
    return this.accepts
  }
  leave() {
    this.say('closed', { why: 'left' })
  }
  say(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }
}

class FakeCall extends EventTarget {
  state = 'connecting'
  away = false
  received = []
  resyncs = []
  said = []
  open = true
  constructor(options) {
    super()
    this.options = options
  }
  receive(m) {
    this.received.push(m.type)
  }
  resync(order) {
    this.resyncs.push(order)
  }
  say(data) {
    if (this.open) this.said.push(data)
    return this.open
  }
  async setTrack(kind, track) {
    this.track = { kind, track }
  }
  setIceServers(iceServers) {
    this.iceServers = iceServers
  }
  close() {
    this.to('closed')
  }
  to(state) {
    this.state = state
    this.dispatchEvent(new CustomEvent('state', { detail: state }))
  }
}

function setUp() {
  const clock = new FakeClock()
  const signaling = new FakeSignaling()
  const room = new Room({ signaling, clock, media: { audio: true, video: false }, newCall: (options) => new FakeCall(options) })
  const events = []
  for (const type of ['member', 'member-left', 'member-back', 'chat', 'closed']) {
    room.addEventListener(type, ({ detail }) => events.push([type, detail]))
  }
  const left = () => events.filter(([type]) => type === 'member-left').map(([, { member, reason }]) => `${member.id} ${reason}`)
  const joined = (more) =>
    signaling.say('joined', { id: 'me', peers: [], resumed: false, received: 0, iceServers: [], ...more })
  const hear = (type, id, more) => signaling.say('message', { type, peer: { id, ...more?.peer }, ...more })
  const call = (id) => room.members.get(id)?.call
  return { clock, signaling, room, events, left, joined, hear, call }
}

test('polite and first to offer towards those who were here, neither towards those who come', () => {
  const { room, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a', name: 'Ada' }, { id: 'b', away: true }], iceServers: [{ urls: 'stun:x' }] })
  hear('peer-joined', 'c')
  const how = (id) => [call(id).options.polite, call(id).options.offersFirst, call(id).away]
  assert.deepEqual([...room.members.keys()], ['a', 'b', 'c'])
  assert.deepEqual([how('a'), how('b'), how('c')], [[true, true, false], [true, true, true], [false, false, false]])
  assert.deepEqual(call('a').options.iceServers, [{ urls: 'stun:x' }])
  assert.equal(room.members.get('a').name, 'Ada')
})

test('messages go to the call of their sender, and from each call to its peer', () => {
  const { signaling, joined, call } = setUp()
  joined({ peers: [{ id: 'a' }, { id: 'b' }] })
  signaling.say('message', { type: 'offer', from: 'b', sdp: 'x' })
  signaling.say('message', { type: 'candidate', from: 'b', candidate: null })
  signaling.say('message', { type: 'offer', from: 'nobody', sdp: 'x' })
  signaling.say('message', { type: 'message', from: 'b', data: 1 })
  assert.deepEqual([call('a').received, call('b').received], [[], ['offer', 'candidate']])
  call('b').options.send({ type: 'answer', sdp: 'y' }, () => true)
  assert.deepEqual(signaling.sent, [{ type: 'answer', sdp: 'y', to: 'b' }])
})

test('a resumed seat changes nothing: what was missed comes one by one', () => {
  const { room, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  joined({ resumed: true, peers: [{ id: 'b' }] })
  assert.deepEqual([...room.members.keys()], ['a'])
  hear('peer-joined', 'b')
  assert.equal(call('b').options.polite, false)
  assert.deepEqual(call('a').resyncs, [])
})

test('a first joined that was lost: the list counts, and who came later is known by its event', () => {
  const { joined, hear, call } = setUp()
  joined({ resumed: true, peers: [{ id: 'a' }, { id: 'later' }] })
  hear('peer-joined', 'later')
  assert.equal(call('a').options.polite, true)
  assert.deepEqual(call('later').resyncs, [{ polite: false }])
})

test('the server was restarted: known peers keep their calls, in the new order of arrival', async () => {
  const { room, left, clock, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }, { id: 'b' }, { id: 'c' }] })
  const before = ['a', 'b', 'c'].map(call)
  for (const each of before) each.to('connected')
  joined({ peers: [{ id: 'b' }, { id: 'd' }] })
  assert.deepEqual(before[1].resyncs, [{ polite: true }])
  assert.equal(room.members.get('a').presence, 'gone')
  hear('peer-joined', 'a')
  assert.equal(room.members.get('a').presence, 'here')
  assert.deepEqual(before[0].resyncs, [{ polite: false }])
  assert.deepEqual(['a', 'b', 'c'].map(call), before)
  // c does not come back. It stays for as long as its media does.
  await clock.advance(60_000)
  assert.equal(room.members.get('c').presence, 'gone')
  before[2].to('unstable')
  await clock.advance(9_999)
  assert.ok(room.members.has('c'))
  await clock.advance(1)
  assert.deepEqual(left(), ['c timeout'])
})

test('a new id of our own: to the others we are somebody new', () => {
  const { left, joined, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  const before = call('a')
  joined({ id: 'me2', peers: [{ id: 'a' }] })
  assert.equal(before.state, 'closed')
  assert.notEqual(call('a'), before)
  assert.deepEqual(left(), ['a replaced'])
})

test('away and back', () => {
  const { room, events, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  hear('peer-away', 'a')
  assert.deepEqual([room.members.get('a').presence, call('a').away], ['away', true])
  hear('peer-back', 'a')
  assert.deepEqual([room.members.get('a').presence, call('a').away], ['here', false])
  assert.equal(events.at(-1)[0], 'member-back')
  hear('peer-away', 'nobody')
})

test('a peer that leaves ends its call; one whose signaling died keeps it while the media comes', async () => {
  const { clock, left, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }, { id: 'b' }, { id: 'c' }] })
  call('a').to('connected')
  call('b').to('connected')
  hear('peer-left', 'a', { reason: 'left' })
  assert.deepEqual(left(), ['a left'])
  hear('peer-left', 'b', { reason: 'timeout' })
  hear('peer-left', 'c', { reason: 'error' })
  await clock.advance(9_999)
  assert.deepEqual(left(), ['a left'])
  await clock.advance(1)
  assert.deepEqual(left(), ['a left', 'c error'])
  call('b').to('unstable')
  call('b').to('connected')
  await clock.advance(60_000)
  assert.ok(call('b'))
})

test('chat and media states travel over the data channel; nonsense does not', () => {
  const { room, events, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a', name: 'Ada' }, { id: 'b' }] })
  call('b').open = false
  assert.equal(room.chat('x'.repeat(MAX_CHAT + 1)), 1)
  assert.equal(call('a').said[0].text.length, MAX_CHAT)
  call('a').dispatchEvent(new Event('channel'))
  assert.deepEqual(call('a').said[1], { type: 'media', audio: true, video: false })
  room.setMedia({ audio: false, video: false })
  assert.deepEqual(call('a').said[2], { type: 'media', audio: false, video: false })
  const say = (detail) => call('a').dispatchEvent(new CustomEvent('data', { detail }))
  say({ type: 'chat', text: 'hello' })
  say({ type: 'media', audio: false, video: true })
  for (const nonsense of [null, 1, [], {}, { type: 'chat' }, { type: 'chat', text: 1 }, { type: 'media' }]) say(nonsense)
  assert.deepEqual(events.filter(([type]) => type === 'chat').map(([, { from, text }]) => [from.name, text]), [['Ada', 'hello']])
  assert.deepEqual(room.members.get('a').media, { audio: false, video: true })
  hear('peer-left', 'a', { reason: 'left' })
})

test('tracks and relay credentials reach every call, now and later', async () => {
  const { room, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  const track = { kind: 'video' }
  await room.setTrack('video', track)
  assert.deepEqual(call('a').track, { kind: 'video', track })
  hear('peer-joined', 'b')
  assert.deepEqual(call('b').options.tracks, [track])
  joined({ resumed: true, iceServers: [{ urls: 'turn:x' }] })
  assert.deepEqual(call('a').iceServers, [{ urls: 'turn:x' }])
})

test('the end: hanging up and being replaced end the calls, other closes do not', () => {
  const one = setUp()
  one.joined({ peers: [{ id: 'a' }] })
  one.room.leave()
  assert.deepEqual([one.left(), one.room.ended], [['a left'], { why: 'left' }])

  for (const [code, goesOn] of [[4500, false], [4501, false], [1008, true], [1009, true]]) {
    const each = setUp()
    each.joined({ peers: [{ id: 'a' }] })
    each.call('a').to('connected')
    each.signaling.say('closed', { why: 'closed', code })
    assert.equal(each.room.members.size === 1, goesOn, `close ${code}`)
  }
})
