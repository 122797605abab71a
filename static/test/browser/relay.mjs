// A server with its own relay, and pages that take no other path.
import os from 'node:os'
import { Server, temporaryFolder } from './harness.mjs'

/** Where relay and page are reached by other machines: an address of this one, or only loopback where it has none. */
const ADDRESS = Object.values(os.networkInterfaces()).flat().find((i) => i.family === 'IPv4' && !i.internal)?.address ?? '127.0.0.1'

/** A server with its relay, over http, or over https as for a phone on the local network. */
export async function startRelaying({ https = false } = {}) {
  const env = { DUET_TURN_ADDR: `${ADDRESS}:0` }
  if (!https) return Server.start({ env })
  return Server.start({ address: `${ADDRESS}:0`, env: { ...env, DUET_TLS_SELF_SIGNED: 'true', DUET_DATA_DIR: await temporaryFolder() } })
}

/**
 * Before the page loads: its connections may use nothing but the relay, over `transport` where it is given,
 * and with `password` instead of the server's. With the policy `all` they may take any other path.
 * @param {import('puppeteer-core').Page} page
 * @param {{ transport?: 'udp' | 'tcp', password?: string, policy?: RTCIceTransportPolicy }} [how]
 */
export function relayOnly(page, how = {}) {
  return page.evaluateOnNewDocument(({ transport = '', password, policy = 'relay' }) => {
    const allowed = ({ urls, ...server }) => ({
      ...server,
      urls: [urls].flat().filter((url) => url.startsWith('turn:') && url.endsWith(transport)),
      ...(password && { credential: password }),
    })
    globalThis.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(configuration) {
        const iceServers = configuration.iceServers.map(allowed).filter(({ urls }) => urls.length > 0)
        super({ ...configuration, iceServers, iceTransportPolicy: policy })
      }
    }
  }, how)
}
