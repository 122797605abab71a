// @ts-check
/** What the doctor asks the browser itself. Nothing is switched on, and no permission asked for. */
import { bad, none, ok } from './doctor-server.js'

/** @import { Finding } from './doctor-server.js' */

/**
 * @param {object} page
 * @param {boolean} page.isSecure
 * @param {string} page.origin
 * @returns {Finding}
 */
export const askSecure = ({ isSecure, origin }) => (isSecure ? ok('yes') : bad('no', { origin }))

/**
 * Are there a camera and a microphone?
 * @param {Pick<Navigator, 'mediaDevices' | 'permissions'>} navigator
 * @returns {Promise<Finding>}
 */
export async function askDevices({ mediaDevices, permissions }) {
  if (!mediaDevices) return none('insecure')
  const kinds = (await mediaDevices.enumerateDevices().catch(() => [])).map(({ kind }) => kind)
  const denied = await Promise.all(['camera', 'microphone'].map((name) => isDenied(permissions, name)))
  if (denied.includes(true)) return bad('denied')
  const [camera, microphone] = [kinds.includes('videoinput'), kinds.includes('audioinput')]
  if (camera && microphone) return ok('both')
  if (microphone) return bad('no-camera')
  return bad(camera ? 'no-microphone' : 'neither')
}

/**
 * Whether the reader, or somebody for them, has said no. Not every browser tells.
 * @param {Permissions | undefined} permissions
 * @param {string} name
 */
async function isDenied(permissions, name) {
  try {
    return (await permissions?.query({ name: /** @type {PermissionName} */ (name) }))?.state === 'denied'
  } catch {
    return false
  }
}
