// tests/integration/disk.mjs - prefixes that outlive the daemon: what comes from disk gives the same bits.
import { assert, done, fs, metric_of, note, path, random, random_ids, scratch, start, test, test_name,
    until } from './harness.mjs'

const rng = random(11)
const folder = path.join(scratch, `${test_name}.${process.pid}.cache`)
fs.rmSync(folder, { recursive: true, force: true })
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))

const PAGE = 32
const set = {
    page_tokens: PAGE, cache_disk_path: folder, cache_disk_read: 'always', cache_disk_rate: 0,
    cache_pinned: 20, mla_block: 512,
}
const whole = (n) => Math.floor((n - 1) / PAGE) * PAGE // one token is always computed
const body = (prompt, more = {}) => ({
    prompt, max_tokens: 12, temperature: 0, ignore_eos: true, return_token_ids: true, logprobs: 20, ...more,
})
// one of a few pages, one that goes absorbed, one with decompressed blocks
const prompts = [70, 480, 1300].map((n) => random_ids(rng, n))
const ask = (d, prompt, more) => d.post('/v1/completions', body(prompt, more))
const cached = (answer) => answer.usage.prompt_tokens_details.cached_tokens
const what = (answer) => answer.choices[0]
const stats = async (d) => (await d.get('/v1/cache')).json
const written = (d) => until('everything is on disk', async () => {
    const { disk } = await stats(d)
    return disk.state === 'on' && disk.queue === 0 && disk
})
const open = new Set()
const begin = async (more = {}) => {
    const d = await start({ set: { ...set, ...more } })
    open.add(d)
    await until('the folder is known', async () => (await stats(d)).disk.state !== 'starting')
    return d
}
const error_of = async (d, method, url, data, status) => {
    const res = await d.request(method, url, data)
    assert.equal(res.status, status, res.text)
    return res.json.error
}

/** A test whose daemons end with it, so that a failure does not keep the folder from the next. */
const alone = (name, run) => test(name, async () => {
    try {
        await run()
    } finally {
        for (const d of open) await d.kill()
        open.clear()
    }
})

const cold = []
await test('answers without any cache', async () => {
    const d = await start({ set: { page_tokens: PAGE, prefix_cache: false, mla_block: 512 } })
    for (const p of prompts) cold.push(what(await ask(d, p)))
    await d.kill()
})

await alone('pages are written behind', async () => {
    const d = await begin()
    assert.equal((await stats(d)).disk.pages, 0)
    for (const [i, p] of prompts.entries()) assert.deepEqual(what(await ask(d, p)), cold[i])
    await ask(d, prompts[1], { cache_salt: 'another' })
    const disk = await written(d)
    note(`${disk.pages} pages, ${disk.bytes} bytes`)
    assert.ok(disk.pages >= (70 + 2 * 480 + 1300) / PAGE - 4)
    assert.equal(disk.dropped, 0)
    assert.equal(disk.errors, 0)
    await d.stop()
})

await alone('a restart finds them, with the same bits', async () => {
    const d = await begin()
    for (const [i, p] of prompts.entries()) {
        const answer = await ask(d, p)
        assert.equal(cached(answer), whole(p.length))
        assert.deepEqual(what(answer), cold[i])
    }
    assert.equal(cached(await ask(d, prompts[1], { cache_salt: 'another' })), whole(480))
    assert.equal(cached(await ask(d, prompts[1], { cache_salt: 'a third' })), 0)
    const m = await d.metrics()
    assert.equal(metric_of(m, 'latentd_disk_hit_tokens_total'),
        prompts.reduce((sum, p) => sum + whole(p.length), whole(480)))
    assert.equal(metric_of(m, 'latentd_disk_up'), 1)
    await d.kill()
})

await alone('what memory has no room for comes back from disk', async () => {
    const d = await begin({ cache_size: '5M', cache_pinned: 0, max_model_len: 1500, max_num_seqs: 8 })
    for (let round = 0; round < 2; round++) {
        const answers = await Promise.all(prompts.map((p) => ask(d, p)))
        answers.forEach((answer, i) => assert.deepEqual(what(answer), cold[i]))
        for (let i = 0; i < 5; i++) await ask(d, random_ids(rng, 440)) // pushes them out
    }
    const s = await stats(d)
    note(`${s.memory.evictions} evictions, ${s.disk.hit_tokens} tokens from disk`)
    assert.ok(s.memory.evictions > 0)
    assert.ok(s.disk.hit_tokens > 64 + 448 + 1280)
    await d.idle()
    await d.stop()
})

await alone('other rows are other files', async () => {
    const d = await begin({ cache_type: 'f32' })
    assert.equal((await stats(d)).disk.pages, 0)
    assert.equal(cached(await ask(d, prompts[1])), 0)
    assert.equal((await written(d)).errors, 0)
    await d.kill()
})

await alone('a second daemon goes on without', async () => {
    const a = await begin()
    const b = await begin()
    const { disk } = await stats(b)
    assert.equal(disk.state, 'down')
    assert.match(disk.trouble, /belongs to another daemon/)
    assert.deepEqual(what(await ask(b, prompts[1])), cold[1])
    assert.equal(await b.metric('latentd_disk_up'), 0)
    assert.equal((await error_of(b, 'POST', '/v1/cache/save', {}, 503)).code, 'unavailable')
    assert.match((await error_of(b, 'POST', '/v1/cache/restore', { prompt: prompts[1] }, 503)).message, /another daemon/)
    // nor does it say that it deleted files, but what is in its memory goes
    assert.ok((await stats(b)).memory.cached > 0)
    assert.match((await error_of(b, 'DELETE', '/v1/cache', { disk: true }, 503)).message, /another daemon/)
    assert.equal((await stats(b)).memory.cached, 0)
    assert.equal(cached(await ask(a, prompts[1])), whole(480))
    await b.kill()
    await a.kill()
})

await alone('a folder that cannot be one is no reason to stop', async () => {
    const d = await begin({ cache_disk_path: process.argv[1] })
    assert.equal((await stats(d)).disk.state, 'down')
    assert.deepEqual(what(await ask(d, prompts[1])), cold[1])
    await d.kill()
})

await alone('a slow budget, and saving at once', async () => {
    const d = await begin({ cache_disk_path: folder + '.slow', cache_disk_rate: 1 })
    process.on('exit', () => fs.rmSync(folder + '.slow', { recursive: true, force: true }))
    await ask(d, prompts[1])
    await ask(d, prompts[2])
    assert.ok((await stats(d)).disk.queue > 20)
    const one = await d.post('/v1/cache/save', { prompt: prompts[1] })
    assert.deepEqual(one, { object: 'cache.save', pages: whole(480) / PAGE + 1, evicted: 0 })
    const all = await d.post('/v1/cache/save')
    assert.ok(all.pages >= whole(480) / PAGE + whole(1300) / PAGE)
    await d.kill() // nothing more could be written
    const e = await begin({ cache_disk_path: folder + '.slow' })
    const restored = await e.post('/v1/cache/restore', { prompt: prompts[2] })
    assert.deepEqual(restored, {
        object: 'cache.restore', prompt_tokens: 1300, cached_tokens: whole(1300), restored_tokens: whole(1300),
    })
    assert.equal((await e.post('/v1/cache/restore', { prompt: prompts[2] })).restored_tokens, 0)
    assert.equal((await e.post('/v1/cache/restore', { prompt: prompts[2], cache_salt: 'x' })).cached_tokens, 0)
    const answer = await ask(e, prompts[2])
    assert.equal(cached(answer), whole(1300))
    assert.deepEqual(what(answer), cold[2])
    await e.kill()
})

await alone('pins', async () => {
    const d = await begin()
    assert.equal((await error_of(d, 'POST', '/v1/cache/pin', { prompt: prompts[1] }, 404)).code, 'not_found')
    await d.post('/v1/cache/restore', { prompt: prompts[1] })
    const pin = await d.post('/v1/cache/pin', { prompt: prompts[1] })
    assert.equal(pin.pinned_tokens, whole(480) + PAGE) // a multiple of pages: all of them
    assert.deepEqual((await stats(d)).pins, [{ id: pin.id, tokens: pin.pinned_tokens }])
    assert.equal((await d.request('DELETE', '/v1/cache')).json.pages, 0)
    assert.equal(cached(await ask(d, prompts[1])), 479) // of the last page all rows but one are copied
    assert.deepEqual(await d.post('/v1/cache/unpin', { id: pin.id }), { object: 'cache.unpin', id: pin.id })
    assert.equal((await error_of(d, 'POST', '/v1/cache/unpin', { id: pin.id }, 404)).code, 'not_found')
    assert.ok((await d.request('DELETE', '/v1/cache')).json.pages > 0)
    assert.ok(await d.metric('http_requests_total', 'handler="cache",method="DELETE",status="200"') > 0)
    await d.kill()
})

await alone('dropping, and mistakes', async () => {
    const d = await begin()
    for (const [method, url, data, status, param] of [
        ['POST', '/v1/cache/restore', {}, 400, 'prompt'],
        ['POST', '/v1/cache/pin', undefined, 400, 'prompt'],
        ['POST', '/v1/cache/unpin', {}, 400, 'id'],
        ['POST', '/v1/cache/unpin', { id: -1 }, 400, 'id'],
        ['POST', '/v1/cache/restore', { prompt: [1, 8192] }, 400, 'prompt'],
        ['POST', '/v1/cache/restore', { prompt: [[1, 2], [3, 4]] }, 400, 'prompt'],
        ['POST', '/v1/cache/restore', { prompt: Array(5000).fill(7) }, 400, 'prompt'],
        ['POST', '/v1/cache/save', { prompt: [1], cache_salt: '' }, 400, 'cache_salt'],
        ['POST', '/v1/cache/save', { messages: 3 }, 400, 'messages'],
        ['DELETE', '/v1/cache', { disk: 1 }, 400, 'disk'],
        ['DELETE', '/v1/cache', { prompt: [1] }, 400, 'prompt'],
        ['POST', '/v1/cache/save', '[', 400, null],
        ['POST', '/v1/cache', {}, 405, null],
        ['GET', '/v1/cache/save', undefined, 405, null],
        ['GET', '/v1/cache/nothing', undefined, 404, null],
    ]) {
        const res = await d.request(method, url, data)
        assert.equal(res.status, status, `${method} ${url} ${JSON.stringify(data)}: ${res.text}`)
        assert.equal(res.json.error.param, param, res.text)
    }
    await ask(d, prompts[0])
    assert.deepEqual((await d.request('DELETE', '/v1/cache', { disk: true })).json,
        { object: 'cache.drop', pages: 2, disk: true })
    const s = await stats(d)
    assert.equal(s.disk.pages, 0)
    assert.equal(s.disk.bytes, 0)
    assert.equal(s.memory.cached, 0)
    assert.deepEqual(fs.readdirSync(folder), ['lock'])
    assert.equal(cached(await ask(d, prompts[2])), 0)
    await written(d)
    await d.stop()
})
await done()
