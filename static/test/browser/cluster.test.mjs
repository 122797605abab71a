// Calls whose people are on different nodes, and nodes that end in the middle of them.
import assert from 'node:assert/strict'
import { Cluster } from './cluster.mjs'
import { both, PAIR, row } from './rows.mjs'
import { neverStoodStill } from './standstill.mjs'
import { saw } from './table.mjs'

/**
 * A picture that stands still for as long as this, in milliseconds, was touched: the camera gives one each
 * 200 ms. While another call begins on the same machine it takes longer to be sure.
 */
const TOUCHED = 1000
const STOPPED = 3000

/** Until a dead node's rooms are somebody else's (DUET_LEASE), and until its people have come there, in milliseconds. */
const LEASE = 10_000
const RETURN = 3000

/** Ada comes to node a, where the room then is, and Bob to node b; each to the other one where that is gone. */
async function callOnTwoNodes(scene, cluster) {
  const urls = [(await cluster.entrance('a', 'b')).url, (await cluster.entrance('b', 'a')).url]
  const call = await scene.call({ urls })
  assert.deepEqual(await cluster.whereabouts(call.room), { owner: 'a', people: ['a', 'b'] })
  return { ...call, urls }
}

/** Watches both sides from now on. Returns their ids. */
function watch(people) {
  return both(people, async (person) => {
    await person.watchPicture()
    await person.watchConnection()
    await person.watchJoins()
    return person.page.evaluate(() => {
      window.statuses.splice(0)
      return duet.room.signaling.id
    })
  })
}

/** Waits until each has come back as often as given, and they know of each other. */
async function together(people, ...joins) {
  await both(people, (person) => person.wait((least) => {
    const [member] = duet.room.members.values()
    return window.joins.length >= least && duet.room.signal.state === 'joined' && member?.presence === 'here'
  }, joins[people.indexOf(person)]))
  await both(people, (person) => person.waitStatus('connected'))
}

/** From now on each side says something to the other over the server, four times a second; `messageAfter` tells when the first of it arrived. */
function talk(people) {
  return both(people, (person) => person.page.evaluate(() => {
    duet.room.addEventListener('message', () => (window.heardAt ??= Date.now()))
    window.talking = setInterval(() => duet.room.signal.state === 'joined' && duet.room.send('are you there?'), 250)
  }))
}

/** When both sides had heard the other, in milliseconds from `start` on, of the wall clock. */
async function messageAfter(people, start) {
  const heard = await both(people, (person) => person.wait(() => window.heardAt))
  await both(people, (person) => person.page.evaluate(() => clearInterval(window.talking)))
  return Math.max(...heard) - start
}

/** One shares a screen, and gives the connection a new path: both need what it says to arrive. */
async function works(one, other) {
  await one.page.click('#share')
  await other.waitScreen(true)
  await one.page.click('#share')
  await other.waitScreen(false)
  await both([one, other], (person) => person.page.evaluate(() => {
    window.oldUfrag = /ice-ufrag:(\S+)/.exec([...duet.room.members.values()][0].call.pc.remoteDescription.sdp)[1]
  }))
  await one.page.evaluate(() => [...duet.room.members.values()][0].call.pc.restartIce())
  await both([one, other], (person) => person.wait(() => {
    const { pc } = [...duet.room.members.values()][0].call
    return pc.signalingState === 'stable' && !pc.remoteDescription.sdp.includes(`ice-ufrag:${window.oldUfrag}\r\n`)
  }))
  await both([one, other], (person) => person.framesAdvance())
}

/** Tells what both sides saw. Each kept its id and the one connection, and its picture never stood still. Returns whether their joins were resumed. */
async function undisturbed(t, people, ids, standstill = TOUCHED) {
  for (const [i, person] of people.entries()) {
    saw(t, ['Ada', 'Bob'][i], { statuses: await person.statuses(), ...await person.standstills() })
    assert.deepEqual(await person.connectionStates(), [['connected']])
  }
  await neverStoodStill(people, standstill)
  const joins = await both(people, (person) => person.page.evaluate(() => window.joins))
  assert.deepEqual(joins.map((list) => list.map(({ id }) => id)), joins.map((list, i) => list.map(() => ids[i])))
  return joins.map((list) => list.map(({ resumed }) => resumed))
}

row(25, 'two people on two nodes: a call, chat, a screen, a path anew', PAIR, async (scene) => {
  const cluster = await Cluster.start('a', 'b')
  const { a, b } = await callOnTwoNodes(scene, cluster)
  await a.say('from the other node')
  await b.openDrawer('chat')
  await b.waitChat('from the other node')
  await b.say('and back')
  await a.waitChat('and back')
  await works(b, a)
})

row(25, "the room's node is killed", PAIR, async (scene) => {
  const cluster = await Cluster.start('a', 'b')
  const { a, b, room } = await callOnTwoNodes(scene, cluster)
  const ids = await watch([a, b])
  await cluster.kill('a')
  const killed = Date.now()
  await talk([a, b])
  await a.waitStatus('signal-lost-call-up')
  const after = await messageAfter([a, b], killed)
  scene.t.diagnostic(`signaling works again after ${(after / 1000).toFixed(1)} s`)
  await together([a, b], 1, 1)
  assert.deepEqual(await undisturbed(scene.t, [a, b], ids), [[false], [false]])
  assert.ok(after < LEASE + RETURN, `after ${after} ms`)
  assert.deepEqual(await cluster.whereabouts(room), { owner: 'b', people: ['b', 'b'] })
  await works(a, b)
  await works(b, a)
})

row(25, 'a node is killed whose room is elsewhere', PAIR, async (scene) => {
  const cluster = await Cluster.start('a', 'b')
  const { a, b, room } = await callOnTwoNodes(scene, cluster)
  const ids = await watch([a, b])
  await cluster.kill('b')
  const killed = Date.now()
  await b.waitStatus('signal-lost-call-up')
  await talk([a, b])
  const after = await messageAfter([a, b], killed)
  scene.t.diagnostic(`signaling works again after ${(after / 1000).toFixed(1)} s`)
  await together([a, b], 0, 1)
  assert.deepEqual(await undisturbed(scene.t, [a, b], ids), [[], [true]])
  assert.deepEqual(await cluster.whereabouts(room), { owner: 'a', people: ['a', 'a'] })
  await works(b, a)
})

row(25, 'a rolling restart, and calls that begin meanwhile', PAIR, async (scene) => {
  const cluster = await Cluster.start('a', 'b')
  const { a, b, room, urls } = await callOnTwoNodes(scene, cluster)
  const ids = await watch([a, b])
  for (const name of ['a', 'b']) {
    const stopped = cluster.stop(name)
    const call = await scene.call({ urls, options: { window: true } })
    await stopped
    await cluster.startNode(name)
    for (const person of [call.a, call.b]) {
      scene.forget(person)
      await person.close()
    }
  }
  await together([a, b], 2, 1)
  assert.deepEqual(await cluster.whereabouts(room), { owner: 'a', people: ['a', 'a'] })
  assert.deepEqual(await undisturbed(scene.t, [a, b], ids, STOPPED), [[true, true], [true]])
  await works(b, a)
})
