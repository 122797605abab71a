// Takes docs/relayed.png: a phone and a desktop in a relayed call over https, as on a local network. The
// people are drawn; server, certificate, relay and call are real. Usage: node relay-shot.mjs
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { cleanUp, filmed, launch, Person, temporaryFolder } from './browser/harness.mjs'
import { relayOnly, startRelaying } from './browser/relay.mjs'
import { film } from './film.mjs'

const PICTURE = fileURLToPath(new URL('../../docs/relayed.png', import.meta.url))
const PHONE = { width: 360, height: 640, isMobile: true, hasTouch: true, deviceScaleFactor: 1 }
const DESK = { width: 960, height: 640 }
const ROOM = 'tea-time'
const CAST = [
  { name: 'Ada', viewport: PHONE, wall: [[214, 226, 236], [150, 174, 196]], skin: [236, 196, 168], hair: [92, 58, 40], shirt: [46, 92, 150] },
  { name: 'Bob', viewport: DESK, wall: [[240, 226, 204], [206, 176, 140]], skin: [168, 118, 88], hair: [36, 30, 30], shirt: [60, 124, 96] },
]
const both = (list, action) => Promise.all(list.map(action))

try {
  const { url } = await startRelaying({ https: true })
  const folder = await temporaryFolder()
  const people = await both(CAST, async ({ name, viewport, ...colors }) => {
    const camera = path.join(folder, `${name}.y4m`)
    await film(camera, colors)
    const browser = await launch(filmed(camera), { defaultViewport: viewport })
    return Person.open(browser, url, ROOM, { prepare: (page) => relayOnly(page) })
  })
  for (const [i, person] of people.entries()) {
    await person.join(CAST[i].name)
    await person.waitPhase('call')
  }
  await both(people, (person) => person.wait(() => document.querySelector('#pill').dataset.state === 'relay'))
  await both(people, (person) => person.framesAdvance(30))
  const windows = await both(people, async ({ page }, i) => ({ address: page.url(), ...CAST[i].viewport, data: await page.screenshot({ encoding: 'base64' }) }))
  await sheet(people[1].page.browser(), windows)
} finally {
  await cleanUp()
}

/** Lays the windows next to each other, each with its address above it. */
async function sheet(browser, windows) {
  const page = await browser.newPage()
  await page.setViewport({ width: windows.reduce((sum, { width }) => sum + width + 16, 16), height: 640 + 60 })
  await page.setContent(`<body style="margin:16px;display:flex;gap:16px;background:#c9ced6;font:13px/28px system-ui">${windows
    .map(({ address, width, data }) => `<div style="border-radius:10px;overflow:hidden;background:#eef0f3;width:${width}px;height:fit-content">
      <div style="padding:0 12px;color:#444">${address}</div><img style="display:block;width:${width}px" src="data:image/png;base64,${data}"></div>`)
    .join('')}</body>`)
  await page.screenshot({ path: PICTURE })
  await page.close()
}
