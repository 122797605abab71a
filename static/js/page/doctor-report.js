// @ts-check
/** The doctor's report: what the lines say, for somebody else to read. */

const MARKS = { ok: 'ok ', bad: 'BAD', none: '-  ', busy: '...' }

/**
 * @typedef {{ state: 'ok' | 'bad' | 'none' | 'busy', about: string, reason: string, fix: string }} Said
 *
 * @param {object} page
 * @param {string} page.address
 * @param {string} page.browser  navigator.userAgent
 * @param {Date} page.at
 * @param {Said[]} lines
 */
export function report({ address, browser, at }, lines) {
  const said = lines.flatMap(({ state, about, reason, fix }) => [
    mask(`${MARKS[state]} ${about}: ${reason.replaceAll('\n', ' ')}`),
    ...(fix && state !== 'ok' ? [mask(`      ${fix}`)] : []),
  ])
  return [`duet doctor, ${at.toISOString().slice(0, 19)}Z`, mask(address), browser, '', ...said, ''].join('\n')
}

/**
 * Puts the kind of each IP address and of each mDNS name in its place. What only looks like an IPv6
 * address is taken for one.
 * @param {string} words
 */
export function mask(words) {
  return words
    .replace(/\b[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\.local\b/gi, '[mDNS name]')
    .replace(/(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)/g, (address) => `[${kindOfV4(address)} IPv4]`)
    .replace(/\[?(?=[\da-f]*:[\da-f]*:)[\da-f:]{3,}(?:%\w+)?\]?/gi, (address) => `[${kindOfV6(address)} IPv6]`)
}

/** @param {string} address */
function kindOfV4(address) {
  const [a = 0, b = 0] = address.split('.').map(Number)
  if (a === 127) return 'loopback'
  if (a === 10 || (a === 172 && b >= 16 && b < 32) || (a === 192 && b === 168)) return 'private'
  if (a === 100 && b >= 64 && b < 128) return 'carrier-grade NAT'
  return a === 169 && b === 254 ? 'link-local' : 'public'
}

/** @param {string} address */
function kindOfV6(address) {
  const bare = address.replace(/^\[|\]$/g, '').toLowerCase()
  if (bare === '::1') return 'loopback'
  if (/^f[cd]/.test(bare)) return 'private'
  return /^fe[89ab]/.test(bare) ? 'link-local' : 'public'
}
