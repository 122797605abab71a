import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Outbox } from '../../js/outbox.js'

const say = (data, to) => ({ type: 'message', data, ...(to && { to }) })
const seqs = (messages) => messages.map((m) => m.seq)

test('numbers come with the writing, and what is unwanted by then gets none', () => {
  const outbox = new Outbox()
  let wanted = true
  outbox.add(say('a'))
  outbox.add(say('b'), () => wanted)
  outbox.add(say('c'))
  wanted = false
  assert.deepEqual(outbox.take(), [{ ...say('a'), seq: 1 }, { ...say('c'), seq: 2 }])
  assert.deepEqual(outbox.take(), [])
})

test('a resume writes the rest again, numbered after what was handled', () => {
  const outbox = new Outbox()
  let wanted = true
  for (const data of 'abcd') outbox.add(say(data), () => wanted || data !== 'c')
  assert.deepEqual(seqs(outbox.take()), [1, 2, 3, 4])
  wanted = false // the server never saw c: it may go
  assert.ok(outbox.resume(1))
  assert.deepEqual(outbox.take(), [{ ...say('b'), seq: 2 }, { ...say('d'), seq: 3 }])
})

test('counters that contradict each other', () => {
  const outbox = new Outbox()
  outbox.add(say('a'))
  outbox.take()
  assert.ok(!outbox.acknowledge(2))
  assert.ok(outbox.acknowledge(1))
  assert.ok(outbox.acknowledge(1))
  assert.ok(!outbox.resume(0))
})

test('bounded, until something is acknowledged', () => {
  const outbox = new Outbox(2)
  assert.ok(outbox.add(say(1)))
  assert.ok(outbox.add(say(2)))
  assert.ok(!outbox.add(say(3)))
  outbox.take()
  outbox.acknowledge(1)
  assert.ok(outbox.add(say(3)))
})

test('a refused message comes back with a new number, and nothing to that peer overtakes it again', () => {
  const outbox = new Outbox()
  outbox.add(say('a', 'x'))
  outbox.take()
  assert.ok(outbox.hold(1))
  outbox.add(say('b', 'x'))
  outbox.add(say('c', 'y'))
  assert.deepEqual(outbox.take(), [{ ...say('c', 'y'), seq: 2 }])
  outbox.release()
  assert.deepEqual(outbox.take(), [{ ...say('a', 'x'), seq: 3 }, { ...say('b', 'x'), seq: 4 }])
  assert.ok(outbox.acknowledge(4))
  assert.equal(outbox.size, 0)
})

test('a refusal finds its message before the acknowledgement, and for 1024 more after it', () => {
  const outbox = new Outbox()
  for (let i = 1; i <= 1025; i++) {
    outbox.add(say(i))
    outbox.take()
    assert.deepEqual(outbox.find(i), say(i))
    outbox.acknowledge(i)
  }
  assert.deepEqual(outbox.find(1025), say(1025))
  assert.deepEqual(outbox.find(2), say(2))
  assert.equal(outbox.find(1), undefined)
  assert.ok(!outbox.hold(1))
})

test('a used-up number takes no place', () => {
  const outbox = new Outbox(2)
  outbox.add(say('a'))
  outbox.take()
  outbox.hold(1)
  assert.equal(outbox.size, 1)
  assert.ok(outbox.add(say('b')))
  assert.ok(!outbox.add(say('c')))
})

test('what was held goes back to its old place', () => {
  const outbox = new Outbox()
  outbox.add(say('a', 'x'))
  outbox.add(say('b', 'x'))
  outbox.take()
  outbox.hold(1)
  outbox.resume(1)
  outbox.release()
  assert.deepEqual(outbox.take(), [{ ...say('a', 'x'), seq: 2 }, { ...say('b', 'x'), seq: 3 }])
})

test('what is not due waits, and what comes after it', () => {
  const outbox = new Outbox()
  outbox.add(say('a'), undefined, 10)
  outbox.add(say('b'), undefined, 5)
  assert.deepEqual([outbox.take(9), outbox.nextDue], [[], 10])
  assert.deepEqual(outbox.take(10).map((m) => m.seq), [1, 2])
  assert.equal(outbox.nextDue, undefined)
})
