#!/usr/bin/env node
// tests/load/bench_http.mjs - load generator for /v1/completions: tokens a second, first token, gaps.
//
// Sends --streams requests of --in random prompt tokens and --out output tokens (ignore_eos), at most
// --concurrency at a time, and prints the median of --repeat runs. Prompts differ from each other and
// from run to run, so nothing comes out of the prefix cache but what --shared says: the first --shared
// tokens, new in every run too, or with --warm the same in all, so that only the first warm-up computes
// them. The same --seed on the same daemon would find everything in its cache. Made to cost little beside the daemon:
// sockets are read raw, events are counted by their blank lines, and only the last one is parsed, for
// its usage. A gap is the time between two reads that brought text, shared by the events they brought.
import net from 'node:net'

const defaults = {
    url: 'http://127.0.0.1:8080', streams: 32, in: 256, out: 64, concurrency: 0, repeat: 3, warmup: 1,
    vocab: 8192, shared: 0, temperature: 0, seed: 0, warm: false, json: false, help: false,
}
const usage = `Usage: node bench_http.mjs [--OPTION VALUE]...
  --url URL          where latentd listens              [${defaults.url}]
  --streams N        requests in one run                [${defaults.streams}]
  --concurrency N    at most so many at once, 0: all    [0]
  --in N             prompt tokens of each              [${defaults.in}]
  --out N            output tokens of each              [${defaults.out}]
  --shared N         leading prompt tokens that all requests of a run have in common  [0]
  --repeat N         measured runs; medians are printed [${defaults.repeat}]
  --warmup N         runs before them                   [${defaults.warmup}]
  --vocab N          ids are drawn from 6 .. N-1        [${defaults.vocab}]
  --temperature T    0 is greedy                        [0]
  --warm             ... and that all runs have in common
  --seed N           of the prompts; 0: from the clock  [0]
  --json             one JSON object instead of a table`

const opt = { ...defaults }
for (let i = 2; i < process.argv.length; i++) {
    const name = process.argv[i].replace(/^--/, '')
    if (!process.argv[i].startsWith('--') || !(name in defaults)) {
        console.error(`unknown argument ${process.argv[i]}\n${usage}`)
        process.exit(2)
    }
    if (typeof defaults[name] === 'boolean') {
        opt[name] = true
        continue
    }
    const value = process.argv[++i]
    opt[name] = typeof defaults[name] === 'number' ? Number(value) : value
    if (value === undefined || Number.isNaN(opt[name])) {
        console.error(`--${name} needs a ${typeof defaults[name]}\n${usage}`)
        process.exit(2)
    }
}
if (opt.help) {
    console.log(usage)
    process.exit(0)
}
const url = new URL(opt.url)

let state = (opt.seed || Date.now()) >>> 0
function random_id() {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return 6 + Math.floor((state / 4294967296) * (opt.vocab - 6))
}
const random_ids = (n) => Array.from({ length: n }, random_id)

function request_bytes(shared) {
    const body = JSON.stringify({
        prompt: [...shared, ...random_ids(opt.in - shared.length)], max_tokens: opt.out, ignore_eos: true,
        temperature: opt.temperature, stream: true, stream_options: { include_usage: true },
    })
    return `POST /v1/completions HTTP/1.1\r\nHost: ${url.host}\r\nContent-Type: application/json\r\n` +
        `Connection: close\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
}

/** One stream; resolves to {ttft, end, gaps, tokens, prompt, cached}, times in ms since `begun`. */
function one(bytes, begun) {
    return new Promise((resolve, reject) => {
        const s = { sent: performance.now() - begun, ttft: 0, gaps: [] }
        let tail = Buffer.alloc(0)
        let head = null
        let previous = 0
        const socket = net.connect(Number(url.port || 80), url.hostname, () => socket.write(bytes))
        socket.setNoDelay(true)
        socket.on('error', reject)
        socket.on('data', (part) => {
            const now = performance.now() - begun
            if (head === null) {
                const end = part.indexOf('\r\n\r\n')
                if (end < 0) return reject(new Error('the response head came in pieces'))
                head = part.toString('latin1', 0, end)
                if (!head.startsWith('HTTP/1.1 200 ')) {
                    return reject(new Error(`${head.split('\r\n')[0]}: ${part.toString('utf8', end + 4)}`))
                }
                part = part.subarray(end + 4)
            }
            let events = 0
            for (let at = part.indexOf('data: {"'); at >= 0; at = part.indexOf('data: {"', at + 8)) events++
            if (events) {
                if (!previous) s.ttft = now - s.sent
                else for (let i = 0; i < events; i++) s.gaps.push((now - previous) / events)
                previous = now
            }
            // the usage event is the last but one; 4 KiB hold it and the end
            tail = Buffer.concat([tail, part]).subarray(-4096)
        })
        socket.on('end', () => {
            const found = /data: (\{[^\n]*"usage":\{[^\n]*\})\n\ndata: \[DONE\]/.exec(
                tail.toString().replace(/\r\n[0-9a-f]+\r\n/g, ''))
            if (!found) return reject(new Error(`a stream ended without usage: ${tail.toString().slice(-300)}`))
            const { usage } = JSON.parse(found[1])
            s.tokens = usage.completion_tokens
            s.prompt = usage.prompt_tokens
            s.cached = usage.prompt_tokens_details?.cached_tokens ?? 0
            s.end = previous
            resolve(s)
        })
    })
}

const sorted = (list) => [...list].sort((a, b) => a - b)
const quantile = (list, q) => (list.length ? list[Math.min(list.length - 1, Math.floor(q * list.length))] : NaN)
const mean = (list) => list.reduce((sum, x) => sum + x, 0) / list.length
const median = (list) => quantile(sorted(list), 0.5)

const kept = random_ids(opt.shared)

async function run() {
    const shared = opt.warm ? kept : random_ids(opt.shared)
    const queue = Array.from({ length: opt.streams }, () => request_bytes(shared))
    const results = []
    const begun = performance.now()
    const cpu = process.cpuUsage()
    await Promise.all(Array.from({ length: opt.concurrency || opt.streams }, async () => {
        for (let bytes; (bytes = queue.pop()); ) results.push(await one(bytes, begun))
    }))
    const seconds = Math.max(...results.map((r) => r.end)) / 1000
    const used = process.cpuUsage(cpu)
    const tokens = results.reduce((sum, r) => sum + r.tokens, 0)
    if (tokens !== opt.streams * opt.out) throw new Error(`${tokens} tokens came, ${opt.streams * opt.out} were asked for`)
    const ttft = sorted(results.map((r) => r.ttft))
    const gaps = sorted(results.flatMap((r) => r.gaps))
    return {
        'output tokens/s': tokens / seconds,
        'prompt tokens/s': results.reduce((sum, r) => sum + r.prompt, 0) / seconds,
        'cached prompt tokens': results.reduce((sum, r) => sum + r.cached, 0),
        'seconds': seconds,
        'TTFT mean ms': mean(ttft), 'TTFT p50 ms': quantile(ttft, 0.5), 'TTFT p99 ms': quantile(ttft, 0.99),
        'ITL mean ms': mean(gaps), 'ITL p50 ms': quantile(gaps, 0.5), 'ITL p99 ms': quantile(gaps, 0.99),
        'client CPU share': (used.user + used.system) / 1e6 / seconds,
    }
}

for (let i = 0; i < opt.warmup; i++) await run()
const runs = []
for (let i = 0; i < opt.repeat; i++) runs.push(await run())
const medians = Object.fromEntries(Object.keys(runs[0]).map((key) => [key, median(runs.map((r) => r[key]))]))
if (opt.json) {
    console.log(JSON.stringify({ options: opt, medians, runs }))
} else {
    console.log(`${opt.streams} streams, ${opt.concurrency || opt.streams} at once, ${opt.in} in, ${opt.out} out; ` +
        `median of ${opt.repeat} runs (least and most)`)
    for (const [key, value] of Object.entries(medians)) {
        const all = sorted(runs.map((r) => r[key]))
        console.log(`${key.padEnd(22)} ${value.toFixed(2).padStart(10)}   (${all[0].toFixed(2)} .. ${all.at(-1).toFixed(2)})`)
    }
}
