// tests/load/loop_cost.mjs - what a streamed token costs the loop: processor time of the daemon's main thread, from
// /proc, over tokens, at 64 streams; plain, with log-probabilities, and with structured output. What is computed
// elsewhere (masks, sampling) is not the loop's; reading the request and its template is, shared by its tokens.
//
//     make bench-loop        (STREAMS=64 OUT=200 REPEAT=5)
import { assert, done, fs, note, start, test } from '../integration/harness.mjs'

const streams = Number(process.env.STREAMS || 64), out = Number(process.env.OUT || 200), repeat = Number(process.env.REPEAT || 5)
const d = await start({ set: { max_num_seqs: streams, access_log: false } })

/** Nanoseconds that the main thread, which is the loop's, has run. */
const loop_ns = () => Number(fs.readFileSync(`/proc/${d.child.pid}/task/${d.child.pid}/schedstat`, 'utf8').split(' ')[0])

async function stream(url, body) {
    const r = await fetch(d.base + url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) })
    assert.equal(r.status, 200)
    for await (const part of r.body) void part
}
const ids = (n) => Array.from({ length: n }, () => 300 + Math.floor(Math.random() * 4000))
const list = { type: 'array', items: { type: 'object', properties: { name: { type: 'string', maxLength: 20 }, n: { type: 'integer' } }, required: ['name', 'n'] }, minItems: 100 }
const common = { max_tokens: out, ignore_eos: true, stream: true, temperature: 1 }
const kinds = {
    'completions': [20, '/v1/completions', () => ({ ...common, prompt: ids(16) })],
    'completions, 5 log-probabilities': [null, '/v1/completions', () => ({ ...common, prompt: ids(16), logprobs: 5 })],
    'chats': [20, '/v1/chat/completions', () => ({ ...common, messages: [{ role: 'user', content: `Say it. ${Math.random()}` }] })],
    'chats, a schema': [70, '/v1/chat/completions', () => ({ ...common, messages: [{ role: 'user', content: `Say it. ${Math.random()}` }],
        response_format: { type: 'json_schema', json_schema: { name: 'list', schema: list } } })],
    'messages': [20, '/v1/messages', () => ({ max_tokens: out, ignore_eos: true, stream: true, model: 'latent-mini', messages: [{ role: 'user', content: `Say it. ${Math.random()}` }] })],
    'responses': [20, '/v1/responses', () => ({ max_output_tokens: out, ignore_eos: true, stream: true, store: false, input: `Say it. ${Math.random()}` })],
}

for (const [name, [goal, url, body]] of Object.entries(kinds))
    await test(`${name}: loop time of a token`, async () => {
        const figures = []
        for (let i = 0; i <= repeat; i++) {
            const before = await d.metric('vllm:generation_tokens_total'), from = loop_ns()
            await Promise.all(Array.from({ length: streams }, () => stream(url, body())))
            const ns = loop_ns() - from, tokens = await d.metric('vllm:generation_tokens_total') - before
            if (i > 0) figures.push(ns / tokens / 1000) // the first fills caches
        }
        figures.sort((a, b) => a - b)
        const [least, middle, most] = [figures[0], figures[figures.length >> 1], figures.at(-1)].map((x) => x.toFixed(1))
        note(`${name}: ${middle} us of loop time a token (${least} to ${most})${goal ? `, goal ${goal}` : ''}; ${streams} streams of ${out}`)
    })
await done()
