// The figures of the README: what the library and the page weigh, how soon the page shows something, and
// how soon there is a call. Prints Markdown.
// Usage: node figures.mjs [rounds]   (7 without; 0: only the sizes)
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { cleanUp, launch, Person, Server } from './browser/harness.mjs'

const folder = fileURLToPath(new URL('..', import.meta.url))
const rounds = Number(process.argv[2] ?? 7)

// --- sizes ------------------------------------------------------------------------------------

/** What each part weighs: as it is served, and without its comments (by the compiler that checks it). */
async function sizes() {
  const bare = await withoutComments()
  const core = reach(bare, ['duet.js'])
  const lazy = [...new Set([...core].flatMap((file) => imports(bare.get(file), /\bimport\(['"](\.[^'"]+)['"]\)/g, file)))].sort()
  const page = [...bare.keys()].filter((file) => file.startsWith('page/'))
  const all = new Set([...core, ...lazy.flatMap((file) => [...reach(bare, [file])])])
  /** @type {[string, string[]][]} */
  const parts = [
    ['the library: a call, chat, recovery', [...core]],
    ...lazy.map((file) => /** @type {[string, string[]]} */ ([`and when it is used: ${file}`, [...reach(bare, [file])].filter((f) => !core.has(f))])),
    ['the library, all of it', [...all]],
    ['the Socket.IO adapter, beside it', ['compat/socket-io.js', 'compat/tutorial-room.js']],
    ['the page: its modules', page],
  ]
  const rows = await Promise.all(parts.map(async ([name, files]) => {
    const served = await Promise.all(files.map((file) => readFile(path.join(folder, 'js', file))))
    return `| ${name} | ${files.length} | ${kB(Buffer.concat(served))} | ${kB(files.map((file) => bare.get(file)).join(''))} |`
  }))
  const markup = (await readdir(folder)).filter((file) => /\.(html|css)$/.test(file))
  const served = await Promise.all(markup.map((file) => readFile(path.join(folder, file))))
  rows.push(`| the page: markup and styles | ${markup.length} | ${kB(Buffer.concat(served))} | |`)
  return `| gzip -9, in kB (1,000 bytes) | files | as served | without comments |\n|---|--:|--:|--:|\n${rows.join('\n')}\n`
}

const kB = (bytes) => (gzipSync(bytes, { level: 9 }).length / 1000).toFixed(1)

/** Every module by its path below js, without comments and indentation. */
async function withoutComments() {
  const out = await mkdtemp(path.join(os.tmpdir(), 'duet-figures-'))
  try {
    const config = path.join(out, 'tsconfig.json')
    const compilerOptions = { target: 'es2024', module: 'es2022', moduleResolution: 'bundler', types: [], allowJs: true, noCheck: true,
      removeComments: true, rootDir: path.join(folder, 'js'), outDir: path.join(out, 'js') }
    await writeFile(config, JSON.stringify({ compilerOptions, include: [path.join(folder, 'js/**/*.js')] }))
    await promisify(execFile)(path.join(folder, 'test/node_modules/.bin/tsc'), ['-p', config])
    const files = (await readdir(path.join(out, 'js'), { recursive: true })).filter((file) => file.endsWith('.js')).sort()
    const read = async (file) => (await readFile(path.join(out, 'js', file), 'utf8')).replace(/^ +/gm, '')
    return new Map(await Promise.all(files.map(async (file) => /** @type {const} */ ([file, await read(file)]))))
  } finally {
    await rm(out, { recursive: true })
  }
}

/** The modules that a pattern finds in a module's text, as paths below js. */
function imports(text, pattern, from) {
  return [...text.matchAll(pattern)].map((match) => path.posix.join(path.posix.dirname(from), match[1]))
}

/** These modules and all that they import at once. */
function reach(texts, files, seen = new Set()) {
  for (const file of files) {
    if (seen.has(file)) continue
    seen.add(file)
    reach(texts, imports(texts.get(file), /\bfrom ['"](\.[^'"]+)['"]/g, file), seen)
  }
  return seen
}

// --- speed ------------------------------------------------------------------------------------

/** Two Chromium processes on one machine; each round with empty caches and in a room of its own. */
async function speed() {
  const server = await Server.start()
  const [ada, bob] = await Promise.all([launch(), launch()])
  /** @type {Map<string, number[]>} */
  const measured = new Map()
  const note = (name, value) => measured.set(name, [...(measured.get(name) ?? []), value])
  for (let round = 0; round <= rounds; round++) {
    const each = await once(server, ada, bob, `round ${round}`)
    if (round > 0) for (const [name, value] of Object.entries(each)) note(name, value) // the first one warms the processes
  }
  const rows = [...measured].map(([name, values]) => {
    const sorted = values.toSorted((a, b) => a - b)
    return `| ${name} | ${[sorted[0], sorted[(sorted.length - 1) >> 1], sorted.at(-1)].map((ms) => Math.round(ms)).join(' | ')} |`
  })
  return `| ${rounds} rounds, in ms | best | median | worst |\n|---|--:|--:|--:|\n${rows.join('\n')}\n`
}

async function once(server, ada, bob, room) {
  const home = await Person.open(ada, server.url, '', { window: true })
  const first = await home.wait(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime)
  await home.close()
  const a = await Person.open(ada, server.url, room, { window: true })
  await a.join('Ada')
  await a.waitPhase('call')
  const b = await Person.open(bob, server.url, room, { window: true })
  await b.wait(() => document.querySelector('#check-devices').dataset.state !== 'busy')
  const times = await b.page.evaluate(join)
  await Promise.all([a.close(), b.close()])
  return {
    'from opening the address to the first contentful paint': first,
    'from "Join" to the connection between the two (ICE and DTLS)': times.connected,
    'from "Join" to the first picture of the other one': times.picture,
  }
}

/** In the page: presses "Join", and tells how many milliseconds later there is a connection, and a picture. */
async function join() {
  document.querySelector('#name').value = 'Bob'
  const start = performance.now()
  const since = () => performance.now() - start
  const seen = (look) => new Promise((resolve) => {
    const check = () => {
      const found = look()
      if (!found) return
      observer.disconnect()
      resolve(found)
    }
    const observer = new MutationObserver(check)
    observer.observe(document.body, { subtree: true, childList: true, attributes: true })
    check()
  })
  const connected = seen(() => document.querySelector('.tile[data-state=connected]')).then(since)
  const picture = seen(() => document.querySelector('.tile[data-peer] video'))
    .then((video) => new Promise((resolve) => video.requestVideoFrameCallback(resolve))).then(since)
  document.querySelector('#join-button').click()
  return { connected: await connected, picture: await picture }
}

// --- both ------------------------------------------------------------------------------------

console.log(await sizes())
if (rounds > 0) {
  try {
    console.log(await speed())
  } finally {
    await cleanUp()
  }
}
