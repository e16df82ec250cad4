// tests/load/proxy.mjs - `make check-proxy`: two daemons behind etc/haproxy.cfg and etc/nginx.conf as they are, but for
// addresses. Conversations find their prefixes nearly as often as with one daemon; a daemon that is killed loses no
// request that came after, one that drains loses none at all; daemons that are full say so themselves.
import { execFileSync } from 'node:child_process'
import net from 'node:net'
import {
    assert, done, fs, note, path, random, random_ids, scratch, skip_test, sleep, spawn, start, test, top_srcdir, until,
} from '../integration/harness.mjs'
import { ask, ask_stream } from './client.mjs'

const C = '/v1/completions'
process.setMaxListeners(40)

const free_port = () => new Promise((resolve) => {
    const s = net.createServer().listen(0, '127.0.0.1', () => {
        const { port } = s.address()
        s.close(() => resolve(port))
    })
})

const daemon = (port, set = {}) => start({ args: ['--listen', `127.0.0.1:${port}`], set: { access_log: false, ...set } })

/** The proxy with the example of etc/, before these ports. change(text) may alter more. */
async function proxy(kind, ports, change = (text) => text) {
    const front = await free_port()
    const file = path.join(scratch, `proxy-${process.pid}-${front}.cfg`)
    let text = fs.readFileSync(path.join(top_srcdir, kind === 'haproxy' ? 'etc/haproxy.cfg' : 'etc/nginx.conf'), 'utf8')
    assert.equal(text.match(/# <--/g).length, kind === 'haproxy' ? 5 : 3, 'addresses to change')
    text = text.replaceAll('10.0.0.11:8080', `127.0.0.1:${ports[0]}`).replaceAll('10.0.0.12:8080', `127.0.0.1:${ports[1]}`)
        .replace('0.0.0.0:8000', `127.0.0.1:${front}`).replace('listen 8000', `listen 127.0.0.1:${front}`)
        .replace('pid /run/nginx.pid', `pid ${file}.pid; daemon off`)
        .replace('access_log off;', ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
            .map((k) => `${k}_temp_path ${file}.${k};`).join(' ') + ' access_log off;')
    fs.writeFileSync(file, change(text))
    const log = fs.openSync(file + '.log', 'w')
    const child = spawn(kind, kind === 'haproxy' ? ['-db', '-f', file] : ['-e', file + '.log', '-c', file],
        { stdio: ['ignore', log, log] })
    fs.closeSync(log)
    process.on('exit', () => child.kill('SIGKILL'))
    const p = { port: front, child, log: file + '.log', stop: async () => {
        child.kill(kind === 'haproxy' ? 'SIGTERM' : 'SIGINT')
        await until('the proxy ends', () => child.exitCode !== null || child.signalCode !== null)
    } }
    await until('the proxy serves', async () => {
        assert.equal(child.exitCode, null, fs.readFileSync(p.log, 'utf8'))
        return (await ask(front, 'GET', '/v1/models')).status === 200
    })
    await sleep(500) // a round of checks
    return p
}

const has = (program) => {
    try {
        execFileSync(program, ['-v'], { stdio: 'ignore' })
        return true
    } catch {
        return false
    }
}

// --- prefixes ------------------------------------------------------------------------------------------

/** 60 conversations of six turns, 8 at a time, over four system prompts; the share of prompt tokens that was cached. */
async function conversations(port, mark) {
    const rng = random(7)
    const systems = Array.from({ length: 4 }, () => random_ids(rng, 256))
    const all = Array.from({ length: 60 }, (_, i) => ({ name: `conversation-${i}`, ids: [...systems[i % 4]], turns: 0, rng: random(i) }))
    let prompt = 0, cached = 0
    const queue = [...all]
    const worker = async () => {
        for (let c; (c = queue.shift());) {
            c.ids.push(...random_ids(c.rng, 48).slice(1))
            const { body = {}, headers = {} } = mark(c)
            const r = await ask(port, 'POST', C, { ...body, prompt: c.ids, max_tokens: 16, seed: 1, ignore_eos: true, return_token_ids: true }, headers)
            assert.equal(r.status, 200, r.text)
            prompt += r.json.usage.prompt_tokens
            cached += r.json.usage.prompt_tokens_details.cached_tokens
            c.ids.push(...r.json.choices[0].token_ids)
            if (++c.turns < 6) queue.push(c)
        }
    }
    await Promise.all(Array.from({ length: 8 }, worker))
    return cached / prompt
}

const percent = (x) => `${(100 * x).toFixed(1)} %`
const marks = {
    'the header': (c) => ({ headers: { 'X-Conversation-Id': c.name } }),
    prompt_cache_key: (c) => ({ body: { prompt_cache_key: c.name } }),
    'first bytes': () => ({}),
}
const round_robin = (text) => text.replace(/balance hash.*|hash-type.*|hash-balance-factor.*|hash \$conv.*/g, (l) => l.startsWith('balance') ? 'balance roundrobin' : '')

async function prefixes(kind) {
    const alone = await daemon(await free_port())
    const best = await conversations(alone.port, marks['the header'])
    await alone.kill()
    note(`${kind}: cached of prompt tokens, one daemon: ${percent(best)}`)
    const kinds = kind === 'haproxy' ? Object.keys(marks) : ['the header', 'first bytes']
    for (const how of [...kinds, 'round robin']) {
        const ports = [await free_port(), await free_port()]
        const two = [await daemon(ports[0]), await daemon(ports[1])]
        const p = await proxy(kind, ports, how === 'round robin' ? round_robin : undefined)
        const got = await conversations(p.port, marks[how] ?? marks['first bytes'])
        const loads = await Promise.all(two.map((d) => d.metric('vllm:prompt_tokens_total')))
        note(`${kind}, two daemons, by ${how}: ${percent(got)}; the busier has ${percent(Math.max(...loads) / (loads[0] + loads[1]))} of the prompts`)
        await p.stop()
        for (const d of two) await d.kill()
        if (how === 'round robin') continue
        assert.ok(got >= 0.9 * best, `by ${how}: ${percent(got)}, one daemon ${percent(best)}`)
        assert.ok(Math.min(...loads) > 0, 'one daemon had nothing to do')
    }
}

// --- a daemon that goes ----------------------------------------------------------------------------------

/** Twelve clients, half of them streaming, ask without pause until stop(); what happened to each request. */
function load(port) {
    const seen = []
    let running = true
    const client = async (i) => {
        const rng = random(100 + i)
        while (running) {
            const body = { prompt: random_ids(rng, 40), max_tokens: 40, ignore_eos: true, temperature: 0 }
            const r = { began: performance.now(), streams: i % 2 === 0 }
            seen.push(r)
            const headers = { 'X-Conversation-Id': `c${Math.floor(rng() * 40)}` }
            const a = r.streams ? await ask_stream(port, C, body, headers) : await ask(port, 'POST', C, body, headers)
            r.ended = performance.now()
            r.ok = a.status === 200 && (r.streams ? a.finished && a.n_tokens === 40 : a.json.usage.completion_tokens === 40)
            r.what = `${a.status} ${a.error ?? ''} ${(a.text ?? '').slice(0, 200)}`
            r.began_answer = a.status === 200
        }
    }
    const all = Promise.all(Array.from({ length: 12 }, (_, i) => client(i)))
    return { seen, stop: async () => {
        running = false
        await all
    } }
}
const answered = async (l, n) => {
    const from = l.seen.length
    await until(`${n} more requests`, () => l.seen.length > from + n, 60000)
}

async function goes(kind, signal) {
    const ports = [await free_port(), await free_port()]
    const two = [await daemon(ports[0]), await daemon(ports[1])]
    const p = await proxy(kind, ports)
    const l = load(p.port)
    await answered(l, 100)
    const at = performance.now()
    two[0].child.kill(signal)
    await two[0].exited
    await answered(l, 100)
    const back = await daemon(ports[0])
    await sleep(3000) // fail_timeout, checks
    await answered(l, 100)
    await l.stop()
    const took = await back.metric('vllm:prompt_tokens_total')
    const lost = l.seen.filter((r) => !r.ok)
    const under_way = l.seen.filter((r) => r.began < at && r.ended > at)
    note(`${kind}, ${signal}: ${l.seen.length} requests, ${under_way.length} under way at the moment, ${lost.length} of these lost`)
    await p.stop()
    for (const d of [two[1], back]) await d.kill()
    const wrong = signal === 'SIGKILL' ? lost.filter((r) => r.began > at || !r.streams) : lost
    assert.deepEqual(wrong.slice(0, 3).map((r) => `${(r.began - at).toFixed(0)} ms after: ${r.what}`), [])
    assert.ok(took > 0, 'the daemon that came back was given nothing')
}

// --- all are full ------------------------------------------------------------------------------------------

async function full(kind) {
    const ports = [await free_port(), await free_port()]
    const set = { max_num_seqs: 1, max_queue_requests: 1 }
    const two = [await daemon(ports[0], set), await daemon(ports[1], set)]
    const p = await proxy(kind, ports)
    const streams = two.flatMap((d) => [d, d]).map((d) => d.stream(C, { prompt: 'x', max_tokens: 4000, ignore_eos: true }))
    await until('both are full', async () => (await Promise.all(two.map((d) => d.waiting()))).every((n) => n === 1))
    await sleep(1500)
    const r = await ask(p.port, 'POST', C, { prompt: 'x', max_tokens: 1 })
    for (const s of streams) s.req.destroy()
    await p.stop()
    for (const d of two) await d.kill()
    assert.equal(r.status, 429, r.text)
    assert.ok(Number(r.headers['retry-after']) >= 1)
}

for (const kind of ['haproxy', 'nginx']) {
    if (!has(kind)) {
        skip_test(kind, 'not installed')
        continue
    }
    await test(`${kind}: two daemons find prefixes as often as one, within a tenth`, () => prefixes(kind))
    await test(`${kind}: kill -9 of one under load loses no new request`, () => goes(kind, 'SIGKILL'))
    await test(`${kind}: a drain under load loses none`, () => goes(kind, 'SIGTERM'))
    await test(`${kind}: daemons that are full say so themselves`, () => full(kind))
}
await done()
