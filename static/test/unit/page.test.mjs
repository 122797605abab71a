// The parts of the page that need no browser.
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { askServer } from '../../js/page/checks.js'
import { newRoom } from '../../js/page/home.js'
import { isLocal, linkTo } from '../../js/page/invite.js'
import { shortcutOf } from '../../js/page/shortcuts.js'
import { MAX_RECENT, Store } from '../../js/page/store.js'
import { isRoom } from '../../js/protocol.js'
import { FakeWebSocket } from './fakes.mjs'

const static_ = new URL('../../', import.meta.url)

class MemoryStorage {
  kept = new Map()
  getItem = (key) => this.kept.get(key) ?? null
  setItem = (key, value) => void this.kept.set(key, value)
  removeItem = (key) => void this.kept.delete(key)
}

test('recent rooms: newest first, each once, bounded', () => {
  const storage = new MemoryStorage()
  const store = new Store(storage)
  for (let n = 0; n < 20; n++) store.entered(`room ${n}`, n)
  store.entered('room 18', 99)
  const { recent } = new Store(storage)
  assert.equal(recent.length, MAX_RECENT)
  assert.deepEqual(recent.slice(0, 3), [{ room: 'room 18', at: 99 }, { room: 'room 19', at: 19 }, { room: 'room 17', at: 17 }])
  store.forgetRecent()
  assert.deepEqual(new Store(storage).recent, [])
})

test('what was kept by others, or not at all, does no harm', () => {
  const storage = new MemoryStorage()
  for (const junk of ['', '{', 'null', '7', '"x"', '[null,{"room":""},{"room":"a"},{"room":7,"at":1}]', '{"name":"a\\nb","theme":["x"]}']) {
    storage.setItem('duet-recent', junk)
    storage.setItem('duet-settings', junk)
    const store = new Store(storage)
    assert.deepEqual([store.recent, store.settings], [[], {}], junk)
  }
  const forbidden = { getItem: () => { throw new Error() }, setItem: () => { throw new Error() }, removeItem: () => { throw new Error() } }
  for (const store of [new Store(), new Store(forbidden)]) {
    store.set({ name: 'Ada' })
    store.entered('a', 1)
    store.forgetRecent()
    assert.deepEqual([store.recent, store.settings], [[], {}])
  }
})

test('settings are changed one by one', () => {
  const storage = new MemoryStorage()
  new Store(storage).set({ name: 'Ada', theme: 'dark' })
  new Store(storage).set({ theme: 'auto' })
  assert.deepEqual(new Store(storage).settings, { name: 'Ada', theme: 'auto' })
})

test('keys: never while one types, and never with another key held', () => {
  const press = (key, more = {}) => shortcutOf({ key, ctrlKey: false, metaKey: false, altKey: false, isComposing: false, repeat: false, defaultPrevented: false, target: { tagName: 'BODY' }, ...more })
  assert.equal(press('m'), 'm')
  assert.equal(press('M', { shiftKey: true }), 'm')
  assert.equal(press('?'), '?')
  assert.equal(press('Escape'), 'Escape')
  for (const held of ['ctrlKey', 'metaKey', 'altKey', 'isComposing', 'repeat', 'defaultPrevented']) assert.equal(press('m', { [held]: true }), undefined, held)
  for (const target of [{ tagName: 'TEXTAREA' }, { tagName: 'INPUT' }, { tagName: 'INPUT', type: 'text' }, { tagName: 'SELECT' }, { tagName: 'DIV', isContentEditable: true }]) {
    assert.equal(press('m', { target }), undefined)
    assert.equal(press('Escape', { target }), 'Escape')
  }
  for (const target of [{ tagName: 'BUTTON' }, { tagName: 'INPUT', type: 'checkbox' }, null]) assert.equal(press('m', { target }), 'm')
})

test('a new room has a name that the server takes and nobody guesses', () => {
  const names = Array.from({ length: 50 }, () => newRoom())
  for (const name of names) assert.ok(isRoom(name) && /^[a-z]{3}-[a-z]{4}-[a-z]{3}$/.test(name), name)
  assert.equal(new Set(names).size, 50)
})

test('the link names the room and nothing else', () => {
  assert.equal(linkTo('周一 #1', 'https://example.org/duet/?lang=zh#old'), 'https://example.org/duet/#%E5%91%A8%E4%B8%80%20%231')
})

test('addresses that mean this computer only', () => {
  for (const host of ['localhost', 'a.localhost', '127.0.0.1', '127.8.8.8', '[::1]']) assert.equal(isLocal(host), true, host)
  for (const host of ['example.org', '192.168.1.7', 'localhost.example.org', '1270.0.1']) assert.equal(isLocal(host), false, host)
})

test('the server is asked as the call will ask it', async () => {
  let now = 100
  const env = () => ({ url: 'wss://example.org/ws', WebSocket: FakeWebSocket, signal: new AbortController().signal, now: () => now })
  const answer = askServer(env())
  const socket = FakeWebSocket.last
  assert.deepEqual([socket.url, socket.protocol], ['wss://example.org/ws', 'duet.v1'])
  socket.accept()
  now = 112
  socket.say({ type: 'pong' })
  assert.equal(await answer, 12)

  const refused = askServer(env())
  FakeWebSocket.last.end(1006)
  assert.equal(await refused, undefined)

  const patience = new AbortController()
  const silent = askServer({ ...env(), signal: patience.signal })
  patience.abort()
  assert.equal(await silent, undefined)
})

test('no module makes markup out of strings, and the markup has no script or style of its own', async () => {
  for (const name of await readdir(new URL('js/', static_), { recursive: true })) {
    if (!name.endsWith('.js')) continue
    const source = await readFile(new URL(`js/${name}`, static_), 'utf8')
    assert.doesNotMatch(source, /\.(innerHTML|outerHTML)\b|insertAdjacentHTML|document\.write|\beval\(|setAttribute\('style'/, name)
  }
  const html = await readFile(new URL('index.html', static_), 'utf8')
  assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)/)
  assert.doesNotMatch(html, /\s(?:src|href)="(?:https?:)?\/\//, 'a third party')
  const ids = [...html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id)
  assert.equal(new Set(ids).size, ids.length)
  for (const [, id] of html.matchAll(/<use href="#([^"]+)"/g)) assert.ok(ids.includes(id), id)
  for (const [, id] of html.matchAll(/aria-(?:controls|labelledby)="([^" ]+)"/g)) assert.ok(ids.includes(id), id)
})

test('the markup names every module that the page begins with, so that they come in one go', async () => {
  const found = new Set()
  const follow = async (url) => {
    if (found.has(url.href)) return
    found.add(url.href)
    const source = (await readFile(url, 'utf8')).replaceAll(/\/\*[\s\S]*?\*\//g, '')
    for (const [, from] of source.matchAll(/^(?:import|export) [^;]*?from '([^']+)'/gm)) await follow(new URL(from, url))
  }
  const main = new URL('js/page/main.js', static_)
  await follow(main)
  found.delete(main.href)
  const html = await readFile(new URL('index.html', static_), 'utf8')
  const named = [...html.matchAll(/<link rel="modulepreload" href="([^"]+)">/g)].map(([, href]) => href)
  const wanted = [...found].map((href) => href.slice(static_.href.length)).sort()
  assert.deepEqual(named, wanted, 'the list of modulepreload links in index.html; see the difference')
})
