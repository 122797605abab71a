import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { afterEach, test } from 'node:test'
import { wordsOf } from '../../js/page/cards.js'
import { currentLanguage, duration, firstLanguage, isText, onLanguage, setLanguage, size, text } from '../../js/page/texts.js'
import { en } from '../../js/page/texts-en.js'
import { zh } from '../../js/page/texts-zh.js'

const static_ = new URL('../../', import.meta.url)
const read = (name) => readFile(new URL(name, static_), 'utf8')

afterEach(() => setLanguage('en'))

const holes = (words) => (words.match(/\{\w+\}/g) ?? []).sort().join()

test('both languages have the same texts with the same values', () => {
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort())
  for (const key of Object.keys(en)) {
    assert.ok(en[key].trim() && zh[key].trim(), key)
    assert.equal(holes(zh[key]), holes(en[key]), key)
  }
})

test('Chinese is Chinese, with Chinese punctuation', () => {
  const same = Object.keys(en).filter((key) => en[key] === zh[key])
  assert.deepEqual(same.filter((key) => /[a-z]{2}/i.test(en[key].replace(/\{\w+\}/g, ''))), [])
  for (const [key, words] of Object.entries(zh)) {
    assert.doesNotMatch(words.replace(/\{\w+\}|https?:\/\/\S*/g, 'X'), /[\u4e00-\u9fff]\s*[,;:!()]|\.\.\.|\s…/, key)
  }
})

test('every text that the markup and the modules name is there', async () => {
  const html = await read('index.html')
  for (const [, key] of html.matchAll(/data-(?:text|label|title|placeholder)="([^"]+)"/g)) assert.ok(isText(key), key)
  for (const name of await readdir(new URL('js/page/', static_))) {
    if (/^(texts|inspector|explain|stats)/.test(name)) continue
    for (const [, key] of (await read(`js/page/${name}`)).matchAll(/\btext\('([^']+)'/g)) assert.ok(isText(key), `${name}: ${key}`)
  }
})

test('every text is used', async () => {
  const names = (await readdir(new URL('js/page/', static_))).filter((name) => !name.startsWith('texts'))
  const sources = (await Promise.all(['index.html', ...names.map((name) => `js/page/${name}`)].map(read))).join('\n')
  const made = /^(card|pill|check|file|peer-left|media)[.-]/ // names that are put together
  assert.deepEqual(Object.keys(en).filter((key) => !made.test(key) && !sources.includes(`'${key}'`) && !sources.includes(`"${key}"`) && !sources.includes(`${key}:`)), [])
})

test('each failure has a title, what happened and what to do', () => {
  const keys = ['insecure', 'denied', 'missing', 'busy', 'failed', 'room-full', 'room-full-retry', 'unreachable', 'relay-missing', 'blocked',
    'unanswered', 'replaced', 'kicked', 'signal-ended', 'unauthorized', 'forbidden', 'refused']
  for (const language of ['en', 'zh']) {
    setLanguage(language)
    for (const key of keys) {
      const words = withLocation('http://192.0.2.7:8080/a/?lang=zh#room', () => wordsOf({ key, values: { room: 'R', name: 'N', seconds: 8, code: 1008, message: 'M' } }))
      assert.ok(words.title && words.what && words.steps.length > 0, `${language} ${key}`)
      assert.doesNotMatch([words.title, words.what, ...words.steps].join(), /[{}]/, `${language} ${key}`)
    }
  }
})

test('the insecure card names this address and those that work', () => {
  const { what, steps } = withLocation('http://192.0.2.7:8080/a/?lang=zh#room', () => wordsOf({ key: 'insecure' }))
  assert.match(what, /http:\/\/192\.0\.2\.7:8080 is not one/)
  assert.match(steps.join(' '), /http:\/\/localhost:8080\/a\//)
  assert.match(steps.join(' '), /https:\/\/192\.0\.2\.7:8080/)
})

function withLocation(href, run) {
  globalThis.location = new URL(href)
  try {
    return run()
  } finally {
    delete globalThis.location
  }
}

test('texts are filled in, once', () => {
  assert.equal(text('calling', { name: '<Ada>' }), 'Calling <Ada> …')
  assert.equal(text('calling', { name: '{name}' }), 'Calling {name} …')
  setLanguage('zh')
  assert.equal(text('calling', { name: 'Ada' }), '正在呼叫 Ada……')
})

test('a change of language is told', () => {
  const over = new AbortController()
  let told = 0
  onLanguage(() => told++, { signal: over.signal })
  setLanguage('zh')
  assert.deepEqual([currentLanguage(), told], ['zh', 1])
  over.abort()
  setLanguage('en')
  assert.equal(told, 1)
})

test('the first language: address, then choice, then the reader’s own, else English', () => {
  assert.equal(firstLanguage({ search: '?lang=zh', chosen: 'en', languages: ['en'] }), 'zh')
  assert.equal(firstLanguage({ search: '?lang=ZH-hans' }), 'zh')
  assert.equal(firstLanguage({ search: '?lang=fr', chosen: 'zh' }), 'zh')
  assert.equal(firstLanguage({ languages: ['de-DE', 'zh-TW', 'en-US'] }), 'zh')
  assert.equal(firstLanguage({ languages: ['en-GB', 'zh'] }), 'en')
  assert.equal(firstLanguage({ chosen: { evil: 1 }, languages: ['de'] }), 'en')
})

test('sizes and durations for people', () => {
  assert.deepEqual([0, 999, 1000, 1550, 999_499, 999_500, 12_345_678, 3e9].map(size), ['0 B', '999 B', '1 kB', '1.6 kB', '999 kB', '1 MB', '12.3 MB', '3 GB'])
  assert.deepEqual([0, 7_900, 754_000, 3_723_000, -5].map(duration), ['0:00', '0:07', '12:34', '1:02:03', '0:00'])
})
