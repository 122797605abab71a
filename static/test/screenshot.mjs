// Takes the README's picture: a real call, as both of its people see it, side by side.
// Usage: node screenshot.mjs [file]   (default docs/call.png)
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { cleanUp, filmed, launch, Person, Server, temporaryFolder } from './browser/harness.mjs'
import { film } from './film.mjs'

const file = process.argv[2] ?? fileURLToPath(new URL('../../docs/call.png', import.meta.url))
const SIZE = { width: 860, height: 640 }
const CAST = {
  Ada: { wall: [[214, 226, 236], [150, 174, 196]], skin: [236, 196, 168], hair: [92, 58, 40], shirt: [46, 92, 150] },
  Bob: { wall: [[240, 226, 204], [206, 176, 140]], skin: [168, 118, 88], hair: [36, 30, 30], shirt: [60, 124, 96] },
}

try {
  const [server, folder] = await Promise.all([Server.start(), temporaryFolder()])
  const [ada, bob] = await Promise.all(Object.entries(CAST).map(([name, colors]) => arrive(server, folder, name, colors)))
  for (const [name, person] of [['Ada', ada], ['Bob', bob]]) await person.join(name)
  for (const person of [ada, bob]) await person.waitConnected()
  for (const person of [ada, bob]) await person.framesAdvance(60)
  await ada.say('Hello Bob, can you see me?')
  await bob.waitChat('Hello Bob, can you see me?')
  await bob.say('Yes! And hear you, too.')
  await ada.waitChat('Yes! And hear you, too.')
  for (const person of [ada, bob]) await person.waitStatus('connected')
  await sideBySide([ada, bob], file)
  console.log(file)
} finally {
  await cleanUp()
}

async function arrive(server, folder, name, colors) {
  const camera = path.join(folder, `${name}.y4m`)
  await film(camera, colors)
  return Person.open(await launch(filmed(camera), { defaultViewport: SIZE }), server.url, 'demo')
}

/** Lays the pictures of both pages next to each other and saves the result. */
async function sideBySide(people, path) {
  const pictures = []
  for (const { page } of people) {
    await page.evaluate(() => document.activeElement.blur())
    pictures.push(await page.screenshot({ encoding: 'base64' }))
  }
  const sheet = await people[0].page.browser().newPage()
  await sheet.setViewport({ width: 2 * SIZE.width + 48, height: SIZE.height + 32 })
  await sheet.setContent(`<body style="margin:16px;display:flex;gap:16px;background:#c9ced6">${pictures
    .map((data) => `<img style="border-radius:10px" src="data:image/png;base64,${data}">`)
    .join('')}</body>`)
  await sheet.screenshot({ path })
}
