// Runs the browser tests, several files at a time: node browser/run.mjs [FILE...], all of them without a FILE.
// TABLE names the file that the table of table.mjs is written to.
import { createWriteStream, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { fileURLToPath } from 'node:url'
import table from './table.mjs'

const here = fileURLToPath(new URL('.', import.meta.url))

/** How many files run at a time. A call takes a third of a core, and each file waits for something at times. */
const LANES = Math.min(4, availableParallelism() + 1)

/** A file that takes longer than this, in milliseconds, hangs: it is ended, and fails. */
const PATIENCE = 5 * 60_000

/** What takes longest begins first, so that all lanes end together; the rest follows by name. */
const LONG = ['recovery', 'pairs', 'call', 'relay', 'page', 'faults', 'library', 'proxies', 'files']

/** What measures most closely for how long a picture stands still has the machine to itself, after all others. */
const ALONE = ['restart', 'cluster']

const rank = (file) => (LONG.indexOf(file) + 1 || Infinity)
const byLength = (one, other) => rank(one) - rank(other) || 0

const all = () =>
  readdirSync(here).map((file) => /^(.*)\.test\.mjs$/.exec(file)?.[1]).filter(Boolean).sort().sort(byLength).map((name) => path.join(here, `${name}.test.mjs`))

const named = process.argv.slice(2).map((file) => path.resolve(file))
const files = named.length > 0 ? named : all()
const isAlone = (file) => ALONE.includes(path.basename(file, '.test.mjs'))

async function* events() {
  for (const [some, concurrency] of [[files.filter((file) => !isAlone(file)), LANES], [files.filter(isAlone), 1]]) {
    if (some.length === 0) continue
    for await (const event of run({ files: some, concurrency, timeout: PATIENCE })) {
      if (event.type === 'test:fail' && !event.data.todo) process.exitCode = 1
      yield event
    }
  }
}

const stream = Readable.from(events())
stream.compose(new spec()).pipe(process.stdout)
if (process.env.TABLE) stream.compose(table).pipe(createWriteStream(process.env.TABLE))
