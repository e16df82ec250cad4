// tests/integration/stride.mjs - models whose rows stand for 3 tokens, or for 2 in one layer and 3 in another, served in pages
// that no power of two divides into whole rows: the same bits with a prefix from memory, from disk, behind a fork, and where
// sequences give their pages back.
import { assert, done, fs, metric_of, note, path, random, random_ids, scratch, start, test, test_name, top_srcdir,
    until } from './harness.mjs'

const folder = path.join(scratch, `${test_name}.${process.pid}.cache`)
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))

const SHARED = 53 // tokens that prompts begin with; at the most whole rows of them are found
const MODELS = { // by folder: tokens of a page where 8 are asked for, and of the rows that a prefix ends with
    'family/mtla_3': { page: 12, unit: 3 },
    'family/mtla_5': { page: 10, unit: 5 },
    'family/mtla_2_3': { page: 12, unit: 6 },
    'family/mtla_cca': { page: 12, unit: 12 }, // a state a page: whole pages only
    'layout/llama_mtla_3': { page: 12, unit: 3 },
}
const body = (prompt, more = {}) => ({
    prompt, max_tokens: 30, temperature: 1, seed: 5, ignore_eos: true, return_token_ids: true, logprobs: 20, ...more,
})
const ask = (d, prompt, more) => d.post('/v1/completions', body(prompt, more))
const what = (answer) => answer.choices.map(({ token_ids, logprobs }) => ({ token_ids, logprobs }))
const cached = (answer) => answer.usage.prompt_tokens_details.cached_tokens
const down = (n, unit) => n - n % unit
const stats = async (d) => (await d.get('/v1/cache')).json

for (const [name, { page, unit }] of Object.entries(MODELS)) {
    const rng = random(3)
    const ids = (n) => random_ids(rng, n + 1).slice(1).map((id) => id % 64)
    const common = ids(SHARED)
    const prompts = [0, 1, 2, 3, 4, 5].map((i) => [...common, (i * 7) % 64, ...ids(11 + i)])
    const begin = (set) => start({ args: ['--model', path.join(top_srcdir, 'tests/data', name)], set: { page_tokens: 8, ...set } })
    const cold = []

    await test(`${name}: answers without any cache`, async () => {
        const d = await begin({ prefix_cache: false })
        assert.equal((await stats(d)).page_tokens, page)
        for (const p of prompts) cold.push(what(await ask(d, p, { n: 2 })))
        assert.notDeepEqual(cold[0][0].token_ids, cold[0][1].token_ids)
        await d.kill()
    })

    await test(`${name}: the same with what others computed, in memory and on disk`, async () => {
        fs.rmSync(folder, { recursive: true, force: true })
        const set = { cache_disk_path: folder, cache_disk_read: 'always', cache_disk_rate: 0, prefill_chunk: 7 }
        let d = await begin(set)
        for (const [i, p] of prompts.entries()) {
            const answer = await ask(d, p, { n: 2 })
            assert.deepEqual(what(answer), cold[i])
            assert.equal(cached(answer), i ? down(SHARED, unit) : 0)
        }
        const longer = [...prompts[1], ...cold[1][0].token_ids] // goes on from its own answer
        const on = what(await ask(d, longer, { cache_salt: 'alone', max_tokens: 20 }))
        const answer = await ask(d, longer, { max_tokens: 20 })
        assert.deepEqual(what(answer), on)
        assert.ok(cached(answer) >= down(longer.length - 1, page))
        await until('everything is on disk', async () => {
            const { disk } = await stats(d)
            return disk.state === 'on' && disk.queue === 0
        })
        await d.stop()
        d = await begin(set)
        await until('the folder is known', async () => (await stats(d)).disk.state === 'on')
        for (const [i, p] of prompts.entries()) {
            const again = await ask(d, p, { n: 2 })
            assert.deepEqual(what(again), cold[i])
            assert.ok(cached(again) >= down(p.length - 1, page))
        }
        assert.ok((await stats(d)).disk.hit_tokens >= down(SHARED, page))
        await d.kill()
    })

    for (const park_size of ['0', '16M']) {
        await test(`${name}: the same where sequences give their pages back, parked: ${park_size}`, async () => {
            const one = await begin({ prefix_cache: false })
            const { page_bytes } = await stats(one)
            await one.kill()
            const cache_size = page_bytes * Math.ceil(300 / page) // two or three of them have room
            const d = await begin({ cache_size, park_size, max_num_seqs: 4 })
            let preempted = 0
            for (let round = 0; round < 100 && preempted === 0; round++) { // the later it comes the sooner its turn
                const answers = await Promise.all(prompts.map((p, i) =>
                    ask(d, p, { n: 2, cache_salt: `${round}.${i}`, priority: -i })))
                for (const [i, answer] of answers.entries()) assert.deepEqual(what(answer), cold[i])
                preempted = metric_of(await d.metrics(), 'vllm:num_preemptions_total')
            }
            note(`${preempted} gave their pages back`)
            assert.ok(preempted > 0)
            await d.kill()
        })
    }
}
await done()
