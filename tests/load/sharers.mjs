// tests/load/sharers.mjs - `make bench-sharers`: 16 streams that share 1,024 tokens, 1,100 in and 64 out, on the
// shipped model over HTTP, once with a prefix that nobody has asked for before and once with one that is cached;
// beside them the goal, 1,500 output tokens a second and a median first token below 100 ms. Speed is no test:
// it says how far it is and succeeds.
import { spawn } from 'node:child_process'
import path from 'node:path'
import { note, start, top_srcdir } from '../integration/harness.mjs'

const d = await start({ set: { access_log: 'false' } })
const bench = (...more) => new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(top_srcdir, 'tests/load/bench_http.mjs'), '--url', d.base,
        '--streams', '16', '--in', '1100', '--out', '64', '--shared', '1024', '--repeat', '9', '--json', ...more],
    { stdio: ['ignore', 'pipe', 'inherit'] })
    let text = ''
    child.stdout.on('data', (part) => (text += part))
    child.on('close', (code) => (code ? reject(new Error(`bench_http ended with ${code}`)) : resolve(JSON.parse(text))))
})
for (const [name, ...more] of [['new prefix'], ['cached prefix', '--warm']]) {
    const { medians: m, runs } = await bench(...more)
    const rates = runs.map((r) => r['output tokens/s']).sort((a, b) => a - b)
    note(`${name}: ${m['output tokens/s'].toFixed(0)} output tokens/s (${rates[0].toFixed(0)} .. ${rates.at(-1).toFixed(0)}; ` +
        `goal 1500), first token ${m['TTFT p50 ms'].toFixed(0)} ms in the middle (goal 100), p99 ${m['TTFT p99 ms'].toFixed(0)} ms; ` +
        `${m['cached prompt tokens']} of ${16 * 1100} prompt tokens cached`)
}
await d.kill()
process.exit(0)
