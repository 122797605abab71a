import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import * as duet from '../../js/duet.js'

const js = new URL('../../js/', import.meta.url).pathname
const here = new URL('..', import.meta.url).pathname
const manifest = JSON.parse(readFileSync(join(js, 'package.json'), 'utf8'))
/** The limit of what `connect` loads, minified and gzipped, in bytes. */
const LIMIT = 12_000

/** A folder in which duet-client is installed: what `npm pack` would take, and nothing else. */
function installed(t) {
  const folder = mkdtempSync(join(tmpdir(), 'duet-client-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const home = join(folder, 'node_modules', 'duet-client')
  cpSync(js, home, { recursive: true, filter: (from) => shipped(from.slice(js.length)) })
  return folder
}

const shipped = (name) => statSync(join(js, name)).isDirectory()
  ? name === '' || manifest.files.includes(name.split('/')[0])
  : /^[\w-]+\.(js|json|md)$/.test(name) || name.startsWith('compat/') || manifest.files.includes(name)

test('the package resolves through its exports, and runs without a page', (t) => {
  const folder = installed(t)
  const classic = './compat/socket-io' // a script for a tag, not a module
  const entries = Object.keys(manifest.exports).filter((name) => name !== './package.json' && name !== classic)
  writeFileSync(join(folder, 'main.mjs'), `
    import { connect } from 'duet-client'
    const names = {}
    for (const entry of ${JSON.stringify(entries)}) names[entry] = Object.keys(await import('duet-client' + entry.slice(1))).sort()
    import.meta.resolve('duet-client${classic.slice(1)}')
    const error = await connect('nonsense', { room: 'demo' }).catch((error) => error)
    console.log(JSON.stringify({ names, code: error.code }))`)
  const { names, code } = JSON.parse(execFileSync(process.execPath, ['main.mjs'], { cwd: folder, encoding: 'utf8' }))
  assert.equal(code, 'bad-url')
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

test('README.md: its code runs as it stands there, and it names every code and event', (t) => {
  const folder = installed(t)
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

const tsc = join(here, 'node_modules', '.bin', 'tsc')
const noTypeScript = statSync(tsc, { throwIfNoEntry: false }) ? false : 'npm ci in static/test first'

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

test('the types, as an application uses them: of the package, and of its modules one by one', { skip: noTypeScript }, (t) => {
  const folder = installed(t)
  const types = join(folder, 'node_modules', 'duet-client', 'types')
  execFileSync(tsc, ['-p', join(here, 'types', 'declarations.json'), '--outDir', types]) // as `prepack` does
  for (const name of ['use', 'modules']) cpSync(join(here, 'types', `${name}.ts`), join(folder, `${name}.mts`))
  assert.equal(compile(folder, ['use.mts', 'modules.mts'], { module: 'nodenext', moduleResolution: 'nodenext' }), '')
  assert.equal(compile(folder, ['use.mts', 'modules.mts'], { module: 'es2022', moduleResolution: 'bundler' }), '')
})

test('the types are those of the code', { skip: noTypeScript }, () => {
  const options = { module: 'es2022', moduleResolution: 'bundler', allowJs: true, checkJs: true, allowImportingTsExtensions: true }
  assert.equal(compile(join(here, 'types'), ['matches.ts'], options), '')
})

const esbuild = await import('esbuild').catch(() => undefined)

test('what connect loads stays small', { skip: esbuild ? false : 'npm ci in static/test first' }, async (t) => {
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
