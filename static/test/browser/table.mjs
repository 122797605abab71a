// A reporter for `node --test` that writes the table of docs/browser-tests.md: each row, its browsers, the
// result and the time; and what each side saw of a fault in a call.

const INTRO = `# Browser tests

Real browsers on the real server, with a made-up camera; each person has a process of its own. \`make test-browser\` runs them and writes this table to \`bin/browser-tests.md\` (\`TABLE=docs/browser-tests.md\` writes this page). Several files of tests run at a time, the closest measurements after them and alone (\`browser/run.mjs\`). Who came first stands first in "browsers". The time is that of the test beside the others, browsers' start included where it is the first of its file.
`

const FAULTS = `
## Faults in a call

What happened in the middle of a call, what the status line of each side said from then on, and the longest time between two frames drawn (the made-up camera gives one each 200 ms); the same of an undisturbed connection of that page with itself, which tells what the machine was busy with.

| fault | browsers | side | the status line | longest gap between frames | undisturbed |
|---|---|---|---|---|---|
`

const cell = (text) => String(text).replaceAll('|', '\\|')

/** @param {number} ms */
function duration(ms) {
  const seconds = Math.round(ms / 1000)
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`
}

/** One person's view of a fault, as the table's second part has it. */
export function saw(t, side, { statuses, gap, control }) {
  t.diagnostic(`saw ${JSON.stringify({ side, statuses, gap: Math.round(gap), control: control && Math.round(control) })}`)
}

/** @param {AsyncIterable<{ type: string, data: any }>} events */
export default async function* table(events) {
  const rows = []
  let last // the row that the diagnostics after it belong to
  const began = performance.now()
  for await (const { type, data } of events) {
    if (type === 'test:pass' || type === 'test:fail') {
      last = undefined
      if (data.details.type === 'suite') continue
      const [number, title, browsers] = data.name.includes(' | ') ? data.name.split(' | ') : ['', data.name, '']
      const skipped = typeof data.skip === 'string' ? data.skip : data.skip && 'skipped'
      const todo = typeof data.todo === 'string' ? data.todo : undefined
      last = { number, todo, title, browsers, skipped, passed: type === 'test:pass', ms: data.details.duration_ms, seen: [], notes: [], nesting: data.nesting }
      rows.push(last)
    } else if (type === 'test:diagnostic' && last?.nesting === data.nesting) {
      if (data.message.startsWith('saw ')) last.seen.push(JSON.parse(data.message.slice(4)))
      else if (!/^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) [\d.]+$/.test(data.message)) last.notes.push(data.message)
    }
  }
  rows.sort((one, other) => (Number(one.number) || Infinity) - (Number(other.number) || Infinity) || 0)
  yield INTRO
  const passed = rows.filter((row) => row.passed && !row.skipped).length
  const skipped = rows.filter((row) => row.skipped).length
  yield `\n${passed} of ${rows.length - skipped} passed${skipped ? `, ${skipped} were skipped` : ''}, in ${duration(performance.now() - began)}.\n\n`
  yield '| # | test | browsers | result | time |\n|---|---|---|---|---|\n'
  for (const row of rows) {
    const result = row.skipped ? `skipped: ${row.skipped}` : row.passed ? 'pass' : row.todo ? `fails at times: ${row.todo}` : '**FAIL**'
    const title = [row.title, ...row.notes].join('; ')
    yield `| ${row.number} | ${cell(title)} | ${row.browsers} | ${cell(result)} | ${row.skipped ? '–' : `${(row.ms / 1000).toFixed(1)} s`} |\n`
  }
  const faults = rows.filter((row) => row.seen.length > 0)
  if (faults.length === 0) return
  yield FAULTS
  for (const row of faults) {
    for (const { side, statuses, gap, control } of row.seen) {
      yield `| ${cell(row.title)} | ${row.browsers} | ${side} | ${statuses.map((s) => `\`${s}\``).join(', ') || 'no change'} | ${gap} ms | ${control ? `${control} ms` : ''} |\n`
    }
  }
}
