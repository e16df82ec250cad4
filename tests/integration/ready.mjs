// tests/integration/ready.mjs - /readyz: whether a balancer should send requests here, and the reason in the body when not.
import { assert, done, slow, start, test, until } from './harness.mjs'

const C = '/v1/completions'
const endless = { prompt: 'Once upon a time', max_tokens: 3000, ignore_eos: true, temperature: 0 }

/** One that runs, and then `n` that wait behind it. */
async function fill(d, n, body = endless) {
    const streams = [d.stream(C, endless)]
    await until('one runs', async () => await d.running() === 1)
    for (let i = 0; i < n; i++) streams.push(d.stream(C, body))
    await until(`${n} wait`, async () => await d.waiting() === n)
    return streams
}
async function empty(d, streams) {
    for (const s of streams) s.req.destroy()
    await d.idle()
}
const refused = (r, what) => {
    assert.equal(r.status, 503)
    assert.match(r.json.status, what)
    assert.equal(r.headers['retry-after'], '1')
}

await test('a full queue: not ready by default, but alive and healthy; then ready again', async () => {
    const d = await start({ set: { max_num_seqs: 1, max_queue_requests: 3 } })
    const streams = await fill(d, 2)
    assert.equal((await d.get('/readyz')).status, 200)
    streams.push(d.stream(C, endless))
    await until('three wait', async () => await d.waiting() === 3)
    refused(await d.get('/readyz'), /saturated: 3 requests wait, ready_queue allows fewer than 3/)
    for (const url of ['/livez', '/health', '/startupz']) assert.equal((await d.get(url)).status, 200, url)
    assert.equal((await d.request('POST', C, endless)).status, 429, 'the queue itself says so to those who come all the same')
    await empty(d, streams)
    assert.deepEqual((await d.get('/readyz')).json, { status: 'ok' })
    await d.kill()
})

await test('ready_queue in percent, of requests; who comes is still served', async () => {
    const d = await start({ set: { max_num_seqs: 1, max_queue_requests: 8, ready_queue: 25 } })
    let streams = await fill(d, 1)
    assert.equal((await d.get('/readyz')).status, 200)
    await empty(d, streams)
    streams = await fill(d, 2)
    refused(await d.get('/readyz'), /saturated: 2 requests wait, ready_queue allows fewer than 2/)
    const late = d.request('POST', C, { prompt: 'x', max_tokens: 1 })
    await until('it waits', async () => await d.waiting() === 3)
    await empty(d, streams)
    assert.equal((await late).status, 200)
    await d.kill()
})

await test('and of prompt tokens', async () => {
    const d = await start({ set: { max_num_seqs: 1, max_queue_tokens: 1000, ready_queue: 50 } })
    const streams = await fill(d, 1, { ...endless, prompt: Array.from({ length: 499 }, () => 300) })
    assert.equal((await d.get('/readyz')).status, 200)
    streams.push(d.stream(C, { ...endless, prompt: [300] }))
    await until('two wait', async () => await d.waiting() === 2)
    refused(await d.get('/readyz'), /saturated: 500 prompt tokens wait, ready_queue allows fewer than 500/)
    await empty(d, streams)
    await d.kill()
})

await test('ready_queue_age, of the longest wait', async () => {
    const d = await start({ set: { max_num_seqs: 1, ready_queue: 0, ready_queue_age: '400ms', max_queue_requests: 1 } })
    const streams = await fill(d, 1)
    const began = Date.now()
    assert.equal((await d.get('/readyz')).status, 200, 'ready_queue = 0: a full queue alone is no reason')
    const r = await until('it fails', async () => {
        const res = await d.get('/readyz')
        return res.status === 503 && res
    })
    refused(r, /saturated: a request has waited for \d+\.\d s, ready_queue_age is 0\.4 s/)
    assert.ok(Date.now() - began >= 250, `already after ${Date.now() - began} ms`)
    await empty(d, streams)
    assert.equal((await d.get('/readyz')).status, 200)
    await d.kill()
})

await test('loading and draining tell themselves', async () => {
    const d = await start()
    const s = d.stream(C, { ...endless, max_tokens: slow ? 200 : 800 }) // it must end within the drain
    await until('one runs', async () => await d.running() === 1)
    const open = d.get('/livez') // a connection that stands when the drain begins
    await open
    d.child.kill('SIGTERM')
    const seen = await until('it drains', async () => {
        try {
            const res = await d.get('/readyz')
            return res.status === 503 ? res : null
        } catch (e) {
            return { refused: e.code }
        }
    })
    if (!seen.refused) assert.equal(seen.json.status, 'draining')
    assert.ok((await s.ended).finished, 'the stream came to its end')
    await d.exited
})
await done()
