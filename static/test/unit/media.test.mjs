import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { ClientError } from '../../js/errors.js'
import { canChooseSpeaker, explain, LocalMedia, mediaError, problemOf, setSpeaker } from '../../js/media.js'
import { en, zh } from '../../js/page/texts-media.js'
import { FakeAudioContext, FakeDevices, FakePermissions, FakeTrack } from './fakes-data.mjs'
import { FakeMediaStream, settle } from './fakes.mjs'

globalThis.MediaStream = FakeMediaStream

beforeEach(() => {
  FakeAudioContext.all = []
  FakeAudioContext.first = 'suspended'
})

function setUp(options = {}) {
  const devices = new FakeDevices()
  const permissions = new FakePermissions()
  const page = new EventTarget()
  const media = new LocalMedia({ devices, permissions, page, secure: true, AudioContext: FakeAudioContext, stream: new FakeMediaStream(), ...options })
  const events = []
  for (const type of ['ended', 'devicechange', 'permission']) media.addEventListener(type, ({ detail }) => events.push({ type, ...detail }))
  return { devices, permissions, page, media, events }
}

const kinds = (media) => media.tracks.map((track) => track.kind).sort()
const problems = (media) => Object.fromEntries(media.problems)

async function rejection(promise) {
  return promise.then(
    () => assert.fail('resolved'),
    (error) => error,
  )
}

const ERRORS = {
  NotAllowedError: 'denied',
  SecurityError: 'denied',
  InvalidStateError: 'denied',
  NotFoundError: 'missing',
  OverconstrainedError: 'missing',
  NotReadableError: 'busy',
  AbortError: 'busy',
  TypeError: 'failed',
}

test('each error of the browser is a problem, and an error with a code', () => {
  for (const [name, problem] of Object.entries(ERRORS)) {
    assert.equal(problemOf(new DOMException('', name)), problem, name)
  }
  for (const odd of [undefined, null, 'NotAllowedError', {}, new Error('x')]) assert.equal(problemOf(odd), 'failed')
  for (const problem of ['insecure', 'denied', 'missing', 'busy', 'failed']) {
    const error = mediaError(problem)
    assert.ok(error instanceof ClientError)
    assert.equal(error.code, problem === 'insecure' ? 'insecure' : `media-${problem}`)
    assert.notEqual(error.message, error.code, 'a text for people')
  }
})

test('every step that is advised has a text in both languages, and every text is used', () => {
  const advised = new Set()
  const agents = ['Firefox/153.0', 'Chrome/156.0', 'Version/18.0 Safari/605.1']
  const errors = [...Object.keys(ERRORS).map((name) => new DOMException('', name)), new DOMException('Permission denied by system', 'NotAllowedError')]
  for (const secure of [true, false]) {
    for (const framed of [true, false]) {
      for (const userAgent of agents) for (const error of errors) for (const step of explain(error, { secure, framed, userAgent }).steps) advised.add(`media-step.${step}`)
    }
  }
  assert.deepEqual(Object.keys(en).sort(), [...advised].sort())
  assert.deepEqual(Object.keys(zh), Object.keys(en))
})

test('advice fits the browser and where the page is shown', () => {
  const denied = new DOMException('', 'NotAllowedError')
  const at = (more) => explain(denied, { secure: true, framed: false, userAgent: 'Firefox/153.0', ...more })
  assert.deepEqual(at({}), { key: 'denied', steps: ['allow-firefox', 'system', 'retry'] })
  assert.equal(at({ framed: true }).steps[0], 'frame')
  assert.equal(at({ secure: false }).key, 'insecure')
  assert.equal(at({ userAgent: 'Chrome/156 Safari/537' }).steps[0], 'allow-chromium')
  assert.equal(explain('busy', { secure: true }).key, 'busy', 'a known problem may be given instead of an error')
  assert.equal(explain(undefined).key, 'failed')
})

test('opens both with one question', async () => {
  const { devices, media } = setUp()
  assert.equal(media.state('audio'), 'off')
  const opened = media.open()
  assert.equal(media.state('audio'), 'asking')
  await opened
  assert.equal(devices.asked.length, 1)
  assert.deepEqual(kinds(media), ['audio', 'video'])
  assert.deepEqual(problems(media), {})
  assert.equal(media.state('video'), 'live')
  media.microphone.enabled = false
  assert.equal(media.state('audio'), 'muted')
  await media.open()
  assert.equal(devices.asked.length, 1, 'what is open is not asked for again')
})

for (const [name, problem] of [['NotFoundError', 'missing'], ['NotReadableError', 'busy']]) {
  test(`a camera with ${name} does not cost the microphone`, async () => {
    const { devices, media } = setUp()
    devices.errors.video = name
    await media.open()
    assert.deepEqual(kinds(media), ['audio'])
    assert.deepEqual(problems(media), { video: problem })
    assert.equal(media.state('video'), problem)
  })
}

test('a refusal is not asked for twice', async () => {
  const { devices, media } = setUp()
  devices.errors.both = 'NotAllowedError'
  await media.open()
  assert.equal(devices.asked.length, 1)
  assert.deepEqual(problems(media), { audio: 'denied', video: 'denied' })
})

test('a camera that is blocked beforehand does not cost the microphone', async () => {
  const { devices, permissions, media } = setUp()
  permissions.camera.state = 'denied'
  devices.errors.both = devices.errors.video = 'NotAllowedError'
  await media.open()
  assert.deepEqual(kinds(media), ['audio'])
  assert.deepEqual(problems(media), { video: 'denied' })
  assert.equal(devices.asked.length, 2)
})

test('browsers that do not tell permissions', async () => {
  for (const permissions of [undefined, { query: () => Promise.reject(new TypeError()) }]) {
    const { devices, media } = setUp({ permissions })
    devices.errors.both = 'NotAllowedError'
    await media.open()
    assert.equal(media.state('audio'), 'denied')
  }
})

test('on an insecure origin there is nothing to ask', async () => {
  const { media } = setUp({ devices: undefined, secure: false, permissions: undefined })
  // Node has no navigator.mediaDevices, as a page on such an origin.
  await media.open()
  assert.deepEqual(problems(media), { audio: 'insecure', video: 'insecure' })
  assert.deepEqual(await media.devices(), { audio: [], video: [], speaker: [] })
  assert.equal((await rejection(media.shareScreen())).code, 'insecure')
  assert.equal((await rejection(media.use('audio', 'x'))).code, 'insecure')
})

test('own constraints, and a kind that is not wanted', async () => {
  const { devices, media } = setUp({ constraints: { video: false, audio: { echoCancellation: false } } })
  await media.open()
  assert.deepEqual(Object.keys(devices.asked[0]), ['audio'])
  assert.equal(devices.asked[0].audio.echoCancellation, false)
  assert.equal(devices.asked[0].audio.noiseSuppression, true)
  assert.ok(await media.ensure('video'), 'still there when it is asked for')
})

test('switched off while the browser asks, the light does not come on', async () => {
  const { devices, media } = setUp()
  const answer = devices.hold()
  const opened = media.open()
  await settle()
  media.stop('video')
  answer()
  await opened
  assert.deepEqual(kinds(media), ['audio'])
  assert.equal(devices.given.find((t) => t.kind === 'video').readyState, 'ended')
})

test('closed while the browser asks, nothing stays on', async () => {
  const { devices, media } = setUp()
  const answer = devices.hold()
  const opened = media.open()
  media.close()
  answer()
  await opened
  assert.deepEqual(kinds(media), [])
  assert.ok(devices.given.every((t) => t.readyState === 'ended'))
})

test('asked twice at once, the browser is asked once; off and on again, twice', async () => {
  const { devices, media } = setUp()
  await Promise.all([media.ensure('video'), media.ensure('video')])
  assert.equal(devices.asked.length, 1)
  media.stop('video')
  const answer = devices.hold()
  const first = media.ensure('video')
  media.stop('video')
  const second = media.ensure('video')
  answer()
  await first
  assert.equal(await second, media.camera)
  assert.equal(media.camera.readyState, 'live')
  assert.equal(devices.given.filter((t) => t.readyState === 'live').length, 1)
})

test('the list of devices, by kind, without doubles', async () => {
  const { devices, media } = setUp()
  devices.list.push({ kind: 'audioinput', deviceId: 'communications', label: 'Communications - Mic' })
  devices.list.push({ kind: 'audioinput', deviceId: 'default', label: 'Default - Mic' })
  const found = await media.devices()
  assert.deepEqual(found.audio.map(({ id }) => id), ['mic', 'default'])
  assert.deepEqual(found.video, [{ id: 'cam', label: 'Cam' }])
  assert.deepEqual(found.speaker, [{ id: 'speaker', label: 'Speaker' }])
})

function withTwo(set) {
  set.devices.list.push({ kind: 'audioinput', deviceId: 'mic2', label: '' }, { kind: 'videoinput', deviceId: 'cam2', label: '' })
  return set
}

test('another device takes over at once, muted if the old one was', async () => {
  const { media } = withTwo(setUp())
  await media.open()
  const old = media.microphone
  old.enabled = false
  await media.use('audio', 'mic2')
  assert.equal(media.microphone.deviceId, 'mic2')
  assert.equal(media.microphone.enabled, false)
  assert.equal(old.readyState, 'ended')
  assert.deepEqual(kinds(media), ['audio', 'video'])
})

test('chosen while it is off, a device is remembered and stays off', async () => {
  const { devices, media } = withTwo(setUp())
  await media.use('video', 'cam2')
  assert.equal(devices.asked.length, 0)
  await media.ensure('video')
  assert.equal(media.camera.deviceId, 'cam2')
  media.stop('video')
  devices.list = devices.list.filter(({ deviceId }) => deviceId !== 'cam2')
  assert.equal((await media.ensure('video')).deviceId, 'cam', 'where it is gone, another one')
})

test('chosen after a failure, a device is opened', async () => {
  const { devices, media } = withTwo(setUp())
  devices.errors.cam = 'NotReadableError'
  await media.open()
  assert.equal(media.state('video'), 'busy')
  await media.use('video', 'cam2')
  assert.equal(media.camera.deviceId, 'cam2')
  assert.deepEqual(problems(media), {})
})

test('a phone that has one camera open at a time', async () => {
  const { devices, media } = withTwo(setUp())
  await media.open()
  const ask = devices.getUserMedia.bind(devices)
  devices.getUserMedia = (constraints) => {
    if (media.camera) throw new DOMException('', 'NotReadableError')
    return ask(constraints)
  }
  await media.use('video', 'cam2')
  assert.equal(media.camera.deviceId, 'cam2')
})

test('a device that cannot be opened leaves the old one', async () => {
  const { devices, media } = withTwo(setUp())
  await media.open()
  for (const [name, code] of [['NotReadableError', 'media-busy'], ['NotAllowedError', 'media-denied']]) {
    devices.errors.cam2 = name
    const error = await rejection(media.use('video', 'cam2'))
    assert.deepEqual([error.code, error.retryable], [code, code === 'media-busy'])
    assert.match(error.message, /Close it and try again|Allow them for this page/)
    assert.equal(error.cause.name, name)
    assert.equal(media.camera.deviceId, 'cam')
    assert.deepEqual(problems(media), {})
  }
  await media.use('audio', 'mic2')
  assert.equal((await rejection(media.use('audio', 'gone'))).code, 'media-missing')
  assert.equal(media.microphone.deviceId, 'mic2')
  media.stop('audio')
  assert.equal((await media.ensure('audio')).deviceId, 'mic2', 'the choice before stands')
})

test('a headset that is pulled out gives way to another microphone', async () => {
  const { devices, media, events } = withTwo(setUp())
  await media.use('audio', 'mic2')
  await media.open()
  devices.list = devices.list.filter(({ deviceId }) => deviceId !== 'mic2')
  media.microphone.end()
  await settle()
  assert.equal(media.microphone.deviceId, 'mic')
  assert.deepEqual(events, [{ type: 'ended', kind: 'audio', problem: undefined }])
})

test('a camera that is pulled out is not replaced unasked', async () => {
  const { devices, media, events } = withTwo(setUp())
  await media.open()
  devices.list = devices.list.filter(({ deviceId }) => deviceId !== 'cam')
  media.camera.end()
  await settle()
  assert.deepEqual(kinds(media), ['audio'])
  assert.equal(media.state('video'), 'missing')
  assert.deepEqual(events, [{ type: 'ended', kind: 'video', problem: 'missing' }])
})

test('a camera that the system takes away is busy; one that the user forbids is denied', async () => {
  const { permissions, media } = setUp()
  await media.open()
  media.camera.end()
  await settle()
  assert.equal(media.state('video'), 'busy')
  await media.ensure('video')
  permissions.camera.state = 'denied'
  media.camera.end()
  await settle()
  assert.equal(media.state('video'), 'denied')
})

test('switched off just after it was pulled out, it stays off', async () => {
  const { media } = withTwo(setUp())
  await media.open()
  media.microphone.end()
  media.stop('audio')
  await settle()
  assert.equal(media.state('audio'), 'off')
})

test('the system may mute a track, and a change tells', async () => {
  const { media } = setUp()
  await media.open()
  let changes = 0
  media.addEventListener('change', () => changes++)
  media.camera.muted = true
  media.camera.dispatchEvent(new Event('mute'))
  assert.equal(changes, 1)
  assert.equal(media.state('video'), 'muted')
})

test('a device that is plugged in again is no longer missing', async () => {
  const { devices, media, events } = setUp()
  const [, camera] = devices.list.splice(1, 1, { kind: 'audiooutput', deviceId: 's2', label: '' })
  devices.list = devices.list.filter(({ kind }) => kind !== 'videoinput')
  await media.open()
  assert.equal(media.state('video'), 'missing')
  devices.list.push(camera ?? { kind: 'videoinput', deviceId: 'cam', label: '' })
  devices.dispatchEvent(new Event('devicechange'))
  await settle()
  assert.equal(media.state('video'), 'off')
  assert.deepEqual(events, [{ type: 'devicechange' }])
  media.close()
  devices.dispatchEvent(new Event('devicechange'))
  await settle()
  assert.equal(events.length, 1, 'nothing is heard after the end')
})

test('permission given later takes the problem away', async () => {
  const { devices, permissions, media, events } = setUp()
  devices.errors.both = 'NotAllowedError'
  await media.open()
  permissions.to('camera', 'granted')
  assert.equal(media.state('video'), 'off')
  assert.equal(media.state('audio'), 'denied')
  permissions.to('microphone', 'denied')
  assert.equal(media.state('audio'), 'denied')
  assert.deepEqual(events.map(({ kind, state }) => [kind, state]), [['video', 'granted'], ['audio', 'denied']])
})

test('the screen is sent in place of the camera, which comes back when sharing ends', async () => {
  const { media } = setUp()
  await media.open()
  const camera = media.camera
  const screen = await media.shareScreen()
  assert.equal(screen.contentHint, 'detail')
  assert.equal(media.track('video'), screen)
  assert.equal(media.camera, camera)
  assert.deepEqual(kinds(media), ['audio', 'video'])
  screen.end() // the browser's own "stop sharing"
  assert.equal(media.screen, undefined)
  assert.equal(media.track('video'), camera)
  const again = await media.shareScreen()
  media.stopSharing()
  assert.equal(again.readyState, 'ended')
  assert.equal(media.track('video'), camera)
})

test('the camera can be switched off and on behind the screen', async () => {
  const { media } = setUp()
  const screen = await media.shareScreen()
  const camera = await media.ensure('video')
  assert.equal(media.track('video'), screen)
  media.stop('video')
  assert.equal(camera.readyState, 'ended')
  assert.equal(media.track('video'), screen)
  media.stopSharing()
  assert.equal(media.track('video'), undefined)
})

test('another window may be shared in place of the first', async () => {
  const { media } = setUp()
  const first = await media.shareScreen()
  const second = await media.shareScreen()
  assert.equal(first.readyState, 'ended')
  assert.equal(media.track('video'), second)
})

test('each way of not sharing has its code', async () => {
  const { devices, media } = setUp()
  for (const [name, message, code] of [
    ['NotAllowedError', 'Permission denied', 'cancelled'],
    ['NotAllowedError', 'Permission denied by system', 'media-denied'],
    ['InvalidStateError', '', 'media-denied'],
    ['NotFoundError', '', 'media-missing'],
    ['NotReadableError', '', 'media-busy'],
    ['TypeError', '', 'media-failed'],
  ]) {
    Object.assign(devices.errors, { screen: name, screenMessage: message })
    assert.equal((await rejection(media.shareScreen())).code, code, `${name} ${message}`)
  }
  devices.getDisplayMedia = undefined
  assert.equal((await rejection(media.shareScreen())).code, 'unsupported')
})

test('closed while the user chooses a screen, nothing is shared', async () => {
  const { devices, media } = setUp()
  const answer = devices.hold()
  const shared = rejection(media.shareScreen())
  media.close()
  answer()
  assert.equal((await shared).code, 'cancelled')
  assert.equal(devices.given[0].readyState, 'ended')
  assert.equal(media.screen, undefined)
})

test('meters share one AudioContext, which a gesture wakes and the last one closes', async () => {
  const { media, page } = setUp()
  const own = media.level()
  assert.equal(own.value, 0)
  assert.equal(FakeAudioContext.all.length, 0, 'nothing to measure yet')
  await media.open()
  assert.equal(own.value, 0)
  const other = media.level(new FakeTrack('audio'))
  assert.equal(other.value, 0)
  const [context] = FakeAudioContext.all
  assert.equal(FakeAudioContext.all.length, 1)
  const before = context.resumes
  page.dispatchEvent(new Event('pointerdown'))
  assert.equal(context.resumes, before + 1)
  context.state = 'running'
  page.dispatchEvent(new Event('keydown'))
  assert.equal(context.resumes, before + 1)

  context.sample = 1
  assert.equal(own.value, 1)
  context.sample = 0.001 // -60 dBFS
  assert.ok(own.value < 0.01)
  context.sample = 0.0316 // -30 dBFS
  assert.ok(Math.abs(own.value - 0.5) < 0.01)

  other.close()
  assert.equal(context.state, 'running')
  own.close()
  own.close()
  assert.equal(context.state, 'closed')
  assert.equal(own.value, 0)
  page.dispatchEvent(new Event('pointerdown'))
  assert.equal(context.resumes, before + 1)
})

test('the meter follows the microphone', async () => {
  const { media } = withTwo(setUp())
  await media.open()
  const meter = media.level()
  void meter.value
  await media.use('audio', 'mic2')
  void meter.value
  const { sources } = FakeAudioContext.all[0]
  assert.deepEqual(sources.map(({ track, connected }) => [track.deviceId, connected]), [['mic', 0], ['mic2', 1]])
  media.stop('audio')
  assert.equal(meter.value, 0)
  media.close()
  assert.equal(FakeAudioContext.all[0].state, 'closed')
})

test('without an AudioContext a meter shows nothing', async () => {
  const { media } = setUp({ AudioContext: undefined })
  await media.open()
  const meter = media.level()
  assert.equal(meter.value, 0)
  meter.close()
})

test('the speaker is chosen where the browser can', async () => {
  assert.equal(canChooseSpeaker(), false)
  assert.equal(await setSpeaker({}, 'x'), false)
  const chosen = []
  assert.equal(await setSpeaker({ setSinkId: async (id) => void chosen.push(id) }, 'x'), true)
  assert.deepEqual(chosen, ['x'])
  assert.equal(await setSpeaker({ setSinkId: () => Promise.reject(new DOMException('', 'NotFoundError')) }, 'x'), false)
})
