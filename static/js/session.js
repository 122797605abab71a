// @ts-check
/**
 * What a tab remembers of its last load, so that a reload takes its own place again and never finds
 * its room full. A duplicated tab starts with a copy of sessionStorage, so a Web Lock says which of
 * the two the memory belongs to.
 */

/**
 * @typedef {object} Memory
 * @property {string} [key]  the session key of the last load
 * @property {string} [room]
 * @property {string} [name]
 * @property {{ room: string, token: string }} [invitation]  the token that an address brought
 * @property {boolean} [inCall]  the last load was in a call and did not hang up
 */

const STORAGE_KEY = 'duet'
/** How long a reload waits for the load before it to let go of the tab's lock, in milliseconds. */
const LOCK_WAIT = 1000

export class TabSession {
  #storage
  #tab
  #memory

  /**
   * @param {Storage | undefined} storage
   * @param {string} tab  names the lock
   * @param {Memory} memory
   */
  constructor(storage, tab, memory) {
    this.#storage = storage
    this.#tab = tab
    this.#memory = memory
  }

  /** What is left of the last load of this very tab; empty where that cannot be proved. */
  get memory() {
    return this.#memory
  }

  /** @param {Memory} changes */
  remember(changes) {
    this.#memory = { ...this.#memory, ...changes }
    try {
      this.#storage?.setItem(STORAGE_KEY, JSON.stringify({ ...this.#memory, tab: this.#tab }))
    } catch {
      // Storage is full or forbidden: the next load starts without a memory.
    }
  }

  /**
   * Reads the memory of this tab and locks it for the life of the page. Without the Web Locks API
   * (insecure origins) or without the lock the memory belongs to nobody: a new one begins.
   * @param {object} env
   * @param {Storage} [env.storage]
   * @param {LockManager} [env.locks]
   * @param {() => string} env.newTab  makes a name for a tab
   * @param {() => AbortSignal} [env.patience]  when to stop waiting for the lock
   */
  static async open({ storage, locks, newTab, patience = () => AbortSignal.timeout(LOCK_WAIT) }) {
    const { tab, ...memory } = read(storage)
    if (tab && (await hold(locks, tab, patience()))) return new TabSession(storage, tab, memory)
    const fresh = newTab()
    await hold(locks, fresh, patience())
    return new TabSession(storage, fresh, {})
  }
}

/**
 * @param {Storage | undefined} storage
 * @returns {Memory & { tab?: string }}
 */
function read(storage) {
  try {
    return JSON.parse(storage?.getItem(STORAGE_KEY) ?? '{}') ?? {}
  } catch {
    return {}
  }
}

/**
 * Takes the tab's lock and keeps it for as long as the page lives.
 * @param {LockManager | undefined} locks
 * @param {string} tab
 * @param {AbortSignal} signal
 * @returns {Promise<boolean>}
 */
function hold(locks, tab, signal) {
  if (!locks) return Promise.resolve(false)
  return new Promise((resolve) => {
    const forever = () => {
      resolve(true)
      return new Promise(() => {})
    }
    locks.request(`duet-tab-${tab}`, { signal }, forever).catch(() => resolve(false))
  })
}
