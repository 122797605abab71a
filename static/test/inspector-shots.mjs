// Takes the pictures of docs/how-a-call-comes-about.md: one real call, as Ada's inspector shows it, in
// both languages. Where the system permits, it runs in a network namespace of its own, so that the
// candidates in the pictures have addresses that are kept for documentation (RFC 5737).
// Usage: node inspector-shots.mjs [folder]   (default docs)
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { cleanUp, filmed, launch, Person, Proxy, Server, temporaryFolder } from './browser/harness.mjs'
import { film } from './film.mjs'

const script = fileURLToPath(import.meta.url)
const folder = path.resolve(process.argv[2] ?? path.join(path.dirname(script), '../../docs'))
const SCENE = { width: 1200, height: 780, deviceScaleFactor: 1.5 }
const CLOSE_UP = { width: 860, height: 880, deviceScaleFactor: 1.5 }
const CAST = {
  Ada: { wall: [[214, 226, 236], [150, 174, 196]], skin: [236, 196, 168], hair: [92, 58, 40], shirt: [46, 92, 150] },
  Bob: { wall: [[240, 226, 204], [206, 176, 140]], skin: [168, 118, 88], hair: [36, 30, 30], shirt: [60, 124, 96] },
}
const NETWORK = `ip link set lo up
  ip link add v0 type veth peer name v1
  ip addr add 192.0.2.20/24 dev v0; ip link set v0 up; ip link set v1 up
  ip route add default via 192.0.2.1 dev v0`

if (!process.env.DUET_SHOTS_INSIDE && spawnSync('unshare', ['-n', 'true']).status === 0) {
  const inside = spawnSync('unshare', ['-n', 'sh', '-ec', `${NETWORK}\nexec "$0" "$@"`, process.execPath, script, folder], {
    stdio: 'inherit',
    env: { ...process.env, DUET_SHOTS_INSIDE: '1' },
  })
  process.exit(inside.status ?? 1)
}

try {
  const [server, films] = await Promise.all([Server.start(), temporaryFolder()])
  const [ada, bob] = await Promise.all(Object.entries(CAST).map(async ([name, colors]) => {
    const camera = path.join(films, `${name}.y4m`)
    await film(camera, colors)
    return launch(filmed(camera), { defaultViewport: SCENE })
  }))
  const proxy = await Proxy.start(server.port)
  const a = await Person.open(ada, proxy.url, 'demo', { lang: 'en' })
  await a.join('Ada')
  await a.waitStatus('waiting')
  const b = await Person.open(bob, server.url, 'demo', { lang: 'en' })
  await b.join('Bob')
  for (const person of [a, b]) await person.waitConnected()
  for (const person of [a, b]) await person.framesAdvance(30)
  await a.openDrawer('inspector')
  await a.wait(() => duet.inspector.entries.some((e) => e.type === 'path') && document.querySelector('#inspector .ins-row'))
  await shoot(a, 'call', scene)
  await shoot(a, 'offer', tall, (e) => e.type === 'offer')
  await shoot(a, 'candidate', closeUp, (e) => e.type === 'candidate' && e.lane === 'in' && e.message.candidate?.candidate)
  await shoot(a, 'connected', (page) => closeUp(page, 1000), undefined, (e) => e.type === 'ice')
  proxy.cut()
  await a.wait(() => duet.inspector.entries.some((e) => e.message.resumed))
  await shoot(a, 'resume', closeUp, undefined, (e) => e.type === 'socket' && e.message.state === 'waiting')
} finally {
  await cleanUp()
}

/** The whole page, with the inspector at the side. */
async function scene(page) {
  await page.setViewport(SCENE)
  await page.evaluate(() => document.querySelector('#drawer').removeAttribute('style'))
}

/** The inspector alone, with room for much of a description. */
function tall(page) {
  return closeUp(page, 1180)
}

/** The inspector alone. */
async function closeUp(page, height = CLOSE_UP.height) {
  await page.setViewport({ ...CLOSE_UP, height })
  await page.evaluate(() => Object.assign(document.querySelector('#drawer').style, {
    position: 'fixed', inset: '0', width: 'auto', height: 'auto', maxHeight: 'none', zIndex: '10', margin: '0', borderRadius: '0',
  }))
}

/**
 * Takes a picture in each language.
 * @param {(page: import('puppeteer-core').Page) => Promise<void>} frame
 * @param {(entry: any) => boolean} [opened]  the first of these lines is opened
 * @param {(entry: any) => boolean} [first]  the list begins with the first of these
 */
async function shoot({ page }, name, frame, opened = () => false, first = opened) {
  const entries = await page.evaluate(() => duet.inspector.entries)
  const [open, top] = [opened, first].map((test) => entries.find(test)?.n)
  for (const [language, suffix] of [['en', ''], ['zh', '.zh-CN']]) {
    await page.select('#language', language)
    await frame(page)
    const bottom = await page.evaluate(async (open, top) => {
      document.activeElement?.blur()
      const headOf = (n) => document.querySelector(`#inspector .ins-row[data-n="${n}"] .ins-head`)
      for (const head of document.querySelectorAll('#inspector .ins-head[aria-expanded=true]')) head.click()
      headOf(open)?.click()
      for (const section of document.querySelectorAll('#inspector .ins-section')) section.open = /m=audio/.test(section.textContent)
      await new Promise((resolve) => setTimeout(resolve, 300)) // transitions end
      const list = document.querySelector('#inspector .ins-rows')
      const last = list.lastElementChild
      last.style.marginBottom = '100vh' // so that the last lines, too, can be the first that are seen
      if (top) list.scrollTop += headOf(top).getBoundingClientRect().top - list.getBoundingClientRect().top
      else list.scrollTop = 0
      return last.getBoundingClientRect().bottom
    }, open, top)
    const { width, height } = page.viewport()
    await page.screenshot({
      path: path.join(folder, `inspector-${name}${suffix}.png`),
      captureBeyondViewport: false,
      clip: { x: 0, y: 0, width, height: bottom > height - 64 ? height : Math.ceil(bottom + 1) },
    })
    await page.evaluate(() => (document.querySelector('#inspector .ins-rows').lastElementChild.style.marginBottom = ''))
  }
  console.log(`inspector-${name}`)
}
