import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { qr } from '../../js/page/qr.js'

const lines = (squares, dark = '1', light = '0') => squares.map((row) => row.map((d) => (d ? dark : light)).join(''))

test('version 1, module by module', () => {
  assert.deepEqual(lines(qr('duet', { level: 'M', mask: 4 }), '#', '.'), [
    '#######.#..##.#######', '#.....#.......#.....#', '#.###.#..####.#.###.#', '#.###.#.#.###.#.###.#', '#.###.#.##.##.#.###.#',
    '#.....#.##..#.#.....#', '#######.#.#.#.#######', '........##...........', '#...#.#####.######..#', '##.#...###..###..##..',
    '.####.#..#..##.....#.', '#.#..#.#..###..#.....', '.#....####.#..###...#', '........#####..#.###.', '#######.#..#..###..#.',
    '#.....#..#...##.#....', '#.###.#.##..###..#..#', '#.###.#..##.###..####', '#.###.#.....##...#...', '#.....#...###..#.#...',
    '#######.#..#..###.#.#',
  ])
})

// Hashes of what the npm package `qrcode` 1.5.4 makes of the same text in byte mode, level and mask: with one
// block and several, of one length and two, with alignment patterns and version information.
const vectors = [
  ['https://duet.example/#demo', 'M', 2, 25, 'c3226842ebeb6e461cd606535616a459ac54129fe49a62f3cc61f73395ed3318'],
  ['https://duet.example/#demo', 'L', 5, 25, '790707338302fd52696869ff21d0a30c4543d07d1b45e4f0e874b3cbc517d985'],
  ['你好，世界', 'M', 0, 25, '50222fb05937388a8e04d9f8d69dc800116fa63e9e8c327cc35bcf36fac68312'],
  ['x'.repeat(78), 'L', 1, 33, '6da76883ad3164efac901826447fdf6b6a8d55d8e93e9e526a97df879440bf35'],
  [`https://example.org/duet/#${'周'.repeat(30)}`, 'M', 3, 45, '985ecae1c637fc9492fdbe2b8b271fe348d823717ff27200b00249c67fd38734'],
  ['y'.repeat(213), 'M', 7, 57, '03492c60425af315cb1b8880bb76c85ffa50d71e991acba4980b5acc2bb0ae0a'],
  ['z'.repeat(271), 'L', 6, 57, '4c78f47166869e1806a5369fb8a8af4ce1cf1cb04285496b36459def2cc9d24e'],
]

for (const [text, level, mask, size, hash] of vectors) {
  test(`${size} modules, level ${level}, mask ${mask}: as another encoder has it`, () => {
    const squares = qr(text, { level, mask })
    assert.equal(squares.length, size)
    assert.ok(squares.every((row) => row.length === size && row.every((d) => typeof d === 'boolean')))
    assert.equal(createHash('sha256').update(lines(squares).join('\n')).digest('hex'), hash)
  })
}

test('each level grows to version 10 and says where it ends', () => {
  const sizes = { L: [17, 32, 53, 78, 106, 134, 154, 192, 230, 271], M: [14, 26, 42, 62, 84, 106, 122, 152, 180, 213] }
  for (const [level, lengths] of Object.entries(sizes)) {
    lengths.forEach((length, n) => assert.equal(qr('a'.repeat(length), { level, mask: 0 }).length, 21 + 4 * n, `${level} ${length}`))
    assert.throws(() => qr('a'.repeat(lengths.at(-1) + 1), { level }), RangeError)
  }
})

test('without a mask asked for, it is one of the eight', () => {
  const text = 'https://duet.example/#another'
  const all = [0, 1, 2, 3, 4, 5, 6, 7].map((mask) => lines(qr(text, { mask })).join())
  assert.ok(all.includes(lines(qr(text)).join()))
})
