// tests/integration/page.mjs - the page at / in headless Chromium, on a phone and on a desk. Without the browser (or npm for
// its driver) only what needs none is tested. Screenshots stay in the build folder.
import crypto from 'node:crypto'
import { assert, done, fs, path, scratch, skip_test, sleep, start, test } from './harness.mjs'

const d = await start()
const res = await d.get('/')

await test('one file, strict policy, no outside request', () => {
    assert.equal(res.status, 200)
    assert.match(res.headers['content-type'], /^text\/html/)
    const policy = res.headers['content-security-policy']
    assert.match(policy, /default-src 'none'/)
    assert.doesNotMatch(policy, /unsafe/)
    const nonce = /script-src 'nonce-([0-9a-f]{32})'/.exec(policy)[1]
    assert.equal(res.text.split(`nonce="${nonce}"`).length, 3)
    assert.doesNotMatch(res.text, /https?:|@import|<link[^>]*href="[^d]|innerHTML| on\w+="/)
    assert.ok(res.text.endsWith('</html>\n'))
})

await test('another answer, another nonce', async () => {
    assert.notEqual((await d.get('/')).headers['content-security-policy'], res.headers['content-security-policy'])
    assert.equal((await d.request('POST', '/', {})).status, 405)
})

const chromium = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((p) => fs.existsSync(p))
if (!chromium) {
    skip_test('in a browser', 'no chromium')
    await done()
}
const { packages } = await import('./npm.mjs')
const puppeteer = (await packages('npm-page', { 'puppeteer-core': '24' })('puppeteer-core')).default
const browser = await puppeteer.launch({ executablePath: chromium, headless: true, args: ['--no-sandbox', '--disable-gpu'] })
process.on('exit', () => browser.process()?.kill('SIGKILL'))
const page = await browser.newPage()
const trouble = []
page.on('pageerror', (e) => trouble.push(String(e)))
page.on('console', (m) => m.type() === 'error' && trouble.push(m.text()))
page.on('request', (r) => !r.url().startsWith(d.base) && !r.url().startsWith('data:') && trouble.push(r.url()))

const answered = () => page.waitForFunction(() => [...document.querySelectorAll('.facts')].at(-1)?.textContent.includes('first after'),
    { timeout: 60000 })
const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth)

await test('a chat on a phone: streams, rate, log-probabilities', async () => {
    await page.setViewport({ width: 390, height: 780, deviceScaleFactor: 2, hasTouch: true })
    await page.goto(d.base + '/')
    await page.type('#text', 'What is a volcano?')
    await page.keyboard.press('Enter')
    await answered()
    assert.match(await page.$eval('.facts', (e) => e.textContent), /\d+ tokens, [\d.]+ per second · first after \d+ ms · prompt \d+ tokens/)
    assert.ok(await page.$$eval('.token', (all) => all.length) > 10)
    await page.hover('.token:nth-child(3)')
    const tip = await page.$eval('#tip', (e) => e.hidden ? '' : e.textContent)
    assert.match(tip, /^> +[\d.]+ % +-?[\d.]+ +"/)
    assert.equal(tip.trim().split('\n').length, 5)
    assert.ok(await fits(), 'wider than the screen')
    await page.screenshot({ path: path.join(scratch, 'page-phone.png') })
})

await test('a completion on a desk, and the state of cache and queue', async () => {
    await page.setViewport({ width: 1200, height: 800 })
    await page.evaluate(() => (document.getElementById('more').open = true))
    await page.select('#mode', 'completion')
    await page.type('#text', 'The history of the city')
    await page.click('#send')
    await answered()
    assert.match(await page.$eval('.turn:last-child', (e) => e.textContent), /^The history of the city/)
    await page.waitForFunction(() => / running, .*cache [\d.]+ % held, (?!0\.0)[\d.]+ % cached/.test(document.getElementById('state').textContent), { timeout: 20000 })
    assert.ok(await fits())
    await page.screenshot({ path: path.join(scratch, 'page-desk.png') })
})

await test('stop ends it, New begins anew, an error is shown', async () => {
    await page.$eval('#max_tokens', (e) => (e.value = '3000'))
    await page.evaluate(() => { // an answer that ended by itself could not be stopped
        const send = window.fetch
        window.fetch = (to, o) =>
            send(to, o?.body ? { ...o, body: JSON.stringify({ ...JSON.parse(o.body), ignore_eos: true }) } : o)
    })
    await page.type('#text', 'Once upon a time')
    await page.keyboard.press('Enter')
    await page.waitForSelector('#stop', { visible: true }) // before it, tokens are those of the last answer
    await page.waitForSelector('.turn:last-child .token')
    await page.click('#stop')
    await page.waitForFunction(() => /stopped/.test([...document.querySelectorAll('.facts')].at(-1).textContent))
    await d.idle()
    await page.click('#clear')
    assert.equal(await page.$$eval('.turn', (all) => all.length), 0)
    await page.$eval('#temperature', (e) => (e.value = '9'))
    await page.type('#text', 'x')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.error')
    assert.match(await page.$eval('.error', (e) => e.textContent), /temperature/)
    assert.equal(await page.$eval('#text', (e) => e.value), 'x') // what was typed is there to be sent again
    assert.equal(await page.$$eval('.facts', (all) => all.length), 0) // nothing waits
    for (const value of ['light', 'dark']) { // as readable as WCAG asks for
        await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value }])
        const [text, back] = await page.evaluate(() => ['.error', '.answer'].map((s) => {
            const style = getComputedStyle([...document.querySelectorAll(s)].at(-1))
            const [r, g, b] = (s === '.error' ? style.color : style.backgroundColor).match(/\d+/g)
                .map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4))
            return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
        }))
        assert.ok(Math.max(text, back) / Math.min(text, back) >= 4.5, `the error in ${value}: ${Math.max(text, back) / Math.min(text, back)}`)
    }
})

await test('New in the middle of an answer leaves nothing of it behind', async () => {
    await page.$eval('#temperature', (e) => (e.value = '0.7'))
    await page.select('#mode', 'chat')
    await page.click('#clear')
    await page.type('#text', 'Once upon a time')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.turn:last-child .token')
    await page.click('#clear')
    await page.waitForSelector('#send', { visible: true })
    await page.$eval('#max_tokens', (e) => (e.value = '5'))
    await page.type('#text', 'Hello')
    const [request] = await Promise.all([page.waitForRequest((r) => r.method() === 'POST'), page.keyboard.press('Enter')])
    assert.deepEqual(JSON.parse(request.postData()).messages, [{ role: 'user', content: 'Hello' }])
    await answered()
})

await test('by keyboard: the focus stays with the button; what is written is read out when it is whole', async () => {
    const focused = () => page.evaluate(() => document.activeElement.id)
    const aloud = () => page.$eval('#aloud', (e) => e.textContent.trim())
    await page.$eval('#max_tokens', (e) => (e.value = '3000'))
    await page.type('#text', 'Hello')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.turn:last-child .token')
    assert.deepEqual([await focused(), await aloud()], ['stop', ''])
    await page.keyboard.press('Enter')
    await page.waitForSelector('#send', { visible: true })
    const said = await page.$$eval('.turn:last-child .token', (all) => all.map((e) => e.textContent).join('').trim())
    assert.deepEqual([await focused(), await aloud()], ['send', said])
    assert.equal(await page.$eval('#log', (e) => e.tabIndex), 0) // scrolled by keys
    assert.equal(await page.$$eval('h1', (all) => all.length), 1)
    await page.focus('#log') // what is known of tokens, one by one
    const tokens = await page.$$eval('.token', (all) => all.length), shown = () => page.$$eval('.token', (all) => all.findIndex((t) => t.classList.contains('shown')))
    for (const [key, at] of [['ArrowRight', 0], ['ArrowRight', 1], ['ArrowLeft', 0], ['ArrowLeft', 0], ['Escape', -1], ['ArrowLeft', tokens - 1]]) {
        await page.keyboard.press(key)
        assert.equal(await shown(), at, key)
        const [text, hidden] = await page.$eval('#tip', (e) => [e.textContent, e.hidden])
        assert.equal(hidden, at < 0)
        assert.equal(await aloud(), at < 0 ? '' : text.trim())
    }
    await page.focus('#text')
    assert.equal(await page.$eval('#tip', (e) => e.hidden), true)
    await d.idle()
})

await test('where a key is needed the page comes without, asks for it, and then works', async () => {
    const key = '0123456789abcdef0123'
    const kept = await start({ env: { LATENTD_API_KEY: key } })
    await page.goto(kept.base + '/')
    await page.waitForFunction(() => document.getElementById('state').textContent === 'this server asks for a key')
    assert.ok(await page.$eval('#key', (e) => e === document.activeElement && e.offsetParent !== null), 'the field is there to type into')
    await page.type('#text', 'x')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.error')
    assert.match(await page.$eval('.error', (e) => e.textContent), /API key is needed/)
    await page.$eval('#key', (e) => (e.value = 'not this one, surely'))
    await page.waitForFunction(() => document.getElementById('state').textContent === 'this key is not known here')
    await page.$eval('#key', (e, key) => (e.value = key), key)
    await page.waitForFunction(() => / running, /.test(document.getElementById('state').textContent))
    await page.type('#text', 'What is a volcano?')
    await page.keyboard.press('Enter')
    await answered()
    const refused = fs.readFileSync(kept.log_path, 'utf8').match(/path="\/props" status=401/g).length
    assert.ok(refused <= 12, `${refused} requests without a good key`) // each value once, and those half typed
})

await test('looking on does not use up the rate of a key', async () => {
    const key = '0123456789abcdef0123', file = path.join(scratch, `page-keys.${process.pid}`)
    fs.writeFileSync(file, `visitor sha256:${crypto.createHash('sha256').update(key).digest('hex')} requests_per_minute=60\n`)
    const kept = await start({ set: { api_keys_file: file } })
    fs.rmSync(file)
    const looks = () => fs.readFileSync(kept.log_path, 'utf8').match(/path="\/props" status=(200|429)/g)?.length ?? 0
    await page.goto(kept.base + '/')
    await page.$eval('#key', (e, key) => (e.value = key), key)
    await page.waitForFunction(() => / running, /.test(document.getElementById('state').textContent))
    await page.$eval('#max_tokens', (e) => (e.value = '3000'))
    await page.type('#text', 'Once upon a time')
    await page.keyboard.press('Enter')
    await page.waitForSelector('.turn:last-child .token')
    await sleep(4000)
    assert.ok(looks() <= 2, `${looks()} times in five seconds`)
})

await test('no errors but those asked for, and nothing from elsewhere', () => {
    assert.deepEqual(trouble.filter((t) => !/status of 40[01]/.test(t) && !/^http:\/\/127\.0\.0\.1:/.test(t)), [])
})

await browser.close()
await done()
