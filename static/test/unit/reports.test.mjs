import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reportCalls } from '../../js/page/reports.js'

function setUp({ allowed = true } = {}) {
  const room = new EventTarget()
  room.signaling = new EventTarget()
  room.members = new Map()
  const reports = []
  room.signaling.report = (report) => reports.push(JSON.parse(JSON.stringify(report)))
  const paths = new Map()
  let time = 1000
  const over = new AbortController()
  const look = reportCalls(room, { allowed: () => allowed, pathOf: (id) => paths.get(id), signal: over.signal, now: () => time })
  const say = (type, detail) => room.signaling.dispatchEvent(new CustomEvent(type, { detail }))
  const state = (id, state) => {
    room.members.set(id, { id, call: { state } })
    room.dispatchEvent(new Event('change'))
  }
  return { room, reports, paths, look, say, state, over, wait: (ms) => (time += ms) }
}

test('a call that connects is reported once its path is known, with the time since the answer', () => {
  const { reports, paths, look, say, state, wait } = setUp()
  say('envelope', { message: { type: 'answer', from: 'a', sdp: 'secret' } })
  wait(340)
  state('a', 'connected')
  assert.deepEqual(reports, [])
  paths.set('a', 'relay')
  look()
  look()
  assert.deepEqual(reports, [{ state: 'connected', path: 'relay', after: 340 }])
  state('a', 'unstable')
  state('a', 'connected')
  assert.deepEqual(reports.slice(1), [{ state: 'disconnected', path: 'relay' }, { state: 'connected', path: 'relay' }])
})

test('a call that never connects', () => {
  const { reports, state } = setUp()
  state('a', 'connecting')
  state('a', 'blocked')
  assert.deepEqual(reports, [{ state: 'failed' }])
})

test('nothing is said without leave, to a server that does not know reports, or after the end', () => {
  const refused = setUp({ allowed: false })
  refused.state('a', 'blocked')
  const old = setUp()
  old.say('refused', { code: 'unknown-type', for: 'report' })
  old.state('a', 'blocked')
  const ended = setUp()
  ended.over.abort()
  ended.state('a', 'blocked')
  assert.deepEqual([refused.reports, old.reports, ended.reports], [[], [], []])
})
