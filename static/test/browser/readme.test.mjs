// The client that README.md gives as "a client of your own" makes a call, as it stands there.
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import http from 'node:http'
import { after, test } from 'node:test'
import { CAMERA, cleanUp, launch, Server } from './harness.mjs'

after(cleanUp)

const page = `<!doctype html><video id=local autoplay muted playsinline></video>
<video id=remote autoplay muted playsinline></video><script type=module src=client.js></script>`

/** Serves a page with the README's client from an origin of its own, as somebody's project would. */
async function serve() {
  const readme = await readFile(new URL('../../../README.md', import.meta.url), 'utf8')
  const client = /```js\n([\s\S]*?)```/.exec(readme)[1]
  const files = { '/': ['text/html', page] }
  const server = http.createServer((request, response) => {
    const [type, body] = files[request.url] ?? ['text/plain', '']
    response.setHeader('Content-Type', type)
    response.end(body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const origin = `http://127.0.0.1:${server.address().port}`
  const duet = await Server.start({ env: { DUET_ALLOWED_ORIGINS: origin } })
  const body = client.replace('localhost:8080', new URL(duet.url).host)
  files['/client.js'] = ['text/javascript', `${body}\nwindow.state = () => pc?.connectionState`]
  return { origin, close: () => server.close() }
}

const playing = (page) =>
  page.waitForFunction(() => window.state?.() === 'connected' && remote.videoWidth > 0 && remote.currentTime > 1, { timeout: 30_000 })

test("22 | the README's own client makes a call, and again after either side is refreshed | Chromium ↔ Chromium", async () => {
  const { origin, close } = await serve()
  try {
    const [ada, bob] = await Promise.all([launch(CAMERA), launch(CAMERA)])
    const [a, b] = [await ada.newPage(), await bob.newPage()]
    await a.goto(origin)
    await a.waitForFunction(() => local.srcObject)
    await b.goto(origin)
    await Promise.all([playing(a), playing(b)])
    await b.reload()
    await Promise.all([playing(a), playing(b)])
    await a.reload()
    await Promise.all([playing(a), playing(b)])
  } finally {
    close()
  }
})
