// What client.d.ts says of the package's values is true of the code.
import * as code from '../../js/duet.js'
import type * as said from '../../js/client.d.ts'
import type { LocalMedia } from '../../js/media.js'
import type { ErrorCode } from '../../js/errors.js'

type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never
type Public<T> = { [K in keyof T]: T[K] }

export const connect: (...options: Parameters<typeof said.connect>) => Promise<unknown> = (url, { media: _, ...options }) =>
  code.connect(url, options)
export const room = (r: code.JoinedRoom): Omit<Public<said.JoinedRoom>, 'peers' | 'signaling' | 'media'> => r
export const media = (m: LocalMedia): Public<said.LocalMedia> => m
export const peer = (p: code.Peer): Public<said.Peer> => p
export const signaling = (r: code.JoinedRoom): Public<said.SignalingClient> => r.signaling
export const error = (e: code.ClientError): Public<said.ClientError> => e
export const options = (o: Omit<said.ConnectOptions, 'media'>): Omit<code.ConnectOptions, 'media'> => o
export const optionNames: Same<keyof code.ConnectOptions, keyof said.ConnectOptions> = true
export const codes: Same<ErrorCode, said.ErrorCode> = true
export const states: Same<code.RoomState, said.RoomState> = true
export const names: Same<keyof typeof code, keyof typeof said> = true
export const members: Same<keyof code.JoinedRoom, keyof said.JoinedRoom> = true
export const peerMembers: Same<keyof code.Peer, keyof said.Peer> = true
