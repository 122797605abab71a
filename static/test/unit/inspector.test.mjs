import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { ALL_GROUPS, Inspector, mask, MASK, MAX_BYTES, MAX_ENTRIES, SLOW_MOTION } from '../../js/page/inspector.js'
import { arrowsOf, words } from '../../js/page/inspector-view.js'
import { en, zh } from '../../js/page/texts-inspector.js'
import { SignalingClient } from '../../js/signaling.js'
import { FakeClock, FakeWebSocket } from './fakes.mjs'

const protocol = JSON.parse(await readFile(new URL('../../protocol.json', import.meta.url), 'utf8'))

/** A signaling client of which the test says what goes over its wire. */
class Wire extends EventTarget {
  delay = 0
  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }))
  }
  out(message) {
    this.tell('envelope', { direction: 'out', message, bytes: JSON.stringify(message).length, at: 0 })
  }
  in(message) {
    this.tell('envelope', { direction: 'in', message, bytes: JSON.stringify(message).length, at: 0 })
  }
}

const watched = (options) => {
  const wire = new Wire()
  const inspector = new Inspector(options)
  inspector.watch(wire)
  return { wire, inspector }
}
const joined = (peers = [], more = {}) => ({
  type: 'joined', room: 'demo', id: 'me', peers, resumed: false, received: 0, grace: 30, iceServers: [], ...more,
})
const sdp = (ufrag, pwd = 'a-secret-password-24-ch') => `v=0\r\na=ice-ufrag:${ufrag}\r\na=ice-pwd:${pwd}\r\na=setup:actpass\r\n`
const last = (inspector) => inspector.entries.at(-1)

class FakeCall extends EventTarget {
  state = 'connecting'
  pc = newConnection()
  become(state) {
    this.state = state
    this.dispatchEvent(new CustomEvent('state', { detail: state }))
  }
}
const newConnection = (stats = []) =>
  Object.assign(new EventTarget(), {
    signalingState: 'stable',
    iceGatheringState: 'new',
    iceConnectionState: 'new',
    connectionState: 'new',
    getStats: async () => new Map(stats.map((s) => [s.id, s])),
    be(name, value) {
      this[name] = value
      this.dispatchEvent(new Event(name.toLowerCase() + 'change'))
    },
  })

test('secrets are masked wherever they stand, and nothing else is', () => {
  assert.deepEqual(mask({ type: 'join', room: 'demo', session: 's', replaces: 'r', token: 't', attempt: 1 }), {
    type: 'join', room: 'demo', session: MASK, replaces: MASK, token: MASK, attempt: 1,
  })
  assert.deepEqual(
    mask(joined([{ id: 'p', name: 'Ada' }], { iceServers: [{ urls: ['turn:relay.example'], username: '1700000000:u', credential: 'c' }] })),
    joined([{ id: 'p', name: 'Ada' }], { iceServers: [{ urls: ['turn:relay.example'], username: MASK, credential: MASK }] }),
  )
  assert.deepEqual(mask({ data: { username: 'Ada', password: 'p', deep: [{ token: { a: 1 } }] } }), {
    data: { username: 'Ada', password: MASK, deep: [{ token: MASK }] },
  })
  assert.equal(mask({ sdp: sdp('abcd') }).sdp, sdp('abcd', MASK))
  assert.equal(mask({ data: { sdp: sdp('abcd') } }).data.sdp, sdp('abcd', MASK))
  assert.equal(mask('a=crypto:1 AES_CM_128 inline:KEY\r\na=mid:0'), `a=crypto:${MASK}\r\na=mid:0`)
  assert.deepEqual(mask({ session: undefined }), { session: undefined })
})

test('nesting without end is cut off', () => {
  let deep = { token: 'secret' }
  for (let i = 0; i < 200; i++) deep = { deep }
  assert.doesNotMatch(JSON.stringify(mask(deep)), /secret/)
})

test('no secret of a real client is in the entries, the events or the download', async () => {
  const clock = new FakeClock()
  const client = new SignalingClient({
    url: 'ws://x/ws', room: 'demo', token: 'TOKEN-of-ours', session: 'SESSION-key-000000000001', replaces: 'REPLACES-key-00000000001',
    WebSocket: FakeWebSocket, clock, random: () => 0.5,
  })
  const inspector = new Inspector()
  inspector.watch(client)
  const told = []
  inspector.addEventListener('entry', ({ detail }) => told.push(structuredClone(detail)))
  client.connect()
  const socket = FakeWebSocket.last
  socket.accept()
  socket.say(joined([{ id: 'p' }], { iceServers: [{ urls: 'turn:r', username: 'USER-of-ours', credential: 'CREDENTIAL-x' }] }))
  client.send({ type: 'offer', sdp: sdp('abcd', 'PWD-of-ours'), to: 'p' })
  socket.say({ type: 'answer', from: 'p', sdp: sdp('efgh', 'PWD-of-theirs'), seq: 1 })
  socket.say('no object')
  const all = JSON.stringify([inspector.entries, told]) + inspector.export(words)
  assert.doesNotMatch(all, /TOKEN-|SESSION-|REPLACES-|USER-|CREDENTIAL-|PWD-/)
  assert.deepEqual(inspector.entries.map((e) => `${e.lane} ${e.type}`), [
    'note socket', 'out join', 'in joined', 'out offer', 'in answer', 'in unknown',
  ])
  assert.equal(socket.sent[0].token, 'TOKEN-of-ours', 'the envelope itself is left alone')
  assert.equal(inspector.entries[1].bytes, JSON.stringify(socket.sent[0]).length)
})

test('the newest 500 are kept, and 4 MiB of envelopes at most', () => {
  const { wire, inspector } = watched()
  for (let i = 0; i < MAX_ENTRIES + 20; i++) wire.out({ type: 'ping' })
  assert.equal(inspector.entries.length, MAX_ENTRIES)
  assert.equal(inspector.entries[0].n, 21)
  const large = { type: 'message', data: 'x'.repeat(60_000) }
  for (let i = 0; i < 100; i++) wire.out(large)
  assert.ok(inspector.entries.reduce((sum, e) => sum + e.bytes, 0) <= MAX_BYTES)
  inspector.clear()
  assert.deepEqual(inspector.entries, [])
  wire.out({ type: 'ping' })
  assert.equal(last(inspector).n, MAX_ENTRIES + 121)
})

test('the first steps of a call, in plain words', () => {
  const { wire, inspector } = watched()
  const says = () => last(inspector).sentence
  wire.tell('state', { state: 'connecting' })
  assert.equal(says(), 'inspector.note.socket-connecting')
  wire.out({ type: 'join', room: 'demo', session: 's' })
  assert.equal(says(), 'inspector.out.join')
  assert.deepEqual(last(inspector).values, { name: '', room: 'demo' })
  wire.in(joined())
  assert.equal(says(), 'inspector.in.joined-alone')
  wire.in({ type: 'peer-joined', peer: { id: 'p', name: 'Bob' }, seq: 1 })
  assert.equal(words(says(), last(inspector).values), 'Bob took a seat in the room, and will call you.')
  assert.equal(last(inspector).slot, 0)
  wire.in({ type: 'offer', from: 'p', sdp: sdp('b1') })
  assert.equal(says(), 'inspector.in.offer')
  wire.out({ type: 'answer', to: 'p', sdp: sdp('a1') })
  assert.equal(says(), 'inspector.out.answer')
  const candidate = (text) => ({ type: 'candidate', to: 'p', candidate: text === null ? null : { candidate: text, sdpMid: '0' } })
  for (const [text, kind] of [
    ['candidate:1 1 udp 2122260223 192.0.2.1 61665 typ host generation 0 ufrag a1', 'host'],
    ['candidate:1 1 udp 2122260223 c0ffee.local 61665 typ host', 'mdns'],
    ['candidate:2 1 udp 1686052607 198.51.100.7 61665 typ srflx raddr 0.0.0.0 rport 0', 'srflx'],
    ['candidate:3 1 udp 41885439 203.0.113.9 50001 typ relay raddr 198.51.100.7 rport 61665', 'relay'],
    ['', 'end'],
    [null, 'end'],
  ]) {
    wire.out(candidate(text))
    assert.equal(says(), `inspector.out.candidate-${kind}`, text)
  }
  wire.in({ type: 'offer', from: 'p', sdp: sdp('b1') })
  assert.equal(says(), 'inspector.in.offer-again')
  wire.in({ type: 'offer', from: 'p', sdp: sdp('b2') })
  assert.equal(says(), 'inspector.in.offer-restart')
  wire.out({ type: 'answer', to: 'p', sdp: sdp('a2') })
  assert.equal(says(), 'inspector.out.answer-restart')
})

test('a lost connection and what follows', () => {
  const { wire, inspector } = watched()
  const says = () => last(inspector).sentence
  wire.out({ type: 'join', room: 'demo', attempt: 1 })
  wire.in(joined([{ id: 'p', name: 'Bob' }]))
  assert.equal(says(), 'inspector.in.joined-others')
  wire.tell('state', { state: 'waiting', retryIn: 1234, code: 1006 })
  assert.equal(says(), 'inspector.note.socket-waiting')
  assert.deepEqual(last(inspector).message, { state: 'waiting', seconds: 1.2, code: 1006 })
  wire.out({ type: 'join', room: 'demo', attempt: 2, received: 3 })
  assert.equal(says(), 'inspector.out.join-again')
  wire.in(joined([{ id: 'p' }], { resumed: true }))
  assert.equal(says(), 'inspector.in.joined-resumed')
  wire.out({ type: 'join', room: 'demo', attempt: 3 })
  wire.in(joined([{ id: 'p' }]))
  assert.equal(says(), 'inspector.in.joined-anew')
  inspector.watch(wire)
  wire.out({ type: 'join', room: 'demo', replaces: 'x' })
  assert.equal(says(), 'inspector.out.join-reload')
})

test('each peer has a lifeline, and the next one takes that of who left', () => {
  const { wire, inspector } = watched()
  wire.in(joined([{ id: 'a', name: 'Ada' }, { id: 'b', name: 'Bob' }]))
  assert.deepEqual(inspector.lifelines.map((l) => l.name), ['Ada', 'Bob'])
  wire.in({ type: 'peer-left', peer: { id: 'a' }, reason: 'replaced' })
  assert.equal(last(inspector).sentence, 'inspector.in.peer-left-replaced')
  assert.equal(last(inspector).values.name, 'Ada')
  assert.equal(last(inspector).slot, 0)
  assert.deepEqual(inspector.lifelines.map((l) => l.present), [false, true])
  wire.in({ type: 'peer-joined', peer: { id: 'c', name: 'Cleo' } })
  assert.deepEqual(inspector.lifelines.map((l) => l.name), ['Cleo', 'Bob'])
  wire.in({ type: 'message', from: 'b', data: 1 })
  assert.equal(last(inspector).slot, 1)
  wire.in(joined([{ id: 'c' }], { resumed: true }))
  assert.deepEqual(inspector.lifelines.map((l) => l.present), [true, false])
})

test('the states of a call stand between the envelopes', async () => {
  const { wire, inspector } = watched()
  wire.in(joined([{ id: 'p', name: 'Bob' }]))
  const call = new FakeCall()
  inspector.watchCall('p', call)
  inspector.watchCall('p', call)
  const first = call.pc
  const notes = () => inspector.entries.filter((e) => e.lane === 'note').map((e) => `${e.type} ${e.message.state}`)
  first.be('signalingState', 'have-local-offer')
  first.be('iceGatheringState', 'gathering')
  first.be('iceConnectionState', 'checking')
  first.getStats = async () =>
    new Map([
      ['T', { type: 'transport', selectedCandidatePairId: 'P' }],
      ['P', { type: 'candidate-pair', localCandidateId: 'L', remoteCandidateId: 'R' }],
      ['L', { type: 'local-candidate', candidateType: 'relay', protocol: 'udp' }],
      ['R', { type: 'remote-candidate', candidateType: 'host' }],
    ])
  first.be('connectionState', 'connected')
  await new Promise(setImmediate)
  call.dispatchEvent(new Event('channel'))
  assert.deepEqual(notes(), [
    'signaling have-local-offer', 'gathering gathering', 'ice checking', 'connection connected', 'path relay', 'channel open',
  ])
  assert.equal(last(inspector).peer, 'p')
  assert.equal(last(inspector).slot, 0)

  call.pc = newConnection()
  call.dispatchEvent(new Event('rebuilt'))
  first.be('connectionState', 'closed')
  call.pc.be('connectionState', 'connecting')
  first.dispatchEvent(Object.assign(new Event('icecandidateerror'), { errorCode: 701, errorText: 'x', url: 'stun:x' }))
  call.pc.dispatchEvent(Object.assign(new Event('icecandidateerror'), { errorCode: 401, errorText: 'Unauthorized', url: 'turn:x' }))
  call.become('blocked')
  call.become('closed')
  call.pc.be('connectionState', 'closed')
  assert.deepEqual(notes().slice(6), ['call rebuilt', 'connection connecting', 'candidate-error failed', 'call blocked', 'call closed'])
})

test('a room is watched with the calls it has and will have', () => {
  const inspector = new Inspector()
  const room = Object.assign(new EventTarget(), { signaling: new Wire(), members: new Map() })
  const early = new FakeCall()
  const late = new FakeCall()
  room.members.set('a', { id: 'a', call: early })
  inspector.watchRoom(room)
  room.dispatchEvent(new CustomEvent('member', { detail: { id: 'b', call: late } }))
  early.pc.be('iceConnectionState', 'checking')
  late.pc.be('iceConnectionState', 'failed')
  assert.deepEqual(inspector.entries.map((e) => e.peer), ['a', 'b'])
})

test('paused, it goes on recording', () => {
  const { wire, inspector } = watched()
  const events = []
  for (const type of ['entry', 'held', 'change']) inspector.addEventListener(type, () => events.push(type))
  wire.out({ type: 'ping' })
  inspector.pause()
  inspector.pause()
  wire.in({ type: 'pong' })
  assert.equal(inspector.entries.length, 2)
  inspector.resume()
  assert.deepEqual(events, ['entry', 'change', 'held', 'change'])
})

test('slow motion holds what goes out, also with the next client', () => {
  const { wire, inspector } = watched()
  inspector.setSlow(true)
  assert.equal(wire.delay, SLOW_MOTION)
  const next = new Wire()
  inspector.watch(next)
  assert.equal(next.delay, SLOW_MOTION)
  wire.out({ type: 'ping' })
  assert.equal(inspector.entries.length, 0, 'the old client is not watched any more')
  inspector.setSlow(false)
  assert.equal(next.delay, 0)
})

test('the download says what each line is for', () => {
  const { wire, inspector } = watched({ now: () => Date.UTC(2030, 0, 2, 3, 4, 5, 6) })
  wire.out({ type: 'join', room: 'demo' })
  const saved = JSON.parse(inspector.export(words))
  assert.equal(saved.format, 'duet-inspector')
  assert.deepEqual(saved.entries, [{
    n: 1, at: '2030-01-02T03:04:05.006Z', lane: 'out', type: 'join', bytes: 29,
    says: en['inspector.out.join'].replace('{room}', MASK), message: { type: 'join', room: MASK },
  }])
})

test("the room's name is masked in the download wherever it stands", () => {
  const { wire, inspector } = watched()
  const room = 'gyj bpdp vuw'
  wire.out({ type: 'join', room })
  wire.in({ type: 'joined', room, id: 'me', peers: [] })
  wire.out({ type: 'message', data: { see: `https://duet.example/#${encodeURIComponent(room)}`, deep: [`in ${room}`, 'else'] } })
  wire.in({ type: 'error', code: 'forbidden', message: `not for ${room}`, for: 'join' })
  wire.out({ type: 'leave' })
  wire.in({ type: 'left', room })
  const text = inspector.export(words)
  assert.doesNotMatch(text, /gyj/)
  const [join, joined_, message, error, , left] = JSON.parse(text).entries
  assert.equal(join.says, en['inspector.out.join'].replace('{room}', MASK))
  for (const entry of [join, joined_, left]) assert.equal(entry.message.room, MASK)
  assert.deepEqual(message.message.data, { see: `https://duet.example/#${MASK}`, deep: [`in ${MASK}`, 'else'] })
  assert.match(error.says, new RegExp(`not for ${MASK}`))
  assert.equal(inspector.entries[0].message.room, room, 'whoever is in the room sees it')

  const short = watched()
  short.wire.out({ type: 'join', room: 'a' })
  short.wire.out({ type: 'message', data: 'a banana' })
  assert.deepEqual(JSON.parse(short.inspector.export(words)).entries.map(({ message }) => message.data ?? message.room), [MASK, 'a banana'])
})

test('hostile envelopes do no harm', () => {
  const { wire, inspector } = watched()
  for (const message of [
    null, 'text', 7, [], {}, { type: 5 }, { type: '__proto__' }, { type: 'constructor' }, { type: 'peer-joined' },
    { type: 'peer-joined', peer: null }, { type: 'peer-left', peer: { id: {} } }, { type: 'joined', peers: [null, 3] },
    { type: 'offer', sdp: 9 }, { type: 'candidate', candidate: { candidate: 'nonsense' } }, { type: 'error', code: 'toString' },
    JSON.parse('{"type":"message","data":{"__proto__":{"token":"s"}}}'),
  ]) {
    wire.tell('envelope', { direction: 'in', message, bytes: 1 })
    assert.ok(Object.hasOwn(en, last(inspector).sentence), `${JSON.stringify(message)}: ${last(inspector).sentence}`)
    assert.ok(arrowsOf(last(inspector), 1).length > 0)
  }
  assert.equal({}.token, undefined)
})

test('every envelope and every state has its sentence, in both languages', () => {
  const named = (list) => protocol.$defs[list].oneOf.map(({ $ref }) => protocol.$defs[$ref.split('/').at(-1)].properties.type.const)
  const keys = Object.keys(en)
  for (const [list, lane] of [['clientMessage', 'out'], ['serverMessage', 'in']]) {
    for (const type of named(list)) {
      assert.ok(keys.some((key) => key === `inspector.${lane}.${type}` || key.startsWith(`inspector.${lane}.${type}-`)), `${lane} ${type}`)
    }
  }
  for (const [type, states] of Object.entries({
    signaling: ['stable', 'have-local-offer', 'have-remote-offer', 'have-local-pranswer', 'have-remote-pranswer', 'closed'],
    gathering: ['gathering', 'complete'],
    ice: ['checking', 'connected', 'completed', 'disconnected', 'failed', 'closed'],
    connection: ['connecting', 'connected', 'disconnected', 'failed', 'closed'],
    socket: ['connecting', 'waiting', 'closed'],
    call: ['unanswered', 'blocked', 'rebuilt', 'closed'],
    track: ['audio', 'video'],
  })) {
    for (const state of states) assert.ok(Object.hasOwn(en, `inspector.note.${type}-${state}`), `${type} ${state}`)
  }
  for (const group of ALL_GROUPS) assert.ok(Object.hasOwn(en, `inspector.group.${group}`))
  const blanks = (words) => [...words.matchAll(/\{\w+\}/g)].map(String).sort()
  assert.deepEqual(Object.keys(zh), keys)
  for (const key of keys) {
    assert.deepEqual(blanks(zh[key]), blanks(en[key]), key)
    assert.notEqual(zh[key].trim(), '', key)
  }
})

test('arrows: what the server passes on, what it says itself, and what goes past it', () => {
  const entry = (lane, type, more) => ({ lane, type, message: {}, ...more })
  assert.deepEqual(arrowsOf(entry('out', 'join'), 1), [{ from: 0, to: 1, kind: 'own' }])
  assert.deepEqual(arrowsOf(entry('in', 'joined'), 1), [{ from: 1, to: 0, kind: 'own' }])
  assert.deepEqual(arrowsOf(entry('out', 'offer', { relayed: true, slot: 1 }), 3), [
    { from: 0, to: 1, kind: 'own' }, { from: 1, to: 3, kind: 'passed-on' },
  ])
  assert.deepEqual(arrowsOf(entry('out', 'message', { relayed: true }), 3).at(-1), { from: 1, to: 4, kind: 'passed-on' })
  assert.deepEqual(arrowsOf(entry('in', 'answer', { relayed: true, slot: 0 }), 1), [
    { from: 2, to: 1, kind: 'passed-on' }, { from: 1, to: 0, kind: 'own' },
  ])
  assert.deepEqual(arrowsOf(entry('note', 'path', { message: { state: 'direct' }, slot: 0 }), 1), [{ from: 0, to: 2, kind: 'direct' }])
  assert.deepEqual(arrowsOf(entry('note', 'ice', { message: { state: 'checking' }, slot: 0 }), 1), [{ from: 0, to: 0, kind: 'here' }])
})
