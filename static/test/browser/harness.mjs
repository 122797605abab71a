// The real server, a proxy whose connections can be cut, and browsers with a made-up camera. What a page
// shows and does is person.mjs; one test of the table is rows.mjs.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import puppeteer from 'puppeteer-core'

export { Person } from './person.mjs'

const root = fileURLToPath(new URL('../../..', import.meta.url))

/** What to do at the end, last first. */
const cleanups = []

/** Ends every process and removes every folder that was made here. */
export async function cleanUp() {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
}

/** Has this done at the end. @param {() => unknown} cleanup */
export function atEnd(cleanup) {
  cleanups.push(cleanup)
}

export async function temporaryFolder() {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'duet-browser-'))
  cleanups.push(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }))
  return folder
}

/** A Go program's binary: where `given` says, or built once. */
function binary(given, name, source) {
  let file
  return () => (file ??= given ? Promise.resolve(path.resolve(given)) : build(name, source))
}

async function build(name, source) {
  const file = path.join(await temporaryFolder(), name)
  await promisify(execFile)('go', ['build', '-o', file, source], { cwd: root })
  return file
}

const serverBinary = binary(process.env.DUET_BIN, 'duet', './cmd/duet')
const natsBinary = binary(process.env.NATS_BIN, 'nats-server', 'github.com/nats-io/nats-server/v2')

/** A running server. `operator` is where its metrics and its operator's API are, `url` its page, on a port of its own choice unless `address` says otherwise. */
export class Server {
  static async start({ address = '127.0.0.1:0', env = {} } = {}) {
    const server = new Server()
    server.process = spawn(await serverBinary(), {
      env: {
        ...process.env,
        DUET_ADDR: address,
        DUET_ADMIN_ADDR: '127.0.0.1:0',
        DUET_STUN: 'off',
        DUET_JOIN_RATE: '1000', // all the people of a test share one address
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    cleanups.push(() => server.kill())
    server.url = await server.#announced()
    return server
  }

  /** The first URL that the server prints, http or https. What it prints later is read and dropped. */
  #announced() {
    return new Promise((resolve, reject) => {
      const lines = []
      for (const stream of [this.process.stdout, this.process.stderr]) {
        createInterface({ input: stream }).on('line', (line) => {
          if (lines.length < 50) lines.push(line)
          const url = /https?:\/\/[\w.\-[\]:]+:\d+\//.exec(line)
          this.operator ??= /"operator":"(http[^"]+\/)metrics"/.exec(line)?.[1]
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
  kill() {
    return end(this.process, 'SIGKILL')
  }

  /** Ends it as a restart does: it lets go of what it has first. */
  stop() {
    return end(this.process, 'SIGTERM')
  }
}

/** Ends a process, unless it has ended, and waits until it has. */
async function end(child, signal) {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  child.kill(signal)
  await exit
}

/** Starts a NATS server with JetStream, for nodes of duet that are one. Returns its URL. */
export async function startNats() {
  const nats = spawn(await natsBinary(), ['-a', '127.0.0.1', '-p', '-1', '-js', '-sd', await temporaryFolder()], { stdio: ['ignore', 'ignore', 'pipe'] })
  cleanups.push(() => end(nats, 'SIGKILL'))
  return new Promise((resolve, reject) => {
    let address
    createInterface({ input: nats.stderr }).on('line', (line) => {
      address ??= /client connections on (\S+)/.exec(line)?.[1]
      if (line.includes('Server is ready')) resolve(`nats://${address}`)
    })
    nats.once('exit', (code) => reject(new Error(`nats-server ended with ${code}`)))
  })
}

/** A TCP proxy in front of a server: a network that fails on command. */
export class Proxy {
  #target
  #pairs = new Set()
  #refusing = false

  /** @param {number | (() => Promise<number | undefined>)} target  the server's port, or what each connection asks for it; undefined: there is none */
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

  async #connect(client) {
    if (this.#refusing) return client.resetAndDestroy()
    client.on('error', () => {}) // its close says as much
    const port = typeof this.#target === 'number' ? this.#target : await this.#target()
    if (port === undefined || client.destroyed) return client.resetAndDestroy()
    const upstream = net.connect(port, '127.0.0.1')
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

/** The first of these programs that can be run: a path, or a name that PATH leads to. */
function program(...names) {
  const folders = (process.env.PATH ?? '').split(path.delimiter)
  for (const file of names.filter(Boolean).flatMap((name) => (path.isAbsolute(name) ? [name] : folders.map((f) => path.join(f, name))))) {
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {
      // the next one
    }
  }
}

/** Where Chromium is; undefined where it is not. */
export const chromium = program(process.env.CHROMIUM, 'chromium', 'chromium-browser', 'google-chrome')

/** A Chromium process of its own: one person. A launch that fails is tried once more; a call never is. */
export async function launch(flags = CAMERA, options = {}) {
  return start({
    executablePath: chromium,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--lang=en-US', '--accept-lang=en-US', ...flags],
    ...options,
  })
}

/** Where Firefox is; undefined where it is not. */
export const firefox = program(process.env.FIREFOX, 'firefox-esr', 'firefox')

/** The same with Firefox. Its made-up camera needs no flag. */
export async function launchFirefox(prefs = {}, options = {}) {
  return start({
    browser: 'firefox',
    executablePath: firefox,
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true,
      'media.navigator.video.default_fps': 5, // as Chromium's: at 30 a call takes twice the processor
      'media.navigator.permission.disabled': true,
      'media.autoplay.default': 0,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'intl.accept_languages': 'en-US',
      'network.captive-portal-service.enabled': false,
      'network.connectivity-service.enabled': false,
      'app.update.enabled': false,
      'toolkit.telemetry.enabled': false,
      'services.settings.server': 'data:,#',
      'media.gmp-manager.updateEnabled': false,
      ...prefs,
    },
    ...options,
  })
}

async function start(options) {
  const once = async () =>
    puppeteer.launch({ headless: true, acceptInsecureCerts: true, protocolTimeout: 60_000, userDataDir: await temporaryFolder(), ...options })
  const browser = await once().catch(once)
  cleanups.push(async () => {
    const child = browser.process()
    await browser.close().catch(() => child?.kill('SIGKILL'))
  })
  return browser
}
