// tests/integration/edge.mjs - what stands between the daemon and its clients: browsers of other sites, proxies, and those
// who send what an HTTP server must not fall for.
import net from 'node:net'
import { assert, done, fs, path, scratch, slow, start, test, until } from './harness.mjs'

const audit_file = path.join(scratch, `edge-audit.${process.pid}`)
process.on('exit', () => fs.rmSync(audit_file, { force: true }))
const lines = () => fs.readFileSync(audit_file, 'utf8').trim().split('\n').map((l) => JSON.parse(l))
const k = 'edge-key-0123456789abcdef'
const key = { Authorization: `Bearer ${k}` }
const small = { prompt: 'A word', max_tokens: 2 }

/** Bytes in, all bytes out, and how long it took. */
function talk(port, pieces, { half = false, wait = 0 } = {}) {
    return new Promise((resolve) => {
        const begin = Date.now()
        const sock = net.connect(port, '127.0.0.1')
        let text = ''
        sock.on('error', () => {}).on('data', (p) => (text += p.toString('latin1')))
        sock.on('close', () => resolve({ text, ms: Date.now() - begin, statuses: (text.match(/^HTTP\/1\.1 \d+/gm) ?? []).map((s) => Number(s.slice(9))) }))
        for (const p of [].concat(pieces)) sock.write(p)
        if (half) sock.end()
        if (wait) setTimeout(() => sock.destroy(), wait)
    })
}

const d = await start({ set: { cors_origins: 'https://app.example, http://localhost:3000', audit_log_file: audit_file } })

await test('CORS: preflight and answers for origins that are named', async () => {
    const ask = { Origin: 'https://app.example', 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'authorization,x-stainless-os' }
    let res = await d.request('OPTIONS', '/v1/chat/completions', undefined, ask)
    assert.equal(res.status, 204)
    assert.equal(res.headers['access-control-allow-origin'], 'https://app.example')
    assert.equal(res.headers['access-control-allow-headers'], 'authorization,x-stainless-os')
    assert.match(res.headers['access-control-allow-methods'], /POST/)
    assert.equal(res.headers['access-control-allow-credentials'], undefined)
    assert.equal(res.headers['content-length'], undefined)
    res = await d.request('POST', '/v1/completions', small, { Origin: 'https://app.example' })
    assert.equal(res.status, 200)
    assert.equal(res.headers['access-control-allow-origin'], 'https://app.example')
    assert.match(res.headers['access-control-expose-headers'], /Retry-After/)
    assert.equal(res.headers.vary, 'Origin')
    res = await d.request('POST', '/v1/completions', { max_tokens: -1 }, { Origin: 'https://app.example' })
    assert.equal(res.status, 400)
    assert.equal(res.headers['access-control-allow-origin'], 'https://app.example', 'pages can read what was wrong')
})

await test('CORS: closed to all others, also to what is nearly an origin, and without a preflight', async () => {
    for (const Origin of ['https://evil.example', 'https://app.example.evil.example', 'http://app.example', 'https://app.example:444', 'null',
        'https://app.example/', '*', 'a'.repeat(300)]) {
        let res = await d.request('OPTIONS', '/v1/completions', undefined, { Origin, 'Access-Control-Request-Method': 'POST' })
        assert.notEqual(res.status, 204, Origin)
        assert.equal(res.headers['access-control-allow-origin'], undefined, Origin)
        res = await d.request('POST', '/v1/completions', JSON.stringify(small), { Origin, 'Content-Type': 'text/plain' })
        assert.equal(res.status, 403, Origin)
        assert.equal(res.headers['access-control-allow-origin'], undefined)
    }
    const res = await d.request('POST', '/v1/completions', small, { Origin: `http://127.0.0.1:${d.port}` })
    assert.equal(res.status, 200, 'the same origin')
    const none = await start()
    for (const Origin of ['https://app.example', 'http://localhost:3000']) {
        const r = await none.request('GET', '/v1/models', undefined, { Origin })
        assert.equal(r.status, 200)
        assert.ok(!Object.keys(r.headers).some((h) => h.startsWith('access-control')))
    }
    await none.stop()
})

await test('forwarding headers are believed from nobody by default', async () => {
    const res = await d.request('POST', '/v1/completions', small, { 'X-Forwarded-For': '192.0.2.9', 'X-Request-Id': 'fwd-0', Forwarded: 'for=192.0.2.9' })
    assert.equal(res.status, 200)
    assert.equal(lines().find((l) => l.request_id === 'fwd-0').client, '127.0.0.1')
})

await test('request smuggling: what two servers could read differently is refused, and the connection ends', async () => {
    const post = (head, body = '') => `POST /tokenize HTTP/1.1\r\nHost: x\r\n${head}\r\n\r\n${body}`
    const inner = 'GET /livez HTTP/1.1\r\nHost: x\r\n\r\n'
    const rows = [
        post('Content-Length: 6\r\nTransfer-Encoding: chunked', '0\r\n\r\n' + inner),
        post('Transfer-Encoding: chunked\r\nContent-Length: 6', '0\r\n\r\n' + inner),
        post('Content-Length: 2\r\nContent-Length: 3', '{}' + inner),
        post('Content-Length: 2, 2', '{}' + inner),
        post('Content-Length: +2', '{}' + inner),
        post('Content-Length: -1', inner),
        post('Content-Length: 0x2', '{}' + inner),
        post('Content-Length: 18446744073709551618', '{}' + inner),
        post('Transfer-Encoding: xchunked', '0\r\n\r\n' + inner),
        post('Transfer-Encoding: chunked, identity', '0\r\n\r\n' + inner),
        post('Transfer-Encoding: identity, chunked', '0\r\n\r\n' + inner),
        post('Transfer-Encoding : chunked', '0\r\n\r\n' + inner),
        post('Transfer-Encoding: chunked\r\nTransfer-Encoding: identity', '0\r\n\r\n' + inner),
        post('Transfer-Encoding:\x0bchunked', '0\r\n\r\n' + inner),
        post(' Content-Length: 2', '{}' + inner),
        post('X: y\r\n Content-Length: 2', '{}' + inner),
        post('X: y\nContent-Length: 2', '{}' + inner),
        post('X: y\rContent-Length: 2', '{}' + inner),
        post('X: a\0b\r\nContent-Length: 2', '{}' + inner),
        post('Transfer-Encoding: chunked', '2;\nx\r\n{}\r\n0\r\n\r\n' + inner),
        post('Transfer-Encoding: chunked', '-2\r\n{}\r\n0\r\n\r\n' + inner),
        post('Transfer-Encoding: chunked', '10000000000000002\r\n{}\r\n0\r\n\r\n' + inner),
        post('Transfer-Encoding: chunked', '2\r\n{}X\r\n0\r\n\r\n' + inner),
        post('Host: y\r\nContent-Length: 2', '{}' + inner),
        'POST /tokenize HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}' + inner,
        'POST /tokenize HTTP/2.0\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}' + inner,
        'POST  /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}' + inner,
        'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + inner,
    ]
    for (const bytes of rows) {
        const res = await talk(d.port, Buffer.from(bytes, 'latin1'), { half: true })
        const shown = JSON.stringify(bytes.slice(0, 120))
        assert.equal(res.statuses.length, 1, `${shown}: ${res.text}`)
        assert.ok(res.statuses[0] >= 400, `${shown}: ${res.statuses}`)
    }
    assert.equal((await d.get('/livez')).status, 200)
})

await d.stop()

const p = await start({
    args: ['--listen', 'proxy:127.0.0.1:0'],
    set: { trusted_proxies: '127.0.0.1,10.0.0.0/8', audit_log_file: audit_file, header_timeout: '1s', body_timeout: '1s', idle_timeout: '1s', max_connections: 200 },
    env: { LATENTD_API_KEY: k },
})
const proxied = Number(/listening on 127\.0\.0\.1:(\d+) behind a proxy/.exec(fs.readFileSync(p.log_path, 'utf8'))[1])
const ask = (id, more = '') => `GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: ${id}\r\nAuthorization: Bearer ${k}\r\n${more}\r\n`
const client_of = (id) => lines().find((l) => l.request_id === id).client

await test('PROXY protocol, both versions, in pieces, and what forwards behind it', async () => {
    const v2 = Buffer.concat([Buffer.from('0d0a0d0a000d0a515549540a2111000cc00002070a00000112670050', 'hex')])
    assert.deepEqual((await talk(proxied, [`PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n${ask('v1')}`])).statuses, [200])
    assert.deepEqual((await talk(proxied, [v2, ask('v2')])).statuses, [200])
    assert.deepEqual((await talk(proxied, [...[...v2].map((b) => Buffer.from([b])), ask('v2-pieces')])).statuses, [200])
    assert.deepEqual((await talk(proxied, [Buffer.from('0d0a0d0a000d0a515549540a20000000', 'hex'), ask('local')])).statuses, [200])
    assert.deepEqual((await talk(proxied, [`PROXY TCP4 10.1.1.1 10.0.0.1 4711 80\r\n${ask('chain', 'X-Forwarded-For: 6.6.6.6, 192.0.2.8, 10.2.2.2\r\n')}`])).statuses, [200])
    assert.deepEqual((await talk(proxied, [`PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n${ask('lie', 'X-Forwarded-For: 6.6.6.6\r\n')}`])).statuses, [200])
    assert.deepEqual((await talk(proxied, [`PROXY TCP6 2001:db8::7 ::1 4711 80\r\n${ask('v6')}`])).statuses, [200])
    assert.equal(client_of('v6'), '2001:db8::7')
    assert.deepEqual(['v1', 'v2', 'v2-pieces', 'local', 'chain', 'lie'].map(client_of),
        ['192.0.2.7', '192.0.2.7', '192.0.2.7', '127.0.0.1', '192.0.2.8', '192.0.2.7'])
    await p.request('GET', '/v1/models', undefined, { ...key, 'X-Request-Id': 'direct', 'X-Forwarded-For': '192.0.2.4' })
    assert.equal(client_of('direct'), '192.0.2.4')
})

await test('no PROXY header, no service; a half one waits for header_timeout only', async () => {
    for (const bytes of [ask('none'), 'PROXY TCP4 1.2.3.4\r\n' + ask('none'), 'PROXY ' + 'x'.repeat(200), '\r\n\r\n\0GET']) {
        const res = await talk(proxied, [bytes])
        assert.equal(res.text, '')
        assert.ok(res.ms < 900)
    }
    const res = await talk(proxied, ['PROXY TCP4'])
    assert.ok(res.text === '' && res.ms >= 800 && res.ms < (slow ? 20000 : 3000))
    assert.ok(!lines().some((l) => l.request_id === 'none'))
})

await test('slow headers, slow bodies, silence and half-open connections end in their time', async () => {
    const limit = slow ? 30000 : 4000
    const drip = (first, byte) => new Promise((resolve) => {
        const begin = Date.now()
        const sock = net.connect(p.port, '127.0.0.1')
        let text = ''
        sock.write(first)
        const timer = setInterval(() => sock.write(byte), 100)
        sock.on('data', (d1) => (text += d1)).on('error', () => {})
        sock.on('close', () => { clearInterval(timer); resolve({ text, ms: Date.now() - begin }) })
    })
    const [headers, silent, half, stalled] = await Promise.all([
        drip('GET /livez HTTP/1.1\r\nHost: x\r\nX: ', 'a'),
        talk(p.port, []),
        talk(p.port, ['GET /livez HTTP/1.1\r\n'], { half: true }),
        talk(p.port, [`POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${k}\r\nContent-Length: 100\r\n\r\n{`]),
    ])
    assert.match(headers.text, /^HTTP\/1\.1 408/)
    assert.match(stalled.text, /^HTTP\/1\.1 408/)
    for (const r of [headers, silent, half, stalled]) assert.ok(r.ms < limit, `${r.ms} ms`)
})

await test('a flood without keys and one of 429s: those who have keys are served', async () => {
    let n = 0
    let over = false
    const storm = Array.from({ length: 50 }, async () => {
        while (!over) {
            const res = await talk(p.port, ['POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nAuthorization: Bearer nobody-0123456789abcdef\r\n\r\n' + '{'.repeat(1000)])
            if (res.statuses[0]) assert.equal(res.statuses[0], 401)
            n++
        }
    })
    const times = []
    for (let i = 0; i < 20; i++) {
        const begin = Date.now()
        assert.equal((await p.request('POST', '/v1/completions', small, key)).status, 200)
        times.push(Date.now() - begin)
    }
    over = true
    await Promise.all(storm)
    assert.ok(n > 50)
    assert.ok(Math.max(...times) < (slow ? 10000 : 1500), `${times}`)
})

await test('nothing is left of it: no connection, no descriptor, no body', async () => {
    const fds = () => fs.readdirSync(`/proc/${p.child.pid}/fd`).length
    await until('all are closed', () => fds() < 60)
    await until('the gauge', async () => Number(/^http_connections (\d+)/m.exec((await p.request('GET', '/metrics', undefined, key)).text)[1]) <= 2)
    await p.stop()
})
await done()
