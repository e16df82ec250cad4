// tests/integration/scheme.mjs - prompts whose whole blocks are computed decompressed, through the scheduler.
//
// Which scheme a token's attention takes follows from its prompt's length alone. So small chunks, one
// thread, no prefix cache, other requests beside it and preemption leave every token and every
// log-probability as they are, and pages are shared only between prompts that make them alike.
import { assert, done, metric_of, note, random, random_ids, start, test } from './harness.mjs'

const rng = random(11)
const scheme = { mla_scheme: 'decompressed', mla_block: 512 }
const long = random_ids(rng, 1300)
const body = (prompt, more = {}) => ({
    prompt, max_tokens: 16, temperature: 0, ignore_eos: true, return_token_ids: true, logprobs: 2, ...more,
})
const requests = [
    body(long),
    body(long.slice(0, 700)), // its second block is not whole: absorbed from 512 on
    body(long.slice(0, 400)), // absorbed throughout
    body(long.slice(0, 1024)),
    body([...long.slice(0, 600), ...random_ids(rng, 500).slice(1)], { temperature: 0.9, seed: 5 }),
    body(long.slice(0, 1100), { n: 3, temperature: 0.8, seed: 9 }),
    body(long.slice(0, 1040), { max_tokens: 0, echo: true }),
]
/** What must not depend on anything but the request. */
const essence = (answer) => answer.choices.map((c) => [c.token_ids, c.text, c.logprobs])

const cold = await start({
    args: ['--threads', '1'],
    set: { ...scheme, prefix_cache: 'false', prefill_chunk: 48, max_num_batched_tokens: 96, max_num_seqs: 8 },
})
const want = []
await test('alone, in small chunks', async () => {
    for (const r of requests)
        want.push(essence(await cold.post('/v1/completions', r)))
})
await cold.kill()

const d = await start({ set: { ...scheme, page_tokens: 32 } })
const cached = (answer) => answer.usage.prompt_tokens_details.cached_tokens
await test('the scheme is told', async () => {
    assert.equal(metric_of(await d.metrics(), 'latentd_mla_block_tokens'), 512)
})
await test('prompts share what they make alike', async () => {
    const found = []
    for (const n of [400, 700, 1300, 700, 1300, 400]) {
        const i = requests.findIndex((r) => r.prompt.length === n)
        const answer = await d.post('/v1/completions', requests[i])
        assert.deepEqual(essence(answer), want[i], `prompt of ${n}`)
        found.push(cached(answer))
    }
    note(`cached: ${found}`)
    assert.deepEqual(found, [0, 0, 512, 699, 1299, 384])
})
await test('all of them again, one after the other', async () => {
    for (const [i, r] of requests.entries())
        assert.deepEqual(essence(await d.post('/v1/completions', r)), want[i], `request ${i}`)
})
await d.kill()

const all = [...requests, ...requests].map((r) => r.max_tokens ? { ...r, max_tokens: 120 } : r)
const big = await start({ set: scheme })
const alone = []
await test('longer answers, alone', async () => {
    for (const r of all.slice(0, requests.length))
        alone.push(essence(await big.post('/v1/completions', r)))
})
await big.kill()
// 2560 bytes a token: room for the longest and a little more
const small = await start({ set: { ...scheme, cache_size: 2100 * 2560, max_num_batched_tokens: 200 } })
await test('together in a small cache, with preemption', async () => {
    const answers = await Promise.all(all.map((r) => small.post('/v1/completions', r)))
    answers.forEach((answer, i) => assert.deepEqual(essence(answer), alone[i % requests.length], `request ${i}`))
    const n = metric_of(await small.metrics(), 'vllm:num_preemptions_total')
    note(`${n} preemptions`)
    assert.ok(n > 0)
})
await small.kill()

await done()
