// The inspector in the hands of somebody: keyboard, filters, pause, slow motion, download.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { cleanUp, launch, Person, Server } from './harness.mjs'

after(cleanUp)

test('the inspector in use', { timeout: 60_000 }, async () => {
  const [server, browser] = await Promise.all([Server.start(), launch()])
  const a = await Person.open(browser, server.url, 'demo', { window: true })
  const { page } = a
  await a.join('Ada')
  await a.waitStatus('waiting')
  await a.openDrawer('inspector')
  await a.wait(() => document.querySelectorAll('#inspector .ins-row').length >= 3)
  assert.equal(await page.$eval('.ins-head-lane:last-child', (head) => head.textContent), 'Peer')

  // Nothing but the keyboard.
  const focused = () => page.evaluate(() => {
    const rows = [...document.querySelectorAll('#inspector .ins-row')]
    return [rows.indexOf(document.activeElement.closest('.ins-row')), document.activeElement.getAttribute('aria-expanded')]
  })
  await page.focus('.ins-filters button:last-child')
  await page.keyboard.press('Tab')
  for (const [key, ...want] of [
    ['ArrowUp', 0, 'false'], ['ArrowDown', 1, 'false'], ['Enter', 1, 'true'], ['ArrowLeft', 1, 'false'], ['ArrowRight', 1, 'true'],
    ['Home', 0, 'false'], ['ArrowDown', 1, 'true'], ['Escape', 1, 'false'],
  ]) {
    await page.keyboard.press(key)
    assert.deepEqual(await focused(), want, key)
  }
  assert.ok(await page.$eval('#drawer', (drawer) => drawer.checkVisibility()), 'Escape closed the line, not the drawer')

  // Another language redraws it and keeps what is open.
  await page.keyboard.press('Enter')
  await page.select('#language', 'zh')
  await a.wait(() => /线路上的信封原文/.test(document.querySelector('#inspector .ins-details')?.textContent))
  await page.select('#language', 'en')

  // Paused, the list stands still; nothing is missing afterwards.
  const press = (words) => page.evaluate((w) => [...document.querySelectorAll('#inspector .ins-tool')].find((b) => b.textContent === w).click(), words)
  const rows = () => page.$$eval('#inspector .ins-row', (all) => all.length)
  await press('Pause')
  const before = await rows()
  const b = await Person.open(browser, server.url, 'demo', { window: true })
  await b.join('Bob')
  await a.waitConnected()
  await a.wait(() => duet.inspector.entries.some((entry) => entry.type === 'path'))
  assert.equal(await rows(), before)
  assert.match(await a.text('.ins-count'), /^Paused; \d\d+ more/)
  await press('Pause')
  await a.wait(() => document.querySelectorAll('#inspector .ins-row').length === duet.inspector.entries.length)
  assert.equal(await page.$eval('.ins-head-lane:last-child', (head) => head.textContent), 'Bob')

  // Filters hide, and bring back.
  const shown = (group) => page.$$eval(`.ins-row[data-group=${group}]`, (all) => all.filter((row) => row.checkVisibility()).length)
  assert.ok((await shown('candidate')) > 0)
  await press('Candidates')
  assert.equal(await shown('candidate'), 0)
  assert.ok((await shown('description')) > 0)
  await press('Candidates')
  assert.ok((await shown('candidate')) > 0)

  // Every line of the offer that came has its explanation; none is unknown to us.
  await page.$eval('.ins-row[data-type=offer] .ins-head', (head) => head.click())
  const unknown = await page.$$eval('.ins-section .ins-list > div', (lines) => {
    const unknown = lines.filter((line) => /does not know/.test(line.lastElementChild.textContent))
    return { lines: lines.length, unknown: unknown.map((line) => line.firstElementChild.textContent) }
  })
  assert.ok(unknown.lines > 50)
  assert.deepEqual(unknown.unknown, [])

  // Slow motion: an envelope goes out a second later.
  await press('Slow motion')
  assert.equal(await page.evaluate(() => duet.room.signaling.delay), 1000)
  const wait = await page.evaluate(async () => {
    const begun = performance.now()
    duet.room.signaling.send({ type: 'message', data: { token: 'nobody-may-see-this' } })
    await new Promise((resolve) => duet.inspector.addEventListener('entry', ({ detail }) => detail.type === 'message' && resolve()))
    return performance.now() - begun
  })
  assert.ok(wait >= 990, `after ${wait} ms`)
  await press('Slow motion')

  // The download is the list, without secrets.
  const { saved, count } = await page.evaluate(async () => {
    let blob
    const { createObjectURL } = URL
    URL.createObjectURL = (b) => createObjectURL.call(URL, (blob = b))
    HTMLAnchorElement.prototype.click = () => {}
    ;[...document.querySelectorAll('#inspector .ins-tool')].find((button) => button.textContent === 'Download').click()
    const count = duet.inspector.entries.length // of this moment: the call goes on
    return { saved: await blob.text(), count }
  })
  assert.equal(JSON.parse(saved).entries.length, count)
  assert.doesNotMatch(saved, /nobody-may-see-this/)

  // Out of sight it does nothing.
  await page.click('#drawer-close')
  await a.wait(() => document.querySelectorAll('#inspector .ins-row').length === 0)
  assert.deepEqual([...a.faults, ...b.faults], [])
})
