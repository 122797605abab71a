// Draws a short, endless film of somebody in front of a camera, for the README's picture.
import { open } from 'node:fs/promises'

const WIDTH = 640
const HEIGHT = 480
const FRAMES = 30

/** @typedef {[number, number, number]} Color  red, green, blue, 0 to 255 */

/**
 * Writes a YUV4MPEG2 file, 15 frames a second, in which the end meets the beginning.
 * @param {string} file
 * @param {{ wall: [Color, Color], skin: Color, hair: Color, shirt: Color }} colors
 */
export async function film(file, colors) {
  const out = await open(file, 'w')
  await out.write(`YUV4MPEG2 W${WIDTH} H${HEIGHT} F15:1 Ip A1:1 C420jpeg\n`)
  for (let i = 0; i < FRAMES; i++) {
    await out.write('FRAME\n')
    await out.write(frame((x, y) => paint(x, y, (2 * Math.PI * i) / FRAMES, colors)))
  }
  await out.close()
}

/** What is seen at a point at a moment of the film, nearest first. */
function paint(x, y, moment, { wall, skin, hair, shirt }) {
  const cx = WIDTH / 2 + 14 * Math.sin(moment)
  const cy = 215 + 6 * Math.sin(2 * moment)
  const within = (dx, dy, rx, ry) => ((x - cx - dx) / rx) ** 2 + ((y - cy - dy) / ry) ** 2 < 1
  const eyes = Math.abs(Math.sin(moment)) < 0.12 ? 1 : 7 // a blink
  if (within(-28, -8, 7, eyes) || within(28, -8, 7, eyes)) return [40, 34, 34]
  if (within(0, 34, 26, 14 + 3 * Math.sin(3 * moment)) && y > cy + 34) return [176, 74, 74]
  if (within(0, -58, 82, 52) && y < cy - 34) return hair
  if (within(0, 0, 74, 92)) return skin
  if (within(0, -22, 92, 92)) return hair
  if (within(0, 100, 34, 60)) return skin.map((c) => c * 0.88)
  if (within(0, 265, 190, 160)) return shirt
  return wall[0].map((c, i) => c + ((wall[1][i] - c) * y) / HEIGHT)
}

/** One picture as planar YUV 4:2:0. */
function frame(colorAt) {
  const luma = WIDTH * HEIGHT
  const planes = new Uint8Array(luma * 1.5)
  for (let y = 0; y < HEIGHT; y++) {
    for (let x = 0; x < WIDTH; x++) {
      const [r, g, b] = colorAt(x, y)
      planes[y * WIDTH + x] = 0.299 * r + 0.587 * g + 0.114 * b
      if (x % 2 || y % 2) continue
      const at = luma + (y / 2) * (WIDTH / 2) + x / 2
      planes[at] = 128 - 0.169 * r - 0.331 * g + 0.5 * b
      planes[at + luma / 4] = 128 + 0.5 * r - 0.419 * g - 0.081 * b
    }
  }
  return planes
}
