// tests/faults/faults.mjs - each allocation fails in turn (and threads, reads, writes, accepts) while the daemon starts and
// answers. It must not end but with an exit status and a sentence at the start, a request gets its right answer, or an
// error of the server's own (never the client's), or no answer; the next request gets the right one; nothing leaks.
//
// FAULTS=all tries every call (`make check-faults`, minutes); else every so-many-th, another one each time it is run.
import { execFileSync } from 'node:child_process'
import http from 'node:http'
import net from 'node:net'
import {
    assert, done, fs, model, note, path, scratch, skip_all, slow, spawn, start, test, top_builddir, top_srcdir, until,
} from '../integration/harness.mjs'
import { ask, set_patience, set_tls } from '../load/client.mjs'

set_patience(15000)
const all = process.env.FAULTS === 'all'
const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 1000)
const per_scene = all ? Infinity : 40
const KIND = { alloc: 1, thread: 2, read: 4, write: 8, open: 16, accept: 32 }

if (slow) skip_all('a sanitizer has its own allocator')
const library = path.join(scratch, `faults.${process.pid}.so`)
const control_file = path.join(scratch, `faults.${process.pid}.ctl`)
try {
    execFileSync('sh', ['-c', `${process.env.CC || 'cc'} -shared -fPIC -O2 -o '${library}' '${top_srcdir}/tests/faults/preload.c'`], { stdio: 'pipe' })
} catch (e) {
    skip_all(`tests/faults/preload.c does not compile here: ${String(e.stderr).split('\n')[0]}`)
}
fs.writeFileSync(control_file, Buffer.alloc(4096))
process.on('exit', () => [library, control_file].forEach((f) => fs.rmSync(f, { force: true })))

/** The page that the daemon has mapped: numbers of 64 bits. */
const fd = fs.openSync(control_file, 'r+')
const WORD = { countdown: 0, kinds: 1, sticky: 2, seen: 3, failed: 4, blocks: 5 }
const put = (name, value) => {
    const b = Buffer.alloc(8)
    b.writeBigInt64LE(BigInt(value))
    fs.writeSync(fd, b, 0, 8, 8 * WORD[name])
}
const get = (name) => {
    const b = Buffer.alloc(8)
    fs.readSync(fd, b, 0, 8, 8 * WORD[name])
    return Number(b.readBigInt64LE())
}
function arm(kind, n, sticky = 0) {
    put('countdown', 0)
    put('seen', 0)
    put('failed', 0)
    put('sticky', sticky)
    put('kinds', KIND[kind])
    put('countdown', n)
}
const disarm = () => put('countdown', 0)
const env = { LD_PRELOAD: library, FAULT_CONTROL: control_file }

/** At most `per_scene` numbers of 1 .. n, evenly, beginning anywhere. */
function turns(n, most = Infinity) {
    const step = Math.max(1, Math.ceil(n / Math.min(most, per_scene)))
    const list = []
    for (let i = 1 + (seed % step); i <= n; i += step) list.push(i)
    return list
}

/** What of an answer does not depend on when it was asked. */
const same = (text) => text.replace(/"(id|item_id|response_id|created|created_at|completed_at|[a-z_]*duration|timings?|modified_at|cached_tokens|cache_read_input_tokens|input_tokens|request_id|expires_at)":("[^"]*"|[\d.]+|null)/g, '"$1":0')
    .replace(/^id: \d+\n/gm, '') // an event for which there is no memory goes out without its number
    .replace(/nonce="[0-9a-f]*"/g, '')
    .replace(/"(prompt|predicted)_[a-z_]*(ms|second)":[\d.]+/g, '""')

function equal(got, want, what) {
    const a = same(got), b = same(want)
    let at = 0
    while (at < a.length && a[at] === b[at]) at++
    if (a !== b) assert.fail(`${what}: at ${at}: ...${a.slice(Math.max(0, at - 100), at + 100)}\ninstead of ...${b.slice(Math.max(0, at - 100), at + 100)}`)
}

// --- while it answers ------------------------------------------------------------------------------------

const words = 'The old lighthouse keeper wrote a long letter about ships and the weather of that winter. '
const common = { temperature: 0, seed: 3 }
const requests = [
    ['completion', 'POST', '/v1/completions', { ...common, prompt: words, max_tokens: 6, logprobs: 2, n: 2, stop: ['zzz'], logit_bias: { 300: -1 } }],
    ['stream', 'POST', '/v1/completions', { ...common, prompt: words, max_tokens: 6, stream: true, stream_options: { include_usage: true } }],
    ['resumable', 'POST', '/v1/completions', { ...common, prompt: words, max_tokens: 6, stream: true, resumable: true }],
    ['chat', 'POST', '/v1/chat/completions', { ...common, messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: words }], max_tokens: 6, logprobs: true, top_logprobs: 2 }],
    ['chat stream', 'POST', '/v1/chat/completions', { ...common, messages: [{ role: 'user', content: words }], max_tokens: 6, stream: true }],
    ['structured', 'POST', '/v1/chat/completions', { ...common, messages: [{ role: 'user', content: words }], max_tokens: 40,
        response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'object', properties: { a: { enum: ['b', 'c'] } }, required: ['a'], additionalProperties: false } } } }],
    ['pattern', 'POST', '/v1/completions', { ...common, prompt: words, max_tokens: 20, structured_outputs: { regex: '(yes|no), [a-z]{3,8}[.]' } }],
    ['responses', 'POST', '/v1/responses', { ...common, input: words, max_output_tokens: 6 }],
    ['messages', 'POST', '/v1/messages', { temperature: 0, model: 'latent-mini', messages: [{ role: 'user', content: words }], max_tokens: 6, stream: true }],
    ['embeddings', 'POST', '/v1/embeddings', { input: [words, 'b'] }],
    ['ollama', 'POST', '/api/chat', { model: 'latent-mini', messages: [{ role: 'user', content: words }], stream: true, options: { num_predict: 6, temperature: 0 } }],
    ['tokenize', 'POST', '/tokenize', { prompt: words }],
    ['long text', 'POST', '/v1/completions', { ...common, prompt: words.repeat(60), max_tokens: 2 }],
    ['mistake', 'POST', '/v1/completions', { prompt: words, max_tokens: -2 }],
    ['metrics', 'GET', '/metrics'],
    ['models', 'GET', '/v1/models'],
    ['openapi', 'GET', '/openapi.json'],
    ['page', 'GET', '/'],
]

async function settled(d) {
    await d.idle()
    await until('connections have gone', async () => await d.metric('http_connections') <= 1)
    await until('no stream is kept', async () => await d.metric('latentd_resumable_streams') === 0)
    await until('responses are kept', async () => await d.metric('latentd_response_store_queue') === 0)
    await until('spans are delivered', async () => await d.metric('latentd_trace_queue_bytes') === 0, 60000)
    await d.get('/livez') // what was freed at the end of the last turn of the loop
    return get('blocks')
}

/** d is right about it, without faults. */
async function right(d, r, oracle) {
    const a = await ask(d.port, r[1], r[2], r[3])
    assert.equal(a.status, oracle.status, `${a.status} ${a.error} ${a.text.slice(0, 300)}`)
    if (r[0] !== 'metrics') equal(a.text, oracle.text, 'afterwards')
}

async function scene(d, r) {
    const [name, method, url, body] = r
    disarm()
    for (let i = 0; i < 3; i++) await ask(d.port, method, url, body)
    const oracle = await ask(d.port, method, url, body)
    assert.ok([200, 400].includes(oracle.status), `${oracle.status} ${oracle.text}`)
    arm('alloc', 0)
    await right(d, r, oracle)
    const n = get('seen')
    const before = await settled(d)
    const seen = { right: 0, error: 0, none: 0 }
    const suspects = []
    const list = turns(n)
    const check = async (at) => {
        arm('alloc', at)
        const a = await ask(d.port, method, url, body)
        disarm()
        assert.equal(d.exit, undefined, `allocation ${at} of ${n}: the daemon ended: ${JSON.stringify(d.exit)}`)
        assert.notEqual(a.status, -1, `allocation ${at} of ${n}: no answer and no end`)
        if (a.status === 0) seen.none++
        else if (a.status >= 500) {
            seen.error++
            assert.ok(a.json?.error || a.json?.status || a.text === '', `allocation ${at}: ${a.status} ${a.text}`)
        } else {
            assert.equal(a.status, oracle.status, `allocation ${at} of ${n}: ${a.status} ${a.text.slice(0, 300)}`)
            // a stream that had begun tells its error as an event
            const broken = /"error":\s*[{"]|event: error|"type":"response.failed"/.test(a.text) && oracle.status === 200
            if (!broken && name !== 'metrics') equal(a.text, oracle.text, `allocation ${at} of ${n}`)
            broken ? seen.error++ : seen.right++
        }
        await right(d, r, oracle)
    }
    let blocks = before
    for (const at of list) {
        await check(at)
        const now = await settled(d)
        if (now > blocks) suspects.push([at, now - blocks])
        blocks = now
    }
    // some blocks more may be a table or a stock that grew, and one is full in time: what grows in round after round is a leak
    const leaks = []
    for (const [at] of suspects.slice(0, 60)) {
        const rounds = []
        do {
            const from = await settled(d)
            for (let i = 0; i < 4; i++) await check(at)
            rounds.push(await settled(d) - from)
        } while (rounds.at(-1) >= 4 && rounds.length < 10)
        if (rounds.length === 10) leaks.push(`allocation ${at}: blocks in rounds of 4 tries: ${rounds}`)
    }
    note(`${name}: ${n} allocations, ${list.length} failed in turn: ${seen.right} right, ${seen.error} errors, ${seen.none} without an answer; blocks ${before} to ${blocks}`)
    assert.deepEqual(leaks, [])
}

const only = process.env.FAULTS_ONLY
const d = await start({ env, set: { access_log: false, response_store_entries: 8, stream_kept: 0, threads: 1 } })
for (const r of requests)
    if (!only || only === r[0]) await test(`allocations fail: ${r[0]}`, () => scene(d, r))

await test('accept fails for want of descriptors: room is made, it is told once a second, and all are served again', async () => {
    const idle = Array.from({ length: 20 }, () => net.connect(d.port, '127.0.0.1').on('error', () => {}))
    await until('they are there', async () => await d.metric('http_connections') > 20)
    arm('accept', 1, 1000)
    const asked = Array.from({ length: 10 }, () => ask(d.port, 'GET', '/v1/models'))
    await until('accepts have failed', () => get('failed') > 1000)
    disarm()
    for (const a of await Promise.all(asked)) assert.ok([0, 200].includes(a.status), `${a.status} ${a.error}`)
    assert.equal((await ask(d.port, 'GET', '/v1/models')).status, 200)
    assert.ok(await d.metric('latentd_connections_displaced_total') >= 20)
    assert.ok(fs.readFileSync(d.log_path, 'utf8').match(/accept: /g).length <= 3)
    for (const s of idle) s.destroy()
})
await test('a clean end, after all that', async () => {
    disarm()
    assert.deepEqual(await d.stop(), { code: 0, signal: null })
})

// --- traces ------------------------------------------------------------------------------------------------

/** Takes everything. */
async function collector() {
    const c = { ids: new Set(), server: http.createServer((req, res) => {
        let text = ''
        req.on('data', (part) => (text += part)).on('end', () => {
            for (const [, id] of text.matchAll(/"traceId":"([0-9a-f]{32})"/g)) c.ids.add(id)
            res.end('{}')
        })
    }) }
    await new Promise((resolve) => c.server.listen(0, '127.0.0.1', resolve))
    c.url = `http://127.0.0.1:${c.server.address().port}/v1/traces`
    return c
}
const col = await collector()
if (!only || only === 'traces') await test('allocations fail: a request that is traced, and the delivery', async () => {
    const t = await start({ env, set: { otlp_endpoint: col.url, access_log: false, threads: 1 } })
    const body = { prompt: words, max_tokens: 2, temperature: 0 }
    let n = 0
    /** A request with a trace of its own, and its spans at the collector; or the fault has come before that. */
    const traced = async () => {
        const id = String(++n).padStart(32, '5')
        const a = await ask(t.port, 'POST', '/v1/completions', body, { traceparent: `00-${id}-${'6'.repeat(16)}-01` })
        await until(`trace ${n}, or the fault`, () => col.ids.has(id) || get('failed') > 0)
        return a
    }
    arm('alloc', 0)
    const want = await traced()
    assert.equal(want.status, 200)
    const count = get('seen'), list = turns(count, all ? 120 : 12), seen = { right: 0, error: 0, none: 0 }
    for (const at of list) {
        arm('alloc', at)
        const a = await traced()
        arm('alloc', 0)
        assert.equal(t.exit, undefined, `allocation ${at} of ${count}: the daemon ended: ${JSON.stringify(t.exit)}`)
        if (a.status === 200) equal(a.text, want.text, `allocation ${at} of ${count}`)
        else assert.ok(a.status === 0 || a.status >= 500, `allocation ${at}: ${a.status} ${a.text}`)
        seen[a.status === 200 ? 'right' : a.status ? 'error' : 'none']++
        equal((await traced()).text, want.text, 'afterwards') // and delivered
    }
    note(`traces: ${count} allocations, ${list.length} failed in turn: ${seen.right} right, ${seen.error} errors, ${seen.none} without an answer`)
    assert.deepEqual(await t.stop(), { code: 0, signal: null })
})

// --- TLS, keys and a reload ------------------------------------------------------------------------------

const own = (name) => path.join(scratch, `faults.${process.pid}.${name}`)
const made = ['conf', 'keys', 'cert', 'key', 'audit'].map(own)
process.on('exit', () => made.forEach((f) => fs.rmSync(f, { force: true })))
if (!only || only === 'reload') await test('allocations fail: TLS with keys and an audit log', async () => {
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=x', '-days', '2',
        '-keyout', own('key'), '-out', own('cert')], { stdio: 'pipe' })
    const secret = 'a-key-of-the-faults-0123456789'
    const hashed = execFileSync(path.join(top_builddir, 'latentd'), ['--hash-key'], { input: secret, encoding: 'utf8' }).trim()
    fs.writeFileSync(own('keys'), `one ${hashed} concurrent=8 requests_per_minute=1000000\n`)
    let n = 0
    const conf = () => fs.writeFileSync(own('conf'), `model_aliases = alias-${++n}\ncors_origins = http://a${n}.example\n`)
    conf()
    const t = await start({ env, args: ['--config', own('conf'), '--listen', 'tls:127.0.0.1:0'],
        set: { tls_cert: own('cert'), tls_key: own('key'), api_keys_file: own('keys'), otlp_endpoint: col.url, metrics_open: true, audit_log_file: own('audit'), access_log: false } })
    const port = Number(/listening on 127\.0\.0\.1:(\d+) with TLS/.exec(fs.readFileSync(t.log_path, 'utf8'))[1])
    const headers = { Authorization: `Bearer ${secret}` }
    const body = { prompt: words, max_tokens: 4, temperature: 0 }
    const over_tls = async () => {
        set_tls(true)
        try {
            return await ask(port, 'POST', '/v1/completions', body, headers)
        } finally {
            set_tls(false)
        }
    }
    const want = await over_tls()
    assert.equal(want.status, 200, want.text)
    arm('alloc', 0)
    await over_tls()
    const count = get('seen'), list = turns(count), seen = { right: 0, error: 0, none: 0 }
    const before = await settled(t)
    for (const at of list) {
        arm('alloc', at)
        const a = await over_tls()
        disarm()
        assert.equal(t.exit, undefined, `allocation ${at} of ${count}: the daemon ended: ${JSON.stringify(t.exit)}`)
        assert.notEqual(a.status, -1, `allocation ${at}: no answer and no end`)
        if (a.status === 200) equal(a.text, want.text, `allocation ${at} of ${count}`)
        assert.ok(a.status === 200 || a.status === 0 || a.status >= 500, `allocation ${at}: ${a.status} ${a.text}`)
        seen[a.status === 200 ? 'right' : a.status ? 'error' : 'none']++
        equal((await over_tls()).text, want.text, 'afterwards')
    }
    const after = await settled(t)
    note(`TLS: ${count} allocations, ${list.length} failed in turn: ${seen.right} right, ${seen.error} errors, ${seen.none} without an answer; blocks ${before} to ${after}`)
    assert.ok(after - before < 0.5 * list.length + 40, `${after - before} blocks more`)

    const reload = async () => {
        const from = fs.readFileSync(t.log_path, 'utf8').length
        t.child.kill('SIGHUP')
        return until('it reloads', () => /reload: (done|.*stays|.*stay)/.test(fs.readFileSync(t.log_path, 'utf8').slice(from)) || t.exit)
    }
    const served = async (name) => (await ask(t.port, 'POST', '/v1/completions', { ...body, model: name }, headers)).status
    conf()
    arm('alloc', 0)
    await reload()
    const in_reload = get('seen')
    const reloads = turns(in_reload, 600)
    const blocks = await settled(t)
    for (const at of reloads) {
        conf()
        arm('alloc', at)
        await reload()
        disarm()
        assert.equal(t.exit, undefined, `reload, allocation ${at} of ${in_reload}: ${JSON.stringify(t.exit)}`)
        // all of the old or all of the new
        const got = [await served(`alias-${n - 1}`), await served(`alias-${n}`)]
        assert.ok(got.includes(200) && got.includes(404), `reload, allocation ${at}: ${got}`)
        await reload()
        assert.equal(await served(`alias-${n}`), 200, `after allocation ${at}`)
    }
    const now = await settled(t)
    note(`reload: ${in_reload} allocations, ${reloads.length} failed in turn; blocks ${blocks} to ${now}`)
    assert.ok(now - blocks < 0.5 * reloads.length + 20, `${now - blocks} blocks more`)
    assert.deepEqual(await t.stop(), { code: 0, signal: null })
})

// --- many at once, in a cache that is too small -------------------------------------------------------------

if (!only || only === 'many') await test('allocations fail: twelve requests at once, preempted, in a small cache', async () => {
    const t = await start({ env, set: { cache_size: '2560K', page_tokens: 16, max_num_seqs: 12, park_size: '256K', access_log: false } })
    const bodies = Array.from({ length: 12 }, (_, i) => ({ prompt: words.repeat(2 + i % 3) + i, max_tokens: 60 + 5 * i, temperature: i % 2, seed: i, ignore_eos: true, stream: i % 3 === 0, priority: -i }))
    const want = []
    for (const b of bodies) want.push(await ask(t.port, 'POST', '/v1/completions', b))
    const round = () => Promise.all(bodies.map((b) => ask(t.port, 'POST', '/v1/completions', b)))
    arm('alloc', 0)
    await round()
    const count = get('seen'), list = turns(count).filter((_, i) => all ? i % 8 === 0 : i % 2 === 0)
    const told = { right: 0, error: 0, none: 0 }
    let before = 0
    for (const [i, at] of list.entries()) {
        arm('alloc', at)
        const got = await round()
        disarm()
        assert.equal(t.exit, undefined, `allocation ${at} of ${count}: the daemon ended: ${JSON.stringify(t.exit)}`)
        for (const [k, a] of got.entries()) {
            assert.ok(a.status === 200 || a.status === 0 || a.status >= 500, `allocation ${at}, request ${k}: ${a.status} ${a.text}`)
            const broken = a.status !== 200 || /"error":\s*[{"]/.test(a.text)
            if (!broken) equal(a.text, want[k].text, `allocation ${at} of ${count}, request ${k}`)
            told[a.status === 0 ? 'none' : broken ? 'error' : 'right']++
        }
        const blocks = await settled(t)
        if (i === 0) before = blocks
        if (i === list.length - 1) assert.ok(blocks - before < 0.5 * list.length + 60, `${blocks - before} blocks more`)
    }
    for (const [k, a] of (await round()).entries()) equal(a.text, want[k].text, `afterwards, request ${k}`)
    note(`many: ${count} allocations, ${list.length} failed in turn: ${told.right} right, ${told.error} errors, ${told.none} without an answer; ` +
        `${await t.metric('latentd_preemptions_total', 'recompute')} preemptions, ${await t.metric('latentd_preemptions_total', 'park')} parked`)
    assert.ok(await t.metric('vllm:num_preemptions_total') > 0)
    assert.deepEqual(await t.stop(), { code: 0, signal: null })
})

// --- a batch ---------------------------------------------------------------------------------------------

if (!only || only === 'batch') await test('allocations, reads and writes fail: a batch', async () => {
    const lines = requests.filter(([, , , body]) => body && !body.stream && body.max_tokens !== -1).flatMap(([name, , url, body]) =>
        url.startsWith('/v1/') ? [JSON.stringify({ custom_id: name, method: 'POST', url, body })] : [])
    lines.push(JSON.stringify({ custom_id: 'wrong', method: 'GET', url: '/', body: {} }))
    const input = lines.join('\n')
    const out = own('out')
    made.push(out)
    /** Runs it, with the nth call failing once it has loaded; its exit status. */
    const run = async (kind, at) => {
        disarm()
        const child = spawn(path.join(top_builddir, 'latentd'), ['batch', '--model', model, '--set', 'threads=1', '-', out],
            { stdio: ['pipe', 'ignore', 'pipe'], env: { ...process.env, ...env } })
        let text = '', end
        child.stderr.on('data', (part) => (text += part))
        child.stdin.on('error', () => {})
        child.on('close', (code, signal) => (end = { code, signal }))
        await until('it is loaded', () => /cache of/.test(text) || end, 30000)
        if (kind) arm(kind, at)
        child.stdin.end(input)
        await until(`${kind} ${at}: it ends`, () => end, 30000)
        if (at) disarm()
        assert.equal(end.signal, null, `${kind} ${at}: ${text}`)
        assert.ok(end.code !== 1 || /error batch: \S/.test(text), text)
        return end.code
    }
    const answers = () => fs.readFileSync(out, 'utf8').split('\n').filter(Boolean).map((l) => JSON.parse(l))
    fs.rmSync(out, { force: true })
    assert.equal(await run('alloc', 0), 3)
    const count = get('seen')
    const want = new Map(answers().map((l) => [l.custom_id, l]))
    assert.equal(want.size, lines.length)
    const told = { 1: 0, 3: 0 }
    const plan = [...turns(count).map((at) => ['alloc', at]), ...[1, 2, 3].map((at) => ['read', at]), ...[1, 2, lines.length].map((at) => ['write', at])]
    for (const [kind, at] of plan) {
        fs.rmSync(out, { force: true })
        const code = await run(kind, at)
        assert.ok(code in told, `${kind} ${at}: ${code}`)
        told[code]++
        const first = answers().length
        assert.ok(code === 1 || first === lines.length)
        assert.equal(await run(), 3, `after ${kind} ${at}`)
        const last = new Map(answers().map((l) => [l.custom_id, l])) // one that failed may have two
        for (const [id, l] of want) {
            assert.equal(last.get(id)?.response?.status_code, l.response?.status_code, `${kind} ${at}: ${JSON.stringify(last.get(id))}`)
            equal(JSON.stringify(last.get(id)?.response?.body ?? null), JSON.stringify(l.response?.body ?? null), `${kind} ${at}: ${id}`)
        }
    }
    note(`batch: ${count} allocations, ${plan.length} calls failed in turn: ${told[3]} went on, ${told[1]} ended`)
})

// --- while it starts ---------------------------------------------------------------------------------------

const oracle = await (async () => {
    const clean = await start({ set: { threads: 2 } })
    const a = await ask(clean.port, ...requests[0].slice(1))
    await clean.kill()
    return a
})()

/** Starts with the nth call failing. It serves rightly, or ends with status 1 and a sentence. */
async function begin(kind, at, sticky, set) {
    arm(kind, at, sticky)
    const log = path.join(scratch, `faults-start.${process.pid}.log`)
    const out = fs.openSync(log, 'w')
    const child = spawn(path.join(top_builddir, 'latentd'), ['--model', model, '--listen', '127.0.0.1:0',
        ...Object.entries({ threads: 2, access_log: false, ...set }).flatMap(([k, v]) => ['--set', `${k}=${v}`])],
    { stdio: ['ignore', out, out], env: { ...process.env, ...env } })
    fs.closeSync(out)
    let end
    child.on('exit', (code, signal) => (end = { code, signal }))
    const text = () => fs.readFileSync(log, 'utf8')
    const what = `${kind} ${at}`
    try {
        await until(`${what}: it starts or ends`, () => end || /server: ready after/.test(text()), 30000)
        if (!end) {
            disarm()
            const port = Number(/listening on 127\.0\.0\.1:(\d+)/.exec(text())[1])
            const a = await ask(port, ...requests[0].slice(1))
            assert.equal(a.status, 200, `${what}: ${a.status} ${a.text}`)
            assert.equal(same(a.text), same(oracle.text), what)
            child.kill('SIGTERM')
            await until(`${what}: it ends`, () => end)
            assert.deepEqual(end, { code: 0, signal: null }, `${what}\n${text()}`)
            return 'served'
        }
        // libuv ends the process by itself where it finds no memory or thread for its own first steps: before any log
        if (end.signal === 'SIGABRT' && text() === '') return 'libuv'
        assert.deepEqual(end, { code: 1, signal: null }, `${what}: ${JSON.stringify(end)}\n${text().slice(-600)}`)
        assert.match(text(), /memory|thread|cannot|failed|error|No such|Input\/output|open files/i, `${what}: no sentence in: ${text()}`)
        return 'told'
    } finally {
        disarm()
        if (!end) child.kill('SIGKILL')
    }
}

async function starts(kind, set = {}) {
    arm(kind, 0)
    put('seen', 0)
    const clean = await start({ env, set: { threads: 2, ...set } })
    const n = get('seen')
    await clean.kill()
    const told = { served: 0, told: 0, libuv: 0 }
    const list = turns(n)
    for (const at of list) told[await begin(kind, at, 0, set)]++
    note(`start, ${kind}: ${n} calls, ${list.length} failed in turn: served ${told.served}, ended with a sentence ${told.told}, by libuv ${told.libuv}`)
    assert.ok(told.libuv <= 5, `${told.libuv} times SIGABRT`)
    assert.ok(n > 0 || kind === 'read', 'weights are mapped, not read')
}

const folder = path.join(scratch, `faults-cache.${process.pid}`)
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
const disk = { cache_disk_path: folder, cache_disk_read: 'always', cache_disk_rate: 0, page_tokens: 16 }
if (!only) {
    await test('start: allocations fail', () => starts('alloc', disk))
    await test('start: threads cannot be made', () => starts('thread', disk))
    await test('start: reads fail', () => starts('read', disk))
    await test('start: files cannot be opened', () => starts('open', disk))
}

// --- the disk tier -------------------------------------------------------------------------------------------

if (!only) await test('disk: reads, writes and opens fail, once and for good; answers stay right, and it comes back', async () => {
    fs.rmSync(folder, { recursive: true, force: true })
    const t = await start({ env, set: { ...disk, access_log: false, cache_size: '4M' } })
    const texts = Array.from({ length: 6 }, (_, i) => `${i} ` + words.repeat(12 + i))
    const body = (text) => ({ ...common, prompt: text, max_tokens: 4 })
    const want = []
    for (const text of texts) want.push((await t.post('/v1/completions', body(text))).choices[0].text)
    const round = async (what) => {
        for (const [i, text] of texts.entries()) {
            const a = await ask(t.port, 'POST', '/v1/completions', body(text))
            assert.equal(t.exit, undefined, `${what}: the daemon ended`)
            assert.equal(a.status, 200, `${what}: ${a.status} ${a.text}`)
            assert.equal(a.json.choices[0].text, want[i], what)
        }
    }
    let failed = 0
    for (const kind of ['write', 'read', 'open'])
        for (const sticky of [0, 1e9])
            for (const at of all ? [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32] : [1 + (seed % 4), 5 + (seed % 7)]) {
                await ask(t.port, 'DELETE', '/v1/cache', {})
                arm(kind, at, sticky)
                await round(`${kind} ${at}${sticky ? ' and all after' : ''}`)
                failed += get('failed')
                disarm()
            }
    note(`${failed} calls failed`)
    assert.ok(failed > 0)
    await until('the disk tier is on again', async () => {
        await round('afterwards')
        return (await t.get('/v1/cache')).json.disk.state === 'on'
    }, 120000)
    assert.deepEqual(await t.stop(), { code: 0, signal: null })
})
await done()
