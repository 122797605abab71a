// @ts-check
/** Every text of the page, in the language of now. `{name}` and the like are filled in. */
import { en as pageEn } from './texts-en.js'
import { en as mediaEn, zh as mediaZh } from './texts-media.js'
import { zh as pageZh } from './texts-zh.js'

/** The statistics and the inspector bring their own, and are loaded when they are opened. */
const en = { ...pageEn, ...mediaEn }
const zh = { ...pageZh, ...mediaZh }

/**
 * @typedef {'en' | 'zh'} Language
 * @typedef {keyof typeof en} TextKey
 * @typedef {Record<string, string | number>} Values
 */

/** @type {Record<Language, Readonly<Record<TextKey, string>>>} */
const catalogs = { en, zh }
/** @type {Language} */
let language = 'en'
const changes = new EventTarget()

/** @param {unknown} value @returns {value is Language} */
export const isLanguage = (value) => value === 'en' || value === 'zh'

/** The language of now. */
export function currentLanguage() {
  return language
}

/**
 * Speaks another language from now on. Views that listen with `onLanguage` show it at once.
 * @param {Language} next
 */
export function setLanguage(next) {
  language = next
  changes.dispatchEvent(new Event('change'))
}

/**
 * @param {() => void} listener  called after each change of language
 * @param {{ signal?: AbortSignal }} [options]
 */
export function onLanguage(listener, options) {
  changes.addEventListener('change', listener, options)
}

/**
 * The language to begin with: what the address asks for (`?lang=`), what was chosen before, or the
 * first of the reader's languages that there is; else English.
 * @param {object} from
 * @param {string} [from.search]  a query string
 * @param {unknown} [from.chosen]
 * @param {readonly string[]} [from.languages]  as in navigator.languages
 * @returns {Language}
 */
export function firstLanguage({ search = '', chosen, languages = [] }) {
  const short = (/** @type {string | null | undefined} */ tag) => tag?.toLowerCase().split('-')[0]
  const wishes = [short(new URLSearchParams(search).get('lang')), chosen, ...languages.map(short)]
  return wishes.find(isLanguage) ?? 'en'
}

/**
 * @param {TextKey} key
 * @param {Values} [values]
 */
export function text(key, values = {}) {
  return catalogs[language][key].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''))
}

/**
 * Whether there is a text of this name: for names that are made from codes.
 * @param {string} key
 * @returns {key is TextKey}
 */
export function isText(key) {
  return Object.hasOwn(en, key)
}

/**
 * A size for people, in kB, MB or GB of powers of ten.
 * @param {number} bytes
 */
export function size(bytes) {
  const units = ['B', 'kB', 'MB', 'GB']
  let unit = 0
  let value = bytes
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : 1
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value)} ${units[unit]}`
}

/**
 * A duration for people: `0:07`, `12:34`, `1:02:03`.
 * @param {number} ms
 */
export function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000))
  const two = (/** @type {number} */ n) => String(n).padStart(2, '0')
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60]
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`
}
