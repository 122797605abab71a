import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MAX_CHAT, Room, videoLimits } from '../../js/room.js'
import { Call } from '../../js/call.js'
import { FakeClock, FakeMediaStream, FakePeerConnection, settle } from './fakes.mjs'

class FakeSignaling extends EventTarget {
  sent = []
  accepts = true
  connect() {}
  probe(urgent) {
    this.probed = urgent ? 'urgently' : true
  }
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
  async setLimits(limits) {
    this.limits = limits
  }
  networkChanged() {
    this.looked = true
  }
  close() {
    this.to('closed')
  }
  to(state) {
    this.state = state
    this.dispatchEvent(new CustomEvent('state', { detail: state }))
  }
}

function setUp(options) {
  const clock = new FakeClock()
  const signaling = new FakeSignaling()
  const room = new Room({ signaling, clock, media: { audio: true, video: false }, newCall: (o) => new FakeCall(o), ...options })
  const events = []
  for (const type of ['member', 'member-left', 'member-away', 'member-back', 'member-change', 'message', 'track', 'chat', 'closed']) {
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
  assert.deepEqual(events.slice(-4).map(([type]) => type), ['member-away', 'member-change', 'member-back', 'member-change'])
  hear('peer-away', 'nobody')
})

test('a call that becomes unstable has the signaling looked after: what broke one may have broken both', () => {
  const { signaling, joined, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  call('a').to('connected')
  assert.equal(signaling.probed, undefined)
  call('a').to('unstable')
  assert.equal(signaling.probed, 'urgently')
})

test('signaling comes back while a path is down: the call is repaired at once, the others are left alone', () => {
  const { joined, call } = setUp()
  joined({ peers: [{ id: 'a' }, { id: 'b' }] })
  call('a').to('unstable')
  call('b').to('connected')
  joined({ resumed: true })
  assert.deepEqual([call('a').looked, call('b').looked], [true, undefined])
})

test('whose seat is gone is away as well: nothing is sent again until it is back', () => {
  const { joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  hear('peer-left', 'a', { reason: 'timeout' })
  assert.equal(call('a').away, true)
})

test('what is refused is told with its code, and with a text that says what to do', () => {
  const { room, signaling } = setUp()
  const errors = []
  room.addEventListener('trouble', ({ detail: { name, code, message } }) => errors.push([name, code, message]))
  signaling.say('refused', { type: 'error', code: 'no-peer', message: 'nobody is here', for: 'offer' })
  signaling.say('refused', { code: 'too-big', for: 'offer' })
  assert.deepEqual(errors, [
    ['ClientError', 'no-peer', 'no-peer: nobody is here'],
    ['ClientError', 'too-big', 'This is more than can be sent at once. Send less, or in parts.'],
  ])
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
  room.setMedia({ audio: false, video: true, screen: true })
  assert.deepEqual(call('a').said[3], { type: 'media', audio: false, video: true, screen: true })
  const say = (detail) => call('a').dispatchEvent(new CustomEvent('data', { detail }))
  say({ type: 'chat', text: 'hello' })
  say({ type: 'media', audio: false, video: true })
  for (const nonsense of [null, 1, [], {}, { type: 'chat' }, { type: 'chat', text: 1 }, { type: 'media' }]) say(nonsense)
  assert.deepEqual(events.filter(([type]) => type === 'chat').map(([, { from, text }]) => [from.name, text]), [['Ada', 'hello']])
  assert.deepEqual(room.members.get('a').media, { audio: false, video: true, screen: false })
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

test('relay credentials that the server renews; own servers stay beside them', () => {
  const { signaling, joined, call } = setUp({ iceServers: [{ urls: 'stun:own' }], iceTransportPolicy: 'relay' })
  joined({ peers: [{ id: 'a' }] })
  assert.deepEqual(call('a').options.iceServers, [{ urls: 'stun:own' }])
  assert.equal(call('a').options.iceTransportPolicy, 'relay')
  signaling.say('message', { type: 'ice-servers', iceServers: [{ urls: 'turn:new' }] })
  assert.deepEqual(call('a').iceServers, [{ urls: 'stun:own' }, { urls: 'turn:new' }])
  signaling.say('message', { type: 'peer-joined', peer: { id: 'b' } })
  assert.deepEqual(call('b').options.iceServers.length, 2)
})

test('messages of an application, over the server', () => {
  const { room, signaling, events, joined } = setUp()
  joined({ peers: [{ id: 'a', name: 'Ada' }] })
  signaling.say('message', { type: 'message', from: 'a', data: { x: 1 } })
  signaling.say('message', { type: 'message', from: 'nobody', data: 1 })
  const [[, { from, data }], ...more] = events.filter(([type]) => type === 'message')
  assert.deepEqual([from.name, data, more.length], ['Ada', { x: 1 }, 0])
  assert.ok(room.send('hello'))
  room.send('hello', 'a')
  signaling.accepts = false
  assert.equal(room.send('hello'), false)
  assert.deepEqual(signaling.sent.slice(0, 2), [{ type: 'message', data: 'hello' }, { type: 'message', data: 'hello', to: 'a' }])
})

test('a changed network reaches every connection; waking up only the signaling', () => {
  const { room, signaling, joined, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  room.probe()
  assert.deepEqual([signaling.probed, call('a').looked], [true, undefined])
  room.networkChanged()
  assert.ok(call('a').looked)
})

test('video: shared among the members, bounded by the quality; a screen keeps its pixels', () => {
  assert.deepEqual(videoLimits('high', 1), { maxBitrate: 2_500_000, scaleResolutionDownBy: 1 })
  assert.deepEqual(videoLimits('high', 7), { maxBitrate: 857_142, scaleResolutionDownBy: 1 })
  assert.deepEqual(videoLimits('medium', 7), { maxBitrate: 342_857, scaleResolutionDownBy: 2 })
  assert.deepEqual(videoLimits('low', 7), { maxBitrate: 107_142, scaleResolutionDownBy: 4 })
  assert.deepEqual(videoLimits('low', 7, true), { maxBitrate: 107_142, scaleResolutionDownBy: 1 })
  assert.deepEqual(videoLimits('high', 0), videoLimits('high', 1))
  for (const quality of ['low', 'medium', 'high']) {
    let before = Infinity
    for (let peers = 1; peers <= 7; peers++) {
      const { maxBitrate } = videoLimits(quality, peers)
      assert.ok(maxBitrate <= before && maxBitrate > 0)
      before = maxBitrate
    }
  }
  const { room, joined, hear, call } = setUp()
  joined({ peers: [{ id: 'a' }] })
  assert.equal(call('a').options.limits.maxBitrate, 2_500_000)
  for (const id of ['b', 'c', 'd', 'e', 'f', 'g']) hear('peer-joined', id)
  assert.equal(call('a').limits.maxBitrate, 857_142)
  assert.equal((call('g').limits ?? call('g').options.limits).maxBitrate, 857_142)
  room.setQuality('low')
  assert.deepEqual([room.quality, call('g').limits.maxBitrate], ['low', 107_142])
  room.setMedia({ audio: true, video: true, screen: true })
  assert.equal(call('a').limits.scaleResolutionDownBy, 1)
  for (const id of ['b', 'c', 'd', 'e', 'f', 'g']) hear('peer-left', id, { reason: 'left' })
  assert.equal(call('a').limits.maxBitrate, 250_000)
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
    each.room.leave()
    assert.equal(each.room.members.size, 0)
  }
})

test('a mesh of eight: a connection for each pair, also after a restart of the server in another order', async () => {
  const clock = new FakeClock()
  const [rooms, seats] = [new Map(), []] // seats: in order of arrival
  const line = []
  const troubles = []
  const tell = (id, type, detail) => line.push(() => rooms.get(id).signaling.say(type, detail))
  const enter = (id) => {
    tell(id, 'joined', { id, peers: seats.map((each) => ({ id: each })), resumed: false, received: 0, iceServers: [] })
    for (const other of seats) tell(other, 'message', { type: 'peer-joined', peer: { id } })
    seats.push(id)
  }
  const quiet = async () => {
    for (let i = 0; i < 200; i++) {
      await settle()
      if (line.length === 0) return
      for (const deliver of line.splice(0)) deliver()
    }
    assert.fail('they never come to rest')
  }
  const agreed = () => {
    for (const [id, { members }] of rooms) {
      assert.equal(members.size, 7)
      for (const [other, { call }] of members) {
        const back = rooms.get(other).members.get(id).call
        assert.equal(call.pc.signalingState, 'stable')
        assert.equal(call.pc.currentRemoteDescription.sdp.split('a=setup')[0], back.pc.currentLocalDescription.sdp.split('a=setup')[0])
      }
    }
  }
  const ids = [...'abcdefgh']
  for (const id of ids) {
    const signaling = new FakeSignaling()
    signaling.send = ({ to, ...m }, wanted) => {
      line.push(() => wanted() && rooms.get(to).signaling.say('message', { ...m, from: id }))
      return true
    }
    const newCall = (o) => new Call({ ...o, RTCPeerConnection: FakePeerConnection, MediaStream: FakeMediaStream, clock })
    const room = new Room({ signaling, clock, newCall, tracks: [Object.assign(new EventTarget(), { kind: 'video' })] })
    room.addEventListener('trouble', ({ detail }) => troubles.push(detail))
    rooms.set(id, room)
    enter(id)
    if (ids.indexOf(id) % 3 === 2) await quiet() // some come one by one, some at the same time
  }
  await quiet()
  agreed()
  const before = ids.map((id) => [...rooms.get(id).members.values()].map(({ call }) => call.pc))
  for (const room of rooms.values()) for (const { call } of room.members.values()) call.pc.connection('connected')
  seats.length = 0
  for (const id of 'hcafbgde') enter(id)
  await quiet()
  agreed()
  assert.deepEqual(ids.map((id) => [...rooms.get(id).members.values()].map(({ call }) => call.pc)), before, 'no call was lost')
  // Everybody adds sound at once: each pair has glare.
  for (const room of rooms.values()) room.setTrack('audio', { kind: 'audio' })
  await quiet()
  agreed()
  assert.deepEqual(troubles, [])
  for (const room of rooms.values()) assert.equal([...room.members.values()][0].call.pc.transceivers.find((t) => t.kind === 'video').sender.parameters.encodings[0].maxBitrate, 857_142)
})
