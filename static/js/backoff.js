// @ts-check
/** Exponential backoff with full jitter: the n-th wait is random in [0, min(cap, base * 2^n)). */
export class Backoff {
  #attempt = 0
  #base
  #cap
  #random

  /**
   * @param {object} [options]
   * @param {number} [options.base]  milliseconds
   * @param {number} [options.cap]  milliseconds
   * @param {() => number} [options.random]  in [0, 1)
   */
  constructor({ base = 500, cap = 15_000, random = Math.random } = {}) {
    this.#base = base
    this.#cap = cap
    this.#random = random
  }

  /**
   * How long to wait before the next try, in milliseconds.
   * @param {number} [most]  a lower cap for this time, but never below the base
   */
  next(most = this.#cap) {
    const limit = Math.min(this.#cap, this.#base * 2 ** this.#attempt)
    if (limit < this.#cap) this.#attempt++
    return this.#random() * Math.min(limit, Math.max(this.#base, most))
  }

  /** Starts again with the short waits. Call it when what was tried has proved stable, not when it began. */
  reset() {
    this.#attempt = 0
  }
}
