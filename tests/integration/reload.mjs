// tests/integration/reload.mjs - SIGHUP: what changes, what cannot, what a mistake leaves in force; no stream is broken.
import { execFileSync } from 'node:child_process'
import crypto from 'node:crypto'
import net from 'node:net'
import { assert, done, fs, path, scratch, sleep, slow, start, test, until } from './harness.mjs'

const here = (name) => path.join(scratch, `reload-${process.pid}.${name}`)
const sha = (text) => 'sha256:' + crypto.createHash('sha256').update(text).digest('hex')
const bearer = (k) => ({ Authorization: `Bearer ${k}` })
const [old_key, new_key] = ['old', 'new'].map((n) => `${n}-${crypto.randomBytes(16).toString('hex')}`)
const files = ['conf', 'keys', 'access', 'audit', 'access.1', 'audit.1', 'pipe'].map(here)
process.on('exit', () => files.forEach((f) => fs.rmSync(f, { force: true })))
const conf = (lines) => fs.writeFileSync(here('conf'), lines.join('\n') + '\n')
const base = [
    `api_keys_file = ${here('keys')}`, `access_log_file = ${here('access')}`, `audit_log_file = ${here('audit')}`,
    'cache_size = 64M',
]
conf(base)
fs.writeFileSync(here('keys'), `user ${sha(old_key)}\n`, { mode: 0o600 })
const d = await start({ args: ['--config', here('conf'), '--set', 'max_n=3'] })
const log = () => fs.readFileSync(d.log_path, 'utf8')

/** SIGHUP, and what the log says about it. */
async function reload() {
    const from = log().length
    d.child.kill('SIGHUP')
    await until('the reload is over', () => / done: |everything stays/.test(log().slice(from)))
    return log().slice(from)
}
const complete = (k, more = {}) =>
    d.request('POST', '/v1/completions', { prompt: 'A word', max_tokens: 2, ...more }, bearer(k))

await test('nothing changed, nothing said', async () => {
    assert.match(await reload(), /done: 0 settings have changed, 0 need a restart; 1 API keys/)
    assert.equal((await complete(old_key)).status, 200)
})

await test('keys, limits, aliases and levels change', async () => {
    assert.equal((await complete(old_key, { model: 'nick' })).status, 404)
    fs.writeFileSync(here('keys'), `user ${sha(new_key)} requests_per_minute=100\nsecond ${sha(new_key + '2')}\n`)
    conf([...base, 'model_aliases = nick', 'max_stop = 1', 'log_level = debug', 'max_logprobs = 2', 'metrics_open = true'])
    const text = await reload()
    for (const k of ['model_aliases', 'max_stop', 'log_level', 'max_logprobs', 'metrics_open'])
        assert.match(text, new RegExp(`${k} has changed`))
    assert.match(text, /done: 5 settings have changed, 0 need a restart; 2 API keys/)
    assert.equal((await complete(old_key)).status, 401)
    const res = await complete(new_key, { model: 'nick' })
    assert.equal(res.status, 200)
    assert.equal(res.headers['x-ratelimit-limit-requests'], '100')
    assert.equal((await complete(new_key, { stop: ['a', 'b'] })).status, 400)
    assert.equal((await complete(new_key, { logprobs: 3 })).status, 400)
    assert.equal((await d.get('/metrics')).status, 200)
})

await test('what cannot change is named and stays; the command line wins still', async () => {
    conf([...base, 'cache_size = 32M', 'threads = 1', 'listen = 127.0.0.1:1', 'max_n = 9'])
    const text = await reload()
    for (const k of ['cache_size', 'threads']) assert.match(text, new RegExp(`${k} cannot change`))
    assert.doesNotMatch(text, /max_n|listen/)
    assert.equal((await complete(new_key, { n: 4 })).status, 400)
    assert.equal((await complete(new_key, { n: 3 })).status, 200)
    assert.equal((await complete(new_key, { model: 'nick' })).status, 404, 'what is not said any more is the default again')
})

await test('a mistake anywhere leaves everything as it was, and says where', async () => {
    const keys = fs.readFileSync(here('keys'), 'utf8')
    const broken = [
        [() => conf([...base, 'model_aliases = nick', 'max_stop = many']), /line 6: max_stop/],
        [() => conf([...base, 'model_aliases = nick', 'no_such_key = 1']), /no_such_key/],
        [() => conf([...base, 'model_aliases = nick', 'max_body_size = 1M', 'max_body_memory = 2M']), /max_body_memory .*max_body_size .*8388608/],
        [() => fs.rmSync(here('conf')), /conf: No such file/],
        [() => { conf([...base, 'model_aliases = nick']); fs.appendFileSync(here('keys'), 'third sha256:12\n') }, /keys, line 3/],
        [() => fs.rmSync(here('keys')), /keys: No such file/],
    ]
    for (const [breaks, told] of broken) {
        breaks()
        const text = await reload()
        assert.match(text, told)
        assert.match(text, /everything stays as it is/)
        assert.equal((await complete(new_key)).status, 200)
        assert.equal((await complete(new_key, { model: 'nick' })).status, 404)
        assert.equal((await complete('nobody-000000000000000')).status, 401)
    }
    conf(base)
    fs.writeFileSync(here('keys'), keys)
    assert.match(await reload(), /done: /)
})

await test('logs go on in new files', async () => {
    for (const name of ['access', 'audit']) fs.renameSync(here(name), here(name + '.1'))
    await reload()
    await complete(new_key, { user: 'x' })
    for (const name of ['access', 'audit']) assert.equal(fs.readFileSync(here(name), 'utf8').trim().split('\n').length, 1)
    for (const name of ['access.1', 'audit.1']) assert.ok(fs.readFileSync(here(name), 'utf8').split('\n').length > 5)
})

await test('no stream is broken by reloads, not even of a key that is gone', async () => {
    const n = slow ? 8 : 30
    let over = false
    const streams = Array.from({ length: n }, () =>
        d.stream('/v1/completions', { prompt: [5], max_tokens: 300, ignore_eos: true }, () => {}, bearer(new_key)))
    await until('all run', () => streams.every((s) => s.events.length > 0))
    const ended = Promise.all(streams.map((s) => s.ended)).then((all) => {
        over = true
        return all
    })
    let reloads = 0
    for (; reloads < 3 || !over; reloads++) {
        fs.writeFileSync(here('keys'), `user ${sha(reloads % 2 ? new_key : old_key)}\n`)
        conf([...base, `model_aliases = a${reloads}`, `max_connections = ${1000 + reloads}`])
        assert.match(await reload(), /done: /)
        await sleep(5)
    }
    for (const s of await ended) {
        assert.equal(s.error, null)
        assert.ok(s.finished && s.status === 200)
        assert.equal(s.events.at(-1).choices[0].finish_reason, 'length')
    }
    assert.ok(reloads >= 3)
    fs.writeFileSync(here('keys'), `user ${sha(old_key)}\n`)
    await reload()
    assert.equal((await complete(new_key)).status, 401)
    const lines = fs.readFileSync(here('audit'), 'utf8').trim().split('\n').map((l) => JSON.parse(l))
    assert.equal(lines.filter((l) => l.key === 'user' && l.completion_tokens === 300).length, n)
    const running = (await d.request('GET', '/metrics', undefined, bearer(old_key))).text
    assert.match(running, /^latentd_key_requests_running\{key="user"\} 0$/m)
})

await test('where max_connections falls, those that wait make room for the next', async () => {
    conf([...base, 'metrics_open = true', 'max_connections = 64', 'idle_timeout = 1h'])
    await reload()
    const idle = Array.from({ length: 50 }, () => net.connect(d.port, '127.0.0.1').on('error', () => {}))
    await until('all are there', async () => await d.metric('http_connections') >= 50)
    conf([...base, 'metrics_open = true', 'max_connections = 16', 'idle_timeout = 1h'])
    await reload()
    for (let i = 0; i < 2; i++) await new Promise((resolve) => net.connect(d.port, '127.0.0.1', function () { idle.push(this); resolve() }))
    await until('as many as may be', async () => await d.metric('http_connections') <= 16)
    for (const s of idle) s.destroy()
})

await test('with fewer descriptors than max_connections wants, those that wait give way all the same', async () => {
    const p = await start()
    execFileSync('prlimit', ['--nofile=256:256', `--pid=${p.child.pid}`])
    p.child.kill('SIGHUP')
    await until('it is told', () => /limit of open files is 256: at most 128 are kept/.test(fs.readFileSync(p.log_path, 'utf8')))
    const idle = []
    for (let i = 0; i < 300; i++) {
        await new Promise((resolve) => idle.push(net.connect(p.port, '127.0.0.1', resolve).on('error', () => {})))
        if (i % 30 === 29) assert.equal((await p.get('/livez')).status, 200, `beside ${i + 1}`)
    }
    assert.ok(await p.metric('latentd_connections_displaced_total') > 100)
    assert.ok(await p.metric('http_connections') <= 128)
    for (const s of idle) s.destroy()
    await p.stop()
})

await test('a log that is a pipe stops nobody, with a reader or without', async () => {
    const reader = () => fs.openSync(here('pipe'), fs.constants.O_RDONLY | fs.constants.O_NONBLOCK)
    const read = (fd) => fs.readSync(fd, Buffer.alloc(1 << 20))
    for (const name of ['access_log_file', 'audit_log_file']) {
        fs.rmSync(here('pipe'), { force: true })
        execFileSync('mkfifo', [here('pipe')])
        let fd = reader()
        const p = await start({ set: { [name]: here('pipe') } })
        const told = () => fs.readFileSync(p.log_path, 'utf8')
        assert.equal((await p.get('/livez')).status, 200)
        assert.ok(read(fd) > 0)
        fs.closeSync(fd)
        assert.equal((await p.get('/livez')).status, 200)
        assert.match(told(), new RegExp(`${name} .* cannot be written: Broken pipe`))
        p.child.kill('SIGHUP')
        await until('the reload is over', () => / done: /.test(told()))
        for (let i = 0; i < 1500; i += 50) await Promise.all(Array.from({ length: 50 }, () => p.get('/livez')))
        fd = reader()
        assert.ok(read(fd) > 32768, 'what was written meanwhile')
        await p.get('/livez')
        assert.ok(read(fd) > 0)
        fs.closeSync(fd)
        await p.stop()
    }
})

await d.stop()
await done()
