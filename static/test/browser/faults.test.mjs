// A call whose one side's WebSocket is cut at byte k, in each way, or arrives in dribbles: it comes up,
// chat and renegotiation work, and the media never stops.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { describe } from 'node:test'
import { both, PAIR, row } from './rows.mjs'

/**
 * What a WebSocket is to go through. `after` counts the bytes that pass, one way, until it is cut.
 * @typedef {{ way?: 'up' | 'down', after?: number, how?: 'reset' | 'finish' | 'blackHole', delay?: number, trickle?: boolean }} Plan
 */

/** A TCP proxy whose next WebSocket connections fare as planned, and all others well. */
class FaultyProxy {
  cuts = 0
  /** @type {Plan[]} */
  plans = []
  /** @type {Set<net.Socket>} */
  #sockets = new Set()

  static async start(target) {
    const proxy = new FaultyProxy()
    proxy.server = net.createServer({ allowHalfOpen: true }, (client) => proxy.#connect(client, target))
    proxy.server.listen(0, '127.0.0.1')
    await once(proxy.server, 'listening')
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}/`
    return proxy
  }

  #connect(client, target) {
    const upstream = net.connect({ port: target, host: '127.0.0.1', allowHalfOpen: true })
    const link = { client, upstream, plan: undefined, left: Infinity, isCut: false }
    for (const socket of [client, upstream]) {
      socket.setNoDelay(true)
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        this.#sockets.delete(socket)
        if (!link.isCut) for (const other of [client, upstream]) other.destroy()
      })
    }
    client.on('data', (bytes) => {
      if (!link.plan) {
        link.plan = (/^upgrade: websocket/im.test(bytes.toString('latin1')) && this.plans.shift()) || {}
        link.left = link.plan.after ?? Infinity
      }
      this.#pass(link, 'up', upstream, bytes)
    })
    upstream.on('data', (bytes) => this.#pass(link, 'down', client, bytes))
    client.on('end', () => link.isCut || upstream.end())
    upstream.on('end', () => link.isCut || client.end())
  }

  #pass(link, way, to, bytes) {
    if (link.isCut) return
    if (way === link.plan.way) {
      bytes = bytes.subarray(0, link.left)
      link.left -= bytes.length
    }
    const step = link.plan.trickle ? 1 : bytes.length
    const write = () => {
      for (let at = 0; at < bytes.length; at += step) to.write(bytes.subarray(at, at + step))
    }
    if (link.plan.delay) setTimeout(write, link.plan.delay)
    else write()
    if (link.left <= 0) this.#cut(link)
  }

  #cut(link) {
    link.isCut = true
    this.cuts++
    for (const socket of [link.client, link.upstream]) {
      if (link.plan.how === 'reset') socket.resetAndDestroy()
      if (link.plan.how === 'finish') socket.end()
    }
  }

  close() {
    for (const socket of this.#sockets) socket.destroy()
    this.server.close()
  }
}

/** @type {Record<string, Plan[]>} */
const cases = {
  'each byte comes alone': [{ trickle: true }],
  'everything comes late': [{ delay: 150 }],
  'a black hole after 2000 bytes': [{ way: 'up', after: 2000, how: 'blackHole' }],
}
// In the handshake, while joining, while the call comes about, and in the call. Every byte of both ways is
// cut in httpapi's TestCutAtEveryByte.
for (const cut of /** @type {Required<Pick<Plan, 'how' | 'after' | 'way'>>[]} */ ([
  { how: 'reset', after: 1, way: 'up' },
  { how: 'finish', after: 700, way: 'down' },
  { how: 'finish', after: 5000, way: 'up' },
  { how: 'reset', after: 9000, way: 'down' },
])) cases[`${cut.how} after ${cut.after} bytes ${cut.way}, and again`] = [cut, cut]

describe('faulty connections', { concurrency: 3 }, () => {
  for (const [name, plans] of Object.entries(cases)) {
    row(21, `one side's WebSocket: ${name}`, PAIR, async (scene) => {
      const server = await scene.server
      const proxy = await FaultyProxy.start(server.port)
      const room = scene.newRoom()
      const [a, b] = await both([0, 1], (seat) => scene.open(seat, { url: [server.url, proxy.url][seat], room, window: true }))
      // A page asks a silent connection after 25 s; here its system tells it to at once, again and again.
      const probing = setInterval(() => b.page.evaluate(() => duet.room?.signaling.probe()).catch(() => {}), 1000)
      try {
        await b.waitVisible('#check-server[data-state=ok]') // over a WebSocket of its own
        proxy.plans = [...plans]
        await a.join('Ada')
        await a.waitStatus('waiting')
        await b.join('Bob')
        await both([a, b], (person) => person.waitConnected())
        await both([a, b], (person) => person.framesAdvance())
        await both([a, b], (person) => person.watchConnection())
        await a.say('from Ada')
        await b.openDrawer('chat')
        await b.waitChat('from Ada')
        await b.say('from Bob')
        await a.waitChat('from Bob')
        await b.page.evaluate(() => void [...duet.room.members.values()][0].call.pc.addTransceiver('audio'))
        await both([a, b], (person) => person.wait(() => {
          const { pc } = [...duet.room.members.values()][0].call
          return pc.signalingState === 'stable' && pc.getTransceivers().filter((x) => x.receiver.track.kind === 'audio' && x.currentDirection).length === 2
        }))
        await both([a, b], (person) => person.framesAdvance())
        assert.deepEqual(await both([a, b], (person) => person.connectionStates()), [[['connected']], [['connected']]])
        assert.ok(proxy.cuts > 0 || plans.every((plan) => plan.after === undefined), 'nothing was cut')
        scene.t.diagnostic(`${proxy.cuts} cuts`)
      } finally {
        clearInterval(probing)
        proxy.close()
      }
    })
  }
})
