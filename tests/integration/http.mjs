// tests/integration/http.mjs - the HTTP side of the daemon over raw sockets: what clients may send, what
// they may not, and the limits of everything.
import { spawn, spawnSync } from 'node:child_process'
import net from 'node:net'
import { assert, done, fs, model, path, scratch, sleep, start, test, top_builddir, top_srcdir, until } from './harness.mjs'

const daemon = path.join(top_builddir, 'latentd')
const d = await start({
    set: {
        header_timeout: '500ms', body_timeout: '500ms', idle_timeout: '700ms', write_timeout: '700ms',
        max_header_size: '1K', max_uri_size: '256', max_body_size: '64K', max_connections: 40,
    },
})

/** A raw connection: send(), and text(), all that came so far. */
class Raw {
    constructor(where = { port: d.port, host: '127.0.0.1' }) {
        this.parts = []
        this.closed = false
        this.socket = net.connect(where)
        this.socket.on('data', (part) => this.parts.push(part))
        this.socket.on('error', (error) => (this.error = error))
        this.ended = new Promise((resolve) => this.socket.on('close', () => resolve((this.closed = true))))
    }

    send(text) {
        this.socket.write(text)
        return this
    }

    text() {
        return Buffer.concat(this.parts).toString('latin1')
    }

    /** Waits for the regular expression. */
    async see(pattern) {
        await until(`${pattern} in ${JSON.stringify(this.text().slice(-300))}`, () => pattern.test(this.text()))
        return this.text()
    }

    /** Everything until the daemon closes. */
    async all() {
        await until('the daemon closes the connection', () => this.closed)
        return this.text()
    }

    close() {
        this.socket.destroy()
        return this.ended
    }
}
const json = JSON.stringify({ prompt: [0, 100, 200], max_tokens: 2, temperature: 0 })
const post = (body = json, more = '') =>
    `POST /v1/completions HTTP/1.1\r\nHost: x\r\n${more}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
const get = (url, more = '') => `GET ${url} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
const CLOSE = 'Connection: close\r\n'
const statuses = (text) => [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map((m) => Number(m[1]))

/** Sent, refused with status, in OpenAI's shape, and closed. */
async function refused(text, status) {
    const raw = new Raw().send(text)
    const answer = await raw.all()
    assert.deepEqual(statuses(answer), [status], `${JSON.stringify(text.slice(0, 80))}: ${answer.slice(0, 200)}`)
    assert.match(answer, /connection: close/i)
    const { error } = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4))
    assert.ok(error.message && error.type)
}

await test('a request split at every byte', async () => {
    const whole = post(json, CLOSE)
    const bare = (text) => text.slice(text.indexOf('\r\n\r\n')).replace(/cmpl-\w+|"created":\d+|"cached_tokens":\d+/g, '')
    const want = bare(await new Raw().send(whole).all())
    assert.match(want, /"finish_reason"/)
    for (let from = 1; from < whole.length; from += 30)
        await Promise.all(Array.from({ length: Math.min(30, whole.length - from) }, async (_, k) => {
            const raw = new Raw()
            raw.socket.setNoDelay(true)
            raw.send(whole.slice(0, from + k))
            await sleep(5)
            raw.send(whole.slice(from + k))
            assert.equal(bare(await raw.all()), want)
        }))
    const slow = new Raw()
    slow.socket.setNoDelay(true)
    for (const ch of get('/livez', CLOSE)) {
        slow.send(ch)
        await new Promise(setImmediate)
    }
    assert.deepEqual(statuses(await slow.all()), [200])
})

await test('pipelined requests are answered in order', async () => {
    const raw = new Raw()
    const requests = Array.from({ length: 20 }, (_, i) => i % 3 === 0 ? post(json, `X-Request-Id: id-${i}\r\n`)
        : get(i % 3 === 1 ? '/livez' : '/nothing', `X-Request-Id: id-${i}\r\n`))
    raw.send(requests.join('') + get('/livez', CLOSE))
    const answer = await raw.all()
    assert.deepEqual([...answer.matchAll(/X-Request-Id: id-(\d+)/g)].map((m) => Number(m[1])), requests.map((_, i) => i))
    assert.deepEqual(statuses(answer), [...requests.map((_, i) => [200, 200, 404][i % 3]), 200])
})

await test('chunked bodies, with extensions and trailers', async () => {
    const chunks = [json.slice(0, 5), json.slice(5, 9), json.slice(9)]
    const body = chunks.map((c, i) => `${c.length.toString(16)}${i ? ';a=b' : ''}\r\n${c}\r\n`).join('') + '0\r\nTrailer: x\r\n\r\n'
    const head = `POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`
    const answer = await new Raw().send(head + body + get('/livez', CLOSE)).all()
    assert.deepEqual(statuses(answer), [200, 200])
})

await test('Expect: 100-continue', async () => {
    const raw = new Raw().send(post('', `Expect: 100-continue\r\n${CLOSE}`).replace('Length: 0', `Length: ${json.length}`))
    await raw.see(/^HTTP\/1\.1 100 Continue\r\n\r\n$/)
    assert.deepEqual(statuses(await raw.send(json).all()), [100, 200])
    await refused(post(json, 'Expect: a miracle\r\n'), 417)
})

await test('limits', async () => {
    await refused(get('/' + 'a'.repeat(300)), 414)
    await refused(get('/livez', `X-A: ${'a'.repeat(2000)}\r\n`), 431)
    await refused(get('/livez', 'X: y\r\n'.repeat(400)), 431)
    await refused(post('x'.repeat(70000)), 413)
    await refused('POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n' +
        `8000\r\n${'x'.repeat(32768)}\r\n`.repeat(3), 413)
})

await test('what is not HTTP, and what two readers could read differently', async () => {
    for (const text of [
        'nonsense\r\n\r\n', 'GET / HTTP/1.1\r\nHost x\r\n\r\n', 'GET /livez HTTP/1.1\r\n\r\n', get('/livez', 'Host: y\r\n'), 'GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n',
        'GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n', get('/livez', 'A\0: b\r\n'), get('/livez', 'A : b\r\n'),
        post(json, 'Transfer-Encoding: chunked\r\n'), post(json, 'Content-Length: 5\r\n'),
        'POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
        'POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n',
        'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n',
        'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n',
        'GET /livez HTTP/1.1\r\nHost: x\r\n\rXGET /livez HTTP/1.1\r\nHost: x\r\n\r\n',
        'POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{XX0\r\n\r\n', get('/a\tb'),
        '\x16\x03\x01\x02\x00\x01\x00\x01', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    ])
        await refused(text, 400)
})

await test('a transfer coding besides chunked, in one line or in several', async () => {
    const head = 'POST /v1/completions HTTP/1.1\r\nHost: x\r\n'
    for (const codings of ['gzip, chunked', 'gzip\r\nTransfer-Encoding: chunked', 'gzip\r\nTransfer-Encoding:\r\nTransfer-Encoding: chunked'])
        await refused(`${head}Transfer-Encoding: ${codings}\r\n\r\n0\r\n\r\n`, 501)
    const chunks = `${json.length.toString(16)}\r\n${json}\r\n0\r\n\r\n`
    for (const codings of ['chunked', 'Chunked  ', '\r\nTransfer-Encoding: chunked'])
        assert.deepEqual(statuses(await new Raw().send(`${head}${CLOSE}Transfer-Encoding: ${codings}\r\n\r\n${chunks}`).all()), [200], codings)
})

await test('blanks behind a value are not of it', async () => {
    const raw = new Raw().send(get('/livez', `X-Request-Id: id-1 \t\r\nExpect: 100-continue  \r\nAccept: \t \r\n${CLOSE}`))
    assert.match(await raw.all(), /^HTTP\/1.1 200 [^]*X-Request-Id: id-1\r\n/)
})

await test('HTTP/1.0: closed after the answer, kept on demand, streams without chunks', async () => {
    const plain = await new Raw().send('GET /livez HTTP/1.0\r\n\r\n').all()
    assert.deepEqual(statuses(plain), [200])
    const kept = new Raw().send('GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n'.repeat(2))
    await kept.see(/ok[^]*HTTP[^]*ok/)
    assert.match(kept.text(), /Connection: keep-alive/)
    await kept.close()
    const body = JSON.stringify({ ...JSON.parse(json), stream: true })
    const stream = await new Raw().send(`POST /v1/completions HTTP/1.0\r\nContent-Length: ${body.length}\r\n\r\n${body}`).all()
    assert.doesNotMatch(stream, /chunked/i)
    assert.match(stream, /data: \[DONE\]\n\n$/)
})

await test('HEAD has the header of GET and no body', async () => {
    for (const url of ['/readyz', '/metrics', '/v1/models']) {
        const answer = await new Raw().send(`HEAD ${url} HTTP/1.1\r\nHost: x\r\n${CLOSE}\r\n`).all()
        assert.match(answer, /\r\n\r\n$/)
        if (statuses(answer)[0] === 200) assert.match(answer, /Content-Length: [1-9]/)
    }
})

await test('wrong paths and methods', async () => {
    const answer = await new Raw().send(
        get('/') + get('/favicon.ico') + 'POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n' +
        get('/v1/completions') + get('http://x/livez?a=b') + get('/liv%65z') + get('https://x/livez') + get('http://x?a=/b') + get('/livez', CLOSE)).all()
    assert.deepEqual(statuses(answer), [200, 404, 405, 405, 200, 200, 200, 200, 200]) // the first is the page
    assert.match(answer, /Allow: GET, HEAD/)
    assert.match(answer, /Allow: POST/)
})

await test('a mistake in the JSON does not cost the connection', async () => {
    assert.deepEqual(statuses(await new Raw().send(post('{') + post() + get('/livez', CLOSE)).all()), [400, 200, 200])
})

await test('request ids: a sane one comes back, another is replaced', async () => {
    const answer = await new Raw().send(get('/livez', 'X-Request-Id: a-B.3:_\r\n') + get('/livez', `X-Request-Id: a b\r\n${CLOSE}`)).all()
    const [, first, second] = [...answer.matchAll(/X-Request-Id: (.*)\r\n/g)].map((m) => m[1]).reduce((all, id) => [...all, id], [''])
    assert.equal(first, 'a-B.3:_')
    assert.match(second, /^req-[0-9a-f]{32}$/)
})

await test('slow headers and bodies get 408; idle connections are closed in silence', async () => {
    const [header, body, idle, later] = await Promise.all([
        new Raw().send('GET /livez HT').all(), new Raw().send(post().slice(0, -3)).all(), new Raw().all(),
        new Raw().send(get('/livez')).all()])
    assert.deepEqual(statuses(header), [408])
    assert.deepEqual(statuses(body), [408])
    assert.equal(idle, '')
    assert.deepEqual(statuses(later), [200])
})

await test('a client that does not read is closed, and memory stays bounded', async () => {
    const raw = new Raw()
    raw.socket.pause()
    raw.send(get('/metrics').repeat(3000))
    await until('the daemon gives up', async () => (await d.metric('http_connections')) <= 1)
    const rss = Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${d.child.pid}/status`, 'utf8'))[1])
    assert.ok(rss < 600000, `${rss} kB`)
    await raw.close()
})

await test('one connection too many gets 503 where all are being answered', async () => {
    const open = Array.from({ length: 40 }, () => d.stream('/v1/completions', { prompt: 'x', max_tokens: 1500, ignore_eos: true }))
    await until('all are answered', () => open.every((s) => s.status === 200))
    const more = await new Raw().all()
    assert.deepEqual(statuses(more), [503])
    assert.match(more, /Retry-After/)
    for (const s of open) s.req.destroy()
    await until('connections fall', async () => (await d.metric('http_connections')) <= 1)
})

await test('else the one that has waited longest for a request gives way, however it waits', async () => {
    const few = await start({ set: { max_connections: 40 } })
    const connect = () => new Raw({ port: few.port, host: '127.0.0.1' })
    const displaced = () => few.metric('latentd_connections_displaced_total')
    assert.equal(await displaced(), 0)
    const open = []
    for (let i = 0; i < 39; i++) { // beside that of the metrics
        open.push(connect())
        await until('a connection', () => open.at(-1).socket.readyState === 'open')
        if (i === 1) open[1].send('GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ')
        if (i === 2) open[2].send(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{`)
    }
    await open[0].send(get('/livez')).see(/200 OK/) // it was used last
    await displaced() // and this connection too
    const more = [connect(), connect()]
    for (const raw of more) await raw.send(get('/livez')).see(/200 OK/)
    await until('tricklers are gone', () => open[1].closed && open[2].closed)
    assert.equal(open.filter((raw) => raw.closed).length, 2)
    for (let i = 0; i < 3; i++) await connect().send(get('/livez', CLOSE)).see(/200 OK/)
    assert.equal(open[0].closed, false)
    assert.ok(await displaced() >= 3)
    assert.equal(await few.metric('http_connections_rejected_total'), 0)
    await few.kill()
})

await test('who pipelines thousands of requests lets others through', async () => {
    const log = path.join(scratch, `http.${process.pid}.access`), n = 7000
    const p = await start({ set: { access_log_file: log } })
    const [many, one] = [0, 1].map(() => new Raw({ port: p.port, host: '127.0.0.1' }))
    await until('both are there', () => many.socket.readyState === 'open' && one.socket.readyState === 'open')
    many.send(get('/livez').repeat(n - 1) + get('/livez', CLOSE)) // 200 KiB
    one.send(get('/health', CLOSE))
    assert.deepEqual(statuses(await one.all()), [200])
    assert.equal(statuses(await many.all()).length, n)
    const lines = fs.readFileSync(log, 'utf8').split('\n').filter((line) => line.includes('path="/livez"') || line.includes('path="/health"'))
    assert.equal(lines.length, n + 1)
    const before = lines.findIndex((line) => line.includes('path="/health"'))
    assert.ok(before < n / 2, `${before} of ${n} went before`)
    fs.rmSync(log)
    await p.stop()
})

await test('who has closed its half is answered what it asked before', async () => {
    const half = () => new Raw({ port: d.port, host: '127.0.0.1', allowHalfOpen: true })
    for (const [rest, n] of [['', 1000], ['\r\n\r\n', 1000], ['GET /livez HTTP/1.1\r\nHo', 1000], [get('/nothing'), 1001]]) {
        const raw = half().send(get('/livez').repeat(1000) + rest)
        raw.socket.end()
        raw.socket.on('end', () => raw.socket.destroy())
        const before = Date.now()
        assert.equal(statuses(await raw.all()).length, n, JSON.stringify(rest))
        assert.ok(Date.now() - before < 500, 'it does not wait for more')
    }
    const raw = half().send(get('/livez').repeat(1000) + post(JSON.stringify({ prompt: 'x', max_tokens: 1500, ignore_eos: true, stream: true })))
    raw.socket.end()
    raw.socket.on('end', () => raw.socket.destroy())
    await raw.ended // nobody can be waited for
    await d.idle()
})

await test('a body counts for max_body_memory until it is answered, whoever answers it', async () => {
    const p = await start({ set: { max_body_size: '64K', max_body_memory: '64K' } })
    const large = JSON.stringify({ prompt: [0, 100, 200], max_tokens: 1, user: 'x'.repeat(40000) })
    const head = (line, more = '') => `${line} HTTP/1.1\r\nHost: x\r\n${more}Content-Length: ${large.length}\r\n\r\n`
    for (const [line, status] of [['POST /livez', 405], ['POST /nothing', 404], ['GET /livez', 200], ['POST /v1/nothing', 404], ['POST /v1/completions', 200]]) {
        const raw = new Raw({ port: p.port, host: '127.0.0.1' })
        await raw.send(head(line) + large).see(new RegExp(`^HTTP/1.1 ${status}`))
        assert.equal((await p.request('POST', '/v1/completions', large)).status, 200, `beside an idle connection after ${line}`)
        assert.equal(raw.closed, false)
        await raw.close()
    }
    // one that is refused, by a client that does not go
    const head_of_chunks = 'POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n'
    const raw = new Raw({ port: p.port, host: '127.0.0.1', allowHalfOpen: true })
    await raw.send(`${head_of_chunks}9c40\r\n${'x'.repeat(40000)}\r\nno number\r\n`).see(/^HTTP\/1.1 400/)
    assert.equal((await p.request('POST', '/v1/completions', large)).status, 200, 'beside one whose body was refused')
    await raw.close()
    await p.stop()
})

await test('the access log tells of each request', async () => {
    await new Raw().send(post(json, `X-Request-Id: look-here\r\n${CLOSE}`)).all()
    const line = fs.readFileSync(d.log_path, 'utf8').split('\n').find((text) => text.includes('id=look-here'))
    assert.match(line, /^time=\S+ peer=127\.0\.0\.1:\d+ method=POST path="\/v1\/completions" status=200 bytes=\d+ ms=[\d.]+ /)
    assert.match(line, / prompt=3 cached=[01] completion=2 ttft_ms=[\d.]+ finish=length$/)
    const m = await d.metrics()
    assert.ok(m.get('http_requests_total{handler="completions",method="POST",status="200"}') > 0)
})

await test('lines of the access log that find no room are counted and told, once', async () => {
    const p = await start({ set: { access_log_file: '/dev/full' } })
    for (let i = 0; i < 3; i++) assert.equal((await p.get('/livez')).status, 200)
    assert.ok(await p.metric('latentd_access_log_lost_total') >= 3)
    assert.equal(fs.readFileSync(p.log_path, 'utf8').match(/access_log_file \/dev\/full cannot be written: No space/g).length, 1)
    await p.stop()
})

await test('who leaves before the answer begins is told as 499, not as 0', async () => {
    const body = JSON.stringify({ prompt: [0, 100, 200], max_tokens: 1500, ignore_eos: true })
    const raw = new Raw().send(post(body, 'X-Request-Id: gone-early\r\n'))
    await until('it runs', async () => (await d.metrics()).get('llamacpp:requests_processing') > 0)
    await raw.close()
    const line = () => fs.readFileSync(d.log_path, 'utf8').split('\n').find((text) => text.includes('id=gone-early'))
    assert.match(await until('its line', line), / status=499 .* finish=disconnect$/)
    assert.ok((await d.metrics()).get('http_requests_total{handler="completions",method="POST",status="499"}') > 0)
})

await test('a name stands for all its addresses', async () => {
    const probe = net.createServer()
    const both = await new Promise((resolve) => probe.on('error', () => resolve(false)).listen(0, '::1', () => resolve(true)))
    if (!both) return // no IPv6 here
    const { port } = probe.address()
    await new Promise((resolve) => probe.close(resolve))
    const child = spawn(daemon, ['--model', model, '--listen', `*:${port}`, '--threads', '1'])
    try {
        let log = ''
        child.stderr.on('data', (part) => (log += part))
        await until('it listens', () => (log.match(/listening on/g) ?? []).length === 2)
        for (const host of ['127.0.0.1', '::1'])
            assert.deepEqual(statuses(await new Raw({ host, port }).send(get('/livez', CLOSE)).all()), [200], host)
    } finally {
        child.kill('SIGKILL')
    }
})

await test('a clean end', async () => assert.deepEqual(await d.stop(), { code: 0, signal: null }))

const socket = path.join(scratch, 'http.sock')
await test('Unix sockets: mode, a stale one replaced, a live one respected', async () => {
    const args = ['--model', model, '--listen', `unix:${socket}`, '--threads', '1']
    const serving = async (child) => {
        let log = ''
        child.stderr.on('data', (part) => (log += part))
        await until('it listens', () => log.includes('listening on unix:'))
    }
    fs.rmSync(socket, { force: true })
    const first = spawn(daemon, args)
    await serving(first)
    assert.equal(fs.statSync(socket).mode & 0o777, 0o660)
    assert.deepEqual(statuses(await new Raw({ path: socket }).send(get('/livez', CLOSE)).all()), [200])
    const second = spawnSync(daemon, args, { encoding: 'utf8', timeout: 20000 })
    assert.equal(second.status, 1)
    assert.match(second.stderr, /listen: .*another process serves there/)
    first.kill('SIGKILL')
    await new Promise((resolve) => first.on('exit', resolve))
    assert.ok(fs.existsSync(socket))
    const third = spawn(daemon, args)
    await serving(third)
    third.kill('SIGTERM')
    assert.equal(await new Promise((resolve) => third.on('exit', resolve)), 0)
    assert.ok(!fs.existsSync(socket))
})

await test('without standard descriptors nothing that is opened takes their place', async () => {
    fs.rmSync(socket, { force: true })
    const child = spawn('sh', ['-c', 'exec "$@" <&- >&- 2>&-', 'sh', daemon, '--model', model, '--listen', `unix:${socket}`], { stdio: 'ignore' })
    const ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })))
    await until('it listens', () => fs.existsSync(socket))
    for (let i = 0; i < 3; i++) {
        child.kill('SIGHUP')
        assert.deepEqual(statuses(await new Raw({ path: socket }).send(get('/livez', CLOSE)).all()), [200])
    }
    child.kill('SIGTERM')
    assert.deepEqual(await ended, { code: 0, signal: null })
})

await test('start-up errors name what is wrong', async () => {
    const run = (args, env = {}) => spawnSync(daemon, args, { encoding: 'utf8', timeout: 20000, env: { ...process.env, ...env } })
    for (const [args, pattern, env] of [
        [['--set', 'max_num_seq=3'], /max_num_seqs/], [['--set', 'page_tokens=33'], /power of two/],
        [['--set', 'mla_block=1000'], /mla_block .*power of two/],
        [['--set', 'threads=many'], /threads .*0 to 1024/], [['--listen', 'nonsense'], /listen: "nonsense"/],
        [['--listen', '127.0.0.1:99999'], /listen/], [['--model', '/nonexistent.gguf'], /nonexistent\.gguf/],
        [['--set', 'cors_origins=*, https://app.example/'], /cors_origins: "https:\/\/app.example\/"/], [['--set', 'cors_origins=app.example'], /cors_origins/],
        [['--cpu', 'fast'], /cpu .*generic/], [['--config', '/nonexistent.conf'], /nonexistent\.conf/],
        [['--set', 'x'], /KEY=VALUE/], [['extra'], /extra/], [['--bogus'], /bogus/],
        [[], /LATENTD_FOO/, { LATENTD_FOO: '1' }], [['--set', 'chat_template=/nonexistent.jinja'], /chat_template/],
    ]) {
        for (const check of [[], ['--check-config']]) { // before a restart, too
            const r = run(['--model', model, '--listen', '127.0.0.1:0', ...args, ...check], env)
            assert.equal(r.status, 1, `${args} ${check}: ${r.status} ${r.stderr}`)
            assert.match(r.stderr, pattern)
        }
    }
    assert.match(run(['--model', model, '--listen', 'unix:/nonexistent/socket']).stderr, /\/nonexistent\/socket: no such file or directory/)
    assert.equal(run(['--model', model.replace(/\.gguf$/, ''), '--check-config']).status, 0)
    for (const env of [{ LATENTD_PORT: '8080' }, { LATENTD_SERVICE: '1' }, { LATENTD_PORTS: 'tcp://10.0.0.1:80' },
        { LATENTD_B_PORT: '8080' }, { LATENTD_B: '1' }])
        assert.equal(run(['--model', model, '--check-config'], env).status, 1, JSON.stringify(env))
    // what Kubernetes gives every container about a service of our name
    const service = {
        LATENTD_SERVICE_HOST: '10.96.3.4', LATENTD_SERVICE_PORT: '8080', LATENTD_SERVICE_PORT_HTTP: '8080', LATENTD_PORT: 'tcp://10.96.3.4:8080',
        LATENTD_PORT_8080_TCP: 'tcp://10.96.3.4:8080', LATENTD_PORT_8080_TCP_PROTO: 'tcp', LATENTD_PORT_8080_TCP_PORT: '8080', LATENTD_PORT_8080_TCP_ADDR: '10.96.3.4',
    }
    // and of others whose name begins so
    const other = Object.fromEntries(Object.entries(service).map(([name, value]) => [name.replace('_', '_LARGE_MODEL_FOR_EVERYBODY_IN_THE_HOUSE_AND_ITS_GUESTS_'), value]))
    const ok = run(['--model', model, '--check-config', '--set', 'threads=3'], { LATENTD_MAX_N: '5', ...service, ...other, LATENTD_B_PORT: 'tcp://10.96.3.5:80' })
    assert.equal(ok.status, 0, ok.stderr)
    assert.match(ok.stdout, /^threads = 3$/m)
    assert.match(ok.stdout, /^max_n = 5$/m)
})

await test('etc/latentd.conf is what --print-default-config prints', () => {
    const r = spawnSync(daemon, ['--print-default-config'], { encoding: 'utf8' })
    assert.equal(r.stdout, fs.readFileSync(path.join(top_srcdir, 'etc/latentd.conf'), 'utf8'))
    assert.equal(spawnSync(daemon, ['--config', path.join(top_srcdir, 'etc/latentd.conf'), '--check-config', '--model', model]).status, 0)
})
await done()
