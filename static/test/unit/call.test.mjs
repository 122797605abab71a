import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { Call } from '../../js/call.js'
import { FakeClock, FakeMediaStream, FakePeerConnection, seeded, settle } from './fakes.mjs'

beforeEach(() => {
  FakePeerConnection.all = []
})

const camera = () => Object.assign(new EventTarget(), { kind: 'video' })

/** One call; what it sends is kept in `sent`, with the question whether it is still wanted. */
function setUp(options = {}) {
  const clock = options.clock ?? new FakeClock()
  const sent = []
  const call = new Call({
    polite: true,
    offersFirst: true,
    send: (message, wanted) => Boolean(sent.push({ ...message, wanted })),
    RTCPeerConnection: FakePeerConnection,
    MediaStream: FakeMediaStream,
    clock,
    ...options,
  })
  const troubles = []
  call.addEventListener('trouble', ({ detail }) => troubles.push(String(detail)))
  return { call, clock, sent, troubles, pc: call.pc, types: () => sent.map((m) => m.type) }
}

const sdp = (ufrag, setup = 'actpass') => `v=0\r\na=ice-ufrag:${ufrag}\r\na=setup:${setup}\r\n`
const offerOf = (ufrag) => ({ type: 'offer', from: 'you', sdp: sdp(ufrag) })
const answerOf = (ufrag, setup = 'active') => ({ type: 'answer', from: 'you', sdp: sdp(ufrag, setup) })
const candidateOf = (ufrag, n = 1) => ({
  type: 'candidate', from: 'you', candidate: { candidate: `candidate:${n}`, sdpMid: '0', usernameFragment: ufrag },
})

/** Two calls over a path that delivers in order, in `deliver`-sized steps. */
function pair({ delays = [1, 1] } = {}) {
  const clock = new FakeClock()
  const wire = [[], []]
  const make = (i, options) =>
    setUp({ clock, send: (message, wanted) => wanted() && wire[i].push({ ...message, from: `p${i}` }), ...options })
  const older = make(0, { polite: false, offersFirst: false, tracks: [camera()] })
  const newer = make(1, { polite: true, offersFirst: true, tracks: [camera()] })
  older.pc.delay = delays[0]
  newer.pc.delay = delays[1]
  const sides = [older, newer]
  const counts = { offer: 0, answer: 0, candidate: 0 }
  const deliver = async (from, n = Infinity) => {
    for (const m of wire[from].splice(0, n)) {
      counts[m.type]++
      sides[1 - from].call.receive(m)
    }
  }
  const quiet = async () => {
    for (let i = 0; i < 50; i++) {
      await settle()
      if (wire[0].length + wire[1].length === 0) return
      await deliver(0)
      await deliver(1)
    }
    assert.fail('they never come to rest')
  }
  return { older, newer, clock, wire, deliver, quiet, counts }
}

const agreed = ({ older, newer }) => {
  for (const side of [older, newer]) {
    assert.equal(side.call.pc.signalingState, 'stable')
    assert.deepEqual(side.troubles, [])
  }
  const [a, b] = [older.call.pc, newer.call.pc]
  assert.equal(a.currentRemoteDescription.sdp.split('setup')[0], b.currentLocalDescription.sdp.split('setup')[0])
  assert.equal(b.currentRemoteDescription.sdp.split('setup')[0], a.currentLocalDescription.sdp.split('setup')[0])
}

test('the newcomer offers, the other side holds its own offer: one offer, one answer, no glare', async () => {
  const both = pair()
  await both.quiet()
  agreed(both)
  assert.deepEqual(both.counts, { offer: 1, answer: 1, candidate: 0 })
  await both.clock.advance(14_000)
  await both.quiet()
  assert.equal(both.counts.offer, 1)
})

test('a newcomer that does not offer within 3 s gets an offer', async () => {
  const { clock, types } = setUp({ polite: false, offersFirst: false, tracks: [camera()] })
  await clock.advance(2_999)
  assert.deepEqual(types(), [])
  await clock.advance(1)
  assert.deepEqual(types(), ['offer'])
})

test('the newcomer asks for picture and sound even without its own', () => {
  const { pc } = setUp({ tracks: [camera()] })
  assert.deepEqual(pc.transceivers.map((t) => [t.kind, t.direction]), [['audio', 'recvonly'], ['video', 'sendrecv']])
  const { pc: older } = setUp({ offersFirst: false })
  assert.deepEqual(older.transceivers, [])
})

test('glare: offers that cross always end in agreement', async () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = seeded(seed)
    const both = pair({ delays: [1 + Math.floor(random() * 6), 1 + Math.floor(random() * 6)] })
    await both.quiet()
    for (let round = 0; round < 6; round++) {
      both.older.pc.change()
      if (random() < 0.5) await null
      both.newer.pc.change()
      for (let i = 0; i < 6; i++) {
        if (random() < 0.5) await settle()
        await both.deliver(random() < 0.5 ? 0 : 1, 1 + Math.floor(random() * 2))
        if (random() < 0.2) both.newer.pc.restartIce()
      }
      await both.quiet()
      agreed(both)
    }
    assert.ok(both.newer.pc.rollbacks > 0, 'there was glare')
    assert.equal(both.older.pc.rollbacks, 0, 'the impolite side never yields')
  }
})

test("a relay's refusal is kept until the call is up", () => {
  const { call, pc, clock } = setUp()
  let told = 0
  call.addEventListener('refused', () => told++)
  const answer = (errorCode, errorText) => pc.dispatchEvent(Object.assign(new Event('icecandidateerror'), { errorCode, errorText, url: 'turn:t' }))
  answer(701, 'TURN host lookup received error.')
  assert.equal(call.refusal, undefined)
  answer(401, 'Unauthorized')
  answer(486, 'Allocation Quota Reached')
  const first = { code: 401, text: 'Unauthorized', url: 'turn:t', at: clock.now() }
  assert.deepEqual([call.refusal, told], [first, 1])
  pc.connectionState = 'connected'
  pc.dispatchEvent(new Event('connectionstatechange'))
  answer(486, 'Allocation Quota Reached')
  assert.equal(call.refusal, undefined, 'while the call is up it does not matter')
  pc.connectionState = 'disconnected'
  pc.dispatchEvent(new Event('connectionstatechange'))
  answer(486, 'Allocation Quota Reached')
  assert.deepEqual([call.refusal.code, told], [486, 2])
})

test('candidates wait for their description', async () => {
  const { call, pc, troubles } = setUp({ polite: false, offersFirst: false })
  await call.receive(candidateOf('their', 1))
  await call.receive({ type: 'candidate', from: 'you', candidate: null })
  assert.deepEqual(pc.candidates, [])
  await call.receive(offerOf('their'))
  assert.deepEqual(pc.candidates.map((c) => c?.candidate), ['candidate:1', undefined])
  await call.receive(candidateOf('their', 2))
  await call.receive(candidateOf('next', 3)) // of an offer that is yet to come
  assert.equal(pc.candidates.length, 3)
  await call.receive(offerOf('next'))
  assert.equal(pc.candidates.at(-1).candidate, 'candidate:3')
  assert.deepEqual(troubles, [])
})

test('a bounded number of candidates waits', async () => {
  const { call, pc } = setUp({ polite: false, offersFirst: false })
  for (let i = 0; i < 100; i++) call.receive(candidateOf('their', i))
  await call.receive(offerOf('their'))
  assert.equal(pc.candidates.length, 64)
})

test('candidates of an ignored offer are ignored too', async () => {
  const { call, pc, troubles, types } = setUp({ polite: false })
  await settle()
  assert.deepEqual(types(), ['offer'])
  await call.receive(offerOf('crossed'))
  await call.receive(candidateOf('crossed'))
  await call.receive({ type: 'candidate', from: 'you', candidate: null })
  assert.equal(pc.signalingState, 'have-local-offer')
  await call.receive(answerOf('their'))
  await call.receive(candidateOf('crossed', 2))
  await call.receive(candidateOf('their', 3))
  await call.receive({ type: 'candidate', from: 'you', candidate: null })
  assert.deepEqual(pc.candidates.map((c) => c?.candidate), ['candidate:3', undefined])
  assert.deepEqual(troubles, [])
})

test('a late answer is dropped', async () => {
  const { call, pc, troubles } = setUp()
  await settle()
  await call.receive(answerOf('their'))
  await call.receive(answerOf('late'))
  assert.match(pc.remoteDescription.sdp, /their/)
  assert.deepEqual(troubles, [])
})

/** A description, as of Firefox. */
const ofFirefox = (m) => ({ ...m, sdp: m.sdp.replace('v=0\r\n', 'v=0\r\no=mozilla...THIS_IS_SDPARTA-99.0 1 0 IN IP4 0.0.0.0\r\n') })

test('a restart towards Firefox while the path lives: our candidates wait for its own, and for our checks', async () => {
  const { call, clock, pc, sent } = setUp()
  const told = () => sent.filter((m) => m.type === 'candidate' && m.wanted()).map((m) => m.candidate?.candidate)
  const end = { type: 'candidate', from: 'you', candidate: null }
  await settle()
  pc.gather('candidate:0')
  assert.deepEqual(told(), ['candidate:0'], 'nothing waits before there is a path')
  await call.receive(ofFirefox(answerOf('a')))
  pc.connection('connected')
  sent.length = 0
  pc.restartIce()
  await settle()
  pc.gather('candidate:1')
  await call.receive(end) // still of the time before
  await clock.advance(9_000)
  await call.receive(ofFirefox(answerOf('b')))
  pc.gather(null)
  await call.receive(candidateOf('b', 5))
  await call.receive(end)
  await clock.advance(1_999)
  assert.deepEqual(told(), [])
  await clock.advance(1)
  assert.deepEqual(told(), ['candidate:1', undefined])
  pc.gather('candidate:2')
  assert.equal(told().length, 3)
  pc.restartIce()
  await settle()
  sent.length = 0
  pc.gather('candidate:3')
  await call.receive(ofFirefox(answerOf('c')))
  await clock.advance(1_500)
  pc.gather('candidate:4')
  await clock.advance(499)
  assert.deepEqual(told(), [])
  await clock.advance(1)
  assert.deepEqual(told(), ['candidate:3', 'candidate:4'], 'a peer that does not tell the end is not waited for')
  pc.restartIce()
  await settle()
  pc.gather('candidate:5')
  assert.deepEqual(told(), [])
  pc.connection('disconnected')
  assert.deepEqual(told(), ['candidate:5'], 'the old path is lost: nothing is gained by waiting')
})

test('a restart of a broken path, by Firefox, or with no Firefox: candidates go at once', async () => {
  const same = (m) => m
  for (const [state, ours, theirs] of [['disconnected', same, ofFirefox], ['connected', ofFirefox, ofFirefox], ['connected', same, same]]) {
    const { call, pc, types } = setUp()
    await settle()
    await call.receive(theirs(answerOf('a')))
    pc.connection('connected')
    pc.connection(state)
    const setLocal = pc.setLocalDescription.bind(pc)
    pc.setLocalDescription = async () => {
      await setLocal()
      pc.pendingLocalDescription = ours(pc.pendingLocalDescription)
    }
    pc.restartIce()
    await settle()
    pc.gather('candidate:1')
    assert.deepEqual(types(), ['offer', 'offer', 'candidate'])
  }
})

test('an offer that was rolled back, and its candidates, are no longer wanted', async () => {
  const { call, pc, sent } = setUp()
  await settle()
  pc.gather('candidate:1')
  const [offer, candidate] = sent
  assert.deepEqual([offer.type, candidate.type], ['offer', 'candidate'])
  assert.ok(offer.wanted() && candidate.wanted())
  await call.receive(offerOf('their'))
  assert.equal(offer.wanted(), false)
  assert.equal(sent.at(-1).type, 'answer')
  assert.equal(sent.at(-1).wanted(), true)
  call.close()
  assert.equal(sent.at(-1).wanted(), false)
})

test('candidates of the offer before an ICE restart are no longer wanted', async () => {
  const { call, pc, sent } = setUp()
  await settle()
  pc.gather('candidate:1')
  await call.receive(answerOf('their'))
  pc.restartIce()
  await settle()
  assert.deepEqual(sent.map((m) => [m.type, m.wanted()]), [['offer', false], ['candidate', false], ['offer', true]])
})

test('the DTLS role of the first answer stays, whoever answers later', async () => {
  // The peer answered first: it is active.
  const one = setUp()
  await settle()
  await one.call.receive(answerOf('a', 'active'))
  one.pc.restartIce()
  await settle()
  await one.call.receive(answerOf('b', 'passive'))
  assert.match(one.pc.currentRemoteDescription.sdp, /setup:active/)
  // We answered first as active: the peer is passive.
  const two = setUp({ polite: false, offersFirst: false })
  await two.call.receive(offerOf('a'))
  two.pc.restartIce()
  await settle()
  await two.call.receive(answerOf('b', 'active'))
  assert.match(two.pc.currentRemoteDescription.sdp, /setup:passive/)
})

test('what arrives is handled in order, one after another', async () => {
  const { call, pc, troubles, types } = setUp({ polite: true, offersFirst: false })
  pc.delay = 20
  call.receive(offerOf('one'))
  call.receive(candidateOf('one'))
  call.receive(offerOf('two'))
  await call.receive(candidateOf('two', 2))
  assert.deepEqual(types(), ['answer', 'answer'])
  assert.deepEqual(pc.candidates.map((c) => c.candidate), ['candidate:1', 'candidate:2'])
  assert.deepEqual(troubles, [])
})

test('an offer without an answer is sent again, not while the peer is away', async () => {
  const { call, clock, sent, types } = setUp()
  await clock.advance(9_999)
  assert.deepEqual(types(), ['offer'])
  await clock.advance(1)
  assert.deepEqual(types(), ['offer', 'offer'])
  assert.deepEqual(sent.map((m) => m.wanted()), [false, true])
  call.away = true
  await clock.advance(30_000)
  assert.equal(types().length, 2)
})

test('a new seat: an open offer goes out again, a broken connection restarts, a healthy one is left alone', async () => {
  const open = setUp()
  await settle()
  open.call.resync({ polite: true })
  assert.deepEqual(open.types(), ['offer', 'offer'])
  assert.equal(open.sent[0].sdp, open.sent[1].sdp)

  const broken = setUp()
  await settle()
  await broken.call.receive(answerOf('their'))
  broken.call.resync({ polite: false })
  await settle()
  assert.equal(broken.pc.restarts, 1)
  assert.deepEqual(broken.types(), ['offer', 'offer'])

  const healthy = setUp()
  await settle()
  await healthy.call.receive(answerOf('their'))
  healthy.pc.connection('connected')
  healthy.call.resync({ polite: false })
  await settle()
  assert.equal(healthy.pc.restarts, 0)
  assert.deepEqual(healthy.types(), ['offer'])
  // The order of arrival has changed; who was answered first yields all the same.
  healthy.pc.change()
  await settle()
  await healthy.call.receive(offerOf('crossed'))
  assert.equal(healthy.pc.rollbacks, 1)

  const answerer = setUp({ polite: false, offersFirst: false })
  await answerer.call.receive(offerOf('their'))
  answerer.pc.connection('connected')
  answerer.call.resync({ polite: true })
  answerer.pc.change()
  await settle()
  await answerer.call.receive(offerOf('crossed'))
  assert.equal(answerer.pc.rollbacks, 0)

  const holding = setUp({ offersFirst: false, tracks: [camera()] })
  await settle()
  holding.call.resync({ polite: true })
  await settle()
  assert.deepEqual(holding.types(), ['offer'])
})

test('ICE restarts: 2 s after disconnected, at once after failed, then with growing waits', async () => {
  const { call, pc, clock } = setUp()
  await settle()
  await call.receive(answerOf('their'))
  pc.connection('connected')
  pc.connection('disconnected')
  assert.equal(call.state, 'unstable')
  await clock.advance(1_999)
  pc.connection('connected') // healed by itself
  await clock.advance(60_000)
  assert.equal(pc.restarts, 0)
  assert.equal(call.state, 'connected')

  pc.connection('disconnected')
  await clock.advance(2_000)
  assert.equal(pc.restarts, 1)
  pc.connection('failed')
  await clock.advance(4_999)
  assert.equal(pc.restarts, 1, 'at most one in 5 s')
  await call.receive(answerOf('again'))
  await clock.advance(1)
  assert.equal(pc.restarts, 2)
  await call.receive(answerOf('again'))
  await clock.advance(5_999)
  assert.equal(pc.restarts, 2)
  await clock.advance(1)
  assert.equal(pc.restarts, 3)
  await call.receive(answerOf('again'))
  pc.connection('connected')
  await clock.advance(120_000)
  assert.equal(pc.restarts, 3)
  assert.equal(call.pc, pc)
})

/** Takes both from `connected` to `disconnected`, and brings across what they say in the `seconds` after. */
async function breakDown(both, seconds, sides = [both.older, both.newer]) {
  for (const side of sides) side.call.pc.connection('disconnected')
  for (let s = 0; s < seconds; s++) {
    await both.clock.advance(1_000)
    await both.quiet()
  }
}

async function connected(both) {
  await both.quiet()
  for (const side of [both.older, both.newer]) side.call.pc.connection('connected')
}

for (const [who, choose] of Object.entries({
  'the polite side': ({ newer }) => [newer],
  'the impolite side': ({ older }) => [older],
  'both sides at once': ({ older, newer }) => [older, newer],
})) {
  test(`three restarts in vain, then a rebuild: ${who}`, async () => {
    const both = pair()
    const rebuilt = []
    for (const side of [both.older, both.newer]) side.call.addEventListener('rebuilt', () => rebuilt.push(side))
    await connected(both)
    await both.clock.advance(10_000)
    const before = [both.older.call.pc, both.newer.call.pc]
    const used = both.newer.call.files
    await breakDown(both, 19, choose(both))
    assert.deepEqual(rebuilt, [])
    await breakDown(both, 3, [])
    agreed(both)
    assert.ok(rebuilt.includes(both.older) && rebuilt.includes(both.newer))
    for (const pc of before) assert.equal(pc.signalingState, 'closed')
    assert.ok(!before.includes(both.older.call.pc) && !before.includes(both.newer.call.pc))
    assert.equal(both.newer.call.files, used, 'files go on')
    assert.deepEqual([both.older.call.state, both.newer.call.state], ['unstable', 'unstable'])
    await connected(both)
    assert.deepEqual([both.older.call.state, both.newer.call.state], ['connected', 'connected'])
    const count = FakePeerConnection.all.length
    await breakDown(both, 60, [])
    assert.equal(FakePeerConnection.all.length, count)
    // What is sent is what was sent before, and what was said goes over the new channel.
    for (const { call } of [both.older, both.newer]) {
      assert.ok(call.pc.transceivers.some((t) => t.currentTrack?.kind === 'video'))
      call.pc.channel.readyState = 'open'
      assert.ok(call.say({ type: 'chat' }))
      assert.equal(call.pc.channel.sent.length, 1)
    }
  })
}

test('storm: broken paths, crossing restarts and rebuilds, slow delivery; it ends in agreement', async () => {
  let rebuilds = 0
  for (let seed = 1; seed <= 60; seed++) {
    const random = seeded(seed)
    const both = pair({ delays: [1 + Math.floor(random() * 6), 1 + Math.floor(random() * 6)] })
    const sides = [both.older, both.newer]
    for (const side of sides) side.call.addEventListener('rebuilt', () => rebuilds++)
    await connected(both)
    for (let s = 0; s < 60; s++) {
      if (random() < 0.3) sides[Math.floor(random() * 2)].call.pc.connection(random() < 0.7 ? 'disconnected' : 'failed')
      if (random() < 0.1) sides[Math.floor(random() * 2)].call.pc.change()
      if (random() < 0.05) sides[Math.floor(random() * 2)].call.networkChanged()
      await both.clock.advance(random() * 2_000)
      await both.deliver(random() < 0.5 ? 0 : 1, 1 + Math.floor(random() * 3))
    }
    // The path is back: it connects once both mean the same connection.
    for (let s = 0; s < 90; s++) {
      await both.quiet()
      await both.clock.advance(1_000)
    }
    await connected(both)
    agreed(both)
    const open = FakePeerConnection.all.filter((pc) => pc.signalingState !== 'closed')
    assert.deepEqual(open, [both.older.call.pc, both.newer.call.pc].sort((a, b) => FakePeerConnection.all.indexOf(a) - FakePeerConnection.all.indexOf(b)))
    FakePeerConnection.all = []
    for (const { call } of sides) call.close()
  }
  assert.ok(rebuilds > 60, `${rebuilds} rebuilds`)
})

/** One call whose path broke for good, with a peer that answers each restart; up to the rebuild. */
async function rebuilt() {
  const all = setUp({ tracks: [camera()] })
  const theirs = (ufrag, fingerprint) => ({
    type: 'answer', from: 'you', sdp: `a=ice-ufrag:${ufrag}\r\na=fingerprint:sha-256 ${fingerprint}\r\na=setup:active\r\n`,
  })
  await settle()
  await all.call.receive(theirs('a', 'OLD'))
  all.call.pc.connection('connected')
  all.call.pc.connection('disconnected')
  for (const ms of [2_000, 5_000, 6_000]) {
    await all.clock.advance(ms)
    await all.call.receive(theirs('a', 'OLD'))
  }
  await all.clock.advance(7_000)
  assert.notEqual(all.call.pc, all.pc)
  return { ...all, theirs, pc: all.call.pc }
}

test('after a rebuild, what the peer had sent before it knew is dropped', async () => {
  const { call, pc, theirs, troubles } = await rebuilt()
  await call.receive({ ...theirs('a', 'OLD'), type: 'offer' })
  await call.receive(theirs('a', 'OLD'))
  await call.receive({ type: 'candidate', from: 'you', candidate: null })
  assert.equal(pc.signalingState, 'have-local-offer')
  await call.receive(theirs('b', 'NEW'))
  await call.receive(candidateOf('b'))
  assert.deepEqual([pc.signalingState, pc.candidates.map((c) => c?.candidate)], ['stable', ['candidate:1']])
  assert.deepEqual(troubles, [])
})

test('a peer that does not rebuild is taken as it is once the offer had to be sent again', async () => {
  const { call, clock, pc, theirs, types } = await rebuilt()
  await call.receive(theirs('a', 'OLD'))
  const count = types().length
  await clock.advance(10_000)
  assert.equal(types().length, count + 1)
  await call.receive(theirs('a', 'OLD'))
  assert.equal(pc.signalingState, 'stable')
})

test('a connection that can no longer apply an answer is rebuilt, once its path is down', async () => {
  const { call, clock, pc } = setUp()
  await settle()
  await call.receive(answerOf('a'))
  pc.connection('connected')
  pc.connection('disconnected')
  await clock.advance(2_000)
  pc.setRemoteDescription = async () => {
    throw new Error('InvalidAccessError: Failed to set SSL role for the transport')
  }
  await call.receive(answerOf('b'))
  await clock.advance(5_000)
  assert.notEqual(call.pc, pc)
})

test('an operation that never ends does not hold up what comes after a rebuild', async () => {
  const both = pair()
  await connected(both)
  const stuck = both.older.call.pc
  stuck.setRemoteDescription = stuck.setLocalDescription = () => new Promise(() => {})
  both.newer.call.pc.change()
  await settle()
  await both.deliver(1)
  await breakDown(both, 40)
  await connected(both)
  agreed(both)
})

test('a changed network: restart at once where the path is down or silent, not where it lives', async () => {
  const all = setUp()
  const { call, clock, pc } = all
  await settle()
  await call.receive(answerOf('a'))
  pc.connection('connected')
  call.networkChanged()
  await settle()
  pc.bytesReceived++
  await clock.advance(5_000)
  assert.equal(pc.restarts, 0)
  call.networkChanged()
  await clock.advance(2_000)
  await clock.advance(0)
  assert.equal(pc.restarts, 1, 'nothing came for 2 s')
  await call.receive(answerOf('b'))
  await clock.advance(10_000)
  pc.connection('disconnected')
  call.networkChanged()
  await clock.advance(0)
  assert.equal(pc.restarts, 2)
  call.close()
  call.networkChanged()
  assert.equal(clock.pending, 0)
})

test('a path that comes back: a whole picture is sent at once', async () => {
  const { call, clock, pc } = setUp({ tracks: [camera()], limits: { maxBitrate: 500_000, scaleResolutionDownBy: 2 } })
  await settle()
  await call.receive(answerOf('a'))
  const { sender } = pc.getTransceivers().find((t) => t.kind === 'video')
  const asked = []
  sender.setParameters = async (_, { encodingOptions }) => void asked.push(...encodingOptions)
  pc.connection('connected')
  await clock.advance(1_000)
  assert.deepEqual(asked, [], 'the first picture is whole anyway')
  pc.connection('disconnected')
  pc.connection('connected')
  await settle()
  assert.deepEqual(asked, [{ keyFrame: true }])
})

test('video limits: set after the negotiation, kept, changed', async () => {
  const limits = { maxBitrate: 500_000, scaleResolutionDownBy: 2 }
  const { call, pc } = setUp({ tracks: [camera()], limits })
  await settle()
  const sender = () => pc.transceivers.find((t) => t.kind === 'video').sender
  assert.deepEqual(sender().parameters.encodings, [{}])
  await call.receive(answerOf('a'))
  assert.deepEqual(sender().parameters.encodings, [limits])
  await call.setLimits({ maxBitrate: 100_000, scaleResolutionDownBy: 4 })
  assert.equal(sender().parameters.encodings[0].maxBitrate, 100_000)
  const { call: none, troubles } = setUp({ offersFirst: false })
  await none.setLimits(limits)
  assert.deepEqual(troubles, [])
})

test('not connected after 15 s: unanswered, or blocked', async () => {
  const silent = setUp()
  await silent.clock.advance(15_000)
  assert.equal(silent.call.state, 'unanswered')

  const blocked = setUp()
  await settle()
  await blocked.call.receive(answerOf('their'))
  await blocked.clock.advance(14_999)
  assert.equal(blocked.call.state, 'connecting')
  await blocked.clock.advance(1)
  assert.equal(blocked.call.state, 'blocked')
  blocked.pc.connection('connected')
  assert.equal(blocked.call.state, 'connected')
})

test('tracks: replaced without a negotiation; a first one needs one', async () => {
  const { call, pc } = setUp({ tracks: [camera()] })
  const second = camera()
  await call.setTrack('video', second)
  assert.equal(pc.transceivers[1].currentTrack, second)
  await call.setTrack('video', null)
  assert.deepEqual([pc.transceivers[1].currentTrack, pc.transceivers[1].direction], [null, 'sendrecv'])
  await call.setTrack('audio', { kind: 'audio' })
  assert.equal(pc.transceivers[0].direction, 'sendrecv')
  const older = setUp({ offersFirst: false })
  await older.call.setTrack('video', camera())
  assert.equal(older.pc.transceivers.length, 1)
})

test('remote media: the first track of a kind', async () => {
  const { call, pc } = setUp()
  let changes = 0
  call.addEventListener('media', () => changes++)
  const track = (transceiver) =>
    pc.dispatchEvent(Object.assign(new Event('track'), { track: transceiver.receiver.track, transceiver }))
  pc.addTransceiver('video', { direction: 'recvonly' })
  for (const transceiver of pc.transceivers) track(transceiver)
  assert.deepEqual(call.stream.getTracks(), [pc.transceivers[0], pc.transceivers[1]].map((t) => t.receiver.track))
  assert.equal(changes, 2)
  pc.transceivers[0].receiver.track.dispatchEvent(new Event('mute'))
  assert.equal(changes, 3)
})

test('data: only while the channel is open; nonsense is reported', () => {
  const { call, pc, troubles } = setUp()
  const heard = []
  call.addEventListener('data', ({ detail }) => heard.push(detail))
  assert.equal(call.say({ type: 'chat' }), false)
  pc.channel.readyState = 'open'
  assert.equal(call.say({ type: 'chat' }), true)
  pc.channel.bufferedAmount = 2 ** 21
  assert.equal(call.say({ type: 'chat' }), false)
  pc.channel.dispatchEvent(new MessageEvent('message', { data: '{"type":"chat"}' }))
  pc.channel.dispatchEvent(new MessageEvent('message', { data: '{' }))
  assert.deepEqual(heard, [{ type: 'chat' }])
  assert.equal(troubles.length, 1)
  assert.deepEqual(pc.channel.options, { negotiated: true, id: 0 })
  assert.deepEqual(pc.channels.files.options, { negotiated: true, id: 1 })
})

test('close ends everything, once', async () => {
  const { call, clock, pc } = setUp()
  const states = []
  call.addEventListener('state', ({ detail }) => states.push(detail))
  call.close()
  call.close()
  assert.deepEqual(states, ['closed'])
  assert.equal(clock.pending, 0)
  await call.receive(offerOf('late'))
  call.resync({ polite: true })
  await call.setTrack('video', camera())
  assert.equal(pc.restarts, 0)
})
