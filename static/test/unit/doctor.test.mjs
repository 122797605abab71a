// The doctor's page as far as it needs no browser.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { askDevices, askSecure } from '../../js/page/doctor-browser.js'
import { askLoop, askStun, askTurn, candidateKinds, gather, PATIENCE as ICE_PATIENCE, targetsOf } from '../../js/page/doctor-ice.js'
import { mask, report } from '../../js/page/doctor-report.js'
import { askHealth, askSocket, IDLE, PATIENCE, roomFor, watchIdle } from '../../js/page/doctor-server.js'
import { isRoom } from '../../js/protocol.js'
import { en, zh } from '../../js/page/texts-doctor.js'
import { FakeClock, FakeWebSocket, settle } from './fakes.mjs'

const static_ = new URL('../../', import.meta.url)
const read = (name) => readFile(new URL(name, static_), 'utf8')
const NOW = Date.parse('2026-05-04T10:00:00Z')

/** A place to stand on: `answers` are the statuses, or whole answers, by method and path. */
function env(answers = {}) {
  const clock = new FakeClock()
  const asked = []
  return {
    asked,
    clock,
    base: 'https://duet.example/a/doctor?lang=zh#room',
    WebSocket: FakeWebSocket,
    time: () => NOW,
    fetch: async (url, { method }) => {
      asked.push(`${method} ${url.pathname}`)
      const answer = answers[`${method} ${url.pathname.split('/').at(-1)}`]
      if (answer === undefined) throw new TypeError('fetch failed')
      return answer instanceof Response ? answer : new Response('What it says.\nMore.', { status: answer, headers: { 'content-type': 'text/plain; charset=utf-8' } })
    },
  }
}

const summary = ({ state, outcome }) => `${state} ${outcome}`
const FREE = { room: '' }
const last = () => FakeWebSocket.last.sent.at(-1)

test('the server: alive, behind a proxy that has none, or not there', async () => {
  for (const [status, want] of [[200, 'ok answers'], [502, 'bad gateway'], [504, 'bad gateway'], [404, 'bad status'], [401, 'bad status'], [undefined, 'bad unreachable']]) {
    const { asked, ...on } = env({ 'GET healthz': status })
    assert.equal(summary((await askHealth(on)).health), want)
    assert.deepEqual(asked, ['GET /a/healthz'], 'next to the page')
  }
})

test('the clock: right up to 30 s, then ahead or behind', async () => {
  for (const [off, want] of [[0, 'ok right'], [-30, 'ok right'], [29, 'ok right'], [30, 'bad ahead'], [-31, 'bad behind'], [7200, 'bad ahead']]) {
    const date = new Date(NOW + off * 1000).toUTCString()
    const { clock } = await askHealth(env({ 'GET healthz': new Response('ok', { headers: { date } }) }))
    assert.equal(summary(clock), want, `${off} s`)
  }
  assert.equal(summary((await askHealth(env({ 'GET healthz': 200 }))).clock), 'none unknown')
})

test('a WebSocket: there and back, a place in a room of its own, and nothing is left behind', async () => {
  const on = env()
  const answer = askSocket(on, FREE)
  const socket = FakeWebSocket.last
  assert.deepEqual([socket.url, socket.protocol], ['wss://duet.example/a/ws', 'duet.v1'])
  socket.accept()
  await settle()
  assert.deepEqual(last(), { type: 'ping' })
  await on.clock.advance(12)
  socket.say({ type: 'pong' })
  await settle()
  assert.match(last().room, /^doctor-[a-z-]{12}$/)
  assert.deepEqual([last().type, last().token, last().session], ['join', undefined, undefined])
  const iceServers = [{ urls: ['stun:a'] }]
  socket.say({ type: 'joined', room: 'r', id: 'i', peers: [], resumed: false, received: 0, grace: 0, iceServers })
  const found = await answer
  assert.deepEqual([found.websocket, found.iceServers], [{ state: 'ok', outcome: 'open', values: { ms: 12 } }, iceServers])
  assert.deepEqual([summary(found.origin), summary(found.join)], ['ok allowed', 'ok joined'])
  assert.equal(socket.closed.code, 1000)
  assert.deepEqual([on.asked, on.clock.pending], [[], 0])
})

test('what answers in place of a seat', async () => {
  const error = (code) => ({ type: 'error', code, message: 'Why.', for: 'join' })
  const cases = [
    [FREE, (s) => s.say(error('unauthorized')), 'none token'],
    [{ room: 'r', token: 't' }, (s) => s.say(error('unauthorized')), 'bad refused'],
    [FREE, (s) => s.say(error('server-full')), 'bad refused'],
    [{ room: 'r', token: 't' }, (s) => s.say(error('room-full')), 'none full'],
    [FREE, (s) => s.end(1006), 'bad closed'],
    [FREE, (_, clock) => clock.advance(PATIENCE), 'bad silent'],
  ]
  for (const [invitation, answer, want] of cases) {
    const on = env()
    const asked = askSocket(on, invitation)
    FakeWebSocket.last.accept()
    await settle()
    FakeWebSocket.last.say({ type: 'pong' })
    await settle()
    if (invitation.token) assert.deepEqual([last().room, last().token], ['r', 't'])
    await answer(FakeWebSocket.last, on.clock)
    const { join, iceServers } = await asked
    assert.deepEqual([summary(join), iceServers], [want, undefined])
  }
  const on = env()
  const asked = askSocket(on, FREE)
  FakeWebSocket.last.accept()
  await on.clock.advance(PATIENCE)
  assert.equal(summary((await asked).websocket), 'bad silent')
})

test('no WebSocket: plain requests say why', async () => {
  for (const [answers, websocket, origin] of [
    [{}, 'bad unreachable', 'none not-asked'],
    [{ 'GET ws': 426, 'POST ws': 405 }, 'bad upgrade', 'none not-asked'],
    [{ 'GET ws': 400 }, 'bad upgrade', 'none not-asked'],
    [{ 'GET ws': 426, 'POST ws': 403 }, 'none origin', 'bad refused'],
    [{ 'GET ws': 502 }, 'bad gateway', 'none not-asked'],
    [{ 'GET ws': 429 }, 'bad refused', 'none not-asked'],
    [{ 'GET ws': 503 }, 'bad refused', 'none not-asked'],
    [{ 'GET ws': 404 }, 'bad elsewhere', 'none not-asked'],
    [{ 'GET ws': 200 }, 'bad elsewhere', 'none not-asked'],
  ]) {
    const asked = askSocket(env(answers), FREE)
    FakeWebSocket.last.end(1006)
    const found = await asked
    assert.deepEqual([summary(found.websocket), summary(found.origin), summary(found.join)], [websocket, origin, 'none not-asked'], JSON.stringify(answers))
    const { said } = { ...found.websocket.values, ...found.origin.values }
    assert.ok(said === undefined || said === 'What it says.', said)
  }
  const on = env({ 'GET ws': 426, 'POST ws': 405 })
  const asked = askSocket(on, FREE)
  await on.clock.advance(PATIENCE) // it neither opens nor closes
  assert.equal(summary((await asked).websocket), 'bad upgrade')
})

test('a room of its own, unless the token is for another one', () => {
  const token = (room) => `x.${Buffer.from(JSON.stringify({ room })).toString('base64url')}.y`
  assert.match(roomFor({ room: 'our room' }), /^doctor-/)
  assert.equal(roomFor({ room: 'our room', token: token('our room') }), 'our room')
  assert.equal(roomFor({ room: '', token: token('周一') }), '周一')
  assert.match(roomFor({ room: 'team-blue', token: token('team-*') }), /^team-[a-z-]{12}$/)
  for (const junk of ['', 'x', 'x.y.z', 'x.bnVsbA.z']) assert.equal(roomFor({ room: 'r', token: `${junk}.` }), 'r')
  assert.ok(isRoom(roomFor({ room: '' })))
})

/** Watches a silent connection that has just been joined. */
async function silence(signal = new AbortController().signal) {
  const on = env()
  const ticks = []
  const watched = watchIdle(on, FREE, { tick: (second) => ticks.push(second), signal })
  const socket = FakeWebSocket.last
  socket.accept()
  await settle()
  socket.say({ type: 'joined', room: 'r', id: 'i', peers: [], resumed: false, received: 0, grace: 0, iceServers: [] })
  await settle()
  return { on, ticks, watched, socket }
}

test('a silent connection that lives: nothing is said until the end, and then it answers', async () => {
  const { on, ticks, watched, socket } = await silence()
  await on.clock.advance(IDLE - 1)
  assert.equal(socket.sent.length, 1, 'silent')
  assert.deepEqual([ticks[0], ticks.at(-1), ticks.length], [0, IDLE / 1000 - 1, IDLE / 1000])
  await on.clock.advance(1)
  assert.deepEqual(last(), { type: 'ping' })
  socket.say({ type: 'pong' })
  assert.deepEqual(await watched, { state: 'ok', outcome: 'lived', values: { seconds: 120 } })
  assert.equal(on.clock.pending, 0)
})

test('a silent connection that does not live', async () => {
  for (const [end, want] of [
    [async ({ on, socket }) => { await on.clock.advance(59_700); socket.end(1006) }, ['bad cut', { lived: 60, code: 1006 }]],
    [async ({ on, socket }) => { await on.clock.advance(3_000); socket.end(1012) }, ['bad ended', { lived: 3, code: 1012 }]],
    [async ({ on }) => on.clock.advance(IDLE + PATIENCE), ['bad dead', { seconds: 120 }]],
  ]) {
    const state = await silence()
    await end(state)
    const found = await state.watched
    assert.deepEqual([summary(found), found.values], want)
  }
  const stop = new AbortController()
  const { on, watched } = await silence(stop.signal)
  await on.clock.advance(7_100)
  stop.abort()
  assert.deepEqual(await watched, { state: 'none', outcome: 'stopped', values: { lived: 7 } })
  const failed = watchIdle(env(), FREE, { tick: () => {}, signal: stop.signal })
  FakeWebSocket.last.end(1006)
  assert.equal(summary(await failed), 'bad failed')
})

test('URLs of STUN and TURN servers, one by one', () => {
  const servers = [
    { urls: 'stun:stun.example:3478' },
    { urls: ['turn:t:3478', 'turn:t:3478?transport=tcp', 'turns:t:5349?transport=tcp', 'nonsense'], username: 'u', credential: 'c' },
  ]
  const targets = targetsOf(servers)
  assert.deepEqual(targets.map(({ kind, transport }) => `${kind} ${transport}`), ['stun udp', 'turn udp', 'turn tcp', 'turn tls'])
  assert.deepEqual(targets[2].server, { urls: ['turn:t:3478?transport=tcp'], username: 'u', credential: 'c' })
})

/** An ICE agent that plays `events`: candidates, null for their end, or errors. */
function agent(events, { tellsErrors = true } = {}) {
  const made = []
  class Agent extends EventTarget {
    constructor(configuration) {
      super()
      made.push(Object.assign(this, { configuration }))
      if (configuration.iceServers[0]?.urls.includes('turn:broken')) throw new DOMException('no such URL', 'SyntaxError')
    }
    createDataChannel() {}
    async setLocalDescription() {
      for (const event of events) {
        const type = event && 'errorCode' in event ? 'icecandidateerror' : 'icecandidate'
        this.dispatchEvent(Object.assign(new Event(type), type === 'icecandidate' ? { candidate: event } : event))
      }
    }
    close() {
      this.isClosed = true
    }
  }
  if (tellsErrors) Object.defineProperty(Agent.prototype, 'onicecandidateerror', { value: null })
  return { RTCPeerConnection: Agent, clock: new FakeClock(), made }
}

const candidate = (type, address = '192.0.2.1') => ({ type, candidate: `candidate:1 1 udp 1 ${address} 9 typ ${type}` })
const failure = (errorCode, errorText = 'why') => ({ errorCode, errorText })
const [STUN, TURN] = targetsOf([{ urls: ['stun:s', 'turn:t'] }])

test('STUN: found, seen without a NAT, failed, or silent', async () => {
  for (const [events, options, want] of [
    [[candidate('host'), candidate('srflx'), null], {}, 'ok found'],
    [[failure(701), candidate('srflx')], {}, 'ok found'],
    [[candidate('host'), null], {}, 'ok same'],
    [[candidate('host'), null], { tellsErrors: false }, 'bad silent'],
    [[failure(701), null], {}, 'bad failed'],
  ]) assert.equal(summary(await askStun(agent(events, options), STUN)), want)
  const env = agent([candidate('host')])
  const asked = askStun(env, STUN)
  await env.clock.advance(ICE_PATIENCE)
  assert.equal(summary(await asked), 'bad silent')
  assert.ok(env.made.every(({ isClosed }) => isClosed))
})

test('TURN: found, or the error with the most to say', async () => {
  for (const [events, want, code] of [
    [[failure(701), candidate('relay')], 'ok found', undefined],
    [[failure(701), failure(401), null], 'bad credentials', 401],
    [[failure(400), null], 'bad credentials', 400],
    [[failure(486), null], 'bad quota', 486],
    [[failure(508), null], 'bad quota', 508],
    [[failure(701), null], 'bad failed', 701],
    [[null], 'bad silent', undefined],
  ]) {
    const env = agent(events)
    const found = await askTurn(env, TURN)
    assert.deepEqual([summary(found), found.values.code], [want, code])
    assert.equal(env.made[0].configuration.iceTransportPolicy, 'relay')
    assert.ok(env.made.every(({ isClosed }) => isClosed) && env.clock.pending === 0)
  }
  const [broken] = targetsOf([{ urls: 'turn:broken' }])
  assert.deepEqual((await askTurn(agent([]), broken)).values, { url: 'turn:broken', code: '', said: 'no such URL' })
})

test('kinds of candidate', async () => {
  const { kinds } = await gather(agent([candidate('host'), candidate('host', '6f2a1d1e-1b3c-4d5e-8f90-123456789abc.local'), candidate('srflx'), candidate('relay'), null]), { iceServers: [] })
  assert.deepEqual([...kinds], ['host', 'mdns', 'srflx', 'relay'])
  const broken = [{ urls: ['turn:broken'] }]
  assert.deepEqual([...(await candidateKinds(agent([candidate('host'), null]), broken))], ['host'], 'without the servers')
})

test('the way through the relay is not asked without a relay', async () => {
  assert.equal(summary(await askLoop(agent([]), [])), 'none no-relay')
})

test('devices: counted without a permission', async () => {
  const navigator = (kinds, state = 'prompt') => ({
    mediaDevices: { enumerateDevices: async () => kinds.map((kind) => ({ kind })) },
    permissions: { query: async () => ({ state }) },
  })
  for (const [given, want] of [
    [navigator(['audioinput', 'videoinput', 'audiooutput']), 'ok both'],
    [navigator(['audioinput']), 'bad no-camera'],
    [navigator(['videoinput']), 'bad no-microphone'],
    [navigator(['audiooutput']), 'bad neither'],
    [navigator(['audioinput', 'videoinput'], 'denied'), 'bad denied'],
    [{ ...navigator(['audioinput', 'videoinput']), permissions: { query: async () => { throw new TypeError() } } }, 'ok both'],
    [{}, 'none insecure'],
  ]) assert.equal(summary(await askDevices(given)), want)
  assert.deepEqual([true, false].map((isSecure) => summary(askSecure({ isSecure, origin: 'http://a' }))), ['ok yes', 'bad no'])
})

test('the report has of addresses only the kind', () => {
  for (const [words, want] of [
    ['turn:203.0.113.7:3478?transport=udp', 'turn:[public IPv4]:3478?transport=udp'],
    ['http://127.0.0.1:8080/ and 10.0.0.1, 172.20.1.1, 192.168.0.1.', 'http://[loopback IPv4]:8080/ and [private IPv4], [private IPv4], [private IPv4].'],
    ['100.64.1.1 169.254.0.9 172.32.0.1', '[carrier-grade NAT IPv4] [link-local IPv4] [public IPv4]'],
    ['turns:[2001:db8::1]:5349', 'turns:[public IPv6]:5349'],
    ['Host "[::1]:8080": fe80::1%eth0 fd12:3456::1', 'Host "[loopback IPv6]:8080": [link-local IPv6] [private IPv6]'],
    ['6f2a1d1e-1b3c-4d5e-8f90-123456789abc.local', '[mDNS name]'],
    ['Server: 12 ms (401): error, turn:relay.example.org:3478', 'Server: 12 ms (401): error, turn:relay.example.org:3478'],
  ]) assert.equal(mask(words), want)
  assert.doesNotMatch(mask('address:2001:db8::1 ::ffff:198.51.100.7 2001:db8::7: no, 2001:db8::8.'), /db8|198|ffff/)
  const lines = [
    { state: 'ok', about: 'Server', reason: 'Named.\nturn:192.0.2.9:1', fix: 'unseen' },
    { state: 'bad', about: 'Clock', reason: 'Wrong.', fix: 'Set it.' },
  ]
  assert.equal(report({ address: 'https://192.0.2.1/doctor', browser: 'Browser/1.2.3.4', at: new Date(NOW) }, lines),
    'duet doctor, 2026-05-04T10:00:00Z\nhttps://[public IPv4]/doctor\nBrowser/1.2.3.4\n\nok  Server: Named. turn:[public IPv4]:1\nBAD Clock: Wrong.\n      Set it.\n')
})

// --- texts and markup -----------------------------------------------------------------------------

const holes = (words) => (words.match(/\{\w+\}/g) ?? []).sort().join()

test('both languages say the same, with the same values, and Chinese with Chinese punctuation', () => {
  assert.deepEqual(Object.keys(zh), Object.keys(en))
  for (const key of Object.keys(en)) {
    assert.equal(holes(zh[key]), holes(en[key]), key)
    assert.ok(holes(zh[key]) === zh[key] || /\p{Script=Han}/u.test(zh[key]), key)
    assert.doesNotMatch(zh[key].replace(/\{\w+\}|https?:\/\/\S*/g, 'X'), /[\u4e00-\u9fff]\s*[,;:!()]|\.\.\.|\s…/, key)
  }
})

test('every outcome has its text, and every text is used', async () => {
  const sources = (await Promise.all(['server', 'ice', 'browser'].map((part) => read(`js/page/doctor-${part}.js`)))).join('\n') + (await read('js/page/doctor.js'))
  const outcomes = new Set([...sources.matchAll(/\b(?:ok|bad|none)\(([^()]*)/g)].flatMap(([, list]) => [...list.matchAll(/'([\w-]+)'/g)].map(([, name]) => name)))
  for (const name of ['gateway', 'status', 'cut', 'ended', 'credentials', 'quota', 'failed', 'counting', 'no-microphone', 'missing', 'unnamed']) outcomes.add(name)
  const told = new Set(Object.keys(en).map((key) => key.split('.')[2]).filter(Boolean))
  for (const name of outcomes) assert.ok(told.has(name) || `doctor.${name}` in en, `nothing is said of ${name}`)
  for (const name of told) assert.ok(outcomes.has(name) || sources.includes(`doctor.idle.${name}`), `${name} never comes about`)
  for (const key of Object.keys(en).filter((key) => key.endsWith('.fix'))) assert.ok(key.slice(0, -4) in en, key)
  for (const key of Object.keys(en).filter((key) => /\.bad$/.test(key))) assert.ok(`${key}.fix` in en, key)
})

test('the markup: no script or style of its own, every icon and text there, every module named', async () => {
  const html = await read('doctor.html')
  assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)|\s(?:src|href)="(?:https?:)?\//)
  for (const [, key] of html.matchAll(/data-words="([^"]+)"/g)) assert.ok(key in en, key)
  for (const name of ['ok', 'bad', 'none']) assert.ok(html.includes(`id="i-${name}"`), name)
  const found = new Set()
  const follow = async (url) => {
    if (found.has(url.href)) return
    found.add(url.href)
    const source = (await readFile(url, 'utf8')).replaceAll(/\/\*[\s\S]*?\*\//g, '')
    for (const [, from] of source.matchAll(/^(?:import|export) [^;]*?from '([^']+)'/gm)) await follow(new URL(from, url))
  }
  await follow(new URL('js/page/doctor.js', static_))
  const wanted = [...found].slice(1).map((href) => href.slice(static_.href.length)).sort()
  assert.deepEqual([...html.matchAll(/<link rel="modulepreload" href="([^"]+)">/g)].map(([, href]) => href), wanted)
})
