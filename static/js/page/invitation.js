// @ts-check
/** What an address invites to: a room, and where the operator asks for one a token (docs/tokens.md). */

/**
 * Reads the fragment `#room&token=…`, both percent-encoded. `room` is '' where it cannot be read.
 * @param {string} hash  with its `#`
 * @returns {{ room: string, token?: string }}
 */
export function invitationOf(hash) {
  const [room = '', ...more] = hash.slice(1).split('&')
  const token = more.find((part) => part.startsWith('token='))?.slice('token='.length)
  try {
    return { room: decodeURIComponent(room), token: token ? decodeURIComponent(token) : undefined }
  } catch {
    return { room: '' }
  }
}
