// @ts-check
/**
 * `io` for pages that were written for Socket.IO: the rooms of the WebRTC tutorials, on duet
 * (docs/migrating-from-socket-io.md). A classic script, so that one script tag is all that changes:
 *
 *     <script src="https://duet.example/js/compat/socket-io.js"></script>
 *
 * It loads the library from where it was loaded itself, and talks to the duet there, or to the one whose
 * page is at `data-server="https://…/"`. A URL given to `io` was the old server's and is ignored.
 */
;(() => {
  'use strict'
  const script = /** @type {HTMLScriptElement | null} */ (document.currentScript)
  if (!script) throw new Error('duet: socket-io.js needs a <script src> of its own, without type="module"')
  const page = new URL(script.dataset.server ?? '../..', script.dataset.server ? document.baseURI : script.src).href
  /** @type {Promise<typeof import('./tutorial-room.js')>} */
  const library = import(new URL('tutorial-room.js', script.src).href)

  /** @typedef {(...args: any[]) => void} Handler */

  /** What `io` returns. Everything that is emitted before the library is there, or the room joined, waits. */
  class Socket {
    /** @type {string | undefined} ours in the room, once joined */
    id
    /** From `connect` to `disconnect`, whatever the network does in between. */
    connected = false
    #wanted = false
    /** @type {Map<string, Map<Handler, boolean>>} of each event: the handlers, and whether they are to hear it but once */
    #handlers = new Map()
    /** @type {import('./tutorial-room.js').TutorialRoom | undefined} */
    #room
    #options

    /** @param {Partial<import('../signaling.js').SignalingOptions>} [options] */
    constructor(options) {
      this.#options = options
      this.connect()
    }

    connect() {
      this.#wanted = true
      library.then(
        () => this.#wanted && !this.connected && this.#hear('connect'),
        (error) => this.#hear('connect_error', error),
      )
      return this
    }

    disconnect() {
      this.#wanted = false
      this.#room?.leave()
      if (this.connected) this.#hear('disconnect', 'io client disconnect')
      return this
    }

    /** @param {string} event @param {Handler} handler */
    on(event, handler, once = false) {
      if (!this.#handlers.has(event)) this.#handlers.set(event, new Map())
      this.#handlers.get(event)?.set(handler, once)
      return this
    }

    /** @param {string} event @param {Handler} handler */
    once(event, handler) {
      return this.on(event, handler, true)
    }

    /** @param {string} event @param {Handler} [handler]  all of the event, where it is left out */
    off(event, handler) {
      if (handler) this.#handlers.get(event)?.delete(handler)
      else this.#handlers.delete(event)
      return this
    }

    /** @param {string} event @param {any[]} args  JSON */
    emit(event, ...args) {
      if (args.some((arg) => typeof arg === 'function')) throw new TypeError('duet: no acknowledgements; emit an event back')
      library.then((loaded) => this.#do(loaded, event, args), () => {}) // of its failure `connect_error` tells
      return this
    }

    /** @param {typeof import('./tutorial-room.js')} library @param {string} event @param {any[]} args */
    #do({ TutorialRoom }, event, args) {
      if (event === 'ipaddr') return // a tutorial asks for the address of its server
      const room = this.#room?.over ? undefined : this.#room
      if (event === 'create or join' || event === 'join') {
        const name = ['string', 'number'].includes(typeof args[0]) ? String(args[0]) : '' // which the server refuses
        if (room?.name === name) return
        room?.leave()
        this.#room = new TutorialRoom({
          page,
          room: name,
          counts: event !== 'join',
          hear: (what, ...details) => this.#hear(what, ...details),
          signaling: this.#options,
        })
      } else if (event === 'leave' || event === 'bye') {
        room?.leave()
        if (event === 'leave') this.#hear('leaved', room?.name, this.id)
      } else if (room) room.send(event, args)
      else this.#hear('error', new Error(`"${event}" has nobody to go to: join a room first`))
    }

    /** @param {string} event @param {any[]} args */
    #hear(event, ...args) {
      if (event === 'connect' || event === 'disconnect') this.connected = event === 'connect'
      if (event === 'created' || event === 'joined') this.id = args[1]
      const handlers = this.#handlers.get(event) ?? new Map()
      if (event === 'error' && handlers.size === 0) console.warn('duet:', ...args)
      for (const [handler, once] of handlers) {
        if (once) handlers.delete(handler)
        queueMicrotask(() => handler.apply(this, args)) // what one throws is not the next one's trouble
      }
    }
  }

  /**
   * @param {string | Record<string, any>} [url]
   * @param {Record<string, any>} [options]  `duet`: options of SignalingClient; those of Socket.IO mean nothing here
   */
  const io = (url, options = typeof url === 'object' ? url : {}) => new Socket(options?.duet)
  Object.assign(globalThis, { io: Object.assign(io, { connect: io }) })
})()
