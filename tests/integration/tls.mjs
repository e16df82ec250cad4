// tests/integration/tls.mjs - TLS against the running daemon: clients of several kinds, and those that are none.
import { execFileSync, spawnSync } from 'node:child_process'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import tls from 'node:tls'
import { assert, done, fs, model, path, scratch, skip_all, sleep, slow, spawn, start, test, until } from './harness.mjs'

if (spawnSync('openssl', ['version']).status !== 0) skip_all('no openssl program')
const dir = fs.mkdtempSync(path.join(scratch, 'tls-'))
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }))
const file = (name) => path.join(dir, name)
const openssl = (...args) => execFileSync('openssl', args, { cwd: dir, stdio: 'pipe' })

/** An authority NAME, or a certificate NAME signed by it. */
function make(name, ca) {
    openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', `${name}.key`, '-subj', `/CN=${name}`,
        ...(ca ? ['-out', `${name}.csr`] : ['-x509', '-days', '2', '-out', `${name}.pem`]))
    if (!ca) return
    fs.writeFileSync(file('ext'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
    openssl('x509', '-req', '-in', `${name}.csr`, '-CA', `${ca}.pem`, '-CAkey', `${ca}.key`, '-CAcreateserial', '-days', '2', '-extfile',
        'ext', '-out', `${name}.pem`)
}
make('ca')
make('other')
make('server', 'ca')
make('renewed', 'ca')
make('client', 'ca')
make('stranger', 'other')
openssl('ec', '-in', 'server.key', '-aes128', '-passout', 'pass:secret', '-out', 'locked.key')
for (const f of ['pem', 'key']) fs.copyFileSync(file('server.' + f), file('live.' + f))

const set = { tls_cert: file('live.pem'), tls_key: file('live.key'), header_timeout: '1s', log_level: 'debug' }
const d = await start({ args: ['--listen', 'tls:127.0.0.1:0'], set })
const port_of = (daemon) => Number(/listening on 127\.0\.0\.1:(\d+) with TLS/.exec(fs.readFileSync(daemon.log_path, 'utf8'))[1])
const port = port_of(d)
const ca = fs.readFileSync(file('ca.pem'))

function request(method, url, body, more = {}) {
    return new Promise((resolve, reject) => {
        const data = body && JSON.stringify(body)
        const req = https.request({
            host: '127.0.0.1', port, method, path: url, ca, agent: false, ...more,
            headers: data ? { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(data) } : {},
        }, (res) => {
            const parts = []
            const { socket } = res
            const about = { version: socket.getProtocol(), alpn: socket.alpnProtocol, cn: socket.getPeerCertificate().subject.CN }
            res.on('data', (p) => parts.push(p)).on('error', reject)
            res.on('end', () => resolve({ status: res.statusCode, text: Buffer.concat(parts).toString(), ...about }))
        })
        req.on('error', reject)
        req.end(data)
    })
}
const connect = (more = {}) => tls.connect({ host: '127.0.0.1', port, ca, ALPNProtocols: ['http/1.1'], ...more })
const failed = (sock) => new Promise((resolve) => {
    sock.on('error', (e) => resolve(e.code ?? e.message))
    sock.on('close', () => resolve('closed'))
    sock.on('secureConnect', () => sock.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n'))
    sock.on('data', () => resolve('answered'))
})

await test('both versions, one protocol, a chain that verifies', async () => {
    for (const v of ['TLSv1.2', 'TLSv1.3']) {
        const res = await request('GET', '/health', null, { minVersion: v, maxVersion: v, ALPNProtocols: ['h2', 'http/1.1'] })
        assert.deepEqual([res.status, res.version, res.alpn, res.cn], [200, v, 'http/1.1', 'server'])
    }
    assert.equal((await request('GET', '/health', null, { ALPNProtocols: undefined })).status, 200)
    assert.match(await failed(connect({ ALPNProtocols: ['h2'] })), /ERR_SSL|ECONNRESET|ALERT/)
    const old = spawnSync('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-tls1_1', '-cipher', 'DEFAULT@SECLEVEL=0'], { input: '' })
    assert.notEqual(old.status, 0, 'TLS 1.1 was spoken')
})

await test('plain HTTP gets a sentence, in plain HTTP', async () => {
    const plainly = (text) => new Promise((resolve, reject) => {
        const sock = net.connect(port, '127.0.0.1', () => sock.write(text))
        let said = ''
        sock.on('data', (piece) => { said += piece })
        sock.on('end', () => resolve(said)).on('error', reject)
    })
    for (const text of ['GET /health HTTP/1.1\r\nHost: x\r\n\r\n', `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(100000)}`]) {
        const said = await plainly(text)
        assert.match(said, /^HTTP\/1\.1 400 [^]*Connection: close\r\n[^]*"message":"plain HTTP [^"]*https:/)
    }
    assert.equal((await request('GET', '/health')).status, 200)
})

await test('the same answers as without: streams, large bodies, large answers', async () => {
    const ask = { prompt: 'The history of', max_tokens: 50, temperature: 0 }
    const plain = await d.post('/v1/completions', ask)
    assert.equal(JSON.parse((await request('POST', '/v1/completions', ask)).text).choices[0].text, plain.choices[0].text)
    const stream = await request('POST', '/v1/completions', { ...ask, stream: true })
    const text = stream.text.split('\n\n').filter((l) => l.startsWith('data: {')).map((l) => JSON.parse(l.slice(6)).choices[0].text).join('')
    assert.equal(text, plain.choices[0].text)
    assert.ok(stream.text.endsWith('data: [DONE]\n\n'))
    const long = { prompt: 'The city of words. '.repeat(slow ? 5000 : 100000) }
    const [a, b] = [await d.post('/tokenize', long), JSON.parse((await request('POST', '/tokenize', long)).text)]
    assert.ok(a.tokens.length > (slow ? 10000 : 300000))
    assert.deepEqual(a, b)
})

await test('who reads slowly gets everything, and holds nobody up', async () => {
    const sock = connect()
    const body = JSON.stringify({ prompt: 'The city of words. '.repeat(slow ? 5000 : 100000) })
    await new Promise((resolve) => sock.on('secureConnect', resolve))
    sock.write(`POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`)
    sock.write(body)
    await new Promise((resolve) => sock.once('readable', resolve))
    await sleep(300)
    assert.equal((await request('GET', '/health')).status, 200)
    let n = 0
    let text = ''
    for await (const piece of sock) {
        n += piece.length
        text += piece
        if (n % 7 === 0) await sleep(1)
    }
    const length = Number(/Content-Length: (\d+)/.exec(text)[1])
    assert.equal(text.length - text.indexOf('\r\n\r\n') - 4, length)
})

await test('a connection that waits keeps no memory of a large answer', async () => {
    if (slow) return // sanitizers keep what is freed
    const rss = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${d.child.pid}/status`, 'utf8'))[1])
    const long = { prompt: 'a b '.repeat(150000) }
    const agents = [], shared = d.agent
    let before
    for (let i = 0; i < 32; i++) {
        if (i === 2) before = rss()
        const agent = new https.Agent({ keepAlive: true })
        d.agent = new http.Agent({ keepAlive: true })
        agents.push(agent, d.agent)
        assert.ok((await request('POST', '/tokenize', long, { agent })).text.length > 1e6)
        await d.post('/tokenize', long)
    }
    const more = rss() - before
    agents.forEach((agent) => agent.destroy())
    d.agent = shared
    assert.ok(more < 20000, `${more} kB more`)
})

await test('a client that leaves in the middle is cancelled', async () => {
    const sock = connect()
    await new Promise((resolve) => sock.on('secureConnect', resolve))
    const body = JSON.stringify({ prompt: [5], max_tokens: 2000, ignore_eos: true, stream: true })
    sock.write(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
    await new Promise((resolve) => sock.once('data', resolve))
    sock.end() // close_notify
    await d.idle()
})

/** A relay that hands pieces on one by one. */
function relay(size) {
    const server = net.createServer((a) => {
        const b = net.connect(port, '127.0.0.1')
        for (const [x, y] of [[a, b], [b, a]]) {
            x.setNoDelay(true)
            x.on('data', (data) => {
                for (let i = 0; i < data.length; i += size) y.write(data.subarray(i, i + size))
            })
            x.on('close', () => y.destroy())
            x.on('error', () => {})
        }
    })
    return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)))
}

await test('records in pieces of any size', async () => {
    for (const size of [1, 3, 100]) {
        const server = await relay(size)
        const res = await request('POST', '/tokenize', { prompt: 'x'.repeat(3000) }, { port: server.address().port })
        assert.equal(res.status, 200)
        server.close()
    }
})

await test('pipelined requests in one record, keep-alive, and an orderly end', async () => {
    const sock = connect()
    await new Promise((resolve) => sock.on('secureConnect', resolve))
    sock.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(20) + 'GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    let text = ''
    sock.on('data', (p) => (text += p))
    let ended = false
    sock.on('end', () => (ended = true)) // only after close_notify; else an error
    await new Promise((resolve) => sock.on('close', resolve))
    assert.equal(text.match(/HTTP\/1\.1 200/g).length, 21)
    assert.ok(ended)
})

const raw = (...pieces) => new Promise((resolve) => {
    const begin = Date.now()
    const sock = net.connect(port, '127.0.0.1')
    sock.on('error', () => {})
    sock.on('data', () => {})
    sock.on('close', () => resolve(Date.now() - begin))
    for (const p of pieces) sock.write(p)
})

await test('what is no TLS is ended at once, what does not go on in header_timeout', async () => {
    const hello = Buffer.from('160301020001000001fc0303', 'hex')
    for (const bytes of ['GET / HTTP/1.1\r\nHost: x\r\n\r\n', Buffer.alloc(70000, 0x41), Buffer.from('1603010000160301ffff', 'hex')])
        assert.ok((await raw(bytes)) < 900, 'it waited for a timeout')
    for (const pieces of [[], [hello.subarray(0, 3)], [hello], [hello, Buffer.alloc(100)]]) {
        const ms = await raw(...pieces)
        assert.ok(ms >= 800 && ms < (slow ? 20000 : 3000), `${ms} ms`)
    }
    assert.equal((await request('GET', '/health')).status, 200)
    const m = (await d.get('/metrics')).text
    assert.ok(Number(/handshakes_total\{result="failed"\} (\d+)/.exec(m)[1]) >= 6)
    assert.ok(Number(/handshakes_total\{result="ok"\} (\d+)/.exec(m)[1]) >= 8)
})

await test('renegotiation is refused', async () => {
    const child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-tls1_2', '-CAfile', file('ca.pem')], { stdio: 'pipe' })
    let text = ''
    child.stdout.on('data', (p) => (text += p))
    child.stderr.on('data', (p) => (text += p))
    await until('the handshake', () => /Verify return code: 0/.test(text))
    child.stdin.write('R\n')
    await until('the refusal', () => /no renegotiation|RENEGOTIATING[\s\S]*error/.test(text))
    child.kill()
    assert.equal((await request('GET', '/health')).status, 200)
})

await test('certificates are renewed by SIGHUP; a broken one is not taken', async () => {
    const running = connect()
    await new Promise((resolve) => running.on('secureConnect', resolve))
    const body = JSON.stringify({ prompt: [5], max_tokens: slow ? 100 : 1500, ignore_eos: true, stream: true })
    running.write(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
    let text = ''
    running.on('data', (p) => (text += p))
    const over = new Promise((resolve) => running.on('close', resolve))
    await until('it runs', () => text.includes('data: '))
    const log = () => fs.readFileSync(d.log_path, 'utf8')
    const hup = async () => {
        const from = log().length
        d.child.kill('SIGHUP')
        await until('reloaded', () => / done: |everything stays/.test(log().slice(from)))
        return log().slice(from)
    }
    for (const f of ['pem', 'key']) fs.copyFileSync(file('renewed.' + f), file('live.' + f))
    assert.match(await hup(), /done: /)
    assert.equal((await request('GET', '/health')).cn, 'renewed')
    fs.copyFileSync(file('server.key'), file('live.key'))
    assert.match(await hup(), /tls_key .*mismatch[\s\S]*everything stays/i)
    assert.equal((await request('GET', '/health')).cn, 'renewed')
    await over
    assert.ok(text.includes('data: [DONE]'))
})

await test('client certificates', async () => {
    const c = await start({
        args: ['--listen', 'tls:127.0.0.1:0'],
        set: { ...set, tls_key: file('renewed.key'), tls_cert: file('renewed.pem'), tls_client_ca: file('ca.pem'), tls_min_version: '1.3' },
    })
    const p = port_of(c)
    const pair = (name) => ({ port: p, cert: fs.readFileSync(file(name + '.pem')), key: fs.readFileSync(file(name + '.key')) })
    assert.equal((await request('GET', '/health', null, pair('client'))).status, 200)
    assert.notEqual(await failed(connect({ port: p })), 'answered')
    assert.notEqual(await failed(connect(pair('stranger'))), 'answered')
    assert.notEqual(await failed(connect({ ...pair('client'), maxVersion: 'TLSv1.2' })), 'answered')
    assert.equal(await failed(connect(pair('client'))), 'answered')
    await c.stop()
})

await test('mistakes in the configuration are told at the start', async () => {
    const told = async (more, what, listen = 'tls:127.0.0.1:0') => {
        const env = Object.fromEntries(Object.entries(process.env).filter(([k]) => !k.startsWith('LATENTD_')))
        const args = Object.entries(more).flatMap(([k, v]) => ['--set', `${k}=${v}`])
        const r = spawnSync(path.join(process.env.top_builddir ?? 'build', 'latentd'), ['--model', model, '--check-config',
            '--listen', listen, ...args], { env, encoding: 'utf8', timeout: 10000 })
        assert.equal(r.status, 1, r.stdout)
        assert.match(r.stderr, what)
    }
    const [tls_cert, tls_key] = [file('server.pem'), file('server.key')]
    await told({}, /listen: tls: needs tls_cert and tls_key/)
    await told({ tls_cert }, /tls_cert and tls_key go together/)
    await told({ tls_cert: file('none'), tls_key }, /tls_cert .*none: No such file/)
    await told({ tls_cert, tls_key: file('client.key') }, /tls_key .*mismatch/)
    await told({ tls_cert, tls_key: file('locked.key') }, /tls_key /)
    await told({ tls_cert, tls_key, tls_client_ca: file('server.key') }, /tls_client_ca /)
    await told({ tls_cert, tls_key, tls_min_version: '1.1' }, /not one of: 1.2 1.3/)
})

await test('nothing is left open', async () => {
    await until('all are closed', async () => (await d.metric('http_connections')) === 1)
    await d.stop()
})
await done()
