// @ts-check
/** Keeps the screen on during a call, where the browser can. */

export function keepAwake() {
  /** @type {WakeLockSentinel | undefined} */
  let lock
  let wanted = false
  const take = async () => {
    if (!wanted || lock || document.visibilityState !== 'visible') return
    try {
      const taken = await navigator.wakeLock?.request('screen')
      if (!taken) return
      taken.addEventListener('release', () => (lock = undefined)) // the browser does so with a hidden page
      if (wanted) lock = taken
      else await taken.release()
    } catch {
      // Low battery, or forbidden: the screen does what it always does.
    }
  }
  document.addEventListener('visibilitychange', take)
  return {
    /** @param {boolean} on */
    want(on) {
      wanted = on
      if (on) take()
      else lock?.release()
    },
  }
}
