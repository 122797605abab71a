// Several nodes that are one server, and a balancer before them.
import { setTimeout as sleep } from 'node:timers/promises'
import { Proxy, Server, startNats } from './harness.mjs'

const ADMIN_TOKEN = 'a-token-of-the-operator-for-tests'

/** How long nodes may take to hear of each other, in milliseconds, and how often they are asked. */
const PATIENCE = 20_000
const LOOK_EVERY = 50

let nats
let clusters = 0

export class Cluster {
  /** Those that run, by name. @type {Map<string, Server>} */
  nodes = new Map()
  #env

  /** Starts these nodes. All clusters share one NATS server, where each has names of its own. */
  static async start(...names) {
    const cluster = new Cluster()
    cluster.#env = {
      DUET_NATS_URL: await (nats ??= startNats()),
      DUET_NATS_REPLICAS: '1',
      DUET_NATS_PREFIX: `cluster${++clusters}`,
      DUET_ADMIN_TOKEN: ADMIN_TOKEN,
      DUET_DRAIN: '3s', // rooms are handed over for two fifths of it
    }
    for (const name of names) await cluster.startNode(name)
    return cluster
  }

  /** Starts a node, again where it ran before, and waits until all that run know each other. */
  async startNode(name) {
    this.nodes.set(name, await Server.start({ env: { ...this.#env, DUET_NODE_ID: name } }))
    const end = performance.now() + PATIENCE
    for (const [other, { operator }] of this.nodes) {
      const heard = async () => (await (await fetch(new URL('metrics', operator))).text()).includes(`duet_cluster_nodes ${this.nodes.size}\n`)
      while (!(await heard())) {
        if (performance.now() > end) throw new Error(`${other} does not hear of ${this.nodes.size} nodes`)
        await sleep(LOOK_EVERY)
      }
    }
  }

  /** Ends a node as a crash does. */
  async kill(name) {
    await this.nodes.get(name).kill()
    this.nodes.delete(name)
  }

  /** Ends a node as a restart does: its rooms go to another one first. */
  async stop(name) {
    await this.nodes.get(name).stop()
    this.nodes.delete(name)
  }

  /** A way in, of one URL: it leads to the first of these nodes that takes people just now, as a balancer with a preference does. */
  entrance(...names) {
    return Proxy.start(async () => {
      for (const name of names) {
        const node = this.nodes.get(name)
        if (node && (await fetch(new URL('readyz', node.url)).then(({ ok }) => ok, () => false))) return node.port
      }
    })
  }

  /** Where a room is: the name of the node that runs it, and those of the nodes that its people are connected to, in order of their names. */
  async whereabouts(room) {
    const [{ operator }] = this.nodes.values()
    const ask = async (path) => (await fetch(new URL(path, operator), { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } })).json()
    const { seats } = await ask(`api/rooms/${encodeURIComponent(room)}`)
    const owner = (await ask('api/rooms')).rooms.find((r) => r.room === room).node
    const name = (node) => node.slice(0, node.lastIndexOf('-')) // what follows is new with each start
    seats.sort((one, other) => (one.name < other.name ? -1 : 1))
    return { owner: name(owner), people: seats.map(({ node }) => name(node)) }
  }
}
