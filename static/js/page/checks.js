// @ts-check
/** The three checks before a call. Each is green or red, with a reason and a way out. */
import { socketURL, SUBPROTOCOL } from '../protocol.js'
import { find, say } from './dom.js'
import { addresses } from './cards.js'
import { text } from './texts.js'

/** @import { TextKey } from './texts.js' */

/** A server that has not answered after this long does not answer, in milliseconds. */
const PATIENCE = 5000

/**
 * Asks the server for a sign of life over a WebSocket, as the call will: a plain request says nothing
 * about proxies that do not let WebSockets through.
 * @param {object} [env]
 * @param {string} [env.url]
 * @param {new (url: string, protocol: string) => WebSocket} [env.WebSocket]
 * @param {AbortSignal} [env.signal]
 * @param {() => number} [env.now]
 * @returns {Promise<number | undefined>}  the round trip in milliseconds; undefined: no answer
 */
export function askServer({
  url = socketURL(document.baseURI),
  WebSocket = globalThis.WebSocket,
  signal = AbortSignal.timeout(PATIENCE),
  now = () => performance.now(),
} = {}) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, SUBPROTOCOL)
    let asked = 0
    const end = (/** @type {number | undefined} */ ms) => {
      socket.close(1000)
      resolve(ms)
    }
    socket.addEventListener('open', () => {
      asked = now()
      socket.send('{"type":"ping"}')
    })
    socket.addEventListener('message', () => end(now() - asked))
    socket.addEventListener('close', () => resolve(undefined))
    signal.addEventListener('abort', () => end(undefined))
    if (signal.aborted) end(undefined)
  })
}

/**
 * Shows one check.
 * @param {'secure' | 'server' | 'devices'} name
 * @param {'ok' | 'bad' | 'busy'} state
 * @param {string} reason
 * @param {string} [fix]
 */
export function showCheck(name, state, reason, fix = '') {
  const line = find(`#check-${name}`)
  line.dataset.state = state
  find('use', line).setAttribute('href', state === 'bad' ? '#i-bad' : '#i-ok')
  say(find('.reason', line), reason)
  say(find('.fix', line), fix)
}

/** @param {boolean} secure */
export function showSecure(secure) {
  const where = addresses()
  if (secure) showCheck('secure', 'ok', text('check.secure.ok'))
  else showCheck('secure', 'bad', text('check.secure.bad', where), text('check.secure.fix', where))
}

/** @param {number | undefined | 'busy'} answer  as of askServer */
export function showServer(answer) {
  if (answer === 'busy') showCheck('server', 'busy', text('check.server.busy'))
  else if (answer === undefined) showCheck('server', 'bad', text('check.server.bad'), text('check.server.fix'))
  else showCheck('server', 'ok', text('check.server.ok', { ms: Math.max(1, Math.round(answer)) }))
}

/** @param {'busy' | 'ok' | 'off' | TextKey} state  a key: what is wrong */
export function showDevices(state) {
  if (state === 'busy') showCheck('devices', 'busy', text('check.devices.busy'))
  else if (state === 'ok' || state === 'off') showCheck('devices', 'ok', text(`check.devices.${state}`))
  else showCheck('devices', 'bad', text(state), text('check.devices.fix'))
}
