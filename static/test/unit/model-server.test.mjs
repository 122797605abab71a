// The signaling client against the real server, over TCP connections that break. The same promise as
// in model.test.mjs: each message once and in order, both ways. It needs the server's binary (DUET_BIN)
// and a Node with a WebSocket of its own (22, or 20 with --experimental-websocket).
//
// CUTS=n says how often connections break.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { SignalingClient } from '../../js/signaling.js'
import { seeded } from './fakes.mjs'

const { DUET_BIN, CUTS = '30', SEED = '1' } = process.env
const missing = !DUET_BIN ? 'DUET_BIN names no server binary' : !globalThis.WebSocket && 'this Node has no WebSocket'

/** Timers that run twenty times as fast, so that waits between tries are short. */
const hurried = {
  now: () => performance.now() * 20,
  setTimeout: (run, ms) => setTimeout(run, ms / 20),
  clearTimeout: (id) => clearTimeout(id),
}

/** Starts the server and returns its port. */
async function startServer(t) {
  const server = spawn(DUET_BIN, {
    env: { DUET_ADDR: '127.0.0.1:0', DUET_ADMIN_ADDR: 'off', DUET_STUN: 'off', DUET_JOIN_RATE: '100000', DUET_MESSAGE_RATE: '1000' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(async () => {
    server.kill('SIGKILL')
    await once(server, 'exit')
  })
  return new Promise((resolve, reject) => {
    server.once('exit', (code) => reject(new Error(`the server ended with ${code}`)))
    for (const stream of [server.stdout, server.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        const url = /http:\/\/[\w.\-[\]:]+:(\d+)\//.exec(line)
        if (url) resolve(Number(url[1]))
      })
    }
  })
}

/** A proxy in front of `port` that breaks each connection after a random number of bytes. */
async function startProxy(t, port, random) {
  const proxy = net.createServer((client) => {
    const server = net.connect(port, '127.0.0.1')
    const ends = [client, server]
    // Mostly after `joined`: a seat whose connections all die before anything is handled ends.
    let left = random() < 0.1 ? random() * 900 : 1500 + random() * 4000
    if (proxy.calm) left = Infinity
    const cut = () => {
      proxy.cuts++
      for (const end of ends) end[random() < 0.5 ? 'resetAndDestroy' : 'destroy']()
    }
    for (const [from, to] of [[client, server], [server, client]]) {
      from.on('error', () => {})
      from.on('close', () => to.destroy())
      from.on('data', (bytes) => {
        to.write(bytes.subarray(0, left))
        left -= bytes.length
        if (left <= 0) cut()
      })
    }
  })
  proxy.cuts = 0
  proxy.calm = false
  await once(proxy.listen(0, '127.0.0.1'), 'listening')
  t.after(() => proxy.close())
  return proxy
}

test('the real server, connections that break', { skip: missing, timeout: 120_000 }, async (t) => {
  const random = seeded(Number(SEED))
  const proxy = await startProxy(t, await startServer(t), random)
  const url = `ws://127.0.0.1:${proxy.address().port}/ws`
  const pages = ['a', 'b'].map(() => {
    const client = new SignalingClient({ url, room: 'demo', clock: hurried, random })
    const page = { client, seats: 0, sent: 0, got: [], trouble: [] }
    client.addEventListener('message', ({ detail }) => detail.type === 'message' && page.got.push(detail.data))
    client.addEventListener('joined', ({ detail }) => page.seats++ > 0 && !detail.resumed && page.trouble.push('a new seat'))
    for (const type of ['session', 'refused', 'closed']) {
      client.addEventListener(type, ({ detail }) => page.trouble.push({ type, detail }))
    }
    client.connect()
    t.after(() => client.leave())
    return page
  })
  const [a, b] = pages
  const until = async (holds) => {
    while (!holds()) await new Promise((resolve) => setTimeout(resolve, 2))
  }
  await until(() => pages.every(({ client }) => client.state === 'joined'))
  while (proxy.cuts < Number(CUTS)) {
    // Never so many that one is refused as busy: what is tried again may come after what was not refused.
    for (const [page, other] of [[a, b], [b, a]]) {
      if (random() < 0.6 && page.sent - other.got.length < 100 && page.client.send({ type: 'message', data: page.sent })) page.sent++
    }
    await new Promise((resolve) => setTimeout(resolve, random() * 4))
  }
  proxy.calm = true
  await until(() => a.got.length >= b.sent && b.got.length >= a.sent)
  await new Promise((resolve) => setTimeout(resolve, 200)) // for what comes twice
  t.diagnostic(`seed ${SEED}: ${proxy.cuts} cuts, ${a.sent + b.sent} messages`)
  const upTo = (n) => Array.from({ length: n }, (_, i) => i)
  assert.deepEqual(a.got, upTo(b.sent))
  assert.deepEqual(b.got, upTo(a.sent))
  for (const page of pages) assert.deepEqual(page.trouble, [])
})
