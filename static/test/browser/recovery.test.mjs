// Faults in the middle of a call: what each side says, and for how long the picture stands still.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { describe } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Proxy, Server } from './harness.mjs'
import { both, EVERY_PAIR, PAIR, row, rowOfPairs } from './rows.mjs'
import { neverLongerThan, neverStoodStill } from './standstill.mjs'
import { saw } from './table.mjs'

/** A picture that stands still for longer than this, in milliseconds, has stopped: the camera gives one each 200 ms. */
const STANDSTILL = 3000

const NAMES = ['Ada', 'Bob']

/** Watches both sides from now on. */
async function watch(people) {
  await both(people, async (person) => {
    await person.watchPicture()
    await person.watchConnection()
    await person.watchJoins()
    await person.page.evaluate(() => window.statuses.splice(0))
  })
}

/** Tells what both sides saw. The one connection was up all the time, and its picture never stood still. */
async function undisturbed(t, people) {
  for (const [i, person] of people.entries()) {
    saw(t, NAMES[i], { statuses: await person.statuses(), ...await person.standstills() })
    assert.deepEqual(await person.connectionStates(), [['connected']])
  }
  await neverStoodStill(people, STANDSTILL)
}

/** Both know of each other again, and what they say arrives. */
async function together([a, b]) {
  await both([a, b], (person) => person.wait(() => {
    const [member] = duet.room.members.values()
    return duet.room.signal.state === 'joined' && member?.presence === 'here' && member.call.pc.signalingState === 'stable'
  }))
  await both([a, b], (person) => person.waitStatus('connected'))
  await both([a, b], (person) => person.wait(() => ['direct', 'relay'].includes(document.querySelector('#pill').dataset.state)))
}

/** How to get a network of one's own here: as root, or as somebody who may be root there. Empty: not at all. */
const namespace = await (async () => {
  for (const flags of [['-n'], ['-rn']]) {
    try {
      await promisify(execFile)('unshare', [...flags, 'sh', '-c', 'ip link set lo up && ip link add v0 type veth peer name v1'])
      return flags
    } catch {
      // the next one
    }
  }
  return []
})()

row(7, 'own address changed, as from one Wi-Fi to another', PAIR, async (scene) => {
  const script = fileURLToPath(new URL('handover.mjs', import.meta.url))
  const run = promisify(execFile)('unshare', [...namespace, process.execPath, script], { timeout: 90_000 })
  const { stdout } = await run.catch((error) => Promise.reject(new Error(`${error.message}\n${error.stdout}`)))
  const { sides, faults } = JSON.parse(stdout.trim().split('\n').at(-1))
  for (const { name, ...side } of sides) saw(scene.t, name, side)
  assert.deepEqual(faults, [])
  neverLongerThan(10_000, sides)
}, { timeout: 120_000, skip: namespace.length === 0 && 'needs network namespaces: unshare -n and ip' })

// These take long and do little: they run side by side.
describe('long faults', { concurrency: 4 }, () => {
  for (const seconds of [5, 20, 40]) {
    row(4, `signal lost for ${seconds} s`, PAIR, async (scene) => {
      const proxy = await Proxy.start((await scene.server).port)
      const { a, b } = await scene.call({ urls: [proxy.url], options: { window: true } })
      await watch([a, b])
      proxy.refuse(true)
      proxy.cut()
      await a.waitStatus('signal-lost-call-up')
      await a.waitVisible('#banner')
      await b.waitStatus('peer-away-call-up')
      await sleep(seconds * 1000)
      proxy.refuse(false)
      await together([a, b])
      await a.waitHidden('#banner')
      await both([a, b], (person) => person.picturesAdvance(5))
      const joins = await a.page.evaluate(() => window.joins.map((join) => join.resumed))
      assert.deepEqual(joins, [seconds < 30]) // the server keeps the place for 30 s
      await undisturbed(scene.t, [a, b])
    })
  }
})

row(5, 'ICE restarted while the signal is lost', PAIR, async (scene) => {
  const proxy = await Proxy.start((await scene.server).port)
  const { a, b } = await scene.call({ urls: [proxy.url] })
  await watch([a, b])
  proxy.refuse(true)
  proxy.cut()
  await b.waitStatus('peer-away-call-up')
  await both([a, b], (person) => person.page.evaluate(() => {
    const { pc } = [...duet.room.members.values()][0].call
    window.oldUfrag = /ice-ufrag:(\S+)/.exec(pc.remoteDescription.sdp)[1]
  }))
  await a.page.evaluate(() => [...duet.room.members.values()][0].call.pc.restartIce())
  await both([a, b], (person) => person.picturesAdvance(5))
  proxy.refuse(false)
  await both([a, b], (person) => person.wait(() => {
    const { pc } = [...duet.room.members.values()][0].call
    return pc.signalingState === 'stable' && !pc.remoteDescription.sdp.includes(`ice-ufrag:${window.oldUfrag}\r\n`)
  }))
  await together([a, b])
  await both([a, b], (person) => person.picturesAdvance(5))
  assert.deepEqual(await a.page.evaluate(() => window.joins.map((join) => join.resumed)), [true])
  await undisturbed(scene.t, [a, b])
})

row(9, 'server killed and started again', PAIR, async (scene) => {
  const first = await Server.start()
  const { a, b } = await scene.call({ urls: [first.url, first.url] })
  await watch([a, b])
  const ids = await both([a, b], (person) => person.page.evaluate(() => duet.room.signaling.id))
  await first.kill()
  await both([a, b], (person) => person.waitStatus('signal-lost-call-up'))
  await both([a, b], (person) => person.picturesAdvance(10))
  // Both sides want a new negotiation while there is no server.
  await both([a, b], (person) => person.page.evaluate(() => {
    const { pc } = [...duet.room.members.values()][0].call
    window.oldUfrag = /ice-ufrag:(\S+)/.exec(pc.localDescription.sdp)[1]
    pc.restartIce()
  }))
  await Server.start({ address: `127.0.0.1:${first.port}` })
  await together([a, b])
  await both([a, b], (person) => person.wait(() => {
    const { pc } = [...duet.room.members.values()][0].call
    return pc.signalingState === 'stable' && !pc.localDescription.sdp.includes(`ice-ufrag:${window.oldUfrag}\r\n`)
  }))
  assert.deepEqual(await both([a, b], (person) => person.page.evaluate(() => window.joins.map((j) => [j.resumed, j.id]))), ids.map((id) => [[false, id]]))
  await both([a, b], (person) => person.picturesAdvance(5))
  await undisturbed(scene.t, [a, b])
  await a.say('still here')
  await b.openDrawer('chat')
  await b.waitChat('still here')
  await b.page.reload()
  await both([a, b], (person) => person.waitConnected())
  await both([a, b], (person) => person.framesAdvance())
})

rowOfPairs(8, 'peer reloaded', EVERY_PAIR, async (scene) => {
  const { a, b } = await scene.call()
  await a.watchPicture()
  await a.page.evaluate(() => window.statuses.splice(0))
  const start = performance.now()
  await b.page.reload()
  await b.waitConnected()
  await b.framesAdvance(1)
  const dark = performance.now() - start
  await a.picturesAdvance(10)
  await both([a, b], (person) => person.waitStatus('connected'))
  assert.equal(await a.page.$$eval('.tile', (tiles) => tiles.length), 1)
  saw(scene.t, 'Ada', { statuses: await a.statuses(), ...await a.standstills() })
  saw(scene.t, 'Bob (reloaded)', { statuses: await b.statuses(), gap: dark })
  await neverStoodStill([a], 5000)
  assert.ok(dark < 5000, `${dark} ms`)
})
