import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { ClientError, connect } from '../../js/duet.js'
import { errorOfEnd, needed } from '../../js/errors.js'
import { FakeClock, FakeMediaStream, FakePeerConnection, FakeWebSocket, settle } from './fakes.mjs'

beforeEach(() => {
  FakeWebSocket.all = []
  FakePeerConnection.all = []
})

const EVENTS = ['peer', 'peer-left', 'peer-away', 'peer-back', 'peer-change', 'track', 'chat', 'message', 'file', 'file-progress',
  'file-failed', 'media', 'state', 'closed', 'trouble']

const joined = (more) => ({
  type: 'joined', room: 'demo', id: 'me', peers: [], resumed: false, received: 0, grace: 30, iceServers: [], ...more,
})
const track = (kind) => Object.assign(new EventTarget(), { kind, readyState: 'live', enabled: true, stop() { this.readyState = 'ended' } })

/** Begins to connect; the test plays the server. */
async function begin(options = {}) {
  const clock = new FakeClock()
  const connecting = connect('wss://host/ws', {
    room: 'demo', name: 'Ada', WebSocket: FakeWebSocket, RTCPeerConnection: FakePeerConnection, MediaStream: FakeMediaStream, clock,
    random: () => 0.5, ...options,
  })
  connecting.catch(() => {})
  await settle()
  return { clock, connecting, socket: FakeWebSocket.last }
}

async function enter(options, more) {
  const all = await begin(options)
  all.socket.accept()
  all.socket.say(joined(more))
  const room = await all.connecting
  const events = []
  for (const type of EVENTS) room.addEventListener(type, ({ detail }) => events.push([type, detail]))
  await all.clock.advance(0)
  return { ...all, room, events, of: (type) => events.filter(([t]) => t === type).map(([, detail]) => detail) }
}

const code = (wanted, more) => (error) => {
  assert.ok(error instanceof ClientError, String(error))
  assert.equal(error.code, wanted)
  assert.ok(error.message.length > 5)
  for (const [key, value] of Object.entries(more ?? {})) assert.equal(error[key], value, key)
  return true
}

test('join: those who are there and those who come are heard of alike', async () => {
  const { room, socket, of } = await enter({}, { peers: [{ id: 'bert', name: 'Bert' }] })
  assert.deepEqual([room.id, room.state, room.peers.get('bert').name], ['me', 'joined', 'Bert'])
  assert.deepEqual(of('peer').map((peer) => peer.id), ['bert'])
  socket.say({ type: 'peer-joined', peer: { id: 'cleo' }, seq: 1 })
  socket.say({ type: 'peer-away', peer: { id: 'cleo' }, seq: 2 })
  socket.say({ type: 'peer-back', peer: { id: 'cleo' }, seq: 3 })
  socket.say({ type: 'peer-left', peer: { id: 'bert' }, reason: 'left', seq: 4 })
  assert.deepEqual(of('peer').map((peer) => peer.id), ['bert', 'cleo'])
  assert.equal(of('peer-away')[0], room.peers.get('cleo'))
  assert.equal(of('peer-back')[0].presence, 'here')
  assert.deepEqual(of('peer-left').map(({ peer, reason }) => [peer.name, reason]), [['Bert', 'left']])
  assert.deepEqual([...room.peers.keys()], ['cleo'])
  await room.leave()
})

test('tracks, chat and what peers say of their media', async () => {
  const { room, of, clock } = await enter({}, { peers: [{ id: 'bert' }] })
  const [pc] = FakePeerConnection.all
  const transceiver = pc.transceivers[0]
  pc.dispatchEvent(Object.assign(new Event('track'), { track: transceiver.receiver.track, transceiver }))
  const peer = room.peers.get('bert')
  assert.deepEqual(of('track'), [{ peer, track: transceiver.receiver.track, stream: peer.stream }])
  await assert.rejects(room.sendChat('hello'), code('not-connected', { retryable: true }))
  pc.channel.readyState = 'open'
  assert.equal(await room.sendChat('hello'), 1)
  await assert.rejects(room.sendChat('x'.repeat(4001)), code('too-big'))
  pc.channel.dispatchEvent(new MessageEvent('message', { data: '{"type":"chat","text":"hi"}' }))
  pc.channel.dispatchEvent(new MessageEvent('message', { data: '{"type":"media","audio":true,"video":true,"screen":true}' }))
  assert.deepEqual(of('chat'), [{ peer, text: 'hi' }])
  assert.equal(peer.media.screen, true)
  pc.connection('connected')
  assert.deepEqual([peer.state, peer.quality], ['connected', undefined])
  await clock.advance(3_000)
  while (!peer.stats) await settle()
  assert.ok(['good', 'fair', 'poor'].includes(peer.quality), peer.quality)
  assert.equal(peer.stats.quality, peer.quality)
})

test('send: any JSON to all or one, or a reason why not', async () => {
  const { room, socket, of } = await enter({}, { peers: [{ id: 'bert' }] })
  await room.send({ move: 'e4' })
  await room.send([1], { to: 'bert' })
  assert.deepEqual(socket.sent.filter((m) => m.type === 'message').map(({ data, to }) => [data, to]), [[{ move: 'e4' }, undefined], [[1], 'bert']])
  await assert.rejects(room.send(undefined), code('bad-message'))
  await assert.rejects(room.send('x'.repeat(65_000)), code('too-big'))
  await assert.rejects(room.send(1, { to: 'nobody' }), code('no-peer'))
  for (let i = 0; i < 300; i++) await room.send(i).catch((error) => code('busy', { retryable: true })(error))
  socket.say({ type: 'message', from: 'bert', data: null, seq: 1 })
  assert.deepEqual(of('message'), [{ peer: room.peers.get('bert'), data: null }])
  await room.leave()
  await assert.rejects(room.send(1), code('no-peer'))
})

test('files: to those who are connected, and from them', async () => {
  const { room, of } = await enter({}, { peers: [{ id: 'bert' }] })
  await assert.rejects(room.sendFile(new Blob(['x'])), code('not-connected'))
  const [pc] = FakePeerConnection.all
  const channel = pc.channels.files
  pc.connection('connected')
  channel.readyState = 'open'
  const sending = room.sendFile(new Blob(['']), { name: 'empty.txt' })
  while (channel.sent.length === 0) await settle()
  assert.equal(channel.sent[0].name, 'empty.txt')
  channel.dispatchEvent(new MessageEvent('message', { data: '{"type":"refuse","id":1,"code":"too-big"}' }))
  await assert.rejects(sending, code('too-big'))
  channel.dispatchEvent(new MessageEvent('message', { data: '{"type":"file","v":1,"id":1,"name":"a","size":0,"mime":""}' }))
  const sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
  channel.dispatchEvent(new MessageEvent('message', { data: JSON.stringify({ type: 'end', id: 1, sha256 }) }))
  assert.deepEqual(of('file').map(({ peer, name, size }) => [peer.id, name, size]), [['bert', 'a', 0]])
  await room.leave()
  await assert.rejects(room.sendFile(new Blob([])), code('not-connected'))
})

test('a file that comes before the code for it is loaded is not lost', async () => {
  const { of } = await enter({}, { peers: [{ id: 'bert' }] })
  const channel = FakePeerConnection.all[0].channels.files
  channel.readyState = 'open'
  channel.dispatchEvent(new MessageEvent('message', { data: '{"type":"file","v":1,"id":1,"name":"a","size":5,"mime":""}' }))
  while (channel.sent.length === 0) await settle()
  assert.equal(channel.sent[0].type, 'accept')
  assert.deepEqual(of('file-progress').map(({ name, received }) => [name, received]), [['a', 0]])
})

test('a MediaStream of the application: sent, switched, and left open', async () => {
  const [audio, video] = [track('audio'), track('video')]
  const { room, of } = await enter({ media: new FakeMediaStream([audio, video]) }, { peers: [{ id: 'bert' }] })
  const [pc] = FakePeerConnection.all
  pc.channel.readyState = 'open'
  pc.channel.dispatchEvent(new Event('open'))
  assert.deepEqual(pc.channel.sent.at(-1), { type: 'media', audio: true, video: true, screen: false })
  assert.deepEqual(pc.transceivers.map((t) => t.currentTrack), [audio, video])
  await room.setMic(false)
  await room.setCamera(false)
  assert.deepEqual([audio.enabled, video.enabled], [false, false])
  assert.deepEqual(pc.channel.sent.at(-1), { type: 'media', audio: false, video: false, screen: false })
  await room.setCamera(true)
  assert.equal(video.enabled, true)
  assert.equal(of('media').length, 4)
  await room.leave()
  assert.equal(video.readyState, 'live')
})

/** What LocalMedia is to a room. */
class FakeMedia extends EventTarget {
  problems = new Map()
  stream = new FakeMediaStream()
  closed = false
  constructor(devices = { audio: track('audio'), video: track('video') }) {
    super()
    this.devices = devices
  }
  track(kind) {
    return this.stream.getTracks().find((t) => t.kind === kind)
  }
  async ensure(kind) {
    if (!this.devices[kind]) return void this.problems.set(kind, 'missing')
    this.stream.addTrack(this.devices[kind])
    this.dispatchEvent(new Event('change'))
    return this.devices[kind]
  }
  stop(kind) {
    const t = this.track(kind)
    if (t) this.stream.removeTrack(t)
    this.dispatchEvent(new Event('change'))
  }
  async shareScreen() {
    const camera = this.track('video')
    if (camera) this.stream.removeTrack(camera)
    this.screen = track('video')
    this.stream.addTrack(this.screen)
    this.dispatchEvent(new Event('change'))
    return this.screen
  }
  stopSharing() {
    this.stream.removeTrack(this.screen)
    this.screen = undefined
    this.dispatchEvent(new Event('change'))
  }
  async use(kind, id) {
    this.used = [kind, id]
  }
  close() {
    this.closed = true
  }
}

test('devices: on, off, the screen, another one', async () => {
  const media = new FakeMedia()
  const { room } = await enter({ media }, { peers: [{ id: 'bert' }] })
  const [pc] = FakePeerConnection.all
  pc.channel.readyState = 'open'
  const sent = () => pc.transceivers.map((t) => t.currentTrack)
  assert.deepEqual(sent(), [null, null])
  await room.setCamera(true)
  await room.setMic(true)
  assert.deepEqual(sent(), [media.devices.audio, media.devices.video])
  assert.deepEqual(pc.channel.sent.at(-1), { type: 'media', audio: true, video: true, screen: false })
  await room.shareScreen()
  await settle()
  assert.deepEqual(sent(), [media.devices.audio, media.screen])
  assert.equal(pc.channel.sent.at(-1).screen, true)
  await room.stopSharing()
  assert.deepEqual(sent(), [media.devices.audio, null])
  await room.switchDevice('audio', 'x')
  assert.deepEqual(media.used, ['audio', 'x'])
  room.setQuality('low')
  await room.leave()
  assert.equal(media.closed, false, 'it is not ours')
})

test('devices that cannot be had: a reason', async () => {
  const { room } = await enter({ media: new FakeMedia({}) })
  await assert.rejects(room.setCamera(true), code('media-missing', { retryable: true }))
  await room.setCamera(false)
  await room.leave()
})

test('the end: left, replaced, kicked; told once', async () => {
  for (const [close, wanted] of [[4500, 'replaced'], [4501, 'kicked'], [1008, 'closed']]) {
    const { room, socket, of } = await enter()
    socket.end(close)
    assert.deepEqual([of('closed').map((error) => error.code), room.state], [[wanted], 'closed'])
    await room.leave()
    assert.equal(of('closed').length, 1)
  }
  const { room, of, clock } = await enter({}, { peers: [{ id: 'bert' }] })
  await room.leave()
  assert.deepEqual(of('closed').map((error) => error.code), ['left'])
  assert.equal(FakePeerConnection.all.at(-1).signalingState, 'closed')
  assert.equal(clock.pending, 0)
})

test('the server is gone for good: a call that is up goes on until we leave', async () => {
  const media = new FakeMediaStream([track('audio')])
  const { room, socket, of } = await enter({ media }, { peers: [{ id: 'bert' }] })
  const [pc] = FakePeerConnection.all
  pc.channel.readyState = 'open'
  pc.connection('connected')
  socket.end(1008)
  assert.deepEqual([room.state, room.peers.get('bert').presence, pc.signalingState === 'closed'], ['closed', 'gone', false])
  await room.setMic(false)
  assert.equal(pc.channel.sent.at(-1).audio, false)
  assert.equal(await room.sendChat('still here'), 1)
  await room.leave()
  assert.deepEqual([pc.signalingState, room.peers.size, of('closed').length], ['closed', 0, 1])
})

test('a lost connection: reconnecting, and back', async () => {
  const { room, socket, clock, of } = await enter()
  socket.end(1006)
  assert.equal(room.state, 'reconnecting')
  await clock.advance(15_000)
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined({ resumed: true }))
  assert.deepEqual(of('state'), ['joined', 'reconnecting', 'joined'])
  assert.equal(room.state, 'joined')
})

test('connect rejects: full, unreachable, refused by the browser, aborted, wrong', async () => {
  const full = await begin()
  full.socket.accept()
  full.socket.say({ type: 'error', code: 'room-full', message: 'The room is full.', for: 'join', retryAfter: 12 })
  await assert.rejects(full.connecting, code('room-full', { retryable: true, retryAfter: 12, message: 'The room is full.' }))

  const silent = await begin()
  await silent.clock.advance(20_000)
  await assert.rejects(silent.connecting, code('unreachable', { retryable: true }))
  assert.equal(silent.clock.pending, 0)

  const mixed = await begin({
    WebSocket: class {
      constructor() {
        throw Object.assign(new Error('insecure'), { name: 'SecurityError' })
      }
    },
  })
  await assert.rejects(mixed.connecting, code('insecure', { retryable: false }))

  const stop = new AbortController()
  const aborted = await begin({ signal: stop.signal })
  stop.abort()
  await assert.rejects(aborted.connecting, code('aborted'))
  await assert.rejects((await begin({ signal: stop.signal, media: new FakeMedia() })).connecting, code('aborted'))

  await assert.rejects(connect('nonsense', { room: 'demo' }), code('bad-url'))
  await assert.rejects(connect('ftp://host/', { room: 'demo' }), code('bad-url'))
  await assert.rejects(connect('wss://host/ws', { room: '' }), code('bad-message'))
  await assert.rejects(connect('wss://host/ws', { room: 'demo', name: 'x'.repeat(65) }), code('bad-message'))
})

test('an http address will do; leaving by the signal', async () => {
  const stop = new AbortController()
  const clock = new FakeClock()
  const connecting = connect(new URL('https://host/duet/ws#x'), { room: 'demo', WebSocket: FakeWebSocket, clock, signal: stop.signal })
  await settle()
  assert.equal(FakeWebSocket.last.url, 'wss://host/duet/ws')
  FakeWebSocket.last.accept()
  FakeWebSocket.last.say(joined())
  const room = await connecting
  stop.abort()
  assert.equal(room.state, 'closed')
})

test('the life of the page is followed until the end', async () => {
  const window = new EventTarget()
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' })
  const { room, socket } = await enter({ page: { window, document } }, { peers: [{ id: 'bert' }] })
  window.dispatchEvent(new Event('online'))
  assert.deepEqual(socket.sent.at(-1), { type: 'ping' })
  window.dispatchEvent(Object.assign(new Event('pagehide'), { persisted: false }))
  assert.equal(room.state, 'closed')
})

test('a part of the library that cannot be loaded: the server is out of reach, and why', async () => {
  assert.equal(await needed(Promise.resolve(1)), 1)
  const cause = new TypeError('Failed to fetch dynamically imported module')
  await assert.rejects(needed(Promise.reject(cause)), code('unreachable', { retryable: true, cause }))
})

test('every end has a code and a text', () => {
  const ends = [{ why: 'left' }, { why: 'closed', code: 1009 }, { why: 'refused', error: { type: 'error', code: 'forbidden', message: '' } },
    { why: 'refused', error: { type: 'error', code: 'of-a-newer-server', message: 'Do this.' } }]
  assert.deepEqual(ends.map((end) => errorOfEnd(end).code), ['left', 'closed', 'forbidden', 'of-a-newer-server'])
  assert.match(errorOfEnd(ends[1]).message, /1009/)
  assert.equal(errorOfEnd(ends[3]).message, 'Do this.')
})
