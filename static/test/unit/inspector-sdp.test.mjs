import assert from 'node:assert/strict'
import { test } from 'node:test'
import { explainCandidate, explainSDP, readCandidate } from '../../js/page/explain-sdp.js'
import { en } from '../../js/page/texts-inspector.js'

const keysOf = (line) => explainSDP(line)[0].says.map(({ key }) => key)

test('a candidate is read as it is written', () => {
  assert.deepEqual(
    { ...readCandidate('candidate:842163049 1 udp 1677729535 198.51.100.7 46154 typ srflx raddr 192.0.2.1 rport 46154 generation 0 ufrag EsAw network-cost 999') },
    {
      foundation: '842163049', component: 1, protocol: 'udp', priority: 1677729535, address: '198.51.100.7', port: 46154, kind: 'srflx',
      more: Object.assign(Object.create(null), { raddr: '192.0.2.1', rport: '46154', generation: '0', ufrag: 'EsAw', 'network-cost': '999' }),
    },
  )
  assert.equal(readCandidate('a=candidate:1 1 UDP 2122252543 0c5e.local 50000 typ host')?.kind, 'mdns')
  assert.equal(readCandidate('candidate:1 1 UDP 2122252543 2001:db8::1 50000 typ host')?.protocol, 'udp')
  assert.equal(readCandidate('candidate:1 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active')?.more.tcptype, 'active')
  for (const text of ['', 'candidate:', 'candidate:1 x udp 1 a 1 typ host', 'v=0', '{}']) assert.equal(readCandidate(text), undefined, text)
})

test('the parts of a candidate', () => {
  const parts = explainCandidate(readCandidate('candidate:7 1 tcp 41885695 203.0.113.9 50001 typ relay raddr 198.51.100.7 rport 61665 tcptype passive ufrag EsAw network-cost 50'))
  assert.deepEqual(parts.map(({ part, says }) => `${part}: ${says.key}`), [
    'typ relay: candidate.relay',
    '203.0.113.9 50001: candidate.address',
    'tcp: candidate.tcp',
    '41885695: candidate.priority',
    'candidate:7: candidate.foundation',
    '1: candidate.component',
    'raddr 198.51.100.7 rport 61665: candidate.related-relay',
    'tcptype passive: candidate.tcp-passive',
    'ufrag EsAw: candidate.ufrag',
    'network-cost 50: candidate.network-cost',
  ])
  // RFC 8445, section 5.1.2.1: 2^24 × type preference + 2^8 × local preference + 256 − component
  const host = explainCandidate(readCandidate('candidate:1 1 udp 2122260223 192.0.2.1 1 typ host'))
  assert.deepEqual(host[3].says.values, { preference: 126, local: 32542 })
  assert.equal(126 * 2 ** 24 + 32542 * 2 ** 8 + 255, 2122260223)
})

test('every kind of line has its explanation', () => {
  for (const [line, ...keys] of [
    ['v=0', 'v'],
    ['o=- 4611731400430051336 2 IN IP4 127.0.0.1', 'o'],
    ['s=-', 's'],
    ['t=0 0', 't'],
    ['c=IN IP4 0.0.0.0', 'c'],
    ['b=AS:500', 'b'],
    ['m=audio 9 UDP/TLS/RTP/SAVPF 111 63', 'm-audio', 'm-port'],
    ['m=video 0 UDP/TLS/RTP/SAVPF 96', 'm-video', 'm-off'],
    ['m=application 54321 UDP/DTLS/SCTP webrtc-datachannel', 'm-application'],
    ['m=text 9 RTP/AVP 98', 'm', 'm-port'],
    ['a=group:BUNDLE 0 1 2', 'bundle'],
    ['a=group:LS 0 1', 'group'],
    ['a=ice-ufrag:EsAw', 'ice-ufrag'],
    ['a=ice-pwd:•••', 'ice-pwd'],
    ['a=ice-options:trickle', 'ice-options'],
    ['a=fingerprint:sha-256 D2:FA', 'fingerprint'],
    ['a=setup:actpass', 'setup-actpass'],
    ['a=setup:active', 'setup-active'],
    ['a=setup:holdconn', 'unknown'],
    ['a=rtpmap:111 opus/48000/2', 'rtpmap-stereo'],
    ['a=rtpmap:96 VP8/90000', 'rtpmap'],
    ['a=rtpmap:97 rtx/90000', 'rtpmap-rtx'],
    ['a=rtpmap:63 red/48000/2', 'rtpmap-red'],
    ['a=rtpmap:13 CN/8000', 'rtpmap-noise'],
    ['a=rtpmap:126 telephone-event/8000', 'rtpmap-dtmf'],
    ['a=rtpmap:nonsense', 'unknown'],
    ['a=fmtp:97 apt=96', 'fmtp-apt'],
    ['a=fmtp:111 minptime=10;useinbandfec=1', 'fmtp'],
    ['a=rtcp-fb:96 nack pli', 'fb-pli'],
    ['a=rtcp-fb:* transport-cc', 'fb-twcc'],
    ['a=rtcp-fb:96 something new', 'fb-other'],
    ['a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level', 'extmap-level'],
    ['a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level', 'extmap-level'],
    ['a=extmap:9 urn:new', 'extmap-other'],
    ['a=sendrecv', 'sendrecv'],
    ['a=candidate:nonsense', 'unknown'],
    ['a=from-the-future:1', 'unknown'],
    ['a=__proto__:1', 'unknown'],
    ['z=0', 'unknown'],
    ['nonsense', 'unknown'],
  ]) {
    assert.deepEqual(keysOf(line), keys.map((key) => `sdp.${key}`), line)
  }
  assert.deepEqual(keysOf('a=candidate:1 1 udp 2122260223 192.0.2.1 61665 typ host'), [
    'candidate.host', 'candidate.address', 'candidate.udp', 'candidate.priority',
  ])
})

test('sections, and the codecs of each', () => {
  const lines = explainSDP(
    ['v=0', 's=-', 'm=video 9 UDP/TLS/RTP/SAVPF 96 97', 'a=rtpmap:96 VP8/90000', 'a=fmtp:97 apt=96', 'm=audio 9 X 96', 'a=fmtp:96 x=1', ''].join('\r\n'),
  )
  assert.deepEqual(lines.map(({ section }) => section), [0, 0, 1, 1, 1, 2, 2])
  assert.deepEqual(lines[4].says[0].values, { number: '97', again: '96', codec: 'VP8' })
  assert.deepEqual(lines[6].says[0].values, { number: '96', codec: '96' })
})

test('every explanation has its text', async () => {
  const source = await import('node:fs/promises').then((fs) => fs.readFile(new URL('../../js/page/explain-sdp.js', import.meta.url), 'utf8'))
  const plain = /const PLAIN = new Set\(\[([^\]]+)\]/.exec(source)[1].matchAll(/'([^']+)'/g)
  for (const [, name] of plain) assert.ok(Object.hasOwn(en, `sdp.${name}`), name)
  for (const key of ['host', 'mdns', 'srflx', 'prflx', 'relay', 'tcp-active', 'tcp-passive', 'related']) assert.ok(Object.hasOwn(en, `candidate.${key}`), key)
})
