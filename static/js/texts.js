// @ts-check
/** Every text of the page. `{name}` and the like are filled in. */

const en = {
  // The form
  tagline: 'A call between two browsers.',
  room: 'Room',
  roomHint: 'Whoever opens the same room is in the call.',
  name: 'Your name',
  nameHint: 'Optional. The others see it.',
  join: 'Join',
  badRoom: 'A room name has 1 to 128 bytes, and no space at its ends.',
  badName: 'A name has at most 64 characters, on one line.',
  noScript: 'This page needs JavaScript.',

  // The call
  call: 'Call',
  controls: 'Controls',
  copyLink: 'Copy link',
  copied: 'Copied',
  copyFailed: 'Copy the address of this page to invite somebody.',
  skipMedia: 'Join without camera and microphone',
  hear: 'Tap to hear the others',
  microphone: 'Microphone',
  camera: 'Camera',
  hangUp: 'Hang up',
  you: 'You',
  somebody: 'Guest',
  muted: 'muted',

  // Chat
  chat: 'Chat',
  message: 'Message',
  send: 'Send',
  chatEmpty: 'Messages go straight to the other browser; no server keeps them.',
  notSent: 'Not sent: nobody can be reached right now.',

  // The status line
  lobby: 'Choose a room to begin.',
  asking: 'Your browser asks whether the page may use your camera and microphone.',
  connecting: 'Connecting to the server …',
  unreachable: 'The server cannot be reached. Trying again by itself …',
  waiting: 'Nobody else is here yet. Send somebody the link.',
  calling: 'Calling {name} …',
  unanswered: '{name} does not answer yet. Still trying …',
  blocked: 'No path to {name} was found. A network in between blocks direct calls, and a relay (TURN server) may be needed. Still trying …',
  connected: 'In a call with {name}.',
  connectedMany: 'In a call with {count} others.',
  unstable: 'The connection to {name} is interrupted. Repairing it …',
  'peer-away': '{name} has lost the connection to the server. The place is kept for a while.',
  'peer-away-call-up': '{name} has lost the connection to the server; the call goes on.',
  'peer-back': '{name} is back.',
  'peer-left-left': '{name} has left.',
  'peer-left-timeout': '{name} is gone: the connection was lost for too long.',
  'peer-left-replaced': '{name} has opened the page again.',
  'peer-left-kicked': '{name} was removed from the room.',
  'peer-left-overflow': '{name} is gone: too much was waiting there.',
  'peer-left-error': '{name} is gone after an error.',
  'signal-lost': 'The connection to the server is lost. Coming back …',
  'signal-lost-call-up': 'The connection to the server is lost and coming back. The call goes on.',
  'signal-ended-call-up': 'The server does not let us back ({code}). The call goes on, but cannot be repaired if it breaks.',
  'signal-ended': 'The server has ended this connection ({code}). Join again.',
  left: 'You have hung up.',
  'room-full': 'This room is full. Try again later, or choose another room.',
  'room-full-retry': 'This room is full. A place may come free; trying again in {seconds} s.',
  unauthorized: 'This room needs a valid invitation.',
  forbidden: 'Your invitation is not for this room.',
  refused: 'The server did not accept this: {message}',
  replaced: 'Your place in this call was taken over by another tab or window.',
  kicked: 'You were removed from the room, or it was closed.',
  // Why there is no picture or no sound; added to the status
  'media-insecure': 'No camera or microphone: browsers give them only to secure pages, and {origin} is not one. Open the page over https:// or on localhost.',
  'media-denied': 'No camera or microphone: this page was not allowed to use them. Allow it next to the address bar, then switch them on below.',
  'media-missing-both': 'No camera or microphone was found. You can see and hear the others.',
  'media-missing-video': 'No camera was found. The others can hear you.',
  'media-missing-audio': 'No microphone was found. The others can see you.',
  'media-busy': 'The camera or microphone is used by another program. Close that, then switch them on below.',
  'media-failed': 'The camera or microphone could not be opened.',
}

/** @typedef {keyof typeof en} TextKey */

/**
 * @param {TextKey} key
 * @param {Record<string, string | number>} [values]
 */
export function text(key, values = {}) {
  return en[key].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''))
}
