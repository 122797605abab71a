// Calls that go through the server's own relay, whatever other path there is.
import assert from 'node:assert/strict'
import os from 'node:os'
import { Server, temporaryFolder } from './harness.mjs'
import { both, PAIR, row } from './rows.mjs'

/** Where relay and page are reached by other machines: an address of this one, or only loopback where it has none. */
const ADDRESS = Object.values(os.networkInterfaces()).flat().find((i) => i.family === 'IPv4' && !i.internal)?.address ?? '127.0.0.1'

/** A server with its relay, over http, or over https as for a phone on the local network. */
async function startRelaying({ https = false } = {}) {
  const env = { DUET_TURN_ADDR: `${ADDRESS}:0` }
  if (!https) return Server.start({ env })
  return Server.start({ address: `${ADDRESS}:0`, env: { ...env, DUET_TLS_SELF_SIGNED: 'true', DUET_DATA_DIR: await temporaryFolder() } })
}

/**
 * Before the page loads: its connections may use nothing but the relay, over `transport` where it is given,
 * and with `password` instead of the server's.
 * @param {import('puppeteer-core').Page} page
 * @param {{ transport?: 'udp' | 'tcp', password?: string }} [how]
 */
export function relayOnly(page, how = {}) {
  return page.evaluateOnNewDocument(({ transport = '', password }) => {
    const allowed = ({ urls, ...server }) => ({
      ...server,
      urls: [urls].flat().filter((url) => url.startsWith('turn:') && url.endsWith(transport)),
      ...(password && { credential: password }),
    })
    globalThis.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(configuration) {
        const iceServers = configuration.iceServers.map(allowed).filter(({ urls }) => urls.length > 0)
        super({ ...configuration, iceServers, iceTransportPolicy: 'relay' })
      }
    }
  }, how)
}

/** In the page: both ends of the path that the call takes, and how this side reaches its relay. */
async function path() {
  const [{ call }] = duet.room.members.values()
  const report = await call.pc.getStats()
  const transport = [...report.values()].find((s) => s.type === 'transport')
  const pair = report.get(transport?.selectedCandidatePairId)
  if (!pair) return undefined
  const [local, remote] = [pair.localCandidateId, pair.remoteCandidateId].map((id) => report.get(id))
  return { local: local.candidateType, by: local.relayProtocol, remote: remote.candidateType }
}

/** Both pages say that the call is relayed, and it is. */
async function relayed(people, transport) {
  await both(people, (person) => person.wait(() => document.querySelector('#pill').dataset.state === 'relay'))
  for (const person of people) assert.match(await person.text('#pill'), /Relayed/)
  assert.deepEqual(await both(people, (person) => person.page.evaluate(path)), people.map(() => ({ local: 'relay', by: transport, remote: 'relay' })))
}

for (const transport of ['udp', 'tcp']) {
  row(10, `nothing but the relay, over ${transport.toUpperCase()}: both pages say so, pictures move`, PAIR, async (scene) => {
    const { url } = await startRelaying()
    const { a, b } = await scene.call({ urls: [url, url], options: { prepare: (page) => relayOnly(page, { transport }) } })
    await relayed([a, b], transport)
    await both([a, b], (person) => person.framesAdvance())
  })
}

row(10, 'a phone and a desktop, relayed, over https with the self-signed certificate', PAIR, async (scene) => {
  const { url } = await startRelaying({ https: true })
  assert.match(url, /^https:/)
  const room = scene.newRoom()
  const phone = await scene.open(0, { url, room, prepare: async (page) => {
    await page.setViewport({ width: 360, height: 640, isMobile: true, hasTouch: true })
    await relayOnly(page)
  } })
  const desktop = await scene.open(1, { url, room, prepare: (page) => relayOnly(page) })
  assert.equal(await phone.page.evaluate(() => isSecureContext), true)
  await phone.join('Ada')
  await phone.waitStatus('waiting')
  await desktop.join('Bob')
  await both([phone, desktop], (person) => person.waitConnected())
  await relayed([phone, desktop], 'udp')
  await both([phone, desktop], (person) => person.framesAdvance())
})

row(10, 'the relay refuses the password: a card says that no path was found, and the inspector why', PAIR, async (scene) => {
  const { url } = await startRelaying()
  const room = scene.newRoom()
  const people = await both([0, 1], (seat) => scene.open(seat, { url, room, prepare: (page) => relayOnly(page, { password: 'wrong' }) }))
  await both(people, (person, i) => person.join(i === 0 ? 'Ada' : 'Bob'))
  await both(people, (person) => person.waitPhase('call'))
  const start = performance.now()
  await both(people, async (person) => {
    await person.openDrawer('inspector')
    await person.waitVisible('.ins-row[data-type=icecandidateerror]')
  })
  scene.t.diagnostic(`the inspector says so after ${Math.round(performance.now() - start)} ms`)
  const words = await both(people, (person) => person.waitCard('blocked'))
  scene.t.diagnostic(`the card after ${Math.round(performance.now() - start)} ms`)
  for (const text of words) assert.match(text, /nor one through the relay/)
})
