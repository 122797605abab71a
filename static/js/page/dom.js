// @ts-check
/** Small helpers around the page's elements. Text of others enters through textContent only. */
import { text } from './texts.js'

/** @import { TextKey } from './texts.js' */

/**
 * The element of the page that `selector` names. It throws where there is none: a fault of the page.
 * @template {Element} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [parent]
 */
export function find(selector, parent = document) {
  const element = parent.querySelector(selector)
  if (!element) throw new Error(`no element ${selector}`)
  return /** @type {T} */ (element)
}

/** @param {string} selector */
export const button = (selector) => /** @type {HTMLButtonElement} */ (find(selector))
/** @param {string} selector */
export const input = (selector) => /** @type {HTMLInputElement} */ (find(selector))
/** @param {string} selector */
export const select = (selector) => /** @type {HTMLSelectElement} */ (find(selector))

/**
 * A new element with a class and a text.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {string} [className]
 * @param {string} [words]
 */
export function make(name, className = '', words = '') {
  const element = document.createElement(name)
  if (className) element.className = className
  if (words) element.textContent = words
  return element
}

const SVG = 'http://www.w3.org/2000/svg'

/**
 * One of the page's icons, for the eye only.
 * @param {string} name  without `i-`
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg')
  svg.setAttribute('aria-hidden', 'true')
  const use = document.createElementNS(SVG, 'use')
  use.setAttribute('href', `#i-${name}`)
  svg.append(use)
  return svg
}

/**
 * Changes a text only where it differs, so that a screen reader does not say it again.
 * @param {Element} element
 * @param {string} words
 */
export function say(element, words) {
  if (element.textContent !== words) element.textContent = words
}

/**
 * Shows or hides. The focus of what is hidden goes nowhere by itself.
 * @param {Element} element
 * @param {boolean} shown
 */
export function show(element, shown) {
  const html = /** @type {HTMLElement} */ (element)
  if (html.hidden === shown) html.hidden = !shown
}

/** What the markup names its texts with, and where each text goes. */
const PLACES = /** @type {const} */ ([
  ['data-text', (/** @type {Element} */ element, /** @type {string} */ words) => say(element, words)],
  ['data-label', (/** @type {Element} */ element, /** @type {string} */ words) => element.setAttribute('aria-label', words)],
  ['data-placeholder', (/** @type {Element} */ element, /** @type {string} */ words) => element.setAttribute('placeholder', words)],
  ['data-title', (/** @type {Element} */ element, /** @type {string} */ words) => element.setAttribute('title', words)],
])

/**
 * Fills in, in the language of now, the texts that the markup only names.
 * @param {ParentNode} [root]
 */
export function fillTexts(root = document) {
  for (const [name, fill] of PLACES) {
    for (const element of root.querySelectorAll(`[${name}]`)) {
      fill(element, text(/** @type {TextKey} */ (element.getAttribute(name))))
    }
  }
}

/** Fires `refused`: the browser wants a gesture before it plays. */
const refusals = new EventTarget()

/**
 * Calls back when the browser wants a gesture before it plays.
 * @param {() => void} listener
 */
export function onRefusal(listener) {
  refusals.addEventListener('refused', listener)
}

/**
 * Plays a stream in an element; null ends it. A stream without tracks counts as none: an element that
 * waits for its first picture holds up the `load` event of the page.
 * @param {HTMLVideoElement} video
 * @param {MediaStream | null} stream
 */
export function play(video, stream) {
  const wanted = stream?.getTracks().length ? stream : null
  if (video.srcObject === wanted) return
  video.srcObject = wanted
  if (wanted) start(video)
}

/** @param {HTMLVideoElement} video */
export function start(video) {
  video.play().catch((error) => {
    if (error.name === 'NotAllowedError') refusals.dispatchEvent(new Event('refused'))
  })
}
