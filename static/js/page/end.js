// @ts-check
/** After the call: why it is over, how long it lasted, and the way back. */
import { iconOf, stepList, wordsOf } from './cards.js'
import { button, find, say } from './dom.js'
import { duration, onLanguage, text } from './texts.js'

/** @import { Status } from './status.js' */

export class Ended {
  /** @type {Status | undefined} */
  #why
  #lasted = 0

  /**
   * @param {object} on
   * @param {() => void} on.rejoin
   * @param {() => void} on.home
   */
  constructor(on) {
    button('#rejoin').addEventListener('click', on.rejoin)
    button('#to-home').addEventListener('click', on.home)
    onLanguage(() => this.#render())
  }

  /**
   * @param {Status} why
   * @param {number} lasted  milliseconds; 0: there was no call
   */
  enter(why, lasted) {
    this.#why = why
    this.#lasted = lasted
    this.#render()
    find('#ended-title').focus()
  }

  /** @param {number} seconds  until it is tried again */
  count(seconds) {
    if (!this.#why) return
    this.#why = { ...this.#why, values: { ...this.#why.values, seconds } }
    const { steps } = wordsOf(this.#why)
    steps.forEach((step, n) => say(/** @type {Element} */ (find('#ended-steps').children[n]), step))
  }

  #render() {
    const why = this.#why
    if (!why) return
    const section = find('#ended')
    const { title, what, steps } = wordsOf(why)
    section.dataset.key = why.key
    find('.card', section).dataset.key = why.key
    find('use', section).setAttribute('href', `#i-${iconOf(why.key)}`)
    say(find('#ended-title'), title)
    say(find('#ended-what'), what)
    const list = stepList(steps)
    list.id = 'ended-steps'
    find('#ended-steps').replaceWith(list)
    say(find('#ended-duration'), this.#lasted > 0 ? text('lasted', { duration: duration(this.#lasted) }) : '')
    say(button('#rejoin'), text(why.level === 'bad' && why.key !== 'replaced' ? 'tryAgain' : 'rejoin'))
  }
}
