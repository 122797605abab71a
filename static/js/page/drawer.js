// @ts-check
/** The side panel (a bottom sheet on phones) with its tabs. */
import { button, find, show } from './dom.js'

/** @typedef {'chat' | 'files' | 'inspector' | 'stats'} Tab */

/** @type {Tab[]} */
const TABS = ['chat', 'files', 'inspector', 'stats']

/** Fires `change` when it opens, closes or turns to another tab. */
export class Drawer extends EventTarget {
  #element = find('#drawer')
  /** @type {HTMLElement | undefined} where the focus was before it opened */
  #opener

  constructor() {
    super()
    for (const tab of TABS) button(`#tab-${tab}`).addEventListener('click', () => this.open(tab))
    button('#drawer-close').addEventListener('click', () => this.close())
    find('[role=tablist]', this.#element).addEventListener('keydown', (event) => this.#move(/** @type {KeyboardEvent} */ (event)))
  }

  get isOpen() {
    return !this.#element.hidden
  }

  get tab() {
    return /** @type {Tab} */ (this.#element.dataset.tab)
  }

  /** @param {Tab} tab */
  shows(tab) {
    return this.isOpen && this.tab === tab
  }

  /** @param {Tab} tab */
  open(tab) {
    if (!this.isOpen) this.#opener = /** @type {HTMLElement | undefined} */ (document.activeElement ?? undefined)
    this.#element.dataset.tab = tab
    for (const other of TABS) {
      const head = button(`#tab-${other}`)
      head.setAttribute('aria-selected', String(other === tab))
      head.tabIndex = other === tab ? 0 : -1
      show(find(`#${head.getAttribute('aria-controls')}`), other === tab)
    }
    show(this.#element, true)
    this.dispatchEvent(new Event('change'))
  }

  close() {
    if (!this.isOpen) return
    const focus = /** @type {HTMLElement | null} */ (document.activeElement)
    const hadFocus = this.#element.contains(focus)
    if (hadFocus) focus?.blur() // what is hidden keeps the focus until the next rendering, and would swallow keys
    show(this.#element, false)
    if (hadFocus && this.#opener !== document.body) this.#opener?.focus()
    this.dispatchEvent(new Event('change'))
  }

  /** @param {Tab} tab */
  toggle(tab) {
    if (this.shows(tab)) this.close()
    else this.open(tab)
  }

  /** Arrow keys walk the tabs, as the ARIA pattern has it. @param {KeyboardEvent} event */
  #move(event) {
    const steps = /** @type {Record<string, number>} */ ({ ArrowRight: 1, ArrowLeft: -1, Home: -TABS.indexOf(this.tab), End: TABS.length - 1 - TABS.indexOf(this.tab) })
    const step = steps[event.key]
    if (step === undefined) return
    event.preventDefault()
    const next = /** @type {Tab} */ (TABS[(TABS.indexOf(this.tab) + step + TABS.length) % TABS.length])
    this.open(next)
    button(`#tab-${next}`).focus()
  }
}
