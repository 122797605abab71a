// One test of the table: its number, what it is about, the browsers, and the people in it.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { cleanUp, firefox, launch, launchFirefox, Person, Server } from './harness.mjs'

/** A browser for a seat. @typedef {{ name: string, start: () => Promise<import('puppeteer-core').Browser>, missing?: string }} Kind */

/** @type {Kind} */
export const CHROMIUM = { name: 'Chromium', start: () => launch() }
/** @type {Kind} */
export const FIREFOX = {
  name: 'Firefox',
  start: () => launchFirefox(),
  missing: firefox ? undefined : 'Firefox is not here: install firefox-esr, or say where it is with FIREFOX=/path',
}
/** Chromium with other flags than usual. @returns {Kind} */
export const chromium = (name, flags) => ({ name: `Chromium (${name})`, start: () => launch(flags) })

/** Who was there first stands first. */
export const ALONE = [CHROMIUM]
export const PAIR = [CHROMIUM, CHROMIUM]
export const EVERY_PAIR = [PAIR, [CHROMIUM, FIREFOX], [FIREFOX, CHROMIUM]]

/** Processes are shared by the tests of a file: the first Chromium of each, the second, the first Firefox. */
const processes = new Map()
function browser(kind, index) {
  const key = `${kind.name} ${index}`
  if (!processes.has(key)) processes.set(key, kind.start())
  return processes.get(key)
}

let server
let rooms = 0

/** What one test has: its browsers, its people, and a server that it shares with the others of its file. */
export class Scene {
  /** @type {Person[]} */
  people = []
  t
  kinds

  constructor(t, kinds) {
    this.t = t
    this.kinds = kinds
  }

  get server() {
    return (server ??= Server.start())
  }

  newRoom() {
    return `room ${++rooms}`
  }

  browser(seat) {
    const kind = this.kinds[seat]
    return browser(kind, this.kinds.slice(0, seat).filter((k) => k === kind).length)
  }

  /**
   * The page for somebody in the browser of this seat.
   * @param {number} seat
   * @param {{ url?: string, room?: string } & Parameters<typeof Person.open>[3]} [options]
   */
  async open(seat, { url, room = this.newRoom(), ...options } = {}) {
    const person = await Person.open(await this.browser(seat), url ?? (await this.server).url, room, options)
    this.people.push(person)
    return person
  }

  /** A call between the first two seats, each over the URL given, until pictures move on both sides. */
  async call({ urls = [], room = this.newRoom(), options = {} } = {}) {
    const [a, b] = await Promise.all([0, 1].map((seat) => this.open(seat, { url: urls[seat], room, ...options })))
    await a.join('Ada')
    await a.waitStatus('waiting')
    await b.join('Bob')
    await both([a, b], (person) => person.waitConnected())
    await both([a, b], (person) => person.framesAdvance())
    return { a, b, room }
  }

  /** A person who is not looked after any more: the page was closed. */
  forget(person) {
    this.people.splice(this.people.indexOf(person), 1)
  }

  async end() {
    const faults = this.people.flatMap((person) => person.faults)
    await Promise.all(this.people.splice(0).map((person) => person.close().catch(() => {})))
    return faults
  }
}

export const both = (people, action) => Promise.all(people.map(action))

/**
 * A row of the table.
 * @param {number} number
 * @param {string} title
 * @param {Kind[]} kinds
 * @param {(scene: Scene) => Promise<void>} body
 * @param {{ skip?: string | false, todo?: string | false, timeout?: number }} [options]  `todo`: a failure is shown, not counted
 */
export function row(number, title, kinds, body, { skip = false, todo = false, timeout = 90_000 } = {}) {
  const missing = kinds.map((kind) => kind.missing).find(Boolean)
  const name = `${number} | ${title} | ${kinds.map((kind) => kind.name).join(' ↔ ')}`
  test(name, { skip: skip || missing, todo, timeout }, async (t) => {
    const scene = new Scene(t, kinds)
    let faults
    try {
      await body(scene)
    } catch (error) {
      for (const fault of await scene.end()) t.diagnostic(`fault in the page: ${fault}`)
      throw error
    }
    faults = await scene.end()
    assert.deepEqual(faults, [], 'faults in the page')
  })
}

/** The same row for several pairs of browsers. */
export function rowOfPairs(number, title, pairs, body, options) {
  for (const pair of pairs) row(number, title, pair, body, options)
}

after(cleanUp)
