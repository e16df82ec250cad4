// tests/load/soak.mjs - `make soak`: 64 clients for SOAK_SECONDS (3600) on a cache five times too small for them,
// with mixed lengths, priorities, keys, cancels and time limits. Fails when a request fails that was not
// cancelled and did not run out of its own time, when one waits longer than the bound that docs/design.md
// states, when memory grows, when pages stay held, or when one of the 1 % of outputs that are computed again
// alone comes out different. SOAK_THREADS are those of the daemon (0, as many as there are).
//
// The bound in tokens, so that a machine that is busy with other things does not matter: once a request has
// waited max_priority_wait, the others get no more tokens before its first than those that were there at
// that moment still had to get. Whoever came later and got a token first would add to it.
import fs from 'node:fs'
import http from 'node:http'
import { note, sleep, start, test, done } from '../integration/harness.mjs'
import assert from 'node:assert/strict'

const seconds = Number(process.env.SOAK_SECONDS || 3600)
const threads = Number(process.env.SOAK_THREADS || 0)
const n_clients = 64
const aging_s = 5
const C = '/v1/completions'

let rng = Number(process.env.LATENT_TEST_SEED || Date.now()) >>> 0
note(`seed ${rng}, ${seconds} s`)
const below = (n) => {
    rng = (Math.imul(rng, 1664525) + 1013904223) >>> 0
    return Math.floor((rng / 4294967296) * n)
}

const systems = Array.from({ length: 8 }, () => Array.from({ length: 300 }, () => 300 + below(4000)))
function make_request() {
    const own = Array.from({ length: [8, 40, 120, 300][below(4)] }, () => 300 + below(4000))
    const body = {
        prompt: below(2) ? [...systems[below(8)], ...own] : own,
        max_tokens: 1 + below(below(4) ? 60 : 150), seed: below(1000), temperature: below(2) ? 0 : 0.8,
        ignore_eos: true, return_token_ids: true, stream: true, priority: below(3) ? 0 : below(7) - 3,
    }
    if (below(40) === 0) body.timeout = 1 + below(20)
    return body
}

let n_out = 0 // tokens that anybody got
const in_flight = new Set()
let n_overdue = 0, worst_share = 0

/** What `r` has been waiting for from now on, when it has waited so long that nobody may come before it. */
function overdue(r) {
    if (!in_flight.has(r) || r.ids.length) return
    n_overdue++
    r.from = n_out
    r.allowed = 0
    for (const other of in_flight) if (other !== r) r.allowed += other.max_tokens - other.ids.length
}

/** {ids, first_ms, error, cancelled}: cancelled after `stop_after` tokens. */
function run(d, body, key, stop_after = Infinity) {
    return new Promise((resolve) => {
        const data = JSON.stringify(body), ids = [], began = performance.now()
        const r = { ids, first_ms: 0, error: null, cancelled: false, max_tokens: body.max_tokens, allowed: 0 }
        in_flight.add(r)
        const timer = setTimeout(overdue, aging_s * 1000, r)
        const finish = () => {
            clearTimeout(timer)
            in_flight.delete(r)
            resolve(r)
        }
        const req = http.request({ host: '127.0.0.1', port: d.port, method: 'POST', path: C, agent: d.agent,
            headers: { 'Content-Type': 'application/json', 'Content-Length': data.length, Authorization: `Bearer ${key}` },
        }, (res) => {
            let rest = ''
            res.setEncoding('utf8')
            res.on('data', (text) => {
                rest += text
                for (let at; (at = rest.indexOf('\n\n')) >= 0; rest = rest.slice(at + 2)) {
                    const line = rest.slice(6, at)
                    if (!line.startsWith('{')) continue
                    const event = JSON.parse(line)
                    if (event.error) r.error = event.error
                    const got = event.choices?.[0]?.token_ids || []
                    if (got.length && !ids.length) {
                        r.first_ms = performance.now() - began
                        if (r.allowed) worst_share = Math.max(worst_share, (n_out - r.from) / r.allowed)
                    }
                    ids.push(...got)
                    n_out += got.length
                }
                if (ids.length >= stop_after) {
                    r.cancelled = true
                    req.destroy()
                }
            })
            res.on('close', () => {
                if (res.statusCode !== 200) r.error = { status: res.statusCode, text: rest }
                finish()
            })
        })
        req.on('error', (e) => {
            if (!r.cancelled) r.error = e
            finish()
        })
        req.end(data)
    })
}

const metric = (text, name) => {
    let sum = 0
    for (const line of text.split('\n'))
        if (line.startsWith(name) && !line.startsWith('#')) sum += Number(line.split(' ').pop())
    return sum
}
const rss = (d) => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${d.child.pid}/status`, 'utf8'))[1])

// The longest requests of 64 clients need 64 x 24 pages of 32 tokens; their mean about 11.
const probe = await start({ set: { max_num_seqs: 64 } })
const text = (await probe.request('GET', '/metrics')).text
const page_bytes = metric(text, 'latentd_cache_bytes_per_token') * 32
await probe.kill()
const n_pages = Math.round((64 * 11) / 5)

const set = { max_num_seqs: 64, cache_size: n_pages * page_bytes + 65536, max_priority_wait: `${aging_s}s`, threads, access_log: 'false' }
const d = await start({ set })
let n = 0, failed = [], cancelled = 0, expired = 0, worst_ms = 0, samples = []
const served_ms = []
const ends = Date.now() + seconds * 1000

async function client(i) {
    while (Date.now() < ends) {
        const body = make_request(), cancel = below(10) === 0
        const began = performance.now()
        const r = await run(d, body, `key${i % 12}`, cancel ? 1 + below(20) : Infinity)
        n++
        if (r.cancelled) cancelled++
        else if (r.error && r.error.code === 'timeout' && body.timeout) expired++
        else if (r.error) failed.push(JSON.stringify(r.error))
        else served_ms.push(performance.now() - began)
        if (r.first_ms > worst_ms) worst_ms = r.first_ms
        if (!r.error && !r.cancelled && below(100) === 0) samples.push({ body, ids: r.ids })
    }
}

let early = 0, late = 0
const watch = (async () => {
    while (Date.now() < ends) {
        await sleep(1000)
        const share = 1 - (ends - Date.now()) / (seconds * 1000)
        if (share < 0.25) early = Math.max(early, rss(d))
        else late = Math.max(late, rss(d))
    }
})()
await Promise.all([...Array.from({ length: n_clients }, (_, i) => client(i)), watch])
const after = (await d.request('GET', '/metrics')).text
served_ms.sort((a, b) => a - b)
const out_rate = n_out / seconds
note(`${n} requests, ${cancelled} cancelled, ${expired} out of their time; ${metric(after, 'vllm:num_preemptions_total')} preemptions; ` +
    `${failed.length} failed; ${out_rate.toFixed(0)} tokens a second; worst wait ${(worst_ms / 1000).toFixed(2)} s; ` +
    `${n_overdue} waited ${aging_s} s, the worst then ${(100 * worst_share).toFixed(0)} % of the bound; ` +
    `a request ${served_ms[served_ms.length >> 1]?.toFixed(0)} ms in the middle, ${served_ms.at(-1)?.toFixed(0)} at most; ` +
    `memory ${early} KiB in the first quarter, ${late} KiB later`)
for (const line of after.split('\n')) if (/^latentd_(preemptions|expired)_total/.test(line)) note(line)

await test('no request failed', () => assert.deepEqual(failed.slice(0, 5), []))
await test('nobody waited longer than the bound', () =>
    assert.ok(worst_share <= 1, `${(100 * worst_share).toFixed(0)} % of it`))
await test('memory does not grow', () => assert.ok(late < early * 1.1 + 4096, `${early} to ${late} KiB`))
await test('no page is held at the end', async () => {
    for (let i = 0; i < 100; i++) {
        const m = (await d.request('GET', '/metrics')).text
        const held = m.split('\n').find((l) => l.startsWith('latentd_kv_pages') && l.includes('"held"'))
        if (held.endsWith(' 0') && metric(m, 'latentd_parked_bytes') === 0) return
        await sleep(50)
    }
    assert.fail('pages are held or rows parked though nothing runs')
})
await test('sampled outputs are those of runs alone', async () => {
    const alone = await start({ set: { prefix_cache: 'false', max_num_seqs: 1 } })
    for (const s of samples) assert.deepEqual((await run(alone, s.body, 'x')).ids, s.ids)
    note(`${samples.length} compared`)
})
await done()
