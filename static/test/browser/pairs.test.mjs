// What two different browsers have to agree on, in every pair and both orders of arrival.
import assert from 'node:assert/strict'
import { Proxy, Server, temporaryFolder } from './harness.mjs'
import { both, EVERY_PAIR, PAIR, row, rowOfPairs } from './rows.mjs'

rowOfPairs(1, 'two people join a room: connected, pictures move both ways', EVERY_PAIR, async (scene) => {
  const room = scene.newRoom()
  const [a, b] = await both([0, 1], (seat) => scene.open(seat, { room }))
  await a.join('Ada')
  await a.waitStatus('waiting')
  const start = performance.now()
  await b.join('Bob')
  await both([a, b], (person) => person.waitConnected())
  scene.t.diagnostic(`connected ${Math.round(performance.now() - start)} ms after the second joined`)
  await both([a, b], async (person) => {
    await person.watchPicture()
    await person.picturesAdvance(10)
    await person.waitStatus('connected')
  })
  assert.equal(await a.text('#status-text'), 'In a call with Bob.')
  assert.match(await b.text('.tile .caption'), /Ada/)
})

/**
 * In the page: changes something that has to be negotiated, and waits until an offer is made of it. In turns
 * it adds a transceiver, changes its direction, and back; each fifth time it restarts ICE as well.
 */
function shake(round) {
  const { pc } = [...duet.room.members.values()][0].call
  if (round % 3 === 1) window.mine = pc.addTransceiver('audio', { direction: 'sendonly' })
  if (round % 3 === 2) window.mine.direction = 'inactive'
  if (round % 3 === 0) window.mine.direction = 'sendonly'
  if (round % 5 === 0) pc.restartIce()
  return new Promise((resolve) => {
    const offered = () => pc.signalingState === 'have-local-offer' && resolve()
    offered()
    pc.addEventListener('signalingstatechange', offered)
  })
}

/** In the page: whether all that was changed in this round holds on this side. */
function isSettled(transceivers) {
  const { pc } = [...duet.room.members.values()][0].call
  if (pc.signalingState !== 'stable') return false
  const negotiated = pc.getTransceivers().filter((t) => t.mid !== null).length
  return negotiated === transceivers && window.mine.currentDirection === window.mine.direction
}

/** In the page: counts the offers that were taken back for the other side's. */
function countRollbacks() {
  window.rollbacks = 0
  const { pc } = [...duet.room.members.values()][0].call
  const setRemote = pc.setRemoteDescription.bind(pc)
  pc.setRemoteDescription = (description) => {
    if (description.type === 'offer' && pc.signalingState === 'have-local-offer') window.rollbacks++
    return setRemote(description)
  }
}

const ROUNDS = 15
rowOfPairs(3, `glare storm: ${ROUNDS} times offers cross, each fifth with an ICE restart`, EVERY_PAIR, async (scene) => {
  const proxy = await Proxy.start((await scene.server).port)
  const { a, b } = await scene.call({ urls: [proxy.url] })
  await both([a, b], (person) => person.page.evaluate(countRollbacks))
  const [transceivers] = await both([a, b], (person) => person.page.evaluate(() => [...duet.room.members.values()][0].call.pc.getTransceivers().length))
  for (let round = 1; round <= ROUNDS; round++) {
    proxy.freeze()
    await both([a, b], (person) => person.page.evaluate(shake, round))
    proxy.thaw()
    await both([a, b], (person) => person.wait(isSettled, transceivers + 2 * Math.ceil(round / 3)))
  }
  const [impolite, polite] = await both([a, b], (person) => person.page.evaluate(() => window.rollbacks))
  assert.equal(impolite, 0, 'who was there first never yields')
  assert.ok(polite >= ROUNDS, `the newcomer yields each time, not ${polite} times`)
  await both([a, b], (person) => person.framesAdvance())
  await both([a, b], (person) => person.waitStatus('connected'))
})

row(16, 'https with the server\'s self-signed certificate, wss', PAIR, async (scene) => {
  const { url } = await Server.start({ env: { DUET_TLS_SELF_SIGNED: 'true', DUET_DATA_DIR: await temporaryFolder() } })
  const { a } = await scene.call({ urls: [url, url] })
  assert.equal(await a.page.evaluate(() => duet.room.signaling.url?.protocol ?? new URL('ws', document.baseURI).protocol.replace('http', 'ws')), 'wss:')
})
