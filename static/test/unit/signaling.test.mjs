import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { followPage, newSessionKey, SignalingClient } from '../../js/signaling.js'
import { FakeClock, FakeWebSocket } from './fakes.mjs'

beforeEach(() => {
  FakeWebSocket.all = []
})

function setUp(options = {}) {
  const clock = new FakeClock()
  const client = new SignalingClient({
    url: 'ws://host/ws',
    room: 'demo',
    name: 'Ada',
    WebSocket: FakeWebSocket,
    clock,
    random: () => 0.5,
    ...options,
  })
  const events = []
  for (const type of ['state', 'joined', 'message', 'session', 'refused', 'closed']) {
    client.addEventListener(type, ({ detail }) => events.push({ type, detail }))
  }
  const of = (type) => events.filter((e) => e.type === type).map((e) => e.detail)
  return { client, clock, of }
}

const joined = (more) => ({
  type: 'joined', room: 'demo', id: 'me', peers: [], resumed: false, received: 0, grace: 30, iceServers: [], ...more,
})

function connect({ client }, more) {
  client.connect()
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined(more))
  return FakeWebSocket.last
}

const counted = (socket) => socket.sent.filter((m) => m.seq !== undefined)
const offer = (sdp) => ({ type: 'offer', sdp, to: 'you' })

test('join, send, receive', () => {
  const all = setUp({ session: 'k'.repeat(32), replaces: 'o'.repeat(32) })
  const { client, of } = all
  assert.equal(client.send(offer('early')), false)
  const socket = connect(all)
  assert.equal(socket.url, 'ws://host/ws')
  assert.equal(socket.protocol, 'duet.v1')
  assert.deepEqual(socket.sent, [{
    type: 'join', room: 'demo', name: 'Ada', session: 'k'.repeat(32), replaces: 'o'.repeat(32), attempt: 1, received: 0,
  }])
  assert.equal(client.state, 'joined')
  assert.equal(client.id, 'me')
  assert.ok(client.send(offer('a')))
  assert.deepEqual(socket.sent[1], { ...offer('a'), seq: 1 })
  socket.say({ type: 'peer-joined', peer: { id: 'you' }, seq: 1 })
  socket.say({ type: 'answer', from: 'you', sdp: 'b', seq: 2 })
  assert.deepEqual(of('message').map((m) => m.type), ['peer-joined', 'answer'])
})

test('session keys', () => {
  const key = newSessionKey()
  assert.match(key, /^[A-Za-z0-9_-]{32}$/)
  assert.notEqual(key, newSessionKey())
  assert.equal(newSessionKey((bytes) => bytes.fill(255)), '_'.repeat(32))
})

test('an ack after eight counted messages, or after a second', async () => {
  const all = setUp()
  const socket = connect(all)
  for (let seq = 1; seq <= 8; seq++) socket.say({ type: 'message', from: 'you', data: seq, seq })
  assert.deepEqual(socket.sent.at(-1), { type: 'ack', received: 8 })
  socket.say({ type: 'message', from: 'you', data: 9, seq: 9 })
  await all.clock.advance(999)
  assert.equal(socket.sent.at(-1).received, 8)
  await all.clock.advance(1)
  assert.deepEqual(socket.sent.at(-1), { type: 'ack', received: 9 })
})

test('unknown counted messages count, repeated ones are dropped', async () => {
  const all = setUp()
  const socket = connect(all)
  socket.say({ type: 'from-the-future', seq: 1 })
  socket.say({ type: 'message', from: 'you', data: 'once', seq: 2 })
  socket.say({ type: 'message', from: 'you', data: 'once', seq: 2 })
  assert.equal(all.of('message').length, 1)
  assert.equal(socket.closed, undefined)
})

test('a gap: back as a new session that replaces this one', async () => {
  const all = setUp()
  const socket = connect(all)
  const old = all.client.session
  socket.say({ type: 'message', from: 'you', data: 1, seq: 2 })
  assert.deepEqual(socket.closed, { code: 4002, reason: 'out-of-sync' })
  assert.deepEqual(all.of('message'), [])
  assert.notEqual(all.client.session, old)
  assert.deepEqual(all.of('session'), [all.client.session])
  await all.clock.advance(250)
  FakeWebSocket.last.accept()
  const join = FakeWebSocket.last.sent[0]
  assert.deepEqual([join.session, join.replaces, join.received], [all.client.session, old, 0])
})

test('a lost connection is resumed: the rest is sent again, what was missed arrives', async () => {
  const all = setUp()
  const first = connect(all)
  for (const sdp of ['a', 'b', 'c']) all.client.send(offer(sdp))
  first.say({ type: 'ack', received: 1 })
  first.say({ type: 'message', from: 'you', data: 1, seq: 1 })
  first.end(1006)
  assert.equal(all.client.state, 'waiting')
  assert.deepEqual(all.of('state').at(-1), { state: 'waiting', retryIn: 250, code: 1006 })
  assert.ok(all.client.send(offer('d')))
  await all.clock.advance(250)
  const second = FakeWebSocket.last
  second.accept()
  assert.equal(second.sent[0].attempt, 2)
  assert.equal(second.sent[0].received, 1)
  second.say(joined({ resumed: true, received: 2 }))
  assert.deepEqual(counted(second), [{ ...offer('c'), seq: 3 }, { ...offer('d'), seq: 4 }])
  second.say({ type: 'message', from: 'you', data: 2, seq: 2 })
  assert.deepEqual(all.of('message').map((m) => m.data), [1, 2])
  assert.equal(all.of('joined').at(-1).resumed, true)
})

test('what became pointless while offline is never sent', async () => {
  const all = setUp()
  connect(all).end(1006)
  let open = true
  all.client.send(offer('rolled back'), () => open)
  all.client.send(offer('kept'))
  open = false
  await all.clock.advance(250)
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined({ resumed: true }))
  assert.deepEqual(counted(FakeWebSocket.last), [{ ...offer('kept'), seq: 1 }])
})

test('a new seat with the same id: counters from 1, nothing of the old seat is sent', async () => {
  const all = setUp()
  const first = connect(all)
  all.client.send(offer('written'))
  first.say({ type: 'message', from: 'you', data: 1, seq: 1 })
  first.end(1012)
  all.client.send(offer('queued'))
  await all.clock.advance(250)
  const second = FakeWebSocket.last
  second.accept()
  second.say(joined({ resumed: false }))
  assert.deepEqual(counted(second), [])
  second.say({ type: 'peer-joined', peer: { id: 'you' }, seq: 1 })
  all.client.send(offer('new'))
  assert.deepEqual(counted(second), [{ ...offer('new'), seq: 1 }])
  assert.equal(all.of('message').length, 2)
})

test('counters of the server that cannot be: a new session', async () => {
  const all = setUp()
  const first = connect(all)
  first.end(1006)
  await all.clock.advance(250)
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined({ resumed: true, received: 5 }))
  assert.equal(FakeWebSocket.last.closed.code, 4002)
  assert.equal(all.of('session').length, 1)
})

test('close codes: come back, come back as somebody new, or end', async () => {
  for (const [code, state] of [[1001, 'waiting'], [1012, 'waiting'], [4000, 'waiting'], [4001, 'waiting'], [4002, 'waiting'],
    [1008, 'closed'], [1009, 'closed'], [4500, 'closed'], [4501, 'closed']]) {
    const all = setUp()
    const { session } = all.client
    connect(all).end(code)
    assert.equal(all.client.state, state, `close ${code}`)
    assert.equal(all.client.session === session, code !== 4002, `session after ${code}`)
    if (state === 'closed') {
      assert.deepEqual(all.of('closed'), [{ why: 'closed', code }])
      assert.equal(all.clock.pending, 0)
      assert.equal(all.client.send(offer('late')), false)
    }
  }
})

test('backoff grows until a connection was stable for 5 s', async () => {
  const all = setUp()
  const waits = () => all.of('state').filter((s) => s.state === 'waiting').map((s) => s.retryIn)
  all.client.connect()
  for (const wait of [250, 500, 1000]) {
    FakeWebSocket.last.end(1006)
    assert.equal(waits().at(-1), wait)
    await all.clock.advance(wait)
  }
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined())
  await all.clock.advance(4999)
  FakeWebSocket.last.end(1006)
  assert.equal(waits().at(-1), 2000)
  await all.clock.advance(2000)
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined({ resumed: true }))
  await all.clock.advance(5000)
  FakeWebSocket.last.end(1006)
  assert.equal(waits().at(-1), 250)
})

test('a connection that never answers is given up', async () => {
  const all = setUp()
  all.client.connect()
  FakeWebSocket.last.accept()
  await all.clock.advance(10_000)
  assert.deepEqual(FakeWebSocket.all[0].closed, { code: 4100, reason: 'reconnecting' })
  await all.clock.advance(250)
  assert.equal(FakeWebSocket.all.length, 2)
  FakeWebSocket.all[0].say(joined()) // a late answer on the old socket is not heard
  assert.equal(all.client.state, 'connecting')
})

test('silence is probed, and a silent socket is given up without waiting for its close', async () => {
  const all = setUp()
  const socket = connect(all)
  await all.clock.advance(25_000)
  assert.deepEqual(socket.sent.at(-1), { type: 'ping' })
  socket.say({ type: 'pong' })
  await all.clock.advance(24_999)
  assert.equal(all.client.state, 'joined')
  await all.clock.advance(1 + 5_000)
  assert.equal(socket.closed.code, 4100)
  assert.equal(all.client.state, 'waiting')
})

test('an urgent probe: 1 s without an answer is enough, and the next connection is begun at once', async () => {
  const all = setUp()
  const socket = connect(all)
  all.client.probe()
  await all.clock.advance(500)
  all.client.probe(true)
  await all.clock.advance(900)
  all.client.probe(true) // puts nothing off
  await all.clock.advance(99)
  assert.equal(all.client.state, 'joined')
  await all.clock.advance(1)
  assert.equal(socket.closed.code, 4100)
  assert.equal(all.client.state, 'connecting')
  assert.deepEqual(all.of('state').slice(-2).map(({ state }) => state), ['waiting', 'connecting'])
  const next = FakeWebSocket.last
  next.accept()
  next.say(joined({ resumed: true }))
  all.client.probe(true)
  await all.clock.advance(999)
  next.say({ type: 'pong' })
  await all.clock.advance(5_000)
  assert.equal(all.client.state, 'joined')
})

test('while the seat is kept there is always time for two more tries; then the waits are the usual ones', async () => {
  const waits = async (grace) => {
    const all = setUp({ random: () => 0.999 })
    connect(all, { grace }).end(1006)
    const tries = [] // [when it is made, how long it waited]
    for (let at = 0; tries.length < 12;) {
      const { retryIn } = all.of('state').at(-1)
      tries.push([(at += retryIn) / 1000, retryIn / 1000])
      await all.clock.advance(retryIn)
      FakeWebSocket.last.end(1006)
    }
    return tries
  }
  const kept = (await waits(30)).filter(([at]) => at < 30)
  for (const [at, wait] of kept) assert.ok(wait <= Math.max(0.5, (30 - (at - wait)) / 2), `${wait} s of the ${30 - at + wait} s left`)
  assert.ok(kept.filter(([at]) => at > 20).length >= 2, `after 20 s: ${kept.map(([at]) => at)}`)
  assert.ok(kept.length <= 12, 'no storm towards the end')
  const last = (await waits(30)).at(-1)
  assert.ok(last[0] > 30 && last[1] < 15)
  const usual = (await waits(0)).map(([, wait]) => Math.round(wait * 1000))
  assert.deepEqual(usual.slice(0, 7), [500, 999, 1998, 3996, 7992, 14985, 14985])
})

test('what is longer than the server takes is refused here, and the connection lives', () => {
  const all = setUp()
  const socket = connect(all)
  const empty = JSON.stringify(offer('')).length
  assert.equal(all.client.send(offer('é'.repeat((65_500 - empty) / 2))), true)
  assert.ok(Buffer.byteLength(JSON.stringify(socket.sent.at(-1))) <= 65_536)
  const long = offer('é'.repeat((65_500 - empty) / 2 + 1))
  assert.equal(all.client.send(long), false)
  assert.deepEqual(all.of('refused'), [{ code: 'too-big', for: 'offer', sent: long }])
  assert.equal(all.client.send(offer('short')), true)
  assert.deepEqual(counted(socket).map((m) => m.seq), [1, 2])
})

test('the page wakes up: probe, or come back at once', async () => {
  const all = setUp()
  const window = new EventTarget()
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' })
  const end = new AbortController()
  followPage(all.client, { window, document, signal: end.signal })
  const socket = connect(all)
  window.dispatchEvent(new Event('online'))
  assert.deepEqual(socket.sent.at(-1), { type: 'ping' })
  socket.end(1006)
  document.dispatchEvent(new Event('visibilitychange'))
  assert.equal(FakeWebSocket.all.length, 2)
  // A socket that died unnoticed.
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined({ resumed: true }))
  FakeWebSocket.last.readyState = 3
  window.dispatchEvent(new Event('pageshow'))
  assert.equal(all.client.state, 'waiting')
  end.abort()
})

test('the page goes: leave, unless it may come back', () => {
  for (const persisted of [false, true]) {
    const all = setUp()
    const window = new EventTarget()
    followPage(all.client, { window, document: new EventTarget(), signal: new AbortController().signal })
    const socket = connect(all)
    window.dispatchEvent(Object.assign(new Event('pagehide'), { persisted }))
    if (persisted) assert.equal(socket.closed, undefined)
    else {
      assert.deepEqual(socket.sent.at(-1), { type: 'leave', seq: 1 })
      assert.equal(socket.closed.code, 1000)
      assert.deepEqual(all.of('closed'), [{ why: 'left' }])
    }
  }
})

test('a join that is refused for good, and one that is worth another try', async () => {
  const full = setUp()
  full.client.connect()
  FakeWebSocket.last.accept()
  const error = { type: 'error', code: 'room-full', message: 'full', for: 'join', retryAfter: 20 }
  FakeWebSocket.last.say(error)
  assert.equal(full.client.state, 'closed')
  assert.equal(full.of('closed')[0].error.retryAfter, 20)
  assert.equal(FakeWebSocket.last.closed.code, 1000)

  const busy = setUp()
  busy.client.connect()
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say({ ...error, code: 'server-full', retryAfter: 3 })
  assert.equal(busy.of('state').at(-1).retryIn, 3000)
})

test('busy: tried again with a new number, later messages to that peer behind it', async () => {
  const all = setUp()
  const socket = connect(all)
  all.client.send(offer('a'))
  socket.say({ type: 'error', code: 'busy', message: '…', for: 'offer', ref: 1, seq: 1 })
  all.client.send(offer('b'))
  assert.deepEqual(all.of('refused').map((e) => e.code), ['busy'])
  assert.deepEqual(counted(socket), [{ ...offer('a'), seq: 1 }])
  await all.clock.advance(750)
  assert.deepEqual(counted(socket).slice(1), [{ ...offer('a'), seq: 2 }, { ...offer('b'), seq: 3 }])
})

test('no-peer is not tried again', async () => {
  const all = setUp()
  const socket = connect(all)
  all.client.send(offer('a'))
  socket.say({ type: 'error', code: 'no-peer', message: '…', for: 'offer', ref: 1, seq: 1 })
  await all.clock.advance(10_000)
  assert.equal(counted(socket).length, 1)
})

test('a message without `to` is not overtaken by one with, once it was refused', async () => {
  const all = setUp()
  const socket = connect(all)
  all.client.send({ type: 'message', data: 'to all' })
  socket.say({ type: 'error', code: 'busy', message: '…', for: 'message', ref: 1, seq: 1 })
  all.client.send(offer('to one'))
  await all.clock.advance(750)
  assert.deepEqual(counted(socket).slice(1).map((m) => [m.type, m.seq]), [['message', 2], ['offer', 3]])
})

test('refused and lost with the connection: what was sent first goes first', async () => {
  const all = setUp()
  const socket = connect(all)
  all.client.send(offer('a'))
  all.client.send(offer('b'))
  socket.say({ type: 'error', code: 'busy', message: '…', for: 'offer', ref: 1, seq: 1 })
  socket.end(1006)
  await all.clock.advance(250)
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined({ resumed: true, received: 1 }))
  assert.deepEqual(counted(FakeWebSocket.last), [{ ...offer('a'), seq: 2 }, { ...offer('b'), seq: 3 }])
})

test('acknowledgements that overtake refusals: every refused message is tried again', async () => {
  const all = setUp()
  const socket = connect(all)
  for (let i = 1; i <= 200; i++) all.client.send(offer(String(i)))
  socket.say({ type: 'ack', received: 200 })
  for (let ref = 1; ref <= 200; ref++) socket.say({ type: 'error', code: 'busy', message: '…', for: 'offer', ref, seq: ref })
  await all.clock.advance(750)
  assert.deepEqual(counted(socket).slice(200).map((m) => m.sdp), Array.from({ length: 200 }, (_, i) => String(i + 1)))
})

test('a refusal comes with its text and with what was refused', () => {
  const all = setUp()
  const socket = connect(all)
  all.client.send(offer('a'))
  socket.say({ type: 'error', code: 'no-peer', message: 'nobody is here', for: 'offer', ref: 1, seq: 1 })
  assert.equal(all.of('refused')[0].message, 'nobody is here')
  assert.deepEqual(all.of('refused')[0].sent, offer('a'))
})

test('a listener that leaves is the end: no socket, no timer, no event after it', async () => {
  for (const when of ['connecting', 'joining', 'joined', 'waiting', 'session']) {
    const all = setUp()
    const leave = () => all.client.leave()
    if (when === 'session') all.client.addEventListener('session', leave)
    else all.client.addEventListener('state', ({ detail }) => detail.state === when && leave())
    all.client.connect()
    const socket = FakeWebSocket.last
    if (all.client.state !== 'closed') socket.accept()
    if (all.client.state !== 'closed') socket.say(joined())
    if (all.client.state !== 'closed') socket.end(when === 'session' ? 4002 : 1006)
    assert.equal(all.client.state, 'closed', when)
    assert.equal(all.clock.pending, 0, when)
    assert.ok(socket.readyState >= 2, when)
    assert.equal(all.of('joined').length, ['waiting', 'session'].includes(when) ? 1 : 0, when)
    await all.clock.advance(60_000)
    assert.equal(FakeWebSocket.last, socket, when)
    assert.deepEqual(all.of('closed'), [{ why: 'left' }], when)
  }
})

test('nothing is handed over before joined', () => {
  const all = setUp()
  all.client.connect()
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say({ type: 'message', from: 'you', data: 1, seq: 1 })
  assert.deepEqual(all.of('message'), [])
})

test('a join says since which attempt the client counts', async () => {
  const all = setUp()
  const sinces = []
  all.client.connect()
  const next = async (more) => {
    FakeWebSocket.last.accept()
    sinces.push(FakeWebSocket.last.sent[0].since)
    if (more) FakeWebSocket.last.say(joined(more))
    FakeWebSocket.last.end(more?.code ?? 1006)
    await all.clock.advance(9000)
  }
  await next() // lost
  await next({ resumed: true }) // the seat that the lost one got
  await next({ resumed: true })
  await next({ resumed: false })
  await next({ resumed: true })
  await next({ resumed: true, code: 4002 })
  await next({ resumed: false })
  await next({ resumed: true })
  assert.deepEqual(sinces, [undefined, undefined, 2, 2, 4, 4, undefined, 1])
})

test('envelope: every message on the wire, both ways, with its size', () => {
  const all = setUp({ token: 'secret' })
  const seen = []
  all.client.addEventListener('envelope', ({ detail }) => seen.push(detail))
  const socket = connect(all)
  all.client.send({ type: 'message', data: '会议' })
  socket.say({ type: 'error', code: 'no-peer', message: 'nobody', for: 'message', ref: 1, seq: 1 })
  socket.say({ type: 'dance', step: 1 })
  socket.dispatchEvent(new MessageEvent('message', { data: '{' }))
  all.client.probe()
  assert.deepEqual(seen.map(({ direction, message }) => [direction, message.type ?? message]), [
    ['out', 'join'], ['in', 'joined'], ['out', 'message'], ['in', 'error'], ['in', 'dance'], ['in', '{'], ['out', 'ping'],
  ])
  assert.equal(seen[2].bytes, new TextEncoder().encode('{"type":"message","data":"会议","seq":1}').length)
  assert.equal(seen[2].at, all.clock.now())
  assert.deepEqual(seen[4].message, { type: 'dance', step: 1 })
})

test('a listener of `envelope` may leave', () => {
  const all = setUp()
  all.client.addEventListener('envelope', ({ detail }) => detail.message.type === 'joined' && all.client.leave())
  connect(all)
  assert.equal(all.client.state, 'closed')
  assert.equal(all.clock.pending, 0)
})

test('slow motion: messages are held, in order; pings and acks are not', async () => {
  const all = setUp()
  all.client.delay = 1_000
  all.client.connect()
  const socket = FakeWebSocket.last
  socket.accept()
  assert.deepEqual(socket.sent, [])
  await all.clock.advance(1_000)
  assert.deepEqual(socket.sent.map((m) => m.type), ['join'])
  socket.say(joined())
  all.client.send(offer('a'))
  await all.clock.advance(400)
  all.client.send(offer('b'))
  let wanted = true
  all.client.send(offer('c'), () => wanted)
  all.client.probe()
  assert.deepEqual(socket.sent.map((m) => m.type), ['join', 'ping'])
  await all.clock.advance(600)
  assert.deepEqual(counted(socket).map((m) => m.sdp), ['a'])
  wanted = false
  all.client.delay = 0
  all.client.send(offer('d'))
  await all.clock.advance(399)
  assert.equal(counted(socket).length, 1, 'd waits behind b')
  await all.clock.advance(1)
  assert.deepEqual(counted(socket).map((m) => [m.sdp, m.seq]), [['a', 1], ['b', 2], ['d', 3]])
  all.client.delay = 1_000
  all.client.send(offer('e'))
  all.client.leave()
  assert.deepEqual(counted(socket).slice(3).map((m) => m.type), ['offer', 'leave'], 'the end waits for nothing')
})

test('slow motion: what was held when the connection broke goes out on the next', async () => {
  const all = setUp()
  const socket = connect(all)
  all.client.delay = 1_000
  all.client.send(offer('a'))
  socket.end(1006)
  all.client.probe()
  FakeWebSocket.last.accept()
  await all.clock.advance(1_000)
  FakeWebSocket.last.say(joined({ resumed: true }))
  await all.clock.advance(1_000)
  assert.deepEqual(counted(FakeWebSocket.last).map((m) => [m.sdp, m.seq]), [['a', 1]])
})

test('new relay credentials are a message like others, and counted', () => {
  const all = setUp()
  const socket = connect(all)
  socket.say({ type: 'ice-servers', iceServers: [{ urls: 'turn:x' }], seq: 1 })
  socket.say({ type: 'ice-servers', iceServers: 'nonsense', seq: 2 })
  socket.say({ type: 'peer-joined', peer: { id: 'you' }, seq: 3 })
  assert.deepEqual(all.of('message').map((m) => m.type), ['ice-servers', 'peer-joined'])
})

test('the network changes: whoever wants to know is told, others probe', () => {
  const [window, connection] = [new EventTarget(), new EventTarget()]
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' })
  const end = new AbortController()
  const heard = []
  const client = { probe: () => heard.push('probe'), leave: () => heard.push('leave'), networkChanged: () => heard.push('network') }
  followPage(client, { window, document, connection, signal: end.signal })
  window.dispatchEvent(new Event('online'))
  connection.dispatchEvent(new Event('change'))
  window.dispatchEvent(new Event('pageshow'))
  document.dispatchEvent(new Event('visibilitychange'))
  end.abort()
  connection.dispatchEvent(new Event('change'))
  assert.deepEqual(heard, ['network', 'network', 'probe', 'probe'])
})
