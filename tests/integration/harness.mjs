// tests/integration/harness.mjs - starts the daemon, talks to it, counts in TAP.
//
// Plain Node.js (18 or newer), no packages. One test file is one process: it starts the daemons it
// needs on ports that the kernel chooses, and every one still running is killed when it ends. A file
// ends with done(); an exception that nobody caught is a failure, never a silent end.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))
export const top_srcdir = process.env.top_srcdir || path.resolve(here, '../..')
export const top_builddir = process.env.top_builddir || path.join(top_srcdir, 'build')
export const model = path.join(top_srcdir, 'models/latent-mini.q8_0.gguf')
export const scratch = path.join(top_builddir, 'tests/integration/run')
/** Sanitizers make the daemon many times slower: tests then do less and wait longer. */
export const slow = process.env.LATENT_SLOW === '1'
export const test_name = path.basename(process.argv[1], '.mjs')
fs.mkdirSync(scratch, { recursive: true })

// --- TAP --------------------------------------------------------------------------------------

let count = 0
let failures = 0

const comment = (text) => {
    for (const line of String(text).split('\n')) console.log('# ' + line)
}
export const note = comment

/** Runs body; passes when it returns. */
export async function test(name, body) {
    const label = () => `${++count} - ${test_name}: ${name}`
    try {
        await body()
        console.log('ok ' + label())
    } catch (error) {
        failures++
        console.log('not ok ' + label())
        comment(error instanceof assert.AssertionError ? error.message : error.stack)
        for (const d of daemons) comment(`latentd (pid ${d.child.pid}) last wrote:\n${d.tail()}`)
    }
}

export function skip_test(name, why) {
    console.log(`ok ${++count} - ${test_name}: ${name} # SKIP ${why}`)
}

export function skip_all(why) {
    console.log(`1..0 # SKIP ${why}`)
    process.exit(0)
}

export async function done() {
    for (const d of [...daemons]) await d.kill()
    console.log(`1..${count}`)
    process.exit(failures ? 1 : 0)
}

// A wait that never ends is a failure with a name, not a hung build.
const time_limit_s = Number(process.env.LATENT_TEST_TIMEOUT || (slow ? 1500 : 240))
setTimeout(() => {
    for (const d of daemons) comment(`latentd (pid ${d.child.pid}) last wrote:\n${d.tail()}`)
    console.log(`Bail out! ${test_name} did not end within ${time_limit_s} s`)
    process.exit(1)
}, time_limit_s * 1000).unref()

process.on('uncaughtException', (error) => {
    console.log('Bail out! ' + String(error.stack).replace(/\n\s*/g, ' | '))
    process.exit(1)
})

// --- the daemon -------------------------------------------------------------------------------

const daemons = new Set()
process.on('exit', () => {
    for (const d of daemons) d.child.kill('SIGKILL')
})
process.on('SIGTERM', () => process.exit(143)) // with what is done at an exit
process.on('SIGINT', () => process.exit(130))

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Waits until check() is truthy and returns its value; an AssertionError after limit_ms. */
export async function until(what, check, limit_ms = slow ? 60000 : 10000) {
    const end = Date.now() + limit_ms
    for (;;) {
        const value = await check()
        if (value) return value
        if (Date.now() > end) assert.fail(`${what}: not within ${limit_ms} ms`)
        await sleep(10)
    }
}

class Daemon {
    constructor(child, log_path) {
        this.child = child
        this.log_path = log_path
        this.port = 0
        /** {code, signal} once it ended */
        this.exited = new Promise((resolve) => {
            child.on('exit', (code, signal) => {
                daemons.delete(this)
                this.exit = { code, signal }
                resolve(this.exit)
            })
        })
        this.agent = new http.Agent({ keepAlive: true, maxSockets: Infinity })
    }

    tail() {
        return fs.readFileSync(this.log_path, 'utf8').slice(-4000)
    }

    get base() {
        return `http://127.0.0.1:${this.port}`
    }

    async kill() {
        this.agent.destroy()
        if (!this.exit) this.child.kill('SIGKILL')
        await this.exited
    }

    /** SIGTERM, and its exit status. */
    async stop(limit_ms = slow ? 120000 : 40000) {
        this.agent.destroy()
        this.child.kill('SIGTERM')
        await until('exit after SIGTERM', () => this.exit, limit_ms)
        return this.exit
    }

    /** One request; {status, headers, text, json}. `body` is sent as JSON unless it is a string. */
    request(method, url_path, body, headers = {}) {
        return new Promise((resolve, reject) => {
            const data = body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body)
            const req = http.request(
                {
                    host: '127.0.0.1', port: this.port, method, path: url_path, agent: this.agent,
                    headers: {
                        ...(data === undefined ? {} : {
                            'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(data),
                        }),
                        ...headers,
                    },
                },
                (res) => {
                    const parts = []
                    res.on('data', (part) => parts.push(part))
                    res.on('error', reject)
                    res.on('end', () => {
                        const text = Buffer.concat(parts).toString()
                        let json
                        try {
                            json = JSON.parse(text)
                        } catch {
                            json = undefined
                        }
                        resolve({ status: res.statusCode, headers: res.headers, text, json })
                    })
                })
            req.on('error', reject)
            req.end(data)
        })
    }

    get(url_path) {
        return this.request('GET', url_path)
    }

    /** POST that must answer 200; its JSON. */
    async post(url_path, body) {
        const res = await this.request('POST', url_path, body)
        assert.equal(res.status, 200, `${url_path}: ${res.status} ${res.text.slice(0, 400)}`)
        return res.json
    }

    /** A streamed request, opened: `ended` resolves when the stream is complete. */
    stream(url_path, body, on_event = () => {}, headers = {}) {
        const data = JSON.stringify({ ...body, stream: true })
        const s = { status: 0, events: [], finished: false, error: null }
        s.ended = new Promise((resolve) => {
            s.req = http.request(
                {
                    host: '127.0.0.1', port: this.port, method: 'POST', path: url_path, agent: false,
                    headers: { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(data), ...headers },
                },
                (res) => {
                    s.status = res.statusCode
                    s.headers = res.headers
                    let rest = Buffer.alloc(0)
                    s.body = ''
                    res.on('data', (part) => {
                        if (s.status !== 200) {
                            s.body += part
                            return
                        }
                        rest = rest.length ? Buffer.concat([rest, part]) : part
                        for (let end; (end = rest.indexOf('\n\n')) >= 0; rest = rest.subarray(end + 2)) {
                            // each event is whole characters: a fatal decoder proves it
                            const text = decoder.decode(rest.subarray(0, end))
                            if (text === ': keep-alive') continue
                            if (!text.startsWith('data: ')) throw new Error(`not an event: ${text}`)
                            if (text === 'data: [DONE]') {
                                s.finished = true
                                continue
                            }
                            const event = JSON.parse(text.slice(6))
                            s.events.push(event)
                            on_event(event, s)
                        }
                    })
                    res.on('error', (error) => (s.error = error))
                    res.on('close', () => resolve(s))
                })
            s.req.on('error', (error) => {
                s.error = error
                resolve(s)
            })
            s.req.end(data)
        })
        return s
    }

    /** Streams to the end and puts the choices together: {choices: [{text, token_ids, finish_reason}], usage}. */
    async collect(url_path, body, on_event) {
        const s = await this.stream(url_path, body, on_event).ended
        assert.equal(s.error, null, `stream broke: ${s.error}`)
        assert.equal(s.status, 200, `${url_path}: ${s.status} ${s.body}`)
        assert.ok(s.finished, 'the stream ended without [DONE]')
        const choices = []
        let usage = null
        for (const event of s.events) {
            assert.equal(event.error, undefined, JSON.stringify(event))
            if (event.usage) usage = event.usage
            for (const part of event.choices) {
                const c = (choices[part.index] ??= { text: '', token_ids: [], finish_reason: null })
                c.text += part.text ?? part.delta?.content ?? ''
                c.token_ids.push(...(part.token_ids ?? []))
                if (part.finish_reason) {
                    assert.equal(c.finish_reason, null, 'a choice finished twice')
                    c.finish_reason = part.finish_reason
                }
            }
        }
        return { choices, usage, events: s.events }
    }

    /** Every series of /metrics: Map from `name{labels}` to number. */
    async metrics() {
        const res = await this.get('/metrics')
        assert.equal(res.status, 200)
        const series = new Map()
        for (const line of res.text.split('\n')) {
            if (!line || line.startsWith('#')) continue
            const at = line.lastIndexOf(' ')
            series.set(line.slice(0, at), Number(line.slice(at + 1)))
        }
        return series
    }

    /** Value of the one series of that name whose labels contain `label`. */
    async metric(name, label = '') {
        return metric_of(await this.metrics(), name, label)
    }

    running() {
        return this.metric('vllm:num_requests_running')
    }

    waiting() {
        return this.metric('vllm:num_requests_waiting')
    }

    held() {
        return this.metric('latentd_kv_pages', 'state="held"')
    }

    /** Waits until nothing runs, waits, or holds a page. */
    idle(limit_ms) {
        return until('the daemon is idle', async () => {
            const m = await this.metrics()
            return metric_of(m, 'vllm:num_requests_running') === 0 &&
                metric_of(m, 'vllm:num_requests_waiting') === 0 &&
                metric_of(m, 'latentd_kv_pages', 'state="held"') === 0
        }, limit_ms)
    }
}

/** POST; everything that came, as text. */
export async function http_raw(daemon, url_path, body) {
    const r = await daemon.request('POST', url_path, body)
    assert.equal(r.status, 200, r.text)
    return r.text
}

const decoder = new TextDecoder('utf-8', { fatal: true })

export function metric_of(series, name, label = '') {
    const found = [...series].filter(([key]) =>
        (key === name || key.startsWith(name + '{')) && key.includes(label))
    assert.equal(found.length, 1, `${name} with ${label || 'any label'}: ${found.length} series in /metrics`)
    assert.ok(Number.isFinite(found[0][1]), `${name} is ${found[0][1]}`)
    return found[0][1]
}

/**
 * Starts latentd and waits until it is ready. Options: args (more arguments), set ({key: value} for
 * --set), env (more environment), wait (false: return once it listens, while the model loads), program (another than
 * latentd).
 */
export async function start({ args = [], set = {}, env: more_env = {}, wait = true, program = 'latentd' } = {}) {
    const log_path = path.join(scratch, `${test_name}.${process.pid}.${daemons_started++}.log`)
    const log = fs.openSync(log_path, 'w')
    // Settings of the person who runs the tests must not reach the daemon.
    const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('LATENTD_')))
    const child = spawn(
        path.join(top_builddir, program),
        ['--model', model, '--listen', '127.0.0.1:0', ...args,
            ...Object.entries(set).flatMap(([key, value]) => ['--set', `${key}=${value}`])],
        { stdio: ['ignore', log, log], cwd: scratch, env: { ...env, ...more_env } })
    fs.closeSync(log)
    const d = new Daemon(child, log_path)
    daemons.add(d)
    await new Promise((resolve, reject) => child.on('spawn', resolve).on('error', reject))
    await until('the daemon listens', () => {
        assert.equal(d.exit, undefined, `latentd ended: ${JSON.stringify(d.exit)}\n${d.tail()}`)
        d.port = Number(/listening on 127\.0\.0\.1:(\d+)/.exec(d.tail())?.[1] ?? 0)
        return d.port
    })
    if (wait) {
        await until('the daemon is ready', async () => {
            assert.equal(d.exit, undefined, `latentd ended: ${JSON.stringify(d.exit)}\n${d.tail()}`)
            return (await d.get('/readyz')).status === 200
        }, slow ? 120000 : 60000)
    }
    return d
}
let daemons_started = 0

// --- inputs -----------------------------------------------------------------------------------

/** Small generator (mulberry32), so that a failure repeats. */
export function random(seed) {
    let a = seed >>> 0
    return () => {
        a = (a + 0x6d2b79f5) >>> 0
        let t = Math.imul(a ^ (a >>> 15), 1 | a)
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
        return ((t ^ (t >>> 14)) >>> 0) / 4294967296
    }
}

/** n ordinary token ids of the shipped model, <|bos|> first. */
export function random_ids(rng, n) {
    return [0, ...Array.from({ length: n - 1 }, () => 6 + Math.floor(rng() * (8192 - 6)))]
}

/** Levels of this machine, lowest first, as --cpu names them. */
export function cpu_levels() {
    const levels = ['generic']
    let flags = new Set()
    try {
        flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(fs.readFileSync('/proc/cpuinfo', 'utf8'))[1].trim().split(/\s+/))
    } catch {
        return levels
    }
    const has = (...names) => names.every((name) => flags.has(name))
    if (has('asimddp')) levels.push('neon')
    if (has('avx2', 'fma', 'f16c', 'bmi2')) levels.push('avx2')
    if (has('avx512f', 'avx512bw', 'avx512dq', 'avx512vl', 'avx512_vnni')) levels.push('avx512')
    if (has('amx_tile', 'amx_int8', 'amx_bf16')) levels.push('amx')
    return levels
}

export { assert, fs, os, path, spawn }
