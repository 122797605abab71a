import assert from 'node:assert/strict'
import events from 'node:events'
import { afterEach, test } from 'node:test'
import { FakeClock, FakeWebSocket, settle } from './fakes.mjs'

const script = new URL('../../js/compat/socket-io.js', import.meta.url).href

events.defaultMaxListeners = 20 // more listeners end with one signal than Node finds usual

// The little of a page that the script touches.
const stored = new Map()
Object.assign(globalThis, {
  window: new EventTarget(),
  document: Object.assign(new EventTarget(), {
    baseURI: 'https://tutorial.test/room.html',
    visibilityState: 'visible',
    currentScript: { src: script, dataset: { server: 'https://duet.test/base/' } },
  }),
  location: new URL('https://tutorial.test/room.html'),
  sessionStorage: { getItem: (key) => stored.get(key), setItem: (key, value) => stored.set(key, value) },
})
const locks = { request: async (name, options, hold) => hold() }
Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true })

await import(script)
await import('../../js/compat/tutorial-room.js') // what it loads
const { io } = globalThis

const HEARD = ['connect', 'connect_error', 'disconnect', 'reconnecting', 'reconnect', 'error', 'created', 'join',
  'joined', 'ready', 'full', 'otherjoin', 'leaved', 'bye', 'message', 'greeting']

/** @type {ReturnType<typeof setUp>[]} */
const open = []
afterEach(() => open.splice(0).forEach(({ socket }) => socket.disconnect()))

/** A tutorial's page: a socket, and everything that it hears. */
function setUp() {
  const clock = new FakeClock()
  const socket = io('http://old-server.test:3000', { transports: ['websocket'], duet: { WebSocket: FakeWebSocket, clock, random: () => 0.5 } })
  const heard = []
  for (const event of HEARD) socket.on(event, (...args) => heard.push([event, ...args]))
  const news = async () => {
    await settle()
    return heard.splice(0)
  }
  const page = { clock, socket, news }
  open.push(page)
  return page
}

const joined = (more) => ({ type: 'joined', room: 'r', id: 'me', peers: [], resumed: false, received: 0, grace: 30, iceServers: [], ...more })

/** The server's side of a new connection, up to `joined`. */
async function answer(message) {
  await settle()
  const server = FakeWebSocket.last
  server.accept()
  server.say(message)
  await settle()
  return server
}

/** A page that is in a room already. */
async function setUpIn(word, peers = []) {
  const page = setUp()
  page.socket.emit(word, 'r')
  const server = await answer(joined({ peers: peers.map((id) => ({ id })) }))
  await page.news()
  server.sent.splice(0)
  return { ...page, server }
}

test('create or join: the first one creates, and hears of the second', async () => {
  const { socket, news } = setUp()
  assert.equal(socket.connected, false)
  socket.emit('create or join', 'r')
  const server = await answer(joined())
  assert.equal(server.url, 'wss://duet.test/base/ws')
  assert.equal(server.sent[0].room, 'r')
  assert.deepEqual(await news(), [['connect'], ['created', 'r', 'me']])
  assert.deepEqual([socket.id, socket.connected], ['me', true])
  server.say({ type: 'peer-joined', peer: { id: 'b' }, seq: 1 })
  assert.deepEqual(await news(), [['join', 'r', 'b'], ['ready', 'r', 'b']])
  server.say({ type: 'peer-left', peer: { id: 'b' }, reason: 'left', seq: 2 })
  assert.deepEqual(await news(), [['bye', 'r', 'b']])
})

test('create or join: the second one joins, the third one finds it full', async () => {
  const second = setUp()
  second.socket.emit('create or join', 'r')
  await answer(joined({ peers: [{ id: 'a' }] }))
  assert.deepEqual(await second.news(), [['connect'], ['joined', 'r', 'me'], ['ready', 'r', 'me']])
  const third = setUp()
  third.socket.emit('create or join', 'r')
  await answer({ type: 'error', code: 'room-full', message: 'full', for: 'join' })
  assert.deepEqual(await third.news(), [['connect'], ['full', 'r']])
  // Its next try is a join like the first one.
  third.socket.emit('create or join', 'r')
  await answer(joined())
  assert.deepEqual(await third.news(), [['created', 'r', 'me']])
})

test('join, joined, otherjoin, leave, leaved, bye', async () => {
  const { socket, news } = setUp()
  socket.emit('join', 'r')
  const server = await answer(joined())
  assert.deepEqual(await news(), [['connect'], ['joined', 'r', 'me']])
  server.say({ type: 'peer-joined', peer: { id: 'b' }, seq: 1 })
  server.say({ type: 'peer-left', peer: { id: 'b' }, reason: 'timeout', seq: 2 })
  assert.deepEqual(await news(), [['otherjoin', 'r', 'b'], ['bye', 'r', 'b']])
  socket.emit('leave', 'r')
  assert.deepEqual(await news(), [['leaved', 'r', 'me']])
  assert.equal(server.sent.at(-1).type, 'leave')
  assert.equal(server.closed.code, 1000)
  assert.equal(socket.connected, true)
  socket.disconnect()
  assert.deepEqual(await news(), [['disconnect', 'io client disconnect']])
})

test('whatever is emitted goes to the others as it is, and what came too early waits for the seat', async () => {
  const { socket, news } = setUp()
  socket.emit('create or join', 'r').emit('message', 'got user media')
  const server = await answer(joined({ peers: [{ id: 'a' }] }))
  socket.emit('message', 'r', { type: 'offer', sdp: 'v=0' })
  socket.emit('ipaddr')
  await news()
  assert.deepEqual(server.sent.slice(1).map(({ type, data }) => [type, data]), [
    ['message', { event: 'message', args: ['got user media'] }],
    ['message', { event: 'message', args: ['r', { type: 'offer', sdp: 'v=0' }] }],
  ])
  const hear = (data, seq) => server.say({ type: 'message', from: 'a', data, seq })
  hear({ event: 'message', args: ['r', { candidate: 'x' }] }, 1)
  hear({ event: 'greeting', args: [] }, 2)
  // Not the form of this adapter, or what only the server may say.
  for (const [i, data] of ['x', null, {}, { event: 'greeting' }, { event: 'full', args: [] }, { event: 'disconnect', args: [] }].entries()) hear(data, 3 + i)
  assert.deepEqual(await news(), [['message', 'r', { candidate: 'x' }], ['greeting']])
})

test('a message to nobody is nothing; one that the server cannot take is an error', async () => {
  const { socket, news, server } = await setUpIn('join')
  const warnings = []
  server.say({ type: 'error', code: 'no-peer', message: 'nobody', for: 'message', ref: 1, seq: 1 })
  assert.deepEqual(await news(), [])
  socket.emit('message', 'x'.repeat(65_000))
  const [[event, error]] = await news()
  assert.deepEqual([event, error.code], ['error', 'too-big'])
  assert.throws(() => socket.emit('message', 'x', () => {}), /acknowledgements/)
  socket.emit('leave', 'r').emit('message', 'r', 'late')
  const after = await news()
  assert.deepEqual(after.map(([name]) => name), ['leaved', 'error'])
  assert.match(after[1][1].message, /join a room first/)
  // Where nobody listens for errors, the console tells.
  const { warn } = console
  console.warn = (...args) => warnings.push(args)
  socket.off('error').emit('message', 'late')
  await settle()
  console.warn = warn
  assert.equal(warnings.length, 1)
})

test('a lost connection disconnects nobody and loses nothing', async () => {
  const { clock, socket, news, server } = await setUpIn('join', ['a'])
  server.end(1006)
  assert.deepEqual(await news(), [['reconnecting', 'r', 'me']])
  socket.emit('message', 'r', 1)
  await settle()
  clock.run(1000)
  const next = await answer(joined({ resumed: true, peers: [{ id: 'a' }] }))
  next.say({ type: 'message', from: 'a', data: { event: 'message', args: ['r', 2] }, seq: 1 })
  assert.deepEqual(await news(), [['reconnect', 'r', 'me'], ['message', 'r', 2]])
  assert.deepEqual(next.sent[1].data, { event: 'message', args: ['r', 1] })
  assert.equal(socket.connected, true)
})

test('after a restart of the server: who comes back is no newcomer, who does not has left', async () => {
  const { clock, news, server } = await setUpIn('create or join', ['a', 'b', 'c'])
  server.end(1012)
  clock.run(1000)
  const next = await answer(joined({ peers: [{ id: 'a' }, { id: 'd' }], grace: 20 }))
  assert.deepEqual((await news()).slice(1), [['reconnect', 'r', 'me'], ['join', 'r', 'd'], ['ready', 'r', 'd']])
  next.say({ type: 'peer-joined', peer: { id: 'b' }, seq: 1 })
  assert.deepEqual(await news(), [])
  clock.run(19_999)
  assert.deepEqual(await news(), [])
  clock.run(1)
  assert.deepEqual(await news(), [['bye', 'r', 'c']])
})

test('as somebody new to the others, everything begins again', async () => {
  const { clock, news, server } = await setUpIn('join', ['a'])
  server.end(4002)
  clock.run(1000)
  await answer(joined({ id: 'me2', peers: [{ id: 'a' }] }))
  assert.deepEqual((await news()).slice(1), [['bye', 'r', 'a'], ['joined', 'r', 'me2']])
})

test('no server, and the end of it', async () => {
  const { socket, news } = setUp()
  socket.emit('join', 'r')
  await settle()
  FakeWebSocket.last.end(1006)
  const [, [event, error]] = await news()
  assert.deepEqual([event, error.code], ['connect_error', 'unreachable'])
  assert.match(error.message, /https:\/\/duet\.test\/base\/.*DUET_ALLOWED_ORIGINS name https:\/\/tutorial\.test/)
  const other = await setUpIn('join')
  other.server.end(4501)
  assert.deepEqual(await other.news(), [['disconnect', 'io server disconnect']])
  assert.equal(other.socket.connected, false)
  const refused = setUp()
  refused.socket.emit('join', { room: 'r' })
  const there = await answer({ type: 'error', code: 'bad-message', message: 'no such room', for: 'join' })
  assert.equal(there.sent[0].room, '')
  assert.equal((await refused.news())[1][1].message, 'no such room')
})

test('the same room twice is one seat; another room is left first', async () => {
  const { socket, news, server } = await setUpIn('join')
  const sockets = FakeWebSocket.all.length
  socket.emit('join', 'r')
  await news()
  assert.equal(FakeWebSocket.all.length, sockets)
  socket.emit('join', 'other')
  await news()
  assert.equal(server.sent.at(-1).type, 'leave')
  assert.equal(FakeWebSocket.all.length, sockets + 1)
})

test('handlers: once and off', async () => {
  const { socket, server } = await setUpIn('join', ['a'])
  const heard = []
  const gone = () => heard.push('gone')
  socket.once('greeting', () => heard.push('once')).on('greeting', gone).on('greeting', () => heard.push('on'))
  socket.off('greeting', gone)
  for (const seq of [1, 2]) server.say({ type: 'message', from: 'a', data: { event: 'greeting', args: [] }, seq })
  await settle()
  assert.deepEqual(heard, ['once', 'on', 'on'])
})

test('disconnected before it was connected: nothing happens; connect begins again', async () => {
  const { socket, news } = setUp()
  socket.disconnect()
  assert.deepEqual(await news(), [])
  socket.connect()
  assert.deepEqual(await news(), [['connect']])
})

test('a page that is loaded again takes its own seat', async () => {
  const { server } = await setUpIn('join')
  const { key } = JSON.parse(stored.get('duet'))
  const { TutorialRoom } = await import('../../js/compat/tutorial-room.js?loaded-again')
  const options = { page: 'https://duet.test/', hear: () => {}, signaling: { WebSocket: FakeWebSocket, clock: new FakeClock() } }
  const again = new TutorialRoom({ ...options, room: 'r' })
  const elsewhere = new TutorialRoom({ ...options, room: 'another' })
  const sent = FakeWebSocket.all.slice(-2).map((socket) => {
    socket.accept()
    return socket.sent[0].replaces
  })
  assert.deepEqual(sent, [key, undefined])
  assert.equal(server.closed, undefined)
  again.leave()
  elsewhere.leave()
})
