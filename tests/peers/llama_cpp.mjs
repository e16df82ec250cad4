// tests/peers/llama_cpp.mjs - the same files in llama.cpp and here; not part of `make check`.
//
//     make check-llama-cpp LLAMA_CPP=SOURCE LLAMA_CPP_BUILD=BUILD
//
// SOURCE is a checkout of llama.cpp, BUILD its build folder with shared libraries and llama-quantize.
// 1. Each folder of tests/data/hf whose architecture llama.cpp has is converted to F16. llama.cpp must load
//    the file, give the reference logits (those of transformers, in the folder) and the reference's greedy ids,
//    but for what FAMILIES says.
// 2. latent-mini, where its bfloat16 folder is (LATENT_BF16_MODEL, or ../shared/models/latent-mini): converted
//    to F16, quantised by llama-quantize to each type; both programs' perplexities, as a table.
import { spawn, spawnSync } from 'node:child_process'
import readline from 'node:readline'
import { assert, done, fs, note, path, scratch, skip_all, skip_test, start, test, top_builddir, top_srcdir } from '../integration/harness.mjs'

const source = process.env.LLAMA_CPP
const build = process.env.LLAMA_CPP_BUILD || (source && path.join(source, 'build'))
if (!source || !fs.existsSync(path.join(build, 'bin'))) skip_all('LLAMA_CPP and LLAMA_CPP_BUILD name no built llama.cpp')

// scale: of llama.cpp's logits. MiniCPM3's dim_model_base is fixed there at 256; this folder has 64.
// other_gate: llama.cpp takes a group's two best experts together for all models, DeepSeek-V2 its best one.
const FAMILIES = [
    { family: 'deepseek_v2' }, { family: 'deepseek_v2_group', other_gate: true }, { family: 'deepseek_v3' },
    { family: 'glm4_moe_lite' }, { family: 'minicpm3', scale: 4 }, { family: 'youtu' },
]
const TYPES = ['F16', 'Q8_0', 'Q6_K', 'Q5_K_M', 'Q5_1', 'Q5_0', 'Q4_K_M', 'Q4_1', 'Q4_0', 'IQ4_NL', 'IQ4_XS', 'Q3_K_M', 'Q2_K']

const convert = path.join(top_builddir, 'latent-convert')
const program = path.join(scratch, 'llama_logits')
const bin = path.join(build, 'bin')

function run(command, ...args) {
    const r = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 26 })
    assert.equal(r.status, 0, `${command} ${args.join(' ')}\n${r.stdout}${r.stderr}`)
    return r.stdout
}

/** llama.cpp with a model: ask(line) answers a line. */
class Peer {
    constructor(model) {
        this.child = spawn(program, [model], { env: { ...process.env, LD_LIBRARY_PATH: bin }, stdio: ['pipe', 'pipe', 'inherit'] })
        this.lines = readline.createInterface({ input: this.child.stdout })[Symbol.asyncIterator]()
    }

    async ask(...words) {
        this.child.stdin.write(words.flat().join(' ') + '\n')
        const { value, done } = await this.lines.next()
        assert.ok(!done, 'llama.cpp ended')
        return value.trim()
    }

    end() {
        this.child.stdin.end()
    }
}

function golden_logits(folder, index) {
    const file = fs.readFileSync(path.join(folder, 'golden.safetensors'))
    const header_bytes = Number(file.readBigUInt64LE(0))
    const header = JSON.parse(file.toString('utf8', 8, 8 + header_bytes))
    const [from, to] = header[`logits_${index}`].data_offsets
    return new Float32Array(file.buffer.slice(file.byteOffset + 8 + header_bytes + from, file.byteOffset + 8 + header_bytes + to))
}

const log_softmax = (row) => {
    const max = row.reduce((a, b) => Math.max(a, b), -Infinity)
    const log_sum = Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0)) + max
    return row.map((x) => x - log_sum)
}

/** rms of the difference over rms of the reference about its mean, and the mean KL of the rows. */
function distance(reference, got, vocab) {
    const mean = reference.reduce((a, b) => a + b, 0) / reference.length
    let diff = 0
    let spread = 0
    let kl = 0
    for (let i = 0; i < reference.length; i++) {
        diff += (got[i] - reference[i]) ** 2
        spread += (reference[i] - mean) ** 2
    }
    for (let i = 0; i < reference.length; i += vocab) {
        const p = log_softmax(Array.from(reference.subarray(i, i + vocab)))
        const q = log_softmax(Array.from(got.subarray(i, i + vocab)))
        kl += p.reduce((sum, x, k) => sum + Math.exp(x) * (x - q[k]), 0)
    }
    return { relative: Math.sqrt(diff / spread), kl: kl / (reference.length / vocab) }
}

const compiled = spawnSync(process.env.CC || 'cc', ['-O2', '-o', program, path.join(top_srcdir, 'tests/peers/llama_logits.c'),
    `-I${source}/include`, `-I${source}/ggml/include`, `-L${bin}`, '-lllama', '-lggml', '-lggml-base', '-lm'], { encoding: 'utf8' })
if (compiled.status !== 0) skip_all('llama_logits.c does not build: ' + compiled.stderr.split('\n')[0])

for (const { family, scale = 1, other_gate } of FAMILIES) {
    const folder = path.join(top_srcdir, 'tests/data/hf', family)
    await test(`${family}: llama.cpp and latentd agree on the F16 file`, async () => {
        const golden = JSON.parse(fs.readFileSync(path.join(folder, 'golden.json'), 'utf8'))
        const file = path.join(scratch, `${family}.f16.gguf`)
        run(convert, 'to-gguf', folder, file, '--type', 'f16', '--force')
        const peer = new Peer(file)
        let worst = { relative: 0, kl: 0 }
        for (const [i, ids] of golden.prompts.entries()) {
            const out = path.join(scratch, 'logits.f32')
            const vocab = Number(await peer.ask('logits', out, ids))
            const bytes = fs.readFileSync(out)
            const got = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
            const d = distance(golden_logits(folder, i), got.map((x) => x / scale), vocab)
            worst = { relative: Math.max(worst.relative, d.relative), kl: Math.max(worst.kl, d.kl) }
        }
        note(`llama.cpp against transformers: relative error ${worst.relative.toExponential(2)}, KL ${worst.kl.toExponential(2)}`)
        const d = await start({ args: ['--model', file] })
        for (const ids of golden.greedy) {
            const n = ids.length - 16
            const prompt = ids.slice(0, n)
            const theirs = (await peer.ask('greedy', 16, prompt)).split(' ').map(Number)
            const ours = await d.post('/v1/completions', { prompt, max_tokens: 16, temperature: 0, ignore_eos: true, return_token_ids: true })
            assert.deepEqual(ours.choices[0].token_ids, ids.slice(n), 'latentd differs from the reference')
            if (!other_gate) assert.deepEqual(theirs, ids.slice(n), 'llama.cpp differs from the reference')
        }
        await d.kill()
        peer.end()
        assert.ok(other_gate || worst.relative < 0.02 && worst.kl < 1e-3, `relative error ${worst.relative}, KL ${worst.kl}`)
    })
}

const folder = process.env.LATENT_BF16_MODEL || path.join(top_srcdir, '../shared/models/latent-mini')
const quantize = path.join(bin, 'llama-quantize')
if (!fs.existsSync(folder) || !fs.existsSync(quantize)) {
    skip_test('perplexity by type', 'no bfloat16 folder of latent-mini or no llama-quantize')
} else {
    const golden = JSON.parse(fs.readFileSync(path.join(top_srcdir, 'tests/data/latent-mini-golden.json'), 'utf8'))
    const f16 = path.join(scratch, 'mini.F16.gguf')
    const table = ['| type | MB | llama.cpp | latentd |', '| --- | --- | --- | --- |']
    run(convert, 'to-gguf', folder, f16, '--type', 'f16', '--force')
    for (const type of TYPES) {
        await test(`${type}: perplexity near llama.cpp's`, async () => {
            const file = path.join(scratch, `mini.${type}.gguf`)
            if (type !== 'F16') run(quantize, '--allow-requantize', f16, file, type)
            const peer = new Peer(file)
            const d = await start({ args: ['--model', file, '--set', 'cache_type=f32'] })
            let theirs = 0
            let ours = 0
            let n = 0
            for (const t of golden.texts) {
                theirs += Number(await peer.ask('nll', t.ids))
                const answer = await d.post('/v1/completions', { prompt: t.ids, max_tokens: 0, echo: true, logprobs: 0 })
                ours -= answer.choices[0].logprobs.token_logprobs.slice(1).reduce((sum, x) => sum + x, 0)
                n += t.ids.length - 1
            }
            peer.end()
            await d.kill()
            const [a, b] = [Math.exp(theirs / n), Math.exp(ours / n)]
            table.push(`| ${type} | ${(fs.statSync(file).size / 1e6).toFixed(1)} | ${a.toFixed(3)} | ${b.toFixed(3)} |`)
            assert.ok(Math.abs(b / a - 1) < 0.01, `${b} here, ${a} in llama.cpp`)
        })
    }
    note(table.join('\n'))
}
await done()
