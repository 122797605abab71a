import assert from 'node:assert/strict'
import { test } from 'node:test'
import { invitationOf } from '../../js/page/invitation.js'

test('an address names a room, and may bring a token', () => {
  for (const [hash, room, token] of [
    ['', '', undefined],
    ['#', '', undefined],
    ['#demo', 'demo', undefined],
    ['#caf%C3%A9%20%26%20bar', 'café & bar', undefined],
    ['#demo&token=aaa.bbb.ccc', 'demo', 'aaa.bbb.ccc'],
    ['#demo&other=1&token=aaa%2Ebbb', 'demo', 'aaa.bbb'],
    ['#demo&token=', 'demo', undefined],
    ['#demo&', 'demo', undefined],
    ['#%', '', undefined],
    ['#demo&token=%', '', undefined],
  ]) {
    const invitation = invitationOf(hash)
    assert.deepEqual([invitation.room, invitation.token], [room, token], hash)
  }
})
