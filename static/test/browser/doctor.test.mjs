// The doctor's page, on real servers: all is well, or one thing is wrong and it says which.
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { atEnd, CAMERA, launch, NO_CAMERA, Person, Proxy, Server } from './harness.mjs'
import { startRelaying } from './relay.mjs'
import { both, chromium, row } from './rows.mjs'

const CHINESE = /\p{Script=Han}/u
const ALONE = [{ name: 'Chromium', start: () => launch(CAMERA) }]
const RELAY = ['ice-0', 'ice-1', 'ice-2', 'loop']
const SERVER = ['secure', 'health', 'clock', 'websocket', 'origin', 'join']

/** Opens the doctor's page. @param {import('./rows.mjs').Scene} scene */
async function open(scene, url, { lang, hash = '', prepare } = {}) {
  const person = new Person(await (await scene.browser(0)).newPage())
  scene.people.push(person)
  await prepare?.(person.page)
  await person.page.goto(`${url}doctor${lang ? `?lang=${lang}` : ''}${hash}`)
  return person
}

/** Waits until all is asked, and returns what each line says. @param {Person} person */
async function lines(person) {
  await person.wait(() => document.documentElement.dataset.phase === 'doctor' && document.querySelector('#summary').dataset.state !== 'busy')
  return person.page.evaluate(() => Object.fromEntries([...document.querySelectorAll('.lines > li')].map((line) =>
    [line.id.slice('line-'.length), { state: line.dataset.state, outcome: line.dataset.outcome, words: line.innerText.replace(/\s+/g, ' ') }])))
}

const statesOf = (found, ids) => Object.fromEntries(ids.map((id) => [id, found[id]?.state]))
const all = (state, ids) => Object.fromEntries(ids.map((id) => [id, state]))
const report = (person) => person.page.$eval('#report-text', (field) => field.value)

/** A TCP proxy that ends what was silent for `ms`. */
async function impatientProxy(port, ms) {
  const proxy = net.createServer((client) => {
    const upstream = net.connect(port, '127.0.0.1')
    const end = () => [client, upstream].forEach((socket) => socket.destroy())
    for (const socket of [client, upstream]) socket.on('error', end).on('close', end).setTimeout(ms, end)
    client.pipe(upstream).pipe(client)
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  atEnd(() => proxy.close())
  return `http://127.0.0.1:${proxy.address().port}/`
}

/** An HTTP proxy that forwards no upgrade, and whose clock is slow. */
async function manglingProxy(port) {
  const proxy = http.createServer((request, response) => {
    const { connection, upgrade, ...headers } = request.headers
    const upstream = http.request({ port, host: '127.0.0.1', path: request.url, method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, { ...answer.headers, date: new Date(Date.now() - 120_000).toUTCString() })
      answer.pipe(response)
    })
    request.pipe(upstream)
  }).listen(0, '127.0.0.1')
  await once(proxy, 'listening')
  atEnd(() => proxy.close())
  return `http://127.0.0.1:${proxy.address().port}/`
}

/** A token for a room (docs/tokens.md). */
function token(room, secret) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ room, exp: Math.floor(Date.now() / 1000) + 600 })}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

row(24, 'the doctor: a server with its relay, every line is green; the report has no address and no secret', ALONE, async (scene) => {
  const { url } = await startRelaying()
  const person = await open(scene, url, { prepare: (page) => page.evaluateOnNewDocument(() => {
    window.credentials = []
    globalThis.WebSocket = class extends WebSocket {
      constructor(...from) {
        super(...from)
        this.addEventListener('message', ({ data }) => JSON.parse(data).iceServers?.forEach(({ credential, username }) => credential && window.credentials.push(credential, username)))
      }
    }
  }) })
  const found = await lines(person)
  const secure = await person.page.evaluate(() => isSecureContext)
  const wanted = [...SERVER, 'servers', ...RELAY, 'candidates', 'devices'].filter((id) => secure || !['secure', 'devices'].includes(id))
  assert.deepEqual(statesOf(found, wanted), all('ok', wanted), JSON.stringify(found))
  assert.equal(found['turn-tls'].state, 'none')
  assert.match(found.loop.words, /A message passes in \d+ ms/)
  assert.match(found.candidates.words, /own address.*relayed address/)
  const text = await report(person)
  const credentials = await person.page.evaluate(() => window.credentials)
  assert.ok(credentials.length >= 2)
  for (const secret of credentials) assert.ok(!text.includes(secret), 'credentials')
  assert.doesNotMatch(text.replace(await person.page.evaluate(() => navigator.userAgent), ''), /\d+\.\d+\.\d+\.\d+/)
  assert.match(text, /ok {2}TURN over UDP: turn:\[\w+ IPv4\]:\d+\?transport=udp gives a relayed address/)
})

row(24, 'the doctor: the relay refuses the password, which is said with its code', ALONE, async (scene) => {
  const { url } = await startRelaying()
  const people = await both(['en', 'zh'], (lang) => open(scene, url, { lang, prepare: (page) => page.evaluateOnNewDocument(() => {
    const parse = JSON.parse
    JSON.parse = (...from) => {
      const value = parse(...from)
      for (const server of value?.iceServers ?? []) if (server.credential) server.credential = 'wrong'
      return value
    }
  }) }))
  for (const [i, person] of people.entries()) {
    const found = await lines(person)
    assert.equal(found['ice-0'].state, 'ok', 'STUN asks for no password')
    for (const id of ['ice-1', 'ice-2']) {
      assert.deepEqual([found[id].state, found[id].outcome], ['bad', 'credentials'])
      assert.match(found[id].words, /\b40[01]\b.*DUET_TURN_SECRET/)
      assert.match(found[id].words, i === 0 ? /refuses the credentials/ : CHINESE)
    }
    assert.equal(found.loop.outcome, 'no-relay')
    assert.equal(await person.page.$eval('#summary', (summary) => summary.dataset.state), 'bad')
  }
})

row(24, 'the doctor: a proxy that cuts silent connections is told, with the second', ALONE, async (scene) => {
  const person = await open(scene, await impatientProxy((await scene.server).port, 2_500))
  await lines(person)
  await person.page.click('#watch')
  await person.wait(() => document.querySelector('#line-idle').dataset.state === 'bad')
  const { idle } = await lines(person)
  assert.equal(idle.outcome, 'cut')
  assert.match(idle.words, /cut after [23] s \(close code 1006\).*proxy_read_timeout.*DUET_PING_INTERVAL on the server to less than [23] s/)
  await person.page.click('#again')
  assert.equal((await lines(person)).idle.outcome, 'offer')
  await person.page.click('#watch')
  await person.wait(() => document.querySelector('#line-idle').dataset.outcome === 'counting')
  await person.page.click('#watch')
  assert.equal(await person.wait(() => document.querySelector('#line-idle .reason').textContent.startsWith('Stopped after')), true)
})

row(24, 'the doctor: tokens: grey without one; with an invitation its room, and the token leaves the address', ALONE, async (scene) => {
  const { url } = await Server.start({ env: { DUET_AUTH_SECRET: 'an example of a secret and no more' } })
  const without = await open(scene, url)
  const found = await lines(without)
  assert.deepEqual([found.websocket.state, found.join.state, found.join.outcome, found.servers.state], ['ok', 'none', 'token', 'none'])
  assert.match(found.join.words, /asks for a token.*#room&token=/)
  await without.page.evaluate((token) => (location.hash = `our room&token=${token}`), token('our room', 'an example of a secret and no more'))
  await without.wait(() => document.querySelector('#line-join')?.dataset.state === 'ok')
  assert.equal(new URL(without.page.url()).hash, '#our%20room')
  await without.page.reload()
  assert.equal((await lines(without)).join.state, 'ok')
  const stranger = await open(scene, url, { hash: `#our room&token=${token('our room', 'another secret, and of the same length')}` })
  const refused = await lines(stranger)
  assert.deepEqual([refused.join.state, refused.join.outcome], ['bad', 'refused'])
  assert.match(refused.join.words, /unauthorized/)
  assert.doesNotMatch(await report(stranger), /eyJ/)
})

row(24, 'the doctor: a card about the network leads there, with the token of the invitation', ALONE, async (scene) => {
  const secret = 'an example of a secret and no more'
  const proxy = await Proxy.start((await Server.start({ env: { DUET_AUTH_SECRET: secret } })).port)
  const invitation = token('our room', secret)
  const person = new Person(await (await scene.browser(0)).newPage())
  scene.people.push(person)
  await person.page.evaluateOnNewDocument(() => (window.open = (...how) => void (window.opened = how)))
  await person.page.goto(`${proxy.url}#our%20room&token=${invitation}`)
  await person.waitPhase('prejoin')
  proxy.refuse(true)
  proxy.cut()
  await person.join('Ada')
  await person.waitCard('unreachable')
  await person.page.click('[data-action=checkNetwork]')
  assert.deepEqual(await person.page.evaluate(() => window.opened), [`doctor#our%20room&token=${invitation}`, '_blank', 'noopener'])
})

row(24, 'the doctor: below a path; the origin is refused; the upgrade is not forwarded; the clock is wrong', [chromium('no devices', NO_CAMERA)], async (scene) => {
  const based = await Server.start({ env: { DUET_BASE_PATH: '/a/duet', DUET_ALLOWED_ORIGINS: 'https://elsewhere.example' } })
  const refused = await lines(await open(scene, `${based.url}a/duet/`))
  assert.deepEqual([refused.health.state, refused.websocket.outcome, refused.origin.outcome], ['ok', 'origin', 'refused'])
  assert.match(refused.origin.words, /DUET_ALLOWED_ORIGINS/)
  assert.equal(refused.devices.outcome, 'neither')

  const mangled = await open(scene, await manglingProxy((await scene.server).port))
  const found = await lines(mangled)
  assert.deepEqual([found.websocket.outcome, found.clock.outcome, found.join.state], ['upgrade', 'behind', 'none'])
  assert.match(found.websocket.words, /\(426\).*proxy_set_header Upgrade/)
})

row(24, 'the doctor: accessible, on a phone, in both languages and colours (axe-core): no violations', ALONE, async (scene) => {
  for (const [lang, theme] of [['en', 'dark'], ['zh', 'light']]) {
    const person = await open(scene, (await scene.server).url, { lang, prepare: async (page) => {
      await page.setViewport({ width: 360, height: 640 })
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }])
    } })
    await lines(person)
    await person.page.click('#report summary')
    await person.accessible(`the doctor, ${lang}, ${theme}`)
    const { width, words } = await person.page.evaluate(() => ({ width: document.querySelector('#doctor').scrollWidth, words: document.body.innerText }))
    assert.ok(width <= 360, `${width} px wide`)
    assert.doesNotMatch(words, /doctor\.|\{\w+\}|undefined/)
    if (lang === 'zh') assert.match(words, CHINESE)
    await person.page.select('#language', lang === 'zh' ? 'en' : 'zh')
    await person.wait((l) => document.documentElement.dataset.lang === l, lang === 'zh' ? 'en' : 'zh')
    assert.match(await person.text('#line-secure .reason'), lang === 'zh' ? /Browsers/ : CHINESE)
  }
})
