// @ts-check
/**
 * SHA-256 (FIPS 180-4) in steps. The browser's own takes everything at once, which a file of gigabytes
 * is too big for, and is missing on insecure origins.
 */

/**
 * Every index below is within bounds, which the type checker cannot see.
 * @type {(length: number) => any}
 */
const words = (length) => new Int32Array(length)
/** The first 32 bits of the fractions of the cube roots (K) and square roots (START) of the first primes. */
const K = words(64)
const START = words(8)
for (let n = 2, found = 0; found < 64; n++) {
  let prime = true
  for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false
  if (!prime) continue
  if (found < 8) START[found] = (n ** (1 / 2) % 1) * 2 ** 32
  K[found++] = (n ** (1 / 3) % 1) * 2 ** 32
}
const W = words(64)

export class Sha256 {
  #state = START.slice()
  #block = new Uint8Array(64)
  #view = new DataView(this.#block.buffer)
  /** Bytes so far; exact up to 2^53. */
  #length = 0

  /** @param {Uint8Array} bytes */
  update(bytes) {
    for (let at = 0; at < bytes.length; ) {
      const filled = this.#length % 64
      const part = bytes.subarray(at, at + 64 - filled)
      this.#block.set(part, filled)
      this.#length += part.length
      at += part.length
      if (this.#length % 64 === 0) this.#compress()
    }
    return this
  }

  /** The hash of everything given so far, in hexadecimal. Nothing can be added after it. */
  digest() {
    const bits = this.#length * 8
    const padding = new Uint8Array(64 - ((this.#length + 8) % 64) + 8)
    padding[0] = 0x80
    const view = new DataView(padding.buffer)
    view.setUint32(padding.length - 8, bits / 2 ** 32)
    view.setUint32(padding.length - 4, bits)
    this.update(padding)
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, '0')).join('')
  }

  #compress() {
    for (let i = 0; i < 16; i++) W[i] = this.#view.getInt32(i * 4)
    for (let i = 16; i < 64; i++) {
      const x = W[i - 15]
      const y = W[i - 2]
      const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)
      const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10)
      W[i] = (s0 + s1 + W[i - 16] + W[i - 7]) | 0
    }
    const s = this.#state
    // Eight variables: engines run this three times as fast as anything with arrays.
    let a = s[0]
    let b = s[1]
    let c = s[2]
    let d = s[3]
    let e = s[4]
    let f = s[5]
    let g = s[6]
    let h = s[7]
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + W[i]) | 0
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
      h = g
      g = f
      f = e
      e = (d + t1) | 0
      d = c
      c = b
      b = a
      a = (t1 + t2) | 0
    }
    s[0] += a
    s[1] += b
    s[2] += c
    s[3] += d
    s[4] += e
    s[5] += f
    s[6] += g
    s[7] += h
  }
}
