// @ts-check
/** The own picture can be dragged into any corner of the stage, or moved there with the arrow keys. */

/** @typedef {'nw' | 'ne' | 'sw' | 'se'} Corner */

/** A press that moves less than this many CSS pixels is a click. */
const SLACK = 4

/**
 * @param {HTMLElement} element  it has its corner in `data-corner`
 * @param {(corner: Corner) => void} settled
 */
export function keepInCorner(element, settled) {
  const corner = () => /** @type {Corner} */ (element.dataset.corner)
  const put = (/** @type {Corner} */ next) => {
    element.dataset.corner = next
    element.style.transform = ''
    settled(next)
  }

  element.addEventListener('pointerdown', (down) => {
    if (down.button !== 0) return
    element.setPointerCapture(down.pointerId)
    const end = new AbortController()
    const { signal } = end
    let moved = false
    element.addEventListener('pointermove', ({ clientX, clientY }) => {
      const [x, y] = [clientX - down.clientX, clientY - down.clientY]
      moved ||= Math.hypot(x, y) > SLACK
      if (!moved) return
      element.dataset.dragging = ''
      element.style.transform = `translate(${x}px, ${y}px)`
    }, { signal })
    const drop = () => {
      end.abort()
      delete element.dataset.dragging
      if (moved) put(nearest(element))
    }
    element.addEventListener('pointerup', drop, { signal })
    element.addEventListener('pointercancel', drop, { signal })
  })

  element.addEventListener('keydown', ({ key }) => {
    const [row, column] = [...corner()]
    if (key === 'ArrowUp') put(/** @type {Corner} */ (`n${column}`))
    if (key === 'ArrowDown') put(/** @type {Corner} */ (`s${column}`))
    if (key === 'ArrowLeft') put(/** @type {Corner} */ (`${row}w`))
    if (key === 'ArrowRight') put(/** @type {Corner} */ (`${row}e`))
  })
}

/** @param {HTMLElement} element @returns {Corner} */
function nearest(element) {
  const own = element.getBoundingClientRect()
  const stage = /** @type {HTMLElement} */ (element.offsetParent ?? element).getBoundingClientRect()
  const row = own.top + own.height / 2 < stage.top + stage.height / 2 ? 'n' : 's'
  const column = own.left + own.width / 2 < stage.left + stage.width / 2 ? 'w' : 'e'
  return /** @type {Corner} */ (`${row}${column}`)
}
