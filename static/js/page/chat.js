// @ts-check
/** The chat: what was said in this call. */
import { find, make, show } from './dom.js'
import { text } from './texts.js'

/** At most this many lines are kept on the page. */
const MAX_LINES = 500

export class Chat {
  #log = find('#chat-log')
  #field = /** @type {HTMLTextAreaElement} */ (find('#chat-text'))
  #unread = 0
  #isSeen

  /**
   * @param {object} options
   * @param {(words: string) => boolean} options.say  whether anybody was reached
   * @param {() => boolean} options.isSeen  whether the chat can be seen now
   * @param {number} options.longest
   */
  constructor({ say, isSeen, longest }) {
    this.#isSeen = isSeen
    this.#field.maxLength = longest
    const form = /** @type {HTMLFormElement} */ (find('#chat-form'))
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      const words = this.#field.value.trim()
      if (!words) return
      if (say(words)) {
        this.#add(words, 'own', text('you'))
        this.#field.value = ''
      } else {
        this.#add(text('notSent'), 'note')
      }
    })
    this.#field.addEventListener('keydown', (event) => {
      // Enter sends; with Shift, or while a word is being composed, it does not.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
      event.preventDefault()
      form.requestSubmit()
    })
  }

  focus() {
    this.#field.focus()
  }

  clear() {
    this.#log.replaceChildren()
    this.#count(0)
  }

  /** @param {string} who @param {string} words */
  heard(who, words) {
    this.#add(words, 'other', who)
    if (!this.#isSeen()) this.#count(this.#unread + 1)
  }

  seen() {
    this.#count(0)
    this.#log.scrollTop = this.#log.scrollHeight
  }

  /**
   * @param {string} words
   * @param {'own' | 'other' | 'note'} kind
   * @param {string} [who]
   */
  #add(words, kind, who) {
    const line = make('div', kind)
    const body = make('span', '', words)
    line.append(...(who ? [make('b', '', who)] : []), body)
    this.#log.append(line)
    while (this.#log.childElementCount > MAX_LINES) this.#log.firstElementChild?.remove()
    this.#log.scrollTop = this.#log.scrollHeight
  }

  /** @param {number} unread */
  #count(unread) {
    this.#unread = unread
    const badge = find('#unread')
    show(badge, unread > 0)
    const shown = make('span', '', unread > 99 ? '99+' : String(unread))
    shown.setAttribute('aria-hidden', 'true')
    badge.replaceChildren(shown, make('span', 'unseen', text('unread', { count: unread })))
  }
}
