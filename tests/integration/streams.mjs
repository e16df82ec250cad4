// tests/integration/streams.mjs - what a stream says besides text: that it lives, how far the prompt is, usage, errors.
import { assert, done, http_raw, note, sleep, slow, start, test } from './harness.mjs'

const d = await start({ set: { keepalive: '300ms', max_num_seqs: 1, prefill_chunk: 32, max_step_time: '1ms' } })
const C = '/v1/completions'
const CHAT = '/v1/chat/completions'
const long = 'The history of the city is long. '.repeat(250)
const user = [{ role: 'user', content: 'What is a lighthouse?' }]

await test('a stream that waits says that it lives, in each dialect', async () => {
    const busy = d.stream(C, { prompt: 'a', max_tokens: 3500, ignore_eos: true })
    while (!busy.events.length) await sleep(5)
    const waiting = [
        http_raw(d, CHAT, { messages: user, max_tokens: 2, stream: true }), http_raw(d, '/v1/messages', { messages: user, max_tokens: 2, stream: true }),
        http_raw(d, '/v1/responses', { input: 'a', max_output_tokens: 2, stream: true }),
    ]
    await sleep(2600)
    busy.req.destroy()
    const [chat, messages, responses] = await Promise.all(waiting)
    assert.match(chat, /^: keep-alive\n\n/)
    assert.match(chat, /\ndata: \[DONE\]\n\n$/)
    assert.ok(messages.split('event: ping\ndata: {"type":"ping"}\n\n').length > 2)
    assert.match(responses, /\n: keep-alive\n\n/)
})

await test('prefill progress', async () => {
    for (const [url, body] of [[C, { prompt: long }], [CHAT, { messages: [{ role: 'user', content: long + 'b' }] }]]) {
        const s = await d.stream(url, { ...body, max_tokens: 2, return_progress: true }).ended
        const steps = s.events.filter((e) => e.prompt_progress).map((e) => e.prompt_progress)
        assert.ok(steps.length > 3, `${steps.length} frames`)
        const { total } = steps[0]
        steps.forEach((p, i) => {
            assert.equal(p.total, total)
            assert.ok(p.processed > (i ? steps[i - 1].processed : p.cache) && p.processed <= total)
            assert.ok(p.time_ms >= (i ? steps[i - 1].time_ms : 0))
        })
        assert.equal(steps.at(-1).processed, total)
        assert.ok(!(await d.stream(url, { ...body, max_tokens: 2 }).ended).events.some((e) => e.prompt_progress))
    }
})

await test('usage at the end, or in every chunk', async () => {
    for (const url of [C, CHAT]) {
        const body = { ...(url === C ? { prompt: 'a' } : { messages: user }), max_tokens: 5, ignore_eos: true }
        const end = (await d.stream(url, { ...body, stream_options: { include_usage: true } }).ended).events
        assert.equal(end.at(-1).choices.length, 0)
        assert.equal(end.at(-1).usage.completion_tokens, 5)
        assert.ok(end.slice(0, -1).every((e) => e.usage === null))
        const all = (await d.stream(url, { ...body, stream_options: { include_usage: true, continuous_usage_stats: true } }).ended).events
        assert.ok(all.every((e, i) => e.usage.completion_tokens >= (i ? all[i - 1].usage.completion_tokens : 0)))
        for (const { usage } of all) {
            assert.equal(usage.prompt_tokens, end.at(-1).usage.prompt_tokens)
            assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        }
        assert.ok(!(await d.stream(url, body).ended).events.some((e) => 'usage' in e))
    }
})

await test('an error in the middle is the last event, in each dialect', async () => {
    const late = { max_tokens: 3500, ignore_eos: true, timeout: 0.4, stream: true }
    const chat = await http_raw(d, CHAT, { messages: user, ...late })
    assert.match(chat, /data: \{"error":\{"message":"[^"]+","type":"timeout_error","param":"timeout","code":"timeout"\}\}\n\ndata: \[DONE\]\n\n$/)
    const messages = await http_raw(d, '/v1/messages', { messages: user, ...late })
    assert.match(messages, /event: error\ndata: \{"type":"error","error":\{"type":"timeout_error","message":"[^"]+"\}\}\n\n$/)
    const responses = await http_raw(d, '/v1/responses', { input: 'a', ...late, max_tokens: undefined, max_output_tokens: 3500 })
    const last = JSON.parse(responses.trim().split('\n').at(-1).slice(6))
    assert.equal(last.type, 'response.failed')
    assert.equal(last.response.status, 'failed')
    assert.match(last.response.error.message, /timeout/)
    const { output, usage } = last.response
    assert.equal(output.at(-1).status, 'incomplete')
    assert.ok(usage.input_tokens > 0 && usage.output_tokens > 0, JSON.stringify(usage))
    assert.equal(usage.total_tokens, usage.input_tokens + usage.output_tokens)
})

if (!slow) await test('large answers of /tokenize and /detokenize hold nobody up', async () => {
    const digits = Array.from({ length: 4e6 }, (_, i) => (i * 7919) % 10).join('')
    const ids = (name) => `{"${name}":[${'5977,'.repeat(900000)}5977]}`
    const held = async (url, body) => {
        let over = false, most = 0
        const others = (async () => {
            while (!over) {
                const from = performance.now()
                await d.get('/livez')
                most = Math.max(most, performance.now() - from)
                await sleep(2)
            }
        })()
        await sleep(20)
        const res = await fetch(d.base + url, { method: 'POST', body }), all = await res.arrayBuffer()
        over = true
        await others
        return { most, status: res.status, json: JSON.parse(Buffer.from(all).toString()) }
    }
    const none = await held('/detokenize', ids('other')) // costs its reading
    assert.equal(none.status, 400)
    const text = await held('/detokenize', ids('tokens'))
    assert.equal(text.json.prompt.length, 900001 * 32)
    const pieces = await held('/tokenize', JSON.stringify({ prompt: digits, with_pieces: true, add_special_tokens: false }))
    assert.equal(pieces.json.tokens.length, pieces.json.count)
    assert.equal(pieces.json.tokens.map((t) => t.piece).join(''), digits)
    note(`held up: reading ${none.most.toFixed(0)} ms, /detokenize ${text.most.toFixed(0)}, /tokenize ${pieces.most.toFixed(0)}`)
    for (const { most } of [text, pieces]) assert.ok(most < 2 * none.most + 150, `${most} ms`)
})

await done()
