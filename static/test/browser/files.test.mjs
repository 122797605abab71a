// Chat and files, straight from browser to browser.
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { temporaryFolder } from './harness.mjs'
import { both, PAIR, row } from './rows.mjs'

const MiB = 1 << 20
/** What may wait in a channel: the high mark and one chunk more. */
const MAX_BUFFERED = MiB + (16 << 10) + 1024

/** In the page: keeps the most that ever waited in a data channel, and can slow the channels down. */
function meter() {
  window.mostBuffered = 0
  const { send } = RTCDataChannel.prototype
  RTCDataChannel.prototype.send = function (data) {
    send.call(this, data)
    window.mostBuffered = Math.max(window.mostBuffered, this.bufferedAmount)
  }
}

/** In the page: keeps what arrives whole. */
function keepFiles() {
  window.received = []
  for (const { call } of duet.room.members.values()) call.files.addEventListener('file', ({ detail }) => window.received.push(detail))
}

async function fileOf(bytes, name) {
  const file = path.join(await temporaryFolder(), name)
  const content = randomBytes(bytes)
  await writeFile(file, content)
  return { file, sha256: createHash('sha256').update(content).digest('hex') }
}

async function send(person, file) {
  await person.openDrawer('files')
  await (await person.page.$('#file-input')).uploadFile(file)
}

const prepare = (page) => page.evaluateOnNewDocument(meter)

row(13, 'chat', PAIR, async (scene) => {
  const { a, b } = await scene.call()
  await a.say('Grüße <b>&amp;</b> 你好')
  await b.openDrawer('chat')
  await b.waitChat('Grüße <b>&amp;</b> 你好')
  await b.say('received')
  await a.waitChat('received')
})

row(13, 'a file of 16 MiB: the same SHA-256, and never more than 1 MiB waiting', PAIR, async (scene) => {
  const { a, b } = await scene.call({ options: { prepare } })
  await b.page.evaluate(keepFiles)
  const { file, sha256 } = await fileOf(16 * MiB, 'a picture.bin')
  const start = performance.now()
  await send(a, file)
  const got = await b.wait(async () => {
    const [got] = window.received
    if (!got) return
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await got.blob.arrayBuffer()))
    return { name: got.name, size: got.size, sha256: [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('') }
  })
  const seconds = (performance.now() - start) / 1000
  assert.deepEqual(got, { name: 'a picture.bin', size: 16 * MiB, sha256 })
  const most = await a.page.evaluate(() => window.mostBuffered)
  scene.t.diagnostic(`${seconds.toFixed(1)} s; at most ${Math.round(most / 1024)} KiB waiting`)
  assert.ok(most <= MAX_BUFFERED, `${most} bytes waited`)
  await b.openDrawer('files')
  await b.wait(() => document.querySelector('#file-list a[download="a picture.bin"]')?.checkVisibility())
})

row(13, 'a file is cancelled on its way', PAIR, async (scene) => {
  const { a, b } = await scene.call({ options: { prepare } })
  await b.page.evaluate(keepFiles)
  const { file } = await fileOf(128 * MiB, 'too much.bin')
  await send(a, file)
  await b.openDrawer('files')
  await b.waitVisible('#file-list li')
  await a.waitVisible('#file-list button')
  await a.page.click('#file-list button')
  await both([a, b], (person) => person.wait(() => document.querySelector('#file-list').textContent.includes('cancelled')))
  assert.equal(await b.page.evaluate(() => window.received.length), 0)
  const small = await fileOf(1000, 'small.bin') // the way is free again
  await send(a, small.file)
  await b.wait(() => window.received.length === 1)
})

row(13, 'the peer vanishes in the middle of a file', PAIR, async (scene) => {
  const { a, b } = await scene.call({ options: { prepare } })
  const { file } = await fileOf(128 * MiB, 'too much.bin')
  await send(a, file)
  await b.openDrawer('files')
  await b.waitVisible('#file-list li')
  await b.page.click('#hang-up')
  await a.wait(() => document.querySelector('#file-list').textContent.includes('the connection ended'))
  await a.waitStatus('waiting')
})
