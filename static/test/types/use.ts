// The whole public surface of duet-client, as an application in TypeScript uses it. It is compiled, never run.
import {
  ClientError, connect, JoinedRoom, Peer,
  type Call, type CallFiles, type CallState, type ConnectOptions, type Device, type Envelope, type ErrorCode, type JoinedRoomEventMap,
  type Kind, type LeaveReason, type LocalMedia, type MediaProblem, type MediaState, type PageEnv, type Presence, type Quality,
  type ReceivedFile, type RoomState, type SendFileOptions, type SignalingClient, type Stats,
} from 'duet-client'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
const is = <T extends true>(_?: T) => {}

export async function use(stream: MediaStream, file: File, box: HTMLVideoElement): Promise<void> {
  const stop = new AbortController()
  const all: ConnectOptions = {
    room: 'demo', name: 'Ada', token: 't', media: { audio: true, video: false }, quality: 'medium', session: 's', replaces: 'r',
    iceServers: [{ urls: 'stun:stun.example.org' }], iceTransportPolicy: 'relay', signal: stop.signal, timeout: 5_000,
    page: { window, document }, WebSocket, RTCPeerConnection, MediaStream, random: Math.random,
    clock: { now: () => 0, setTimeout: (run, ms) => setTimeout(run, ms), clearTimeout },
  }
  const room: JoinedRoom = await connect(new URL('wss://example.org/ws'), all)
  await connect('wss://example.org/ws', { room: 'demo', media: true, page: false })
  await connect('/ws', { room: 'demo', media: stream })
  const page: PageEnv = { window, document }
  void page

  room.addEventListener('peer', ({ detail }) => is<Equal<typeof detail, Peer>>())
  room.addEventListener('peer-left', ({ detail: { peer, reason } }) => is<Equal<typeof reason, LeaveReason>>(peer.id ? undefined : undefined))
  room.addEventListener('peer-away', ({ detail }) => detail.presence)
  room.addEventListener('peer-back', ({ detail }) => detail.presence)
  room.addEventListener('peer-change', ({ detail }) => detail.quality)
  room.addEventListener('track', ({ detail: { peer, track, stream: theirs } }) => {
    box.srcObject = theirs
    return [peer.name, track.kind]
  })
  room.addEventListener('chat', ({ detail: { peer, text } }) => `${peer.name}: ${text}`)
  room.addEventListener('message', ({ detail: { peer, data } }) => [peer?.id, data])
  room.addEventListener('file', ({ detail }) => URL.createObjectURL(detail.blob), { once: true })
  room.addEventListener('file-progress', ({ detail }) => detail.received / detail.size)
  room.addEventListener('file-failed', ({ detail }) => detail.code)
  room.addEventListener('media', () => (box.srcObject = room.stream ?? null))
  room.addEventListener('state', ({ detail }) => is<Equal<typeof detail, RoomState>>())
  const closed = ({ detail }: JoinedRoomEventMap['closed']) => detail.retryable
  room.addEventListener('closed', closed)
  room.removeEventListener('closed', closed)
  room.addEventListener('trouble', ({ detail }) => is<Equal<typeof detail, unknown>>())

  await room.setMic(false)
  await room.setCamera(true)
  const screen: MediaStreamTrack = await room.shareScreen()
  screen.stop()
  await room.stopSharing()
  await room.switchDevice('video', 'id')
  room.setQuality('low')
  const reached: number = await room.sendChat('hello')
  await room.send({ reached }, { to: room.id })
  const options: SendFileOptions = { name: 'a', type: 'text/plain', signal: stop.signal, onprogress: ({ sent, size }) => sent / size }
  await room.sendFile(file, { ...options, to: 'id' })
  await room.opened

  for (const [id, peer] of room.peers) {
    const [presence, state, media, quality]: [Presence, CallState, MediaState, Stats['quality'] | undefined] =
      [peer.presence, peer.state, peer.media, peer.quality]
    const stats: Stats | undefined = peer.stats
    const call: Call = peer.call
    const files: CallFiles = call.files
    await files.send(file, options)
    files.cancel(1)
    files.addEventListener('file', (event) => (event as CustomEvent<ReceivedFile>).detail.sha256)
    console.log(id, presence, state, media, quality, stats?.rtt, call.pc.signalingState, await call.getStats(), call.stream, call.state)
  }

  const media: LocalMedia | undefined = room.media
  if (media) {
    const problem: MediaProblem | undefined = media.problems.get('audio' satisfies Kind)
    const { speaker }: { speaker: Device[] } = await media.devices()
    await media.open(['audio'])
    const meter = media.level(await media.ensure('audio'))
    console.log(problem, speaker[0]?.label, meter.value, media.track('video'), media.tracks, media.screen, media.stream)
    meter.close()
    media.stop('video')
    await media.use('audio', 'id')
    await media.shareScreen()
    media.stopSharing()
    media.close()
  }

  const signaling: SignalingClient = room.signaling
  signaling.delay = 1_000
  signaling.addEventListener('envelope', (event) => {
    const { direction, message, bytes, at } = (event as CustomEvent<Envelope>).detail
    console.log(direction, message, bytes, at)
  })
  signaling.probe()
  console.log(signaling.state, signaling.id, signaling.session)

  try {
    await room.leave()
  } catch (error) {
    if (!(error instanceof ClientError)) throw error
    const code: ErrorCode | (string & {}) = error.code
    if (error.retryable) setTimeout(() => console.log(code), (error.retryAfter ?? 1) * 1_000)
  }
  throw new ClientError('failed', 'why', { retryable: false, retryAfter: 1, cause: undefined })
}

export const wrong = () => {
  // @ts-expect-error a room is needed
  connect('wss://example.org/ws', {})
  // @ts-expect-error no such quality
  connect('wss://example.org/ws', { room: 'demo', quality: 'best' satisfies Quality })
  // @ts-expect-error made by connect alone
  new JoinedRoom('wss://example.org/ws', { room: 'demo' })
}
