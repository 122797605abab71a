// Calls that go through the server's own relay, whatever other path there is.
import assert from 'node:assert/strict'
import { relayOnly, startRelaying } from './relay.mjs'
import { both, EVERY_PAIR, PAIR, row, rowOfPairs } from './rows.mjs'

/** In the page: both ends of the path that the call takes, and how this side reaches its relay. */
async function path() {
  const [{ call }] = duet.room.members.values()
  const report = await call.pc.getStats()
  const entries = [...report.values()]
  const transport = entries.find((s) => s.type === 'transport')
  const pair = report.get(transport?.selectedCandidatePairId) ?? entries.find((s) => s.type === 'candidate-pair' && s.selected) // Firefox
  if (!pair) return undefined
  const [local, remote] = [pair.localCandidateId, pair.remoteCandidateId].map((id) => report.get(id))
  return { local: local.candidateType, by: local.relayProtocol, remote: remote.candidateType }
}

/** Both pages say that the call is relayed, and it is. */
async function relayed(people, transport) {
  await both(people, (person) => person.wait(() => document.querySelector('#pill').dataset.state === 'relay'))
  for (const person of people) assert.match(await person.text('#pill'), /Relay/)
  assert.deepEqual(await both(people, (person) => person.page.evaluate(path)), people.map(() => ({ local: 'relay', by: transport, remote: 'relay' })))
}

for (const transport of ['udp', 'tcp']) {
  rowOfPairs(10, `nothing but the relay, over ${transport.toUpperCase()}: both pages say so, pictures move`, EVERY_PAIR, async (scene) => {
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
    await person.waitVisible('.ins-row[data-type^=candidate-error]')
  })
  scene.t.diagnostic(`the inspector says so after ${Math.round(performance.now() - start)} ms`)
  const words = await both(people, (person) => person.waitCard('blocked'))
  scene.t.diagnostic(`the card after ${Math.round(performance.now() - start)} ms`)
  for (const text of words) assert.match(text, /nor one through the relay/)
})

row(10, 'no path, and the server has no relay: a card says so', PAIR, async (scene) => {
  const room = scene.newRoom()
  const people = await both([0, 1], (seat) => scene.open(seat, { room, prepare: (page) => relayOnly(page) }))
  await both(people, (person, i) => person.join(i === 0 ? 'Ada' : 'Bob'))
  const words = await both(people, (person) => person.waitCard('relay-missing'))
  for (const text of words) assert.match(text, /this server offers no relay/)
})
