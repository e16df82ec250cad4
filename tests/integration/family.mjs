// tests/integration/family.mjs - folders of the attention family served by the daemon, published layouts among them, and
// all of them as GGUF (latent-convert, our own also by tools/train/gguf.py): log-probabilities of the next token beside the
// float64 reference's.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { assert, done, scratch, skip_test, start, test, top_builddir, top_srcdir } from './harness.mjs'

const data = (name, of = 'family') => path.join(top_srcdir, 'tests/data', of, name)
// Debian's python3 has python3-numpy; another one that comes first in PATH may not
const python = ['/usr/bin/python3', 'python3'].find((p) => spawnSync(p, ['-c', 'import numpy']).status === 0)

/** Natural log-probabilities of the token after the whole prompt. */
function reference(golden) {
    const last = golden.positions.indexOf(golden.tokens.length - 1), row = golden.logits[last]
    const most = Math.max(...row), sum = Math.log(row.reduce((s, v) => s + Math.exp(v - most), 0)) + most
    return row.map((v) => v - sum)
}

async function compare(model, golden, tolerance) {
    const d = await start({ args: ['--model', model], set: { max_model_len: 128 } })
    const want = reference(golden)
    for (let i = 0; i < 2; i++) { // computed, and from the cache
        const r = await d.request('POST', '/v1/completions', { prompt: golden.tokens, max_tokens: 1, temperature: 0, logprobs: 5,
            ignore_eos: true, return_tokens_as_token_ids: true })
        assert.equal(r.status, 200, JSON.stringify(r.json))
        const top = Object.entries(r.json.choices[0].logprobs.top_logprobs[0])
        assert.ok(top.length >= 5)
        for (const [token, logprob] of top) {
            const id = Number(token.replace('token_id:', ''))
            assert.ok(Math.abs(logprob - want[id]) < tolerance, `token ${id}: ${logprob}, in float64 ${want[id]}`)
        }
    }
    await d.kill()
}

/** Embeddings by both kinds of pooling, computed and with the prompt cached, beside those in float64. */
async function embed(name, golden) {
    const said = spawnSync(python, [path.join(top_srcdir, 'tests/reference/embedding.py'), data(name)])
    assert.equal(said.status, 0, String(said.stderr))
    const want = JSON.parse(said.stdout)
    const d = await start({ args: ['--model', data(name)], set: { max_model_len: 128 } })
    await d.post('/v1/completions', { prompt: golden.tokens, max_tokens: 1 })
    for (const pooling of ['mean', 'last', 'mean']) {
        const got = (await d.post('/v1/embeddings', { input: golden.tokens, pooling, encoding_format: 'float' })).data[0].embedding
        assert.equal(got.length, want[pooling].length)
        const apart = Math.sqrt(got.reduce((s, v, i) => s + (v - want[pooling][i]) ** 2, 0))
        assert.ok(apart < 0.02, `${pooling}: ${apart} apart, of length 1`)
    }
    await d.kill()
}

function convert(...args) {
    return spawnSync(path.join(top_builddir, 'latent-convert'), args)
}

/** As latent-convert writes it: F16 has all that these weights have, Q8_0 moves them. */
async function converted(folder, golden) {
    const out = path.join(scratch, 'converted.gguf')
    for (const [type, tolerance] of [['f16', 0.05], ['q8_0', 0.3]]) {
        const made = convert('to-gguf', folder, out, '--type', type, '--force', '--quiet')
        assert.equal(made.status, 0, String(made.stderr))
        await compare(out, golden, tolerance)
    }
    fs.unlinkSync(out)
}

for (const name of ['gqa', 'mla', 'mtla', 'mtla_2_3', 'cca', 'eg_mla', 'moas', 'mixed']) {
    const golden = JSON.parse(fs.readFileSync(path.join(data(name), 'golden.json')))
    await test(`${name}: the folder`, () => compare(data(name), golden, 0.05))
    await test(`${name}: the folder, converted`, () => converted(data(name), golden))
    if (!python) {
        skip_test(`${name}: embeddings, as GGUF`, 'there is no Python with NumPy')
        continue
    }
    await test(`${name}: embeddings`, () => embed(name, golden))
    await test(`${name}: as GGUF`, async () => {
        const out = path.join(scratch, `family-${name}.gguf`)
        const made = spawnSync(python, [path.join(top_srcdir, 'tools/train/gguf.py'), data(name), '-', out])
        assert.equal(made.status, 0, String(made.stderr))
        await compare(out, golden, 0.2)
        fs.unlinkSync(out)
    })
}
for (const name of fs.readdirSync(data('', 'layout'))) {
    const golden = JSON.parse(fs.readFileSync(path.join(data(name, 'layout'), 'golden.json')))
    if (['hunyuan', 'step3_vl', 'zaya', 'x_ecomla'].includes(name))
        await test(`${name}: the published layout`, () => compare(data(name, 'layout'), golden, 0.05))
    await test(`${name}: the published layout, converted`, () => converted(data(name, 'layout'), golden))
}
await test('a GGUF file of a layout that has no such form', () => {
    const out = path.join(scratch, 'strange.gguf')
    assert.equal(convert('to-gguf', data('zaya', 'layout'), out, '--force', '--quiet').status, 0)
    for (const type of ['zayb', 'none']) {
        fs.writeFileSync(out, Buffer.from(fs.readFileSync(out).toString('latin1').replace(/("model_type":")[a-z]{4}"/, `$1${type}"`),
            'latin1'))
        const said = convert('info', out)
        assert.notEqual(said.status, 0)
        assert.match(String(said.stderr), new RegExp(`model_type is ${type}`))
    }
    fs.unlinkSync(out)
})
await done()
