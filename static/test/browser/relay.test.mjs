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
    await relayOnly(page, { transport: 'udp' })
  } })
  const desktop = await scene.open(1, { url, room, prepare: (page) => relayOnly(page, { transport: 'udp' }) })
  assert.equal(await phone.page.evaluate(() => isSecureContext), true)
  await phone.join('Ada')
  await phone.waitStatus('waiting')
  await desktop.join('Bob')
  await both([phone, desktop], (person) => person.waitConnected())
  await relayed([phone, desktop], 'udp')
  await both([phone, desktop], (person) => person.framesAdvance())
})

row(10, 'the relay refuses the password: a card with its code within 3 s, and no secret anywhere', PAIR, async (scene) => {
  const { url } = await startRelaying()
  const room = scene.newRoom()
  const people = await both([0, 1], (seat) => scene.open(seat, { url, room, lang: ['en', 'zh'][seat], prepare: (page) => relayOnly(page, { password: 'wrong-password' }) }))
  await both(people, (person, i) => person.join(i === 0 ? 'Ada' : 'Bob'))
  const [english, chinese] = await both(people, async (person) => {
    const words = await person.waitCard('relay-refused')
    const after = await person.page.evaluate(() => performance.now() - [...duet.room.members.values()][0].call.refusal.at)
    scene.t.diagnostic(`the card ${Math.round(after)} ms after the refusal`)
    assert.ok(after < 3000, `${after} ms after the refusal`)
    assert.match(words, /\b40[01]\b.*[(（]turn:[\d.]+:\d+/)
    await person.waitStatus('relay-refused')
    await person.openDrawer('inspector')
    await person.waitVisible('.ins-row[data-type^=candidate-error]')
    const [shown, secrets] = await person.page.evaluate(() => {
      const servers = [...duet.room.members.values()][0].call.pc.getConfiguration().iceServers
      return [document.documentElement.outerHTML + duet.inspector.export(), servers.flatMap((server) => [server.username, server.credential])]
    })
    assert.ok(secrets.includes('wrong-password') && secrets.length > 1)
    for (const secret of secrets) assert.ok(!shown.includes(secret), 'credentials are shown')
    return words
  })
  assert.match(english, /The relay refuses.*no direct path to Bob/)
  assert.match(chinese, /中继拒绝了请求/)
})

row(10, 'the relay refuses, and there is a direct path: no card', PAIR, async (scene) => {
  const { url } = await startRelaying()
  const prepare = async (page) => {
    await relayOnly(page, { password: 'wrong-password', policy: 'all' })
    // Whoever offers hears of no other path before the refusal.
    await page.evaluateOnNewDocument(() => {
      globalThis.RTCPeerConnection = class extends RTCPeerConnection {
        #refused = new Promise((resolve) => this.addEventListener('icecandidateerror', resolve))
        async setRemoteDescription(description) {
          if (description.type === 'answer') await this.#refused
          return super.setRemoteDescription(description)
        }
      }
    })
  }
  const { a, b } = await scene.call({ urls: [url, url], options: { prepare } })
  assert.ok(await b.page.evaluate(() => duet.inspector.entries.some((entry) => entry.type === 'candidate-error')), 'it was refused')
  await both([a, b], async (person) => {
    await person.framesAdvance(15) // 3 s, in which the card would have come
    assert.ok(!(await person.statuses()).includes('relay-refused'))
    await person.waitHidden('#stage-card .card')
  })
})

row(10, 'no path, and the server has no relay: a card says so', PAIR, async (scene) => {
  const room = scene.newRoom()
  const people = await both([0, 1], (seat) => scene.open(seat, { room, prepare: (page) => relayOnly(page) }))
  await both(people, (person, i) => person.join(i === 0 ? 'Ada' : 'Bob'))
  const words = await both(people, (person) => person.waitCard('relay-missing'))
  for (const text of words) assert.match(text, /this server offers no relay/)
})
