// @ts-check
/** The few things that a call has to read in, or change in, a session description. */

/**
 * The ICE user fragments of a description, which tell its candidates from those of another.
 * @param {string | undefined} sdp
 */
export function ufrags(sdp) {
  return new Set([...(sdp ?? '').matchAll(/^a=ice-ufrag:(\S+)/gm)].map((match) => match[1]))
}

/**
 * The user fragment a candidate belongs to; undefined where its sender does not say.
 * @param {RTCIceCandidateInit} candidate
 */
export function ufragOf(candidate) {
  return candidate.usernameFragment ?? / ufrag (\S+)/.exec(candidate.candidate ?? '')?.[1]
}

/**
 * Whether a candidate belongs to a description. The end of candidates, and a candidate that does not say,
 * belong to any.
 * @param {RTCIceCandidateInit | null} candidate
 * @param {string | undefined} sdp
 */
export function belongs(candidate, sdp) {
  const ufrag = candidate && ufragOf(candidate)
  return !ufrag || ufrags(sdp).has(ufrag)
}

/**
 * The DTLS role that an answer takes for its sender (RFC 8842, section 5.3).
 * @param {string | undefined} sdp
 * @returns {'active' | 'passive' | undefined}
 */
export function dtlsRole(sdp) {
  return /** @type {'active' | 'passive' | undefined} */ (/^a=setup:(active|passive)/m.exec(sdp ?? '')?.[1])
}

/**
 * The answer with another DTLS role for its sender.
 * @param {string} sdp
 * @param {'active' | 'passive'} role
 */
export function withDtlsRole(sdp, role) {
  return sdp.replaceAll(/^a=setup:\w+/gm, `a=setup:${role}`)
}

/**
 * What tells one RTCPeerConnection of a peer from its next: the fingerprint of its certificate, which
 * lasts as long as the connection does.
 * @param {string | undefined} sdp
 */
export function fingerprintOf(sdp) {
  return /^a=fingerprint:(\S+ \S+)/m.exec(sdp ?? '')?.[1]?.toLowerCase()
}
