// tests/integration/traces.mjs - spans as a collector gets them: their shape, parents, times, sampling; and collectors that
// are down, slow, refuse, hang up, or say too much. A stand-in for a collector checks every delivery against OTLP's JSON.
import { execFileSync, spawnSync } from 'node:child_process'
import crypto from 'node:crypto'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { assert, done, fs, path, scratch, skip_test, sleep, start, test, until } from './harness.mjs'

const dir = fs.mkdtempSync(path.join(scratch, 'traces-'))
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }))
const file = (name, text) => {
    fs.writeFileSync(path.join(dir, name), text, { mode: 0o600 })
    return path.join(dir, name)
}

// --- the collector ------------------------------------------------------------------------------

/** An AnyValue as what it is; anything that OTLP's JSON has not throws. */
function value_of(v) {
    const [[kind, x], ...more] = Object.entries(v)
    assert.equal(more.length, 0, JSON.stringify(v))
    if (kind === 'stringValue') return assert.equal(typeof x, 'string'), x
    if (kind === 'intValue') return assert.match(x, /^-?\d+$/), Number(x) // 64 bits: a string
    if (kind === 'doubleValue') return assert.equal(typeof x, 'number'), x
    if (kind === 'arrayValue') return x.values.map(value_of)
    assert.fail(`a value of kind ${kind}`)
}
function attributes_of(list) {
    const names = list.map((a) => (assert.deepEqual(Object.keys(a), ['key', 'value']), a.key))
    assert.equal(new Set(names).size, names.length, `twice: ${names}`)
    return Object.fromEntries(list.map((a) => [a.key, value_of(a.value)]))
}
const SPAN = ['traceId', 'spanId', 'parentSpanId', 'traceState', 'flags', 'name', 'kind', 'startTimeUnixNano', 'endTimeUnixNano',
    'attributes', 'status']
function spans_of(text) {
    const body = JSON.parse(text)
    assert.deepEqual(Object.keys(body), ['resourceSpans'])
    return body.resourceSpans.flatMap((rs) => {
        assert.deepEqual(Object.keys(rs), ['resource', 'scopeSpans'])
        const resource = attributes_of(rs.resource.attributes)
        assert.match(resource['service.instance.id'], /^[0-9a-f]{32}$/)
        return rs.scopeSpans.flatMap((ss) => {
            assert.equal(ss.scope.name, 'latentd')
            return ss.spans.map((s) => {
                for (const k of Object.keys(s)) assert.ok(SPAN.includes(k), k)
                assert.match(s.traceId, /^(?!0+$)[0-9a-f]{32}$/)
                assert.match(s.spanId, /^(?!0+$)[0-9a-f]{16}$/)
                if ('parentSpanId' in s) assert.match(s.parentSpanId, /^(?!0+$)[0-9a-f]{16}$/)
                for (const t of ['startTimeUnixNano', 'endTimeUnixNano']) assert.match(s[t], /^\d{19}$/)
                assert.ok(Number.isInteger(s.kind) && Number.isInteger(s.flags))
                assert.ok(s.status.code === undefined || s.status.code === 2)
                const [begin, end] = [BigInt(s.startTimeUnixNano), BigInt(s.endTimeUnixNano)]
                assert.ok(begin <= end, s.name)
                return { ...s, begin, end, at: attributes_of(s.attributes), resource }
            })
        })
    })
}

/** A collector whose `answer(req, res, text)` may be exchanged; it keeps all spans that it took. */
async function collector(options = {}) {
    const c = { spans: [], posts: 0, bytes: 0, seen: [], answer: null, error: null }
    const on = (req, res) => {
        const parts = []
        req.on('data', (p) => parts.push(p))
        req.on('end', () => {
            const text = Buffer.concat(parts).toString()
            c.posts++
            c.seen.push({ at: Date.now(), headers: req.headers, url: req.url, method: req.method })
            if (c.answer) return c.answer(req, res, text)
            try {
                c.spans.push(...spans_of(text))
            } catch (e) {
                c.error = e
            }
            c.bytes += text.length
            res.writeHead(200, { 'Content-Type': 'application/json' }).end('{"partialSuccess":{}}')
        })
    }
    c.server = options.key ? https.createServer(options, on) : http.createServer(on)
    c.server.keepAliveTimeout = 1000
    await new Promise((resolve) => c.server.listen(options.port ?? 0, '127.0.0.1', resolve))
    c.port = c.server.address().port
    c.url = `http://127.0.0.1:${c.port}/v1/traces`
    c.close = () => new Promise((resolve) => {
        c.server.closeAllConnections()
        c.server.close(resolve)
    })
    /** The spans of a request, by its answer's header. */
    c.trace = async (id) => {
        await until(`the spans of ${id}`, () => c.error || c.spans.some((s) => s.traceId === id))
        if (c.error) throw c.error
        return c.spans.filter((s) => s.traceId === id)
    }
    return c
}
const id_of = (res) => /^00-([0-9a-f]{32})-[0-9a-f]{16}-0[01]$/.exec(res.headers.traceresponse)[1]
const hex = (n) => crypto.randomBytes(n).toString('hex')
const ms = (s) => Number(s.end - s.begin) / 1e6

// --- what is told -------------------------------------------------------------------------------

const c = await collector()
const headers_file = file('headers', '# for the collector\nAuthorization: Basic c2VjcmV0LXdvcmQ=\n\nX-Scope-OrgID: seven \n')
const set = { otlp_service_name: 'ser"vice', otlp_headers_file: headers_file, otlp_timeout: '1s', model_aliases: 'nick' }
const d = await start({ set: { ...set, otlp_endpoint: c.url } })
const complete = (body, headers, on = d) => on.request('POST', '/v1/completions', { prompt: 'Once upon a time there was', max_tokens: 8,
    ignore_eos: true, ...body }, headers)

await test('a completion: four spans, in order, one below the other, with its figures', async () => {
    const before = BigInt(Date.now()) * 1000000n
    const res = await complete({ prompt: 'A secret-prompt-word at the beginning. '.repeat(20), model: 'nick', temperature: 0.5, max_tokens: 12 })
    const after = BigInt(Date.now() + 1) * 1000000n
    assert.equal(res.status, 200)
    const spans = await c.trace(id_of(res))
    assert.deepEqual(spans.map((s) => s.name), ['POST /v1/completions', 'queue', 'prefill', 'decode'])
    assert.equal(new Set(spans.map((s) => s.spanId)).size, 4)
    const [root, queue, prefill, decode] = spans
    assert.equal(root.kind, 2)
    assert.equal(root.parentSpanId, undefined)
    assert.ok(before <= root.begin && root.end <= after, 'in wall-clock time')
    for (const s of [queue, prefill, decode]) {
        assert.equal(s.kind, 1)
        assert.equal(s.parentSpanId, root.spanId)
        assert.ok(root.begin <= s.begin && s.end <= root.end, s.name)
    }
    assert.equal(queue.end, prefill.begin)
    assert.equal(prefill.end, decode.begin)
    const { usage } = res.json, at = root.at
    assert.equal(at['http.request.method'], 'POST')
    assert.equal(at['http.route'], '/v1/completions')
    assert.equal(at['url.path'], '/v1/completions')
    assert.equal(at['http.response.status_code'], 200)
    assert.equal(at['http.response.body.size'], Buffer.byteLength(res.text))
    assert.equal(at['client.address'], '127.0.0.1')
    assert.equal(at['gen_ai.operation.name'], 'text_completion')
    assert.equal(at['gen_ai.request.model'], 'nick')
    assert.match(at['gen_ai.response.model'], /latent-mini/i)
    assert.equal(at['gen_ai.request.id'], res.headers['x-request-id'])
    assert.equal(at['gen_ai.request.max_tokens'], 12)
    assert.equal(at['gen_ai.request.temperature'], 0.5)
    assert.equal(at['gen_ai.usage.input_tokens'], usage.prompt_tokens)
    assert.equal(at['gen_ai.usage.output_tokens'], 12)
    assert.equal(at['gen_ai.usage.cache_read.input_tokens'], 0)
    assert.deepEqual(at['gen_ai.response.finish_reasons'], ['length'])
    assert.equal(prefill.at['gen_ai.usage.input_tokens'], usage.prompt_tokens)
    assert.equal(decode.at['gen_ai.usage.output_tokens'], 12)
    const s = (name) => 1000 * at[`gen_ai.latency.${name}`]
    const close = (a, b, what) => assert.ok(Math.abs(a - b) < 1e-3, `${what}: ${a} ${b}`)
    close(s('time_in_queue'), ms(queue), 'queue')
    close(s('time_to_first_token'), ms(queue) + ms(prefill), 'first token')
    close(s('time_in_model_prefill'), ms(prefill), 'prefill')
    close(s('time_in_model_decode'), ms(decode), 'decode')
    close(s('time_in_model_inference'), ms(prefill) + ms(decode), 'inference')
    close(s('e2e'), ms(root), 'e2e')
    assert.ok(ms(decode) > 0 && s('e2e') >= s('time_in_queue') + s('time_in_model_inference'))
    assert.equal(root.resource['service.name'], 'ser"vice')
})

await test('what the cache had is told, and that nothing of a text is', async () => {
    const prompt = 'A secret-prompt-word at the beginning. '.repeat(20)
    const spans = await c.trace(id_of(await complete({ prompt })))
    assert.ok(spans[0].at['gen_ai.usage.cache_read.input_tokens'] > 50)
    assert.equal(spans[2].at['gen_ai.usage.cache_read.input_tokens'], spans[0].at['gen_ai.usage.cache_read.input_tokens'])
    assert.doesNotMatch(JSON.stringify(c.spans, (k, v) => typeof v === 'bigint' ? '' : v), /secret|c2VjcmV0/)
})

await test('header lines of the operator, and those of the protocol', () => {
    for (const { headers, url, method } of c.seen) {
        assert.equal(method, 'POST')
        assert.equal(url, '/v1/traces')
        assert.equal(headers['content-type'], 'application/json')
        assert.equal(headers.authorization, 'Basic c2VjcmV0LXdvcmQ=')
        assert.equal(headers['x-scope-orgid'], 'seven')
    }
    assert.doesNotMatch(fs.readFileSync(d.log_path, 'utf8'), /c2VjcmV0/)
})

await test('each kind of request has its route; health and metrics have no trace', async () => {
    const kinds = [
        ['POST', '/v1/chat/completions', { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 3 }, 'POST /v1/chat/completions', 'chat'],
        ['POST', '/v1/embeddings', { input: ['one', 'two words'] }, 'POST /v1/embeddings', 'embeddings'],
        ['POST', '/api/generate', { prompt: 'Hi', stream: false, options: { num_predict: 3 } }, 'POST /api/generate', 'text_completion'],
        ['GET', '/v1/models/nick', undefined, 'GET /v1/models/{id}'],
        ['GET', '/nothing/at/all?secret=1', undefined, 'GET'],
        ['POST', '/v1/completions', { prompt: 5, max_tokens: 'x' }, 'POST /v1/completions'],
    ]
    for (const [method, url, body, name, operation] of kinds) {
        const res = await d.request(method, url, body)
        const spans = await c.trace(id_of(res))
        assert.equal(spans[0].name, name)
        assert.equal(spans[0].at['http.response.status_code'], res.status)
        assert.equal(spans[0].at['gen_ai.operation.name'], operation)
        assert.equal(spans[0].status.code, undefined, 'only what is the server\'s fault is an error')
        if (operation === 'embeddings') {
            assert.equal(spans[0].at['gen_ai.usage.input_tokens'], res.json.usage.prompt_tokens)
            assert.deepEqual(spans.map((s) => s.name), [name, 'queue', 'prefill'])
        }
    }
    for (const url of ['/livez', '/readyz', '/health', '/metrics'])
        assert.equal((await d.get(url)).headers.traceresponse, undefined)
    assert.ok(c.spans.every((s) => !/livez|metrics|secret/.test(JSON.stringify(s.attributes))))
})

await test('choices, streams, and who leaves before the end', async () => {
    const several = await c.trace(id_of(await complete({ n: 3, max_tokens: 5 })))
    assert.equal(several[0].at['gen_ai.usage.output_tokens'], 15)
    assert.equal(several[0].at['gen_ai.request.n'], 3)
    const s = await d.stream('/v1/completions', { prompt: 'Stream', max_tokens: 30, ignore_eos: true }).ended
    const spans = await c.trace(id_of(s))
    assert.equal(spans.length, 4)
    assert.equal(spans[3].at['gen_ai.usage.output_tokens'], 30)
    const left = d.stream('/v1/completions', { prompt: 'Stream', max_tokens: 4000, ignore_eos: true })
    await until('tokens', () => left.events.length > 3)
    left.req.destroy()
    const [root] = await c.trace(id_of(left))
    assert.deepEqual(root.at['gen_ai.response.finish_reasons'], ['disconnect'])
    assert.ok(root.at['gen_ai.usage.output_tokens'] > 0)
})

// --- the client's part --------------------------------------------------------------------------

await test('traceparent: parent, its decision, tracestate; malformed ones are none', async () => {
    const [trace, parent] = [hex(16), hex(8)]
    const res = await complete({}, { traceparent: `00-${trace}-${parent}-01`, tracestate: 'a=1,b=2' })
    assert.equal(id_of(res), trace)
    const spans = await c.trace(trace)
    assert.equal(spans[0].parentSpanId, parent)
    assert.equal(spans[0].flags, 0x301)
    assert.equal(spans[1].flags, 0x101)
    assert.ok(spans.every((s) => s.traceState === 'a=1,b=2'))
    const unsampled = hex(16)
    const quiet = await complete({}, { traceparent: `00-${unsampled}-${parent}-00` })
    assert.match(quiet.headers.traceresponse, new RegExp(`^00-${unsampled}-[0-9a-f]{16}-00$`))
    const later = hex(16)
    assert.equal(id_of(await complete({}, { traceparent: `cc-${later}-${parent}-01-what the future brings` })), later)
    const x = hex(16)
    for (const bad of [`00-${x}-${parent}`, `00-${x}-${parent}-01-more`, `ff-${x}-${parent}-01`, `00-${x.toUpperCase()}A-${parent}-01`,
        `00-${'0'.repeat(32)}-${parent}-01`, `00-${x}-${'0'.repeat(16)}-01`, `00-${x}-${parent}-1`, `0-${x}-${parent}-01`, 'x', ' ',
        `00_${x}_${parent}_01`, `00-${x}-${parent}-zz`, [`00-${x}-${parent}-01`, `00-${x}-${parent}-01`], 'f'.repeat(4000)]) {
        const id = id_of(await complete({ max_tokens: 1 }, { traceparent: bad, tracestate: 'lost=1' }))
        assert.notEqual(id, x, String(bad))
        const [root] = await c.trace(id)
        assert.equal(root.parentSpanId, undefined)
        assert.equal(root.traceState, '')
    }
    const long = hex(16)
    await complete({ max_tokens: 1 }, { traceparent: `00-${long}-${parent}-01`, tracestate: 'a=' + 'x'.repeat(600) })
    assert.equal((await c.trace(long))[0].traceState, '')
    assert.ok(!c.spans.some((s) => s.traceId === unsampled))
})

await test('sampling: a part of them; who asks for a trace gets it', async () => {
    const some = await start({ set: { otlp_endpoint: c.url, otlp_sampling: '0.25' } })
    const ids = []
    for (let i = 0; i < 400; i++) ids.push(await some.get('/v1/models'))
    const taken = ids.filter((r) => r.headers.traceresponse.endsWith('-01'))
    assert.ok(taken.length > 60 && taken.length < 145, `${taken.length} of 400`) // 100, and five sigma
    const trace = hex(16)
    await some.request('GET', '/v1/models', undefined, { traceparent: `00-${trace}-${hex(8)}-01` })
    await c.trace(trace)
    await c.trace(id_of(taken.at(-1)))
    const got = new Set(c.spans.map((s) => s.traceId))
    for (const r of ids) assert.equal(got.has(id_of(r)), taken.includes(r))
    assert.equal((await some.stop()).code, 0)
    const none = await start({ set: { otlp_endpoint: c.url, otlp_sampling: '0' } })
    assert.match((await none.get('/v1/models')).headers.traceresponse, /-00$/)
    const off = await start({ set: { otlp_sampling: '1' } })
    assert.equal((await off.request('GET', '/v1/models', undefined, { traceparent: `00-${trace}-${hex(8)}-01` })).headers.traceresponse, undefined)
})

await test('a preempted request tells of it', async () => {
    const small = await start({ set: { otlp_endpoint: c.url, cache_size: '2M', park_size: '0', max_num_seqs: '8' } })
    const all = await Promise.all(Array.from({ length: 8 }, (_, i) =>
        complete({ prompt: `${i} words`.repeat(30), max_tokens: 400 }, {}, small)))
    const preempted = await small.metric('vllm:num_preemptions_total')
    assert.ok(preempted > 0, 'nothing was preempted: the test is of no use')
    let n = 0
    for (const r of all) {
        const [root] = await c.trace(id_of(r))
        n += root.at['latentd.preemptions']
        assert.equal(root.at['latentd.preemptions'] > 0, (root.at['latentd.time_preempted'] ?? 0) > 0)
        assert.ok((root.at['latentd.time_preempted'] ?? 0) <= root.at['gen_ai.latency.e2e'])
    }
    assert.equal(n, preempted)
})

// --- collectors in trouble ----------------------------------------------------------------------

const metrics = async (on) => {
    const m = await on.metrics()
    const of = (name, label = '') => [...m].find(([k]) => k.startsWith(name) && k.includes(label))[1]
    return {
        delivered: of('latentd_trace_spans_delivered_total'), failures: of('latentd_trace_failures_total'),
        queue: of('latentd_trace_spans_dropped_total', 'queue'), refused: of('latentd_trace_spans_dropped_total', 'refused'),
        bytes: of('latentd_trace_queue_bytes'),
    }
}
const free_port = () => new Promise((resolve) => {
    const s = net.createServer().listen(0, '127.0.0.1', () => {
        const { port } = s.address()
        s.close(() => resolve(port))
    })
})

await test('a collector that is down: requests do not wait, one line is logged, and what waited comes later', async () => {
    const port = await free_port()
    const lone = await start({ set: { otlp_endpoint: `http://127.0.0.1:${port}/v1/traces` } })
    const ids = []
    for (let i = 0; i < 30; i++) ids.push(id_of(await lone.get('/v1/models')))
    await until('two failures', async () => (await metrics(lone)).failures >= 2)
    assert.equal((await metrics(lone)).queue, 0)
    assert.equal(fs.readFileSync(lone.log_path, 'utf8').match(/takes no spans/g).length, 1)
    assert.match(fs.readFileSync(lone.log_path, 'utf8'), /takes no spans: cannot connect: connection refused/)
    const late = await collector({ port })
    for (const id of ids) await late.trace(id)
    await until('counted', async () => (await metrics(lone)).delivered === 30)
    assert.equal(late.spans.length, 30, 'each once')
    assert.equal((await metrics(lone)).bytes, 0)
    assert.match(fs.readFileSync(lone.log_path, 'utf8'), /takes spans again/)
    await late.close()
})

const kinds = {
    '503 with Retry-After': [(req, res) => res.writeHead(503, { 'Retry-After': '1' }).end('no'), /answers with 503/],
    '429': [(req, res) => res.writeHead(429).end(), /answers with 429/],
    'no answer at all': [() => {}, /no answer in time/],
    'the connection ends': [(req, res) => res.socket.destroy(), /ended before the answer/],
    'half an answer': [(req, res) => res.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour'), /ended before the answer/],
    'no HTTP': [(req, res) => res.socket.end('220 smtp ready\r\n'), /not valid HTTP/],
    'a huge answer': [(req, res) => res.writeHead(200).end('x'.repeat(1 << 20)), /too large/],
    'an endless header': [(req, res) => res.socket.write('HTTP/1.1 200 OK\r\nX: ' + 'x'.repeat(1 << 20)), /too large/],
}
for (const [name, [answer, line]] of Object.entries(kinds))
    await test(`${name}: it comes again`, async () => {
        const bad = await collector()
        bad.answer = answer
        const on = await start({ set: { otlp_endpoint: bad.url, otlp_timeout: '300ms' } })
        const id = id_of(await on.get('/v1/models'))
        await until('a failure', async () => (await metrics(on)).failures >= 1)
        assert.match(fs.readFileSync(on.log_path, 'utf8'), line)
        const began = process.hrtime.bigint()
        assert.equal((await complete({ max_tokens: 2 }, {}, on)).status, 200)
        assert.ok(Number(process.hrtime.bigint() - began) / 1e6 < 10000)
        bad.answer = null
        await bad.trace(id)
        await until('delivered', async () => (await metrics(on)).delivered >= 1)
        assert.equal((await metrics(on)).refused, 0)
        await bad.close()
        await on.kill()
    })

await test('Retry-After is waited for; other refusals are dropped and counted', async () => {
    const bad = await collector()
    bad.answer = (req, res) => res.writeHead(503, { 'Retry-After': '3' }).end()
    const on = await start({ set: { otlp_endpoint: bad.url } })
    await on.get('/v1/models')
    await until('the first', () => bad.posts === 1)
    bad.answer = (req, res) => res.writeHead(400).end('{"message":"no"}')
    await until('the second', () => bad.posts === 2)
    assert.ok(bad.seen[1].at - bad.seen[0].at >= 2900, `${bad.seen[1].at - bad.seen[0].at} ms`)
    await until('refused', async () => (await metrics(on)).refused === 1)
    bad.answer = null
    await bad.trace(id_of(await on.get('/v1/models')))
    await bad.close()
})

await test('a part that is rejected is counted and told, and nothing comes again', async () => {
    const bad = await collector()
    const on = await start({ set: { otlp_endpoint: bad.url } })
    const answers = ['{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too\\u0000old\\n"}}', '{"partialSuccess":{"rejectedSpans":7e300}}',
        '{"partialSuccess":{"rejectedSpans":-3}}', '{"partialSuccess":{"rejectedSpans":"x"}}', '{"partialSuccess":7}', '[', '']
    for (const [i, text] of answers.entries()) {
        bad.answer = (req, res) => res.writeHead(200).end(text)
        await on.get('/v1/models')
        await until('an answer', async () => {
            const m = await metrics(on)
            return m.delivered + m.refused === i + 1
        })
    }
    const m = await metrics(on)
    assert.deepEqual([m.refused, m.delivered, m.failures, bad.posts], [2, 5, 0, 7])
    assert.match(fs.readFileSync(on.log_path, 'utf8'), /rejects 1 of 1 spans: too/)
    await bad.close()
    await on.kill()
})

await test('the queue has a bound; what finds no room is dropped and counted; nobody waits', async () => {
    const bad = await collector()
    bad.answer = () => {}
    const on = await start({ set: { otlp_endpoint: bad.url, otlp_queue_size: '64K', otlp_timeout: '20s' } })
    for (let i = 0; i < 200; i++) await on.get('/v1/models')
    const m = await metrics(on)
    assert.ok(m.bytes <= 65536 && m.bytes > 60000, `${m.bytes}`)
    assert.ok(m.queue > 50 && m.queue < 200, `${m.queue}`)
    await bad.close()
})

await test('a drain delivers what waits, within its time', async () => {
    const on = await start({ set: { otlp_endpoint: c.url } })
    const s = on.stream('/v1/completions', { prompt: 'Stream', max_tokens: 60, ignore_eos: true })
    await until('tokens', () => s.events.length > 2)
    assert.equal((await on.stop()).code, 0)
    await s.ended
    assert.ok(c.spans.some((x) => x.traceId === id_of(s) && x.name === 'decode'))
    for (const answer of [() => {}, (req, res) => res.writeHead(503).end()]) {
        const bad = await collector()
        bad.answer = answer
        const hung = await start({ set: { otlp_endpoint: bad.url, otlp_timeout: '1s' } })
        await hung.get('/v1/models')
        const began = Date.now()
        const ended = hung.stop()
        await until('it ends', () => fs.readFileSync(hung.log_path, 'utf8').includes('everything is answered: ending'))
        hung.child.kill('SIGHUP') // somebody rotates the logs
        assert.deepEqual(await ended, { code: 0, signal: null })
        assert.ok(Date.now() - began < 20000, `${Date.now() - began} ms`)
        assert.match(fs.readFileSync(hung.log_path, 'utf8'), /1 spans are dropped/)
        assert.ok(bad.posts >= 1)
        await bad.close()
    }
})

// --- configuration ------------------------------------------------------------------------------

await test('SIGHUP: another endpoint, none, and mistakes', async () => {
    const conf = file('conf', `otlp_endpoint = ${c.url}\n`)
    const on = await start({ args: ['--config', conf] })
    const log = () => fs.readFileSync(on.log_path, 'utf8')
    const reload = async (text) => {
        fs.writeFileSync(conf, text)
        const from = log().length
        on.child.kill('SIGHUP')
        await until('the reload is over', () => / done: |everything stays/.test(log().slice(from)))
        return log().slice(from)
    }
    await c.trace(id_of(await on.get('/v1/models')))
    const second = await collector()
    assert.match(await reload(`otlp_endpoint = ${second.url}\n`), /otlp_endpoint has changed/)
    await second.trace(id_of(await on.get('/v1/models')))
    for (const [line, want] of [
        ['otlp_endpoint = ftp://x/', /otlp_endpoint: .* does not begin with http/], ['otlp_endpoint = http://', /names no host/],
        ['otlp_endpoint = http://h:0/', /a port is a number/], ['otlp_endpoint = http://h:99999/', /a port is a number/],
        ['otlp_endpoint = http://u:p@h/', /credentials go into headers/], ['otlp_endpoint = http://[::1/', /does not end/],
        ['otlp_endpoint = "http://h/a b"', /neither blanks/], [`otlp_endpoint = ${c.url}\notlp_sampling = 1.5`, /otlp_sampling .* 0 to 1/],
        [`otlp_endpoint = ${c.url}\notlp_headers_file = ${dir}/none`, /otlp_headers_file .*: No such file/],
        [`otlp_endpoint = ${c.url}\notlp_headers_file = ${file('bad', 'A: 1\nsecret\n')}`, /line 2: this is not `Name: value`/],
        [`otlp_endpoint = ${c.url}\notlp_headers_file = ${file('bad2', 'Content-Length: 1\n')}`, /set by the exporter/],
        [`otlp_endpoint = https://h/\notlp_ca = ${dir}/none`, /otlp_ca: /]])
        assert.match(await reload(line + '\n'), want)
    await second.trace(id_of(await on.get('/v1/models'))) // the old one stays
    await reload('')
    assert.equal((await on.get('/v1/models')).headers.traceresponse, undefined)
    await second.close()
})

await test('SIGHUP does not send again what is on its way', async () => {
    const late = await collector()
    const on = await start({ set: { otlp_endpoint: late.url } })
    let answer
    late.answer = (req, res) => { answer = () => res.writeHead(200, { 'Content-Type': 'application/json' }).end('{}') }
    await on.get('/v1/models')
    await until('a delivery', () => late.posts === 1)
    on.child.kill('SIGHUP') // somebody rotates the logs
    await until('the reload is over', () => / done: /.test(fs.readFileSync(on.log_path, 'utf8')))
    await on.get('/v1/models') // for the next delivery
    await sleep(1500)
    assert.equal(late.posts, 1)
    late.answer = null
    answer()
    await until('both are delivered', async () => (await metrics(on)).delivered === 2)
    assert.deepEqual([late.posts, late.spans.length, (await metrics(on)).failures], [2, 1, 0])
    await late.close()
    await on.kill()
})

if (spawnSync('openssl', ['version']).status !== 0) {
    skip_test('https', 'no openssl program')
} else {
    await test('https: authorities of our own are believed, no others, and no other names', async () => {
        const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' })
        const make = (name, subject) => openssl('req', '-x509', '-days', '2', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
            '-keyout', `${name}.key`, '-out', `${name}.pem`, '-subj', '/CN=x', '-addext', `subjectAltName=${subject}`)
        make('good', 'IP:127.0.0.1,DNS:localhost')
        make('wrong', 'DNS:elsewhere')
        const of = (name) => ({ key: fs.readFileSync(path.join(dir, name + '.key')), cert: fs.readFileSync(path.join(dir, name + '.pem')) })
        const [good, wrong] = [await collector(of('good')), await collector(of('wrong'))]
        for (const host of ['127.0.0.1', 'localhost']) {
            const on = await start({ set: { otlp_endpoint: `https://${host}:${good.port}/v1/traces`, otlp_ca: path.join(dir, 'good.pem') } })
            await good.trace(id_of(await on.get('/v1/models')))
            for (let i = 0; i < 600; i++) await on.get('/v1/models') // more than one record
            assert.equal((await on.stop()).code, 0)
            assert.equal(good.spans.length, 601)
            good.spans.length = 0
        }
        for (const [to, ca, want] of [[good, '', /certificate verify failed/], [wrong, path.join(dir, 'wrong.pem'), /mismatch/]]) {
            const on = await start({ set: { otlp_endpoint: `https://127.0.0.1:${to.port}/v1/traces`, otlp_ca: ca } })
            await on.get('/v1/models')
            await until('a failure', async () => (await metrics(on)).failures >= 1)
            assert.match(fs.readFileSync(on.log_path, 'utf8'), want)
            await on.kill()
        }
        assert.equal(good.spans.length + wrong.spans.length + wrong.posts, 0)
        await Promise.all([good.close(), wrong.close()])
    })
}

assert.equal(c.error, null)
await c.close()
await done()
