// @ts-check
/** Failure cards: what happened, what to do, and a button. */
import { explain } from '../media.js'
import { icon, make } from './dom.js'
import { isText, onLanguage, text } from './texts.js'

/** @import { Failure } from './status.js' */
/** @import { TextKey } from './texts.js' */

/**
 * @typedef {object} Action
 * @property {TextKey} label
 * @property {() => void} run
 */

/** The picture of each card; `bad` where none is named. */
const ICONS = /** @type {Record<string, string>} */ ({
  left: 'hang-up', insecure: 'link', denied: 'camera', missing: 'camera', busy: 'camera', failed: 'camera',
  unreachable: 'inspector', 'relay-missing': 'inspector', blocked: 'inspector', 'relay-refused': 'inspector', unanswered: 'inspector',
  autoplay: 'sound', replaced: 'pip',
})

/** @param {string} key */
export const iconOf = (key) => ICONS[key] ?? 'bad'

/** Values that every card may use: this address, and those that work. */
export function addresses(location = globalThis.location) {
  const local = new URL(location.href)
  local.protocol = 'http:'
  local.hostname = 'localhost'
  local.hash = local.search = ''
  return { origin: location.origin, host: location.host, local: local.href, https: `https://${location.host}` }
}

/**
 * The texts of a card, in the language of now.
 * @param {Failure} failure
 */
export function wordsOf({ key, values = {} }) {
  const all = { ...addresses(), ...values }
  const say = (/** @type {string} */ part) => {
    const name = `card.${key}.${part}`
    return isText(name) ? text(name, all) : ''
  }
  const steps = DEVICE_FAULTS.has(key)
    ? explain(key).steps.map((step) => text(/** @type {TextKey} */ (`media-step.${step}`), all))
    : [1, 2, 3].map((n) => say(`step${n}`)).filter(Boolean)
  return { title: say('title'), what: say('what'), steps }
}

/** What to do about these depends on the browser: media.js knows. */
const DEVICE_FAULTS = new Set(['denied', 'missing', 'busy', 'failed'])

/** A place in the page that shows one card, or none. */
export class CardHost {
  #host
  /** @type {Failure | undefined} */
  #failure
  /** @type {Action[]} */
  #actions = []

  /** @param {HTMLElement} host */
  constructor(host) {
    this.#host = host
    onLanguage(() => this.#render())
  }

  /** The key of the card that is shown. */
  get key() {
    return this.#failure?.key
  }

  /**
   * @param {Failure | undefined} failure
   * @param {Action[]} [actions]  the first is the one to take
   */
  show(failure, actions = []) {
    const same = JSON.stringify(failure) === JSON.stringify(this.#failure)
    this.#failure = failure
    this.#actions = actions
    if (!same) this.#render()
  }

  #render() {
    this.#host.replaceChildren(...(this.#failure ? [this.#card(this.#failure)] : []))
  }

  /** @param {Failure} failure */
  #card(failure) {
    const { title, what, steps } = wordsOf(failure)
    const card = make('section', 'card')
    card.dataset.key = failure.key
    card.setAttribute('role', 'group')
    card.setAttribute('aria-label', title)
    const mark = make('span', 'card-icon')
    mark.append(icon(iconOf(failure.key)))
    card.append(mark, make('h2', '', title), make('p', '', what), stepList(steps))
    const row = make('div', 'actions')
    this.#actions.forEach(({ label }, n) => {
      const button = make('button', n === 0 ? 'primary' : 'quiet', text(label))
      button.type = 'button'
      button.dataset.action = label
      button.addEventListener('click', () => this.#actions[n]?.run())
      row.append(button)
    })
    if (this.#actions.length > 0) card.append(row)
    return card
  }
}

/**
 * What to do: numbered where it is more than one thing.
 * @param {string[]} steps
 */
export function stepList(steps) {
  const list = make(steps.length > 1 ? 'ol' : 'ul', 'steps')
  list.append(...steps.map((step) => make('li', '', step)))
  return list
}
