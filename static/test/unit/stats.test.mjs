import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ceiling, LABEL, runs, SPAN } from '../../js/page/stats-view.js'
import { en, zh } from '../../js/page/texts-stats.js'
import { summarize } from '../../js/stats.js'

/** A report as Chromium gives it, shortened to what is read; `counts` are the counters. */
function chromium({ sent = 0, received = 0, packets = 0, lost = 0, frames = 0, rtt = 0.024, away = 0, jitter = 0.004, local = {}, remote = {} } = {}) {
  return new Map(
    [
      { id: 'T01', type: 'transport', selectedCandidatePairId: 'CP2' },
      { id: 'CP1', type: 'candidate-pair', state: 'succeeded', nominated: true, localCandidateId: 'X', remoteCandidateId: 'Y', currentRoundTripTime: 9 },
      { id: 'CP2', type: 'candidate-pair', state: 'succeeded', nominated: true, localCandidateId: 'L', remoteCandidateId: 'R', currentRoundTripTime: rtt },
      { id: 'L', type: 'local-candidate', candidateType: 'host', protocol: 'udp', ...local },
      { id: 'R', type: 'remote-candidate', candidateType: 'host', protocol: 'udp', ...remote },
      { id: 'OA', type: 'outbound-rtp', kind: 'audio', bytesSent: sent / 4 },
      { id: 'OV', type: 'outbound-rtp', kind: 'video', bytesSent: (sent * 3) / 4 },
      { id: 'IA', type: 'inbound-rtp', kind: 'audio', bytesReceived: 0, packetsReceived: 0, packetsLost: 0, jitter: jitter / 2 },
      { id: 'IV', type: 'inbound-rtp', kind: 'video', bytesReceived: received, packetsReceived: packets, packetsLost: lost, jitter, framesDecoded: frames, frameWidth: 1280, frameHeight: 720, framesPerSecond: 1 },
      { id: 'RIV', type: 'remote-inbound-rtp', kind: 'video', fractionLost: away, roundTripTime: 0.5 },
    ].map((entry) => [entry.id, entry]),
  )
}

/** The same from Firefox, which has no transport and says `selected`. */
function firefox() {
  const report = chromium()
  report.delete('T01')
  report.get('CP2').selected = true
  report.get('CP1').selected = false
  return report
}

const second = (before, after) => summarize(summarize(undefined, chromium(before), 5000), chromium(after), 6000)

test('the first summary has no rates', () => {
  const { totals, ...first } = summarize(undefined, chromium({ sent: 1e6, frames: 100 }), 1000)
  assert.deepEqual(first, {
    at: 1000, rtt: 24, loss: 0, jitter: 4, sendKbps: undefined, receiveKbps: undefined, fps: 1, width: 1280, height: 720,
    path: 'direct', protocol: 'udp', quality: 'good',
  })
  assert.equal(totals.sent, 1e6)
})

test('rates are of the time between two summaries', () => {
  const now = second({ sent: 1000, received: 5000, frames: 10 }, { sent: 126_000, received: 255_000, frames: 40 })
  assert.equal(now.sendKbps, 1000)
  assert.equal(now.receiveKbps, 2000)
  assert.equal(now.fps, 30)
  const half = summarize(summarize(undefined, chromium(), 0), chromium({ received: 250_000, frames: 15 }), 500)
  assert.equal(half.receiveKbps, 4000)
  assert.equal(half.fps, 30)
})

test('loss is the worse of both ways, and of the last second only', () => {
  assert.equal(second({ packets: 100, lost: 50 }, { packets: 190, lost: 60 }).loss, 0.1)
  assert.equal(second({ packets: 100 }, { packets: 200, away: 0.25 }).loss, 0.25)
  assert.equal(second({ packets: 100 }, { packets: 100 }).loss, 0, 'nothing was sent, nothing lost')
  assert.equal(second({ packets: 100, lost: 9 }, { packets: 200, lost: 5 }).loss, 0, 'packets that came late')
  assert.equal(second({ packets: 100 }, { packets: 100, lost: 10 }).loss, 1)
})

test('quality', () => {
  const of = (more) => second({}, { packets: 100, ...more }).quality
  assert.equal(of({}), 'good')
  assert.equal(of({ rtt: 0.249 }), 'good')
  assert.equal(of({ rtt: 0.25 }), 'fair')
  assert.equal(of({ rtt: 0.5 }), 'poor')
  assert.equal(of({ away: 0.02 }), 'fair')
  assert.equal(of({ away: 0.08 }), 'poor')
  assert.equal(of({ jitter: 0.04 }), 'fair')
  assert.equal(of({ jitter: 0.1 }), 'poor')
})

test('direct or through a relay, and how', () => {
  const of = (local, remote) => {
    const { path, protocol } = summarize(undefined, chromium({ local, remote }), 0)
    return [path, protocol]
  }
  assert.deepEqual(of({}, {}), ['direct', 'udp'])
  assert.deepEqual(of({ candidateType: 'srflx' }, { candidateType: 'prflx' }), ['direct', 'udp'])
  assert.deepEqual(of({ candidateType: 'relay', relayProtocol: 'tls' }, {}), ['relay', 'tls'])
  assert.deepEqual(of({}, { candidateType: 'relay' }), ['relay', 'udp'])
})

test("Firefox's reports", () => {
  const { rtt, path } = summarize(undefined, firefox(), 0)
  assert.deepEqual([rtt, path], [24, 'direct'])
})

test('a connection that is not there yet', () => {
  const { totals, at, ...rest } = summarize(undefined, new Map([['P', { type: 'peer-connection' }]]), 0)
  assert.deepEqual(rest, {
    rtt: undefined, loss: undefined, jitter: undefined, sendKbps: undefined, receiveKbps: undefined, fps: undefined,
    width: undefined, height: undefined, path: 'unknown', protocol: '', quality: 'good',
  })
})

test('counters that begin anew, and a clock that stands still, give no rates', () => {
  const fresh = second({ sent: 1e6, received: 1e6, packets: 1e3, frames: 500 }, {})
  assert.deepEqual([fresh.sendKbps, fresh.receiveKbps, fresh.fps, fresh.loss], [undefined, undefined, 1, 0])
  const still = summarize(summarize(undefined, chromium(), 5), chromium({ sent: 100 }), 5)
  assert.equal(still.sendKbps, undefined)
})

test('without a pair the round trip is what RTCP says', () => {
  const report = chromium()
  report.get('CP2').currentRoundTripTime = undefined
  assert.equal(summarize(undefined, report, 0).rtt, 500)
})

// --- the plots ------------------------------------------------------------------------------------

test('the vertical axis ends at 1, 2 or 5 times a power of ten', () => {
  for (const [most, want] of [[0, 50], [50, 50], [51, 100], [100, 100], [101, 200], [499, 500], [501, 1000], [3000, 5000]]) {
    assert.equal(ceiling([undefined, most, 1], 50), want, String(most))
  }
  assert.equal(ceiling([], 30), 30)
})

test('a line ends at the right edge and breaks where figures are missing', () => {
  const found = runs([0, 100, undefined, 50], { width: SPAN, height: 103 + LABEL, top: 100 })
  assert.deepEqual(found, [[[57, 101.5 + LABEL], [58, 1.5 + LABEL]], [[60, 51.5 + LABEL]]])
  const full = runs(new Array(SPAN + 1).fill(1), { width: 120, height: 50, top: 1 })
  assert.deepEqual([full[0][0][0], full[0].at(-1)[0]], [0, 120])
  assert.deepEqual(runs([], { width: 1, height: 1, top: 1 }), [])
})

test('both languages have the same texts, with the same values in them', () => {
  assert.deepEqual(Object.keys(zh), Object.keys(en))
  const holes = (words) => (words.match(/\{\w+\}/g) ?? []).sort()
  for (const key of Object.keys(en)) assert.deepEqual(holes(zh[key]), holes(en[key]), key)
})
