// tests/integration/zoo.mjs - every model of models/zoo served, text streamed, and compared with tests/data/zoo.json: float64
// arithmetic on the same 8-bit weights (tests/reference/zoo.py), by another implementation.
import { assert, cpu_levels, done, fs, note, path, skip_all, start, test, top_srcdir } from './harness.mjs'

const zoo = path.join(top_srcdir, 'models/zoo')
if (!fs.existsSync(path.join(top_srcdir, 'tests/data/zoo.json'))) skip_all('no tests/data/zoo.json')
const read = (file) => JSON.parse(fs.readFileSync(path.join(top_srcdir, file), 'utf8'))
const golden = read('tests/data/zoo.json'), { texts } = read('tests/data/latent-mini-golden.json')
// What activations (8 bits, or bfloat16 on tiles) and a bfloat16 cache may move a log-probability by, any of ten and in the
// square mean, and a gap between the two best that they may turn around.
const LOGPROB = cpu_levels().at(-1) === 'amx' ? 0.05 : 0.1, LOGPROB_MEAN = 0.035, CLOSE = 0.1

async function compare(d, want) {
    let nll = 0, nll_wanted = 0, n = 0
    const errors = []
    for (const [i, w] of want.entries()) {
        const { ids } = texts[i]
        const [scored] = (await d.post('/v1/completions', { prompt: texts[i].text, max_tokens: 0, echo: true, logprobs: 0,
            return_token_ids: true })).choices
        assert.deepEqual(scored.prompt_token_ids, ids, 'the tokenizer is another one')
        nll -= scored.logprobs.token_logprobs.slice(1).reduce((sum, v) => sum + v, 0)
        nll_wanted += w.nll
        n += ids.length - 1

        const next = (await d.post('/v1/completions', { prompt: ids, max_tokens: 1, temperature: 0, logprobs: 10,
            return_tokens_as_token_ids: true })).choices[0].logprobs.top_logprobs[0]
        w.top_ids.forEach((id, k) => {
            errors.push(next[`token_id:${id}`] - w.top_logprobs[k])
            assert.ok(Math.abs(errors.at(-1)) < LOGPROB,
                `text ${i}: token ${id} has ${next[`token_id:${id}`]}, in float64 ${w.top_logprobs[k]}`)
        })

        const streamed = await d.collect('/v1/completions', { prompt: ids, max_tokens: w.greedy_ids.length, temperature: 0,
            stream: true, ignore_eos: true, return_token_ids: true })
        assert.equal(streamed.choices[0].token_ids.length, w.greedy_ids.length)
        assert.ok(streamed.events.length > 1 && streamed.choices[0].text.trim())
        if (w.smallest_gap > CLOSE) assert.deepEqual(streamed.choices[0].token_ids, w.greedy_ids)
    }
    const perplexity = Math.exp(nll / n), wanted = Math.exp(nll_wanted / n)
    const mean = Math.sqrt(errors.reduce((sum, e) => sum + e * e, 0) / errors.length)
    note(`perplexity ${perplexity.toFixed(3)}, in float64 ${wanted.toFixed(3)}; log-probabilities off by ${mean.toFixed(4)}`)
    assert.ok(mean < LOGPROB_MEAN, `log-probabilities are off by ${mean}`)
    assert.ok(Math.abs(perplexity / wanted - 1) < 0.005)
}

await test('there is a golden result for each model, and models for all', () => {
    const files = fs.readdirSync(zoo).filter((f) => f.endsWith('.gguf')).sort()
    assert.deepEqual(files, Object.keys(golden).map((name) => `${name}.gguf`).sort())
    assert.ok(Object.values(golden).some((all) => all.some((w) => w.smallest_gap > CLOSE)), 'no greedy text is compared')
    const bytes = files.map((f) => fs.statSync(path.join(zoo, f)).size)
    assert.ok(Math.max(...bytes) <= 6e6 && bytes.reduce((a, b) => a + b) <= 60e6, `${bytes}`)
})
for (const [name, want] of Object.entries(golden)) {
    await test(`${name}: streams, as float64 does`, async () => {
        const d = await start({ args: ['--model', path.join(zoo, name)] }) // the ending may be left out
        await compare(d, want)
        const sampled = await d.collect('/v1/completions', { prompt: 'The city of', max_tokens: 24, temperature: 0.8, seed: 1,
            stream: true })
        assert.ok(sampled.choices[0].text.trim(), 'nothing was sampled')
        await d.kill()
    })
}
await done()
