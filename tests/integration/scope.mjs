// tests/integration/scope.mjs - cache_scope = key: what one API key has computed another cannot find, neither in
// memory nor on disk, by itself or by the commands for the cache.
import { assert, done, fs, metric_of, note, path, random, random_ids, scratch, start, test, test_name,
    until } from './harness.mjs'

const rng = random(19)
const PAGE = 32
const folder = path.join(scratch, `${test_name}.${process.pid}.cache`)
fs.rmSync(folder, { recursive: true, force: true })
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
const set = {
    page_tokens: PAGE, cache_scope: 'key', cache_pinned: 20, cache_disk_path: folder, cache_disk_read: 'always',
    cache_disk_rate: 0,
}
const whole = (n) => Math.floor((n - 1) / PAGE) * PAGE // one token is always computed
const A = 'sk-alpha-73b1', B = 'sk-beta-90c4', NOBODY = null
const as = (key) => (key ? { Authorization: `Bearer ${key}` } : {})

async function send(d, method, url, body, key) {
    const res = await d.request(method, url, body, as(key))
    assert.equal(res.status, 200, `${url}: ${res.status} ${res.text.slice(0, 300)}`)
    return res.json
}
async function ask(d, key, prompt, more = {}) {
    const body = { prompt, max_tokens: 4, temperature: 0, ignore_eos: true, return_token_ids: true, ...more }
    const answer = await send(d, 'POST', '/v1/completions', body, key)
    return { cached: answer.usage.prompt_tokens_details.cached_tokens, ids: answer.choices[0].token_ids }
}
const refused = async (d, key, url, body, status) => {
    const res = await d.request('POST', url, body, as(key))
    assert.equal(res.status, status, res.text)
}
/** All prompts begin with the same token, whose row a key may find in its own pages. */
const nothing = (cached) => assert.ok(cached <= 1, `${cached} tokens were cached`)
const computed = (d) => d.metric('latentd_prompt_tokens_computed_total')
const prompt = random_ids(rng, 500)
let expected

const d = await start({ set })
await test('two keys never find what the other has computed', async () => {
    const before = await computed(d)
    const first = await ask(d, A, prompt)
    assert.equal(first.cached, 0)
    const other = await ask(d, B, prompt)
    assert.equal(other.cached, 0)
    assert.deepEqual(other.ids, first.ids)
    assert.equal(await computed(d), before + 2 * prompt.length) // each its own, to the last token
    expected = first.ids
})

await test('a key finds its own', async () => {
    for (const key of [A, B]) {
        const again = await ask(d, key, prompt)
        assert.equal(again.cached, whole(prompt.length))
        assert.deepEqual(again.ids, expected)
    }
})

await test('who has no key is one more tenant', async () => {
    assert.equal((await ask(d, NOBODY, prompt)).cached, 0)
    assert.equal((await ask(d, NOBODY, prompt)).cached, whole(prompt.length))
})

await test('cache_salt divides a key further, and does not reach into another', async () => {
    assert.equal((await ask(d, A, prompt, { cache_salt: 'one' })).cached, 0)
    assert.equal((await ask(d, A, prompt, { cache_salt: 'one' })).cached, whole(prompt.length))
    assert.equal((await ask(d, B, prompt, { cache_salt: 'one' })).cached, 0)
    assert.equal((await ask(d, NOBODY, prompt, { cache_salt: `Bearer ${A}` })).cached, 0)
})

await test('at the same time too, and inside a page', async () => {
    const fresh = random_ids(rng, 333)
    const before = await computed(d)
    const answers = await Promise.all([A, B, A, B, NOBODY].map((key) => ask(d, key, fresh)))
    for (const a of answers) assert.deepEqual(a.ids, answers[0].ids)
    // three tenants compute it; the second requests of A and B wait for the first and compute what they must
    const n = (await computed(d)) - before
    note(`${n} tokens computed by three tenants for ${5 * fresh.length} asked`)
    assert.ok(n >= 3 * (fresh.length - 1) && n < 3 * fresh.length + 2 * PAGE, `${n}`)
})

await test('chats are kept apart as well', async () => {
    const messages = [{ role: 'system', content: 'word '.repeat(200) }, { role: 'user', content: 'Well?' }]
    const chat = async (key) => (await send(d, 'POST', '/v1/chat/completions', { messages, max_tokens: 1 }, key)).usage
    nothing((await chat(A)).prompt_tokens_details.cached_tokens)
    nothing((await chat(B)).prompt_tokens_details.cached_tokens)
    const again = await chat(B)
    assert.equal(again.prompt_tokens_details.cached_tokens, whole(again.prompt_tokens))
})

await test('pins are their key\'s: others can neither see nor undo them', async () => {
    const { id, pinned_tokens } = await send(d, 'POST', '/v1/cache/pin', { prompt }, A)
    assert.equal(pinned_tokens, whole(prompt.length + 1))
    const pins = async (key) => (await send(d, 'GET', '/v1/cache', undefined, key)).pins
    assert.deepEqual(await pins(A), [{ id, tokens: pinned_tokens }])
    assert.deepEqual(await pins(B), [])
    assert.deepEqual(await pins(NOBODY), [])
    await refused(d, B, '/v1/cache/unpin', { id }, 404)
    await refused(d, A, '/v1/cache/unpin', { id, cache_salt: 'one' }, 404)
    const only_a = random_ids(rng, 100)
    await ask(d, A, only_a)
    await refused(d, B, '/v1/cache/pin', { prompt: only_a }, 404)
    await send(d, 'POST', '/v1/cache/unpin', { id }, A)
    await refused(d, A, '/v1/cache/unpin', { id }, 404)
})

await test('neither the log nor the metrics tell keys', async () => {
    const text = fs.readFileSync(d.log_path, 'utf8') + (await d.get('/metrics')).text
    for (const secret of [A, B, 'sk-', 'Bearer']) assert.ok(!text.includes(secret), secret)
})

await test('on disk they stay apart, over a restart', async () => {
    const only_a = random_ids(rng, 400)
    await ask(d, A, only_a)
    await send(d, 'POST', '/v1/cache/save', undefined, A)
    await until('everything is written', async () => (await send(d, 'GET', '/v1/cache')).disk.queue === 0)
    await d.stop()
    const e = await start({ set })
    await until('the folder is known', async () => (await send(e, 'GET', '/v1/cache')).disk.state === 'on')
    const hits = () => e.metric('latentd_disk_hit_tokens_total')
    assert.equal((await ask(e, B, only_a)).cached, 0)
    assert.equal((await send(e, 'POST', '/v1/cache/restore', { prompt: only_a }, NOBODY)).cached_tokens, 0)
    assert.equal(await hits(), 0)
    assert.equal((await ask(e, A, only_a)).cached, whole(only_a.length))
    assert.equal(await hits(), whole(only_a.length))
    const b = await send(e, 'POST', '/v1/cache/restore', { prompt }, B) // it had computed this one
    assert.equal(b.cached_tokens, whole(prompt.length + 1))
    assert.ok(b.restored_tokens >= b.cached_tokens - 1)
    await e.stop()
})

await test('shared is the default: keys do not matter', async () => {
    const s = await start({ set: { page_tokens: PAGE, cache_pinned: 20 } })
    assert.equal((await ask(s, A, prompt)).cached, 0)
    const other = await ask(s, B, prompt)
    assert.equal(other.cached, whole(prompt.length))
    assert.deepEqual(other.ids, expected)
    const { id } = await send(s, 'POST', '/v1/cache/pin', { prompt }, A)
    await send(s, 'POST', '/v1/cache/unpin', { id }, B)
    assert.equal(metric_of(await s.metrics(), 'latentd_kv_pages', 'state="pinned"'), 0)
    await s.kill()
})
await done()
