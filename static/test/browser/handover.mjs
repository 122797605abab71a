// Runs in a network namespace of its own, where it makes a second one: Ada's machine, which has one cable
// to the machine of Bob and the server. In the middle of their call Ada's address changes, as it does from
// one Wi-Fi to another: her WebSocket and her media are both cut off at once. The last line that it
// prints is JSON: what both sides saw. Usage: unshare -n node handover.mjs
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { CAMERA, chromium, cleanUp, launch, Person, Server, temporaryFolder } from './harness.mjs'

const HERE = '10.9.9.100'
const [OLD, NEW] = ['10.9.9.1', '10.9.9.2']
const NAMES = ['Ada', 'Bob']

/** An IPv6 address that a cable gives itself after a second would be a change of the network: Chromium then breaks off what it loads. */
const ONLY_IPV4 = 'sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 || true'

const sh = (command) => promisify(execFile)('sh', ['-ec', command])

/** Gives each machine its end of the cable. Returns the id of a process in Ada's namespace. */
async function lay() {
  const holder = spawn('unshare', ['-n', 'sh', '-c', `${ONLY_IPV4}; ip link set lo up; echo ready; exec sleep 600`], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(holder.stdout, 'data')
  await sh(`${ONLY_IPV4}; ip link set lo up
    ip link add v0 type veth peer name v1
    ip link set v1 netns ${holder.pid}
    ip addr add ${HERE}/24 dev v0; ip link set v0 up; ip route add default dev v0
    nsenter -t ${holder.pid} -n sh -ec 'ip addr add ${OLD}/24 dev v1; ip link set v1 up; ip route add default via ${HERE} dev v1'`)
  return holder
}

/** A program that runs Chromium in the namespace of a process. */
async function chromiumAt(pid) {
  const file = path.join(await temporaryFolder(), 'chromium')
  await writeFile(file, `#!/bin/sh\nexec nsenter -t ${pid} -n ${chromium} "$@"\n`)
  await chmod(file, 0o755)
  return file
}

const holder = await lay()
try {
  const server = await Server.start({ address: `${HERE}:0` })
  // The page is at an address that is not secure; a flag says that it is, so that it gets a camera.
  const flags = [...CAMERA, `--unsafely-treat-insecure-origin-as-secure=${server.url.slice(0, -1)}`]
  const browsers = await Promise.all([launch(flags, { executablePath: await chromiumAt(holder.pid), pipe: true }), launch(flags)])
  const people = await Promise.all(browsers.map((browser) => Person.open(browser, server.url, 'handover')))
  const [a, b] = people
  await a.join('Ada')
  await a.waitStatus('waiting')
  await b.join('Bob')
  await Promise.all(people.map((person) => person.waitConnected()))
  await Promise.all(people.map((person) => person.framesAdvance()))
  await Promise.all(people.map((person) => person.watchPicture()))
  for (const { page } of people) await page.evaluate(() => window.statuses.splice(0))

  await sh(`nsenter -t ${holder.pid} -n sh -ec 'ip addr add ${NEW}/24 dev v1; ip addr del ${OLD}/24 dev v1; ip addr add ${NEW}/24 dev v1 2>/dev/null || true
    ip route replace default via ${HERE} dev v1'`)

  await b.wait(() => window.picture.gap > 1000 || performance.now() - window.picture.last > 1000)
  await Promise.all(people.map((person) => person.picturesAdvance(20, 45_000)))
  await Promise.all(people.map((person) => person.waitStatus('connected')))
  const sides = []
  for (const [i, person] of people.entries()) {
    const { gap, control } = await person.standstills()
    const statuses = await person.statuses()
    sides.push(i === 0 ? { name: 'Ada (her address)', statuses, gap } : { name: NAMES[i], statuses, gap, control }) // her control goes with her address
  }
  console.log(JSON.stringify({ sides, faults: people.flatMap((person) => person.faults) }))
} finally {
  await cleanUp()
  holder.kill('SIGKILL')
}
