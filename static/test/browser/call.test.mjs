// Two people in two browser processes, through the real server, with real peer connections.
import assert from 'node:assert/strict'
import os from 'node:os'
import { after, afterEach, before, test } from 'node:test'
import { CAMERA, cleanUp, DENIED, launch, NO_CAMERA, Person, Proxy, Server } from './harness.mjs'

/**
 * A picture that stands still for longer than this (in milliseconds) has stopped. The made-up camera
 * gives one each 200 ms; the rest is for machines that are busy with other tests.
 */
const STANDSTILL = 3000

let server, ada, bob, rooms = 0
/** @type {Person[]} */
let people = []

before(async () => {
  ;[server, ada, bob] = await Promise.all([Server.start(), launch(CAMERA), launch(CAMERA)])
})

afterEach(async () => {
  const faults = people.flatMap((person) => person.faults)
  await Promise.all(people.splice(0).map((person) => person.close()))
  assert.deepEqual(faults, [], 'faults in the page')
})

after(cleanUp)

const newRoom = () => `room ${++rooms}`

async function open(browser, url, room) {
  const person = await Person.open(browser, url, room)
  people.push(person)
  return person
}

/** A call between the two, each over the URL given, until pictures move on both sides. */
async function call({ urlA = server.url, urlB = server.url, room = newRoom() } = {}) {
  const a = await open(ada, urlA, room)
  const b = await open(bob, urlB, room)
  await a.join('Ada')
  await a.waitStatus('waiting')
  await b.join('Bob')
  await Promise.all([a, b].map((person) => person.waitConnected()))
  await Promise.all([a, b].map((person) => person.framesAdvance()))
  return { a, b, room }
}

/** The one connection was up all the time, and its picture never stood still. */
async function undisturbed(person, t) {
  assert.deepEqual(await person.connectionStates(), [['connected']])
  const gap = await person.longestGap()
  t.diagnostic(`longest standstill of the picture: ${Math.round(gap)} ms`)
  assert.ok(gap < STANDSTILL, `the picture stood still for ${gap} ms`)
}

const both = (people, action) => Promise.all(people.map(action))

test('a call: connected, pictures move both ways, chat, microphone, camera, hanging up', async () => {
  const { a, b } = await call()
  await both([a, b], (person) => person.waitStatus('connected'))
  assert.equal(await a.text('#status-text'), 'In a call with Bob.')
  assert.equal(await b.text('.tile .caption'), 'Ada')

  await a.say('Grüße <b>&amp;</b> 你好')
  await b.waitChat('Grüße <b>&amp;</b> 你好')
  await b.say('received')
  await a.waitChat('received')

  await b.page.click('#microphone')
  await a.wait(() => document.querySelector('.tile .caption').textContent.includes('muted'))
  await b.page.click('#camera')
  await a.wait(() => document.querySelector('.tile').dataset.video === 'off')
  await b.page.click('#camera')
  await a.wait(() => document.querySelector('.tile').dataset.video === 'on')
  await a.framesAdvance()

  await b.page.click('#hang-up')
  await b.waitStatus('left')
  await a.waitStatus('peer-left-left')
  await a.waitStatus('waiting')
})

test('a reload of one side brings the call back', async () => {
  const { a, b } = await call()
  await b.page.reload()
  await both([a, b], (person) => person.waitConnected())
  await both([a, b], (person) => person.framesAdvance())
  assert.equal(await b.text('#status-text'), 'In a call with Ada.')
  for (const person of [a, b]) {
    const seen = await person.statuses()
    assert.ok(!seen.some((key) => key.startsWith('room-full')), seen.join())
  }
})

test('a reload whose goodbye is lost takes its own place', async () => {
  const proxy = await Proxy.start(server.port)
  const { a, b } = await call({ urlB: proxy.url })
  proxy.freeze() // the server does not hear that this connection ends
  await b.page.reload()
  await both([a, b], (person) => person.waitConnected())
  await both([a, b], (person) => person.framesAdvance())
  assert.ok((await a.statuses()).includes('peer-left-replaced'))
  assert.ok(!(await b.statuses()).some((key) => key.startsWith('room-full')))
})

test('glare: both add a track while their messages cross, again and again', async () => {
  const proxy = await Proxy.start(server.port)
  const { a, b } = await call({ urlA: proxy.url })
  const addTrack = () => {
    const { pc } = [...duet.room.members.values()][0].call
    const track = duet.media.track('video').clone()
    pc.addTrack(track, new MediaStream([track]))
    return new Promise((resolve) => {
      const offered = () => pc.signalingState === 'have-local-offer' && resolve()
      offered()
      pc.addEventListener('signalingstatechange', offered)
    })
  }
  await b.page.evaluate(() => {
    window.rollbacks = 0
    const { pc } = [...duet.room.members.values()][0].call
    const setRemote = pc.setRemoteDescription.bind(pc)
    pc.setRemoteDescription = (description) => {
      if (description.type === 'offer' && pc.signalingState === 'have-local-offer') window.rollbacks++
      return setRemote(description)
    }
  })
  const rounds = 4
  for (let round = 1; round <= rounds; round++) {
    proxy.freeze()
    await both([a, b], (person) => person.page.evaluate(addTrack))
    proxy.thaw()
    await both([a, b], (person) =>
      person.wait((videos) => {
        const { pc } = [...duet.room.members.values()][0].call
        const sending = pc.getTransceivers().filter((t) => t.receiver.track.kind === 'video' && t.currentDirection === 'sendrecv')
        return pc.signalingState === 'stable' && sending.length === videos
      }, 1 + round))
  }
  assert.equal(await b.page.evaluate(() => window.rollbacks), rounds, 'the newcomer yields each time')
  await both([a, b], (person) => person.framesAdvance())
  await both([a, b], (person) => person.waitStatus('connected'))
})

test('the WebSocket cut in mid-call: the media never stops, the session resumes', async (t) => {
  const proxy = await Proxy.start(server.port)
  const { a, b } = await call({ urlA: proxy.url })
  await both([a, b], (person) => Promise.all([person.watchPicture(), person.watchConnection(), person.watchJoins()]))
  proxy.refuse(true)
  proxy.cut()
  await a.waitStatus('signal-lost-call-up')
  await b.waitStatus('peer-away-call-up')
  await both([a, b], (person) => person.framesAdvance(10))
  // What is said while the connection is down arrives when it is back.
  await both([a, b], (person) => person.page.evaluate(() => {
    const { pc } = [...duet.room.members.values()][0].call
    window.oldUfrag = /ice-ufrag:(\S+)/.exec(pc.remoteDescription.sdp)[1]
  }))
  await a.page.evaluate(() => [...duet.room.members.values()][0].call.pc.restartIce())
  proxy.refuse(false)
  await a.wait(() => window.joins.length > 0)
  await both([a, b], (person) => person.wait(() => {
    const { pc } = [...duet.room.members.values()][0].call
    return pc.signalingState === 'stable' && !pc.remoteDescription.sdp.includes(`ice-ufrag:${window.oldUfrag}\r\n`)
  }))
  await b.waitStatus('peer-back')
  await both([a, b], (person) => person.framesAdvance())
  assert.deepEqual(await a.page.evaluate(() => window.joins.map((j) => j.resumed)), [true])
  assert.deepEqual(await b.page.evaluate(() => window.joins), [])
  await both([a, b], (person) => undisturbed(person, t))
})

test('a third person gets "room full"', async () => {
  const { a, b, room } = await call()
  const third = await open(ada, server.url, room)
  await third.join('Cleo')
  await third.waitStatus('room-full', 'room-full-retry')
  assert.match(await third.text('#status-text'), /This room is full/)
  await third.wait(() => document.documentElement.dataset.phase === 'lobby')
  await a.page.bringToFront()
  await both([a, b], (person) => person.framesAdvance())
})

test('three in a room: everybody sees everybody', async () => {
  const { url } = await Server.start({ env: { DUET_ROOM_CAPACITY: '3' } })
  const { a, b, room } = await call({ urlA: url, urlB: url })
  const c = await open(bob, url, room)
  await c.join('Cleo')
  await both([a, b, c], (person) => person.waitConnected(2))
  await a.waitStatus('connectedMany')
  await a.framesAdvance(20)
  await c.say('to you all')
  await both([a, b], (person) => person.waitChat('to you all'))
})

test('a duplicated tab does not take the call away', async () => {
  const { a, b } = await call()
  const opened = new Promise((resolve) => a.page.once('popup', resolve))
  await a.page.evaluate(() => void window.open(location.href)) // comes with a copy of sessionStorage
  const copy = await opened
  await copy.waitForFunction(() => document.querySelector('#status')?.dataset.key === 'lobby')
  await copy.close()
  await both([a, b], (person) => person.framesAdvance())
  assert.ok(!(await a.statuses()).includes('replaced'))
})

test('where the browser wants a gesture before it plays, a button asks for it', async () => {
  const room = newRoom()
  const a = await open(ada, server.url, room)
  await a.join('Ada')
  await a.waitStatus('waiting')
  const b = await open(bob, server.url, room)
  await b.page.evaluate(() => {
    const { play } = HTMLMediaElement.prototype
    HTMLMediaElement.prototype.play = function () {
      return window.gesture ? play.call(this) : Promise.reject(new DOMException('', 'NotAllowedError'))
    }
    document.querySelector('#hear').addEventListener('click', () => (window.gesture = true), { capture: true })
  })
  await b.join('Bob')
  await b.waitConnected()
  await b.page.waitForSelector('#hear', { visible: true })
  await b.page.click('#hear')
  await b.page.waitForSelector('#hear', { hidden: true })
})

test('the server is killed and started again: the call survives, and can be changed afterwards', async (t) => {
  const first = await Server.start()
  const { a, b } = await call({ urlA: first.url, urlB: first.url })
  await both([a, b], (person) => Promise.all([person.watchPicture(), person.watchConnection(), person.watchJoins()]))
  const ids = await both([a, b], (person) => person.page.evaluate(() => duet.room.signaling.id))
  await first.kill()
  await both([a, b], (person) => person.waitStatus('signal-lost-call-up'))
  await both([a, b], (person) => person.framesAdvance(10))
  await both([a, b], (person) => undisturbed(person, t))
  // Both sides change something while there is no server.
  await both([a, b], (person) => person.page.evaluate(() => {
    ;[...duet.room.members.values()][0].call.pc.addTransceiver('audio')
  }))
  await Server.start({ address: `127.0.0.1:${first.port}` })
  await both([a, b], (person) => person.waitStatus('connected'))
  await both([a, b], (person) => person.wait(() => {
    const [member] = duet.room.members.values()
    const { pc } = member.call
    return member.presence === 'here' && pc.signalingState === 'stable' &&
      pc.getTransceivers().filter((t) => t.receiver.track.kind === 'audio' && t.currentDirection).length === 3
  }))
  assert.deepEqual(await both([a, b], (person) => person.page.evaluate(() => window.joins.map((j) => [j.resumed, j.id]))),
    ids.map((id) => [[false, id]]))
  await both([a, b], (person) => person.framesAdvance())
  assert.deepEqual(await both([a, b], (person) => person.connectionStates()), [[['connected']], [['connected']]])
  await a.say('still here')
  await b.waitChat('still here')
  await a.page.evaluate(() => [...duet.room.members.values()][0].call.pc.restartIce())
  await both([a, b], (person) => person.framesAdvance())
})

test('a closed tab is noticed within seconds', async (t) => {
  const { a, b } = await call()
  const start = performance.now()
  people.splice(people.indexOf(b), 1)
  await b.page.close({ runBeforeUnload: true })
  await a.wait(() => window.statuses.some((key) => key.startsWith('peer-left')))
  t.diagnostic(`noticed after ${Math.round(performance.now() - start)} ms: ${(await a.statuses()).at(-1)}`)
  assert.ok(performance.now() - start < 5000)
})

test('a machine without a camera joins, sees and hears', async () => {
  const browser = await launch(NO_CAMERA)
  const room = newRoom()
  const a = await open(ada, server.url, room)
  await a.join('Ada')
  await a.waitStatus('waiting')
  const b = await open(browser, server.url, room)
  await b.join('Bob')
  await both([a, b], (person) => person.waitConnected())
  await b.framesAdvance()
  assert.match(await b.text('#status-note'), /No camera or microphone was found/)
  await a.wait(() => document.querySelector('.tile').dataset.video === 'off')
})

test('permission denied is said in plain words, and one can still join', async () => {
  const browser = await launch(DENIED)
  const person = await open(browser, server.url, newRoom())
  await person.join('Dan')
  await person.waitStatus('waiting')
  assert.match(await person.text('#status-note'), /was not allowed/)
})

test('an insecure origin is said in plain words', async (t) => {
  const address = Object.values(os.networkInterfaces()).flat().find((i) => i.family === 'IPv4' && !i.internal)?.address
  if (!address) return t.skip('this machine has no address but loopback')
  const there = await Server.start({ address: `${address}:0` })
  const url = there.url
  const person = await open(ada, url, newRoom())
  await person.join('Ada')
  await person.waitStatus('waiting')
  assert.match(await person.text('#status-note'), /secure pages, and http:.* is not one/)
})
