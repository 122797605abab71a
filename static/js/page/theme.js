// @ts-check
/** Light or dark: as the system says, or as chosen. */

/** @typedef {'auto' | 'light' | 'dark'} Theme */

const dark = matchMedia('(prefers-color-scheme: dark)')
/** @type {Theme} */
let theme = 'auto'

function apply() {
  document.documentElement.dataset.theme = theme === 'auto' ? (dark.matches ? 'dark' : 'light') : theme
}

/** @param {unknown} chosen  anything else than light or dark is auto */
export function setTheme(chosen) {
  theme = chosen === 'light' || chosen === 'dark' ? chosen : 'auto'
  apply()
  return theme
}

dark.addEventListener('change', apply)
