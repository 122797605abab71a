// Pages written for Socket.IO, on another origin than duet: one script tag is changed, and they call.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { CAMERA, cleanUp, launch, Proxy, Server } from './harness.mjs'

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8' }

/** How long a page may take to show what it should, in milliseconds. */
const PATIENCE = 15_000

let ada, bob, site, proxy, rooms = 0

/** The tutorial's own web server. The script tag of Socket.IO leads to duet's adapter instead. */
async function startSite() {
  const server = createServer(async (request, response) => {
    const file = new URL(request.url, 'http://localhost').pathname.slice(1)
    const text = await readFile(new URL(`../fixtures/${file}`, import.meta.url), 'utf8')
    response.setHeader('Content-Type', TYPES[path.extname(file)])
    response.end(text.replace(/src="[^"]*socket\.io\.js"/, `src="${proxy.url}js/compat/socket-io.js"`))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return Object.assign(server, { url: `http://localhost:${server.address().port}` })
}

before(async () => {
  ;[ada, bob, site] = await Promise.all([launch(CAMERA), launch(CAMERA), startSite()])
  const { port } = await Server.start({ env: { DUET_ALLOWED_ORIGINS: site.url } })
  proxy = await Proxy.start(port)
})

after(async () => {
  await cleanUp()
  site?.close()
})

/** Somebody at a tutorial's page. */
class Reader {
  faults = []

  static async open(t, browser, name, room) {
    const reader = new Reader()
    reader.page = await browser.newPage()
    reader.page.on('pageerror', (error) => reader.faults.push(String(error)))
    t.after(() => reader.page.isClosed() || reader.page.close())
    await reader.page.goto(`${site.url}/${name}.html?room=${room}`)
    return reader
  }

  /** Waits until `look` gives something in the page, and returns it. */
  async wait(look, ...args) {
    const end = performance.now() + PATIENCE
    for (;;) {
      const found = await this.page.evaluate(look, ...args).catch(() => undefined)
      if (found) return found
      const state = () => this.page.$eval('#state', (element) => element.textContent)
      assert.ok(performance.now() < end, `in vain: ${look} ${args}; it shows "${await state()}"; ${this.faults}`)
      await sleep(50)
    }
  }

  shows(state) {
    return this.wait((wanted) => document.querySelector('#state').textContent === wanted, state)
  }

  /** Waits until `count` more frames of the other one's camera were decoded. */
  async framesAdvance(count = 5) {
    const frames = async (least) => {
      const sum = [...(await pc.getStats()).values()].reduce((n, s) => n + (s.type === 'inbound-rtp' && s.kind === 'video' ? s.framesDecoded : 0), 0)
      return sum >= least && { sum }
    }
    const { sum } = await this.wait(frames, 1)
    await this.wait(frames, sum + count)
  }
}

const both = (readers, action) => Promise.all(readers.map(action))

test('create or join: a call, a third one, a reload, a lost connection, hanging up', async (t) => {
  const room = `tutorial-${++rooms}`
  const a = await Reader.open(t, ada, 'create-or-join', room)
  await a.shows('created')
  await a.wait(() => localStream)
  const b = await Reader.open(t, bob, 'create-or-join', room)
  await both([a, b], (reader) => reader.framesAdvance())
  await both([a, b], (reader) => reader.shows('ready'))

  const c = await Reader.open(t, ada, 'create-or-join', room)
  await c.shows('full')
  await c.page.close()
  await a.page.bringToFront()

  await b.page.reload()
  await both([a, b], (reader) => reader.framesAdvance())

  // Nobody hears of a disconnect, the pictures go on, and what is said meanwhile arrives.
  await a.page.evaluate(() => socket.on('message', (message) => (window.said = message)))
  await b.page.evaluate(() => socket.on('reconnecting', () => (window.lost = true)).on('reconnect', () => (window.back = true)))
  proxy.refuse(true)
  proxy.cut()
  await b.wait(() => window.lost)
  await b.page.evaluate(() => socket.emit('message', 'said while away'))
  await both([a, b], (reader) => reader.framesAdvance())
  proxy.refuse(false)
  await a.wait(() => window.said === 'said while away')
  await b.wait(() => window.back)
  await both([a, b], (reader) => reader.shows('ready'))
  await both([a, b], (reader) => reader.framesAdvance())

  await b.page.click('#hangup')
  await a.shows('alone')
  assert.deepEqual([a, b, c].map((reader) => reader.faults), [[], [], []])
})

test('join and leave: a call, a third one, leaving and coming back', async (t) => {
  const room = `tutorial-${++rooms}`
  const a = await Reader.open(t, ada, 'join-leave', room)
  await a.page.click('#connserver')
  await a.shows('joined')
  const b = await Reader.open(t, bob, 'join-leave', room)
  await b.page.click('#connserver')
  await both([a, b], (reader) => reader.framesAdvance())
  await a.shows('joined_conn')
  await b.shows('joined')

  const c = await Reader.open(t, ada, 'join-leave', room)
  await c.page.click('#connserver')
  await c.shows('full')
  await c.page.close()
  await a.page.bringToFront()

  await b.page.click('#leave')
  await b.shows('leaved')
  await a.shows('joined_unbind')
  await b.page.click('#connserver')
  await both([a, b], (reader) => reader.framesAdvance())
  assert.deepEqual([a, b, c].map((reader) => reader.faults), [[], [], []])
})

test('a page that duet does not know is told why nothing happens', async (t) => {
  const stranger = await Reader.open(t, ada, 'create-or-join', `tutorial-${++rooms}`)
  await stranger.page.goto(`${site.url.replace('localhost', '127.0.0.1')}/create-or-join.html`)
  await stranger.page.evaluate(() => {
    socket.on('connect_error', (error) => (window.problem = error.message))
    socket.emit('create or join', 'anywhere')
  })
  const problem = await stranger.wait(() => window.problem)
  assert.ok(problem.includes(`does its DUET_ALLOWED_ORIGINS name ${new URL(stranger.page.url()).origin}?`), problem)
})
