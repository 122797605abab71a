import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import * as duet from '../../js/duet.js'

const js = new URL('../../js/', import.meta.url).pathname
const here = new URL('..', import.meta.url).pathname
const manifest = JSON.parse(readFileSync(join(js, 'package.json'), 'utf8'))
/** The limit of what `connect` loads, minified and gzipped, in bytes. */
const LIMIT = 12_000

const tsc = join(here, 'node_modules', '.bin', 'tsc')
const skip = statSync(tsc, { throwIfNoEntry: false }) ? false : 'npm ci in static/test first'

const workshop = mkdtempSync(join(tmpdir(), 'duet-client-'))
after(() => rmSync(workshop, { recursive: true }))
let packed, app // by the first test that asks

/** The tarball that `npm pack` makes, `{ path, files }`. What is packed is a copy: `prepack` leaves nothing in the tree. */
function tarball() {
  if (packed) return packed
  const [copy, test] = ['js', 'test'].map((name) => join(workshop, 'static', name))
  cpSync(join(here, '..', '..', 'LICENSE'), join(workshop, 'LICENSE'))
  cpSync(js, copy, { recursive: true })
  cpSync(join(here, 'types'), join(test, 'types'), { recursive: true })
  symlinkSync(join(here, 'node_modules'), join(test, 'node_modules'))
  const [{ filename, files }] = JSON.parse(npm(copy, 'pack', '--json', '--pack-destination', workshop))
  return packed = { path: join(workshop, filename), files: files.map(({ path }) => path) }
}

/** What npm prints. It is kept off the network, the user's settings and cache. */
function npm(cwd, ...words) {
  const settings = { npm_config_cache: join(workshop, 'cache'), npm_config_userconfig: join(workshop, 'npmrc') }
  return execFileSync('npm', [...words, '--silent', '--offline'], { cwd, encoding: 'utf8', env: { ...process.env, ...settings } })
}

/** The folder of an application in which the tarball is installed. */
function installed() {
  if (app) return app
  const { path } = tarball()
  app = mkdtempSync(join(workshop, 'app-'))
  writeFileSync(join(app, 'package.json'), '{ "private": true }')
  npm(app, 'install', path)
  return app
}

test('the tarball holds the library with its types, and nothing of the page', { skip }, () => {
  const { files } = tarball()
  const modules = readdirSync(js).filter((name) => name.endsWith('.js'))
  const scripts = readdirSync(join(js, 'compat')).map((name) => `compat/${name}`)
  const types = files.filter((name) => /^types\/(compat\/)?[\w-]+\.d\.ts$/.test(name))
  assert.deepEqual(files.toSorted(), ['LICENSE', 'README.md', 'client.d.ts', 'package.json', ...modules, ...scripts, ...types].sort())
  for (const [entry, target] of Object.entries(manifest.exports)) {
    for (const path of typeof target === 'string' ? [target] : Object.values(target)) assert.ok(files.includes(path.slice(2)), `${entry}: ${path}`)
  }
})

test('the package resolves through its exports, and runs without a page', { skip }, () => {
  const folder = installed()
  const classic = './compat/socket-io' // a script for a tag, not a module
  const entries = Object.keys(manifest.exports).filter((name) => name !== './package.json' && name !== classic)
  writeFileSync(join(folder, 'main.mjs'), `
    import { connect } from 'duet-client'
    import manifest from 'duet-client/package.json' with { type: 'json' }
    const names = {}
    for (const entry of ${JSON.stringify(entries)}) names[entry] = Object.keys(await import('duet-client' + entry.slice(1))).sort()
    const error = await connect('nonsense', { room: 'demo' }).catch((error) => error)
    const src = import.meta.resolve('duet-client${classic.slice(1)}')
    globalThis.navigator ??= {}
    globalThis.document = { currentScript: { src, dataset: {} }, baseURI: src }
    await import(src)
    console.log(JSON.stringify({ names, code: error.code, version: manifest.version, io: typeof io }))`)
  const { names, code, version, io } = JSON.parse(execFileSync(process.execPath, ['main.mjs'], { cwd: folder, encoding: 'utf8' }))
  assert.deepEqual([code, version, io], ['bad-url', manifest.version, 'function'])
  assert.deepEqual(names['.'], ['ClientError', 'JoinedRoom', 'Peer', 'connect'])
  assert.ok(names['./media'].includes('LocalMedia') && names['./data'].includes('Files') && names['./signaling'].includes('SignalingClient'))
  assert.throws(() => execFileSync(process.execPath, ['-e', "import('duet-client/page/main.js')"], { cwd: folder, stdio: 'pipe' }), /ERR_PACKAGE_PATH_NOT_EXPORTED/)
})

test('the manifest', () => {
  for (const target of Object.values(manifest.exports).flatMap((entry) => (typeof entry === 'string' ? entry : Object.values(entry)))) {
    const source = target.replace(/^\.\/types\/(.*)\.d\.ts$/, './$1.js') // made when it is packed
    assert.ok(statSync(join(js, source)).isFile(), target)
  }
  assert.deepEqual([manifest.name, manifest.type, manifest.license, manifest.dependencies], ['duet-client', 'module', 'Apache-2.0', undefined])
})

test('README.md: its code runs as it stands there, and it names every code and event', { skip }, () => {
  const folder = installed()
  const readme = readFileSync(join(js, 'README.md'), 'utf8')
  const blocks = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map(([, code]) => code)
  const server = (answer) => `
    import { FakeMediaStream, FakePeerConnection, FakeWebSocket } from '${join(here, 'unit', 'fakes.mjs')}'
    class Server extends FakeWebSocket {
      constructor(url, protocol) {
        super(url, protocol)
        setImmediate(() => this.accept())
      }
      send(text) {
        super.send(text)
        console.log(this.sent.at(-1).type)
        if (this.sent.at(-1).type === 'join') setImmediate(() => this.say(${JSON.stringify(answer)}))
        else setTimeout(() => process.exit(0), 50) // what nobody waits for any more
      }
    }
    const track = (kind) => Object.assign(new EventTarget(), { kind, readyState: 'live', enabled: true, getSettings: () => ({}), stop() {} })
    const mediaDevices = Object.assign(new EventTarget(), { getUserMedia: async () => new FakeMediaStream([track('audio'), track('video')]) })
    Object.defineProperty(globalThis, 'navigator', { value: { mediaDevices } })
    Object.assign(globalThis, { WebSocket: Server, RTCPeerConnection: FakePeerConnection, MediaStream: FakeMediaStream, isSecureContext: true })`
  const run = (code, answer) => {
    writeFileSync(join(folder, 'server.mjs'), server(answer))
    writeFileSync(join(folder, 'main.mjs'), code)
    return execFileSync(process.execPath, ['--import', './server.mjs', 'main.mjs'], { cwd: folder, encoding: 'utf8' })
  }
  const joined = { type: 'joined', room: 'demo', id: 'a', peers: [{ id: 'b' }], resumed: false, received: 0, grace: 30, iceServers: [] }
  assert.match(run(blocks[0], joined), /^join\n(.*\n)*message\n/)
  const full = { type: 'error', code: 'room-full', message: 'full', for: 'join', retryAfter: 12 }
  assert.match(run(blocks[1], full), /full for 12 s/)
  assert.equal(blocks.length, 2)
  // Every code and every event of the types is named there.
  const types = readFileSync(join(js, 'client.d.ts'), 'utf8')
  const codes = /export type ErrorCode =([\s\S]*?)\n\n/.exec(types)[1].match(/'[a-z-]+'/g).slice(13)
  const events = [.../interface JoinedRoomEventMap {([\s\S]*?)\n}/.exec(types)[1].matchAll(/^  '?([a-z-]+)'?:/gm)].map(([, name]) => `'${name}'`)
  for (const name of [...codes, ...events]) assert.ok(readme.includes(`\`${name.slice(1, -1)}\``), name)
})

test('no module of the library imports one of the page, or one that does not ship', () => {
  for (const name of readdirSync(js).filter((each) => each.endsWith('.js'))) {
    const text = readFileSync(join(js, name), 'utf8')
    for (const [, from] of text.matchAll(/(?:from |import\()'([^']+)'/g)) assert.match(from, /^\.\/[\w-]+\.js$/, `${name}: ${from}`)
    assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function/, name)
  }
})

test('client.d.ts names what the module exports', () => {
  const text = readFileSync(join(js, 'client.d.ts'), 'utf8')
  const values = [...text.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name)
  assert.deepEqual(values.sort(), Object.keys(duet).sort())
})

/** What tsc says; '' where it has nothing to complain of. */
function compile(cwd, files, more) {
  const options = { target: 'es2024', lib: 'es2024,dom,dom.iterable', types: '', strict: true, noUncheckedIndexedAccess: true, noEmit: true, ...more }
  const flags = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  try {
    execFileSync(tsc, ['--ignoreConfig', ...flags, ...files], { cwd, encoding: 'utf8', stdio: 'pipe' })
    return ''
  } catch (error) {
    return error.stdout || String(error)
  }
}

test('the types, as an application uses them: of the package, and of its modules one by one', { skip }, () => {
  const folder = installed()
  for (const name of ['use', 'modules']) cpSync(join(here, 'types', `${name}.ts`), join(folder, `${name}.mts`))
  const imported = [...readFileSync(join(folder, 'modules.mts'), 'utf8').matchAll(/'duet-client(\/[\w/-]+)'/g)].map(([, name]) => `.${name}`)
  assert.deepEqual(['.', './package.json', ...imported].sort(), Object.keys(manifest.exports).sort()) // use.ts has the first
  assert.equal(compile(folder, ['use.mts', 'modules.mts'], { module: 'nodenext', moduleResolution: 'nodenext' }), '')
  assert.equal(compile(folder, ['use.mts', 'modules.mts'], { module: 'es2022', moduleResolution: 'bundler' }), '')
})

test('the types are those of the code', { skip }, () => {
  const options = { module: 'es2022', moduleResolution: 'bundler', allowJs: true, checkJs: true, allowImportingTsExtensions: true }
  assert.equal(compile(join(here, 'types'), ['matches.ts'], options), '')
})

const esbuild = await import('esbuild').catch(() => undefined)

test('what connect loads stays small', { skip }, async (t) => {
  const { outputFiles } = await esbuild.build({
    entryPoints: [join(js, 'duet.js')], outdir: '/', bundle: true, minify: true, splitting: true, format: 'esm', target: 'es2022', write: false,
  })
  const size = (files) => files.reduce((sum, { contents }) => sum + gzipSync(contents, { level: 9 }).length, 0)
  const later = outputFiles.filter(({ path }) => /\/(data|media|stats)-\w+\.js$/.test(path))
  const first = outputFiles.filter((file) => !later.includes(file))
  assert.equal(later.length, 3)
  t.diagnostic(`at first ${size(first)} B; ${later.map((file) => `${file.path.match(/(\w+)-\w+\.js$/)[1]} ${size([file])} B`).join(', ')}`)
  assert.ok(size(first) <= LIMIT, `${size(first)} bytes of ${LIMIT}`)
})
