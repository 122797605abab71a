// For how long a picture stood still, and for how long the machine itself made it.
import assert from 'node:assert/strict'

/** The longest time between two frames that no machine is blamed for, in milliseconds: the camera gives one each 200 ms. */
const EVEN = 400

/**
 * In the page: watches the (first) peer's picture, whichever element shows it, and beside it a control: the
 * same camera over a connection of this page with itself, which nothing disturbs. `picture.gap` and
 * `control.gap` are their longest standstills from now on, in milliseconds. `control` is missing where the
 * page sends no picture.
 */
export async function watchPicture() {
  const begin = () => ({ last: performance.now(), gap: 0, frames: 0 })
  if (window.picture) {
    for (const watched of [window.picture, window.control]) if (watched) Object.assign(watched, begin())
    return
  }
  const follow = (video, watched) => {
    const frame = () => {
      const now = performance.now()
      watched.gap = Math.max(watched.gap, now - watched.last)
      watched.last = now
      watched.frames++
      video.requestVideoFrameCallback(frame)
    }
    video.requestVideoFrameCallback(frame)
  }

  const camera = [...duet.room.members.values()][0].call.pc.getSenders().find(({ track }) => track?.kind === 'video')?.track
  if (camera) {
    const [from, to] = [new RTCPeerConnection(), new RTCPeerConnection()]
    from.onicecandidate = ({ candidate }) => to.addIceCandidate(candidate)
    to.onicecandidate = ({ candidate }) => from.addIceCandidate(candidate)
    const video = document.body.appendChild(document.createElement('video'))
    Object.assign(video.style, { position: 'fixed', right: '0', bottom: '0', width: '16px', pointerEvents: 'none' })
    Object.assign(video, { muted: true, autoplay: true })
    to.ontrack = ({ track }) => (video.srcObject = new MediaStream([track]))
    from.addTransceiver(camera.clone(), { direction: 'sendonly', sendEncodings: [{ scaleResolutionDownBy: 4 }] })
    await from.setLocalDescription()
    await to.setRemoteDescription(from.localDescription)
    await to.setLocalDescription()
    await from.setRemoteDescription(to.localDescription)
    await new Promise((resolve) => video.requestVideoFrameCallback(resolve))
    window.control = begin()
    follow(video, window.control)
  }

  window.picture = begin()
  const watched = new WeakSet()
  const watch = () => {
    const video = document.querySelector('.tile video')
    if (!video || watched.has(video)) return
    watched.add(video)
    follow(video, window.picture)
  }
  new MutationObserver(watch).observe(document.body, { subtree: true, childList: true })
  watch()
}

/** In the page: the longest standstills of the peer's picture and of the control, in milliseconds. */
export function standstills() {
  const longest = (watched) => watched && Math.max(watched.gap, performance.now() - watched.last)
  return { gap: longest(window.picture), control: longest(window.control) }
}

/**
 * No picture stood still for longer than `limit` milliseconds, and what the controls stood still: where this
 * machine has so much else to do that an undisturbed picture stops, a peer's may as well. On a machine that
 * keeps up the limit is what it says.
 * @param {number} limit
 * @param {{ gap: number, control?: number }[]} seen  by all who are in one call: without `control` where that was disturbed too
 */
export function neverLongerThan(limit, seen) {
  const controls = seen.flatMap(({ control }) => control ?? [])
  const machine = controls.reduce((sum, control) => sum + Math.max(0, control - EVEN), 0)
  for (const { gap } of seen) {
    assert.ok(gap < limit + machine, `the picture stood still for ${Math.round(gap)} ms; undisturbed ones ${controls.map(Math.round).join(' and ')} ms`)
  }
}

/**
 * The same of all who are in one call.
 * @param {import('./person.mjs').Person[]} people
 * @returns the longest standstill of each one's picture
 */
export async function neverStoodStill(people, limit) {
  const seen = await Promise.all(people.map((person) => person.standstills()))
  neverLongerThan(limit, seen)
  return seen.map(({ gap }) => gap)
}
