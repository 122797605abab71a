// The inspector shows every envelope, and no secret.
import assert from 'node:assert/strict'
import { Server } from './harness.mjs'
import { both, PAIR, row } from './rows.mjs'

row(17, 'the inspector shows every envelope, and no secret', PAIR, async (scene) => {
  const credential = 'a-credential-that-nobody-may-see'
  const { url } = await Server.start({
    env: { DUET_ICE_SERVERS: JSON.stringify([{ urls: ['turn:127.0.0.1:9'], username: 'somebody', credential }]) },
  })
  // What went over the wire, as the browser itself counts it.
  const frames = { out: 0, in: 0 }
  const room = scene.newRoom()
  const a = await scene.open(0, {
    url,
    room,
    prepare: async (page) => {
      const devtools = await page.createCDPSession()
      await devtools.send('Network.enable')
      const sockets = new Map()
      devtools.on('Network.webSocketFrameSent', ({ requestId }) => count(requestId, 'out'))
      devtools.on('Network.webSocketFrameReceived', ({ requestId }) => count(requestId, 'in'))
      // The check of the server before the call has a socket of its own: the call's is the last.
      const count = (socket, way) => {
        const counts = sockets.get(socket) ?? { out: 0, in: 0 }
        counts[way]++
        sockets.set(socket, counts)
        Object.assign(frames, counts)
      }
    },
  })
  await a.join('Ada')
  await a.waitStatus('waiting')
  const b = await scene.open(1, { url, room })
  await b.join('Bob')
  await both([a, b], (person) => person.waitConnected())
  await a.openDrawer('inspector')
  await a.wait(() => duet.inspector.entries.some((entry) => entry.lane === 'note' && entry.message && JSON.stringify(entry.message).includes('connected')))

  const counts = () => a.page.evaluate(() => Object.fromEntries(['out', 'in'].map((lane) => [lane, duet.inspector.entries.filter((e) => e.lane === lane).length])))
  await a.wait((out) => duet.inspector.entries.filter((e) => e.lane === 'out').length >= out, frames.out)
  assert.deepEqual(await counts(), frames, 'as many as went over the wire')

  const session = await a.page.evaluate(() => duet.room.signaling.session)
  const password = await a.page.evaluate(() => /ice-pwd:(\S+)/.exec([...duet.room.members.values()][0].call.pc.localDescription.sdp)[1])
  await a.page.$$eval('#inspector .ins-head[aria-expanded=false]', (heads) => heads.forEach((head) => head.click()))
  const shown = await a.page.evaluate(() => document.documentElement.outerHTML)
  const kept = await a.page.evaluate(() => duet.inspector.export())
  assert.ok(JSON.parse(kept), 'the download is JSON')
  for (const [name, secret] of Object.entries({ session, credential, password })) {
    assert.ok(!shown.includes(secret), `the ${name} is shown`)
    assert.ok(!kept.includes(secret), `the ${name} is in the download`)
  }
})
