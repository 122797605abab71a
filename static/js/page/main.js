// @ts-check
/**
 * The page: which of its views is shown, and what the buttons do. For tests and for the curious,
 * `window.duet` holds `{ room, media, inspector }` of now, and the elements carry their state:
 * `data-phase`, `data-lang` and `data-theme` on the root, `data-key` on `#status`, `#banner`,
 * `#status-note`, `.card` and `#ended`, `data-state`, `data-presence` and `data-video` on `.tile`.
 */
import { LocalMedia } from '../media.js'
import { isRoom } from '../protocol.js'
import { MAX_CHAT } from '../room.js'
import { TabSession } from '../session.js'
import { newSessionKey } from '../signaling.js'
import { CallView } from './call-view.js'
import { CardHost } from './cards.js'
import { Chat } from './chat.js'
import { DeviceChoice } from './devices.js'
import { button, find, make, say, select, show } from './dom.js'
import { keepInCorner } from './drag.js'
import { Drawer } from './drawer.js'
import { Ended } from './end.js'
import { FileList } from './files.js'
import { Home } from './home.js'
import { Inspector } from './inspector.js'
import { invitationOf } from './invitation.js'
import { Invite } from './invite.js'
import { beginInLanguage, offerPreferences } from './preferences.js'
import { Prejoin, toggle } from './prejoin.js'
import { shortcutOf } from './shortcuts.js'
import { mediaFailure, nameOf } from './status.js'
import { storage, Store } from './store.js'
import { text } from './texts.js'
import { Visit } from './visit.js'
import { keepAwake } from './wake-lock.js'

/** @import { Member, Quality } from '../room.js' */
/** @import { Picture } from './visit.js' */
/** @import { Status } from './status.js' */
/** @import { TextKey } from './texts.js' */

/** @typedef {'home' | 'prejoin' | 'asking' | 'call' | 'ended'} Phase */

const root = document.documentElement
const store = new Store(storage('localStorage'))
const tabMemory = storage('sessionStorage')
const inspector = new Inspector()
/** @type {Visit | undefined} */
let visit
/** @type {LocalMedia | undefined} the devices of now: before a call and in it */
let media
let mediaOver = new AbortController()
/** The devices have answered, one way or the other. */
let opened = Promise.resolve()
let retryTimer = 0
/** @type {Status} */
let status = { key: 'home' }

// --- views ----------------------------------------------------------------------------------------

const view = new CallView((video) => devices.playWhereChosen(video))
const devices = new DeviceChoice(store, () => view.toast(text('deviceFailed')))
const home = new Home(store, (room) => goTo(room))
const prejoin = new Prejoin({
  join: (name) => join(name),
  joinWithout: (name) => {
    media?.stop('audio')
    media?.stop('video')
    opened = Promise.resolve()
    join(name)
  },
})
const ended = new Ended({ rejoin: () => rejoin(), home: () => goTo('') })
const drawer = new Drawer()
const invite = new Invite((words) => view.toast(words))
const stageCard = new CardHost(find('#stage-card'))
const dialogCard = new CardHost(find('#card-dialog .card-host'))
const chat = new Chat({
  say: (words) => Boolean(visit?.room?.chat(words)),
  isSeen: () => drawer.shows('chat'),
  longest: MAX_CHAT,
})
const files = new FileList({
  members: () => [...(visit?.room?.members.values() ?? [])].filter(({ call }) => call.state === 'connected'),
  tell: (words) => view.toast(words),
})

/** @param {Phase} phase */
function showPhase(phase) {
  root.dataset.phase = phase
  show(find('#home'), phase === 'home')
  show(find('#prejoin'), phase === 'prejoin')
  show(find('#call'), phase === 'asking' || phase === 'call')
  show(find('#ended'), phase === 'ended')
  show(find('#asking'), phase === 'asking')
  // What is hidden keeps the focus until the next rendering, and would swallow keys.
  const focus = /** @type {HTMLElement | null} */ (document.activeElement)
  if (focus?.closest('[hidden]')) focus.blur()
  if (phase !== 'call') {
    view.members([])
    view.banner(undefined)
    stageCard.show(undefined)
    show(find('#waiting'), false)
    for (const popover of document.querySelectorAll('[popover]:popover-open')) /** @type {HTMLElement} */ (popover).hidePopover()
    for (const dialog of document.querySelectorAll('dialog')) dialog.close()
  }
  /** @type {HTMLAnchorElement} */ (find('#brand')).target = phase === 'call' ? '_blank' : ''
  const room = phase === 'home' ? '' : roomInAddress()
  say(find('#room-title'), room)
  document.title = room ? `${room} · duet` : 'duet'
  placeSettings()
}

/** @param {Status} next */
function showStatus(next) {
  status = next
  const line = find('#status')
  line.dataset.key = next.key
  line.dataset.level = next.level ?? 'quiet'
  const words = text(next.key, next.values)
  const isBad = next.level === 'bad'
  line.setAttribute('aria-live', isBad ? 'off' : 'polite') // what is bad is said at once, and once
  say(find('#status-text'), words)
  say(find('#alert'), isBad ? words : '')
}

/** Language and theme stand in the header, and on a phone in a call in the menu. */
function placeSettings() {
  const inMenu = narrow.matches && (root.dataset.phase === 'call' || root.dataset.phase === 'asking')
  const place = find(inMenu ? '#more-settings' : '#settings')
  const language = select('#language')
  if (language.parentElement !== place) place.append(language, select('#theme'))
}
const canHover = matchMedia('(hover: hover)')
const narrow = matchMedia('(max-width: 639px)')
narrow.addEventListener('change', placeSettings)

// --- from view to view ----------------------------------------------------------------------------

/** The room that the page's address names; '' where it names none that there can be. */
function roomInAddress() {
  const { room } = invitationOf(location.hash)
  return isRoom(room) ? room : ''
}

/** Takes a token out of the address: it is a secret, and stays with this tab. */
function takeToken() {
  const { room, token } = invitationOf(location.hash)
  if (!token) return
  tab.remember({ invitation: { room, token } })
  history.replaceState(null, '', `#${encodeURIComponent(room)}`)
}

/** @param {string} room */
function tokenFor(room) {
  const { invitation } = tab.memory
  return invitation?.room === room ? invitation.token : undefined
}

/** Opens the doctor's page beside the call. Its tab gets the token in the fragment, as from an invite link. */
function openDoctor() {
  const room = roomInAddress()
  const token = tokenFor(room)
  window.open(token ? `doctor#${encodeURIComponent(room)}&token=${token}` : 'doctor', '_blank', 'noopener')
}

/** @param {string} room  '' for home */
function goTo(room) {
  const hash = room && `#${encodeURIComponent(room)}`
  if (location.hash !== hash) history.pushState(null, '', hash || location.pathname + location.search)
  enter()
}

/** Shows what the address asks for. */
function enter() {
  clearTimeout(retryTimer)
  takeToken()
  const before = visit
  visit = undefined
  before?.end()
  awake.want(false)
  drawer.close()
  const room = roomInAddress()
  if (room) return prepare(room)
  closeMedia()
  prejoin.leave()
  showPhase('home')
  showStatus({ key: 'home' })
  home.enter()
}

/** @param {string} room */
function prepare(room) {
  showPhase('prejoin')
  showStatus({ key: 'prejoin' })
  openMedia()
  prejoin.enter(room, name(), /** @type {LocalMedia} */ (media))
  if (canHover.matches) find('#name').focus() // on a phone the keyboard would cover the picture
}

const name = () => tab.memory.name ?? store.settings.name ?? ''

function openMedia() {
  closeMedia()
  const now = (media = new LocalMedia())
  mediaOver = new AbortController()
  const { signal } = mediaOver
  now.addEventListener('change', () => {
    rememberSwitches(now)
    if (root.dataset.phase === 'prejoin') devices.refresh()
  }, { signal })
  const { audio, video } = switches()
  const kinds = /** @type {const} */ (['audio', 'video']).filter((kind) => (kind === 'audio' ? audio !== 'off' : video !== 'off'))
  opened = devices.follow(now, signal).then(async () => {
    if (kinds.length) await now.open([...kinds])
    if (audio === 'muted' && now.microphone) {
      now.microphone.enabled = false
      now.dispatchEvent(new Event('change'))
    }
    await devices.refresh()
  })
}

function closeMedia() {
  mediaOver.abort()
  media?.close()
  media = undefined
}

/**
 * What was switched on in this tab: a reload in mid-call switches nothing on that was off.
 * @returns {{ audio?: string, video?: string }}
 */
function switches() {
  try {
    return JSON.parse(tabMemory?.getItem('duet-switches') ?? '{}') ?? {}
  } catch {
    return {}
  }
}

/** @param {LocalMedia} now */
function rememberSwitches(now) {
  const of = (/** @type {'audio' | 'video'} */ kind) => {
    const state = now.state(kind)
    return state === 'off' ? 'off' : state === 'muted' && kind === 'audio' ? 'muted' : 'on'
  }
  try {
    tabMemory?.setItem('duet-switches', JSON.stringify({ audio: of('audio'), video: of('video') }))
  } catch {
    // Nothing is remembered, then.
  }
}

/** @param {string} as  the name that the others see */
async function join(as) {
  store.set({ name: as })
  prejoin.leave()
  await begin({ room: roomInAddress(), name: as })
}

/** @param {{ room: string, name: string }} where */
async function begin(where) {
  clearTimeout(retryTimer)
  chat.clear()
  files.clear()
  measured.length = 0
  const next = (visit = new Visit({ tab, where, token: tokenFor(where.room), media: /** @type {LocalMedia} */ (media), inspector, quality: quality(), reports: () => store.settings.reports === 'on' }))
  next.addEventListener('picture', (event) => render(/** @type {CustomEvent<Picture>} */ (event).detail))
  next.addEventListener('member', (event) => files.follow(/** @type {CustomEvent<Member>} */ (event).detail))
  next.addEventListener('chat', (event) => {
    const { from, text: words } = /** @type {CustomEvent<{ from: Member, text: string }>} */ (event).detail
    heard(nameOf(from), words)
  })
  next.addEventListener('announcement', (event) => heard(text('operator'), /** @type {CustomEvent} */ (event).detail))
  next.addEventListener('measured', (event) => {
    measured.push(/** @type {CustomEvent} */ (event).detail)
    if (measured.length > MEASURED) measured.shift()
    statsView?.update(/** @type {CustomEvent} */ (event).detail, nameOfPeer)
  })
  next.addEventListener('over', (event) => over(next, /** @type {CustomEvent} */ (event).detail))
  // Joining before the devices are there would cost every call a second negotiation.
  showPhase('asking')
  showStatus({ key: 'asking', level: 'busy' })
  view.own(next.media, next.sending, where.name)
  await Promise.race([opened, skipped()])
  if (next.isOver || visit !== next) return
  store.entered(where.room, Date.now())
  showPhase('call')
  if (document.activeElement === document.body) button('#microphone').focus()
  invite.show(where.room)
  awake.want(true)
  next.begin()
}

function skipped() {
  return new Promise((resolve) => button('#skip-media').addEventListener('click', resolve, { once: true }))
}

/** @param {Picture} picture */
function render({ room, status, note, failure, pill, rtt }) {
  const { media: own, sending, where } = /** @type {Visit} */ (visit)
  view.own(own, sending, where.name)
  view.members(room.members.values())
  view.note(note)
  view.pill(pill, rtt)
  const callIsUp = [...room.members.values()].some(({ call }) => call.state === 'connected')
  const lasting = status.level === 'busy' || status.level === 'bad'
  view.banner(lasting && (callIsUp || room.joined) && !failure ? status : undefined)
  stageCard.show(failure, [
    { label: 'tryNow', run: () => room.networkChanged() },
    ...(failure?.key === 'unanswered' ? [] : [{ label: /** @type {const} */ ('checkNetwork'), run: openDoctor }]),
  ])
  const waiting = room.members.size === 0 && !failure
  invite.place(room.members.size === 0)
  show(find('#waiting'), waiting && room.joined)
  showStatus(status)
}

/** @param {string} who @param {string} words */
function heard(who, words) {
  chat.heard(who, words)
  if (!drawer.shows('chat')) view.toast(words, who)
}

/**
 * @param {Visit} which
 * @param {{ why: Status, lasted: number, retryAfter: number }} how
 */
function over(which, { why, lasted, retryAfter }) {
  if (which !== visit) return
  awake.want(false)
  drawer.close()
  closeMedia()
  showPhase('ended')
  showStatus(why)
  ended.enter(why, lasted)
  if (retryAfter) rejoinIn(retryAfter)
}

/**
 * Goes back in when a place may have come free. The card counts the seconds, for the eye: a screen reader
 * has said once that it is tried again.
 * @param {number} seconds
 */
function rejoinIn(seconds) {
  ended.count(seconds)
  retryTimer = window.setTimeout(() => (seconds > 1 ? rejoinIn(seconds - 1) : rejoin()), 1000)
}

/** Goes back into the call that has just ended, with the devices as they were. */
function rejoin() {
  const room = roomInAddress()
  if (!room) return goTo('')
  openMedia()
  begin({ room, name: name() })
}

// --- the drawer -----------------------------------------------------------------------------------

/** @type {import('./stats-view.js').StatsView | undefined} */
let statsView
/** What was measured before the statistics are looked at: the last minute. */
const MEASURED = 60
/** @type {Map<string, import('../stats.js').Summary>[]} */
const measured = []

/** @param {string} id */
function nameOfPeer(id) {
  const member = visit?.room?.members.get(id)
  return member ? nameOf(member) : ''
}

let inspectorIsShown = false

drawer.addEventListener('change', async () => {
  button('#chat-toggle').setAttribute('aria-expanded', String(drawer.shows('chat')))
  root.dataset.drawer = drawer.isOpen ? 'open' : 'closed'
  if (drawer.shows('chat')) {
    chat.seen()
    view.hush()
  }
  if (drawer.shows('inspector') && !inspectorIsShown) {
    inspectorIsShown = true
    const { InspectorView } = await import('./inspector-view.js')
    new InspectorView(find('#inspector'), inspector)
  }
  if (drawer.shows('stats') && !statsView) {
    const { StatsView } = await import('./stats-view.js')
    if (statsView) return // opened twice while it came
    statsView = new StatsView(find('#stats'))
    for (const figures of measured) statsView.update(figures, nameOfPeer)
  }
})

function toggleChat() {
  drawer.toggle('chat')
  if (drawer.shows('chat')) chat.focus()
}

// --- buttons and keys -----------------------------------------------------------------------------

async function toggleShare() {
  if (!media) return
  try {
    if (media.screen) {
      media.stopSharing()
      view.toast(text('screenStopped'))
    } else {
      await media.shareScreen()
      view.toast(text('screenShared'))
    }
  } catch (error) {
    const { code, message } = /** @type {import('../errors.js').ClientError} */ (error)
    if (code !== 'cancelled') view.toast(code === 'media-denied' ? text('screenDenied') : text('screenFailed', { message }))
  }
}

async function toggleFullscreen() {
  try {
    if (document.fullscreenElement) await document.exitFullscreen()
    else await root.requestFullscreen()
  } catch (error) {
    console.warn('duet:', error)
  }
}

async function togglePip() {
  const video = /** @type {HTMLVideoElement | null} */ (document.querySelector('.tile[data-video=on] video'))
  try {
    if (document.pictureInPictureElement) await document.exitPictureInPicture()
    else if (video) await video.requestPictureInPicture()
    else view.toast(text('pictureFailed'))
  } catch {
    view.toast(text('pictureFailed'))
  }
}

/** @returns {Quality} */
function quality() {
  const { quality: chosen } = store.settings
  return chosen === 'low' || chosen === 'medium' ? chosen : 'high'
}

const inCall = () => root.dataset.phase === 'call'

/** @type {Record<string, { label: TextKey, shown: string, run: () => void }>} */
const keys = {
  m: { label: 'keyMicrophone', shown: 'M', run: () => void (media && toggle(media, 'audio')) },
  v: { label: 'keyCamera', shown: 'V', run: () => void (media && toggle(media, 'video')) },
  s: { label: 'keyShare', shown: 'S', run: () => void toggleShare() },
  c: { label: 'keyChat', shown: 'C', run: toggleChat },
  f: { label: 'keyFullscreen', shown: 'F', run: () => void toggleFullscreen() },
  i: { label: 'keyInspector', shown: 'I', run: () => drawer.toggle('inspector') },
  '?': { label: 'keyHelp', shown: '?', run: () => help() },
  Escape: { label: 'keyEsc', shown: 'Esc', run: () => drawer.close() },
}

function help() {
  const dialog = /** @type {HTMLDialogElement} */ (find('#help'))
  find('#key-list').replaceChildren(...Object.values(keys).flatMap(({ label, shown }) => {
    const term = make('dt')
    term.append(make('kbd', '', shown))
    return [term, make('dd', '', text(label).replace(/\s*[(（][^()（）]*[)）]$/, ''))]
  }))
  if (!dialog.open) dialog.showModal()
}

/** @param {string} id @param {() => void} run */
const onClick = (id, run) => button(id).addEventListener('click', run)

/** What the menu does, it does and closes. @param {string} id @param {() => void} run */
const inMenu = (id, run) => onClick(id, () => {
  find('#more-menu').hidePopover()
  run()
})

onClick('#microphone', () => media && toggle(media, 'audio'))
onClick('#camera', () => media && toggle(media, 'video'))
onClick('#share', toggleShare)
onClick('#chat-toggle', toggleChat)
onClick('#hang-up', () => visit?.end())
onClick('#pill', () => drawer.toggle('stats'))
onClick('#note-close', () => visit?.dismissNote())
onClick('#note-help', () => {
  const now = media
  const failure = now && mediaFailure(now)
  if (!failure) return
  const dialog = /** @type {HTMLDialogElement} */ (find('#card-dialog'))
  const again = { label: /** @type {const} */ ('tryAgain'), run: () => {
    dialog.close()
    now.open()
  } }
  const close = { label: /** @type {const} */ ('close'), run: () => dialog.close() }
  dialogCard.show({ key: failure }, failure === 'insecure' ? [close] : [again, close])
  dialog.showModal()
})
for (const tab of /** @type {const} */ (['files', 'inspector', 'stats'])) {
  inMenu(`#open-${tab}`, () => {
    drawer.open(tab)
    button(`#tab-${tab}`).focus()
  })
}
inMenu('#fullscreen', () => void toggleFullscreen())
inMenu('#pip', () => void togglePip())
inMenu('#keys', help)
find('#more-menu').addEventListener('beforetoggle', () => devices.refresh())
show(button('#fullscreen'), document.fullscreenEnabled)
show(button('#pip'), document.pictureInPictureEnabled === true)
show(button('#share'), 'getDisplayMedia' in (navigator.mediaDevices ?? {}))
for (const close of document.querySelectorAll('.dialog-close')) {
  close.addEventListener('click', () => close.closest('dialog')?.close())
}
for (const dialog of document.querySelectorAll('dialog')) {
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close()) // outside of its content
}
find('#brand').addEventListener('click', (event) => {
  if (inCall()) return // opens another tab
  event.preventDefault()
  goTo('')
})

document.addEventListener('keydown', (event) => {
  if (!inCall() || document.querySelector('dialog[open]')) return
  const shortcut = shortcutOf(event)
  const key = shortcut === undefined ? undefined : keys[shortcut]
  if (!key) return
  if (shortcut === 'Escape' && document.querySelector('[popover]:popover-open')) return // closes by itself
  if (shortcut !== 'Escape') event.preventDefault()
  key.run()
})

// Files that are dropped anywhere in a call are sent; they never open in place of the page.
for (const type of ['dragover', 'drop']) {
  document.addEventListener(type, (event) => {
    const { dataTransfer } = /** @type {DragEvent} */ (event)
    if (!inCall() || !dataTransfer?.types.includes('Files')) return
    event.preventDefault()
    if (type !== 'drop') return
    drawer.open('files')
    files.send([...dataTransfer.files])
  })
}

const reports = /** @type {HTMLInputElement} */ (find('#reports'))
reports.checked = store.settings.reports === 'on'
reports.addEventListener('change', () => store.set({ reports: reports.checked ? 'on' : 'off' }))

const field = select('#quality')
field.value = quality()
field.addEventListener('change', () => {
  const chosen = /** @type {Quality} */ (field.value)
  store.set({ quality: chosen })
  visit?.room?.setQuality(chosen)
})

const own = find('#own')
const { corner } = store.settings
if (corner && ['nw', 'ne', 'sw', 'se'].includes(corner)) own.dataset.corner = corner
keepInCorner(own, (corner) => store.set({ corner }))

const awake = keepAwake()

// --- language and theme ---------------------------------------------------------------------------

offerPreferences(store, () => showStatus(status))

// --- the beginning --------------------------------------------------------------------------------

const tab = await TabSession.open({ storage: tabMemory, locks: navigator.locks, newTab: () => newSessionKey() })

Object.assign(window, {
  duet: {
    get room() {
      return visit?.room
    },
    get media() {
      return media
    },
    inspector,
  },
})
beginInLanguage(store)
window.addEventListener('hashchange', enter)

// A reload in mid-call goes back into the call.
takeToken()
const { memory } = tab
if (memory.inCall && memory.room && memory.room === roomInAddress()) {
  openMedia()
  begin({ room: memory.room, name: memory.name ?? '' })
} else {
  enter()
}
