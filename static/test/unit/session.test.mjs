import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TabSession } from '../../js/session.js'

class FakeStorage {
  items = {}
  getItem(key) {
    return this.items[key] ?? null
  }
  setItem(key, value) {
    this.items[key] = value
  }
}

/** navigator.locks as far as it is used: a second request waits until it is aborted. */
class FakeLocks {
  held = new Set()
  request(name, { signal }, callback) {
    if (!this.held.has(name)) {
      this.held.add(name)
      return callback()
    }
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  }
}

let tabs = 0
const newTab = () => `tab${++tabs}`
const patience = () => {
  const end = new AbortController()
  setImmediate(() => end.abort())
  return end.signal
}

test('a reload finds what the load before it has stored', async () => {
  const storage = new FakeStorage()
  const first = await TabSession.open({ storage, locks: new FakeLocks(), newTab, patience })
  assert.deepEqual(first.memory, {})
  first.remember({ key: 'k', room: 'r', inCall: true })
  const second = await TabSession.open({ storage, locks: new FakeLocks(), newTab, patience })
  assert.deepEqual(second.memory, { key: 'k', room: 'r', inCall: true })
})

test('a duplicated tab does not take what is not its own', async () => {
  const locks = new FakeLocks()
  const storage = new FakeStorage()
  const first = await TabSession.open({ storage, locks, newTab, patience })
  first.remember({ key: 'k', inCall: true })
  const copy = Object.assign(new FakeStorage(), { items: { ...storage.items } })
  const second = await TabSession.open({ storage: copy, locks, newTab, patience })
  assert.deepEqual(second.memory, {})
  second.remember({ key: 'other' })
  assert.equal(JSON.parse(storage.items.duet).key, 'k')
  // Each of the two can be reloaded.
  assert.notEqual(JSON.parse(storage.items.duet).tab, JSON.parse(copy.items.duet).tab)
})

test('without locks, without storage, with nonsense in it: no memory, no failure', async () => {
  const storage = new FakeStorage()
  storage.setItem('duet', JSON.stringify({ tab: 't', key: 'k' }))
  assert.deepEqual((await TabSession.open({ storage, newTab, patience })).memory, {})
  const none = await TabSession.open({ newTab, patience })
  none.remember({ key: 'k' })
  assert.equal(none.memory.key, 'k')
  storage.setItem('duet', '{')
  assert.deepEqual((await TabSession.open({ storage, locks: new FakeLocks(), newTab, patience })).memory, {})
})
