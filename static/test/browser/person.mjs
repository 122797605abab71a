// The page as one person sees it, in either browser.
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { standstills, watchPicture } from './standstill.mjs'

/** How long a page may take to show what it should, in milliseconds, and how often it is looked at. */
const PATIENCE = 20_000
const LOOK_EVERY = 50

/** What browsers put on the console by themselves when a connection fails, which the tests make them do. */
const EXPECTED = [
  /WebSocket connection to|can.t establish a connection to the server at|connection to ws.* was interrupted/,
  /Failed to load resource/,
  /Cross-Origin-Opener-Policy/,
  /duet: ClientError: no-peer/, // said while the peer was not back yet: the client says it again by itself
]

/** In the page: keeps what it has shown, in order: `statuses`, `banners` and `pills`, without repetitions. */
function record() {
  Object.assign(window, { statuses: [], banners: [], pills: [] })
  const note = (list, key) => key !== undefined && list.at(-1) !== key && list.push(key)
  const look = () => {
    const [status, banner, pill] = ['#status', '#banner', '#pill'].map((id) => document.querySelector(id))
    note(window.statuses, status?.dataset.key || undefined)
    note(window.banners, banner && (banner.hidden ? '' : (banner.dataset.key ?? '')))
    note(window.pills, pill?.dataset.state)
  }
  new MutationObserver(look).observe(document, { subtree: true, attributeFilter: ['data-key', 'data-state', 'hidden'] })
}

let axe
/** axe-core's source, and the rules that fit an application with a video in it. */
async function axeSource() {
  return (axe ??= readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8'))
}

/** One person at one page. Faults in the page end up in `faults`. */
export class Person {
  /** @type {string[]} */
  faults = []
  page

  /** @param {import('puppeteer-core').Page} page */
  constructor(page) {
    this.page = page
    page.on('pageerror', (error) => this.faults.push(String(error)))
    page.on('console', (message) => {
      const text = message.text()
      if (['error', 'warn'].includes(message.type()) && !EXPECTED.some((e) => e.test(text))) this.faults.push(text)
    })
  }

  /**
   * Opens the page where one gets ready, or with `room` empty the one where one chooses a room.
   * @param {object} [options]
   * @param {string} [options.lang]  `en` or `zh`; the browser's own (English) otherwise
   * @param {(page: import('puppeteer-core').Page) => Promise<unknown>} [options.prepare]  before it loads
   * @param {boolean} [options.window]  in a window of its own, so that several people of one process are seen
   */
  static async open(browser, url, room, { lang, prepare, window = false } = {}) {
    const context = window ? await browser.createBrowserContext() : browser
    const person = new Person(await context.newPage())
    if (window) person.#context = context
    await person.page.evaluateOnNewDocument(record)
    await prepare?.(person.page)
    await person.page.goto(`${url}${lang ? `?lang=${lang}` : ''}${room ? `#${encodeURIComponent(room)}` : ''}`)
    await person.waitPhase(room ? 'prejoin' : 'home')
    return person
  }

  #context

  /** Waits for the devices and joins. */
  async join(name) {
    await this.wait(() => document.querySelector('#check-devices')?.dataset.state !== 'busy')
    await this.page.$eval('#name', (input) => input.select())
    await this.page.type('#name', name)
    await this.page.click('#join-button')
  }

  /**
   * Waits until `condition` holds in the page, and returns what it gives. On failure the error tells what
   * the page showed. It looks from outside, since a strict policy keeps the page from evaluating strings.
   */
  wait(condition, ...args) {
    return this.#wait(PATIENCE, condition, args)
  }

  async #wait(patience, condition, args) {
    const end = performance.now() + patience
    let last = ''
    for (;;) {
      try {
        const value = await this.page.evaluate(condition, ...args)
        if (value) return value
        last = ''
      } catch (error) {
        if (this.page.isClosed()) throw error
        last = `; ${error.message}` // the page is being loaded, or not yet what it will be
      }
      if (performance.now() > end) throw new Error(`in vain: ${condition} ${args.join()}${last}; ${await this.#shown()}`)
      await sleep(LOOK_EVERY)
    }
  }

  async #shown() {
    const shown = await this.page
      .evaluate(async () => ({
        phase: document.documentElement.dataset.phase,
        statuses: window.statuses.join(),
        text: document.querySelector('#status')?.textContent.trim(),
        visible: document.visibilityState,
        drawn: window.picture?.frames,
        decoded: await [...(globalThis.duet?.room?.members.values() ?? [])][0]?.call.pc.getStats().then((report) =>
          [...report.values()].filter((s) => s.type === 'inbound-rtp' && s.kind === 'video').map((s) => s.framesDecoded)),
        cards: [...document.querySelectorAll('.card[data-key]')].filter((c) => c.checkVisibility()).map((c) => c.dataset.key),
      }))
      .catch(() => 'no page')
    return `${JSON.stringify(shown)} ${this.faults.join('; ')}`
  }

  waitPhase(...phases) {
    return this.wait((wanted) => wanted.includes(document.documentElement.dataset.phase), phases)
  }

  waitStatus(...keys) {
    return this.wait((wanted) => wanted.includes(document.querySelector('#status').dataset.key), keys)
  }

  /** Waits for a card about a failure, and returns its text. */
  waitCard(key) {
    return this.wait((wanted) => {
      const card = document.querySelector(`.card[data-key="${wanted}"]`)
      return card?.checkVisibility() && card.textContent.replace(/\s+/g, ' ').trim()
    }, key)
  }

  waitVisible(selector) {
    return this.wait((s) => document.querySelector(s)?.checkVisibility(), selector)
  }

  waitHidden(selector) {
    return this.wait((s) => !document.querySelector(s)?.checkVisibility(), selector)
  }

  text(selector) {
    return this.page.$eval(selector, (element) => element.textContent.trim())
  }

  statuses() {
    return this.page.evaluate(() => window.statuses)
  }

  waitConnected(count = 1) {
    return this.wait((n) => document.querySelectorAll('.tile[data-state=connected]').length === n, count)
  }

  /** Waits until `count` more frames of the (first) peer's video were decoded. */
  async framesAdvance(count = 5) {
    const frames = async (least) => {
      const [member] = duet.room.members.values()
      const report = await member.call.pc.getStats()
      const sum = [...report.values()]
        .filter((s) => s.type === 'inbound-rtp' && s.kind === 'video')
        .reduce((total, s) => total + s.framesDecoded, 0)
      return sum >= least && { sum }
    }
    const { sum } = await this.wait(frames, 0)
    await this.wait(frames, sum + count)
  }

  /** Waits until the (first) peer's picture is one of a screen, or of a camera again, and moves. Chromium says of each that it decodes which it is. */
  async waitScreen(shown) {
    await this.wait(async (wanted) => {
      const { call } = [...duet.room.members.values()][0]
      const picture = [...(await call.pc.getStats()).values()].find((s) => s.type === 'inbound-rtp' && s.kind === 'video')
      return (picture?.contentType === 'screenshare') === wanted
    }, shown)
    await this.framesAdvance()
  }

  /** Watches the peer's picture and a control beside it from now on; `standstills` tells their longest, in milliseconds. */
  watchPicture() {
    return this.page.evaluate(watchPicture)
  }

  standstills() {
    return this.page.evaluate(standstills)
  }

  /** Waits until the peer's picture was drawn `count` more times: watchPicture came before. */
  async picturesAdvance(count = 10, patience = PATIENCE) {
    const before = await this.page.evaluate(() => window.picture.frames)
    await this.#wait(patience, (least) => window.picture.frames >= least, [before + count])
  }

  /** Watches the peer connection; `connectionStates` tells how it fared, or that it is another one now. */
  watchConnection() {
    return this.page.evaluate(() => {
      const { pc } = [...duet.room.members.values()][0].call
      pc.states = [pc.connectionState]
      pc.addEventListener('connectionstatechange', () => pc.states.push(pc.connectionState))
    })
  }

  connectionStates() {
    return this.page.evaluate(() => [...duet.room.members.values()].map(({ call }) => call.pc.states ?? 'another one'))
  }

  /** Keeps what each `joined` from now on says, in `window.joins`. */
  watchJoins() {
    return this.page.evaluate(() => {
      window.joins = []
      duet.room.signaling.addEventListener('joined', ({ detail }) => window.joins.push(detail))
    })
  }

  /** Counts the envelopes from now on in `window.envelopes`, by direction and type: `out offer`. */
  watchEnvelopes() {
    return this.page.evaluate(() => {
      window.envelopes = []
      duet.room.signaling.addEventListener('envelope', ({ detail }) => window.envelopes.push(`${detail.direction} ${detail.message.type}`))
    })
  }

  /** Opens a part of the drawer: chat, files, inspector or stats. */
  async openDrawer(tab) {
    const shown = await this.page.$eval('#drawer', (drawer) => (drawer.checkVisibility() ? drawer.dataset.tab : ''))
    if (shown === tab) return
    if (!shown) await this.page.click('#chat-toggle')
    if (tab !== 'chat') await this.page.click(`#tab-${tab}`)
    await this.wait((t) => document.querySelector('#drawer').dataset.tab === t, tab)
  }

  async say(words) {
    await this.openDrawer('chat')
    await this.page.type('#chat-text', words)
    await this.page.keyboard.press('Enter')
  }

  waitChat(words) {
    return this.wait((w) => [...document.querySelectorAll('#chat-log *')].some((e) => e.textContent === w), words)
  }

  /** No violation of the accessibility rules that can be checked by machine (WCAG 2.2 AA, best practices). */
  async accessible(what) {
    if (!(await this.page.evaluate(() => 'axe' in window))) await this.page.evaluate(await axeSource())
    const violations = await this.page.evaluate(async () => {
      const { passes, violations } = await window.axe.run(document, { resultTypes: ['violations'] })
      if (passes.length < 5) throw new Error(`only ${passes.length} rules apply`)
      return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((n) => `${n.html.slice(0, 160)} ${n.any[0]?.message ?? ''}`).join(' | ')}`)
    })
    assert.deepEqual(violations, [], `accessibility of ${what}`)
  }

  async close() {
    await (this.#context ?? this.page).close()
  }
}
