// The page itself: failures in plain words, the keyboard, both languages, small screens, accessibility.
import assert from 'node:assert/strict'
import os from 'node:os'
import { DENIED, NO_CAMERA, Proxy, Server } from './harness.mjs'
import { ALONE, both, chromium, CHROMIUM, PAIR, row } from './rows.mjs'

const CHINESE = /\p{Script=Han}/u

/** Opens the page in both languages and checks its card: the words of each, nothing left to fill in. */
async function cards(scene, key, english, options = {}) {
  const room = scene.newRoom()
  for (const lang of ['en', 'zh']) {
    const person = await scene.open(0, { room, ...options, lang })
    const words = await person.waitCard(key)
    if (lang === 'en') assert.match(words, english)
    else assert.match(words, CHINESE)
    assert.doesNotMatch(words, /\{\w+\}|undefined|card\.|\bnull\b/)
  }
  return room
}

/** In spite of what is missing the person joins, and sees who is there. */
async function joinsAllTheSame(scene, room, options = {}) {
  const person = scene.people.at(-1)
  await person.page.click('#join-button')
  await person.waitPhase('call')
  const other = await scene.open(1, { room, ...options })
  await other.join('Bob')
  await both([person, other], (p) => p.waitConnected())
  return { person, other }
}

row(11, 'permission denied: a card, and one joins all the same', [chromium('denied', DENIED), CHROMIUM], async (scene) => {
  const room = await cards(scene, 'denied', /not allowed.*Click the icon/)
  await joinsAllTheSame(scene, room)
})

row(11, 'no camera and no microphone: a card, and one sees and hears', [chromium('no devices', NO_CAMERA), CHROMIUM], async (scene) => {
  const room = await cards(scene, 'missing', /Your browser sees no such device.*Plug the device in/)
  const { person, other } = await joinsAllTheSame(scene, room)
  await person.framesAdvance()
  await other.wait(() => document.querySelector('.tile').dataset.video === 'off')
})

row(11, 'devices in use: a card, and one joins all the same', PAIR, async (scene) => {
  const prepare = (page) => page.evaluateOnNewDocument(() => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('Could not start video source', 'NotReadableError'))
  })
  const room = await cards(scene, 'busy', /Another program holds it.*Close other programs/, { prepare })
  await joinsAllTheSame(scene, room)
})

row(11, 'an address that is not secure: a card with the addresses that work', PAIR, async (scene) => {
  const address = Object.values(os.networkInterfaces()).flat().find((i) => i.family === 'IPv4' && !i.internal)?.address
  if (!address) return scene.t.skip('this machine has no address but loopback')
  const { url } = await Server.start({ address: `${address}:0` })
  const { host, port } = new URL(url)
  const room = await cards(scene, 'insecure', new RegExp(`http://localhost:${port}/.*https://${host}`), { url })
  assert.equal(await scene.people.at(-1).page.$eval('#check-secure', (check) => check.dataset.state), 'bad')
  await joinsAllTheSame(scene, room, { url })
})

row(11, 'server unreachable: a card, and it joins by itself when the server is back', ALONE, async (scene) => {
  const proxy = await Proxy.start((await scene.server).port)
  const room = scene.newRoom()
  const people = []
  for (const lang of ['en', 'zh']) people.push(await scene.open(0, { url: proxy.url, room, lang, window: true }))
  await both(people, (person) => person.waitVisible('#check-server[data-state=ok]'))
  proxy.refuse(true)
  proxy.cut()
  for (const [i, person] of people.entries()) {
    await person.join('Ada')
    const words = await person.waitCard('unreachable')
    assert.match(words, i === 0 ? /There is no answer from 127\.0\.0\.1.*Check that this device is online/ : CHINESE)
  }
  proxy.refuse(false)
  await both(people, (person) => person.waitConnected())
})

row(11, 'a module does not come: the page is not empty, but says so', ALONE, async (scene) => {
  const { url } = await scene.server
  const page = await (await scene.browser(0)).newPage()
  await page.setRequestInterception(true)
  page.on('request', (request) => (request.url().endsWith('/js/page/texts.js') ? request.abort() : request.continue()))
  for (const path of ['', 'doctor']) {
    await page.goto(url + path)
    const stuck = await page.waitForSelector('#stuck', { visible: true })
    assert.match(await stuck.evaluate((p) => p.innerText), /Load it again \(F5\).*\n.*重新加载/)
  }
  await page.close()
  const whole = await scene.open(0, { room: '' })
  assert.equal(await whole.page.$eval('#stuck', (p) => p.checkVisibility()), false)
})

row(11, 'replaced in another tab: a card, and the call can be taken back', PAIR, async (scene) => {
  const { a, b } = await scene.call()
  const session = await a.page.evaluate(() => duet.room.signaling.session)
  await b.page.evaluate((key, room) => {
    window.thief = new WebSocket(new URL('ws', document.baseURI).href.replace('http', 'ws'), 'duet.v1')
    window.thief.onopen = () => window.thief.send(JSON.stringify({ type: 'join', room, session: key, attempt: 1000 }))
  }, session, decodeURIComponent(new URL(a.page.url()).hash.slice(1)))
  await a.waitPhase('ended')
  assert.match(await a.text('#ended'), /goes on in another tab/)
  await b.page.evaluate(() => window.thief.close(1000))
  await a.page.click('#rejoin')
  await a.waitConnected()
})

/** Presses Tab until this element has the focus. Returns the ids on the way. */
async function tabTo(person, id) {
  const seen = []
  for (let presses = 0; presses < 60; presses++) {
    await person.page.keyboard.press('Tab')
    const focus = await person.page.evaluate(() => document.activeElement?.id ?? '')
    seen.push(focus)
    if (focus === id) return seen
  }
  assert.fail(`no way to #${id} by Tab: ${seen.join()}`)
}

/** Nothing sticks out, and no text of the page is missing or in the other language. */
async function sound(person, what) {
  const found = await person.page.evaluate(() => ({
    overflow: document.documentElement.scrollWidth - innerWidth,
    empty: [...document.querySelectorAll('[data-text]')].filter((e) => !e.textContent).map((e) => e.dataset.text),
    left: /\{\w+\}|undefined|\bnull\b/.exec(document.body.innerText)?.[0] ?? '',
  }))
  assert.deepEqual(found, { overflow: 0, empty: [], left: '' }, what)
}

row(19, 'keyboard only, in Chinese, dark, on 360 x 640', PAIR, async (scene) => {
  const b = await scene.open(1, { room: 'keys' })
  await b.join('Bob')
  const a = await scene.open(0, {
    room: '',
    lang: 'zh',
    prepare: async (page) => {
      await page.setViewport({ width: 360, height: 640, hasTouch: true, isMobile: true })
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }])
    },
  })
  const { page } = a
  const { keyboard } = page
  assert.deepEqual(await page.evaluate(() => [document.documentElement.dataset.theme, document.documentElement.dataset.lang]), ['dark', 'zh'])
  await sound(a, 'home')
  await tabTo(a, 'room')
  await page.$eval('#room', (input) => input.select())
  await keyboard.type('keys')
  await keyboard.press('Enter')
  await a.waitPhase('prejoin')
  await a.wait(() => document.querySelector('#check-devices').dataset.state === 'ok')
  await sound(a, 'pre-join')
  await tabTo(a, 'join-button')
  await keyboard.press('Enter')
  await both([a, b], (person) => person.waitConnected())
  await sound(a, 'the call')

  const pressed = (id) => page.$eval(id, (button) => button.getAttribute('aria-pressed'))
  await page.evaluate(() => document.activeElement?.blur())
  const microphone = await pressed('#microphone')
  await keyboard.press('m')
  await a.wait((id, was) => document.querySelector(id).getAttribute('aria-pressed') !== was, '#microphone', microphone)
  const camera = await pressed('#camera')
  await keyboard.press('v')
  await a.wait((id, was) => document.querySelector(id).getAttribute('aria-pressed') !== was, '#camera', camera)
  await keyboard.press('c')
  await a.wait(() => document.activeElement?.id === 'chat-text')
  const muted = await pressed('#microphone')
  await keyboard.type('mvsfi?')
  assert.equal(await page.$eval('#chat-text', (input) => input.value), 'mvsfi?')
  assert.equal(await pressed('#microphone'), muted, 'keys do nothing else while one types')
  await keyboard.press('Enter')
  await b.openDrawer('chat')
  await b.waitChat('mvsfi?')
  await sound(a, 'chat')
  await keyboard.press('Escape')
  await a.waitHidden('#drawer')
  await keyboard.press('i')
  await a.waitVisible('#inspector')
  await sound(a, 'the inspector')
  await keyboard.press('Escape')
  await a.waitHidden('#drawer')
  await keyboard.press('?')
  await a.waitVisible('#help')
  await sound(a, 'the list of keys')
  await keyboard.press('Escape')
  await a.waitHidden('#help')
  const seen = await tabTo(a, 'hang-up')
  for (const id of ['microphone', 'camera', 'chat-toggle', 'more']) assert.ok(seen.includes(id), `#${id} is reached by Tab: ${seen}`)
  await keyboard.press('Enter')
  await a.waitPhase('ended')
  await sound(a, 'the end')
})

/** Looks at one state of the page in both themes. */
async function accessible(person, what) {
  for (const theme of ['light', 'dark']) {
    await person.page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }, { name: 'prefers-reduced-motion', value: 'reduce' }])
    await person.wait((t) => document.documentElement.dataset.theme === t, theme)
    await person.accessible(`${what}, ${theme}`)
  }
}

row(20, 'accessibility of every state, light and dark (axe-core): no violations', PAIR, async (scene) => {
  const room = scene.newRoom()
  const a = await scene.open(0, { room: '' })
  await accessible(a, 'home')
  await a.page.goto(`${(await scene.server).url}#${encodeURIComponent(room)}`)
  await a.wait(() => document.querySelector('#check-devices').dataset.state === 'ok')
  await accessible(a, 'pre-join')
  await a.join('Ada')
  await a.waitStatus('waiting')
  await accessible(a, 'waiting')
  const b = await scene.open(1, { room })
  await b.join('Bob')
  await both([a, b], (person) => person.waitConnected())
  await both([a, b], (person) => person.waitStatus('connected'))
  await accessible(a, 'a call')
  await b.say('hello')
  await a.openDrawer('chat')
  await a.waitChat('hello')
  await accessible(a, 'chat')
  for (const tab of ['files', 'inspector', 'stats']) {
    await a.openDrawer(tab)
    await accessible(a, tab)
  }
  await a.waitVisible('#reports')
  await a.page.click('#drawer-close')
  await a.page.click('#more')
  await a.waitVisible('#more-menu')
  await accessible(a, 'the menu')
  await a.page.keyboard.press('Escape')
  await a.page.keyboard.press('?')
  await a.waitVisible('#help')
  await accessible(a, 'the list of keys')
  await a.page.keyboard.press('Escape')
  await a.page.click('#hang-up')
  await a.waitPhase('ended')
  await accessible(a, 'the end')
})

row(20, 'accessibility of a failure card, light and dark (axe-core): no violations', [chromium('denied', DENIED)], async (scene) => {
  const a = await scene.open(0)
  await a.waitCard('denied')
  await accessible(a, 'permission denied')
})
