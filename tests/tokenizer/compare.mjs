// tests/tokenizer/compare.mjs - token ids of random Unicode strings, ours and those of the npm package
// `tokenizers`, which runs the model's tokenizer.json.
//
// The package is installed into the build folder; without npm or a registry that answers the test is
// skipped. The seed is printed; LATENT_TEST_SEED repeats a run, LATENT_STRINGS takes more strings.
import { assert, done, fs, model, note, path, random, skip_all, slow, start, test, top_srcdir } from '../integration/harness.mjs'
import { packages } from '../integration/npm.mjs'
import { tokenizer_json } from './gguf.mjs'

const load = packages('npm-tokenizers', { tokenizers: '0.23' })
const { Tokenizer } = await load('tokenizers').catch((error) => skip_all(`the package does not load here: ${error.message.split('\n')[0]}`))

const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 2 ** 31)
const COUNT = Number(process.env.LATENT_STRINGS || (slow ? 2000 : 10000))
const rng = random(seed)
const below = (n) => Math.floor(rng() * n)
const pick = (list) => list[below(list.length)]
note(`seed ${seed}, ${COUNT} strings`)

const between = (lo, hi) => () => String.fromCodePoint(lo + below(hi - lo + 1))
const SOURCES = [
    between(0x20, 0x7e), between(0x20, 0x7e), between(0x61, 0x7a), between(0x30, 0x39), between(0xa0, 0x24f),
    between(0x300, 0x36f), between(0x370, 0x52f), between(0x590, 0x6ff), between(0x900, 0x97f), between(0xe00, 0xe7f),
    between(0x3040, 0x30ff), between(0x4e00, 0x9fff), between(0xac00, 0xd7a3), between(0x1f300, 0x1faff),
    between(0x2000, 0x206f), between(1, 0x1f), between(0x2150, 0x218b), between(0xff00, 0xffef),
    () => pick([' ', '  ', '   ', '\n', '\n\n', '\r\n', '\t', '\u00a0', '\u3000', '\u2028', '\u0085', '\ufeff', '\u200d', '\ufffd']),
    () => pick(['the', 'The ', ' and', "don't", "I'LL", ' 3.14', '2026-11-24', 'http://a.b/c?d=e', '👩‍👩‍👧', '🇩🇪', 'é', '①', '½']),
    () => pick(['<|user|>', '<|eos|>', '<|us', '|>', '<|bos|><|bos|>']),
    () => { // any code point that is no surrogate; NUL is refused in requests
        const c = 1 + below(0x110000 - 0x801)
        return String.fromCodePoint(c < 0xd800 ? c : c + 0x800)
    },
]
function random_string() {
    const sources = Array.from({ length: 1 + below(4) }, () => pick(SOURCES))
    let s = ''
    for (let n = below(below(8) ? 40 : 400); n > 0; n--) {
        const source = pick(sources)
        s += rng() < 0.1 ? source().repeat(1 + below(12)) : source()
    }
    return s
}

const json = tokenizer_json(model)
const reference = Tokenizer.fromString(JSON.stringify(json))
const d = await start()

/** Ids of every string by both; the strings on which they differ. */
async function differing(strings, tokenize, encode) {
    const wrong = []
    let next = 0
    const worker = async () => {
        while (next < strings.length) {
            const s = strings[next++]
            const [ours, theirs] = await Promise.all([tokenize(s), encode(s)])
            if (ours.length !== theirs.length || ours.some((id, i) => id !== theirs[i]))
                wrong.push({ string: s, escaped: JSON.stringify(s), ours, theirs })
        }
    }
    await Promise.all(Array.from({ length: 16 }, worker))
    return wrong.slice(0, 3).map((w) => `${w.escaped}\n  ours   ${w.ours}\n  theirs ${w.theirs}`)
}

const strings = Array.from({ length: COUNT }, random_string)
await test(`${COUNT} random strings: the same ids`, async () => {
    assert.ok(new Set(strings).size > COUNT * 0.9)
    assert.deepEqual(await differing(strings,
        async (s) => (await d.post('/tokenize', { prompt: s, parse_special: true })).tokens,
        async (s) => (await reference.encode(s)).getIds()), [])
})

await test('without the special tokens', async () => {
    assert.deepEqual(await differing(strings.slice(0, COUNT / 10),
        async (s) => (await d.post('/tokenize', { prompt: s, parse_special: true, add_special_tokens: false })).tokens,
        async (s) => (await reference.encode(s, null, { addSpecialTokens: false })).getIds()), [])
})

await test('and back: the text is the same', async () => {
    for (const s of strings.slice(0, COUNT / 10)) {
        const { tokens } = await d.post('/tokenize', { prompt: s, parse_special: false, add_special_tokens: false })
        assert.equal((await d.post('/detokenize', { tokens })).prompt, s, JSON.stringify(s))
    }
})

const original = path.join(top_srcdir, '../shared/models/latent-mini/tokenizer.json')
if (fs.existsSync(original))
    await test('the tokenizer.json made from the GGUF file is the model\'s own', () => {
        const own = JSON.parse(fs.readFileSync(original, 'utf8'))
        for (const key of ['added_tokens', 'pre_tokenizer', 'model'])
            assert.deepEqual(json[key], own[key], key)
    })

// Long words cost more than linear time in a naive merge; one of them must not stall the others.
await test('long words', async () => {
    for (const s of ['a'.repeat(20000), 'ab'.repeat(9000), '東'.repeat(5000), ' '.repeat(20000), '1'.repeat(9000)])
        assert.deepEqual((await d.post('/tokenize', { prompt: s })).tokens, (await reference.encode(s)).getIds())
})
await done()
