import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nextTick, startRecovery, step } from '../../js/recovery.js'
import { seeded } from './fakes.mjs'

/**
 * Plays `events` (`[second, type]`) up to second `end`, with a tick whenever one is wanted, and returns
 * what was done: `'2 restart'`. `open(second)` says when an offer of ours waits.
 */
function play(events, end, { open = () => false, from } = {}) {
  let state = from ?? startRecovery(0)
  const done = []
  const queue = events.map(([s, type]) => ({ at: s * 1000, type }))
  for (;;) {
    const due = nextTick(state)
    const next = queue.length && queue[0].at <= due ? queue.shift() : { at: due, type: 'tick' }
    if (next.at > end * 1000) return { done, state }
    const result = step(state, { type: next.type, open: open(next.at / 1000) }, next.at)
    state = result.state
    for (const action of result.actions) done.push(`${next.at / 1000} ${action}`)
  }
}

test('a call that comes up and stays up is left alone', () => {
  assert.deepEqual(play([[0.2, 'connected']], 3600).done, [])
})

test('disconnected for less than 2 s heals by itself', () => {
  assert.deepEqual(play([[1, 'connected'], [10, 'disconnected'], [11.9, 'connected']], 60).done, [])
})

test('own address changed: disconnected at 5.2 s; one restart at 7.2 s heals it', () => {
  assert.deepEqual(play([[0.1, 'connected'], [5.2, 'disconnected'], [7.4, 'connected']], 60).done, ['7.2 restart'])
})

test('relay killed: the side that fails and the side that stays disconnected for ever both go on', () => {
  const fails = play([[0.1, 'connected'], [5.8, 'disconnected'], [17.6, 'failed']], 50)
  const stays = play([[0.1, 'connected'], [7.7, 'disconnected']], 50)
  assert.deepEqual(fails.done, ['7.8 restart', '12.8 restart', '18.8 restart', '25.8 rebuild', '33.8 restart', '41.8 restart', '49.8 restart'])
  assert.deepEqual(stays.done, ['9.7 restart', '14.7 restart', '20.7 restart', '27.7 rebuild', '35.7 restart', '43.7 restart'])
})

test('whenever the path comes back within two minutes, the next try is at most 8 s away', () => {
  const { done } = play([[0, 'connected'], [10, 'disconnected']], 130)
  const at = done.map((each) => Number(each.split(' ')[0]))
  for (let i = 1; i < at.length; i++) assert.ok(at[i] - at[i - 1] <= 8, `${at[i - 1]} to ${at[i]}`)
  const later = play([[0, 'connected'], [10, 'disconnected']], 900).done.slice(-2).map((each) => Number(each.split(' ')[0]))
  assert.equal(later[1] - later[0], 30, 'and much later not so often')
})

test('failed is acted upon at once, but not sooner than 5 s after the last try', () => {
  assert.deepEqual(play([[0.1, 'connected'], [60, 'failed'], [60.3, 'connected'], [61, 'failed'], [65.2, 'connected']], 100).done,
    ['60 restart', '65 restart'])
})

test('a path that is up for a moment only does not start the counting again', () => {
  const flapping = [[0, 'connected']]
  for (let s = 10; s < 60; s += 1) flapping.push([s, 'failed'], [s + 0.5, 'connected'])
  const { done } = play(flapping, 60)
  assert.ok(done.length <= 8, done.join())
  assert.ok(done.some((each) => each.endsWith('rebuild')), done.join())
  const stable = play([[0, 'connected'], [10, 'failed'], [11, 'connected'], [20, 'failed'], [21, 'connected'], [40, 'failed'],
    [41, 'connected'], [60, 'failed'], [61, 'connected']], 90)
  assert.deepEqual(stable.done, ['10 restart', '20 restart', '40 restart', '60 restart'])
})

test('never connected: late after 15 s, and tried anew although the browser says nothing', () => {
  assert.deepEqual(play([], 30).done, ['15 late', '15 restart', '20 restart', '26 restart'])
  // Nobody answers: there is nothing to restart.
  assert.deepEqual(play([], 60, { open: () => true }).done, ['15 late'])
})

test('while an offer waits for its answer nothing is tried, and nothing counted', () => {
  const { done } = play([[0, 'connected'], [10, 'disconnected']], 50, { open: (s) => s > 12.5 && s < 40 })
  assert.deepEqual(done, ['12 restart', '42 restart', '48 restart'])
})

test('a changed network: a broken path is repaired at once', () => {
  assert.deepEqual(play([[0, 'connected'], [10, 'disconnected'], [10.5, 'network'], [10.8, 'connected']], 60).done, ['10.5 restart'])
})

test('a changed network: a path that is up is looked at, and then not given 2 s', () => {
  assert.deepEqual(play([[0, 'connected'], [10, 'network']], 60).done, ['10 check'])
  assert.deepEqual(play([[0, 'connected'], [10, 'network'], [12, 'silent']], 60).done, ['10 check', '12 restart'])
  assert.deepEqual(play([[0, 'connected'], [10, 'network'], [15.2, 'disconnected'], [15.4, 'connected']], 60).done,
    ['10 check', '15.2 restart'])
  assert.deepEqual(play([[0, 'connected'], [10, 'network'], [30, 'disconnected'], [33, 'connected']], 60).done,
    ['10 check', '32 restart'])
})

test('after many tries in vain a changed network makes the waits short again', () => {
  const { done } = play([[0, 'connected'], [10, 'disconnected'], [600, 'network'], [610, 'network']], 640)
  const after = done.filter((each) => Number(each.split(' ')[0]) >= 600).map((each) => Number(each.split(' ')[0]))
  assert.ok(after.length >= 4, after.join())
})

test('the peer tries: ours waits', () => {
  assert.deepEqual(play([[0, 'connected'], [10, 'disconnected'], [11, 'offered'], [15.9, 'connected']], 60).done, [])
  assert.deepEqual(play([[0, 'connected'], [10, 'disconnected'], [11, 'offered']], 20).done, ['16 restart'])
})

test('a connection that the browser has spoilt is rebuilt without more restarts', () => {
  assert.deepEqual(play([[0, 'connected'], [10, 'disconnected'], [12.1, 'broken']], 18).done, ['12 restart', '17 rebuild'])
  assert.deepEqual(play([[0, 'connected'], [10, 'broken']], 60).done, [], 'while the media comes, it is left alone')
  const waiting = play([[0, 'connected'], [10, 'disconnected'], [12.1, 'broken']], 18, { open: (s) => s > 12 })
  assert.deepEqual(waiting.done, ['12 restart', '17 rebuild'])
})

test('the peer has rebuilt: three more restarts before we do', () => {
  const { done } = play([[0, 'connected'], [10, 'disconnected'], [19, 'rebuilt']], 50)
  assert.deepEqual(done, ['12 restart', '17 restart', '24 restart', '31 restart', '39 restart', '47 rebuild'])
})

test('the peer has rebuilt while we saw nothing wrong: the new connection has to come up like any other', () => {
  assert.deepEqual(play([[0, 'connected'], [10, 'rebuilt'], [10.3, 'connected']], 60).done, [])
  assert.deepEqual(play([[0, 'connected'], [10, 'rebuilt']], 24).done, ['18 restart', '23 restart'])
})

test('whatever happens: never two tries within 5 s, and up means no timer', () => {
  const types = ['connected', 'disconnected', 'failed', 'network', 'silent', 'offered', 'broken', 'rebuilt']
  for (let seed = 1; seed <= 200; seed++) {
    const random = seeded(seed)
    const events = []
    for (let at = 0; at < 300; at += random() * 8) events.push([at, types[Math.floor(random() * types.length)]])
    const { done, state } = play([...events, [301, 'connected']], 302)
    const tries = done.filter((each) => /restart|rebuild/.test(each)).map((each) => Number(each.split(' ')[0]))
    for (let i = 1; i < tries.length; i++) assert.ok(tries[i] - tries[i - 1] >= 4.999, `seed ${seed}: ${done}`)
    assert.equal(nextTick(state), Infinity)
  }
})
