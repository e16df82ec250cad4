// tests/load/abuser.mjs - the other side of abuse.mjs, in a process of its own: MODE PORT SECONDS RATE [KEY]. Prints one JSON
// object at the end: what it did and what it was told.
import http from 'node:http'
import net from 'node:net'

const [mode, port, seconds, rate] = [process.argv[2], ...process.argv.slice(3, 6).map(Number)]
const key = process.argv[6]
const ends = performance.now() + seconds * 1000
const told = { done: 0, refused: 0, errors: 0 }
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Calls once() `rate` times a second, in the groups that fall into each 10 ms. */
async function paced(once) {
    const began = performance.now()
    for (let n = 0; performance.now() < ends;) {
        const due = Math.floor((performance.now() - began) * rate / 1000)
        for (; n < due; n++) once()
        await sleep(10)
    }
    await sleep(500)
}

const modes = {
    /** Connections that say nothing, RATE of them in all; half a request on every tenth. */
    async idle() {
        const open = []
        while (open.length < rate) {
            await new Promise((resolve) => {
                const s = net.connect(port, '127.0.0.1', resolve).on('error', () => {
                    told.errors++
                    resolve()
                }).on('close', () => told.refused++)
                open.push(s)
            })
            if (open.length % 10 === 0) open.at(-1).write('GET /livez HTTP/1.1\r\nHost: x\r\n')
        }
        told.done = open.length
        told.open = open.filter((s) => s.readyState === 'open').length
        console.error('opened')
        await sleep(Math.max(0, ends - performance.now()))
        for (const s of open) s.destroy()
    },
    /** New connections, one request each. */
    async connects() {
        await paced(() => {
            const s = net.connect(port, '127.0.0.1', () => s.write('GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'))
            let text = ''
            s.on('data', (d) => (text += d)).on('error', () => told.errors++)
            s.on('close', () => (text.startsWith('HTTP/1.1 200') ? told.done++ : told.refused++))
        })
    },
    /** Requests beyond the key's limit on connections that stay. */
    async storm() {
        const agent = new http.Agent({ keepAlive: true, maxSockets: 64 })
        const body = JSON.stringify({ prompt: 'x', max_tokens: 1 })
        await paced(() => {
            const req = http.request({ host: '127.0.0.1', port, method: 'POST', path: '/v1/completions', agent,
                headers: { 'Content-Type': 'application/json', 'Content-Length': body.length, Authorization: `Bearer ${key}` } }, (res) => {
                res.statusCode === 429 ? told.refused++ : told.done++
                res.resume()
            })
            req.on('error', () => told.errors++)
            req.end(body)
        })
        agent.destroy()
    },
}
await modes[mode]()
console.log(JSON.stringify(told))
process.exit(0)
