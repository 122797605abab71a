// The modules of duet-client one by one, as an application in TypeScript uses them. It is compiled, never run.
import 'duet-client/compat/socket-io'
import { Call, type CallOptions, type CallState } from 'duet-client/call'
import { Files, fileName, MAX_FILE } from 'duet-client/data'
import { ClientError, errorOfEnd, type ErrorCode } from 'duet-client/errors'
import { canChooseSpeaker, explain, LocalMedia, setSpeaker } from 'duet-client/media'
import { afterClose, decode, isName, isRoom, socketURL, type ServerMessage } from 'duet-client/protocol'
import { Room, videoLimits, type Member } from 'duet-client/room'
import { TabSession } from 'duet-client/session'
import { followPage, newSessionKey, SignalingClient, type End } from 'duet-client/signaling'
import { summarize, type Summary } from 'duet-client/stats'

export async function use(channel: RTCDataChannel, box: HTMLVideoElement, end: End): Promise<unknown[]> {
  const signaling = new SignalingClient({ url: socketURL('https://example.org/'), room: 'demo', session: newSessionKey() })
  const room = new Room({ signaling, quality: 'low' })
  followPage(room, { window, document, signal: new AbortController().signal })
  const names = [...room.members.values()].map((member: Member): string => member.name)
  const options: CallOptions = { polite: true, offersFirst: true, send: (message, wanted) => signaling.send(message, wanted) }
  const call = new Call(options)
  const state: CallState = call.state
  const stats: Summary = summarize(undefined, await call.getStats(), performance.now())
  const error: ClientError = errorOfEnd(end)
  const code: ErrorCode | (string & {}) = error.code
  const message: ServerMessage = decode('{}')
  const media = new LocalMedia()
  await media.open(['audio'])
  if (canChooseSpeaker()) await setSpeaker(box, 'id')
  const { memory } = await TabSession.open({ newTab: newSessionKey })
  const files = new Files({ channel })
  // @ts-expect-error no such quality
  videoLimits('best', 1)
  // @ts-expect-error a room is needed
  new SignalingClient({ url: 'wss://example.org/ws' })
  return [names, state, stats.rtt, code, message.type, explain(error).steps, memory.key, files, fileName('a/b'), MAX_FILE,
    afterClose(1000), isName('Ada') && isRoom('demo')]
}
