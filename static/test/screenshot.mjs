// Takes pictures of every state of the page, in both languages, both themes, on a phone and on a desk, into
// bin/screenshots, and those that the documentation shows into docs. The people are drawn, the calls real.
// Usage: node screenshot.mjs [state ...]   (all of them without any; `docs`: only those of the documentation)
import { mkdir, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { cleanUp, DENIED, filmed, launch, NO_CAMERA, Person, Proxy, Server, temporaryFolder } from './browser/harness.mjs'
import { relayOnly, startRelaying } from './browser/relay.mjs'
import { film } from './film.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const FOLDER = path.join(root, 'bin/screenshots')
const DOCS = path.join(root, 'docs')
const LANGUAGES = ['en', 'zh']
const THEMES = ['light', 'dark']
/** Without touch and the like: puppeteer would load the page again, in mid-call. */
const PHONE = { width: 360, height: 640, deviceScaleFactor: 2 }
const DESK = { width: 1440, height: 900 }
const SIZES = [PHONE, DESK]
const CAST = {
  Ada: { wall: [[214, 226, 236], [150, 174, 196]], skin: [236, 196, 168], hair: [92, 58, 40], shirt: [46, 92, 150] },
  Bob: { wall: [[240, 226, 204], [206, 176, 140]], skin: [168, 118, 88], hair: [36, 30, 30], shirt: [60, 124, 96] },
}
const ROOM = 'tea-time'

const wanted = new Set(process.argv.slice(2))
const isWanted = (state) => wanted.size === 0 || wanted.has(state)

await mkdir(FOLDER, { recursive: true })
try {
  const [server, folder] = await Promise.all([Server.start(), temporaryFolder()])
  const [ada, bob] = await Promise.all(Object.entries(CAST).map(async ([name, colors]) => {
    const camera = path.join(folder, `${name}.y4m`)
    await film(camera, colors)
    return launch(filmed(camera), { defaultViewport: DESK })
  }))
  await life(server, ada, bob)
  await failures(server, ada, bob)
} finally {
  await cleanUp()
}

/** From the first look at the page to the end of a call. */
async function life(server, ada, bob) {
  const a = await Person.open(ada, server.url, '')
  await shoot(a, 'home')
  const proxy = await Proxy.start(server.port)
  await a.page.goto(`${proxy.url}#${ROOM}`)
  await a.wait(() => document.querySelector('#check-devices').dataset.state === 'ok' && document.querySelector('#preview').videoWidth > 0)
  await shoot(a, 'prejoin')
  await a.join('Ada')
  await a.waitStatus('waiting')
  await shoot(a, 'waiting')
  const b = await Person.open(bob, server.url, ROOM)
  await b.join('Bob')
  await Promise.all([a, b].map((person) => person.waitConnected()))
  await Promise.all([a, b].map((person) => person.framesAdvance(60)))
  await a.wait(() => document.querySelector('#pill').dataset.state === 'direct')
  await shoot(a, 'call')

  await b.say('Hello Ada, can you see me?')
  await a.openDrawer('chat')
  await a.waitChat('Hello Ada, can you see me?')
  await a.say('Yes! And hear you, too. 你好！')
  await b.waitChat('Yes! And hear you, too. 你好！')
  await shoot(a, 'chat')
  await shootBoth([a, b], 'call.png')

  const file = path.join(await temporaryFolder(), 'recipe for scones.pdf')
  await writeFile(file, Buffer.alloc(420_000, 'duet'))
  await a.openDrawer('files')
  await (await a.page.$('#file-input')).uploadFile(file)
  await b.openDrawer('files')
  await b.waitVisible('#file-list .file-save')
  await shoot(a, 'files')

  await a.openDrawer('inspector')
  // It draws anew whenever it comes into view.
  const toStart = async () => {
    await a.waitVisible('.ins-row')
    await a.page.$eval('.ins-rows', (list) => (list.scrollTop = 0))
  }
  await shoot(a, 'inspector', toStart)
  await shootDocs(a, 'inspector', toStart)
  const toDescription = async () => {
    await a.waitVisible('.ins-row')
    await a.page.$eval('.ins-row[data-type=offer]', (row) => {
      const head = row.querySelector('.ins-head')
      if (head.getAttribute('aria-expanded') === 'false') head.click()
      row.scrollIntoView({ block: 'start' })
    })
  }
  await shoot(a, 'inspector-open', toDescription)
  await shootDocs(a, 'inspector-open', toDescription)

  await a.openDrawer('stats')
  if (isWanted('stats')) await sleep(15_000) // the plots want something to draw
  await shoot(a, 'stats')
  await a.page.click('#drawer-close')
  await a.page.click('#more')
  await a.waitVisible('#more-menu')
  await shoot(a, 'menu')
  await a.page.keyboard.press('Escape')
  await a.page.keyboard.press('?')
  await a.waitVisible('#help')
  await shoot(a, 'keys')
  await a.page.keyboard.press('Escape')
  await shootPhones(a)

  proxy.refuse(true)
  proxy.cut()
  await a.waitStatus('signal-lost-call-up')
  await shoot(a, 'signal-lost')
  proxy.refuse(false)
  await a.waitStatus('connected')
  await a.page.click('#hang-up')
  await a.waitPhase('ended')
  await shoot(a, 'ended')
  await Promise.all([a, b].map((person) => person.close()))
}

/** Each failure and its card. */
async function failures(server, ada, bob) {
  await shootPrejoin(await launch(DENIED), server.url, 'denied')
  const deaf = await launch(NO_CAMERA)
  await shootPrejoin(deaf, server.url, 'missing')
  await shootPrejoin(deaf, server.url, 'busy', () => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotReadableError'))
  })
  const address = Object.values(os.networkInterfaces()).flat().find((i) => i.family === 'IPv4' && !i.internal)?.address
  if (address) await shootPrejoin(deaf, (await Server.start({ address: `${address}:0` })).url, 'insecure')

  if (isWanted('room-full')) {
    const people = []
    for (const browser of [ada, bob, ada]) {
      const person = await Person.open(browser, server.url, ROOM)
      await person.join('Cleo')
      people.push(person)
      if (people.length < 3) await person.waitPhase('call')
    }
    await people[2].waitCard('room-full')
    await shoot(people[2], 'room-full')
    for (const person of people) await person.close()
  }
  if (isWanted('unreachable')) {
    const proxy = await Proxy.start(server.port)
    const person = await Person.open(ada, proxy.url, ROOM)
    proxy.refuse(true)
    proxy.cut()
    await person.join('Ada')
    await person.waitCard('unreachable')
    await shoot(person, 'unreachable')
    await person.close()
  }
  if (isWanted('replaced')) {
    const person = await Person.open(ada, server.url, ROOM)
    await person.join('Ada')
    await person.waitStatus('waiting')
    await person.page.evaluate((room) => {
      const thief = new WebSocket(new URL('ws', document.baseURI).href.replace('http', 'ws'), 'duet.v1')
      thief.onopen = () => thief.send(JSON.stringify({ type: 'join', room, session: duet.room.signaling.session, attempt: 1000 }))
    }, ROOM)
    await person.waitPhase('ended')
    await shoot(person, 'replaced')
    await person.close()
  }
  if (isWanted('room-full-retry')) {
    const proxy = await Proxy.start(server.port)
    const people = []
    for (const [i, [browser, url]] of [[ada, server.url], [bob, proxy.url], [ada, server.url]].entries()) {
      const person = await Person.open(browser, url, 'garden')
      await person.join(['Ada', 'Bob', 'Cleo'][i])
      people.push(person)
      if (i === 2) break
      await person.waitPhase('call')
      if (i === 0) continue
      await person.waitConnected()
      proxy.refuse(true)
      proxy.cut()
      await people[0].waitStatus('peer-away-call-up')
    }
    await people[2].waitCard('room-full-retry')
    await shoot(people[2], 'room-full-retry')
    for (const person of people) await person.close()
  }
  if (isWanted('relay-refused')) {
    const { url } = await startRelaying()
    const people = []
    for (const [i, browser] of [ada, bob].entries()) {
      const person = await Person.open(browser, url, ROOM, { prepare: (page) => relayOnly(page, { password: 'wrong' }) })
      await person.join(['Ada', 'Bob'][i])
      await person.waitPhase('call')
      people.push(person)
    }
    await people[0].waitCard('relay-refused')
    await shoot(people[0], 'relay-refused')
    for (const person of people) await person.close()
  }
  if (isWanted('relay-missing')) {
    // Without any candidate of its own no path is found, as between two networks that let nothing in.
    const blind = (page) => page.evaluateOnNewDocument(() => {
      const { addIceCandidate } = RTCPeerConnection.prototype
      RTCPeerConnection.prototype.addIceCandidate = function () {
        return addIceCandidate.call(this)
      }
    })
    const people = []
    for (const [i, browser] of [ada, bob].entries()) {
      const person = await Person.open(browser, server.url, 'attic', { prepare: blind })
      await person.join(['Ada', 'Bob'][i])
      await person.waitPhase('call')
      people.push(person)
    }
    await people[0].wait(() => document.querySelector('#stage-card .card'))
    await shoot(people[0], 'relay-missing')
    for (const person of people) await person.close()
  }
  if (isWanted('autoplay')) {
    const a = await Person.open(ada, server.url, 'porch')
    const b = await Person.open(bob, server.url, 'porch')
    await b.page.evaluate(() => {
      HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('', 'NotAllowedError'))
    })
    for (const [i, person] of [a, b].entries()) {
      await person.join(['Ada', 'Bob'][i])
      await person.waitPhase('call')
    }
    await b.waitVisible('#hear')
    await shoot(b, 'autoplay')
    for (const person of [a, b]) await person.close()
  }
}

/** The page before the call, where the devices fail. */
async function shootPrejoin(browser, url, state, fault) {
  if (!isWanted(state)) return
  const person = await Person.open(browser, url, ROOM, { prepare: (page) => fault && page.evaluateOnNewDocument(fault) })
  await person.waitCard(state)
  await shoot(person, state)
  await person.close()
}

/** Makes the page look as told, and lets it settle. */
async function dress(person, { lang, theme, size }, settle) {
  const { page } = person
  await page.setViewport(size)
  await page.select('#language', lang)
  await page.select('#theme', theme)
  await page.emulateMediaFeatures([{ name: 'prefers-reduced-motion', value: 'reduce' }])
  await page.evaluate(() => document.activeElement?.blur())
  await settle?.()
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))))
  await sleep(150) // transitions end
}

/** One state in every language, theme and size. */
async function shoot(person, state, settle) {
  if (!isWanted(state)) return
  for (const size of SIZES) {
    for (const lang of LANGUAGES) {
      for (const theme of THEMES) {
        await dress(person, { lang, theme, size }, settle)
        await person.page.screenshot({ path: path.join(FOLDER, `${state}-${lang}-${theme}-${size.width}x${size.height}.png`) })
      }
    }
  }
  await dress(person, { lang: 'en', theme: 'light', size: DESK })
  console.log(state)
}

/** A picture for the documentation, one a language. */
async function shootDocs(person, name, settle) {
  if (!isWanted('docs')) return
  for (const lang of LANGUAGES) {
    await dress(person, { lang, theme: 'light', size: { width: 1180, height: 760 } }, settle)
    await person.page.screenshot({ path: path.join(DOCS, `${name}${lang === 'zh' ? '.zh-CN' : ''}.png`) })
  }
  await dress(person, { lang: 'en', theme: 'light', size: DESK })
}

/** The same call on phones, in both languages and themes, next to each other. */
async function shootPhones(person) {
  if (!isWanted('docs')) return
  const pictures = []
  for (const [lang, theme, drawer] of [['en', 'light'], ['zh', 'dark'], ['zh', 'light', 'chat'], ['en', 'dark', 'inspector']]) {
    await dress(person, { lang, theme, size: PHONE }, async () => {
      if (drawer) await person.openDrawer(drawer)
    })
    pictures.push(await person.page.screenshot({ encoding: 'base64' }))
    if (drawer) await person.page.click('#drawer-close')
  }
  await dress(person, { lang: 'en', theme: 'light', size: DESK })
  await sheet(person.page.browser(), pictures, PHONE, 'phone.png')
}

/** Both people of the call, side by side. */
async function shootBoth(people, name) {
  if (!isWanted('docs')) return
  const size = { width: 960, height: 640 }
  const pictures = []
  for (const [i, person] of people.entries()) {
    await dress(person, { lang: 'en', theme: i === 0 ? 'light' : 'dark', size })
    pictures.push(await person.page.screenshot({ encoding: 'base64' }))
    await dress(person, { lang: 'en', theme: 'light', size: DESK })
  }
  await sheet(people[0].page.browser(), pictures, size, name)
}

/** Lays pictures of one size next to each other and saves the result in docs. */
async function sheet(browser, pictures, { width, height }, name) {
  const page = await browser.newPage()
  await page.setViewport({ width: pictures.length * (width + 16) + 16, height: height + 32 })
  await page.setContent(`<body style="margin:16px;display:flex;gap:16px;background:#c9ced6">${pictures
    .map((data) => `<img style="border-radius:10px;width:${width}px" src="data:image/png;base64,${data}">`)
    .join('')}</body>`)
  await page.screenshot({ path: path.join(DOCS, name) })
  await page.close()
  console.log(name)
}
