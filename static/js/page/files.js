// @ts-check
/** Files that go to and come from the others. */
import { find, icon, input, make, say, show } from './dom.js'
import { nameOf } from './status.js'
import { isText, onLanguage, size, text } from './texts.js'

/** @import { Member } from '../room.js' */

/** Error codes of a transfer that have a text of their own, others are `failed`. */
const GONE = ['not-connected', 'closed', 'left', 'aborted']

/**
 * One transfer as it is shown.
 * @typedef {object} Line
 * @property {HTMLElement} element
 * @property {string} file
 * @property {number} total  bytes
 * @property {number} done
 * @property {'waiting' | 'moving' | 'sent' | 'received' | string} state  or why it failed: a code
 * @property {'to' | 'from'} way
 * @property {Member} member
 * @property {() => void} [cancel]
 * @property {string} [url]  of a received file
 */

export class FileList {
  #list = find('#file-list')
  /** @type {Set<Line>} */
  #lines = new Set()
  #members
  #tell

  /**
   * @param {object} options
   * @param {() => Member[]} options.members  to whom a file goes
   * @param {(words: string) => void} options.tell
   */
  constructor({ members, tell }) {
    this.#members = members
    this.#tell = tell
    const field = input('#file-input')
    field.addEventListener('change', () => {
      this.send([...(field.files ?? [])])
      field.value = ''
    })
    onLanguage(() => this.#lines.forEach((line) => this.#render(line)))
  }

  /** @param {File[]} files */
  send(files) {
    const members = this.#members()
    if (files.length && members.length === 0) return this.#tell(text('fileNobody'))
    for (const file of files) for (const member of members) this.#sendTo(member, file)
  }

  /** Shows what a member sends. @param {Member} member */
  follow(member) {
    const { files } = member.call
    if (!files) return
    /** @type {Map<unknown, Line>} */
    const coming = new Map()
    /** @param {any} detail */
    const lineOf = ({ id, name, size: total }) => {
      const known = coming.get(id)
      if (known) return known
      const line = this.#add({ file: name, total, way: 'from', member, cancel: () => files.cancel?.(id) })
      coming.set(id, line)
      return line
    }
    /** @param {string} type @param {(line: Line, detail: any) => void} handle */
    const on = (type, handle) => files.addEventListener(type, (event) => {
      const { detail } = /** @type {CustomEvent} */ (event)
      const line = lineOf(detail)
      handle(line, detail)
      this.#render(line)
    })
    on('progress', (line, { received }) => {
      line.state = 'moving'
      line.done = received
    })
    on('file', (line, { blob, name }) => {
      line.state = 'received'
      line.done = line.total
      line.url = URL.createObjectURL(blob)
      this.#tell(text('fileNews', { name: nameOf(member), file: name }))
    })
    on('failed', (line, detail) => (line.state = String(detail.code ?? detail.error?.code ?? 'failed')))
  }

  /** The call is over: what was not saved is gone. */
  clear() {
    for (const { url } of this.#lines) if (url) URL.revokeObjectURL(url)
    this.#lines.clear()
    this.#list.replaceChildren()
  }

  /** @param {Member} member @param {File} file */
  async #sendTo(member, file) {
    const stop = new AbortController()
    const line = this.#add({ file: file.name, total: file.size, way: 'to', member, cancel: () => stop.abort() })
    try {
      if (!member.call.files) throw Object.assign(new Error(), { code: 'not-connected' })
      await member.call.files.send(file, {
        name: file.name,
        type: file.type,
        signal: stop.signal,
        onprogress: (/** @type {any} */ progress) => {
          line.state = 'moving'
          line.done = typeof progress === 'number' ? progress : progress.sent
          this.#render(line)
        },
      })
      line.state = 'sent'
      line.done = line.total
    } catch (error) {
      line.state = stop.signal.aborted ? 'cancelled' : String(/** @type {any} */ (error).code ?? 'failed')
    }
    this.#render(line)
  }

  /** @param {Omit<Line, 'element' | 'done' | 'state'>} line */
  #add(line) {
    const element = make('li')
    const head = make('div', 'file-head')
    head.append(icon('file'), make('b', 'file-name'), make('span', 'file-who'))
    const bar = make('progress')
    const foot = make('div', 'file-foot')
    foot.append(make('span', 'file-state'), make('button', 'plain file-cancel'), make('a', 'button quiet file-save'))
    element.append(head, bar, foot)
    const button = /** @type {HTMLButtonElement} */ (find('.file-cancel', element))
    button.type = 'button'
    button.addEventListener('click', () => line.cancel?.())
    this.#list.prepend(element)
    const whole = { ...line, element, done: 0, state: 'waiting' }
    this.#lines.add(whole)
    this.#render(whole)
    return whole
  }

  /** @param {Line} line */
  #render(line) {
    const { element, file, total, done, state, way, member, url } = line
    const busy = state === 'waiting' || state === 'moving'
    element.dataset.state = busy ? 'busy' : state === 'sent' || state === 'received' ? 'done' : 'failed'
    say(find('.file-name', element), file)
    say(find('.file-who', element), text(way === 'to' ? 'fileTo' : 'fileFrom', { name: nameOf(member) }))
    const bar = /** @type {HTMLProgressElement} */ (find('progress', element))
    bar.max = Math.max(1, total)
    bar.value = done
    bar.setAttribute('aria-label', file)
    show(bar, busy)
    say(find('.file-state', element), stateOf(line))
    const cancel = find('.file-cancel', element)
    say(cancel, text('fileCancel'))
    show(cancel, busy)
    const save = /** @type {HTMLAnchorElement} */ (find('.file-save', element))
    say(save, text('fileSave'))
    if (url && save.href !== url) {
      save.href = url
      save.download = file
    }
    show(save, url !== undefined)
  }
}

/** @param {Line} line */
function stateOf({ state, done, total }) {
  switch (state) {
    case 'waiting':
      return `${size(total)} · ${text('fileWaiting')}`
    case 'moving':
      return text('fileProgress', { done: size(done), total: size(total) })
    case 'sent':
      return `${size(total)} · ${text('fileSent')}`
    case 'received':
      return `${size(total)} · ${text('fileReceived')}`
    default: {
      const key = GONE.includes(state) ? 'file.gone' : `file.${state}`
      return text(isText(key) ? key : 'file.failed')
    }
  }
}
