// tests/integration/store.mjs - the store of responses on a disk that is slow, full, or locked by somebody: nobody else
// waits for it, who asks for a response waits and finds it, what was to be kept is there after the end.
import { execFileSync } from 'node:child_process'
import { assert, done, fs, note, path, scratch, skip_test, sleep, start, test, top_srcdir, until } from './harness.mjs'

const own = (name) => path.join(scratch, `store.${process.pid}.${name}`)
const library = own('so'), flag = own('slow')
let preload
try {
    execFileSync('sh', ['-c', `${process.env.CC || 'cc'} -shared -fPIC -O2 -o '${library}' '${top_srcdir}/tests/integration/slow_disk.c'`], { stdio: 'pipe' })
    preload = { LD_PRELOAD: library, SLOW_DISK_FLAG: flag, SLOW_DISK_MS: '150' }
    // a sanitizer wants to be first, but this library has none of its functions
    preload.ASAN_OPTIONS = [process.env.ASAN_OPTIONS, 'verify_asan_link_order=0'].filter(Boolean).join(':')
} catch (e) {
    note(`tests/integration/slow_disk.c does not compile here: ${String(e.stderr).split('\n')[0]}`)
}
process.on('exit', () => fs.readdirSync(scratch).filter((f) => f.startsWith(`store.${process.pid}.`))
    .forEach((f) => f.endsWith('.log') || fs.rmSync(path.join(scratch, f), { force: true })))
const slowly = (on) => (on ? fs.writeFileSync(flag, '') : fs.rmSync(flag, { force: true }))
const full = (on) => (on ? fs.writeFileSync(`${flag}.full`, '') : fs.rmSync(`${flag}.full`, { force: true }))

const R = '/v1/responses'
const body = { input: 'What is a lighthouse?', max_output_tokens: 3, temperature: 0, ignore_eos: true }
const lost = (d, why) => d.metric('latentd_responses_lost_total', why)
const waiting = (d) => d.metric('latentd_response_store_queue')
/** The longest of what `ask` took, asked again and again until `over`, in ms. */
async function longest(ask, over) {
    let most = 0, n = 0
    while (!over()) {
        const from = performance.now()
        await ask()
        most = Math.max(most, performance.now() - from)
        n++
        await sleep(2)
    }
    return { most, n }
}
const needs_disk = (name, run) => (preload ? test(name, async () => (slowly(false), full(false), run())) : skip_test(name, 'no compiler'))

await needs_disk('a slow disk: other requests do not wait, a response is found behind its answer', async () => {
    const d = await start({ env: { ...preload, SLOW_DISK_MS: '300' }, set: { response_store_path: own('a.sqlite'), access_log: false } })
    const first = await d.post(R, body)
    assert.equal((await d.get(`${R}/${first.id}`)).json.id, first.id)
    slowly(true)
    let over = false
    const others = Promise.all([
        longest(() => d.get('/livez'), () => over),
        longest(() => d.post('/tokenize', { prompt: 'a' }), () => over),
        longest(() => d.post('/v1/completions', { prompt: 'a', max_tokens: 1 }), () => over),
    ])
    const from = performance.now()
    const kept = await d.post(R, body)
    const answered = performance.now() - from
    const next = d.post(R, { ...body, input: 'And a lake?', previous_response_id: kept.id })
    const again = d.get(`${R}/${kept.id}`)
    const left = d.request('GET', `${R}/${kept.id}`) // and in the end nobody reads it
    const items = d.get(`${R}/${kept.id}/input_items?order=asc&limit=1`)
    const none = d.get(`${R}/resp_nothing`)
    assert.deepEqual((await again).json, kept)
    assert.equal((await left).status, 200)
    assert.equal((await none).status, 404)
    assert.equal((await items).json.data.length, 1)
    const found = performance.now() - from
    assert.equal((await next).previous_response_id, kept.id)
    assert.equal((await d.get(`${R}/${(await next).id}/input_items`)).json.data.length, 3)
    over = true
    const took = await others
    note(`answered after ${answered.toFixed(0)} ms, found after ${found.toFixed(0)}; longest of the others: ` +
        took.map((t) => `${t.most.toFixed(0)} ms of ${t.n}`).join(', '))
    assert.ok(found > 900, `the disk was not slow: ${found}`)
    // the machine may be busy; who waits for the disk waits for all of it
    assert.ok(answered < found / 2, `the answer waited for the disk: ${answered} ms`)
    for (const t of took) assert.ok(t.most < found / 2 && t.n > 3, `${t.most} ms, ${t.n}`)
    assert.equal((await d.request('DELETE', `${R}/${kept.id}`)).json.deleted, true)
    assert.equal((await d.request('DELETE', `${R}/${kept.id}`)).status, 404)
    assert.equal((await d.get(`${R}/${kept.id}`)).status, 404)
    slowly(false)
    assert.deepEqual(await d.stop(), { code: 0, signal: null })
})

await needs_disk('clients that leave while the store looks for their response, a reload, and a drain', async () => {
    const set = { response_store_path: own('b.sqlite'), access_log: false }
    const d = await start({ env: preload, set })
    slowly(true)
    const ids = []
    for (let i = 0; i < 4; i++) ids.push((await d.post(R, { ...body, input: `${i}` })).id)
    const leaving = ids.flatMap((id) => [
        [`${R}/${id}`], [`${R}/${id}/input_items`], [`${R}/${id}/cancel`, {}], [R, { ...body, previous_response_id: id }],
        [R, { ...body, previous_response_id: id, stream: true }],
    ])
    const requests = leaving.map(([url, ask]) => {
        const s = new AbortController()
        const data = ask && JSON.stringify(ask)
        fetch(d.base + url, { method: ask ? 'POST' : 'GET', body: data, signal: s.signal, headers: { 'Content-Type': 'application/json' } }).catch(() => {})
        return s
    })
    await until('they wait', async () => await waiting(d) >= requests.length)
    requests.forEach((s) => s.abort())
    d.child.kill('SIGHUP')
    await until('it reloads', () => /reload: done/.test(d.tail()))
    await until('they have gone', async () => await d.metric('http_connections') <= 1)
    slowly(false)
    await until('nothing waits', async () => await waiting(d) === 0)
    assert.equal((await d.get(`${R}/${ids[0]}`)).status, 200)

    slowly(true)
    const last = []
    for (let i = 0; i < 3; i++) last.push((await d.post(R, { ...body, input: `last ${i}` })).id)
    const asked = d.get(`${R}/${last[0]}`)
    for (let i = 3; i < 6; i++) last.push((await d.post(R, { ...body, input: `last ${i}` })).id)
    assert.ok(await waiting(d) >= 6)
    d.child.kill('SIGTERM')
    assert.equal((await asked).json?.id, last[0]) // from before the drain; the drain is over with it, not the writing
    await until('it ends', () => d.exit, 60000)
    assert.deepEqual(d.exit, { code: 0, signal: null })
    slowly(false)
    const e = await start({ set })
    for (const id of [...ids, ...last]) assert.equal((await e.get(`${R}/${id}`)).json?.id, id)
    assert.ok(await e.metric('latentd_responses_kept') >= 10)
    assert.deepEqual(await e.stop(), { code: 0, signal: null })
})

await needs_disk('more than may wait: questions are refused, responses are lost and counted', async () => {
    const d = await start({ env: preload, set: { response_store_path: own('c.sqlite'), response_store_queue: '4K', access_log: false } })
    slowly(true)
    const ids = []
    for (let i = 0; i < 6; i++) ids.push((await d.post(R, { ...body, instructions: 'Be brief. '.repeat(100) })).id)
    assert.ok(await lost(d, 'queue_full') >= 3, `${await lost(d, 'queue_full')}`)
    assert.match(d.tail(), /warn  api: the store of responses: more than response_store_queue waits for its disk; 1 responses/)
    const questions = Array.from({ length: 30 }, () => d.get(`${R}/${ids[0]}`))
    const refused = (await Promise.all(questions)).filter((a) => a.status !== 200)
    assert.ok(refused.length > 10)
    for (const a of refused) {
        assert.equal(a.status, 503)
        assert.equal(a.json.error.code, 'unavailable')
        assert.ok(a.headers['retry-after'])
    }
    slowly(false)
    await until('nothing waits', async () => await waiting(d) === 0)
    assert.equal((await d.get(`${R}/${ids[0]}`)).status, 200) // it was alone
    assert.equal((await d.get(`${R}/${ids[5]}`)).status, 404)
    const later = await d.post(R, body)
    assert.equal((await d.get(`${R}/${later.id}`)).status, 200)
    assert.deepEqual(await d.stop(), { code: 0, signal: null })
})

await needs_disk('a disk that is full: the answer stands, the loss is counted and told once', async () => {
    const d = await start({ env: preload, set: { response_store_path: own('d.sqlite'), access_log: false } })
    const before = await d.post(R, body)
    assert.equal((await d.get(`${R}/${before.id}`)).status, 200)
    full(true)
    const gone = []
    for (let i = 0; i < 3; i++) gone.push(await d.post(R, body))
    assert.equal(gone[0].status, 'incomplete')
    await until('they are lost', async () => await lost(d, 'failed') === 3)
    assert.equal((await d.get(`${R}/${gone[0].id}`)).status, 404)
    assert.equal((await d.request('DELETE', `${R}/${before.id}`)).status, 500)
    full(false)
    assert.equal(d.tail().match(/the store of responses: .*(full|I\/O)/g).length, 1)
    const after = await d.post(R, body)
    for (const id of [before.id, after.id]) assert.equal((await d.get(`${R}/${id}`)).json?.id, id)
    assert.deepEqual(await d.stop(), { code: 0, signal: null })
})

await done()
