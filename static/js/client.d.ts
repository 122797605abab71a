/** Types of duet-client, checked against the code by a test. What things mean is said in the modules. */

/** Codes of the protocol (docs/protocol.md, section 6), and of the client alone. */
export type ErrorCode =
  | 'bad-message' | 'unknown-type' | 'not-joined' | 'already-joined' | 'room-full' | 'no-peer' | 'busy'
  | 'rate-limited' | 'unauthorized' | 'forbidden' | 'stale-attempt' | 'out-of-sync' | 'server-full'
  | 'unreachable' | 'closed' | 'replaced' | 'kicked' | 'left' | 'aborted' | 'insecure' | 'bad-url'
  | 'media-denied' | 'media-missing' | 'media-busy' | 'media-failed' | 'too-big' | 'cancelled'
  | 'not-connected' | 'bad-file' | 'damaged' | 'unreadable' | 'unsupported' | 'failed'

/** Everything that a promise of this library rejects with. */
export class ClientError extends Error {
  constructor(
    code: ErrorCode | (string & {}),
    message?: string,
    more?: { retryable?: boolean; retryAfter?: number; cause?: unknown },
  )
  /** One of ErrorCode, or a newer server's own. */
  code: ErrorCode | (string & {})
  /** Whether the same once more, later, may work without anybody changing anything. */
  retryable: boolean
  /** Seconds to wait before that, where it is known. */
  retryAfter: number | undefined
}

export type Kind = 'audio' | 'video'
export type Quality = 'low' | 'medium' | 'high'
export type RoomState = 'connecting' | 'joined' | 'reconnecting' | 'closed'
export type CallState = 'connecting' | 'unanswered' | 'blocked' | 'connected' | 'unstable' | 'closed'
export type Presence = 'here' | 'away' | 'gone'
export type LeaveReason = 'left' | 'timeout' | 'replaced' | 'kicked' | 'overflow' | 'error'
export type MediaProblem = 'insecure' | 'denied' | 'missing' | 'busy' | 'failed'
export type MediaState = { audio: boolean; video: boolean; screen?: boolean }

/** What tells the time, so that tests can. */
export interface Clock {
  now(): number
  setTimeout(run: () => void, ms: number): unknown
  clearTimeout(id: any): void
}

export interface PageEnv {
  window: EventTarget
  document: EventTarget & { visibilityState: string }
  connection?: EventTarget
}

export interface ConnectOptions {
  /** 1 to 128 bytes of UTF-8, no white space at either end. */
  room: string
  /** At most 64 characters, shown to the others. */
  name?: string
  token?: string
  /** What to send: true opens camera and microphone. A MediaStream or LocalMedia stays yours to close. */
  media?: boolean | { audio?: boolean; video?: boolean } | MediaStream | LocalMedia
  /** Default: high. */
  quality?: Quality
  /** The key of the seat; made where it is left out. */
  session?: string
  /** The key of an earlier load of this page, whose seat is to end. */
  replaces?: string
  /** Beside those of the server. */
  iceServers?: RTCIceServer[]
  iceTransportPolicy?: RTCIceTransportPolicy
  /** Gives up, or leaves. */
  signal?: AbortSignal
  /** For joining, in milliseconds; default: 20,000. */
  timeout?: number
  /** Whose life and network to follow; left out: those of this page, where there is one. */
  page?: false | PageEnv
  WebSocket?: new (url: string, protocol: string) => WebSocket
  RTCPeerConnection?: new (configuration: RTCConfiguration) => RTCPeerConnection
  MediaStream?: new () => MediaStream
  clock?: Clock
  /** In [0, 1). */
  random?: () => number
}

/** One path, in the figures that people look at. Undefined: not known, or not yet. */
export interface Stats {
  /** Milliseconds. */
  rtt: number | undefined
  /** 0 to 1. */
  loss: number | undefined
  /** Milliseconds. */
  jitter: number | undefined
  sendKbps: number | undefined
  receiveKbps: number | undefined
  fps: number | undefined
  width: number | undefined
  height: number | undefined
  path: 'direct' | 'relay' | 'unknown'
  protocol: string
  quality: 'good' | 'fair' | 'poor'
}

export interface SendFileOptions {
  /** Default: the File's own. */
  name?: string
  type?: string
  /** Cancels. */
  signal?: AbortSignal
  onprogress?: (progress: { sent: number; size: number }) => void
}

export interface ReceivedFile {
  id: number
  /** Safe to show and to save under. */
  name: string
  /** MIME type by the sender's word, or ''. */
  type: string
  size: number
  /** Hexadecimal, compared. */
  sha256: string
  blob: Blob
}

/** Somebody else in the room. */
export class Peer {
  private constructor()
  readonly id: string
  /** May be empty. */
  readonly name: string
  readonly presence: Presence
  /** What it sends us. The object stays the same. */
  readonly stream: MediaStream
  /** What it says that it sends. */
  readonly media: MediaState
  /** Of the path to it. */
  readonly state: CallState
  /** Of the path to it, measured every 3 s. */
  quality: Stats['quality'] | undefined
  stats: Stats | undefined
  /** What is below. */
  readonly call: Call
}

/** One call with one peer. */
export interface Call extends EventTarget {
  /** A rebuild, after three ICE restarts in vain, replaces it (`rebuilt`). */
  readonly pc: RTCPeerConnection
  readonly state: CallState
  readonly stream: MediaStream
  getStats(): Promise<RTCStatsReport>
  readonly files: CallFiles
}

export interface CallFiles extends EventTarget {
  send(blob: Blob, options?: SendFileOptions): Promise<void>
  /** Takes no more of a file that is coming in. */
  cancel(id: number): void
}

export interface Device {
  id: string
  label: string
}

/** Camera, microphone and screen. */
export interface LocalMedia extends EventTarget {
  /** What is sent: for the own picture. */
  readonly stream: MediaStream
  readonly problems: Map<Kind, MediaProblem>
  readonly screen: MediaStreamTrack | undefined
  readonly tracks: MediaStreamTrack[]
  track(kind: Kind): MediaStreamTrack | undefined
  open(kinds?: Kind[]): Promise<void>
  ensure(kind: Kind): Promise<MediaStreamTrack | undefined>
  use(kind: Kind, deviceId: string): Promise<void>
  devices(): Promise<{ audio: Device[]; video: Device[]; speaker: Device[] }>
  stop(kind: Kind): void
  shareScreen(): Promise<MediaStreamTrack>
  stopSharing(): void
  /** A meter for a track's loudness, or the microphone's. */
  level(track?: MediaStreamTrack): { readonly value: number; close(): void }
  close(): void
}

/** One message as it is on the wire. Keys, tokens and credentials are in it. */
export interface Envelope {
  direction: 'in' | 'out'
  message: any
  /** Of its text in UTF-8. */
  bytes: number
  /** Milliseconds of the client's clock. */
  at: number
}

export interface SignalingClient extends EventTarget {
  readonly state: 'idle' | 'connecting' | 'joining' | 'joined' | 'waiting' | 'closed'
  readonly id: string | undefined
  /** The key of the seat: a secret between this client and the server. */
  readonly session: string
  /** Slow motion, in milliseconds. */
  delay: number
  /** Finds out at once whether the connection still lives. Urgent: 1 s without an answer is enough to begin the next. */
  probe(urgent?: boolean): void
}

export interface JoinedRoomEventMap {
  peer: CustomEvent<Peer>
  'peer-left': CustomEvent<{ peer: Peer; reason: LeaveReason }>
  'peer-away': CustomEvent<Peer>
  'peer-back': CustomEvent<Peer>
  'peer-change': CustomEvent<Peer>
  track: CustomEvent<{ peer: Peer; track: MediaStreamTrack; stream: MediaStream }>
  chat: CustomEvent<{ peer: Peer; text: string }>
  /** Without a peer it comes from the server's operator. */
  message: CustomEvent<{ peer: Peer | undefined; data: any }>
  file: CustomEvent<ReceivedFile & { peer: Peer }>
  'file-progress': CustomEvent<{ peer: Peer; id: number; name: string; received: number; size: number }>
  'file-failed': CustomEvent<{ peer: Peer; id: number; name: string; code: string }>
  media: CustomEvent<null>
  state: CustomEvent<RoomState>
  closed: CustomEvent<ClientError>
  trouble: CustomEvent<unknown>
}

/** A room that we are in; `connect` makes it. */
export class JoinedRoom extends EventTarget {
  private constructor()
  readonly id: string
  readonly state: RoomState
  /** By id, in order of arrival. */
  readonly peers: Map<string, Peer>
  /** What we send: for the own picture. */
  readonly stream: MediaStream | undefined
  /** Once devices were asked for. */
  readonly media: LocalMedia | undefined
  readonly signaling: SignalingClient
  readonly opened: Promise<void>
  setMic(on: boolean): Promise<void>
  setCamera(on: boolean): Promise<void>
  /** In the camera's place. Needs a click shortly before. */
  shareScreen(): Promise<MediaStreamTrack>
  stopSharing(): Promise<void>
  switchDevice(kind: Kind, deviceId: string): Promise<void>
  setQuality(quality: Quality): void
  /** From browser to browser. It resolves to the number of peers reached. */
  sendChat(text: string): Promise<number>
  /** Any JSON value over the server: exactly once and in order. */
  send(data: unknown, options?: { to?: string }): Promise<void>
  /** It resolves when each has it and has confirmed its SHA-256. */
  sendFile(file: Blob, options?: SendFileOptions & { to?: string }): Promise<void>
  leave(): Promise<void>
  addEventListener<K extends keyof JoinedRoomEventMap>(
    type: K,
    listener: (this: JoinedRoom, event: JoinedRoomEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void
  removeEventListener<K extends keyof JoinedRoomEventMap>(
    type: K,
    listener: (this: JoinedRoom, event: JoinedRoomEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void
}

/** Joins a room. It rejects with a ClientError. */
export function connect(url: string | URL, options: ConnectOptions): Promise<JoinedRoom>
