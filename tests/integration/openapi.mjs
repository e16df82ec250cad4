// tests/integration/openapi.mjs - /openapi.json against the daemon: every field of the table is taken or refused as it says,
// and random requests drawn from it never get a 5xx, a hang or an answer that is no answer. docs/api.md lists all of it.
//
// A failing request is printed; LATENT_TEST_SEED repeats a run. LATENT_REQUESTS: how many are drawn (5000).
import { assert, done, fs, note, path, random, slow, start, test, top_srcdir } from './harness.mjs'

const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 1e9)
const n_requests = Number(process.env.LATENT_REQUESTS || (slow ? 300 : 5000))
note(`seed ${seed} (LATENT_TEST_SEED)`)
const rng = random(seed)
const pick = (list) => list[Math.floor(rng() * list.length)]
const d = await start({ set: { max_n: 4, max_queue_requests: 1000, access_log: 'false' } })
const api = (await d.get('/openapi.json')).json

const operations = Object.entries(api.paths).flatMap(([url, methods]) => Object.entries(methods).map(([method, op]) => ({
    url, method: method.toUpperCase(), op, schema: op.requestBody?.content['application/json'].schema,
})))
const posts = operations.filter((o) => o.schema && !o.url.startsWith('/v1/cache'))
const options = api.components.schemas.OllamaOptions.properties

/** The least request that is answered. */
const least = {
    '/v1/completions': { prompt: 'a', max_tokens: 1 }, '/v1/chat/completions': { messages: [{ role: 'user', content: 'a' }], max_tokens: 1 },
    '/v1/responses': { input: 'a', max_output_tokens: 1 }, '/v1/responses/input_tokens': { input: 'a' }, '/v1/messages': { messages: [{ role: 'user', content: 'a' }], max_tokens: 1 },
    '/v1/messages/count_tokens': { messages: [{ role: 'user', content: 'a' }] }, '/v1/embeddings': { input: 'a' }, '/api/embed': { input: 'a' }, '/api/embeddings': { prompt: 'a' },
    '/api/generate': { prompt: 'a', options: { num_predict: 1 } }, '/api/chat': { messages: [{ role: 'user', content: 'a' }], options: { num_predict: 1 } },
    '/api/show': { model: 'latent-mini' }, '/tokenize': { prompt: 'a' }, '/v1/tokenize': { prompt: 'a' }, '/detokenize': { tokens: [5] }, '/v1/detokenize': { tokens: [5] },
    '/apply-template': { messages: [{ role: 'user', content: 'a' }] },
    '/completion': { prompt: 'a', n_predict: 1 }, '/completions': { prompt: 'a', n_predict: 1 }, '/infill': { input_prefix: 'a', input_suffix: '', n_predict: 1 },
}

await test('the document is whole', () => {
    assert.match(api.openapi, /^3\.1\./)
    for (const { url, op, schema } of operations) {
        assert.ok(op.summary && op.responses['200'], url)
        assert.equal((url.match(/\{/g) ?? []).length, op.parameters?.length ?? 0, url)
        for (const [name, field] of Object.entries(schema?.properties ?? {}))
            assert.ok(Object.keys(field).length, `${url}: ${name} says nothing`)
        for (const name of schema?.required ?? []) assert.ok(schema.properties[name], `${url}: ${name}`)
    }
    assert.deepEqual(posts.map((o) => o.url).sort(), Object.keys(least).sort(), 'every endpoint is known to this test')
})

/** The shipped model has no tokens for /infill: a request that is right in all else is told so. */
const accepted = (url, r) => url === '/infill' && /lacks tokens/.test(r.text) ? 200 : r.status

const has = (field, type) => [].concat(field.type ?? []).includes(type)

/** Values on both sides of what a field says of numbers, flags and words: [accepted, refused]. */
function edges(field) {
    const yes = [], no = []
    if (field.enum) {
        yes.push(...field.enum)
        no.push('nonsense-', { nonsense: 1 })
    } else if (has(field, 'integer') || has(field, 'number')) {
        const step = has(field, 'number') ? 1e-3 : 1
        if ('minimum' in field) yes.push(field.minimum), no.push(field.minimum - step)
        if ('exclusiveMinimum' in field) yes.push(field.exclusiveMinimum + step), no.push(field.exclusiveMinimum)
        if ('maximum' in field) yes.push(field.maximum), no.push(field.maximum + step)
        if (!has(field, 'string') && !has(field, 'array')) no.push('x', [], {})
        if (has(field, 'integer') && !has(field, 'number')) no.push(1.5)
    } else if (has(field, 'boolean') && [].concat(field.type).length === 2) {
        yes.push(true, false)
        no.push(1, 'true', [])
    } else {
        for (const [type, value] of [['string', 5.5], ['object', 5.5], ['array', 5.5]]) if (has(field, type)) no.push(value)
    }
    return [yes.filter((v) => v !== field.not?.const), [...no, ...('not' in field ? [field.not.const] : [])]]
}

/** Fields whose edges need company, or mean something else at once. */
const together = {
    top_logprobs: { logprobs: true }, min_tokens: null, max_tokens: null, max_output_tokens: null, max_completion_tokens: null, n: { temperature: 1 }, best_of: { n: 1 },
    thinking_token_budget: null, n_predict: null, logprobs: {}, model: null, prompt: null, dimensions: null, num_predict: {}, content: null, input: null,
    grammar: null, guided_grammar: null, guided_regex: null, guided_json: null, json_schema: null, guided_choice: null, response_format: null,
    structured_outputs: null, format: null, text: null,
    name: null, previous_response_id: null, background: { stream: true }, timeout: null, max_queue_time: null, add_generation_prompt: {}, prompt_logprobs: {}, id: null,
}

await test('every field is accepted and refused as its range says', async () => {
    let n = 0
    for (const { url, schema } of posts)
        for (const [name, field] of Object.entries(schema.properties)) {
            const ask = async (value, extra) => (n++, d.request('POST', url, { ...least[url], ...extra, [name]: value }))
            const what = (value, r) => `${url} ${name}: ${JSON.stringify(value)}: ${r.status} ${r.text.slice(0, 200)}`
            assert.ok([200, 400].includes((await ask(null)).status), `${url} ${name}: null`)
            if (field['x-latentd'] === 'ignored') {
                const r = await ask('auto')
                assert.equal(accepted(url, r), 200, what('auto', r))
                continue
            }
            if (field['x-latentd'] === 'unserved') {
                const r = await ask({ type: 'nonsense', x: 1 })
                assert.equal(r.status, 400, what('an object', r))
                assert.match(r.text, new RegExp(name))
                assert.equal(accepted(url, await ask(false)), 200, `${url} ${name}: false asks for nothing`)
                continue
            }
            const [yes, no] = edges(field)
            for (const value of no) {
                const r = await ask(value)
                assert.equal(r.status, 400, what(value, r))
                assert.ok(r.text.includes(name) || /prompt/.test(r.text), what(value, r))
            }
            if (together[name] === null) continue
            for (const value of yes) {
                const r = await ask(value, together[name])
                assert.equal(accepted(url, r), 200, what(value, r))
            }
        }
    for (const [name, field] of Object.entries(options)) {
        if (field['x-latentd'] || !edges(field)[1].length) continue
        for (const value of edges(field)[1]) {
            const r = await d.request('POST', '/api/generate', { prompt: 'a', options: { num_predict: 1, [name]: value } })
            assert.equal(r.status, 400, `options.${name}: ${JSON.stringify(value)}: ${r.text}`)
        }
    }
    note(`${n} requests`)
})

// --- random requests ------------------------------------------------------------------------------

const words = ['', 'a', 'the city', '\u0000', '👩‍👩‍👧', '"', '<|user|>', '{', 'x'.repeat(300), 'none', 'auto', 'user', 'text', 'latent-mini']
const numbers = [0, 1, -1, 2, 0.5, 1.5, 5, 100, 8191, 8192, 1e9, -1e9, 2 ** 31, 2 ** 53, 1e300]
function anything(depth = 0) {
    const k = Math.floor(rng() * (depth > 2 ? 4 : 6))
    if (k === 0) return pick(words)
    if (k === 1) return pick(numbers)
    if (k === 2) return rng() < 0.5
    if (k === 3) return null
    if (k === 4) return Array.from({ length: Math.floor(rng() * 4) }, () => anything(depth + 1))
    return Object.fromEntries(Array.from({ length: Math.floor(rng() * 4) }, () => [pick(['type', 'role', 'content', 'text', 'name', 'id', 'x']), anything(depth + 1)]))
}

function value_of(field, depth = 0) {
    if (rng() < 0.1) return anything()
    if (field.enum) return pick(field.enum)
    const type = pick([].concat(field.type ?? ['string', 'integer', 'object', 'array']))
    if (type === 'boolean') return rng() < 0.5
    if (type === 'null') return null
    if (type === 'integer' || type === 'number') {
        const lo = field.minimum ?? field.exclusiveMinimum ?? 0, hi = Math.min(field.maximum ?? lo + 40, lo + 40)
        const x = lo + rng() * (hi - lo)
        return type === 'integer' ? Math.round(x) : x
    }
    if (type === 'string') return pick(words)
    if (type === 'array') return Array.from({ length: Math.floor(rng() * 4) }, () => depth < 3 ? value_of(field.items ?? {}, depth + 1) : 'a')
    return Object.fromEntries(Object.entries(field.properties ?? {}).filter(() => rng() < 0.6).map(([k, f]) => [k, value_of(f, depth + 1)]))
}

function request_of({ url, schema }) {
    const names = Object.keys(schema.properties)
    const body = structuredClone(least[url])
    for (let i = Math.floor(rng() * 6); i >= 0; i--) {
        const name = pick(names)
        if (!['max_tokens', 'max_output_tokens', 'max_completion_tokens', 'n_predict', 'options', 'timeout', 'ignore_eos', 'model'].includes(name) || rng() < 0.1)
            body[name] = value_of(schema.properties[name])
    }
    // what is generated must end soon
    for (const name of ['max_tokens', 'max_output_tokens', 'max_completion_tokens', 'n_predict'])
        if (name in body && (body[name] === null || !(body[name] >= 0 && body[name] <= 8))) body[name] = 3
    return body
}

function check(url, body, r) {
    assert.ok(r.status < 500, `${r.status} ${r.text.slice(0, 300)}`)
    if (r.status !== 200) {
        assert.ok(r.json?.error, `no error in ${r.text.slice(0, 300)}`)
        return
    }
    if (/event-stream/.test(r.headers['content-type'])) {
        assert.ok(r.text.endsWith('\n\n'))
        for (const line of r.text.split('\n').filter((l) => l.startsWith('data: ') && l !== 'data: [DONE]')) JSON.parse(line.slice(6))
    } else if (/ndjson/.test(r.headers['content-type'])) {
        const lines = r.text.trim().split('\n').map((l) => JSON.parse(l))
        assert.ok(lines.at(-1).done || lines.at(-1).error)
    } else {
        assert.ok(r.json, r.text.slice(0, 300))
    }
}

await test(`${n_requests} random requests: no 5xx, no hang, answers are answers`, async () => {
    const statuses = {}
    let left = n_requests
    const worker = async () => {
        while (left-- > 0) {
            const o = pick(posts), body = request_of(o)
            let timer
            const late = new Promise((resolve, reject) => (timer = setTimeout(() => reject(new Error('a hang')), 60000)))
            try {
                const r = await Promise.race([d.request('POST', o.url, body), late])
                statuses[r.status] = (statuses[r.status] ?? 0) + 1
                check(o.url, body, r)
            } catch (e) {
                left = 0
                throw new assert.AssertionError({ message: `${o.url} ${JSON.stringify(body)}: ${e.message}` })
            } finally {
                clearTimeout(timer)
            }
        }
    }
    await Promise.all(Array.from({ length: 8 }, worker))
    note(JSON.stringify(statuses))
    assert.ok(statuses[200] > n_requests / 5, 'many are answered')
    await d.idle()
})

await test('docs/api.md lists every endpoint and every field', () => {
    const text = fs.readFileSync(path.join(top_srcdir, 'docs/api.md'), 'utf8')
    const missing = [], letters = {}
    const of = (url) => (url.startsWith('/v1/cache') ? '$' : { '/v1/completions': 'C', '/v1/chat/completions': 'H', '/v1/responses': 'R',
        '/v1/messages': 'M', '/completion': 'L', '/infill': 'L', '/api/generate': 'O', '/api/chat': 'O', '/api/show': 'O', '/v1/embeddings': 'E',
        '/api/embed': 'E', '/api/embeddings': 'E', '/tokenize': 'T', '/detokenize': 'T', '/apply-template': 'T' }[url])
    for (const { url, method, schema } of operations) {
        if (!text.includes(`\`${method} ${url}\``)) missing.push(`${method} ${url}`)
        for (const [name, field] of Object.entries(schema?.properties ?? {})) {
            const row = text.split('\n').find((line) => line.startsWith(`| \`${name}\` |`))
            if (of(url)) (letters[name] ??= new Set()).add(of(url))
            if (!row) missing.push(name)
            else if ('maximum' in field && has(field, 'number') && !row.includes(String(field.maximum))) missing.push(`${name}: ${field.maximum}`)
        }
    }
    for (const name of Object.keys(options)) if (!text.includes(`\`${name}\``)) missing.push(`options.${name}`)
    for (const [name, set] of Object.entries(letters)) {
        const told = text.match(new RegExp(`^\\| \`${name}\` \\| (\\S+) \\|`, 'm'))?.[1]
        if ([...(told ?? '')].sort().join('') !== [...set].sort().join('')) missing.push(`${name}: ${[...set].join('')}, not ${told}`)
    }
    assert.deepEqual([...new Set(missing)], [])
})

await done()
