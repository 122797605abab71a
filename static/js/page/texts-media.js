// @ts-check
/**
 * What to do about a camera or a microphone that is not there: a text for each step that `explain` of
 * media.js names, in both languages. A test keeps them complete.
 */

export const en = Object.freeze({
  'media-step.https': 'Open this page over https://.',
  'media-step.localhost': 'On the computer where duet runs, http://localhost works too.',
  'media-step.frame': 'This page is shown inside another one, which does not pass the permission on. Open it in a tab of its own.',
  'media-step.allow-chromium': 'Click the icon to the left of the address, and allow camera and microphone.',
  'media-step.allow-firefox': 'Click the crossed-out camera or microphone next to the address, and remove the block.',
  'media-step.allow-safari': 'Choose “Settings for This Website” (on an iPhone: the page menu next to the address), and allow camera and microphone.',
  'media-step.system': 'Look in the privacy settings of your system whether the browser may use camera and microphone.',
  'media-step.plug': 'Plug the device in, or switch it on. Some laptops have a switch or a slider for it.',
  'media-step.replug': 'Unplug the device and plug it in again.',
  'media-step.close-others': 'Close other programs and tabs that make calls or record.',
  'media-step.other-device': 'Or choose another device.',
  'media-step.restart': 'Restart the browser.',
  'media-step.reload': 'Then restart the browser and open this page again.',
  'media-step.retry': 'Then try again.',
})

/** @type {Readonly<Record<keyof typeof en, string>>} */
export const zh = Object.freeze({
  'media-step.https': '请通过 https:// 打开本页面。',
  'media-step.localhost': '在运行 duet 的那台电脑上，也可以使用 http://localhost。',
  'media-step.frame': '本页面嵌在另一个页面里，而那个页面没有把权限传下来。请在单独的标签页中打开。',
  'media-step.allow-chromium': '点击地址栏左侧的图标，允许使用摄像头和麦克风。',
  'media-step.allow-firefox': '点击地址旁边带斜线的摄像头或麦克风图标，取消阻止。',
  'media-step.allow-safari': '打开“此网站的设置”（iPhone 上在地址旁边的页面菜单里），允许使用摄像头和麦克风。',
  'media-step.system': '在系统的隐私设置里，检查是否允许浏览器使用摄像头和麦克风。',
  'media-step.plug': '插上设备或打开它的开关。有些笔记本电脑有专门的开关或滑盖。',
  'media-step.replug': '拔下设备，再重新插上。',
  'media-step.close-others': '关闭其他正在通话或录制的程序和标签页。',
  'media-step.other-device': '或者换一个设备。',
  'media-step.restart': '重新启动浏览器。',
  'media-step.reload': '然后重新启动浏览器，再打开本页面。',
  'media-step.retry': '然后再试一次。',
})
