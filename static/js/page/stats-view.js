// @ts-check
/** The statistics: for each of the others, four small plots of the last minute. */
import { make, say, show } from './dom.js'
import { currentLanguage, onLanguage } from './texts.js'
import { en, zh } from './texts-stats.js'

/** @import { Summary } from '../stats.js' */

/** What the plots show, in seconds; one sample a second. */
export const SPAN = 60
/** The height of what is written above the vertical axis, in CSS pixels. */
export const LABEL = 14

/**
 * @typedef {keyof typeof en} StatsKey
 *
 * @typedef {object} Line
 * @property {string} color  a custom property of the page
 * @property {number[]} [dash]  told apart without colours
 * @property {StatsKey} [name]
 * @property {(summary: Summary) => number | undefined} of
 *
 * @typedef {object} PlotKind
 * @property {StatsKey} title
 * @property {Line[]} lines
 * @property {number} least  the vertical axis reaches to this value at least
 * @property {(value: number) => string} format
 *
 * @typedef {(number | undefined)[]} Series  the newest last
 */

/** @type {PlotKind[]} */
const PLOTS = [
  {
    title: 'stats.bitrate',
    least: 100,
    format: (kbps) => (kbps < 999.5 ? words('stats.kbps', kbps, 0) : words('stats.mbps', kbps / 1000, 1)),
    lines: [
      { color: '--plot-up', dash: [4, 2], name: 'stats.up', of: ({ sendKbps }) => sendKbps },
      { color: '--plot-down', name: 'stats.down', of: ({ receiveKbps }) => receiveKbps },
    ],
  },
  {
    title: 'stats.rtt',
    least: 50,
    format: (ms) => words('stats.ms', ms, 0),
    lines: [{ color: '--plot-rtt', of: ({ rtt }) => rtt }],
  },
  {
    title: 'stats.loss',
    least: 5,
    format: (percent) => words('stats.percent', percent, 1),
    lines: [{ color: '--plot-loss', of: ({ loss }) => (loss === undefined ? undefined : loss * 100) }],
  },
  {
    title: 'stats.fps',
    least: 30,
    format: (fps) => number(fps, 0),
    lines: [{ color: '--plot-fps', of: ({ fps }) => fps }],
  },
]

/** Draws into a container what the page measures once a second. */
export class StatsView {
  #container
  #empty = make('p', 'stats-empty')
  /** @type {Map<string, PeerSection>} by peer id */
  #sections = new Map()

  /** @param {HTMLElement} container */
  constructor(container) {
    this.#container = container
    const styles = make('link')
    styles.rel = 'stylesheet'
    styles.href = new URL('../../stats.css', import.meta.url).href
    document.head.append(styles)
    container.classList.add('stats')
    container.append(this.#empty)
    onLanguage(() => this.#render())
    new ResizeObserver(() => this.#render()).observe(container) // also when its tab is opened
    new MutationObserver(() => this.#render()).observe(document.documentElement, { attributeFilter: ['data-theme'] })
  }

  /**
   * The newest figures of all who are in the call; whoever is not among them goes.
   * @param {ReadonlyMap<string, Summary>} measured  by peer id
   * @param {(id: string) => string} [nameOf]  as it is shown above a peer's plots
   */
  update(measured, nameOf = () => '') {
    for (const [id, { element }] of this.#sections) {
      if (measured.has(id)) continue
      element.remove()
      this.#sections.delete(id)
    }
    for (const [id, summary] of measured) {
      const section = this.#sections.get(id) ?? this.#begin(id)
      section.add(nameOf(id), summary)
    }
    this.#render()
  }

  /** @param {string} id */
  #begin(id) {
    const section = new PeerSection()
    this.#sections.set(id, section)
    this.#container.append(section.element)
    return section
  }

  #render() {
    say(this.#empty, words('stats.empty'))
    show(this.#empty, this.#sections.size === 0)
    for (const section of this.#sections.values()) section.render()
  }
}

class PeerSection {
  element = make('section', 'stats-peer')
  #name = make('h3')
  #facts = make('p', 'stats-facts')
  #plots = PLOTS.map((kind) => new Plot(kind))
  /** @type {Summary | undefined} */
  #summary

  constructor() {
    const head = make('div', 'stats-head')
    head.append(this.#name, this.#facts)
    this.element.append(head, ...this.#plots.map(({ element }) => element))
  }

  /**
   * @param {string} name
   * @param {Summary} summary
   */
  add(name, summary) {
    say(this.#name, name)
    show(this.#name, name !== '')
    this.#summary = summary
    this.element.dataset.quality = summary.path === 'unknown' ? '' : summary.quality
    for (const plot of this.#plots) plot.add(summary)
  }

  render() {
    if (this.#summary) say(this.#facts, factsOf(this.#summary))
    for (const plot of this.#plots) plot.render()
  }
}

class Plot {
  element = make('div', 'plot')
  #kind
  #title = make('h4')
  #legend = make('ul', 'plot-legend')
  #canvas = make('canvas')
  /** @type {Series[]} */
  #series
  #values

  /** @param {PlotKind} kind */
  constructor(kind) {
    this.#kind = kind
    this.#series = kind.lines.map(() => [])
    this.#canvas.setAttribute('role', 'img')
    this.#values = kind.lines.map(({ color, dash }) => {
      const item = make('li')
      const mark = make('span', dash ? 'plot-mark dashed' : 'plot-mark')
      mark.style.borderColor = `var(${color})`
      const value = make('span')
      item.append(mark, value)
      this.#legend.append(item)
      return value
    })
    this.element.append(this.#title, this.#legend, this.#canvas)
  }

  /** @param {Summary} summary */
  add(summary) {
    for (const [i, line] of this.#kind.lines.entries()) {
      const series = /** @type {Series} */ (this.#series[i])
      series.push(line.of(summary))
      if (series.length > SPAN + 1) series.shift()
    }
  }

  render() {
    const { title, lines, format } = this.#kind
    say(this.#title, words(title))
    for (const [i, { name }] of lines.entries()) {
      const now = this.#series[i]?.at(-1)
      const value = now === undefined ? words('stats.none') : format(now)
      const element = this.#values[i]
      if (element) say(element, name ? `${words(name)} ${value}` : value)
    }
    const sentences = lines.map(({ name }, i) => describe(this.#series[i] ?? [], this.#kind, name))
    const said = [...new Set(sentences)].join(' ')
    if (this.#canvas.getAttribute('aria-label') !== said) this.#canvas.setAttribute('aria-label', said)
    this.#draw()
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas
    const context = this.#canvas.getContext('2d')
    if (!context || !width || !height) return // not to be seen now
    const scale = globalThis.devicePixelRatio || 1
    this.#canvas.width = Math.round(width * scale)
    this.#canvas.height = Math.round(height * scale)
    context.scale(scale, scale)
    const style = getComputedStyle(this.#canvas)
    const top = ceiling(this.#series.flat(), this.#kind.least)

    context.lineWidth = 1
    context.strokeStyle = style.getPropertyValue('--plot-grid')
    for (const part of [0, 0.5, 1]) strokeLine(context, [[0, edge(part, height)], [width, edge(part, height)]])
    context.fillStyle = style.getPropertyValue('--plot-text')
    context.font = `11px ${style.fontFamily}`
    context.fillText(this.#kind.format(top), 0, LABEL - 3)

    context.lineWidth = 1.75
    context.lineJoin = 'round'
    for (const [i, { color, dash = [] }] of this.#kind.lines.entries()) {
      context.setLineDash(dash)
      context.strokeStyle = style.getPropertyValue(color)
      for (const run of runs(this.#series[i] ?? [], { width, height, top })) strokeLine(context, run)
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {[number, number][]} points
 */
function strokeLine(context, points) {
  context.beginPath()
  for (const [x, y] of points) context.lineTo(x, y)
  context.stroke()
}

/**
 * A height within the picture, with room for the line's own width and for the label above.
 * @param {number} part  0 (bottom) to 1
 * @param {number} height
 */
const edge = (part, height) => height - 1.5 - part * (height - 3 - LABEL)

/**
 * The points of a series, broken where values are missing. The newest is at the right edge.
 * @param {Series} series
 * @param {{ width: number, height: number, top: number }} box
 */
export function runs(series, { width, height, top }) {
  /** @type {[number, number][][]} */
  const found = []
  /** @type {[number, number][] | undefined} */
  let run
  for (const [i, value] of series.entries()) {
    if (value === undefined) {
      run = undefined
      continue
    }
    if (!run) found.push((run = []))
    run.push([width - ((series.length - 1 - i) / SPAN) * width, edge(Math.min(1, value / top), height)])
  }
  return found
}

/**
 * Where the vertical axis ends: 1, 2 or 5 times a power of ten, not below the greatest value.
 * @param {Series} values
 * @param {number} least
 */
export function ceiling(values, least) {
  const most = Math.max(least, ...values.filter((value) => value !== undefined))
  const power = 10 ** Math.floor(Math.log10(most))
  if (most <= least) return least
  return power * (most <= power ? 1 : most <= 2 * power ? 2 : most <= 5 * power ? 5 : 10)
}

/**
 * What a plot shows, in words.
 * @param {Series} series
 * @param {PlotKind} kind
 * @param {StatsKey} [name]
 */
function describe(series, { title, format }, name) {
  const known = series.filter((value) => value !== undefined)
  const now = known.at(-1)
  if (now === undefined) return words('stats.unsaid', { title: words(title) })
  return words(name ? 'stats.said-two' : 'stats.said', {
    title: words(title),
    name: name ? words(name) : '',
    now: format(now),
    mean: format(known.reduce((total, value) => total + value, 0) / known.length),
    most: format(Math.max(...known)),
    seconds: SPAN,
  })
}

/** @param {Summary} summary */
function factsOf({ quality, path, protocol, width, height }) {
  const facts = [path === 'unknown' ? '' : words(`stats.quality.${quality}`), words(`stats.path.${path}`), protocol.toUpperCase()]
  if (width && height) facts.push(words('stats.picture', { width, height }))
  return facts.filter(Boolean).join(' · ')
}

/**
 * A text in the language of now, with one number or several values filled in.
 * @param {StatsKey} key
 * @param {number | Record<string, string | number>} [values]
 * @param {number} [digits]
 */
function words(key, values = {}, digits = 0) {
  const filled = typeof values === 'number' ? { value: number(values, digits) } : values
  const catalog = currentLanguage() === 'zh' ? zh : en
  return catalog[key].replace(/\{(\w+)\}/g, (_, name) => String(filled[/** @type {keyof typeof filled} */ (name)] ?? ''))
}

/**
 * @param {number} value
 * @param {number} digits
 */
function number(value, digits) {
  const minimumFractionDigits = Number.isInteger(value) ? 0 : digits
  return new Intl.NumberFormat(currentLanguage(), { minimumFractionDigits, maximumFractionDigits: digits }).format(value)
}
