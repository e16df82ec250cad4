// tests/load/chaos.mjs - `make check-chaos`: CHAOS_SECONDS (7200) at 80 % of what the daemon can do, while it is killed (-9)
// and started again on the same disk tier, reloads, loses clients in bursts, and its disk fills up (a small tmpfs, as root).
//
// Every answer is compared with that of the same request alone on a daemon without any cache (README, "The same answer
// every time"); of those that are cancelled what came until then. A client asks again when the daemon was down; a
// request that fails while it was up, or is answered wrongly, is a failure. Memory must not grow in any life, and nothing
// may be held at the end. LATENT_TEST_SEED repeats a run's decisions.
import { execFileSync } from 'node:child_process'
import net from 'node:net'
import { assert, done, fs, note, path, random, random_ids, scratch, sleep, start, test, until } from '../integration/harness.mjs'
import { ask, ask_stream, set_patience } from './client.mjs'

const seconds = Number(process.env.CHAOS_SECONDS || 7200)
const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 1e6)
const rng = random(seed)
const below = (n) => Math.floor(rng() * n)
const C = '/v1/completions'
note(`seed ${seed}, ${seconds} s`)
set_patience(120000)

// --- what is asked, and what is right -------------------------------------------------------------------

const systems = Array.from({ length: 6 }, () => random_ids(rng, 64 + below(400)))
const pool = Array.from({ length: 160 }, (_, i) => ({
    prompt: [...(i % 4 ? systems[i % 6] : [0]), ...random_ids(rng, 4 + below(i % 10 ? 60 : 900)).slice(1)],
    max_tokens: 4 + below(60), temperature: i % 3 ? 0.8 : 0, seed: i, ignore_eos: i % 2 === 0, return_token_ids: true,
    ...(i % 5 ? {} : { logprobs: 2 }), ...(i % 7 ? {} : { priority: i % 3 }),
}))
const oracle_daemon = await start({ set: { prefix_cache: false, max_num_seqs: 1, access_log: false } })
for (const body of pool) {
    const c = (await oracle_daemon.post(C, body)).choices[0]
    body.right = { ids: c.token_ids, text: c.text, finish: c.finish_reason, logprobs: JSON.stringify(c.logprobs) }
}
await oracle_daemon.kill()
const plain = ({ right, ...body }) => body

// --- the daemon and its disk ------------------------------------------------------------------------------

const folder = path.join(scratch, `chaos.${process.pid}`)
fs.mkdirSync(folder, { recursive: true })
let mounted = false
try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m,mode=700', 'latentd-chaos', folder], { stdio: 'pipe' })
    mounted = true
} catch {
    note('no tmpfs can be mounted here: the disk does not fill up')
}
process.on('exit', () => {
    if (mounted) execFileSync('umount', ['-l', folder])
    fs.rmSync(folder, { recursive: true, force: true })
})
const ballast = path.join(folder, 'ballast')
const conf = path.join(scratch, `chaos.${process.pid}.conf`)
process.on('exit', () => fs.rmSync(conf, { force: true }))
let n_reloads = 0
const write_conf = () => fs.writeFileSync(conf, `model_aliases = alias-${n_reloads}\nmax_prompts = ${1 + n_reloads % 60}\nkeepalive = ${1 + n_reloads % 5}s\n`)
write_conf()
const port = await new Promise((resolve) => {
    const s = net.createServer().listen(0, '127.0.0.1', () => {
        const p = s.address().port
        s.close(() => resolve(p))
    })
})
const options = {
    args: ['--config', conf, '--listen', `127.0.0.1:${port}`],
    set: {
        access_log: false, page_tokens: 16, cache_size: '12M', park_size: '4M', cache_disk_path: path.join(folder, 'cache'),
        cache_disk_size: '16M', cache_disk_rate: 0, cache_disk_read: 'always', max_num_seqs: 24,
    },
}
const rss_kib = (d) => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${d.child.pid}/status`, 'utf8'))[1])
let d = await start(options)
/** From the kill to the next one's being ready. */
const downs = []
const was_down = (from, to) => downs.some((w) => w.from <= to && (w.to ?? Infinity) >= from)

// --- clients ------------------------------------------------------------------------------------------------

const n = { asked: 0, right: 0, cancelled: 0, again: 0, busy: 0 }
const wrong = [], lost = []
let open = 0

function compare(body, a, how) {
    const want = body.right
    const ids = how === 'whole' ? a.json.choices[0].token_ids : a.ids
    const prefix = ids.every((id, i) => id === want.ids[i])
    if (how === 'cancelled' ? !prefix : !prefix || ids.length !== want.ids.length) return `tokens ${ids} instead of ${want.ids}`
    if (how !== 'whole') return null
    const c = a.json.choices[0]
    return c.text !== want.text ? `text ${c.text}` : c.finish_reason !== want.finish ? `finish ${c.finish_reason}`
        : JSON.stringify(c.logprobs) !== want.logprobs ? 'log-probabilities' : null
}

async function client(body) {
    open++
    n.asked++
    const how = ['whole', 'stream', 'stream', below(4) ? 'whole' : 'cancelled'][below(4)]
    const stop_after = 1 + below(8)
    for (let tries = 0; ; tries++) {
        const from = performance.now()
        let cut = false
        const a = how === 'whole' ? await ask(port, 'POST', C, plain(body))
            : await ask_stream(port, C, plain(body), {}, (s) => {
                if (how === 'cancelled' && s.n_tokens >= stop_after && !cut) {
                    cut = true
                    s.req.destroy()
                }
            })
        const complete = a.status === 200 && !a.error && (how === 'whole' ? a.json : cut || a.finished)
        if (complete || cut) {
            const problem = compare(body, a, cut ? 'cancelled' : how)
            if (problem) wrong.push(`${how}: ${problem}`)
            else cut ? n.cancelled++ : n.right++
            break
        }
        if (a.status === 429 && tries < 200) n.busy++
        else if (was_down(from, performance.now()) && tries < 200) n.again++
        else {
            lost.push(`${how}, ${a.status} ${JSON.stringify(a.error)} ${a.text.slice(0, 200)} after ${(performance.now() - from).toFixed(0)} ms`)
            break
        }
        // what came before the cut must be right all the same
        if (a.ids?.length && compare(body, a, 'cancelled')) wrong.push(`${how}, before it was cut: ${compare(body, a, 'cancelled')}`)
        await sleep(50 + below(200))
    }
    open--
}

// --- how much is 80 %? ------------------------------------------------------------------------------------

async function capacity() {
    const ends = performance.now() + 8000
    let count = 0
    await Promise.all(Array.from({ length: 24 }, async () => {
        while (performance.now() < ends) {
            const a = await ask(port, 'POST', C, plain(pool[below(pool.length)]))
            assert.equal(a.status, 200, a.text)
            count++
        }
    }))
    return count / 8
}
await capacity() // warm
const most = await capacity()
const rate = 0.8 * most
note(`${most.toFixed(1)} requests a second at most; ${rate.toFixed(1)} are asked`)

// --- chaos --------------------------------------------------------------------------------------------------

const count = { kills: 0, reloads: 0, bursts: 0, fills: 0 }
const ends = performance.now() + seconds * 1000
const lives = []
let life = { began: performance.now(), samples: [] }

async function kill() {
    count.kills++
    lives.push(life)
    const w = { from: performance.now() }
    downs.push(w)
    d.child.kill('SIGKILL')
    await d.exited
    await sleep(below(500))
    d = await start(options)
    w.to = performance.now() + 100
    life = { began: performance.now(), samples: [] }
}
async function reload() {
    count.reloads++
    n_reloads++
    write_conf()
    d.child.kill('SIGHUP')
    await sleep(200)
}
async function burst() {
    count.bursts++
    await Promise.all(Array.from({ length: 16 }, () => ask_stream(port, C, { ...plain(pool[below(pool.length)]), max_tokens: 200, ignore_eos: true },
        {}, (s) => s.req.destroy())))
}
async function fill() {
    if (!mounted) return
    count.fills++
    try {
        const fd = fs.openSync(ballast, 'w')
        const mib = Buffer.alloc(1 << 20)
        try {
            for (;;) if (fs.writeSync(fd, mib) < mib.length) break
        } catch { /* full */ }
        fs.closeSync(fd)
        await sleep(1000 + below(3000))
    } finally {
        fs.rmSync(ballast, { force: true })
    }
}

const chaos = (async () => {
    let next_kill = performance.now() + 15000 + below(30000)
    while (performance.now() < ends) {
        await sleep(1000 + below(4000))
        if (performance.now() > next_kill) {
            await kill()
            next_kill = performance.now() + 20000 + below(70000)
        } else {
            await [reload, burst, fill][below(3)]()
        }
        assert.equal(d.exit, undefined, `the daemon ended by itself: ${JSON.stringify(d.exit)}\n${d.tail()}`)
    }
})()
const watch = (async () => {
    while (performance.now() < ends) {
        if (!d.exit) {
            try {
                life.samples.push([performance.now() - life.began, rss_kib(d)])
            } catch { /* it is being killed */ }
        }
        await sleep(1000)
    }
})()
const tell = setInterval(() => note(`${Math.round((ends - performance.now()) / 1000)} s to go: ${JSON.stringify(n)}, ${open} open; ${JSON.stringify(count)}; ` +
    `wrong ${wrong.length}, lost ${lost.length}; ${life.samples.at(-1)?.[1]} KiB`), 60000)
tell.unref()

const clients = []
const began = performance.now()
for (let sent = 0, due = 0; performance.now() < ends;) {
    for (due += -Math.log(1 - rng()) / rate; due > (performance.now() - began) / 1000 && performance.now() < ends;) await sleep(2)
    // after a kill, or when others take the machine, what waits shall be worked off and not grow
    while (open > 100 && performance.now() < ends) {
        await sleep(20)
        due = (performance.now() - began) / 1000
    }
    clients.push(client(pool[below(pool.length)]))
    if (++sent % 1000 === 0) await Promise.race([Promise.all(clients.splice(0, 500)), sleep(0)])
}
await chaos
await watch
await Promise.all(clients)
await until('all have ended', () => open === 0, 120000)
lives.push(life)

note(`${JSON.stringify(n)}; ${JSON.stringify(count)}; wrong ${wrong.length}, lost ${lost.length}`)
await test('no answer is wrong', () => assert.deepEqual(wrong.slice(0, 5), []))
await test('none is lost but to a kill, and those are answered when asked again', () => {
    assert.deepEqual(lost.slice(0, 5), [])
    assert.equal(n.right + n.cancelled, n.asked)
    assert.ok(n.right > 0.5 * rate * seconds * 0.5, `only ${n.right}`)
})
await test('memory is flat in every life', () => {
    let worst = 0
    for (const l of lives) {
        const late = l.samples.filter(([at]) => at > 15000).map(([, kib]) => kib)
        if (late.length < 16) continue
        const quarter = late.length >> 2
        const grown = Math.max(...late.slice(-quarter)) / Math.max(...late.slice(0, quarter))
        worst = Math.max(worst, grown)
    }
    note(`${lives.length} lives; the last quarter of one has at most ${worst.toFixed(3)} times the first`)
    assert.ok(worst < 1.1, `${worst}`)
    if (seconds > 300) assert.ok(worst > 0, 'no life was long enough to tell')
})
await test('nothing is held at the end, and it ends cleanly', async () => {
    await d.idle()
    const m = (await d.get('/metrics')).text
    for (const line of m.split('\n')) if (/^latentd_(preemptions_total|disk_(hit_tokens|errors|evictions)[a-z_]*|parked_bytes)/.test(line)) note(line)
    assert.deepEqual(await d.stop(), { code: 0, signal: null })
})
await done()
