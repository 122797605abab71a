// @ts-check
/**
 * The doctor's page: asks, from this browser, what goes wrong most often, and shows a line for each.
 * `data-phase` on the root says `doctor`, `data-state` on `#summary` and on each line what was found.
 */
import { TabSession } from '../session.js'
import { newSessionKey } from '../signaling.js'
import { askDevices, askSecure } from './doctor-browser.js'
import { askLoop, askStun, askTurn, browserIceEnv, candidateKinds, targetsOf } from './doctor-ice.js'
import { report } from './doctor-report.js'
import { askHealth, askSocket, bad, browserEnv, IDLE, none, ok, watchIdle } from './doctor-server.js'
import { button, find, icon, make, say, show } from './dom.js'
import { invitationOf } from './invitation.js'
import { beginInLanguage, offerPreferences } from './preferences.js'
import { storage, Store } from './store.js'
import { currentLanguage } from './texts.js'
import { en, zh } from './texts-doctor.js'

/** @import { Target, Transport } from './doctor-ice.js' */
/** @import { Finding } from './doctor-server.js' */
/** @import { Values } from './texts.js' */

/**
 * A line of the page. `about` names its label, `line` its texts.
 * @typedef {{ id: string, about: string, line: string, finding: Finding }} Entry
 */

const TRANSPORTS = /** @type {const} */ (['udp', 'tcp', 'tls'])
/** What is asked in any case, in the order of the page: the group's list, and its lines. */
const GROUPS = /** @type {const} */ ([
  ['#lines-server', ['secure', 'health', 'clock', 'websocket', 'origin', 'join', 'idle']],
  ['#lines-relay', ['servers', 'loop']],
  ['#lines-browser', ['candidates', 'devices']],
])
const BUSY = /** @type {Finding} */ ({ state: 'busy', outcome: 'busy' })
const OFFER = none('offer', { seconds: IDLE / 1000 })

const root = document.documentElement
const store = new Store(storage('localStorage'))
/** The lines, by id. @type {Map<string, Entry>} */
const entries = new Map()
/** Ends what is being asked, when it is asked anew. */
let asking = new AbortController()
/** Ends the watch over a silent connection. */
let watching = new AbortController()
let isAsking = false

// --- texts ----------------------------------------------------------------------------------------

/**
 * A text of this page in the language of now; '' where there is none of that name.
 * @param {string} key
 * @param {Values} [values]
 */
function words(key, values = {}) {
  /** @type {Readonly<Record<string, string>>} */
  const catalog = { en, zh }[currentLanguage()]
  const filled = (catalog[key] ?? '').replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''))
  return filled.replace(/ {2,}/g, ' ').trim() // where a browser gave no code, or no text
}

/** What a line says. @param {Entry} entry */
function saidBy({ about, line, finding: { state, outcome, values = {} } }) {
  const key = `doctor.${line}.${outcome}`
  const kinds = String(values.kinds ?? '').split(' ').map((kind) => words(`doctor.kind-${kind}`)).join(currentLanguage() === 'zh' ? '、' : ', ')
  return {
    state,
    about: words(`doctor.${about}`),
    reason: words(key, { ...values, kinds }) || words(`doctor.${outcome}`),
    fix: words(`${key}.fix`, values),
  }
}

// --- lines ----------------------------------------------------------------------------------------

/**
 * Shows what was found.
 * @param {string} id
 * @param {Finding} finding
 */
function tell(id, finding) {
  const entry = entries.get(id)
  if (!entry) return
  entry.finding = finding
  render(entry)
}

/** @param {Entry} entry */
function render(entry) {
  const { state, about, reason, fix } = saidBy(entry)
  const line = find(`#line-${entry.id}`)
  line.dataset.state = state
  line.dataset.outcome = entry.finding.outcome
  find('use', line).setAttribute('href', `#i-${{ ok: 'ok', bad: 'bad', none: 'none', busy: 'none' }[state]}`)
  say(find('.state', line), words(`doctor.state-${state}`))
  say(find('b', line), about)
  say(find('.reason', line), reason)
  say(find('.fix', line), fix)
}

/**
 * A new line, at the end of a list or before a line of it.
 * @param {Entry} entry
 * @param {Element} list
 * @param {Element | null} [before]
 */
function add(entry, list, before = null) {
  const line = make('li')
  line.id = `line-${entry.id}`
  const mark = make('span', 'mark')
  mark.setAttribute('aria-hidden', 'true')
  mark.append(icon('none'))
  const body = make('div')
  body.append(make('span', 'state unseen'), make('b'), make('span', 'reason'), make('span', 'fix'))
  line.append(mark, body)
  list.insertBefore(line, before)
  entries.set(entry.id, entry)
  render(entry)
}

/** The lines as they are before anything is known. */
function clear() {
  watching.abort()
  entries.clear()
  for (const [list, lines] of GROUPS) {
    find(list).replaceChildren()
    for (const line of lines) add({ id: line, about: line, line, finding: line === 'idle' ? OFFER : BUSY }, find(list))
  }
  find('div', find('#line-idle')).append(watch)
}

// --- asking ---------------------------------------------------------------------------------------

async function ask() {
  asking.abort()
  const { signal } = (asking = new AbortController())
  /** Tells what was found, unless it is being asked anew. @type {typeof tell} */
  const found = (id, finding) => signal.aborted || tell(id, finding)
  isAsking = true
  clear()
  summarize()
  found('secure', askSecure({ isSecure: isSecureContext, origin: location.origin }))
  await Promise.all([
    askHealth(browserEnv()).then(({ health, clock }) => {
      found('health', health)
      found('clock', clock)
    }),
    askSocket(browserEnv(), invitation()).then(async ({ websocket, origin, join, iceServers }) => {
      found('websocket', websocket)
      found('origin', origin)
      found('join', join)
      if (!signal.aborted) await askIce(iceServers, found)
    }),
    askDevices(navigator).then((finding) => found('devices', finding)),
  ])
  if (signal.aborted) return
  isAsking = false
  summarize()
}

/**
 * @param {RTCIceServer[] | undefined} iceServers  undefined: nobody said
 * @param {typeof tell} found
 */
async function askIce(iceServers, found) {
  const targets = targetsOf(iceServers ?? [])
  if (typeof RTCPeerConnection === 'undefined') {
    found('candidates', bad('unsupported'))
    for (const id of ['servers', 'loop']) found(id, none('not-asked'))
    return
  }
  const env = browserIceEnv()
  const candidates = candidateKinds(env, iceServers ?? []).then((kinds) => {
    found('candidates', kinds.size > 0 ? ok('found', { kinds: [...kinds].join(' ') }) : bad('nothing'))
  })
  if (!iceServers) {
    for (const id of ['servers', 'loop']) found(id, none('not-asked'))
    return candidates
  }
  found('servers', serversOf(targets))
  const loop = find('#line-loop')
  const asked = targets.map(async (target, n) => {
    const about = target.kind === 'stun' ? 'stun' : `turn-${target.transport}`
    add({ id: `ice-${n}`, about, line: target.kind, finding: BUSY }, find('#lines-relay'), loop)
    const finding = await (target.kind === 'stun' ? askStun : askTurn)(env, target)
    found(`ice-${n}`, finding)
    return { target, finding }
  })
  for (const about of missing(targets)) {
    add({ id: about, about, line: about === 'stun' ? 'stun' : 'turn', finding: none(about === 'turn' ? 'unnamed' : 'missing') }, find('#lines-relay'), loop)
  }
  const relays = (await Promise.all(asked)).filter(({ target, finding }) => target.kind === 'turn' && finding.state === 'ok')
  found('loop', await askLoop(env, relays.map(({ target }) => target.server)))
  await candidates
}

/** @param {Target[]} targets */
function serversOf(targets) {
  if (targets.length === 0) return none('nothing')
  const count = (/** @type {Target['kind']} */ kind) => targets.filter((target) => target.kind === kind).length
  return ok('named', { stun: count('stun'), turn: count('turn'), urls: targets.map(({ url }) => `\n${url}`).join('') })
}

/** The lines of what nobody named, where something was. @param {Target[]} targets */
function missing(targets) {
  if (targets.length === 0) return []
  const has = (/** @type {Target['kind']} */ kind, /** @type {Transport | undefined} */ transport = undefined) =>
    targets.some((target) => target.kind === kind && (!transport || target.transport === transport))
  const turn = has('turn') ? TRANSPORTS.filter((transport) => !has('turn', transport)).map((transport) => `turn-${transport}`) : ['turn']
  return has('stun') ? turn : ['stun', ...turn]
}

// --- a silent connection --------------------------------------------------------------------------

const watch = make('button', 'quiet')
watch.id = 'watch'
watch.type = 'button'
watch.addEventListener('click', () => (isWatching() ? watching.abort() : watchSilence()))

const isWatching = () => entries.get('idle')?.finding.outcome === 'counting'

async function watchSilence() {
  const { signal } = (watching = new AbortController())
  const entry = entries.get('idle')
  const seconds = IDLE / 1000
  const show = (/** @type {Finding} */ finding) => {
    if (entries.get('idle') !== entry) return // it was asked anew
    tell('idle', finding)
    nameWatch()
    summarize()
  }
  show({ state: 'busy', outcome: 'counting', values: { lived: 0, seconds } })
  show(await watchIdle(browserEnv(), invitation(), {
    tick: (lived) => show({ state: 'busy', outcome: 'counting', values: { lived, seconds } }),
    signal,
  }))
}

function nameWatch() {
  say(watch, words(isWatching() ? 'doctor.idle.stop' : 'doctor.idle.start'))
}

// --- the sum of it --------------------------------------------------------------------------------

function summarize() {
  const states = [...entries.values()].map(({ finding }) => finding.state)
  const count = (/** @type {Finding['state']} */ wanted) => states.filter((state) => state === wanted).length
  // The silent connection is for those who want to know: it is not counted as missing.
  const unasked = count('none') - Number(entries.get('idle')?.finding === OFFER)
  const outcome = isAsking ? 'asking' : count('bad') > 0 ? 'summary-bad' : unasked > 0 ? 'summary-none' : 'summary-ok'
  const summary = find('#summary')
  summary.dataset.state = isAsking ? 'busy' : count('bad') > 0 ? 'bad' : unasked > 0 ? 'none' : 'ok'
  say(summary, words(`doctor.${outcome}`, { bad: count('bad'), all: states.length, none: unasked }))
  button('#again').disabled = button('#copy').disabled = isAsking
  show(find('#report'), !isAsking)
  find('textarea').textContent = isAsking ? '' : reportOfNow()
}

function reportOfNow() {
  const page = { address: location.origin + location.pathname, browser: navigator.userAgent, at: new Date() }
  return report(page, [...document.querySelectorAll('.lines > li')].flatMap(({ id }) => entries.get(id.slice('line-'.length)) ?? []).map(saidBy))
}

button('#again').addEventListener('click', ask)
button('#copy').addEventListener('click', async () => {
  say(find('#copied'), words((await copied()) ? 'doctor.copied' : 'doctor.not-copied'))
})

/** On insecure origins there is no navigator.clipboard, and the older way has to do. */
async function copied() {
  const field = /** @type {HTMLTextAreaElement} */ (find('textarea'))
  try {
    await navigator.clipboard.writeText(field.value)
    return true
  } catch {
    /** @type {HTMLDetailsElement} */ (find('#report')).open = true
    field.select()
    return document.execCommand?.('copy') === true
  }
}

// --- token, language and theme --------------------------------------------------------------------

const tab = await TabSession.open({ storage: storage('sessionStorage'), locks: navigator.locks, newTab: () => newSessionKey() })

/** Takes a token out of the address, as the page itself does: it is a secret, and stays with this tab. */
function takeToken() {
  const { room, token } = invitationOf(location.hash)
  if (!token) return
  tab.remember({ invitation: { room, token } })
  history.replaceState(null, '', room ? `#${encodeURIComponent(room)}` : location.pathname + location.search)
}

/** The token that this tab has, unless the address names another room. */
function invitation() {
  const { room } = invitationOf(location.hash)
  const { invitation: kept } = tab.memory
  return kept && (!room || kept.room === room) ? kept : { room }
}

offerPreferences(store, () => {
  for (const element of document.querySelectorAll('[data-words]')) say(element, words(element.getAttribute('data-words') ?? ''))
  document.title = `${words('doctor.title')} · duet`
  say(find('#copied'), '')
  for (const entry of entries.values()) render(entry)
  nameWatch()
  summarize()
})

window.addEventListener('hashchange', () => {
  takeToken()
  ask()
})
takeToken()
clear()
beginInLanguage(store)
root.dataset.phase = 'doctor'
ask()
