// @ts-check
/**
 * Draws the inspector: a sequence diagram of you, the server and the others, one line an envelope or a
 * state, and what is inside the line that is opened. While its container is not visible it does nothing.
 * Whatever came over the wire enters through textContent only.
 */
import { make } from './dom.js'
import { explainCandidate, explainSDP, readCandidate } from './explain-sdp.js'
import { ALL_GROUPS, MASK, MAX_ENTRIES } from './inspector.js'
import { currentLanguage, onLanguage } from './texts.js'
import { en, zh } from './texts-inspector.js'

/** @import { Entry, Group, Inspector } from './inspector.js' */
/** @import { ExplainedLine, Saying } from './explain-sdp.js' */

/** The list follows what is new while its end is at most this far away, in CSS pixels. */
const NEAR_END = 48
/** The lifelines of the diagram; the peers' come after these. */
const YOU = 0
const SERVER = 1
const FIRST_PEER = 2

/**
 * A text of the inspector in the language of now. Where `name` is wanted and nobody has one, it says
 * "the peer".
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function words(key, values = {}) {
  /** @type {Readonly<Record<string, string>>} */
  const catalog = { en, zh }[currentLanguage()]
  const pattern = catalog[key] ?? key
  const filled = pattern.replace(/\{(\w+)\}/g, (_, name) => {
    const value = name === 'name' ? values.name || words('inspector.peer') : values[name]
    return String(value ?? '')
  })
  return currentLanguage() === 'zh' ? spaced(filled) : filled
}

/** Chinese and Latin text apart by a space, as Chinese typography wants it. @param {string} words */
function spaced(words) {
  return words.replace(/(\p{Script=Han})([A-Za-z0-9])/gu, '$1 $2').replace(/([A-Za-z0-9])(\p{Script=Han})/gu, '$1 $2')
}

/** Sentences one after another. @param {Saying[]} says */
const sentences = (says) => says.map(({ key, values }) => words(key, values)).join(currentLanguage() === 'zh' ? '' : ' ')

export class InspectorView {
  #container
  #inspector
  /** @type {AbortController | undefined} what ends while it is not visible */
  #visible
  #root = make('div', 'inspector')
  #list = make('ol', 'ins-rows')
  #lanes = make('div', 'ins-lanes')
  #count = make('p', 'ins-count')
  #empty = make('p', 'ins-empty')
  #pause = toolButton()
  #slow = toolButton()
  /** @type {Map<number, HTMLElement>} the lines by their entries' numbers, in order */
  #rows = new Map()
  /** @type {Set<number>} the numbers of those that are open */
  #opened = new Set()
  /** The number of the line that Tab leads to. */
  #current = 0
  /** The last entry that is shown while it is paused. */
  #upTo = 0
  /** @type {Set<Group>} */
  #hidden = new Set()
  /** @type {Entry[]} to be drawn with the next frame */
  #pending = []
  #observer

  /**
   * @param {HTMLElement} container  the view fills it, and draws whenever it can be seen
   * @param {Inspector} inspector
   */
  constructor(container, inspector) {
    this.#container = container
    this.#inspector = inspector
    container.replaceChildren(this.#root)
    this.#observer = new IntersectionObserver((changes) => {
      if (changes.at(-1)?.isIntersecting) this.#show()
      else this.#hide()
    })
    this.#observer.observe(container)
  }

  /** Ends the view for good and empties its container. */
  close() {
    this.#observer.disconnect()
    this.#hide()
    this.#container.replaceChildren()
  }

  #show() {
    if (this.#visible) return
    this.#visible = new AbortController()
    const { signal } = this.#visible
    const inspector = this.#inspector
    inspector.addEventListener('entry', (event) => this.#append(/** @type {CustomEvent<Entry>} */ (event).detail), { signal })
    inspector.addEventListener('held', () => this.#showCount(), { signal })
    inspector.addEventListener('change', () => this.#drawRows(), { signal })
    onLanguage(() => this.#draw(), { signal })
    this.#draw()
  }

  #hide() {
    this.#visible?.abort()
    this.#visible = undefined
    this.#pending = []
    this.#rows.clear()
    this.#root.replaceChildren()
  }

  // --- the frame ------------------------------------------------------------------------------

  #draw() {
    this.#list = make('ol', 'ins-rows')
    this.#list.setAttribute('role', 'list')
    this.#list.setAttribute('aria-label', words('inspector.list'))
    this.#list.addEventListener('keydown', (event) => this.#keydown(event))
    this.#list.addEventListener('focusin', (event) => this.#focused(event))
    this.#lanes.setAttribute('aria-hidden', 'true')
    this.#root.replaceChildren(
      make('p', 'ins-intro', words('inspector.intro')),
      this.#drawTools(),
      this.#drawFilters(),
      this.#lanes,
      this.#list,
      this.#empty,
      this.#count,
    )
    this.#drawRows()
  }

  #drawTools() {
    const inspector = this.#inspector
    this.#pause = toolButton('inspector.pause', 'inspector.pause-hint', () => {
      if (inspector.paused) return inspector.resume()
      this.#upTo = inspector.entries.at(-1)?.n ?? 0
      inspector.pause()
    })
    this.#slow = toolButton('inspector.slow', 'inspector.slow-hint', () => inspector.setSlow(!inspector.slow))
    return group('ins-tools', 'inspector.tools', [
      this.#pause,
      this.#slow,
      toolButton('inspector.clear', undefined, () => inspector.clear()),
      toolButton('inspector.download', 'inspector.download-hint', () => this.#download()),
    ])
  }

  #drawFilters() {
    const chips = ALL_GROUPS.map((name) => {
      const chip = toolButton(`inspector.group.${name}`, undefined, () => {
        if (!this.#hidden.delete(name)) this.#hidden.add(name)
        chip.setAttribute('aria-pressed', String(!this.#hidden.has(name)))
        this.#filter()
      })
      chip.dataset.group = name
      chip.setAttribute('aria-pressed', String(!this.#hidden.has(name)))
      return chip
    })
    return group('ins-filters', 'inspector.filters', chips)
  }

  /** The heads of the lifelines. Their number decides how wide they are. */
  #drawLanes() {
    const lifelines = this.#inspector.lifelines
    const peers = lifelines.length ? lifelines : [undefined]
    const heads = [
      make('span', 'ins-head-lane', words('inspector.you')),
      make('span', 'ins-head-lane', words('inspector.server')),
      ...peers.map((peer) => {
        const head = make('span', 'ins-head-lane', peer?.name || words('inspector.peer-lane'))
        head.dataset.present = String(peer?.present ?? false)
        return head
      }),
    ]
    this.#root.style.setProperty('--ins-lanes', String(heads.length))
    this.#lanes.replaceChildren(...heads)
  }

  #drawRows() {
    const focused = this.#list.contains(document.activeElement)
    this.#pause.setAttribute('aria-pressed', String(this.#inspector.paused))
    this.#slow.setAttribute('aria-pressed', String(this.#inspector.slow))
    this.#drawLanes()
    this.#pending = []
    this.#rows.clear()
    for (const entry of this.#inspector.entries) {
      if (!this.#inspector.paused || entry.n <= this.#upTo) this.#rows.set(entry.n, this.#row(entry))
    }
    this.#list.replaceChildren(...this.#rows.values())
    this.#filter()
    if (focused) this.#head(this.#current)?.focus()
    else this.#list.scrollTop = this.#list.scrollHeight
  }

  /**
   * New entries are drawn together, at most once a frame: candidates come in bursts.
   * @param {Entry} entry
   */
  #append(entry) {
    this.#pending.push(entry)
    if (this.#pending.length > MAX_ENTRIES) this.#pending.shift() // the page is in the background
    if (this.#pending.length === 1) requestAnimationFrame(() => this.#drawPending())
  }

  #drawPending() {
    const { scrollHeight, scrollTop, clientHeight } = this.#list
    const follow = scrollHeight - scrollTop - clientHeight < NEAR_END
    for (const entry of this.#pending.splice(0)) {
      const row = this.#row(entry)
      row.classList.add('ins-new')
      row.hidden = this.#hidden.has(entry.group)
      this.#rows.set(entry.n, row)
      this.#list.append(row)
    }
    this.#forgetOldest()
    this.#settle()
    if (follow) this.#list.scrollTop = this.#list.scrollHeight
  }

  #forgetOldest() {
    const oldest = this.#inspector.entries[0]?.n ?? 0
    for (const [n, row] of this.#rows) {
      if (n >= oldest && this.#rows.size <= MAX_ENTRIES) break
      row.remove()
      this.#rows.delete(n)
      this.#opened.delete(n)
    }
  }

  #filter() {
    for (const row of this.#rows.values()) row.hidden = this.#hidden.has(/** @type {Group} */ (row.dataset.group))
    this.#settle()
  }

  /** What follows from which lines are there: where Tab leads, and how many they are. */
  #settle() {
    const current = this.#rows.get(this.#current)
    if (!current || current.hidden) {
      const first = [...this.#rows].find(([, row]) => !row.hidden)
      this.#setCurrent(first?.[0] ?? 0)
    } else {
      this.#setCurrent(this.#current)
    }
    this.#showCount()
  }

  /** Tab leads to this line and no other. @param {number} n */
  #setCurrent(n) {
    const before = this.#head(this.#current)
    if (before) before.tabIndex = -1
    this.#current = n
    const head = this.#head(n)
    if (head) head.tabIndex = 0
  }

  #showCount() {
    const shown = [...this.#rows.values()].filter((row) => !row.hidden).length
    const { entries, paused } = this.#inspector
    this.#empty.hidden = shown > 0
    this.#empty.textContent = words(this.#rows.size ? 'inspector.empty-filtered' : 'inspector.empty')
    this.#count.hidden = this.#rows.size === 0 && !paused
    this.#count.textContent = paused
      ? words('inspector.held', { count: entries.filter((entry) => entry.n > this.#upTo).length })
      : words('inspector.count', { shown, all: this.#rows.size })
  }

  #download() {
    const url = URL.createObjectURL(new Blob([this.#inspector.export(words)], { type: 'application/json' }))
    const link = make('a')
    link.href = url
    link.download = `duet-inspector-${new Date().toISOString().slice(0, 19).replaceAll(':', '-')}.json`
    link.click()
    setTimeout(() => URL.revokeObjectURL(url), 60_000)
  }

  // --- a line ---------------------------------------------------------------------------------

  /** @param {Entry} entry */
  #row(entry) {
    const row = make('li', 'ins-row')
    row.dataset.n = String(entry.n)
    row.dataset.lane = entry.lane
    row.dataset.group = entry.group
    row.dataset.type = entry.type
    const head = make('button', 'ins-head')
    head.type = 'button'
    head.tabIndex = -1
    head.addEventListener('click', () => this.#toggle(entry, row))
    const line = make('span', 'ins-text')
    const title = make('span', 'ins-title')
    title.append(make('b', 'ins-type', titleOf(entry)), make('span', 'ins-unseen', ` ${wayOf(entry)} `))
    title.append(make('span', 'ins-time', words('inspector.after', { seconds: this.#secondsOf(entry) })))
    if (entry.bytes) title.append(make('span', 'ins-size', words('inspector.bytes', { bytes: group3(entry.bytes) })))
    line.append(title, make('span', 'ins-says', words(entry.sentence, entry.values)))
    head.append(this.#diagram(entry), line)
    row.append(head)
    if (this.#opened.has(entry.n)) this.#expand(entry, row)
    else head.setAttribute('aria-expanded', 'false')
    return row
  }

  /** Since the first line, with milliseconds. @param {Entry} entry */
  #secondsOf(entry) {
    return ((entry.at - this.#inspector.begun) / 1000).toFixed(3)
  }

  /** @param {number} n */
  #head(n) {
    return /** @type {HTMLButtonElement | null | undefined} */ (this.#rows.get(n)?.firstElementChild)
  }

  /**
   * The arrows of a line, for the eye only.
   * @param {Entry} entry
   */
  #diagram(entry) {
    const diagram = make('span', 'ins-diagram')
    diagram.setAttribute('aria-hidden', 'true')
    for (const { from, to, kind } of arrowsOf(entry, Math.max(1, this.#inspector.lifelines.length))) {
      const arrow = make('span', 'ins-arrow')
      arrow.dataset.kind = kind
      arrow.dataset.way = from < to ? 'right' : from > to ? 'left' : 'here'
      arrow.style.setProperty('--ins-from', String(Math.min(from, to)))
      arrow.style.setProperty('--ins-span', String(Math.abs(to - from)))
      diagram.append(arrow)
    }
    return diagram
  }

  /**
   * @param {Entry} entry
   * @param {HTMLElement} row
   */
  #toggle(entry, row) {
    if (this.#opened.has(entry.n)) this.#collapse(entry.n)
    else this.#expand(entry, row)
  }

  /**
   * @param {Entry} entry
   * @param {HTMLElement} row
   */
  #expand(entry, row) {
    this.#opened.add(entry.n)
    row.firstElementChild?.setAttribute('aria-expanded', 'true')
    row.append(detailsOf(entry))
  }

  /** @param {number} n */
  #collapse(n) {
    this.#opened.delete(n)
    const head = this.#head(n)
    head?.setAttribute('aria-expanded', 'false')
    head?.nextElementSibling?.remove()
  }

  // --- the keyboard ---------------------------------------------------------------------------

  /** @param {FocusEvent} event */
  #focused({ target }) {
    const n = numberOf(target)
    if (n !== undefined) this.#setCurrent(n)
  }

  /** @param {KeyboardEvent} event */
  #keydown(event) {
    const n = numberOf(event.target)
    if (n === undefined || event.ctrlKey || event.altKey || event.metaKey) return
    const onHead = event.target === this.#head(n)
    if (event.key === 'Escape') {
      if (!this.#opened.has(n)) return // the drawer's to handle
      this.#collapse(n)
      this.#head(n)?.focus()
    } else if (!onHead || !this.#move(event.key, n)) {
      return
    }
    event.preventDefault()
    event.stopPropagation()
  }

  /**
   * @param {string} key
   * @param {number} n
   */
  #move(key, n) {
    const numbers = [...this.#rows].filter(([, row]) => !row.hidden).map(([number]) => number)
    const index = numbers.indexOf(n)
    const targets = /** @type {Record<string, number>} */ ({
      ArrowDown: index + 1,
      ArrowUp: index - 1,
      PageDown: index + 10,
      PageUp: index - 10,
      Home: 0,
      End: numbers.length - 1,
    })
    const target = targets[key]
    if (target === undefined) return this.#turn(key, n)
    const next = numbers[Math.min(Math.max(target, 0), numbers.length - 1)]
    if (next !== undefined) this.#head(next)?.focus()
    return true
  }

  /**
   * Right opens, left closes.
   * @param {string} key
   * @param {number} n
   */
  #turn(key, n) {
    const isOpen = this.#opened.has(n)
    if (key === 'ArrowRight' && !isOpen) this.#head(n)?.click()
    else if (key === 'ArrowLeft' && isOpen) this.#collapse(n)
    else return false
    return true
  }
}

// --- helpers ------------------------------------------------------------------------------------

/** @param {EventTarget | null} target */
function numberOf(target) {
  const row = target instanceof Element ? target.closest('.ins-row') : null
  return row ? Number(/** @type {HTMLElement} */ (row).dataset.n) : undefined
}

/** @param {number} n */
const group3 = (n) => new Intl.NumberFormat(currentLanguage()).format(n)

/**
 * @param {string} [key]
 * @param {string} [hint]
 * @param {() => void} [run]
 */
function toolButton(key, hint, run) {
  const button = make('button', 'ins-tool', key ? words(key) : '')
  button.type = 'button'
  if (hint) button.title = words(hint)
  if (run) button.addEventListener('click', run)
  return button
}

/**
 * @param {string} className
 * @param {string} label
 * @param {HTMLElement[]} children
 */
function group(className, label, children) {
  const element = make('div', className)
  element.setAttribute('role', 'group')
  element.setAttribute('aria-label', words(label))
  element.append(...children)
  return element
}

/** @param {Entry} entry */
function titleOf({ lane, type, message }) {
  return lane === 'note' ? `${type}: ${message.state}` : type
}

/** The direction in words, for those who do not see the arrow. @param {Entry} entry */
function wayOf({ lane, relayed, to, values }) {
  if (lane === 'note') return words('inspector.arrow.note')
  if (!relayed) return words(`inspector.arrow.${lane}`)
  return words(lane === 'out' && to === undefined ? 'inspector.arrow.out-all' : `inspector.arrow.${lane}-relayed`, values)
}

/** Notes that are about the direct path between the two browsers. */
const DIRECT = new Set(['path-direct', 'path-relay', 'channel-open', 'ice-connected', 'connection-connected'])

/**
 * What goes from which lifeline to which. What the server does with an envelope that it passes on is
 * drawn fainter: we do not see it.
 * @param {Entry} entry
 * @param {number} peers  lifelines of peers
 * @returns {{ from: number, to: number, kind: 'own' | 'passed-on' | 'direct' | 'relay' | 'here' }[]}
 */
export function arrowsOf(entry, peers) {
  const { lane, relayed, slot, type, message } = entry
  const peer = FIRST_PEER + (slot ?? peers - 1)
  if (lane === 'note') {
    const what = `${type}-${message.state}`
    if (slot === undefined || !DIRECT.has(what)) return [{ from: YOU, to: YOU, kind: 'here' }]
    return [{ from: YOU, to: peer, kind: what === 'path-relay' ? 'relay' : 'direct' }]
  }
  if (lane === 'out') {
    const out = /** @type {const} */ ({ from: YOU, to: SERVER, kind: 'own' })
    return relayed ? [out, { from: SERVER, to: peer, kind: 'passed-on' }] : [out]
  }
  const into = /** @type {const} */ ({ from: SERVER, to: YOU, kind: 'own' })
  return relayed ? [{ from: peer, to: SERVER, kind: 'passed-on' }, into] : [into]
}

// --- inside a line ------------------------------------------------------------------------------

/** @param {Entry} entry */
function detailsOf(entry) {
  const details = make('div', 'ins-details')
  const time = new Intl.DateTimeFormat(currentLanguage(), {
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    fractionalSecondDigits: 3,
    hour12: false,
  }).format(entry.at)
  const isNote = entry.lane === 'note'
  details.append(
    make('p', 'ins-facts', words(isNote ? 'inspector.what-when-note' : 'inspector.what-when', { time, bytes: group3(entry.bytes), way: wayOf(entry) })),
    make('p', 'ins-label', words(isNote ? 'inspector.json-note' : 'inspector.json')),
    jsonOf(entry.message),
  )
  if (isNote) return details
  const candidate = readCandidate(String(entry.message?.candidate?.candidate ?? entry.message?.data?.candidate?.candidate ?? ''))
  if (candidate) {
    const parts = explainCandidate(candidate).map(({ part, says }) => /** @type {const} */ ([part, sentences([says])]))
    details.append(make('p', 'ins-label', words('inspector.candidate')), listOf(parts))
  }
  details.append(...membersOf(entry.message))
  const sdp = descriptionOf(entry.message)
  if (sdp) details.append(make('p', 'ins-label', words('inspector.sdp')), ...sectionsOf(sdp))
  return details
}

/**
 * The description in an envelope: an offer's, an answer's, or one that an application sends its own way.
 * @param {any} message
 * @returns {string | undefined}
 */
function descriptionOf(message) {
  const found = [message?.sdp, message?.data?.sdp, message?.data?.sdp?.sdp].find((sdp) => typeof sdp === 'string')
  return found?.startsWith('v=') ? found : undefined
}

/** A piece of JSON text: a name, a string, a number or a word. */
const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\b(?:true|false|null)\b/g

/** @param {unknown} message */
function jsonOf(message) {
  const pre = make('pre', 'ins-json')
  pre.tabIndex = 0
  pre.setAttribute('aria-label', 'JSON')
  pre.setAttribute('role', 'group')
  const text = JSON.stringify(message, shorten, 2) ?? ''
  let end = 0
  for (const match of text.matchAll(TOKEN)) {
    const [token, string, colon] = match
    pre.append(text.slice(end, match.index))
    const kind = colon ? 'name' : string === `"${MASK}"` ? 'secret' : string ? 'string' : 'value'
    const span = make('span', `ins-${kind}`, string ?? token)
    if (kind === 'secret') span.title = words('inspector.masked')
    pre.append(span, colon ?? '')
    end = match.index + token.length
  }
  pre.append(text.slice(end))
  return pre
}

/** Leaves a description's lines to the explanation below. @param {string} name @param {unknown} value */
function shorten(name, value) {
  if (name !== 'sdp' || typeof value !== 'string' || !value.startsWith('v=')) return value
  return `v=0 ${words('inspector.sdp-short', { lines: value.trim().split('\n').length })}`
}

/** @param {any} message */
function membersOf(message) {
  const names = Object.keys(message ?? {}).filter((name) => Object.hasOwn(en, `member.${name}`) && message[name] !== undefined)
  if (names.length < 2) return []
  const rows = names.map((name) => /** @type {const} */ ([name, words(`member.${name}`)]))
  return [make('p', 'ins-label', words('inspector.members')), listOf(rows, 'ins-list short')]
}

/**
 * @param {(readonly [string, string])[]} rows  what, and what it means
 * @param {string} [className]
 */
function listOf(rows, className = 'ins-list') {
  const list = make('dl', className)
  for (const [what, meaning] of rows) {
    const row = make('div')
    const term = make('dt')
    term.append(make('code', '', what))
    row.append(term, make('dd', '', meaning))
    list.append(row)
  }
  return list
}

/**
 * A description as one foldable list for the session and for each medium. The first medium is open: with
 * BUNDLE it holds what all of them share.
 * @param {string} sdp
 */
function sectionsOf(sdp) {
  /** @type {ExplainedLine[][]} */
  const sections = []
  for (const line of explainSDP(sdp)) (sections[line.section] ??= []).push(line)
  return sections.map((lines, i) => {
    const section = make('details', 'ins-section')
    section.open = i <= 1
    const title = i === 0 ? 'session' : /^m=(audio|video|application) /.exec(lines[0]?.line ?? '')?.[1] ?? 'other'
    const values = { title: words(`inspector.sdp-${title}`), lines: lines.length }
    section.append(
      make('summary', '', words('inspector.sdp-section', values)),
      listOf(lines.map(({ line, says }) => /** @type {const} */ ([line, sentences(says)]))),
    )
    return section
  })
}
