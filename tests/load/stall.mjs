// tests/load/stall.mjs - do long prompts stall streams that run? Gaps between the tokens of some streams, alone
// and while prompts arrive one after the other, which ask for one token each.
//
//     node tests/load/stall.mjs [--url http://127.0.0.1:8080] [--streams 8] [--out 400] [--prompt 1900]
//                               [--every 500 (ms between prompts)] [--pending 4 (unanswered at once)]
import http from 'node:http'

const options = { url: 'http://127.0.0.1:8080', streams: '8', out: '400', prompt: '1900', every: '500', pending: '4' }
for (let i = 2; i < process.argv.length; i += 2) {
    const name = process.argv[i].slice(2)
    if (!(name in options) || process.argv[i + 1] === undefined) throw new Error(`unknown option ${process.argv[i]}`)
    options[name] = process.argv[i + 1]
}
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity })
const ids = (n) => Array.from({ length: n }, () => 300 + Math.floor(Math.random() * 4000))

/** Runs a request; onToken at each event with a choice. */
function complete(body, onToken) {
    return new Promise((resolve, reject) => {
        const data = JSON.stringify(body)
        const req = http.request(options.url + '/v1/completions', {
            method: 'POST', agent, headers: { 'Content-Type': 'application/json', 'Content-Length': data.length },
        }, (res) => {
            let rest = ''
            res.setEncoding('utf8')
            res.on('data', (text) => {
                rest += text
                for (let at; (at = rest.indexOf('\n\n')) >= 0; rest = rest.slice(at + 2))
                    if (onToken && rest.startsWith('data: {')) onToken()
            })
            res.on('end', () => (res.statusCode === 200 ? resolve() : reject(new Error(`${res.statusCode} ${rest}`))))
        })
        req.on('error', reject)
        req.end(data)
    })
}

const at = (sorted, p) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]

async function measure(with_prompts) {
    const gaps = []
    let running = Number(options.streams), prompts = 0
    const took = []
    const streams = Array.from({ length: running }, () => {
        let last = 0, n = 0
        return complete({ prompt: ids(32), max_tokens: Number(options.out), ignore_eos: true, temperature: 0,
            stream: true, return_token_ids: true }, () => {
            const now = performance.now()
            if (++n > 20) gaps.push(now - last)
            last = now
        }).finally(() => running--)
    })
    const pending = []
    while (with_prompts && running > 0) {
        const began = performance.now()
        if (prompts - took.length < Number(options.pending)) {
            prompts++
            pending.push(complete({ prompt: ids(Number(options.prompt)), max_tokens: 1, temperature: 0 })
                .then(() => took.push(performance.now() - began)))
        }
        await new Promise((resolve) => setTimeout(resolve, Number(options.every)))
    }
    await Promise.all([...streams, ...pending])
    gaps.sort((a, b) => a - b)
    took.sort((a, b) => a - b)
    console.log(`${with_prompts ? `${prompts} prompts of ${options.prompt}` : 'alone'}: gaps p50 ` +
        `${at(gaps, 0.5).toFixed(2)} ms, p90 ${at(gaps, 0.9).toFixed(2)} ms, p99 ${at(gaps, 0.99).toFixed(2)} ms, ` +
        `most ${at(gaps, 1).toFixed(2)} ms` +
        (took.length ? `; a prompt's token after ${at(took, 0.5).toFixed(0)} ms` : ''))
    return at(gaps, 0.99)
}

await measure(false)
const alone = await measure(false)
const loaded = await measure(true)
console.log(`p99 with prompts / alone: ${(loaded / alone).toFixed(2)}`)
agent.destroy()
