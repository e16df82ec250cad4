// tests/integration/keys.mjs - API keys against the running daemon: who gets in where, how much, and what is told of it.
import { execFileSync } from 'node:child_process'
import crypto from 'node:crypto'
import net from 'node:net'
import { assert, done, fs, model, path, scratch, start, test, until, top_builddir } from './harness.mjs'

const key = (name) => `${name}-${crypto.randomBytes(16).toString('hex')}`
const sha = (text) => 'sha256:' + crypto.createHash('sha256').update(text).digest('hex')
const bearer = (k) => ({ Authorization: `Bearer ${k}` })
const keys = {
    alice: key('alice'), root: key('root'), slow: key('slow'), tokens: key('tokens'), one: key('one'), named: key('named'),
    back: key('back'), vectors: key('vectors'),
}
const keys_file = path.join(scratch, `keys.${process.pid}`)
const audit_file = path.join(scratch, `audit.${process.pid}`)
const write_keys = () => fs.writeFileSync(keys_file, `# of the test
alice ${sha(keys.alice)}
root ${sha(keys.root)} admin best_priority=-10
slow ${sha(keys.slow)} requests_per_minute=3
tokens ${sha(keys.tokens)} tokens_per_minute=100
one ${sha(keys.one)} concurrent=1
named ${sha(keys.named)} models=other-name
back ${sha(keys.back)} priority=5
vectors ${sha(keys.vectors)} tokens_per_minute=100
`, { mode: 0o600 })
write_keys()
fs.rmSync(audit_file, { force: true })
process.on('exit', () => {
    for (const f of [keys_file, audit_file]) fs.rmSync(f, { force: true })
})
const audit = () => fs.readFileSync(audit_file, 'utf8').split('\n').filter(Boolean).map((l) => JSON.parse(l))
const admin_key = key('admin')
const d = await start({
    set: { api_keys_file: keys_file, audit_log_file: audit_file, model_aliases: 'other-name,third' },
    env: { LATENTD_ADMIN_KEY: admin_key },
})
const metrics = async () => (await d.request('GET', '/metrics', undefined, bearer(keys.root))).text
async function used(name, kind) {
    return Number(new RegExp(`^latentd_key_tokens_total{key="${name}",kind="${kind}"} (\\d+)$`, 'm').exec(await metrics())[1])
}

const small = { prompt: 'A secret word', max_tokens: 4, temperature: 0 }
const complete = (headers, more = {}) => d.request('POST', '/v1/completions', { ...small, ...more }, headers)

await test('every route needs a key, but the probes', async () => {
    const routes = [
        ['GET', '/metrics'], ['GET', '/v1/models'], ['GET', '/v1/cache'], ['DELETE', '/v1/cache'], ['GET', '/nothing'],
        ['POST', '/v1/completions'], ['POST', '/v1/chat/completions'], ['POST', '/tokenize'], ['POST', '/detokenize'],
        ['POST', '/v1/cache/save'], ['OPTIONS', '/v1/completions'], ['HEAD', '/metrics'], ['POST', '/livez/'],
        ['GET', '/livez/../metrics'], ['GET', '/%6detrics'], ['GET', '//metrics'],
    ]
    for (const [method, url] of routes) {
        const res = await d.request(method, url, method === 'POST' ? small : undefined)
        assert.equal(res.status, 401, `${method} ${url}`)
        assert.match(res.headers['www-authenticate'], /^Bearer realm="latentd"$/)
        if (method !== 'HEAD') {
            assert.equal(res.json.error.code, 'invalid_api_key')
            assert.equal(res.json.error.type, 'authentication_error')
        }
    }
    for (const url of ['/livez', '/readyz', '/startupz', '/health', '/']) assert.equal((await d.get(url)).status, 200)
    assert.equal((await d.request('POST', '/', {})).status, 401)
})

await test('tokens of embeddings count as those of prompts', async () => {
    const embed = (n, url = '/v1/embeddings') => d.request('POST', url, { input: [Array(n).fill(100), Array(n).fill(101)] }, bearer(keys.vectors))
    const res = await embed(20)
    assert.equal(res.json.usage.prompt_tokens, 40)
    assert.match(res.headers['x-ratelimit-remaining-tokens'], /^(59|60|61)$/)
    assert.equal((await embed(25, '/api/embed')).status, 200)
    const refused = await embed(25)
    assert.equal(refused.status, 429)
    assert.match(refused.json.error.message, /the prompt has 50 tokens; this key may use 100 a minute/)
    assert.equal(await used('vectors', 'prompt'), 90)
    assert.equal(await used('vectors', 'completion'), 0)
})

await test('both headers let in, and nothing that is nearly a key', async () => {
    assert.equal((await complete(bearer(keys.alice))).status, 200)
    assert.equal((await complete({ 'X-API-Key': keys.alice })).status, 200)
    assert.equal((await complete({ Authorization: `bEARER   ${keys.alice}` })).status, 200)
    assert.equal((await complete({ ...bearer(keys.alice), 'X-Api-Key': keys.alice })).status, 200)
    assert.equal((await complete({ 'X-Api-Key': keys.alice + ' \t' })).status, 200)
    const wrong = [
        bearer(keys.alice.slice(0, -1)), bearer(keys.alice + 'x'), bearer(keys.alice.toUpperCase()), bearer(''),
        bearer(sha(keys.alice)), bearer(sha(keys.alice).slice(7)), bearer('alice'), { Authorization: `Basic ${keys.alice}` },
        { Authorization: `Bearer${keys.alice}` }, { ...bearer(keys.alice), 'X-Api-Key': keys.root },
        { Cookie: `api_key=${keys.alice}` },
    ]
    for (const headers of wrong) {
        const res = await complete(headers)
        assert.equal(res.status, 401, JSON.stringify(headers))
        assert.ok(!res.text.includes(keys.alice))
    }
})

await test('a key in a URL is refused, also beside one that is right', async () => {
    for (const name of ['api_key', 'key', 'access_token', 'API-KEY']) {
        const res = await d.request('GET', `/v1/models?a=b&${name}=${keys.alice}`, undefined, bearer(keys.alice))
        assert.equal(res.status, 400)
        assert.match(res.json.error.message, /URL/)
    }
    assert.equal((await d.request('GET', '/v1/models?monkey=1', undefined, bearer(keys.alice))).status, 200)
})

await test('a body without a key is not waited for', async () => {
    const sock = net.connect(d.port, '127.0.0.1')
    sock.write('POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n')
    const first = await new Promise((resolve) => sock.once('data', (b) => resolve(String(b))))
    sock.destroy()
    assert.match(first, /^HTTP\/1\.1 401 /)
})

await test('only admin keys change the server', async () => {
    for (const [method, url] of [['DELETE', '/v1/cache'], ['POST', '/v1/cache/save'], ['POST', '/v1/cache/pin']]) {
        const res = await d.request(method, url, {}, bearer(keys.alice))
        assert.equal(res.status, 403, url)
        assert.equal(res.json.error.type, 'permission_error')
        for (const k of [keys.root, admin_key])
            assert.ok(![401, 403].includes((await d.request(method, url, {}, bearer(k))).status), url)
    }
    assert.equal((await d.request('DELETE', '/v1/cache', {}, bearer(admin_key))).status, 200)
    assert.equal((await d.request('GET', '/v1/cache', undefined, bearer(keys.alice))).status, 200)
})

await test('requests a minute: 429, Retry-After, and rates as OpenAI tells them', async () => {
    for (let left = 2; left >= 0; left--) {
        const res = await complete(bearer(keys.slow))
        assert.equal(res.status, 200)
        assert.equal(res.headers['x-ratelimit-limit-requests'], '3')
        assert.equal(res.headers['x-ratelimit-remaining-requests'], String(left))
        assert.match(res.headers['x-ratelimit-reset-requests'], /^(\d+ms|\d+\.\ds|\d+m\d+s)$/)
    }
    const res = await complete(bearer(keys.slow))
    assert.equal(res.status, 429)
    assert.ok(res.headers['retry-after'] >= 15 && res.headers['retry-after'] <= 20, res.headers['retry-after'])
    assert.equal(res.json.error.type, 'rate_limit_error')
    assert.equal(res.json.error.code, 'rate_limit_exceeded')
    assert.equal((await complete(bearer(keys.alice))).status, 200, 'others are not concerned')
})

await test('tokens a minute: prompts before they run, answers when they are there', async () => {
    let res = await complete(bearer(keys.tokens), { prompt: Array(60).fill(100), max_tokens: 1 })
    assert.equal(res.status, 200)
    assert.equal(res.headers['x-ratelimit-limit-tokens'], '100')
    res = await complete(bearer(keys.tokens), { prompt: Array(60).fill(100), max_tokens: 1 })
    assert.equal(res.status, 429)
    assert.match(res.json.error.message, /the prompt has 60 tokens; this key may use 100 a minute, of which (39|40)/)
    assert.ok(res.headers['retry-after'] >= 10 && res.headers['retry-after'] <= 13)
    res = await complete(bearer(keys.tokens), { prompt: [5], max_tokens: 200, ignore_eos: true })
    assert.equal(res.status, 200)
    res = await complete(bearer(keys.tokens))
    assert.equal(res.status, 429)
    assert.ok(res.headers['retry-after'] > 60, 'the answer is paid for')
    assert.equal(res.headers['x-ratelimit-remaining-tokens'], '0')
})

await test('who leaves before the end has used what was generated', async () => {
    const before = await used('alice', 'completion')
    const s = d.stream('/v1/completions', { prompt: [5], max_tokens: 2000, ignore_eos: true }, (_, st) => {
        if (st.events.length === 20) st.req.destroy()
    }, bearer(keys.alice))
    await s.ended
    await until('counted', async () => (await used('alice', 'completion')) - before >= 20)
})

await test('requests at the same time', async () => {
    const first = d.stream('/v1/completions', { prompt: [5], max_tokens: 2000, ignore_eos: true }, () => {}, bearer(keys.one))
    await until('it runs', () => first.events.length > 0)
    const res = await complete(bearer(keys.one))
    assert.equal(res.status, 429)
    assert.equal(res.headers['retry-after'], '1')
    first.req.destroy()
    await first.ended
    await until('it may again', async () => (await complete(bearer(keys.one))).status === 200)
})

await test('what runs can be ended, also by a key that may run no more', async () => {
    const running = await fetch(`${d.base}/v1/responses`, {
        method: 'POST', headers: bearer(keys.one), body: JSON.stringify({ input: 'a', max_output_tokens: 2000, ignore_eos: true, stream: true }),
    })
    const [id] = /resp_\w+/.exec(Buffer.from((await running.body.getReader().read()).value).toString())
    assert.equal((await d.request('POST', '/v1/responses', { input: 'a' }, bearer(keys.one))).status, 429)
    assert.equal((await d.request('GET', `/v1/responses/${id}`, undefined, bearer(keys.one))).status, 200)
    const res = await d.request('POST', `/v1/responses/${id}/cancel`, undefined, bearer(keys.one))
    assert.equal(res.status, 200, res.text)
    assert.equal(res.json.status, 'cancelled')
    await until('it has ended', async () => (await complete(bearer(keys.one))).status === 200)
})

await test('models and aliases', async () => {
    const served = (await d.request('GET', '/v1/models', undefined, bearer(keys.alice))).json.data.map((m) => m.id)
    assert.deepEqual(served, ['latent-mini', 'other-name', 'third'])
    const own = (await d.request('GET', '/v1/models', undefined, bearer(keys.named))).json.data.map((m) => m.id)
    assert.deepEqual(own, ['other-name'])
    assert.equal((await complete(bearer(keys.named), { model: 'other-name' })).status, 200)
    for (const model of ['latent-mini', 'third', undefined]) {
        const res = await complete(bearer(keys.named), { model })
        assert.equal(res.status, 403)
        assert.equal(res.json.error.param, 'model')
    }
    assert.equal((await complete(bearer(keys.alice), { model: 'third' })).status, 200)
    assert.equal((await complete(bearer(keys.alice), { model: 'fourth' })).status, 404)
    assert.equal((await d.request('GET', '/v1/models/third', undefined, bearer(keys.named))).status, 404)
})

await test('priorities', async () => {
    assert.equal((await complete(bearer(keys.alice), { priority: 1 })).status, 200)
    assert.equal((await complete(bearer(keys.alice), { priority: -1 })).status, 403)
    assert.equal((await complete(bearer(keys.root), { priority: -10 })).status, 200)
    const res = await complete(bearer(keys.back), { priority: 4 })
    assert.equal(res.status, 403)
    assert.match(res.json.error.message, /a priority of 5 or more, not 4/)
    assert.equal((await complete(bearer(keys.back))).status, 200)
})

await test('usage by key in the metrics', async () => {
    const text = await metrics()
    assert.match(text, /^latentd_key_requests_total\{key="slow"\} 3$/m)
    assert.match(text, /^latentd_key_limited_total\{key="slow"\} 1$/m)
    assert.match(text, /^latentd_key_requests_running\{key="one"\} 0$/m)
    assert.ok((await used('tokens', 'completion')) === 201)
    assert.ok((await used('tokens', 'prompt')) === 61)
    for (const k of Object.values(keys)) assert.ok(!text.includes(k))
})

await test('the audit log says who did what, and neither prompts nor keys', async () => {
    const res = await complete({ ...bearer(keys.alice), 'X-Request-Id': 'audit-1' })
    assert.equal(res.status, 200)
    const line = audit().find((l) => l.request_id === 'audit-1')
    assert.deepEqual({ ...line, time: 0, duration_ms: 0, cached_tokens: 0 }, {
        time: 0, key: 'alice', client: '127.0.0.1', method: 'POST', route: '/v1/completions', model: 'latent-mini', status: 200,
        prompt_tokens: res.json.usage.prompt_tokens, cached_tokens: 0, completion_tokens: 4, duration_ms: 0,
        request_id: 'audit-1', finish: 'length',
    })
    assert.ok(Math.abs(Date.parse(line.time) - Date.now()) < 60000 && line.duration_ms > 0)
    const refused = audit().filter((l) => l.status === 401)
    assert.ok(refused.length >= 20 && refused.every((l) => l.key === null))
    assert.ok(audit().some((l) => l.status === 429 && l.key === 'slow'))
    assert.ok(audit().some((l) => l.finish === 'disconnect' && l.key === 'alice' && l.completion_tokens >= 20))
    const text = fs.readFileSync(audit_file, 'utf8') + d.tail()
    for (const word of ['secret', ...Object.values(keys), admin_key]) assert.ok(!text.includes(word), word)
    assert.equal(fs.statSync(audit_file).mode & 0o777, 0o600)
})

await test('prompts are told when asked for, whole lines of valid JSON whatever they hold', async () => {
    const file = path.join(scratch, `audit-prompts.${process.pid}`)
    const p = await start({ set: { audit_log_file: file, audit_prompts: '200' } })
    const prompt = 'a "quoted"\n\u0001 word \ud83d\ude00 '
    await p.request('POST', '/v1/completions', { ...small, prompt })
    await p.request('POST', '/v1/completions', '{"prompt":"' + 'x'.repeat(500), {})
    await p.request('POST', '/v1/completions?\xff', Buffer.from([0x7b, 0xff, 0xfe, 0x22]).toString('latin1'), {})
    const lines = fs.readFileSync(file, 'utf8').trim().split('\n').map((l) => JSON.parse(l)).filter((l) => l.method === 'POST')
    assert.equal(JSON.parse(lines[0].body).prompt, prompt)
    assert.equal(lines[0].key, null)
    assert.equal(lines[1].body.length, 200)
    fs.rmSync(file)
    await p.stop()
})

await test('an admin key alone leaves the rest open; dummy keys of clients are ignored', async () => {
    const k = key('only')
    const p = await start({ env: { LATENTD_ADMIN_KEY: sha(k) } })
    assert.equal((await p.request('POST', '/v1/completions', small, bearer('none'))).status, 200)
    assert.equal((await p.get('/metrics')).status, 200)
    assert.equal((await p.request('DELETE', '/v1/cache', {})).status, 401)
    assert.equal((await p.request('DELETE', '/v1/cache', {}, bearer('none'))).status, 401)
    assert.equal((await p.request('DELETE', '/v1/cache', {}, bearer(k))).status, 200)
    await p.stop()
})

await test('--hash-key and --check-config', async () => {
    const program = path.join(top_builddir, 'latentd')
    const run = (args, input, env = {}) => execFileSync(program, args, { input, encoding: 'utf8', stdio: 'pipe', env: { ...env } })
    assert.equal(run(['--hash-key'], keys.alice + '\n').trim(), sha(keys.alice))
    assert.throws(() => run(['--hash-key'], 'short\n'), /16 to 512/)
    const shown = run(['--model', model, '--check-config', '--set', `api_keys_file=${keys_file}`], '', { LATENTD_API_KEY: keys.alice + '-2' })
    assert.ok(!shown.includes(keys.alice) && /^api_key = \*+$/m.test(shown))
    assert.throws(() => run(['--model', model, '--check-config', '--set', 'api_keys_file=/nonexistent'], ''), /api_keys_file/)
    assert.throws(() => run(['--model', model, '--check-config', '--set', 'api_key=short'], ''), /16 to 512/)
})

await test('a warning when others reach it and no key is needed', async () => {
    const open = await start({ args: ['--listen', '0.0.0.0:0'] })
    assert.match(fs.readFileSync(open.log_path, 'utf8'), /is reached from other machines, and no key is needed/)
    await open.stop()
    assert.doesNotMatch(fs.readFileSync(d.log_path, 'utf8'), /reached from other machines/)
})

await test('nearly as many keys as there may be, and others after a reload: /metrics tells of all', async () => {
    const name = (side, i) => `${side}-${i}`.padEnd(64, '-')
    const many = (side) => fs.writeFileSync(keys_file, `root ${sha(keys.root)} admin\n` +
        Array.from({ length: 4080 }, (_, i) => `${name(side, i)} ${sha(`${side}-${i}`)}\n`).join(''), { mode: 0o600 })
    for (const side of ['old', 'new']) {
        const from = fs.readFileSync(d.log_path, 'utf8').length
        many(side)
        d.child.kill('SIGHUP')
        await until('the reload is over', () => / done: |everything stays/.test(fs.readFileSync(d.log_path, 'utf8').slice(from)))
        const res = await d.request('GET', '/metrics', undefined, bearer(keys.root))
        assert.equal(res.status, 200, res.text.slice(0, 200))
        assert.ok(res.text.includes(`latentd_key_requests_total{key="${name(side, 4079)}"} 0\n`), fs.readFileSync(d.log_path, 'utf8').slice(from))
    }
})

await d.stop()
await done()
