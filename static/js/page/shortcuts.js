// @ts-check
/** The keys of the call: never while somebody types, chooses or holds another key. */

/**
 * What a key press asks for; undefined where it is none of ours.
 * @param {Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'altKey' | 'isComposing' | 'repeat' | 'defaultPrevented'> & { target: unknown }} event
 */
export function shortcutOf(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat || event.defaultPrevented) return undefined
  if (isTyping(event.target)) return event.key === 'Escape' ? 'Escape' : undefined
  return event.key.length === 1 ? event.key.toLowerCase() : event.key
}

const TYPED = new Set(['text', 'search', 'url', 'tel', 'email', 'password', 'number'])

/** @param {unknown} target */
function isTyping(target) {
  const { tagName, type, isContentEditable } = /** @type {Partial<HTMLInputElement>} */ (target ?? {})
  if (isContentEditable || tagName === 'TEXTAREA' || tagName === 'SELECT') return true
  return tagName === 'INPUT' && TYPED.has(type ?? 'text')
}
