// tests/integration/pins.mjs - pinned prefixes: files of cache_pin_files are computed and pinned at the start, pin
// with `compute` does the same by hand, what is pinned survives pressure, and the metrics tell hits and evictions.
import { spawnSync } from 'node:child_process'
import { assert, done, fs, metric_of, model, note, path, random, random_ids, scratch, start, test, test_name,
    top_builddir, until } from './harness.mjs'

const rng = random(23)
const PAGE = 32
const folder = path.join(scratch, `${test_name}.${process.pid}`)
fs.mkdirSync(folder, { recursive: true })
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
const file = (name, text) => {
    fs.writeFileSync(path.join(folder, name), text)
    return path.join(folder, name)
}
const text = 'The keeper writes down the weather of every hour. '.repeat(20)
const messages = [{ role: 'system', content: 'You keep the archive of a small town. '.repeat(20) }]
const ids = random_ids(rng, 300)
file('1-text.txt', text)
file('2-chat.json', JSON.stringify({ messages }))
file('3-ids.json', JSON.stringify({ prompt: ids, cache_salt: 'tenant' }))
file('4-broken.json', '{"prompt": ')
file('5-long.json', JSON.stringify({ prompt: random_ids(rng, 5000) }))
file('.hidden', 'nothing')

const pressure = { page_tokens: PAGE, cache_size: '6M', max_model_len: 1500, max_num_seqs: 8, cache_pinned: 50 }
const d = await start({ set: { ...pressure, cache_pin_files: folder } })
const log = () => fs.readFileSync(d.log_path, 'utf8')
const cached = async (url, body) =>
    (await d.post(url, { max_tokens: 1, temperature: 0, ...body })).usage.prompt_tokens_details.cached_tokens
const pages = (state) => d.metric('latentd_kv_pages', `state="${state}"`)

await test('files are pinned one after the other, and the log tells it', async () => {
    await until('all are done', () => /3 of 5 files of cache_pin_files are pinned/.test(log()))
    assert.match(log(), /pinned 1 of 5: .*1-text\.txt, \d+ of \d+ tokens/)
    assert.match(log(), /pinned 2 of 5: .*2-chat\.json/)
    assert.match(log(), /pinned 3 of 5: .*3-ids\.json, 288 of 300 tokens/)
    assert.match(log(), /4-broken\.json is not pinned: not a JSON object/)
    assert.match(log(), /5-long\.json is not pinned: .*5000 tokens/)
    assert.doesNotMatch(log(), /hidden/)
    assert.equal((await d.get('/v1/cache')).json.pins.length, 3)
    assert.ok(await pages('pinned') > 9)
})

const used = async () => ({
    text: await cached('/v1/completions', { prompt: text + 'Tonight' }),
    chat: await cached('/v1/chat/completions', { messages: [...messages, { role: 'user', content: 'Hm?' }] }),
    ids: await cached('/v1/completions', { prompt: [...ids, 7, 8, 9], cache_salt: 'tenant' }),
})
let first
await test('requests find them', async () => {
    first = await used()
    note(JSON.stringify(first))
    assert.ok(first.text >= 6 * PAGE && first.chat >= 5 * PAGE, JSON.stringify(first))
    assert.equal(first.ids, 288)
})

await test('they stay when the cache is full of other things', async () => {
    for (let i = 0; i < 12; i++) await cached('/v1/completions', { prompt: random_ids(rng, 900) })
    const m = await d.metrics()
    assert.ok(metric_of(m, 'latentd_kv_evictions_total', 'reason="probation"') > 100)
    assert.equal(metric_of(m, 'latentd_kv_evictions_total', 'reason="drop"'), 0)
    const again = await used()
    for (const name in first) assert.ok(again[name] >= Math.floor(first[name] / PAGE) * PAGE, name)
    assert.ok(metric_of(m, 'latentd_kv_page_bytes') >= PAGE * metric_of(m, 'latentd_cache_bytes_per_token'))
    assert.ok(metric_of(m, 'vllm:prefix_cache_hits_total') < metric_of(m, 'vllm:prefix_cache_queries_total'))
})

await test('dropping counts as dropping, and keeps pins', async () => {
    const before = await d.metric('latentd_kv_evictions_total', 'reason="probation"')
    const { pages: n } = (await d.request('DELETE', '/v1/cache')).json
    assert.ok(n > 0)
    const m = await d.metrics()
    assert.equal(metric_of(m, 'latentd_kv_evictions_total', 'reason="drop"'), n)
    assert.equal(metric_of(m, 'latentd_kv_evictions_total', 'reason="probation"'), before)
    assert.equal(metric_of(m, 'latentd_kv_pages', 'state="cached"'), metric_of(m, 'latentd_kv_pages', 'state="pinned"'))
})

await test('by hand: compute and pin in one', async () => {
    const prompt = random_ids(rng, 200)
    const refused = await d.request('POST', '/v1/cache/pin', { prompt, cache_salt: 'x' })
    assert.equal(refused.status, 404)
    const pin = await d.post('/v1/cache/pin', { prompt, cache_salt: 'x', compute: true })
    assert.equal(pin.pinned_tokens, 192)
    assert.equal(await cached('/v1/completions', { prompt, cache_salt: 'x' }), 192)
    const res = await d.request('POST', '/v1/cache/pin', { prompt: random_ids(rng, 1600), compute: true })
    assert.equal(res.status, 400)
    assert.match(res.json.error.message, /context/)
    await d.idle()
})

await test('it ends while files are being computed', async () => {
    for (let i = 0; i < 40; i++) file(`more-${i}.json`, JSON.stringify({ prompt: random_ids(rng, 1000) }))
    const e = await start({ set: { cache_pinned: 90, cache_pin_files: `${folder}, ${folder}` } })
    const exit = await e.stop()
    assert.equal(exit.code, 0)
})

await test('a wrong name is told at the start', () => {
    const run = (...set) => spawnSync(path.join(top_builddir, 'latentd'),
        ['--model', model, '--listen', '127.0.0.1:0', ...set.flatMap((s) => ['--set', s])], { encoding: 'utf8' })
    const missing = run('cache_pinned=10', 'cache_pin_files=/nowhere/prompts')
    assert.equal(missing.status, 1)
    assert.match(missing.stderr, /cache_pin_files: \/nowhere\/prompts: No such file/)
    const unpinned = run(`cache_pin_files=${folder}`)
    assert.equal(unpinned.status, 1)
    assert.match(unpinned.stderr, /cache_pin_files needs cache_pinned above 0/)
})
await done()
