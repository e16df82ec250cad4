// tests/integration/resume.mjs - streams that outlive their connection: cut anywhere and resumed, they are byte for byte what
// they would have been; windows, times, keys and the drain bound them; who does not ask for it has none of it.
import crypto from 'node:crypto'
import http from 'node:http'
import net from 'node:net'
import { assert, done, fs, metric_of, note, path, random, scratch, sleep, slow, start, test, until } from './harness.mjs'

const seed = Number(process.env.LATENT_TEST_SEED || Date.now() % 1e9)
note(`seed ${seed} (LATENT_TEST_SEED)`)
const rng = random(seed)
const user = [{ role: 'user', content: 'What is a lighthouse?' }]
const LONG = slow ? 60 : 300
const kinds = {
    completions: ['/v1/completions', (n) => ({ prompt: 'A river', max_tokens: n, stream_options: { include_usage: true }, logprobs: 1 })],
    'two choices': ['/v1/completions', (n) => ({ prompt: 'A river', max_tokens: n >> 1, n: 2, temperature: 0.8, seed: 7 })],
    chat: ['/v1/chat/completions', (n) => ({ messages: user, max_tokens: n })],
    messages: ['/v1/messages', (n) => ({ messages: user, max_tokens: n })],
    responses: ['/v1/responses', (n) => ({ input: 'What is a lighthouse?', max_output_tokens: n })],
}
const ask = (kind, n = LONG) => ({ temperature: 0, ignore_eos: true, ...kinds[kind][1](n), stream: true, resumable: true })

/** A stream as it comes: {status, headers, text, over}; `events` are the whole ones with a number. */
function open(d, method, url, body, headers = {}) {
    const s = { text: '', status: 0, over: false, complete: false }
    s.ended = new Promise((resolve) => {
        s.req = http.request({ host: '127.0.0.1', port: d.port, method, path: url, agent: false, headers: { 'Content-Type': 'application/json', ...headers } }, (res) => {
            s.status = res.statusCode
            s.headers = res.headers
            res.setEncoding('utf8')
            res.on('data', (part) => (s.text += part))
            res.on('error', () => {})
            res.on('close', () => {
                s.over = true
                s.complete = res.complete
                resolve(s)
            })
        })
        s.req.on('error', () => {
            s.over = true
            resolve(s)
        })
        s.req.end(body && JSON.stringify(body))
    })
    Object.defineProperty(s, 'events', { get: () => s.text.split(/(?<=\n\n)/).filter((e) => e.startsWith('id: ') && e.endsWith('\n\n')) })
    return s
}
const post = (d, kind, more = {}, headers) => open(d, 'POST', kinds[kind][0], { ...ask(kind), ...more }, headers)
const get = (d, url, last, headers = {}) => open(d, 'GET', url, undefined, last === undefined ? headers : { 'Last-Event-ID': String(last), ...headers })
const place = (s) => s.headers['content-location']
const number = (event) => Number(/^id: (\d+)\n/.exec(event)[1])
const data = (event) => /^data: (.*)$/m.exec(event)[1]
const begun = (s, n = 1) => until('the stream comes', () => s.over || s.events.length >= n)
async function cut(s, n = 1) {
    await begun(s, n)
    assert.equal(s.status, 200, s.text)
    s.req.destroy()
    await s.ended
    return s.events
}
/** Without what two requests never share: ids, times, what was cached. */
const bare = (text) => text.replace(/(cmpl-|chatcmpl-|resp_|msg_|rs_|fc_)[0-9a-f]{24}/g, '$1').replace(/"created(_at)?":\d+/g, '"created":0')
    .replace(/"(cached_tokens|input_tokens|cache_read_input_tokens)":\d+/g, '"$1":0')
function same(a, b, what) {
    if (a === b) return
    let i = 0
    while (a[i] === b[i]) i++
    assert.fail(`${what}: from byte ${i} on ${JSON.stringify(a.slice(i - 40, i + 80))} and ${JSON.stringify(b.slice(i - 40, i + 80))}`)
}

/** The events of each choice in their order: which choice is a step ahead is up to the scheduler. */
function each_choice(events) {
    const of = (e) => Number(/"index":(\d+)/.exec(e)?.[1] ?? 99)
    return events.map((e) => e.replace(/^id: \d+\n/, '')).sort((a, b) => of(a) - of(b)).join('')
}

let d = await start({ set: { keepalive: '300ms' } })

for (const kind of Object.keys(kinds))
    await test(`${kind}: cut at random points and resumed, it is the stream that was not cut`, async () => {
        const whole = await post(d, kind).ended
        assert.ok(whole.complete && whole.events.length > (kind === 'messages' ? 20 : 50), `${whole.status} ${whole.events.length} events`)
        whole.events.forEach((e, i) => assert.equal(number(e), i))
        for (let round = 0; round < (slow ? 2 : 6); round++) {
            let s = post(d, kind), cuts = 0, url_of
            const events = []
            for (;;) {
                await until('an answer', () => s.status || s.over)
                if (s.status === 204) break
                assert.equal(s.status, 200, s.text)
                assert.match(s.headers['content-type'], /^text\/event-stream/)
                url_of = place(s)
                await begun(s, Math.floor(rng() * rng() * 60))
                if (rng() < 0.3) await sleep(rng() * 30)
                if (!s.over) s.req.destroy(), cuts++
                await s.ended
                events.push(...s.events)
                if (s.complete) break
                if (rng() < 0.3) await sleep(rng() * 100)
                const last = events.length ? number(events.at(-1)) : undefined
                s = kind === 'responses' && rng() < 0.5
                    ? open(d, 'GET', `/v1/responses/${url_of.split('/').at(-1)}?stream=true${last === undefined ? '' : `&starting_after=${last}`}`)
                    : rng() < 0.5 ? get(d, url_of, last) : open(d, 'GET', url_of + (last === undefined ? '' : `?starting_after=${last}`))
            }
            const text = (list) => bare(kind === 'two choices' ? each_choice(list) : list.join(''))
            same(text(events), text(whole.events), `after ${cuts} cuts`)
            events.forEach((e, i) => assert.equal(number(e), i))
            const again = await get(d, url_of).ended
            same(again.text, events.join(''), 'what is kept is what was sent')
            if (kind === 'responses')
                for (const e of events) assert.equal(JSON.parse(data(e)).sequence_number, number(e))
        }
        await d.idle()
    })
await test('who does not ask for it is cancelled with its connection, and has no numbers', async () => {
    const s = open(d, 'POST', '/v1/completions', { ...ask('completions', 3000), resumable: false, request_id: 'plain' })
    await until('it streams', () => s.text.includes('data: '))
    assert.equal(s.headers['content-location'], undefined)
    assert.ok(!s.text.includes('id: '))
    s.req.destroy()
    await d.idle()
    assert.equal((await d.get('/v1/streams/cmpl-plain')).status, 404)
})

await test('what there is not, and numbers that are none', async () => {
    const s = await post(d, 'completions').ended, url = place(s), last = s.events.length - 1
    assert.equal((await d.get('/v1/streams/cmpl-nothing')).status, 404)
    assert.equal((await d.get('/v1/streams/')).status, 404)
    assert.equal((await d.request('GET', url, undefined, { Authorization: 'Bearer other' })).status, 404, "another's")
    assert.equal((await d.request('DELETE', url, undefined, { Authorization: 'Bearer other' })).status, 404)
    for (const wrong of [last + 1, 'x', '-1', '1.5', '9'.repeat(31), '9'.repeat(100)])
        assert.equal((await d.request('GET', url, undefined, { 'Last-Event-ID': String(wrong) })).status, 400, `after ${wrong}`)
    assert.equal((await d.request('GET', url, undefined, { 'Last-Event-ID': String(last) })).status, 204, 'nothing is left')
    assert.equal((await d.request('GET', url, undefined, { 'Last-Event-ID': '' })).text, s.events.join(''))
    assert.equal((await d.request('POST', url, {})).status, 405)
    const head = await d.request('HEAD', url)
    assert.deepEqual([head.status, head.text], [200, ''])
})

await test("OpenAI's form: background and starting_after", async () => {
    assert.equal((await d.request('POST', '/v1/responses', { input: 'a', background: true })).status, 400)
    const s = open(d, 'POST', '/v1/responses', { ...ask('responses', LONG), resumable: undefined, background: true })
    const events = await cut(s, 9), id = JSON.parse(data(events[0])).response.id
    assert.equal(JSON.parse(data(events[0])).response.background, true)
    assert.equal(place(s), `/v1/streams/${id}`)
    assert.equal((await d.get(`/v1/responses/${id}`)).json.status, 'in_progress')
    const rest = await open(d, 'GET', `/v1/responses/${id}?stream=true&starting_after=7`).ended
    assert.equal(number(rest.events[0]), 8)
    assert.equal(JSON.parse(data(rest.events.at(-1))).type, 'response.incomplete')
    const kept = await d.get(`/v1/responses/${id}`)
    assert.equal(JSON.stringify(kept.json), JSON.stringify(JSON.parse(data(rest.events.at(-1))).response), 'and it is kept as ever')
    assert.equal((await d.request('DELETE', `/v1/responses/${id}`)).status, 200)
    assert.equal((await d.get(`/v1/streams/${id}`)).status, 404, 'forgotten with its response')
    const plain = await d.post('/v1/responses', { input: 'a', max_output_tokens: 2 })
    assert.equal((await d.get(`/v1/responses/${plain.id}?stream=true`)).status, 400, 'was no stream')
    assert.equal((await d.get('/v1/responses/resp_nothing?stream=true')).status, 404)
    const running = open(d, 'POST', '/v1/responses', { ...ask('responses', 3000), resumable: false })
    await until('it streams', () => running.text.includes('response.created'))
    assert.equal((await d.get(`/v1/responses/${/resp_\w+/.exec(running.text)[0]}?stream=true`)).status, 400)
    // one that runs can be deleted: its client is told how it ends, and nothing is kept
    const [ended] = /resp_\w+/.exec(running.text)
    assert.equal((await d.request('DELETE', `/v1/responses/${ended}`, undefined, { Authorization: 'Bearer other' })).status, 404)
    assert.deepEqual((await d.request('DELETE', `/v1/responses/${ended}`)).json, { id: ended, object: 'response', deleted: true })
    await running.ended
    assert.match(running.text, /event: response\.cancelled\n[^\n]*\n\n$/)
    assert.equal((await d.get(`/v1/responses/${ended}`)).status, 404)
    for (const left of [false, true]) {
        const events = left ? await cut(post(d, 'responses', { max_output_tokens: 3000 }), 5) : []
        const read = left ? null : post(d, 'responses', { max_output_tokens: 3000 })
        if (read) await until('it streams', () => read.text.includes('response.created'))
        const { id: gone } = left ? JSON.parse(data(events[0])).response : { id: /resp_\w+/.exec(read.text)[0] }
        assert.equal((await d.request('DELETE', `/v1/responses/${gone}`)).status, 200)
        if (read) assert.equal(JSON.parse(data((await read.ended).events.at(-1))).type, 'response.cancelled')
        for (const url of [`/v1/responses/${gone}`, `/v1/streams/${gone}`])
            assert.equal((await d.get(url)).status, 404, url)
    }
    await d.idle()
})

await test('a response without its client is cancelled as ever', async () => {
    const events = await cut(post(d, 'responses', { max_output_tokens: 3000 }), 5)
    const { id } = JSON.parse(data(events[0])).response
    assert.equal((await d.request('POST', `/v1/responses/${id}/cancel`)).json.status, 'cancelled')
    const rest = await get(d, `/v1/streams/${id}`, number(events.at(-1))).ended
    assert.equal(JSON.parse(data(rest.events.at(-1))).type, 'response.cancelled')
    await d.idle()
})

await test('an id that the client chose: the same again is told where it is', async () => {
    const s = await post(d, 'completions', { request_id: 'mine' }).ended
    assert.equal(place(s), '/v1/streams/cmpl-mine')
    const again = await post(d, 'completions', { request_id: 'mine' }).ended
    assert.equal(again.status, 409, again.text)
    assert.match(again.text, /\/v1\/streams\/cmpl-mine/)
    const other = await post(d, 'completions', { request_id: 'mine' }, { Authorization: 'Bearer other' }).ended
    assert.equal(other.status, 200)
    assert.equal((await d.request('DELETE', place(s))).json.deleted, true)
    assert.equal((await post(d, 'completions', { request_id: 'mine' }).ended).status, 200)
})

await test('DELETE ends it: with a client, without one, and when it is over', async () => {
    const read = post(d, 'completions', { max_tokens: 3000 })
    await begun(read, 5)
    assert.equal((await d.request('DELETE', place(read))).status, 200)
    await read.ended
    assert.ok(read.complete)
    assert.match(read.events.at(-3), /"finish_reason":"abort"/)
    assert.match(read.events.at(-1), /data: \[DONE\]\n\n$/)
    const left = post(d, 'completions', { max_tokens: 3000 })
    await cut(left, 5)
    assert.equal(await d.metric('latentd_resumable_streams_absent'), 1)
    assert.equal((await d.request('DELETE', place(left))).status, 200)
    await d.idle()
    const over = await post(d, 'completions').ended
    assert.equal((await d.request('DELETE', place(over))).status, 200)
    for (const s of [read, left, over]) assert.equal((await d.get(place(s))).status, 404)
    assert.equal(await d.metric('latentd_resumable_streams_absent'), 0)
})

await test('of two clients the newer has it, and a HEAD takes nothing away', async () => {
    const one = post(d, 'chat', { max_tokens: 1500 })
    await begun(one, 10)
    assert.equal((await d.request('HEAD', place(one))).status, 200)
    const two = get(d, place(one))
    await one.ended
    assert.ok(one.complete && !one.text.includes('[DONE]'))
    await two.ended
    assert.ok(two.text.endsWith('data: [DONE]\n\n'))
    same(two.events.slice(0, one.events.length).join(''), one.events.join(''), 'the newer has all')
    two.events.forEach((e, i) => assert.equal(number(e), i))
})

await test('an error in its middle is kept like any event', async () => {
    const s = post(d, 'chat', { max_tokens: 3800, timeout: 0.5 })
    const events = await cut(s, 3)
    await d.idle()
    const rest = await get(d, place(s), number(events.at(-1))).ended
    assert.match(rest.text, /data: \{"error":\{"message":"[^"]+","type":"timeout_error"[^\n]+\n\nid: \d+\ndata: \[DONE\]\n\n$/)
})

await test('what is refused leaves no stream', async () => {
    const before = await d.metric('latentd_resumable_streams')
    assert.equal((await post(d, 'completions', { prompt: [] }).ended).status, 400)
    assert.equal((await post(d, 'completions', { prompt: Array(20000).fill(7) }).ended).status, 400)
    assert.equal(await d.metric('latentd_resumable_streams'), before)
})

await test('a stream that the queue refuses in part cannot be come to while its parts end', async () => {
    const p = await start({ set: { max_num_seqs: 1, max_queue_requests: 2 } })
    const busy = post(p, 'completions', { max_tokens: 3000, resumable: false })
    await until('it runs', async () => (await p.running()) === 1)
    const body = JSON.stringify({ prompt: ['a', 'b', 'c'], max_tokens: 5, stream: true, resumable: true, request_id: 'parts' })
    const socket = net.connect(p.port, '127.0.0.1')
    let text = ''
    socket.on('data', (part) => (text += part))
    const over = new Promise((resolve) => socket.on('close', resolve))
    socket.write(`POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}` +
        'GET /v1/streams/cmpl-parts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    await Promise.race([over, sleep(slow ? 20000 : 3000)])
    assert.deepEqual(text.match(/HTTP\/1\.1 \d+/g), ['HTTP/1.1 429', 'HTTP/1.1 404'], text)
    busy.req.destroy()
    await p.idle()
    await p.kill()
})

await test('SIGTERM: who is read finishes, who is not is cancelled', async () => {
    const read = post(d, 'completions', { max_tokens: LONG }), left = post(d, 'completions', { max_tokens: 3900 })
    await cut(left)
    await begun(read)
    const begin = Date.now()
    const exit = await d.stop()
    await read.ended
    assert.equal(exit.code, 0)
    assert.ok(read.complete && read.text.endsWith('data: [DONE]\n\n'))
    assert.ok(Date.now() - begin < (slow ? 60000 : 15000))
})

await test('times: without a client, and when it is over', async () => {
    d = await start({ set: { stream_absence: '600ms', stream_kept: '600ms', keepalive: '300ms', max_num_seqs: 1 } })
    const s = post(d, 'completions', { max_tokens: 3900 })
    await cut(s, 3)
    assert.equal(await d.running(), 1)
    await d.idle()
    assert.equal((await d.get(place(s))).status, 404)
    assert.equal(await d.metric('latentd_streams_expired_total'), 1)
    const over = await post(d, 'completions').ended
    assert.equal((await d.get(place(over))).status, 200)
    await until('it is forgotten', async () => (await d.get(place(over))).status === 404)
    assert.equal(await d.metric('latentd_resumable_streams'), 0)
    assert.equal(await d.metric('latentd_resumable_stream_bytes'), 0)
})

await test('a stream that waits: its place is kept, and it says that it lives', async () => {
    const busy = d.stream('/v1/completions', { prompt: 'a', max_tokens: 3900, ignore_eos: true })
    await until('it runs', () => busy.events.length)
    const s = post(d, 'messages', { max_tokens: 3 })
    await begun(s, 2)
    s.req.destroy()
    const rest = get(d, place(s), 1)
    await until('keep-alives come', () => rest.text.split('event: ping').length > 2)
    busy.req.destroy()
    await rest.ended
    assert.ok(rest.events.at(-1).startsWith('id: ') && rest.text.includes('message_stop'))
    assert.equal(number(rest.events[0]), 2, 'pings that only say so have no number')
    await d.kill()
})

await test('the window: the oldest go; without a client it fills, and generation waits', async () => {
    const window = slow ? 8192 : 32768
    d = await start({ set: { stream_window: window, stream_absence: '60s' } })
    const whole = await post(d, 'completions', { max_tokens: LONG * 2 }).ended
    assert.ok(whole.text.length > window * 1.5, `${whole.text.length} bytes`)
    const gone = await d.request('GET', place(whole), undefined, { 'Last-Event-ID': '1' })
    assert.equal(gone.status, 410, gone.text)
    assert.equal(gone.json.error.code, 'events_gone')
    assert.equal((await d.get(place(whole))).status, 410, 'from the beginning too')
    const oldest = Number(/oldest is (\d+)/.exec(gone.text)[1])
    const kept = await get(d, place(whole), oldest - 1).ended
    assert.equal(kept.text, whole.events.slice(oldest).join(''))
    assert.ok(kept.text.length > window / 4 && kept.text.length <= window, `${kept.text.length} kept`)
    const s = post(d, 'completions', { max_tokens: LONG * 2 })
    const first = await cut(s, 3)
    const made = () => d.metric('vllm:generation_tokens_total')
    await until('generation waits', async () => {
        const n = await made()
        await sleep(200)
        return await made() === n
    })
    assert.ok(await d.metric('latentd_resumable_stream_bytes') < 3 * window)
    const rest = await get(d, place(s), number(first.at(-1))).ended
    assert.equal(rest.status, 200)
    assert.ok(rest.complete, 'and goes on to the end')
    same(bare([...first, ...rest.events].join('')), bare(whole.events.join('')), 'resumed')
    await d.idle()
    await d.kill()
})

await test('the memory of all: those that are over go first', async () => {
    const memory = slow ? 24576 : 131072
    d = await start({ set: { stream_window: memory / 2, stream_memory: memory } })
    const streams = []
    for (let i = 0; i < 12; i++) streams.push(await post(d, 'chat', { max_tokens: LONG / 3 }).ended)
    assert.ok(await d.metric('latentd_resumable_stream_bytes') <= memory)
    const found = await Promise.all(streams.map(async (s) => (await d.get(place(s))).status))
    note(found.join(' '))
    assert.equal(found[0], 404)
    assert.equal(found.at(-1), 200)
    assert.deepEqual(found, [...found].sort().reverse(), 'the oldest went')
    const many = await Promise.all(Array.from({ length: 8 }, () => post(d, 'chat').ended))
    assert.ok(many.every((s) => s.complete && bare(s.events.join('')) === bare(many[0].events.join(''))), 'streams are whole however little is kept')
    assert.ok(await d.metric('latentd_resumable_stream_bytes') <= memory)
    await d.kill()
})

await test('a server that keeps none says so', async () => {
    d = await start({ set: { stream_window: 0 } })
    const s = await post(d, 'completions').ended
    assert.equal(s.status, 400)
    assert.match(s.text, /resumable/)
    await d.kill()
    d = await start({ set: { stream_absence: 0 } })
    const cutted = post(d, 'completions', { max_tokens: 3900 })
    await cut(cutted, 2)
    await d.idle()
    assert.equal((await d.get(place(cutted))).status, 404)
    const over = await post(d, 'completions').ended
    assert.equal((await d.get(place(over))).text, over.events.join(''))
    await d.kill()
})

await test('keys: what runs without its client counts for its key, once', async () => {
    const key = crypto.randomBytes(16).toString('hex'), file = path.join(scratch, `resume-${process.pid}.keys`)
    fs.writeFileSync(file, `one sha256:${crypto.createHash('sha256').update(key).digest('hex')} concurrent=1\n`, { mode: 0o600 })
    process.on('exit', () => fs.rmSync(file, { force: true }))
    d = await start({ set: { api_keys_file: file, metrics_open: 'true' } })
    const auth = { Authorization: `Bearer ${key}` }
    const s = post(d, 'completions', { max_tokens: 1500 }, auth)
    const events = await cut(s, 3)
    assert.equal((await d.request('POST', '/v1/completions', { prompt: 'a' }, auth)).status, 429, 'it still runs')
    assert.equal((await d.request('GET', place(s))).status, 401)
    const rest = get(d, place(s), number(events.at(-1)), auth)
    await begun(rest, 3)
    assert.equal(rest.status, 200)
    assert.equal((await d.request('POST', '/v1/completions', { prompt: 'a' }, auth)).status, 429)
    rest.req.destroy()
    await rest.ended
    assert.ok((await get(d, place(s), number(rest.events.at(-1)), auth).ended).complete)
    const m = await d.metrics()
    assert.equal(metric_of(m, 'latentd_key_tokens_total', 'kind="completion"'), 1500)
    assert.equal((await d.request('POST', '/v1/completions', { prompt: 'a', max_tokens: 1 }, auth)).status, 200)
    const left = post(d, 'completions', { max_tokens: 3900 }, auth)
    await cut(left, 3)
    assert.equal((await d.request('DELETE', place(left), undefined, auth)).status, 200)
    await d.idle()
    assert.ok(metric_of(await d.metrics(), 'latentd_key_tokens_total', 'kind="completion"') > 1502)
})

await done()
