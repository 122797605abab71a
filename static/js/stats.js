// @ts-check
/** What the statistics of a connection say, in the few figures that people look at. */

/**
 * Rates are of the time since the summary before; undefined at first, and for what a browser does not tell.
 * @typedef {object} Summary
 * @property {number} at  when it was made, in milliseconds
 * @property {number | undefined} rtt  round trip, in milliseconds
 * @property {number | undefined} loss  packets that did not arrive, 0 to 1: the worse of both ways
 * @property {number | undefined} jitter  of what we receive, in milliseconds
 * @property {number | undefined} sendKbps  sound and picture, in 1000 bits a second
 * @property {number | undefined} receiveKbps
 * @property {number | undefined} fps  of the picture that we receive
 * @property {number | undefined} width
 * @property {number | undefined} height
 * @property {'direct' | 'relay' | 'unknown'} path
 * @property {string} protocol  `udp` or `tcp` to the peer, or to the relay also `tls`; ''
 * @property {'good' | 'fair' | 'poor'} quality
 * @property {Totals} totals  for the next summary
 *
 * Counted since the connection began.
 * @typedef {{ sent: number, received: number, packets: number, lost: number, frames: number }} Totals
 */

/** From these values on, quality is fair or poor. Round trip and jitter in milliseconds. */
const FAIR = { rtt: 250, loss: 0.02, jitter: 40 }
const POOR = { rtt: 500, loss: 0.08, jitter: 100 }

/**
 * Pure. A report of a new connection, whose counters begin anew, gives no rates.
 * @param {Summary | undefined} previous
 * @param {Pick<RTCStatsReport, 'forEach'>} report  of RTCPeerConnection.getStats()
 * @param {number} now  milliseconds, of any clock that never goes back
 * @returns {Summary}
 */
export function summarize(previous, report, now) {
  /** @type {Map<string, any>} */
  const all = new Map()
  report.forEach((entry, id) => all.set(id, entry))
  const entries = [...all.values()]
  /** @param {string} type */
  const of = (type) => entries.filter((entry) => entry.type === type)
  const inbound = of('inbound-rtp')
  const remote = of('remote-inbound-rtp')
  const video = inbound.filter(({ kind }) => kind === 'video').sort((a, b) => number(b.framesDecoded) - number(a.framesDecoded))[0]
  const pair = pairInUse(all, entries)
  const local = all.get(pair?.localCandidateId)
  const far = all.get(pair?.remoteCandidateId)

  const totals = {
    sent: sum(of('outbound-rtp'), 'bytesSent'),
    received: sum(inbound, 'bytesReceived'),
    packets: sum(inbound, 'packetsReceived'),
    lost: sum(inbound, 'packetsLost'),
    frames: number(video?.framesDecoded),
  }
  const seconds = previous ? (now - previous.at) / 1000 : 0
  /** @param {keyof Totals} name */
  const since = (name) => {
    const change = previous && seconds > 0 ? totals[name] - previous.totals[name] : -1
    return change < 0 ? undefined : change
  }
  const [sent, received, packets, frames] = [since('sent'), since('received'), since('packets'), since('frames')]
  // Packets that come late after all count as found: the number of lost ones may fall.
  const lost = previous ? Math.max(0, totals.lost - previous.totals.lost) : 0
  const lostHere = packets === undefined ? undefined : packets + lost && lost / (packets + lost)

  const figures = {
    rtt: times1000(pair?.currentRoundTripTime ?? greatest(remote, 'roundTripTime')),
    loss: greatest([{ loss: lostHere }, { loss: greatest(remote, 'fractionLost') }], 'loss'),
    jitter: times1000(greatest(inbound, 'jitter')),
  }
  return {
    at: now,
    ...figures,
    sendKbps: sent === undefined ? undefined : (sent * 8) / 1000 / seconds,
    receiveKbps: received === undefined ? undefined : (received * 8) / 1000 / seconds,
    fps: video && frames !== undefined ? frames / seconds : video?.framesPerSecond,
    width: video?.frameWidth,
    height: video?.frameHeight,
    path: !local || !far ? 'unknown' : [local, far].some((c) => c.candidateType === 'relay') ? 'relay' : 'direct',
    protocol: local?.relayProtocol ?? local?.protocol ?? '',
    quality: exceeds(figures, POOR) ? 'poor' : exceeds(figures, FAIR) ? 'fair' : 'good',
    totals,
  }
}

/**
 * @param {Map<string, any>} all
 * @param {any[]} entries
 */
function pairInUse(all, entries) {
  const transport = entries.find((entry) => entry.type === 'transport' && entry.selectedCandidatePairId)
  if (transport) return all.get(transport.selectedCandidatePairId)
  const pairs = entries.filter((entry) => entry.type === 'candidate-pair')
  // Firefox says `selected`; a pair of an earlier ICE generation may still be there as nominated.
  return pairs.find((pair) => pair.selected) ?? pairs.find((pair) => pair.nominated && pair.state === 'succeeded')
}

/**
 * @param {Record<keyof typeof FAIR, number | undefined>} figures
 * @param {typeof FAIR} limits
 */
function exceeds({ rtt = 0, loss = 0, jitter = 0 }, limits) {
  return rtt >= limits.rtt || loss >= limits.loss || jitter >= limits.jitter
}

/** @param {unknown} value */
function number(value) {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0
}

/**
 * @param {any[]} entries
 * @param {string} name
 */
function sum(entries, name) {
  return entries.reduce((total, entry) => total + number(entry[name]), 0)
}

/**
 * Undefined where none has it.
 * @param {any[]} entries
 * @param {string} name
 * @returns {number | undefined}
 */
function greatest(entries, name) {
  const values = entries.map((entry) => entry[name]).filter((value) => typeof value === 'number')
  return values.length ? Math.max(...values) : undefined
}

/** @param {number | undefined} seconds */
function times1000(seconds) {
  return seconds === undefined ? undefined : seconds * 1000
}
