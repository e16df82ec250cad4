// tests/integration/structured.mjs - structured output: what is generated at a high temperature validates by another
// implementation (the npm package `ajv`), streams, choices and a small cache change nothing, mistakes name themselves.
//
// LATENT_GENERATIONS: how many answers for each keyword (default 16).
import { assert, done, metric_of, note, slow, start, test } from './harness.mjs'
import { packages } from './npm.mjs'

const load = packages('npm-ajv', { ajv: '8', 'ajv-formats': '3' })
const { default: Ajv } = await load('ajv/dist/2020.js')
const { default: formats } = await load('ajv-formats')
const ajv = new (Ajv.default ?? Ajv)({ strict: false, allErrors: false })
;(formats.default ?? formats)(ajv)

const generations = Number(process.env.LATENT_GENERATIONS || (slow ? 4 : 16))
const d = await start({ set: { max_n: 16, max_num_seqs: 16 } })
const C = '/v1/completions'
const CHAT = '/v1/chat/completions'

const object = (properties, more = {}) => ({ type: 'object', properties, required: Object.keys(properties), additionalProperties: false, ...more })
const node = { type: 'object', properties: { value: { type: 'integer' }, next: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/node' }] } }, required: ['value', 'next'] }
const schemas = {
    'type: string': { type: 'string', maxLength: 40 },
    'type: integer': { type: 'integer' },
    'type: number': { type: 'number' },
    'type: boolean, null': { type: ['boolean', 'null'] },
    'type: array': { type: 'array', maxItems: 4, items: { type: ['integer', 'boolean'] } },
    properties: object({ a: { type: 'integer' }, b: { type: 'boolean' } }),
    'properties, optional': { type: 'object', properties: { a: { type: 'integer' }, b: { type: 'null' }, c: { enum: [1, 2] } }, additionalProperties: false },
    required: { type: 'object', properties: { a: { type: 'boolean' } }, required: ['a', 'z'], additionalProperties: { type: 'integer' } },
    additionalProperties: { type: 'object', properties: { ab: { type: 'null' }, abc: { type: 'null' } }, additionalProperties: { type: 'boolean' }, maxProperties: 4 },
    patternProperties: { type: 'object', patternProperties: { '^x_[a-z]{1,4}$': { type: 'integer' } }, additionalProperties: false, maxProperties: 3 },
    minProperties: { type: 'object', properties: { a: { type: 'null' }, b: { type: 'null' }, c: { type: 'null' } }, minProperties: 2, additionalProperties: false },
    maxProperties: { type: 'object', properties: { a: { type: 'null' }, b: { type: 'null' }, c: { type: 'null' } }, maxProperties: 1, additionalProperties: false },
    items: { type: 'array', items: { type: 'string', maxLength: 5 }, maxItems: 3 },
    prefixItems: { type: 'array', prefixItems: [{ type: 'integer' }, { const: 'x' }], items: { type: 'boolean' }, minItems: 1, maxItems: 4 },
    minItems: { type: 'array', items: { type: 'null' }, minItems: 3, maxItems: 6 },
    enum: { enum: ['red', 'a "quoted" one', 5, null, { a: [1] }] },
    const: { const: { k: 'é\n' } },
    anyOf: { anyOf: [{ type: 'integer', minimum: 5 }, { type: 'string', maxLength: 3 }, { type: 'null' }] },
    oneOf: { oneOf: [object({ kind: { const: 'a' }, x: { type: 'integer' } }), object({ kind: { const: 'b' }, y: { type: 'boolean' } })] },
    allOf: { allOf: [{ type: 'object', properties: { a: { type: 'number' } }, required: ['a'] }, { properties: { a: { type: 'integer', minimum: 3 }, b: { type: 'null' } } }] },
    '$ref, recursion': { ...node, $defs: { node } },
    minLength: { type: 'string', minLength: 5, maxLength: 9 },
    maxLength: { type: 'string', maxLength: 2 },
    pattern: { type: 'string', pattern: '^[A-Z][a-z]{2,8}(-\\d{1,3})?$' },
    'pattern, anywhere': { type: 'object', properties: { a: { type: 'string', pattern: 'q' } }, required: ['a'] },
    'pattern and length': { type: 'string', pattern: '^[^x]*$', minLength: 2, maxLength: 12 },
    minimum: { type: 'integer', minimum: -17, maximum: 1234 },
    exclusive: { type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1 },
    'number bounds': { type: 'number', minimum: -2, maximum: 103 },
    multipleOf: { type: 'integer', multipleOf: 7 },
    'multipleOf in bounds': { type: 'integer', multipleOf: 25, minimum: -100, maximum: 1000 },
    ...Object.fromEntries(['date', 'time', 'date-time', 'duration', 'uuid', 'email', 'hostname', 'ipv4', 'ipv6', 'uri'].map((format) => [`format: ${format}`, { type: 'string', format }])),
}

let cut = 0, whole = 0
/** Answers for one schema until so many have ended by themselves, all of which are valid. */
async function generate(name, schema, count, options = {}) {
    const valid = ajv.compile(schema)
    const n = Math.min(16, count)
    let ended = 0
    for (let i = 0; ended < count && i < 12 * count; i += n) {
        const r = await d.post(C, {
            prompt: 'The answer as JSON: ', max_tokens: 300, temperature: 1.5, seed: 1000 + i, n,
            response_format: { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } }, ...options,
        })
        for (const c of r.choices) {
            if (c.finish_reason === 'length') {
                cut++
                continue
            }
            assert.equal(c.finish_reason, 'stop')
            let value
            try {
                value = JSON.parse(c.text)
            } catch (e) {
                assert.fail(`${name}: not JSON: ${c.text}`)
            }
            assert.ok(valid(value), `${name}: ${c.text}: ${ajv.errorsText(valid.errors)}`)
            ended++
        }
    }
    whole += ended
    assert.ok(ended >= count, `${name}: only ${ended} ended`)
}

await test(`${generations} answers for each keyword validate`, async () => {
    for (const [name, schema] of Object.entries(schemas)) await generate(name, schema, generations)
    note(`${whole} answers validate, ${cut} were cut off by max_tokens`)
})

// --- random schemas -------------------------------------------------------------------------------

let state = 20261126
const rng = () => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32)
const below = (n) => Math.floor(rng() * n)
const pick = (list) => list[below(list.length)]

function random_schema(depth = 0) {
    const k = below(depth > 2 ? 6 : 10)
    const lo = below(40) - 20
    if (k === 0) return { type: 'integer', minimum: lo, maximum: lo + below(2000) }
    if (k === 1) return { type: 'string', minLength: below(3), maxLength: 3 + below(6) }
    if (k === 2) return { enum: ['a', 'bc', 3, null, true, 1.5].slice(below(3)) }
    if (k === 3) return { type: 'number', exclusiveMinimum: lo, maximum: lo + 1 + below(30) }
    if (k === 4) return { type: pick(['boolean', 'null', ['null', 'boolean'], 'integer']) }
    if (k === 5) return { type: 'string', pattern: pick(['^[a-c]{1,3}$', '^(x|yy)+z?$', '^\\d{2,4}$', '^[^"\\\\]{0,4}$']) }
    if (k === 6) return { type: 'array', items: random_schema(depth + 1), minItems: below(2), maxItems: 1 + below(3) }
    if (k === 7) return { anyOf: [random_schema(depth + 1), random_schema(depth + 1)] }
    if (k === 8) return { allOf: [random_object(depth), { required: ['a'] }] }
    return random_object(depth)
}
function random_object(depth) {
    const names = ['a', 'b', 'ab', 'c d', 'é', '"'].slice(0, 1 + below(6))
    return {
        type: 'object', properties: Object.fromEntries(names.map((name) => [name, random_schema(depth + 1)])),
        required: names.filter(() => rng() < 0.5), additionalProperties: pick([false, false, { type: 'integer' }]), maxProperties: 4 + below(3),
    }
}

await test('answers to random schemas validate', async () => {
    for (let i = 0; i < (slow ? 8 : 40); i++) {
        const schema = random_schema()
        if ((schema.required ?? []).length > (schema.maxProperties ?? 9)) continue
        await generate(JSON.stringify(schema), schema, 4, { max_tokens: 600 })
    }
})

// --- the other fields -----------------------------------------------------------------------------

const base = { prompt: 'The history of the city', max_tokens: 60, temperature: 1, seed: 7 }

await test('regex, choice, grammar and JSON by each name', async () => {
    const is_object = (text) => assert.equal(typeof JSON.parse(text), 'object')
    const schema = { type: 'object', properties: { a: { enum: ['x', 'y'] } }, required: ['a'] }
    const right = (text) => assert.ok(['x', 'y'].includes(JSON.parse(text).a), text)
    const regex = (text) => assert.match(text, /^[a-f]{3}-\d\d$/)
    const choice = (text) => assert.ok(['yes', 'no', 'perhaps'].includes(text), text)
    const grammar = 'root ::= pair ("," pair)*\npair ::= [a-c]+ "=" [0-9]{1,2}'
    const pairs = (text) => assert.match(text, /^[a-c]+=\d{1,2}(,[a-c]+=\d{1,2})*$/)
    const ask = [
        [{ response_format: { type: 'json_object' } }, is_object], [{ structured_outputs: { json_object: true } }, is_object],
        [{ response_format: { type: 'json_object', schema } }, right], [{ structured_outputs: { json: schema } }, right],
        [{ structured_outputs: { json: JSON.stringify(schema) } }, right], [{ guided_json: schema }, right], [{ json_schema: schema }, right],
        [{ structured_outputs: { regex: '[a-f]{3}-\\d\\d' } }, regex], [{ guided_regex: '[a-f]{3}-\\d\\d' }, regex],
        [{ structured_outputs: { choice: ['yes', 'no', 'perhaps'] } }, choice], [{ guided_choice: ['yes', 'no', 'perhaps'] }, choice],
        [{ structured_outputs: { grammar } }, pairs], [{ guided_grammar: grammar }, pairs], [{ grammar }, pairs],
        [{ grammar: 'start: /[a-c]+/ "=" num ("," /[a-c]+/ "=" num)*\nnum: /[0-9]{1,2}/' }, pairs],
    ]
    for (const [fields, check] of ask) {
        const r = await d.post(C, { ...base, max_tokens: 200, ...fields, n: 4 })
        for (const c of r.choices) if (c.finish_reason === 'stop') check(c.text)
        const chat = await d.post(CHAT, { messages: [{ role: 'user', content: 'Say it.' }], max_tokens: 200, seed: 3, ...fields })
        if (chat.choices[0].finish_reason === 'stop') check(chat.choices[0].message.content)
    }
    const tag = { type: 'structural_tag', triggers: ['the'], structures: [{ begin: 'the ', schema: { enum: [1, 22] }, end: '!' }] }
    const r = await d.post(C, { ...base, response_format: tag, n: 8 })
    let met = 0
    for (const c of r.choices)
        for (const part of c.text.split('the').slice(1)) {
            met++
            assert.ok(/^ (1|22)!/.test(part) || ' 1!'.startsWith(part) || ' 22!'.startsWith(part), c.text)
        }
    assert.ok(met > 3, 'triggers came')
    const format = { type: 'json_schema', name: 'x', schema }
    const response = await d.post('/v1/responses', { input: 'Say it.', max_output_tokens: 50, text: { format } })
    right(response.output.find((o) => o.type === 'message').content[0].text)
    for (const f of [schema, 'json']) {
        const ollama = await d.post('/api/generate', { prompt: 'Say it.', stream: false, format: f, options: { num_predict: 200, seed: 1 } })
        if (ollama.done_reason === 'stop') (f === 'json' ? is_object : right)(ollama.response)
    }
})

await test('streams, choices, seeds and log-probabilities', async () => {
    const ask = { ...base, n: 4, logprobs: 2, guided_json: schemas.properties, max_tokens: 40 }
    const one = await d.post(C, ask)
    const again = await d.post(C, ask)
    assert.deepEqual(again.choices, one.choices)
    const texts = ['', '', '', '']
    const r = await d.request('POST', C, { ...ask, stream: true })
    for (const line of r.text.split('\n').filter((l) => l.startsWith('data: {')))
        for (const c of JSON.parse(line.slice(6)).choices) texts[c.index] += c.text
    assert.deepEqual(texts, one.choices.map((c) => c.text))
    // of the model's own distribution: what the grammar forbids may be the likeliest
    const free = await d.post(C, { ...ask, guided_json: undefined, max_tokens: 1 })
    assert.deepEqual(Object.keys(one.choices[0].logprobs.top_logprobs[0]).slice(0, 2), Object.keys(free.choices[0].logprobs.top_logprobs[0]).slice(0, 2))
    const greedy = await d.post(C, { ...base, temperature: 0, guided_regex: '[0-9]{4}' })
    assert.match(greedy.choices[0].text, /^\d{4}$/)
    assert.equal(greedy.choices[0].finish_reason, 'stop')
})

await test('max_tokens, stop, min_tokens and bans beside a grammar', async () => {
    const cut_off = await d.post(C, { ...base, max_tokens: 3, guided_regex: '[a-z]{200}' })
    assert.equal(cut_off.choices[0].finish_reason, 'length')
    const stopped = await d.post(C, { ...base, guided_regex: 'abc;def', stop: ';' })
    assert.deepEqual([stopped.choices[0].text, stopped.choices[0].finish_reason, stopped.choices[0].stop_reason], ['abc', 'stop', ';'])
    const short = await d.post(C, { ...base, guided_regex: 'ab', min_tokens: 20 })
    assert.deepEqual([short.choices[0].text, short.choices[0].finish_reason], ['ab', 'stop'])
    const endless = await d.post(C, { ...base, guided_regex: '[ab]*', ignore_eos: true, max_tokens: 30 })
    assert.equal(endless.usage.completion_tokens, 30)
    const none = await d.request('POST', C, { ...base, guided_regex: 'Q', allowed_token_ids: [300, 301] })
    assert.equal(none.status, 400)
    assert.match(none.text, /no token is left/)
})

await test('mistakes name the field and the path', async () => {
    const wrong = [
        ['guided_regex', '(', /guided_regex: .*byte 1/], ['guided_regex', '(?=a)', /looks around/], ['guided_choice', [], /not empty/],
        ['guided_choice', 5, /list/], ['grammar', 'root ::= x', /never defined/], ['grammar', 5, /text/],
        ['guided_json', { properties: { a: { not: {} } } }, /#\/properties\/a\/not/], ['guided_json', 'x', /not JSON/],
        ['json_schema', { type: 'array', items: { uniqueItems: true } }, /#\/items\/uniqueItems/],
        ['structured_outputs', { json: {}, regex: 'a' }, /cannot be combined/], ['structured_outputs', { xml: 1 }, /xml/],
        ['response_format', { type: 'xml' }, /text, json_object/], ['response_format', { type: 'json_schema' }, /schema/],
        ['response_format', { type: 'json_schema', json_schema: { name: 'x', schema: { if: {} } } }, /response_format.json_schema.schema: #\/if/],
        ['guided_json', { type: 'string', minLength: 1e8 }, /too large/], ['guided_regex', 'a'.repeat(70000), /at most/],
        ['guided_regex', '((a{500}){500}){500}', /too large/],
    ]
    for (const [field, value, message] of wrong) {
        const began = Date.now()
        const r = await d.request('POST', C, { ...base, [field]: value })
        assert.equal(r.status, 400, `${field} ${JSON.stringify(value).slice(0, 80)}: ${r.text.slice(0, 200)}`)
        assert.match(r.json.error.message, message)
        assert.ok(r.json.error.param.startsWith(field), r.json.error.param)
        assert.ok(Date.now() - began < 10000)
    }
    const r = await d.request('POST', C, { ...base, guided_regex: 'a', grammar: 'root ::= "a"' })
    assert.equal(r.status, 400)
    assert.equal((await d.request('POST', C, { ...base, guided_regex: 'a', use_beam_search: true, n: 2 })).status, 400)
    assert.equal((await d.request('POST', C, { ...base, grammar: '', guided_regex: null })).status, 200)
    await d.idle()
})

await test('the same in a cache that is too small for all', async () => {
    const ask = (i) => ({ prompt: `Number ${i}: `, max_tokens: 120, temperature: 1.2, seed: i, guided_json: { type: 'array', items: { type: 'integer', maximum: 99, minimum: 0 }, minItems: 40, maxItems: 60 } })
    const alone = []
    for (let i = 0; i < 12; i++) alone.push((await d.post(C, ask(i))).choices[0].text)
    const small = await start({ set: { cache_size: '3M', max_num_seqs: 12, park_size: 0, max_model_len: 512 } })
    const together = await Promise.all(alone.map((_, i) => small.post(C, ask(i))))
    assert.deepEqual(together.map((r) => r.choices[0].text), alone)
    const preempted = metric_of(await small.metrics(), 'latentd_preemptions_total', 'recompute')
    note(`${preempted} preemptions`)
    assert.ok(preempted > 0)
    await small.stop()
})

await done()
