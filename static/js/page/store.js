// @ts-check
/** What the page keeps in this browser: choices and recent rooms. Without storage it forgets them. */
import { isName, isRoom } from '../protocol.js'

/**
 * @typedef {object} Settings
 * @property {string} [name]
 * @property {'en' | 'zh'} [language]
 * @property {'auto' | 'light' | 'dark'} [theme]
 * @property {'low' | 'medium' | 'high'} [quality]
 * @property {string} [audioinput]  the id of the microphone that was chosen
 * @property {string} [videoinput]
 * @property {string} [audiooutput]
 * @property {string} [corner]  of the own picture: nw, ne, sw or se
 * @property {string} [reports]  'on' where the server may be told how calls fare
 *
 * @typedef {{ room: string, at: number }} Recent  `at`: when it was last entered, Unix time in milliseconds
 */

const SETTINGS = 'duet-settings'
const RECENT = 'duet-recent'
/** How many rooms are remembered. */
export const MAX_RECENT = 6

export class Store {
  #storage

  /** @param {Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>} [storage] */
  constructor(storage) {
    this.#storage = storage
  }

  /** @returns {Settings} */
  get settings() {
    const kept = this.#read(SETTINGS)
    if (typeof kept !== 'object' || kept === null || Array.isArray(kept)) return {}
    const strings = Object.entries(kept).filter(([, value]) => typeof value === 'string' && value.length <= 512)
    const settings = /** @type {Settings} */ (Object.fromEntries(strings))
    if (settings.name !== undefined && !isName(settings.name)) delete settings.name
    return settings
  }

  /** @param {Settings} changes */
  set(changes) {
    this.#write(SETTINGS, { ...this.settings, ...changes })
  }

  /** The rooms entered last, newest first. @returns {Recent[]} */
  get recent() {
    const kept = this.#read(RECENT)
    return Array.isArray(kept) ? kept.filter(isRecent).slice(0, MAX_RECENT) : []
  }

  /**
   * @param {string} room
   * @param {number} at
   */
  entered(room, at) {
    this.#write(RECENT, [{ room, at }, ...this.recent.filter((r) => r.room !== room)].slice(0, MAX_RECENT))
  }

  forgetRecent() {
    try {
      this.#storage?.removeItem(RECENT)
    } catch {
      // Nothing was kept, then.
    }
  }

  /** @param {string} key @returns {unknown} */
  #read(key) {
    try {
      return JSON.parse(this.#storage?.getItem(key) ?? 'null')
    } catch {
      return null
    }
  }

  /** @param {string} key @param {unknown} value */
  #write(key, value) {
    try {
      this.#storage?.setItem(key, JSON.stringify(value))
    } catch {
      // Storage is full or forbidden.
    }
  }
}

/** @param {unknown} r @returns {r is Recent} */
function isRecent(r) {
  return typeof r === 'object' && r !== null && 'room' in r && typeof r.room === 'string' && isRoom(r.room) &&
    'at' in r && typeof r.at === 'number'
}

/**
 * The storage of a kind, where the browser gives it: some throw on the mere access.
 * @param {'localStorage' | 'sessionStorage'} kind
 * @returns {Storage | undefined}
 */
export function storage(kind) {
  try {
    return globalThis[kind]
  } catch {
    return undefined
  }
}
