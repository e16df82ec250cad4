// tests/integration/kill.mjs - kill -9 while pages are being written, again and again. Each start serves, and
// every prefix that it restores gives the bits of a cold run. LATENT_KILLS: how often (3; `make check-kill`: 50).
import { assert, done, fs, note, path, random, random_ids, scratch, sleep, slow, start, test, test_name,
    until } from './harness.mjs'

const kills = Number(process.env.LATENT_KILLS || 3)
const seed = Number(process.env.LATENT_TEST_SEED || 5)
const rng = random(seed)
const folder = path.join(scratch, `${test_name}.${process.pid}.cache`)
fs.rmSync(folder, { recursive: true, force: true })
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))

const PAGE = 16
const common = { page_tokens: PAGE, mla_block: 512, max_num_batched_tokens: 256, threads: 2 }
const warm_set = {
    ...common, cache_disk_path: folder, cache_disk_read: 'always', cache_disk_rate: 0, cache_disk_size: '40M',
}
const body = (prompt) => ({
    prompt, max_tokens: 4, temperature: 0, ignore_eos: true, return_token_ids: true, logprobs: 20,
})
const fresh = () => Array.from({ length: slow ? 2 : 4 }, () => random_ids(rng, 100 + Math.floor(rng() * 600)))

let cold
const reference = async (prompt) => (await cold.post('/v1/completions', body(prompt))).choices[0]
let restored = 0
let asked = 0
let partly = 0
let writing = 0
const first = fresh()[0]
let known = [] // what the daemon that was killed last computed

/** Starts on what the last kill left; every known prompt must give its reference. */
async function restart(expected) {
    const d = await start({ set: warm_set })
    const state = await until('the folder is known', async () => {
        const { disk } = (await d.get('/v1/cache')).json
        return disk.state !== 'starting' && disk
    })
    assert.equal(state.state, 'on', state.trouble)
    assert.ok(state.bytes <= 40 << 20)
    for (const [i, prompt] of known.entries()) {
        const answer = await d.post('/v1/completions', body(prompt))
        assert.deepEqual(answer.choices[0], expected[i])
        const n = answer.usage.prompt_tokens_details.cached_tokens
        restored += n
        asked += prompt.length
        partly += n > 0 && n < prompt.length - PAGE
    }
    return d
}

await test(`${kills} times killed while writing, seed ${seed}`, async () => {
    cold = await start({ set: { ...common, prefix_cache: false } })
    const first_reference = await reference(first)
    let expected = []
    for (let i = 0; i < kills; i++) {
        const d = await restart(expected)
        const prompts = fresh()
        // all at once, and the end comes at any moment of it
        const running = prompts.map((p) => d.post('/v1/completions', body(p)).catch(() => null))
        running.push(d.post('/v1/completions', body(first)).catch(() => null))
        const before = (await d.get('/v1/cache')).json.disk.writes
        const target = 1 + Math.floor(rng() * 60)
        await until('some pages are written', async () => {
            const { disk } = (await d.get('/v1/cache')).json
            return disk.writes >= before + target || disk.writes + disk.queue >= before + 160
        }).catch(() => null)
        await sleep(Math.floor(rng() * 12))
        const last = (await d.get('/v1/cache')).json.disk
        writing += last.queue > 0 || !(await Promise.race([Promise.all(running), sleep(0).then(() => null)]))
        await d.kill()
        await Promise.all(running)
        known = [...prompts, first]
        expected = []
        for (const p of prompts) expected.push(await reference(p))
        expected.push(first_reference)
    }
    const d = await restart(expected)
    const { disk } = (await d.get('/v1/cache')).json
    note(`${restored} of ${asked} tokens restored, ${partly} prompts in part; ${writing} of ${kills} kills came amid work`)
    note(`at the end ${disk.pages} pages, ${disk.bytes} bytes in ${disk.files} files`)
    assert.ok(restored > 0 && restored < asked)
    assert.ok(writing > 0)
    await d.stop()
    await cold.kill()
})
await done()
