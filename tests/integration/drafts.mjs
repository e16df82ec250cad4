// tests/integration/drafts.mjs - tokens computed ahead (num_speculative_tokens, prediction): the same answers to
// the last bit of a log-probability, in fewer steps, and what is told of it.
import { assert, done, metric_of, note, start, test } from './harness.mjs'

const counts = (text) => ['drafts', 'draft_tokens', 'accepted_tokens'].map((s) =>
    metric_of(text, `vllm:spec_decode_num_${s}_total`))
const again = 'The keeper of the lighthouse walked down to the sea and counted the boats. '.repeat(6)
const requests = [
    { prompt: again, temperature: 0 },
    { prompt: again, temperature: 0.8, seed: 4, n: 3 },
    { prompt: again, temperature: 0.7, seed: 5, frequency_penalty: 0.4, repetition_penalty: 1.1 },
    { prompt: again, temperature: 0.7, seed: 6, dry_multiplier: 0.8, dry_allowed_length: 3 },
    { prompt: again, temperature: 0.7, seed: 7, mirostat: 2, mirostat_tau: 3 },
    { prompt: again, temperature: 0, stop: ['counted'] },
    { prompt: again, temperature: 0, guided_regex: '([a-z]{1,8} ){40}[a-z]+' },
    { prompt: [300, 301, 302, 303, 300, 301], temperature: 0 },
].map((r) => ({ max_tokens: 90, ignore_eos: true, logprobs: 3, return_token_ids: true, ...r }))
const essence = (answer) => answer.choices.map((c) => [c.token_ids, c.text, c.logprobs, c.finish_reason])

const without = await start({ set: { num_speculative_tokens: 0 } })
const want = []
for (const r of requests) want.push(essence(await without.post('/v1/completions', r)))
const native = { prompt: again, n_predict: 60, temperature: 0 }
const chat = {
    messages: [{ role: 'user', content: 'What is a volcano?' }], max_tokens: 120, temperature: 0.7, seed: 3,
    ignore_eos: true,
}
const plain = await without.post('/v1/chat/completions', chat)
await test('none where there are to be none', async () => {
    const { timings } = await without.post('/completion', native)
    assert.equal(timings.draft_n, undefined)
    assert.deepEqual(counts(await without.metrics()), [0, 0, 0])
})
await without.kill()

const d = await start({ set: { num_speculative_tokens: 8 } })
await test('the same answers, one after the other and together', async () => {
    for (const [i, r] of requests.entries())
        assert.deepEqual(essence(await d.post('/v1/completions', r)), want[i], `request ${i}`)
    const all = await Promise.all(requests.map((r) => d.post('/v1/completions', r)))
    for (const [i, answer] of all.entries()) assert.deepEqual(essence(answer), want[i], `request ${i} beside others`)
})
await test('tokens that the text foretells are accepted', async () => {
    const [drafts, tokens, accepted] = counts(await d.metrics())
    note(`${drafts} drafts, ${accepted} of ${tokens} tokens came`)
    assert(drafts > 0 && tokens >= drafts && accepted > 0 && accepted <= tokens)
    const { timings } = await d.post('/completion', native)
    assert(timings.draft_n >= timings.draft_n_accepted && timings.draft_n_accepted > 0, JSON.stringify(timings))
})
await test('an answer that was predicted, but for some words', async () => {
    const words = plain.choices[0].message.content.split(' ')
    words[9] = 'nobody'
    words.splice(30, 2)
    const prediction = { type: 'content', content: [{ type: 'text', text: words.join(' ') }] }
    const answer = await d.post('/v1/chat/completions', { ...chat, prediction })
    assert.deepEqual(answer.choices, plain.choices)
    const told = answer.usage.completion_tokens_details
    assert(told.accepted_prediction_tokens > 5 && told.rejected_prediction_tokens >= 0, JSON.stringify(told))
    assert.equal(plain.usage.completion_tokens_details?.accepted_prediction_tokens, undefined)
    for (const content of ['', 'nothing of it', words.join(' ').repeat(10)]) {
        const other = await d.post('/v1/chat/completions', { ...chat, prediction: { type: 'content', content } })
        assert.deepEqual(other.choices, plain.choices)
    }
})
await test('usage tells of the prediction only, not of what the answer itself foretells', async () => {
    const again = { messages: [{ role: 'user', content: 'Say it again. '.repeat(60) }], temperature: 0, max_tokens: 200, ignore_eos: true }
    const before = counts(await d.metrics())[2]
    const { usage } = await d.post('/v1/chat/completions', { ...again, prediction: { type: 'content', content: '' } })
    assert(counts(await d.metrics())[2] > before, 'nothing was drafted')
    assert.equal(usage.completion_tokens_details.accepted_prediction_tokens, 0)
    assert.equal(usage.completion_tokens_details.rejected_prediction_tokens, 0)
})
await test('mistakes are told', async () => {
    for (const prediction of [7, {}, { type: 'content' }, { type: 'content', content: [{ type: 'image' }] },
        { type: 'text', content: 'x' }]) {
        const e = await d.request('POST', '/v1/chat/completions', { ...chat, prediction })
        assert.equal(e.status, 400)
        assert.match(e.text, /prediction must be/)
    }
    const e = await d.request('POST', '/v1/chat/completions', { ...chat, prediction: { type: 'content', content: 'a b '.repeat(9000) } })
    assert.equal(e.status, 400)
    assert.match(e.text, /prediction has more tokens/)
})
await d.kill()
await done()
