// @ts-check
/**
 * QR codes (ISO/IEC 18004), as far as a link needs them: byte mode, versions 1 to 10, error correction
 * levels L and M.
 */

/**
 * What each version holds, by level: `[error correction bytes a block, blocks, data bytes a block, blocks
 * of one byte more]` (ISO/IEC 18004, table 9).
 * @type {Record<'L' | 'M', [number, number, number, number][]>}
 */
const BLOCKS = {
  L: [[7, 1, 19, 0], [10, 1, 34, 0], [15, 1, 55, 0], [20, 1, 80, 0], [26, 1, 108, 0], [18, 2, 68, 0], [20, 2, 78, 0], [24, 2, 97, 0], [30, 2, 116, 0], [18, 2, 68, 2]],
  M: [[10, 1, 16, 0], [16, 1, 28, 0], [26, 1, 44, 0], [18, 2, 32, 0], [24, 2, 43, 0], [16, 4, 27, 0], [18, 4, 31, 0], [22, 2, 38, 2], [22, 3, 36, 2], [26, 4, 43, 1]],
}
/** Centres of the alignment patterns, by version (table E.1). */
const ALIGNMENT = [[], [6, 18], [6, 22], [6, 26], [6, 30], [6, 34], [6, 22, 38], [6, 24, 42], [6, 26, 46], [6, 28, 50]]
/** The two bits of each level in the format information. */
const LEVEL_BITS = { L: 1, M: 0 }

/**
 * A text as a square of modules: `true` is dark. Without the quiet zone of four modules that a reader
 * needs around it. It throws RangeError where the text is too long: 271 bytes of UTF-8 at L, 213 at M.
 * @param {string} text
 * @param {{ level?: 'L' | 'M', mask?: number }} [options]  the mask is chosen by its penalty where it is left out
 * @returns {boolean[][]}
 */
export function qr(text, { level = 'M', mask } = {}) {
  const bytes = new TextEncoder().encode(text)
  const version = versionFor(bytes.length, level)
  const code = codewords(bytes, version, level)
  const masks = mask === undefined ? [0, 1, 2, 3, 4, 5, 6, 7] : [mask]
  let best = { squares: /** @type {boolean[][]} */ ([]), penalty: Infinity }
  for (const candidate of masks) {
    const squares = new Grid(version).fill(code, candidate, level)
    const penalty = penaltyOf(squares)
    if (penalty < best.penalty) best = { squares, penalty }
  }
  return best.squares
}

/** @param {number} version @param {'L' | 'M'} level */
function capacity(version, level) {
  const [, blocks, size, longer] = /** @type {[number, number, number, number]} */ (BLOCKS[level][version - 1])
  return blocks * size + longer * (size + 1)
}

/** The bits of the length of a text. @param {number} version */
const lengthBits = (version) => (version < 10 ? 8 : 16)

/**
 * @param {number} length  bytes
 * @param {'L' | 'M'} level
 */
function versionFor(length, level) {
  for (let version = 1; version <= 10; version++) {
    if (4 + lengthBits(version) + 8 * length <= 8 * capacity(version, level)) return version
  }
  throw new RangeError(`${length} bytes are too many for a QR code of version 10-${level}`)
}

// --- the bytes ----------------------------------------------------------------------------------

/**
 * Mode, length, text and padding, in blocks with their error correction, interleaved (section 7.4 to 7.6).
 * @param {Uint8Array} bytes
 * @param {number} version
 * @param {'L' | 'M'} level
 */
function codewords(bytes, version, level) {
  const total = capacity(version, level)
  const bits = new Bits()
  bits.add(0b0100, 4)
  bits.add(bytes.length, lengthBits(version))
  for (const byte of bytes) bits.add(byte, 8)
  bits.add(0, Math.min(4, 8 * total - bits.length))
  bits.add(0, (8 - (bits.length % 8)) % 8)
  const data = bits.bytes()
  for (let pad = 0xec; data.length < total; pad ^= 0xec ^ 0x11) data.push(pad)

  const [correction, blocks, size, longer] = /** @type {[number, number, number, number]} */ (BLOCKS[level][version - 1])
  /** @type {number[][]} */
  const blocksOfData = []
  for (let n = 0, at = 0; n < blocks + longer; n++) {
    const length = size + (n >= blocks ? 1 : 0)
    blocksOfData.push(data.slice(at, (at += length)))
  }
  const divisor = generator(correction)
  const blocksOfCorrection = blocksOfData.map((block) => remainder(block, divisor))
  return [...interleaved(blocksOfData), ...interleaved(blocksOfCorrection)]
}

/** @param {number[][]} blocks */
function* interleaved(blocks) {
  const longest = Math.max(...blocks.map((block) => block.length))
  for (let i = 0; i < longest; i++) {
    for (const block of blocks) if (i < block.length) yield /** @type {number} */ (block[i])
  }
}

class Bits {
  /** @type {number[]} */
  #bits = []

  get length() {
    return this.#bits.length
  }

  /** @param {number} value @param {number} count */
  add(value, count) {
    for (let i = count - 1; i >= 0; i--) this.#bits.push((value >> i) & 1)
  }

  bytes() {
    const bytes = []
    for (let i = 0; i < this.#bits.length; i += 8) bytes.push(this.#bits.slice(i, i + 8).reduce((byte, bit) => (byte << 1) | bit, 0))
    return bytes
  }
}

/** Multiplication in GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1. @param {number} a @param {number} b */
function times(a, b) {
  let product = 0
  for (let i = 7; i >= 0; i--) {
    product = (product << 1) ^ (product >> 7 ? 0x11d : 0)
    if ((b >> i) & 1) product ^= a
  }
  return product
}

/** The Reed-Solomon generator of a degree, without its leading 1. @param {number} degree */
function generator(degree) {
  /** @type {number[]} */
  const polynomial = Array(degree).fill(0)
  polynomial[degree - 1] = 1
  for (let i = 0, root = 1; i < degree; i++, root = times(root, 2)) {
    for (let j = 0; j < degree; j++) polynomial[j] = times(/** @type {number} */ (polynomial[j]), root) ^ (polynomial[j + 1] ?? 0)
  }
  return polynomial
}

/** @param {number[]} data @param {number[]} divisor */
function remainder(data, divisor) {
  /** @type {number[]} */
  const rest = Array(divisor.length).fill(0)
  for (const byte of data) {
    const factor = byte ^ /** @type {number} */ (rest.shift())
    rest.push(0)
    divisor.forEach((coefficient, i) => (rest[i] = /** @type {number} */ (rest[i]) ^ times(coefficient, factor)))
  }
  return rest
}

// --- the squares --------------------------------------------------------------------------------

/** @type {((row: number, column: number) => boolean)[]} */
const MASKS = [
  (r, c) => (r + c) % 2 === 0,
  (r) => r % 2 === 0,
  (_, c) => c % 3 === 0,
  (r, c) => (r + c) % 3 === 0,
  (r, c) => (Math.floor(r / 2) + Math.floor(c / 3)) % 2 === 0,
  (r, c) => ((r * c) % 2) + ((r * c) % 3) === 0,
  (r, c) => (((r * c) % 2) + ((r * c) % 3)) % 2 === 0,
  (r, c) => (((r + c) % 2) + ((r * c) % 3)) % 2 === 0,
]

class Grid {
  #version
  #size
  /** @type {(boolean | undefined)[][]} undefined: free for data */
  #squares

  /** @param {number} version */
  constructor(version) {
    this.#version = version
    this.#size = 17 + 4 * version
    this.#squares = Array.from({ length: this.#size }, () => Array(this.#size).fill(undefined))
    this.#patterns()
  }

  /**
   * @param {number[]} code
   * @param {number} mask
   * @param {'L' | 'M'} level
   * @returns {boolean[][]}
   */
  fill(code, mask, level) {
    this.#format((LEVEL_BITS[level] << 3) | mask)
    this.#data(code, /** @type {(r: number, c: number) => boolean} */ (MASKS[mask]))
    return /** @type {boolean[][]} */ (this.#squares)
  }

  /** @param {number} row @param {number} column @param {boolean} dark */
  #set(row, column, dark) {
    const line = this.#squares[row]
    if (line && column >= 0 && column < this.#size) line[column] = dark
  }

  #patterns() {
    const far = this.#size - 7
    for (let i = 8; i < far; i++) {
      this.#set(6, i, i % 2 === 0)
      this.#set(i, 6, i % 2 === 0)
    }
    const centres = ALIGNMENT[this.#version - 1] ?? []
    const last = centres.at(-1)
    for (const r of centres) {
      for (const c of centres) {
        const inFinder = (r === 6 && c === 6) || (r === 6 && c === last) || (r === last && c === 6)
        if (!inFinder) this.#square(r, c, 2, (distance) => distance !== 1)
      }
    }
    for (const [r, c] of /** @type {const} */ ([[3, 3], [3, far + 3], [far + 3, 3]])) {
      this.#square(r, c, 4, (distance) => distance !== 2 && distance !== 4)
    }
    this.#format(0) // keeps its place free of data
    if (this.#version >= 7) this.#versionBits()
  }

  /**
   * Rings around a centre.
   * @param {number} row
   * @param {number} column
   * @param {number} radius
   * @param {(distance: number) => boolean} dark
   */
  #square(row, column, radius, dark) {
    for (let r = -radius; r <= radius; r++) {
      for (let c = -radius; c <= radius; c++) this.#set(row + r, column + c, dark(Math.max(Math.abs(r), Math.abs(c))))
    }
  }

  /** Level and mask, twice, with their error correction (section 7.9). @param {number} data  five bits */
  #format(data) {
    const bits = ((data << 10) | bch(data << 10, 0x537, 10)) ^ 0x5412
    const bit = (/** @type {number} */ i) => ((bits >> i) & 1) === 1
    const end = this.#size - 1
    for (let i = 0; i < 15; i++) {
      if (i < 8) this.#set(8, end - i, bit(i))
      else this.#set(end - 14 + i, 8, bit(i))
      if (i < 6) this.#set(i, 8, bit(i))
      else if (i < 8) this.#set(i + 1, 8, bit(i))
      else if (i === 8) this.#set(8, 7, bit(i))
      else this.#set(8, 14 - i, bit(i))
    }
    this.#set(end - 7, 8, true)
  }

  /** The version, twice, with its error correction (section 7.10). */
  #versionBits() {
    const bits = (this.#version << 12) | bch(this.#version << 12, 0x1f25, 12)
    for (let i = 0; i < 18; i++) {
      const [along, across] = [Math.floor(i / 3), this.#size - 11 + (i % 3)]
      this.#set(along, across, ((bits >> i) & 1) === 1)
      this.#set(across, along, ((bits >> i) & 1) === 1)
    }
  }

  /**
   * In pairs of columns from the right, up and down in turn (section 7.7.3).
   * @param {number[]} code
   * @param {(row: number, column: number) => boolean} mask
   */
  #data(code, mask) {
    let at = 0
    for (let right = this.#size - 1, up = true; right > 0; right -= 2, up = !up) {
      if (right === 6) right-- // the timing pattern
      for (let i = 0; i < this.#size; i++) {
        const row = up ? this.#size - 1 - i : i
        for (const column of [right, right - 1]) {
          if (this.#squares[row]?.[column] !== undefined) continue
          const bit = ((code[at >> 3] ?? 0) >> (7 - (at & 7))) & 1
          at++
          this.#set(row, column, (bit === 1) !== mask(row, column))
        }
      }
    }
  }
}

/** The rest of a division of binary polynomials. @param {number} value @param {number} divisor @param {number} degree */
function bch(value, divisor, degree) {
  for (let i = 31 - Math.clz32(value); value && i >= degree; i = 31 - Math.clz32(value)) value ^= divisor << (i - degree)
  return value
}

/** How hard the pattern is to read (section 7.8.3.1). @param {boolean[][]} squares */
function penaltyOf(squares) {
  const size = squares.length
  const columns = squares.map((_, c) => squares.map((row) => /** @type {boolean} */ (row[c])))
  let penalty = 0
  for (const line of [...squares, ...columns]) penalty += runs(line) + finders(line)
  for (let r = 1; r < size; r++) {
    for (let c = 1; c < size; c++) {
      const dark = squares[r]?.[c]
      if (dark === squares[r - 1]?.[c] && dark === squares[r]?.[c - 1] && dark === squares[r - 1]?.[c - 1]) penalty += 3
    }
  }
  const dark = squares.flat().filter(Boolean).length
  return penalty + 10 * Math.floor(Math.abs((20 * dark) / size ** 2 - 10))
}

/** Five and more of one colour in a row. @param {boolean[]} line */
function runs(line) {
  let penalty = 0
  for (let start = 0, i = 1; i <= line.length; i++) {
    if (line[i] === line[start]) continue
    if (i - start >= 5) penalty += i - start - 2
    start = i
  }
  return penalty
}

/** What looks like a finder pattern: 1:1:3:1:1 with four light modules on a side. @param {boolean[]} line */
function finders(line) {
  const bits = line.map(Number).join('')
  let penalty = 0
  for (const pattern of ['10111010000', '00001011101']) {
    for (let at = bits.indexOf(pattern); at >= 0; at = bits.indexOf(pattern, at + 1)) penalty += 40
  }
  return penalty
}
