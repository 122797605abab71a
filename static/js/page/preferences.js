// @ts-check
/** The language and the theme, which every page lets choose and this browser keeps. */
import { fillTexts, select } from './dom.js'
import { currentLanguage, firstLanguage, isLanguage, onLanguage, setLanguage } from './texts.js'
import { setTheme } from './theme.js'

/** @import { Store } from './store.js' */

/**
 * Makes the two fields work.
 * @param {Store} store  keeps what is chosen
 * @param {() => void} onChange  says again what the page itself has said, in another language now
 */
export function offerPreferences(store, onChange) {
  const root = document.documentElement
  const language = select('#language')
  language.addEventListener('change', () => {
    if (!isLanguage(language.value)) return
    store.set({ language: language.value })
    setLanguage(language.value)
  })
  onLanguage(() => {
    const now = currentLanguage()
    root.lang = now === 'zh' ? 'zh-Hans' : 'en'
    root.dataset.lang = now
    language.value = now
    fillTexts()
    onChange()
  })
  const theme = select('#theme')
  theme.value = setTheme(store.settings.theme)
  theme.addEventListener('change', () => store.set({ theme: setTheme(theme.value) }))
}

/**
 * The language of the address, or the one that was chosen, or the browser's.
 * @param {Store} store
 */
export function beginInLanguage(store) {
  setLanguage(firstLanguage({ search: location.search, chosen: store.settings.language, languages: navigator.languages }))
}
