// The signaling client under a model of the server and of the network (model.mjs): random steps from a
// seed, and after each the promises of docs/protocol.md, section 5. A failing sequence is cut down and
// printed with its seed.
//
// MODEL_SEED=n plays one seed; MODEL_SEQUENCES=n says how many; MODEL_STEPS=n how long each is.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { play, sequence, shrink } from './model.mjs'

const first = Number(process.env.MODEL_SEED ?? 1)
const sequences = Number(process.env.MODEL_SEQUENCES ?? (process.env.MODEL_SEED ? 1 : 1500))
const steps = Number(process.env.MODEL_STEPS ?? 100)

test(`${sequences} sequences of ${steps} steps`, (t) => {
  for (let seed = first; seed < first + sequences; seed++) {
    const all = sequence(seed, steps)
    const { violation } = play(all)
    if (!violation) continue
    const least = shrink(all)
    const { violation: why } = play(least)
    const lines = least.list.map((step) => JSON.stringify(step))
    assert.fail(`seed ${seed}, ${JSON.stringify(least.setup)}, ${lines.length} steps:\n${lines.join('\n')}\n${why.stack}`)
  }
})
