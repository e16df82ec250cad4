// tests/integration/cancel.mjs - clients that vanish, and a daemon that is told to stop.
import net from 'node:net'
import { assert, done, metric_of, note, random, random_ids, sleep, slow, start, test, until } from './harness.mjs'

const rng = random(11)
const CLIENTS = slow ? 30 : 100
const endless = (n_prompt) => ({
    prompt: random_ids(rng, n_prompt), max_tokens: 3000, temperature: 0.8, ignore_eos: true,
})

let d = await start({ set: { max_num_seqs: 64 } })

await test(`${CLIENTS} clients killed in mid-stream leave nothing`, async () => {
    const before = await d.metric('vllm:request_success_total', 'finished_reason="abort"')
    let first_tokens = 0
    const seen = new Set()
    const streams = Array.from({ length: CLIENTS }, () =>
        d.stream('/v1/completions', endless(8 + Math.floor(rng() * 24)), (event, s) => {
            if (!seen.has(s)) {
                seen.add(s)
                first_tokens++
            }
        }))
    // those beyond max_num_seqs wait in the queue and are killed there
    await until('streams run', () => first_tokens >= Math.min(CLIENTS, 60), slow ? 300000 : 20000)
    assert.ok(await d.running() > 0)
    for (const s of streams) s.req.destroy()
    const killed = Date.now()
    await d.idle()
    note(`idle ${Date.now() - killed} ms after the last was killed`)
    await Promise.all(streams.map((s) => s.ended))
    assert.ok(streams.every((s) => !s.finished))
    assert.equal(await d.metric('vllm:request_success_total', 'finished_reason="abort"') - before, CLIENTS)
})

await test('a client that vanishes during its prefill frees the work', async () => {
    const computed = await d.metric('latentd_prompt_tokens_computed_total')
    const streams = Array.from({ length: 4 }, () => d.stream('/v1/completions', endless(3000)))
    await until('prefill runs', async () => await d.running() > 0)
    for (const s of streams) s.req.destroy()
    await d.idle()
    const spent = await d.metric('latentd_prompt_tokens_computed_total') - computed
    assert.ok(spent < 4 * 3000, `all ${spent} prompt tokens were computed`)
})

await test('a client that closes its half after asking is taken as gone', async () => {
    const body = JSON.stringify({ ...endless(16), stream: true })
    const socket = net.connect(d.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write('POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
        `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
    await new Promise((resolve) => socket.once('data', resolve))
    socket.end()
    await d.idle()
    socket.destroy()
})

await test('a request without streaming is cancelled with its connection', async () => {
    const body = JSON.stringify(endless(16))
    const socket = net.connect(d.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write('POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
        `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
    await until('it runs', async () => await d.running() === 1)
    socket.destroy()
    await d.idle()
})

await test('a client that does not read is not generated for without end', async () => {
    const body = JSON.stringify({ ...endless(16), logprobs: 20, stream: true })
    const socket = net.connect(d.port, '127.0.0.1')
    socket.on('error', () => {})
    socket.write('POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n' +
        `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
    await new Promise((resolve) => socket.once('data', resolve))
    socket.pause()
    // others are served meanwhile
    const answer = await d.post('/v1/completions', { prompt: random_ids(rng, 8), max_tokens: 4, ignore_eos: true })
    assert.equal(answer.usage.completion_tokens, 4)
    socket.destroy()
    await d.idle()
})

await test('the daemon still answers after all that', async () => {
    const answer = await d.post('/v1/completions', { prompt: 'The river', max_tokens: 8, temperature: 0 })
    assert.equal(answer.usage.completion_tokens, 8)
    const m = await d.metrics()
    assert.equal(metric_of(m, 'vllm:num_requests_waiting'), 0)
})

await test('SIGTERM with streams running finishes them and exits with status 0', async () => {
    let running = 0
    const requests = Array.from({ length: 6 }, (_, i) => ({
        prompt: random_ids(rng, 12 + i), max_tokens: slow ? 40 : 200, temperature: 0, ignore_eos: true,
        return_token_ids: true,
    }))
    const seen = new Set()
    const collected = requests.map((r) => d.collect('/v1/completions', r, (event, s) => {
        if (!seen.has(s)) {
            seen.add(s)
            running++
        }
    }))
    await until('all six stream', () => running === 6)
    const idle_connection = net.connect(d.port, '127.0.0.1')
    let idle_closed = false
    idle_connection.on('error', () => {}).on('close', () => (idle_closed = true))
    idle_connection.resume()
    await new Promise((resolve) => idle_connection.once('connect', resolve))
    const exit = d.stop()
    await sleep(50)
    // nobody new gets in
    const refused = await d.get('/readyz').then((res) => res.status, () => 'refused')
    assert.ok(refused === 503 || refused === 'refused', `readyz while draining: ${refused}`)
    for (const [i, { choices }] of (await Promise.all(collected)).entries()) {
        assert.equal(choices[0].finish_reason, 'length')
        assert.equal(choices[0].token_ids.length, requests[i].max_tokens)
    }
    assert.deepEqual(await exit, { code: 0, signal: null })
    assert.ok(idle_closed, 'an idle connection was left open')
})

await test('SIGTERM under load: who runs or waits is served, who comes later is told', async () => {
    d = await start({ set: { max_num_seqs: 4, drain_timeout: slow ? '110s' : '30s' } })
    const r = () => ({ prompt: random_ids(rng, 40), max_tokens: 30, temperature: 0, ignore_eos: true, return_token_ids: true })
    const first = Array.from({ length: 16 }, () => d.collect('/v1/completions', r()))
    await until('some run and some wait', async () => {
        const m = await d.metrics()
        return metric_of(m, 'vllm:num_requests_running') > 0 &&
            metric_of(m, 'vllm:num_requests_running') + metric_of(m, 'vllm:num_requests_waiting') >= 12
    })
    const exit = d.stop()
    await sleep(50) // a signal is not a message: what comes in the same instant may still be taken
    const late = await d.request('POST', '/v1/completions', r()).then((res) => res.status, () => 'refused')
    assert.ok(late === 503 || late === 'refused', `a late request got ${late}`)
    for (const { choices } of await Promise.all(first)) assert.equal(choices[0].token_ids.length, 30)
    assert.deepEqual(await exit, { code: 0, signal: null })
})

await test('SIGTERM on the way to the engine, and between two visits of it: both are served', async () => {
    d = await start({ set: { grammar_max_size: '16M', grammar_max_states: 10000000, grammar_max_time: '60s', drain_timeout: slow ? '110s' : '30s' } })
    const names = Array.from({ length: slow ? 1000 : 5000 }, (_, i) => `k${i}`)
    const guided_json = { type: 'object', required: names, properties: Object.fromEntries(names.map((name) => [name, { type: 'string' }])) }
    const answers = [
        { prompt: random_ids(rng, 12), max_tokens: slow ? 40 : 300, ignore_eos: true, use_beam_search: true, n: 3 }, // one token each
        { prompt: random_ids(rng, 12), max_tokens: 2, guided_json },                                                  // compiled first
    ].map((body) => d.request('POST', '/v1/completions', body))
    await until('the beams run', async () => (await d.metric('vllm:generation_tokens_total')) > 20)
    d.child.kill('SIGTERM')
    for (const r of await Promise.all(answers)) assert.equal(r.status, 200, r.text)
    assert.deepEqual(await d.exited, { code: 0, signal: null })
})

await test('the drain does not wait for requests that do not come to their end', async () => {
    d = await start()
    const [body, header] = ['Content-Length: 100\r\n\r\n{', 'X-Slow: '].map((text) => {
        const raw = net.connect(d.port, '127.0.0.1')
        const seen = { raw, text: '' }
        raw.on('error', () => {}).on('data', (part) => (seen.text += part))
        raw.write(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${text}`)
        return seen
    })
    const trickle = setInterval(() => body.raw.write(' '), 200)
    await until('both are there', async () => (await d.metric('http_connections')) >= 3)
    await sleep(100)
    const begun = Date.now()
    const exit = await d.stop()
    const took = Date.now() - begun
    clearInterval(trickle)
    assert.deepEqual(exit, { code: 0, signal: null })
    assert.ok(took < (slow ? 8000 : 4000), `it took ${took} ms`)
    for (const { text } of [body, header]) assert.match(text, /^HTTP\/1.1 503 /)
})

await test('the drain has a deadline, and then exit status 2', async () => {
    d = await start({ set: { drain_timeout: '1s' } })
    const s = d.stream('/v1/completions', endless(8))
    await until('it streams', () => s.events.length > 0)
    const begun = Date.now()
    const exit = await d.stop()
    const took = Date.now() - begun
    await s.ended
    assert.equal(exit.code, 2)
    assert.ok(took >= 900 && took < (slow ? 30000 : 6000), `it took ${took} ms`)
})

await test('a second SIGTERM does not wait', async () => {
    d = await start()
    const s = d.stream('/v1/completions', endless(8))
    await until('it streams', () => s.events.length > 0)
    d.child.kill('SIGTERM')
    await sleep(100)
    const begun = Date.now()
    await d.stop()
    await s.ended
    assert.ok(Date.now() - begun < (slow ? 20000 : 3000))
})

await test('SIGTERM during the load ends it promptly with status 0', async () => {
    d = await start({ wait: false })
    const begun = Date.now()
    assert.deepEqual(await d.stop(), { code: 0, signal: null })
    assert.ok(Date.now() - begun < (slow ? 20000 : 3000))
})
await done()
