// Calls through real proxies, with the files of docs/proxies as they are.
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { after } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { CAMERA, launch, temporaryFolder } from './harness.mjs'
import { both, row } from './rows.mjs'

const duet = fileURLToPath(new URL('../../../cmd/duet', import.meta.url))

/** A Chromium that finds the names of those files on this machine. @type {import('./rows.mjs').Kind} */
const CHROMIUM = {
  name: 'Chromium',
  start: () => launch([...CAMERA, '--host-resolver-rules=MAP duet.example.com 127.0.0.1, MAP www.example.com 127.0.0.1']),
}

let built
/** The Go tests, which know how to start each proxy (cmd/duet/proxies_test.go). */
function stands() {
  return (built ??= (async () => {
    const file = path.join(await temporaryFolder(), 'duet.test')
    await promisify(execFile)('go', ['test', '-c', '-o', file, '.'], { cwd: duet })
    return file
  })())
}

/** Those that run. They end with their standard input. @type {import('node:child_process').ChildProcess[]} */
const running = []
after(() => both(running, async (stand) => {
  if (stand.exitCode !== null) return
  stand.stdin.end()
  await once(stand, 'exit')
}))

/**
 * Starts a proxy in front of two servers, one of them below a path.
 * @param {string} proxy
 * @returns {Promise<{ page: string, subpath: string } | { missing: string }>}
 */
async function start(proxy) {
  const stand = spawn(await stands(), ['-test.v', '-test.run=^TestProxyStand$'], { cwd: duet, env: { ...process.env, DUET_PROXY: proxy }, stdio: ['pipe', 'pipe', 'inherit'] })
  running.push(stand)
  const lines = []
  for await (const line of createInterface({ input: stand.stdout })) {
    if (line.startsWith('{')) {
      stand.stdout.resume() // what comes later is not read, and must not hold it up
      return JSON.parse(line)
    }
    if (line.includes('is not installed')) return { missing: line.trim() }
    lines.push(line)
  }
  throw new Error(`${proxy} did not start:\n${lines.join('\n')}`)
}

for (const [proxy, name] of [['nginx', 'nginx'], ['caddy', 'Caddy'], ['haproxy', 'HAProxy']]) {
  row(22, `through ${name}, on a host name of its own and below a path`, [CHROMIUM, CHROMIUM], async (scene) => {
    const stand = await start(proxy)
    if ('missing' in stand) return scene.t.skip(stand.missing)
    for (const url of [stand.page, stand.subpath]) await scene.call({ urls: [url, url] })
  }, { timeout: 240_000 })
}
