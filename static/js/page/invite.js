// @ts-check
/** The room's own address: to copy, to point a camera at, to send. */
import { button, find, make, say, show } from './dom.js'
import { qr } from './qr.js'
import { onLanguage, text } from './texts.js'

/** The light border that a reader needs, in modules (ISO/IEC 18004, section 6.3.8). */
const QUIET = 4
const MODULE = 8

/**
 * The address of a room on this page, without the query: a language is each reader's own.
 * @param {string} room
 * @param {string} [base]
 */
export function linkTo(room, base = location.href) {
  const url = new URL(base)
  url.search = ''
  url.hash = encodeURIComponent(room)
  return url.href
}

/**
 * The link as people read it: browsers take it either way.
 * @param {string} link
 */
function readable(link) {
  try {
    return decodeURI(link)
  } catch {
    return link
  }
}

/** @param {string} hostname */
export function isLocal(hostname) {
  return hostname === 'localhost' || hostname.endsWith('.localhost') || hostname === '[::1]' || /^127\./.test(hostname)
}

export class Invite {
  #link = ''
  #tell

  /** @param {(words: string) => void} tell  says what became of it */
  constructor(tell) {
    this.#tell = tell
    for (const id of ['#copy-link', '#invite-copy']) button(id).addEventListener('click', () => this.#copy())
    const share = button('#share-link')
    show(share, typeof navigator.share === 'function')
    share.addEventListener('click', () => this.#share())
    onLanguage(() => this.#hint())
  }

  /** @param {string} room */
  show(room) {
    this.#link = linkTo(room)
    say(find('#invite-link'), readable(this.#link))
    draw(/** @type {HTMLCanvasElement} */ (find('#qr')), this.#link)
    this.#hint()
  }

  /**
   * The panel stands in the stage while one waits, and behind its button in a call.
   * @param {boolean} waiting
   */
  place(waiting) {
    const place = find(waiting ? '#waiting' : '#invite-popover')
    const panel = find('#invite')
    show(button('#qr-toggle'), !waiting)
    if (panel.parentElement === place) return
    const popover = find('#invite-popover')
    if (waiting && popover.matches(':popover-open')) popover.hidePopover()
    place.append(panel)
    find('#invite-title').dataset.text = waiting ? 'waitingTitle' : 'inviteTitle'
    say(find('#invite-title'), text(waiting ? 'waitingTitle' : 'inviteTitle'))
  }

  #hint() {
    say(find('#invite-hint'), text(isLocal(location.hostname) ? 'inviteLocal' : 'inviteHint'))
  }

  async #copy() {
    this.#tell(text((await copied(this.#link)) ? 'copied' : 'copyFailed'))
  }

  async #share() {
    try {
      await navigator.share({ title: 'duet', url: this.#link })
    } catch (error) {
      if (/** @type {Error} */ (error).name !== 'AbortError') await this.#copy()
    }
  }
}

/**
 * Puts a text into the clipboard. On insecure origins there is no navigator.clipboard, and the older way
 * has to do.
 * @param {string} words
 * @returns {Promise<boolean>}
 */
async function copied(words) {
  try {
    await navigator.clipboard.writeText(words)
    return true
  } catch {
    const field = make('textarea', 'unseen')
    field.value = words
    document.body.append(field)
    field.select()
    const done = document.execCommand?.('copy') === true
    field.remove()
    return done
  }
}

/** @param {HTMLCanvasElement} canvas @param {string} words */
function draw(canvas, words) {
  /** @type {boolean[][]} */
  let squares = []
  try {
    squares = qr(words)
  } catch {
    // A name in a script of many bytes can be too long for a code: the link is there all the same.
  }
  show(canvas, squares.length > 0)
  canvas.width = canvas.height = (squares.length + 2 * QUIET) * MODULE
  const context = canvas.getContext('2d')
  if (!context) return
  context.fillStyle = '#fff'
  context.fillRect(0, 0, canvas.width, canvas.height)
  context.fillStyle = '#12161c'
  squares.forEach((row, r) => row.forEach((dark, c) => {
    if (dark) context.fillRect((c + QUIET) * MODULE, (r + QUIET) * MODULE, MODULE, MODULE)
  }))
}
