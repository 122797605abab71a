// The library alone, without the page: what an application calls, between real browsers.
import assert from 'node:assert/strict'
import { EVERY_PAIR, FIREFOX, rowOfPairs } from './rows.mjs'

/** Joins from a page of the server, by the library that it serves; the page's own code does not run. */
async function join(browser, url, room, name) {
  const page = await browser.newPage()
  await page.goto(new URL('protocol.json', url).href)
  await page.evaluate(async (base, id, name) => {
    const { connect } = await import(new URL('js/duet.js', base).href)
    // Time runs four times as fast: three restarts in vain take 18 s.
    const clock = { now: () => performance.now() * 4, setTimeout: (run, ms) => setTimeout(run, ms / 4), clearTimeout: (id) => clearTimeout(id) }
    const room = await connect(new URL('ws', base), { room: id, name, media: true, clock })
    const heard = []
    const note = (type, what) => room.addEventListener(type, ({ detail }) => heard.push([type, what(detail)]))
    note('chat', ({ peer, text }) => [peer.name, text])
    note('message', ({ peer, data }) => [peer.name, data])
    note('file', ({ peer, name, size }) => [peer.name, name, size])
    note('trouble', (error) => String(error))
    room.addEventListener('track', ({ detail: { stream } }) => {
      window.video ??= document.documentElement.appendChild(document.createElementNS('http://www.w3.org/1999/xhtml', 'video'))
      window.video.muted = true
      window.video.srcObject = stream
      window.video.play().catch(() => {})
    })
    Object.assign(window, { room, heard, peer: () => [...room.peers.values()][0], frames: 0 })
  }, url, room, name)
  return page
}

const until = (page, what, timeout = 15_000) => page.waitForFunction(what, { timeout, polling: 100 })
/** Ten more frames are received. */
async function playing(page) {
  await page.evaluate(() => (window.from = undefined))
  await until(page, async () => {
    const report = await peer().call.getStats()
    const video = [...report.values()].find((r) => r.type === 'inbound-rtp' && r.kind === 'video')
    window.from ??= video?.framesDecoded
    return video?.framesDecoded >= window.from + 5
  })
}

rowOfPairs(23, 'the library without the page: chat, messages, a file, a rebuild', EVERY_PAIR, async (scene) => {
  const { url } = await scene.server
  const room = scene.newRoom()
  const [a, b] = [await join(await scene.browser(0), url, room, 'Ada'), await join(await scene.browser(1), url, room, 'Bert')]
  const both = [a, b]
  scene.t.after(() => Promise.all(both.map((page) => page.close())))
  await Promise.all(both.map((page) => until(page, () => peer()?.state === 'connected')))
  await Promise.all(both.map(playing))

  await a.evaluate(() => room.send({ move: 'e4' }))
  await b.evaluate(() => room.sendChat('hello'))
  await b.evaluate(() => room.sendFile(new Blob([new Uint8Array(300_000)]), { name: 'zeros.bin' }))
  await until(a, () => heard.length === 2)
  assert.deepEqual(await a.evaluate(() => heard), [['chat', ['Bert', 'hello']], ['file', ['Bert', 'zeros.bin', 300_000]]])
  await until(b, () => heard.length === 1)
  assert.deepEqual(await b.evaluate(() => heard), [['message', ['Ada', { move: 'e4' }]]])

  // The browser of the one says that the path is dead, for as long as this connection lives: restarts do not help.
  const [one, other] = scene.kinds[1] === FIREFOX ? [a, b] : [b, a]
  for (const page of both) {
    await page.evaluate(() => {
      window.rebuilt = 0
      peer().call.addEventListener('rebuilt', () => window.rebuilt++)
    })
  }
  await one.evaluate(() => {
    const { pc } = peer().call
    Object.defineProperty(pc, 'connectionState', { get: () => 'failed' })
    pc.dispatchEvent(new Event('connectionstatechange'))
  })
  await Promise.all(both.map((page) => until(page, () => window.rebuilt > 0 && peer().state === 'connected', 40_000)))
  await Promise.all(both.map(playing))
  await one.evaluate(() => room.sendChat('still here'))
  await until(other, () => heard.at(-1)[1][1] === 'still here')
  for (const page of both) assert.deepEqual(await page.evaluate(() => heard.filter(([type]) => type === 'trouble')), [])

  await a.evaluate(() => room.leave())
  await until(b, () => room.peers.size === 0)
})
