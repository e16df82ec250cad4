// tests/integration/concurrency.mjs - 64 streams at once in a cache far too small for them.
//
// Each must end with the text it has when sent alone to a daemon with one thread, a large cache and no
// prefix sharing: greedy, and with seeded sampling. So batching, chunking, preemption, sharing and the
// number of threads are all seen not to change a single token.
import { assert, done, metric_of, note, random, random_ids, slow, start, test } from './harness.mjs'

const N = slow ? 24 : 64
const seed = Number(process.env.LATENT_SEED || 20260817)
note(`seed ${seed} (LATENT_SEED repeats it), ${N} streams`)
const rng = random(seed)

// Mixed lengths: mostly short, some long; a quarter continue one common text, as conversations do.
const common = random_ids(rng, 160)
const requests = Array.from({ length: N }, (_, i) => {
    const n_prompt = Math.floor(i % 8 === 7 ? 300 + rng() * 400 : 4 + rng() * 120)
    const ids = random_ids(rng, n_prompt)
    return {
        prompt: i % 4 === 2 ? [...common, ...ids.slice(1)] : ids,
        max_tokens: Math.floor(i % 8 === 3 ? 80 + rng() * 60 : 8 + rng() * 40),
        ignore_eos: true,
        return_token_ids: true,
        seed: 1000 + i,
    }
})
const longest = Math.max(...requests.map((r) => r.prompt.length + r.max_tokens))
const total = requests.reduce((sum, r) => sum + r.prompt.length + r.max_tokens, 0)

const alone = await start({ args: ['--threads', '1'], set: { prefix_cache: 'false' } })
const reference = { 0: [], 0.8: [] }
for (const temperature of [0, 0.8]) {
    await test(`alone, temperature ${temperature}`, async () => {
        for (const r of requests) {
            const answer = await alone.post('/v1/completions', { ...r, temperature })
            const [choice] = answer.choices
            assert.equal(choice.token_ids.length, r.max_tokens)
            assert.equal(answer.usage.prompt_tokens, r.prompt.length)
            reference[temperature].push({ text: choice.text, token_ids: choice.token_ids })
        }
    })
}
await alone.kill()

// bfloat16 rows of 160 values in 8 layers: 2560 bytes a token. Room for the longest and a little more.
const cache_tokens = longest + 400
note(`${total} tokens in all, the longest ${longest}, cache of ${cache_tokens}`)
const small = await start({ set: { cache_size: cache_tokens * 2560 } })
for (const temperature of [0, 0.8]) {
    await test(`${N} streams at once, temperature ${temperature}`, async () => {
        const answers = await Promise.all(requests.map((r) =>
            small.collect('/v1/completions', { ...r, temperature, stream_options: { include_usage: true } })))
        const wrong = []
        answers.forEach(({ choices, usage }, i) => {
            const want = reference[temperature][i]
            assert.equal(choices[0].finish_reason, 'length')
            assert.equal(usage.completion_tokens, requests[i].max_tokens)
            if (JSON.stringify(choices[0].token_ids) !== JSON.stringify(want.token_ids)) {
                const at = want.token_ids.findIndex((id, k) => id !== choices[0].token_ids[k])
                wrong.push(`stream ${i} (prompt of ${requests[i].prompt.length}): token ${at} differs`)
            } else if (choices[0].text !== want.text) {
                wrong.push(`stream ${i}: same tokens, other text`)
            }
        })
        assert.deepEqual(wrong, [])
    })
}

await test('the cache was too small for all of them', async () => {
    const m = await small.metrics()
    const pages = [...m].filter(([key]) => key.startsWith('latentd_kv_pages{')).reduce((sum, [, n]) => sum + n, 0)
    note(`${pages} pages, ${metric_of(m, 'vllm:num_preemptions_total')} preemptions`)
    assert.ok(pages * 32 < total / 2, `${pages} pages hold more than half of ${total} tokens`)
})

await test('nothing is held afterwards', async () => {
    await small.idle()
})

await test('SIGTERM ends it with status 0', async () => {
    assert.deepEqual(await small.stop(), { code: 0, signal: null })
})
await done()
