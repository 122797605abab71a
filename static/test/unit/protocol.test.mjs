import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { Backoff } from '../../js/backoff.js'
import { afterClose, decode, isName, isRoom, joinIsHopeless, socketURL } from '../../js/protocol.js'
import { seeded } from './fakes.mjs'

test('close codes say what to do next', () => {
  const want = {
    resume: [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1015, 4000, 4001, 4100, 4499],
    'new-session': [4002],
    end: [1002, 1003, 1007, 1008, 1009, 4500, 4501, 4999],
  }
  for (const [rule, codes] of Object.entries(want)) {
    for (const code of codes) assert.equal(afterClose(code), rule, `close ${code}`)
  }
})

test('join errors: which are worth another try', () => {
  for (const code of ['room-full', 'unauthorized', 'forbidden', 'bad-message']) assert.ok(joinIsHopeless(code), code)
  for (const code of ['server-full', 'rate-limited', 'stale-attempt']) assert.ok(!joinIsHopeless(code), code)
})

test('the socket is next to the page', () => {
  assert.equal(socketURL('http://localhost:8080/#demo'), 'ws://localhost:8080/ws')
  assert.equal(socketURL('https://example.com/duet/?a=b#c'), 'wss://example.com/duet/ws')
  assert.equal(socketURL('https://example.com/duet/index.html'), 'wss://example.com/duet/ws')
})

test('room names', () => {
  for (const good of ['a', 'demo', '会议室', 'with space inside', 'x'.repeat(128)]) assert.ok(isRoom(good), good)
  for (const bad of ['', ' a', 'a ', 'a\u0000', 'a\nb', '\u0085', 'x'.repeat(129), '会'.repeat(43), '\ud800']) {
    assert.ok(!isRoom(bad), JSON.stringify(bad))
  }
})

test('names', () => {
  for (const good of ['', 'Ada', '🙂'.repeat(64), 'a b']) assert.ok(isName(good), good)
  for (const bad of ['x'.repeat(65), 'a\tb', 'a\u202eb', 'a\u2066b', '\udfff']) assert.ok(!isName(bad), JSON.stringify(bad))
})

test('decode: what is understood', () => {
  const joined = { type: 'joined', room: 'r', id: 'a', peers: [{ id: 'b' }], resumed: false, received: 0, grace: 30, iceServers: [] }
  assert.deepEqual(decode(JSON.stringify(joined)), { ...joined, seq: undefined })
  assert.deepEqual(decode('{"type":"candidate","from":"b","candidate":null,"seq":3}'), { type: 'candidate', from: 'b', candidate: null, seq: 3 })
  assert.equal(decode('{"type":"message","from":"b","data":null,"new":1,"seq":1}').type, 'message')
})

test('decode: what is not understood still counts', () => {
  assert.deepEqual(decode('{"type":"tomorrow","seq":7}'), { type: 'unknown', seq: 7 })
  assert.deepEqual(decode('{"type":"offer","seq":7}'), { type: 'unknown', seq: 7 })
  assert.deepEqual(decode('{"type":"constructor","seq":2}'), { type: 'unknown', seq: 2 })
  for (const text of ['', '[]', 'null', '1', '{', '{"type":5}']) assert.equal(decode(text).type, 'unknown', text)
  for (const seq of [0, -1, 1.5, '1']) assert.equal(decode(JSON.stringify({ type: 'pong', seq })).seq, undefined)
})

test('the examples that the server is tested with are understood', (t) => {
  const file = new URL('../../../signaling/testdata/examples.json', import.meta.url)
  if (!existsSync(file)) return t.skip('no examples')
  const examples = JSON.parse(readFileSync(file, 'utf8')).filter((e) => e.from === 'server' && e.want === 'ok')
  assert.ok(examples.length > 0)
  for (const { name, json } of examples) assert.equal(decode(json).type, JSON.parse(json).type, name)
})

test('backoff: full jitter from 0.5 s to 15 s', () => {
  const limits = new Backoff({ random: () => 1 })
  assert.deepEqual(Array.from({ length: 8 }, () => limits.next()), [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000])
  limits.reset()
  assert.equal(limits.next(), 500)
  assert.deepEqual([limits.next(700), limits.next(0), limits.next(5000), limits.next()], [700, 500, 4000, 8000], 'a lower cap, not below the base')
  const backoff = new Backoff({ random: seeded(1) })
  for (let i = 0; i < 2000; i++) {
    const wait = backoff.next()
    assert.ok(wait >= 0 && wait < 15_000)
  }
})
