// @ts-check
/**
 * Explains a session description (RFC 8866, RFC 9429) and an ICE candidate (RFC 8839) line by line.
 * Pure: it names the sentences by their keys in texts-inspector.js and gives the values to fill in.
 */

/**
 * A sentence of the texts.
 * @typedef {{ key: string, values?: Record<string, string | number> }} Saying
 *
 * A line with what it means. `section` 0 is about the whole session, each `m=` line begins the next one.
 * @typedef {{ line: string, section: number, says: Saying[] }} ExplainedLine
 *
 * @typedef {'host' | 'mdns' | 'srflx' | 'prflx' | 'relay'} CandidateKind  `mdns` is a host with a hidden address
 *
 * @typedef {object} Candidate
 * @property {string} foundation
 * @property {number} component  1 media (and all else with rtcp-mux), 2 RTCP
 * @property {string} protocol  `udp` or `tcp`
 * @property {number} priority
 * @property {string} address
 * @property {number} port
 * @property {CandidateKind} kind
 * @property {Record<string, string>} more  `raddr`, `rport`, `tcptype`, `ufrag`, `network-cost` …
 */

const CANDIDATE = /^(?:a=)?candidate:(\S+) (\d+) (\S+) (\d+) (\S+) (\d+) typ (\w+)(.*)$/

/**
 * Reads a candidate, as `RTCIceCandidate.candidate` or as a line of a description has it.
 * @param {string} text
 * @returns {Candidate | undefined}  undefined: not a candidate
 */
export function readCandidate(text) {
  const match = CANDIDATE.exec(text.trim())
  if (!match) return undefined
  const [, foundation = '', component, protocol = '', priority, address = '', port, type = '', rest = ''] = match
  const words = rest.trim().split(/ +/)
  /** @type {Record<string, string>} */
  const more = Object.create(null)
  for (let i = 0; i + 1 < words.length; i += 2) more[words[i] ?? ''] = words[i + 1] ?? ''
  return {
    foundation,
    component: Number(component),
    protocol: protocol.toLowerCase(),
    priority: Number(priority),
    address,
    port: Number(port),
    kind: kindOf(type, address),
    more,
  }
}

/**
 * @param {string} type
 * @param {string} address
 * @returns {CandidateKind}
 */
function kindOf(type, address) {
  if (type === 'srflx' || type === 'prflx' || type === 'relay') return type
  return address.endsWith('.local') ? 'mdns' : 'host'
}

/**
 * What the parts of a candidate mean, in their order.
 * @param {Candidate} c
 * @returns {{ part: string, says: Saying }[]}
 */
export function explainCandidate(c) {
  const { foundation, component, protocol, priority, address, port, kind, more } = c
  /** @param {string} part @param {string} key @param {Saying['values']} [values] */
  const say = (part, key, values) => ({ part, says: { key: `candidate.${key}`, values } })
  const parts = [
    say(`typ ${kind === 'mdns' ? 'host' : kind}`, kind),
    say(`${address} ${port}`, address.endsWith('.local') ? 'address-hidden' : 'address', { address, port }),
    say(protocol, protocol === 'udp' ? 'udp' : 'tcp'),
    say(String(priority), 'priority', {
      preference: Math.floor(priority / 2 ** 24),
      local: Math.floor(priority / 2 ** 8) % 2 ** 16,
    }),
    say(`candidate:${foundation}`, 'foundation'),
    say(String(component), component === 2 ? 'component-rtcp' : 'component'),
  ]
  if (more.raddr) parts.push(say(`raddr ${more.raddr} rport ${more.rport}`, kind === 'relay' ? 'related-relay' : 'related'))
  if (more.tcptype) parts.push(say(`tcptype ${more.tcptype}`, more.tcptype === 'active' ? 'tcp-active' : 'tcp-passive'))
  if (more.ufrag) parts.push(say(`ufrag ${more.ufrag}`, 'ufrag'))
  if (more['network-cost']) parts.push(say(`network-cost ${more['network-cost']}`, 'network-cost'))
  return parts
}

/**
 * Explains every line of a description. A line that is not known says so, and none is left out.
 * @param {string} sdp
 * @returns {ExplainedLine[]}
 */
export function explainSDP(sdp) {
  let section = 0
  /** @type {Map<string, string>} payload type → codec, in this section */
  let codecs = new Map()
  return sdp.split(/\r?\n/).filter(Boolean).map((line) => {
    if (line.startsWith('m=')) {
      section++
      codecs = new Map()
    }
    const codec = /^a=rtpmap:(\d+) ([^/\s]+)/.exec(line)
    if (codec?.[1] && codec[2]) codecs.set(codec[1], codec[2])
    return { line, section, says: explainLine(line, codecs) }
  })
}

/**
 * @param {string} line
 * @param {Map<string, string>} codecs
 * @returns {Saying[]}
 */
function explainLine(line, codecs) {
  const type = line.slice(0, 2)
  if (type === 'm=') return explainMedia(line)
  if (type === 'a=') return explainAttribute(line, codecs)
  const known = { 'v=': 'v', 'o=': 'o', 's=': 's', 't=': 't', 'c=': 'c', 'b=': 'b' }
  return [{ key: `sdp.${known[/** @type {keyof typeof known} */ (type)] ?? 'unknown'}` }]
}

/**
 * `m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9`
 * @param {string} line
 * @returns {Saying[]}
 */
function explainMedia(line) {
  const [kind = '', port, , ...formats] = line.slice(2).split(' ')
  const key = ['audio', 'video', 'application'].includes(kind) ? `sdp.m-${kind}` : 'sdp.m'
  /** @type {Saying[]} */
  const says = [{ key, values: { count: formats.length } }]
  if (port === '0') says.push({ key: 'sdp.m-off' })
  else if (port === '9') says.push({ key: 'sdp.m-port' })
  return says
}

/** Attributes without anything to read in them. */
const PLAIN = new Set([
  'extmap-allow-mixed', 'msid-semantic', 'ice-options', 'ice-ufrag', 'ice-pwd', 'ice-lite', 'mid', 'rtcp', 'rtcp-mux',
  'rtcp-mux-only', 'rtcp-rsize', 'rtcp-xr', 'sendrecv', 'sendonly', 'recvonly', 'inactive', 'ssrc', 'ssrc-group', 'sctp-port',
  'sctpmap', 'max-message-size', 'end-of-candidates', 'bundle-only', 'rid', 'simulcast', 'msid', 'crypto', 'ptime',
  'maxptime', 'imageattr',
])

/**
 * @param {string} line
 * @param {Map<string, string>} codecs
 * @returns {Saying[]}
 */
function explainAttribute(line, codecs) {
  const [, name = '', value = ''] = /^a=([^:]+):?(.*)$/.exec(line) ?? []
  switch (name) {
    case 'candidate':
      return explainCandidateLine(line)
    case 'group':
      return [{ key: value.startsWith('BUNDLE') ? 'sdp.bundle' : 'sdp.group' }]
    case 'fingerprint':
      return [{ key: 'sdp.fingerprint', values: { hash: value.split(' ')[0] ?? '' } }]
    case 'setup':
      return [{ key: ['actpass', 'active', 'passive'].includes(value) ? `sdp.setup-${value}` : 'sdp.unknown' }]
    case 'rtpmap':
      return explainCodec(value)
    case 'fmtp':
      return explainFormat(value, codecs)
    case 'rtcp-fb':
      return explainFeedback(value)
    case 'extmap':
      return explainExtension(value)
    default:
      return [{ key: PLAIN.has(name) ? `sdp.${name}` : 'sdp.unknown' }]
  }
}

/**
 * @param {string} line
 * @returns {Saying[]}
 */
function explainCandidateLine(line) {
  const candidate = readCandidate(line)
  if (!candidate) return [{ key: 'sdp.unknown' }]
  return explainCandidate(candidate).slice(0, 4).map(({ says }) => says)
}

/** Entries of rtpmap that are not codecs, by their names in lower case. */
const HELPERS = new Map([
  ['rtx', 'rtx'],
  ['red', 'red'],
  ['ulpfec', 'fec'],
  ['flexfec-03', 'fec'],
  ['telephone-event', 'dtmf'],
  ['cn', 'noise'],
])

/**
 * `111 opus/48000/2`
 * @param {string} value
 * @returns {Saying[]}
 */
function explainCodec(value) {
  const [, number = '', codec = '', rate = '', channels] = /^(\d+) ([^/\s]+)\/(\d+)(?:\/(\d+))?/.exec(value) ?? []
  if (!codec) return [{ key: 'sdp.unknown' }]
  const helper = HELPERS.get(codec.toLowerCase())
  if (helper) return [{ key: `sdp.rtpmap-${helper}`, values: { number } }]
  const key = channels === '2' ? 'sdp.rtpmap-stereo' : 'sdp.rtpmap'
  return [{ key, values: { number, codec, rate: Number(rate) / 1000 } }]
}

/**
 * `96 profile-id=0`, and `97 apt=96`, which says what is sent again under 97
 * @param {string} value
 * @param {Map<string, string>} codecs
 * @returns {Saying[]}
 */
function explainFormat(value, codecs) {
  const number = value.split(' ')[0] ?? ''
  const again = /apt=(\d+)/.exec(value)?.[1]
  if (again) return [{ key: 'sdp.fmtp-apt', values: { number, again, codec: codecs.get(again) ?? again } }]
  return [{ key: 'sdp.fmtp', values: { number, codec: codecs.get(number) ?? number } }]
}

/**
 * `96 nack pli`
 * @param {string} value
 * @returns {Saying[]}
 */
function explainFeedback(value) {
  const known = new Map([
    ['goog-remb', 'remb'],
    ['transport-cc', 'twcc'],
    ['ccm fir', 'fir'],
    ['nack', 'nack'],
    ['nack pli', 'pli'],
    ['rrtr', 'rrtr'],
  ])
  return [{ key: `sdp.fb-${known.get(value.replace(/^\S+ /, '')) ?? 'other'}` }]
}

/** What RTP header extensions are for, by their names. */
const EXTENSIONS = new Map([
  ['urn:ietf:params:rtp-hdrext:ssrc-audio-level', 'level'],
  ['urn:ietf:params:rtp-hdrext:csrc-audio-level', 'level'],
  ['http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time', 'time'],
  ['http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01', 'twcc'],
  ['urn:ietf:params:rtp-hdrext:sdes:mid', 'mid'],
  ['urn:3gpp:video-orientation', 'rotation'],
  ['urn:ietf:params:rtp-hdrext:toffset', 'time'],
  ['http://www.webrtc.org/experiments/rtp-hdrext/playout-delay', 'delay'],
  ['http://www.webrtc.org/experiments/rtp-hdrext/video-content-type', 'content'],
  ['http://www.webrtc.org/experiments/rtp-hdrext/video-timing', 'timing'],
  ['http://www.webrtc.org/experiments/rtp-hdrext/color-space', 'color'],
  ['urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id', 'rid'],
  ['urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id', 'rid'],
])

/**
 * `3 http://www.ietf.org/…`
 * @param {string} value
 * @returns {Saying[]}
 */
function explainExtension(value) {
  const [number = '', name = ''] = value.split(' ')
  return [{ key: `sdp.extmap-${EXTENSIONS.get(name) ?? 'other'}`, values: { number: number.split('/')[0] ?? '' } }]
}
