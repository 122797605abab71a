// A path anew in the middle of a call: the picture goes on over the old one.
import assert from 'node:assert/strict'
import { both, EVERY_PAIR, rowOfPairs } from './rows.mjs'
import { neverStoodStill } from './standstill.mjs'

/** A picture that stands still for longer than this, in milliseconds, has stopped: the camera gives one each 200 ms. */
const STANDSTILL = 1000

const ufrag = () => /ice-ufrag:(\S+)/.exec([...duet.room.members.values()][0].call.pc.localDescription.sdp)[1]

rowOfPairs(6, 'ICE restart by the older side, and by the newcomer in another call', EVERY_PAIR, async (scene) => {
  for (const side of [0, 1]) {
    const { a, b } = await scene.call()
    const people = [a, b]
    await both(people, (person) => person.watchPicture())
    await both(people, (person) => person.picturesAdvance(3))
    const old = await both(people, (person) => person.page.evaluate(ufrag))
    await people[side].page.evaluate(() => [...duet.room.members.values()][0].call.pc.restartIce())
    await both([0, 1], (i) => people[i].wait((before) => {
      const { pc } = [...duet.room.members.values()][0].call
      return pc.signalingState === 'stable' && pc.connectionState === 'connected' && !pc.localDescription.sdp.includes(`ice-ufrag:${before}\r\n`)
    }, old[i]))
    await both(people, (person) => person.picturesAdvance(10))
    const gaps = await neverStoodStill(people, STANDSTILL)
    scene.t.diagnostic(`longest standstill ${gaps.map(Math.round).join(' and ')} ms`)
    await both(people, (person) => person.page.close())
    for (const person of people) scene.forget(person)
    assert.deepEqual(people.flatMap((person) => person.faults), [])
  }
})
