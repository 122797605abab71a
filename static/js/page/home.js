// @ts-check
/** Home: which room? */
import { isRoom } from '../protocol.js'
import { button, find, input, make, show } from './dom.js'
import { onLanguage, text } from './texts.js'

/** @import { Store } from './store.js' */

/** A name that nobody guesses: ten letters, 47 bits. */
export function newRoom(fill = (/** @type {Uint32Array<ArrayBuffer>} */ numbers) => crypto.getRandomValues(numbers)) {
  const letters = [...fill(new Uint32Array(10))].map((n) => String.fromCharCode(97 + (n % 26)))
  return `${letters.slice(0, 3).join('')}-${letters.slice(3, 7).join('')}-${letters.slice(7).join('')}`
}

export class Home {
  #field = input('#room')
  #fault = find('#room-fault')
  #store
  #choose
  #isFaulty = false

  /**
   * @param {Store} store
   * @param {(room: string) => void} choose
   */
  constructor(store, choose) {
    this.#store = store
    this.#choose = choose
    find('#home-form').addEventListener('submit', (event) => {
      event.preventDefault()
      this.#submit()
    })
    this.#field.addEventListener('input', () => this.#setFaulty(false))
    button('#new-room').addEventListener('click', () => {
      this.#field.value = newRoom()
      this.#setFaulty(false)
    })
    button('#forget').addEventListener('click', () => {
      store.forgetRecent()
      this.#showRecent()
      this.#field.focus()
    })
    onLanguage(() => this.#setFaulty(this.#isFaulty))
  }

  enter() {
    this.#field.value ||= newRoom()
    this.#showRecent()
  }

  #submit() {
    const room = this.#field.value.trim()
    this.#setFaulty(!isRoom(room))
    if (this.#isFaulty) return this.#field.focus()
    this.#field.value = ''
    this.#choose(room)
  }

  /** @param {boolean} faulty */
  #setFaulty(faulty) {
    this.#isFaulty = faulty
    this.#fault.textContent = faulty ? text('badRoom') : ''
    show(this.#fault, faulty)
    this.#field.setAttribute('aria-invalid', String(faulty))
  }

  #showRecent() {
    const { recent } = this.#store
    show(find('#recent'), recent.length > 0)
    find('#recent-list').replaceChildren(...recent.map(({ room }) => {
      const item = make('li')
      const link = make('a', '', room)
      link.href = `#${encodeURIComponent(room)}`
      item.append(link)
      return item
    }))
  }
}
