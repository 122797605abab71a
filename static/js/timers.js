// @ts-check
/** What fires: timers, and events with a `detail`. */

/**
 * What tells the time, so that tests can.
 * @typedef {object} Clock
 * @property {() => number} now  milliseconds, never going back
 * @property {(run: () => void, ms: number) => unknown} setTimeout
 * @property {(id: any) => void} clearTimeout
 */

/** @type {Clock} */
export const realClock = {
  now: () => performance.now(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  clearTimeout: (id) => clearTimeout(id),
}

/** Timers by name: setting one again moves it, and all end together. */
export class Timers {
  /** @type {Map<string, unknown>} */
  #running = new Map()
  #clock

  /** @param {Clock} clock */
  constructor(clock) {
    this.#clock = clock
  }

  /**
   * Runs `run` once, `ms` from now, unless cancelled or set again under the same name.
   * @param {string} name
   * @param {number} ms
   * @param {() => void} run
   */
  set(name, ms, run) {
    this.cancel(name)
    const fire = () => {
      this.#running.delete(name)
      run()
    }
    this.#running.set(name, this.#clock.setTimeout(fire, ms))
  }

  /** @param {string} name */
  has(name) {
    return this.#running.has(name)
  }

  /** @param {string} name */
  cancel(name) {
    if (!this.#running.has(name)) return
    this.#clock.clearTimeout(this.#running.get(name))
    this.#running.delete(name)
  }

  cancelAll() {
    for (const name of [...this.#running.keys()]) this.cancel(name)
  }
}

/**
 * @param {EventTarget} target
 * @param {string} type
 * @param {unknown} [detail]
 */
export function fire(target, type, detail) {
  target.dispatchEvent(new CustomEvent(type, { detail }))
}

/**
 * Gives `handle` the detail of each event of that type.
 * @param {EventTarget} target
 * @param {string} type
 * @param {(detail: any) => void} handle
 */
export function hear(target, type, handle) {
  target.addEventListener(type, (event) => handle(/** @type {CustomEvent} */ (event).detail))
}
