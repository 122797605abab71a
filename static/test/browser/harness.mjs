// The real server, a proxy whose connections can be cut, and browsers with a made-up camera.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import puppeteer from 'puppeteer-core'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** What to do at the end, last first. */
const cleanups = []

/** Ends every process and removes every folder that was made here. */
export async function cleanUp() {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
}

export async function temporaryFolder() {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'duet-browser-'))
  cleanups.push(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

let binary
/** The server's binary: DUET_BIN, or built once. */
function serverBinary() {
  return (binary ??= process.env.DUET_BIN ? Promise.resolve(path.resolve(process.env.DUET_BIN)) : build())
}

async function build() {
  const file = path.join(await temporaryFolder(), 'duet')
  await promisify(execFile)('go', ['build', '-o', file, './cmd/duet'], { cwd: root })
  return file
}

/** A running server. `url` is its page, on a port of its own choice unless `address` says otherwise. */
export class Server {
  static async start({ address = '127.0.0.1:0', env = {} } = {}) {
    const server = new Server()
    server.process = spawn(await serverBinary(), {
      env: { ...process.env, DUET_ADDR: address, DUET_ADMIN_ADDR: '127.0.0.1:0', DUET_STUN: 'off', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    cleanups.push(() => server.kill())
    server.url = await server.#announced()
    return server
  }

  /** The first http URL that the server prints. What it prints later is read and dropped. */
  #announced() {
    return new Promise((resolve, reject) => {
      const lines = []
      for (const stream of [this.process.stdout, this.process.stderr]) {
        createInterface({ input: stream }).on('line', (line) => {
          if (lines.length < 50) lines.push(line)
          const url = /http:\/\/[\w.\-[\]:]+:\d+\//.exec(line)
          if (url) resolve(url[0])
        })
      }
      this.process.once('exit', (code) => reject(new Error(`server ended with ${code}:\n${lines.join('\n')}`)))
    })
  }

  get port() {
    return Number(new URL(this.url).port)
  }

  /** Ends it as a crash would. */
  async kill() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return
    const exit = once(this.process, 'exit')
    this.process.kill('SIGKILL')
    await exit
  }
}

/** A TCP proxy in front of a server: a network that fails on command. */
export class Proxy {
  #target
  #pairs = new Set()
  #refusing = false

  static async start(target) {
    const proxy = new Proxy()
    proxy.#target = target
    proxy.server = net.createServer({ allowHalfOpen: true }, (client) => proxy.#connect(client))
    proxy.server.listen(0, '127.0.0.1')
    await once(proxy.server, 'listening')
    cleanups.push(() => {
      proxy.cut()
      proxy.server.close()
    })
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}/`
    return proxy
  }

  #connect(client) {
    if (this.#refusing) return client.resetAndDestroy()
    const upstream = net.connect(this.#target, '127.0.0.1')
    const pair = { client, upstream, isWebSocket: false }
    this.#pairs.add(pair)
    client.once('data', (bytes) => (pair.isWebSocket = /^upgrade: websocket/im.test(bytes.toString('latin1'))))
    client.pipe(upstream).pipe(client)
    for (const socket of [client, upstream]) {
      socket.on('error', () => this.#end(pair))
      socket.on('close', () => this.#end(pair))
    }
  }

  #end(pair) {
    this.#pairs.delete(pair)
    pair.client.destroy()
    pair.upstream.destroy()
  }

  /** Cuts every connection without a goodbye. */
  cut() {
    for (const { client, upstream } of this.#pairs) {
      client.resetAndDestroy()
      upstream.resetAndDestroy()
    }
  }

  /** Refuses new connections, or no longer. */
  refuse(refusing) {
    this.#refusing = refusing
  }

  /** WebSockets that exist now stay open and carry nothing any more; new ones work. */
  freeze() {
    for (const { client, upstream, isWebSocket } of this.#pairs) {
      if (!isWebSocket) continue
      client.unpipe(upstream)
      upstream.unpipe(client)
      client.pause()
      upstream.pause()
    }
  }

  /** What was frozen flows again, with nothing lost. */
  thaw() {
    for (const { client, upstream, isWebSocket } of this.#pairs) if (isWebSocket) client.pipe(upstream).pipe(client)
  }
}

const FAKE_UI = '--use-fake-ui-for-media-stream'
const FAKE_DEVICE = '--use-fake-device-for-media-stream=fps=5,device-count=2'
export const CAMERA = [FAKE_UI, FAKE_DEVICE]
/** A camera that plays a y4m file. */
export const filmed = (file) => [...CAMERA, `--use-file-for-fake-video-capture=${file}`]
export const NO_CAMERA = [FAKE_UI]
export const DENIED = [`${FAKE_UI}=deny`, FAKE_DEVICE]

/** A browser process of its own: one person. A launch that fails is tried once more; a call never is. */
export async function launch(flags = CAMERA, options = {}) {
  const start = async () =>
    puppeteer.launch({
      executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
      headless: true,
      userDataDir: await temporaryFolder(),
      args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync', ...flags],
      ...options,
    })
  const browser = await start().catch(start)
  cleanups.push(async () => {
    const chromium = browser.process()
    await browser.close().catch(() => chromium?.kill('SIGKILL'))
  })
  return browser
}

/** Keeps every status the page has shown, in order, in `window.statuses`. */
function recordStatuses() {
  window.statuses = []
  document.addEventListener('DOMContentLoaded', () => {
    const status = document.querySelector('#status')
    const note = () => window.statuses.at(-1) !== status.dataset.key && window.statuses.push(status.dataset.key)
    new MutationObserver(note).observe(status, { attributeFilter: ['data-key'] })
  })
}

/** The page as one person sees it. Faults in the page end up in `faults`. */
export class Person {
  faults = []

  static async open(browser, url, room) {
    const person = new Person()
    const page = (person.page = await browser.newPage())
    page.on('pageerror', (error) => person.faults.push(String(error)))
    page.on('console', (message) => {
      const isExpected = /WebSocket connection to|Failed to load resource|Cross-Origin-Opener-Policy/.test(message.text())
      if (['error', 'warn'].includes(message.type()) && !isExpected) person.faults.push(message.text())
    })
    await page.evaluateOnNewDocument(recordStatuses)
    await page.goto(`${url}#${encodeURIComponent(room)}`)
    await page.waitForFunction(() => document.querySelector('#status').dataset.key === 'lobby')
    return person
  }

  /** Submits the form. */
  async join(name) {
    await this.page.type('#name', name)
    await this.page.click('#join button')
  }

  /** Waits until `condition` holds in the page. On failure the error tells what the page showed. */
  async wait(condition, ...args) {
    try {
      await this.page.waitForFunction(condition, { timeout: 20_000, polling: 50 }, ...args)
    } catch (error) {
      const statuses = await this.statuses().catch(() => ['no page'])
      throw new Error(`${error.message}; statuses: ${statuses.join()}; waited for ${condition}`)
    }
  }

  waitStatus(...keys) {
    return this.wait((wanted) => wanted.includes(document.querySelector('#status').dataset.key), keys)
  }

  text(selector) {
    return this.page.$eval(selector, (element) => element.textContent)
  }

  statuses() {
    return this.page.evaluate(() => window.statuses)
  }

  waitConnected(count = 1) {
    return this.wait((n) => document.querySelectorAll('.tile[data-state=connected]').length === n, count)
  }

  /** Waits until `count` more frames of the (first) peer's video were decoded. */
  async framesAdvance(count = 5) {
    const frames = async () => {
      const [member] = duet.room.members.values()
      const report = await member.call.pc.getStats()
      return [...report.values()]
        .filter((s) => s.type === 'inbound-rtp' && s.kind === 'video')
        .reduce((sum, s) => sum + s.framesDecoded, 0)
    }
    const before = await this.page.evaluate(frames)
    await this.wait(`(${frames})().then((n) => n >= ${before + count})`)
  }

  /** Watches the peer's picture from now on; `longestGap` tells its longest standstill in milliseconds. */
  watchPicture() {
    return this.page.evaluate(() => {
      const video = document.querySelector('.tile video')
      window.picture = { last: performance.now(), gap: 0, frames: 0 }
      const frame = () => {
        const now = performance.now()
        window.picture.gap = Math.max(window.picture.gap, now - window.picture.last)
        window.picture.last = now
        window.picture.frames++
        video.requestVideoFrameCallback(frame)
      }
      video.requestVideoFrameCallback(frame)
    })
  }

  longestGap() {
    return this.page.evaluate(() => Math.max(window.picture.gap, performance.now() - window.picture.last))
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

  async say(words) {
    await this.page.type('#chat-text', words)
    await this.page.keyboard.press('Enter')
  }

  waitChat(words) {
    return this.wait((w) => [...document.querySelectorAll('#chat-log .other span')].some((e) => e.textContent === w), words)
  }

  close() {
    return this.page.close()
  }
}
