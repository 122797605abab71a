import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { fileName, Files, MAX_FILE } from '../../js/data.js'
import { Sha256 } from '../../js/sha256.js'
import { channelPair, FakeChannel, next } from './fakes-data.mjs'
import { FakeClock, seeded, settle } from './fakes.mjs'

const KIB = 1 << 10
const MIB = 1 << 20

/** Bytes that look random and are the same in every run. */
function noise(length, seed = 1) {
  const bytes = new Uint8Array(length)
  const words = new Uint32Array(bytes.buffer, 0, length >> 2)
  const random = seeded(seed)
  for (let i = 0; i < words.length; i++) words[i] = random() * 2 ** 32
  return bytes
}

const hashOf = (bytes) => createHash('sha256').update(bytes).digest('hex')
const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer())

function setUp(options = {}) {
  const [a, b] = channelPair()
  const clock = new FakeClock()
  const sender = new Files({ channel: a, clock })
  const receiver = new Files({ channel: b, clock, ...options })
  const events = []
  for (const type of ['file', 'progress', 'failed']) receiver.addEventListener(type, ({ detail }) => events.push({ event: type, ...detail }))
  const ended = () => events.filter(({ event }) => event !== 'progress')
  return { a, b, clock, sender, receiver, events, ended }
}

/** What a promise is rejected with; fails when it is not. */
async function rejection(promise) {
  return promise.then(
    () => assert.fail('resolved'),
    (error) => error,
  )
}

test('SHA-256 is that of everybody, for every length around a block and in pieces', () => {
  const bytes = noise(300)
  for (let length = 0; length <= bytes.length; length++) {
    const hash = new Sha256()
    const whole = bytes.subarray(0, length)
    hash.update(whole.subarray(0, length / 3)).update(whole.subarray(length / 3))
    assert.equal(hash.digest(), hashOf(whole), `${length} bytes`)
  }
})

test('16 MiB arrive as they were sent, and little of them waits at a time', async () => {
  const { a, b, sender, receiver, events } = setUp()
  const bytes = noise(16 * MIB)
  const told = []
  const arrived = next(receiver, 'file')
  await sender.send(new Blob([bytes]), { name: 'film.mp4', type: 'video/mp4', onprogress: (p) => told.push(p.sent) })
  const { blob, sha256, ...rest } = await arrived
  assert.deepEqual(rest, { id: 1, name: 'film.mp4', type: 'video/mp4', size: 16 * MIB })
  assert.equal(sha256, hashOf(bytes))
  assert.equal(hashOf(await bytesOf(blob)), sha256)
  assert.equal(blob.type, 'application/octet-stream', 'a browser never shows it as a page')
  assert.ok(a.peak <= MIB + 16 * KIB, `${a.peak} bytes waited`)
  assert.ok(a.sent.every((frame) => typeof frame === 'object' || frame <= 16 * KIB))
  assert.equal(told.at(-1), 16 * MIB)
  assert.ok(told.every((sent, i) => i === 0 || sent > told[i - 1]))
  assert.equal(events[0].received, 0)
  assert.equal(b.binaryType, 'arraybuffer')
})

test('files of awkward sizes, among them an empty one, queue and arrive in order', async () => {
  const { sender, ended } = setUp()
  const sizes = [0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 256 * KIB + 7, MIB, MIB + 1]
  const files = sizes.map((size, i) => noise(size, i))
  await Promise.all(files.map((bytes, i) => sender.send(new File([bytes], `${i}.bin`))))
  assert.deepEqual(ended().map(({ name, size }) => [name, size]), sizes.map((size, i) => [`${i}.bin`, size]))
  for (const [i, { blob }] of ended().entries()) assert.deepEqual(await bytesOf(blob), files[i])
})

test('both directions at once', async () => {
  const { sender, receiver } = setUp()
  const there = next(receiver, 'file')
  const back = next(sender, 'file')
  await Promise.all([sender.send(new Blob([noise(MIB, 1)])), receiver.send(new Blob([noise(MIB, 2)]))])
  assert.equal((await there).sha256, hashOf(noise(MIB, 1)))
  assert.equal((await back).sha256, hashOf(noise(MIB, 2)))
})

test('a file waits for the channel to open', async () => {
  const [a, b] = channelPair()
  a.readyState = 'connecting'
  const sender = new Files({ channel: a })
  const receiver = new Files({ channel: b })
  const sent = sender.send(new Blob(['x']))
  const arrived = next(receiver, 'file')
  assert.deepEqual(a.sent, [])
  a.open()
  await sent
  assert.equal((await arrived).name, 'file')
})

test('cut at random and given a new channel, a file goes on where it was', async () => {
  const random = seeded(7)
  const bytes = noise(MIB + 123)
  for (let round = 0; round < 15; round++) {
    let [a, b] = channelPair()
    const sender = new Files({ channel: a })
    const receiver = new Files({ channel: b })
    let files = 0
    receiver.addEventListener('file', () => files++)
    receiver.addEventListener('failed', ({ detail }) => assert.fail(detail.code))
    const arrived = next(receiver, 'file')
    let over = false
    let again = 0
    const sent = sender.send(new Blob([bytes])).then(() => (over = true))
    while (!over) {
      for (let turns = random() * 16; turns > 0 && !over; turns--) await settle()
      if (over) break
      a.cut({ told: false })
      again += a.sent.filter((frame) => typeof frame === 'number').reduce((sum, size) => sum + size, 0)
      ;[a, b] = channelPair()
      sender.use(a)
      receiver.use(b)
    }
    await sent
    const { blob, sha256 } = await arrived
    assert.equal(sha256, hashOf(bytes))
    assert.equal(blob.size, bytes.length)
    assert.equal(files, 1, 'announced again after it was complete, it arrives once')
    assert.ok(again < 10 * bytes.length)
  }
})

test('a channel that has said that it is closed is replaced in time', async () => {
  const { a, b, clock, sender, receiver, ended } = setUp()
  const bytes = noise(4 * MIB)
  const sent = sender.send(new Blob([bytes]))
  await settle()
  a.readyState = 'closed' // its event comes later; sending fails before it
  await settle()
  a.cut()
  await clock.advance(9_999)
  const [c, d] = channelPair()
  sender.use(c)
  receiver.use(d)
  await sent
  await clock.advance(10_000)
  assert.deepEqual(ended().map(({ sha256 }) => sha256), [hashOf(bytes)])
  assert.equal(b.readyState, 'closed')
})

test('a confirmation that is lost with its channel is given again, and the file arrives once', async () => {
  const { a, b, sender, receiver, ended } = setUp()
  b.tamper = (frame) => (String(frame).includes('"done"') ? undefined : frame)
  const sent = sender.send(new Blob([noise(100)]))
  await next(receiver, 'file')
  await settle()
  a.cut({ told: false })
  const [c, d] = channelPair()
  sender.use(c)
  receiver.use(d)
  await sent
  assert.equal(ended().length, 1)
})

test('a sender may cancel while it sends, and the next file follows', async () => {
  const { a, sender, ended } = setUp()
  const stop = new AbortController()
  const first = rejection(
    sender.send(new Blob([noise(4 * MIB)]), { name: 'first', signal: stop.signal, onprogress: ({ sent }) => sent > MIB && stop.abort() }),
  )
  const second = sender.send(new Blob([noise(MIB, 2)]), { name: 'second' })
  assert.deepEqual(await first.then(({ code, retryable }) => ({ code, retryable })), { code: 'cancelled', retryable: false })
  await second
  assert.deepEqual(ended().map(({ event, name, code }) => [event, name, code]), [
    ['failed', 'first', 'cancelled'],
    ['file', 'second', undefined],
  ])
  assert.equal(a.said('drop').length, 1)
})

test('a file that is cancelled before its turn is never announced', async () => {
  const { a, sender } = setUp()
  const stop = new AbortController()
  const first = sender.send(new Blob([noise(MIB)]))
  const second = rejection(sender.send(new Blob(['x']), { signal: stop.signal }))
  stop.abort()
  assert.equal((await second).code, 'cancelled')
  await first
  assert.equal(a.said('file').length, 1)
  assert.equal((await rejection(sender.send(new Blob(['x']), { signal: stop.signal }))).code, 'cancelled')
})

test('a receiver may cancel, and the sender is told', async () => {
  const { a, sender, receiver, ended } = setUp()
  receiver.addEventListener('progress', ({ detail }) => detail.received > MIB && receiver.cancel(detail.id))
  assert.equal((await rejection(sender.send(new Blob([noise(8 * MIB)])))).code, 'cancelled')
  assert.deepEqual(ended().map(({ code }) => code), ['cancelled'])
  assert.ok(a.sent.reduce((sum, frame) => sum + (typeof frame === 'number' ? frame : 0), 0) < 8 * MIB)
  receiver.cancel(99)
})

test('cancelled by either side while there is no channel, a file does not come again', async () => {
  for (const who of ['sender', 'receiver']) {
    const { a, clock, sender, receiver, ended } = setUp()
    const stop = new AbortController()
    const sent = rejection(sender.send(new Blob([noise(4 * MIB)]), { signal: stop.signal }))
    if (who === 'sender') rejection(sender.send(new Blob(['x']), { signal: stop.signal }))
    await next(receiver, 'progress')
    a.cut()
    if (who === 'sender') stop.abort()
    else receiver.cancel(1)
    const [c, d] = channelPair()
    c.readyState = 'connecting'
    sender.use(c)
    receiver.use(d)
    await clock.advance(60_000) // as long as it takes
    c.open()
    assert.equal((await sent).code, 'cancelled')
    await settle()
    assert.deepEqual(ended().map(({ code }) => code), ['cancelled'], who)
  }
})

test('a file above the limit is refused before any of it is sent', async () => {
  const { a, sender, ended } = setUp({ maxSize: 1000 })
  await sender.send(new Blob([noise(1000)]))
  const error = await rejection(sender.send(new Blob([noise(1001)]), { name: 'large' }))
  assert.equal(error.code, 'too-big')
  assert.equal(error.retryable, false)
  assert.deepEqual(a.sent.filter((frame) => typeof frame === 'number'), [1000])
  assert.deepEqual(ended().map(({ name, code }) => [name, code]), [['file', undefined], ['large', 'too-big']])
  assert.equal(MAX_FILE, 2 ** 31)
})

test('a peer that is gone for 10 s ends everything under way, on both sides', async () => {
  const { a, b, clock, sender, receiver, ended } = setUp()
  const sending = [1, 2].map(() => rejection(sender.send(new Blob([noise(4 * MIB)]))))
  const back = rejection(receiver.send(new Blob([noise(4 * MIB)])))
  await settle()
  a.cut()
  await clock.advance(9_999)
  assert.deepEqual(ended(), [])
  await clock.advance(1)
  for (const error of await Promise.all([...sending, back])) {
    assert.equal(error.code, 'not-connected')
    assert.equal(error.retryable, true)
  }
  assert.deepEqual(ended().map(({ code }) => code), ['not-connected'])
  assert.equal((await rejection(sender.send(new Blob(['x'])))).code, 'not-connected')
  assert.equal(b.readyState, 'closed')
})

test('close ends everything, once, and nothing can be sent after it', async () => {
  const { clock, sender } = setUp()
  const sent = rejection(sender.send(new Blob([noise(MIB)])))
  sender.close()
  sender.close()
  assert.equal((await sent).code, 'not-connected')
  sender.use(new FakeChannel())
  assert.equal((await rejection(sender.send(new Blob(['x'])))).code, 'not-connected')
  assert.equal(clock.pending, 0)
})

test('a byte that changes on the way is found', async () => {
  const { a, sender, ended } = setUp()
  let frames = 0
  a.tamper = (frame) => {
    if (typeof frame !== 'string' && ++frames === 3) new Uint8Array(frame)[5] ^= 1
    return frame
  }
  const error = await rejection(sender.send(new Blob([noise(MIB)])))
  assert.equal(error.code, 'damaged')
  assert.equal(error.retryable, true)
  assert.deepEqual(ended().map(({ code }) => code), ['damaged'])
  await sender.send(new Blob([noise(MIB)]))
})

test('a confirmation of something else is not believed', async () => {
  const { b, sender } = setUp()
  b.tamper = (frame) => (frame.includes?.('"done"') ? frame.replace(/"sha256":"./, '"sha256":"x') : frame)
  assert.equal((await rejection(sender.send(new Blob(['x'])))).code, 'damaged')
})

test('a file that cannot be read any more', async () => {
  const { sender, ended } = setUp()
  const blob = new Blob(['x'])
  blob.slice = () => ({ arrayBuffer: () => Promise.reject(new DOMException('', 'NotReadableError')) })
  const error = await rejection(sender.send(blob))
  assert.equal(error.code, 'unreadable')
  assert.equal(error.cause.name, 'NotReadableError')
  await settle()
  assert.deepEqual(ended().map(({ code }) => code), ['cancelled'])
})

test('an older client does not answer: that ends after 30 s, and the next one is tried', async () => {
  const [a] = channelPair()
  const clock = new FakeClock()
  const sender = new Files({ channel: a, clock })
  const first = rejection(sender.send(new Blob(['x'])))
  const second = rejection(sender.send(new Blob(['x'])))
  await clock.advance(29_999)
  assert.equal(a.said('file').length, 1)
  await clock.advance(1)
  assert.equal((await first).code, 'unanswered')
  assert.equal(a.said('file').length, 2)
  await clock.advance(30_000)
  assert.equal((await second).retryable, true)
})

test('no more than 64 files wait', async () => {
  const { clock, sender } = setUp()
  const sent = Array.from({ length: 64 }, () => sender.send(new Blob([])))
  assert.equal((await rejection(sender.send(new Blob([])))).code, 'busy')
  await Promise.all(sent)
  assert.equal(clock.pending, 0)
})

test('what a hostile sender says does no harm', async () => {
  const [a, b] = channelPair()
  const receiver = new Files({ channel: b, maxSize: 100 })
  const ended = []
  for (const type of ['file', 'failed']) receiver.addEventListener(type, ({ detail }) => ended.push(detail))
  const announce = (more) => b.hear({ type: 'file', v: 1, id: 1, name: 'n', size: 10, mime: '', ...more })
  const refused = () => b.said('refuse').at(-1)?.code

  for (const frame of ['', 'x', 'null', '[]', '"file"', '{}', '{"type":"file"}', '{"type":"end","id":1}', '{"type":"accept","id":1}']) b.hear(frame)
  b.hear(new ArrayBuffer(10))
  b.hear(JSON.stringify({ type: 'file', v: 1, id: 1, name: 'x'.repeat(5000), size: 1 }))
  for (const id of [1.5, '1', null, 2 ** 53, [1], {}]) announce({ id })
  assert.deepEqual(b.sent, [], 'none of this was even answered')

  let id = 100
  for (const size of [-1, 0.5, '1', null, undefined, 1e300, [1]]) {
    announce({ id: id++, size })
    assert.equal(refused(), 'bad-file', `size ${size}`)
  }
  for (const name of [1, null, undefined, {}]) {
    announce({ id: id++, name })
    assert.equal(refused(), 'bad-file', `name ${name}`)
  }
  announce({ size: 101 })
  assert.equal(refused(), 'too-big')
  announce({ id: 1 })
  assert.equal(refused(), 'too-big', 'what has been refused stays so')
  announce({ id: 200, v: 2 })
  assert.equal(refused(), 'unsupported')
  assert.equal(b.said('accept').length, 0)

  // More than was announced, then less.
  announce({ id: 2 })
  b.hear(new ArrayBuffer(11))
  assert.deepEqual(b.said('refuse').at(-1), { type: 'refuse', id: 2, code: 'bad-file' })
  announce({ id: 3 })
  b.hear(new ArrayBuffer(9))
  b.hear({ type: 'end', id: 3, sha256: hashOf(new Uint8Array(9)) })
  assert.deepEqual(b.said('refuse').at(-1), { type: 'refuse', id: 3, code: 'bad-file' })
  // A second file before the first is complete; a byte at a time; a type that is none.
  announce({ id: 4, name: 'four' })
  announce({ id: 5, name: '../../etc/pass\u202ewd', mime: 'text/html; charset=utf-8' })
  for (let i = 0; i < 10; i++) b.hear(new ArrayBuffer(1))
  b.hear({ type: 'end', id: 5, sha256: hashOf(new Uint8Array(10)) })
  assert.deepEqual(
    ended.map(({ id, name, type, code }) => [id, name, type, code]),
    [
      [1, 'n', undefined, 'too-big'],
      [2, 'n', undefined, 'bad-file'],
      [3, 'n', undefined, 'bad-file'],
      [4, 'four', undefined, 'cancelled'],
      [5, 'passwd', '', undefined],
    ],
  )
  assert.equal(ended.at(-1).blob.size, 10)
  assert.ok(a)
})

test('what a hostile receiver says does no harm', async () => {
  const [a] = channelPair()
  const sender = new Files({ channel: a })
  for (const code of ['__proto__', 'constructor', 'kicked', 1, null, undefined]) {
    const sent = rejection(sender.send(new Blob(['x'])))
    a.hear({ type: 'refuse', id: a.said('file').at(-1).id, code })
    assert.equal((await sent).code, 'bad-file')
  }
  // Confirmed before anything was sent; accepted twice, and from a place that is none.
  const early = rejection(sender.send(new Blob(['x'])))
  a.hear({ type: 'done', id: a.said('file').at(-1).id, sha256: undefined })
  assert.equal((await early).code, 'damaged')
  for (const from of [-1, 1e9, 'x', null, NaN]) {
    const before = a.sent.filter((frame) => typeof frame === 'number').length
    const sent = sender.send(new Blob(['xyz']))
    const { id } = a.said('file').at(-1)
    a.hear({ type: 'accept', id, from })
    a.hear({ type: 'accept', id, from })
    while (a.said('end').at(-1)?.id !== id) await settle()
    assert.deepEqual(a.sent.filter((frame) => typeof frame === 'number').slice(before), [3])
    a.hear({ type: 'done', id, sha256: hashOf('xyz') })
    await sent
  }
})

test('names that would do harm', () => {
  const table = [
    ['report.pdf', 'report.pdf'],
    ['/etc/passwd', 'passwd'],
    ['C:\\Users\\a\\x.txt', 'x.txt'],
    ['../..', 'file'],
    ['', 'file'],
    ['.bashrc', 'bashrc'],
    ['a\u0000b\nc\u007f\u0085.txt', 'abc.txt'],
    ['photo\u202egpj.exe', 'photogpj.exe'],
    ['\u2066a\u2069\u200f\u061c\ufeff\u2028.txt', 'a.txt'],
    ['lone\ud800.txt', 'lone.txt'],
    ['会议 记录.docx', '会议 记录.docx'],
    ['👩‍👩‍👧.png', '👩‍👩‍👧.png'],
    ['x'.repeat(300) + '.tar.gz', 'x'.repeat(125) + '.gz'],
    ['😀'.repeat(200), '😀'.repeat(128)],
    ['a.' + 'b'.repeat(200), 'a.' + 'b'.repeat(126)],
    ['  . name . ', 'name'],
  ]
  for (const [name, want] of table) assert.equal(fileName(name), want, JSON.stringify(name))
})
