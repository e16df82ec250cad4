// tests/integration/batch.mjs - latentd batch: answers equal those over HTTP, mistakes are told line by line, and
// a run that was ended in any way goes on where it was.
import { execFileSync } from 'node:child_process'
import { assert, done, fs, model, note, path, random, scratch, skip_test, sleep, slow, spawn, start, test, test_name,
    top_builddir, until } from './harness.mjs'

const program = path.join(top_builddir, 'latentd')
const seed = Number(process.env.LATENT_TEST_SEED || 11)
const rng = random(seed)
const folder = path.join(scratch, `${test_name}.${process.pid}`)
fs.rmSync(folder, { recursive: true, force: true })
fs.mkdirSync(folder)
process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
const file = (name) => path.join(folder, name)

const env = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('LATENTD_')))
const running = new Set()
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')))

/** Starts a run; `ended` gives {code, signal, stdout, stderr}. */
function begin(args, { set = {}, input } = {}) {
    const child = spawn(program, ['batch', '--model', model,
        ...Object.entries(set).flatMap(([k, v]) => ['--set', `${k}=${v}`]), ...args],
    { stdio: ['pipe', 'pipe', 'pipe'], env, cwd: folder })
    const run = { child, stdout: '', stderr: '' }
    running.add(child)
    child.stdout.on('data', (part) => (run.stdout += part))
    child.stderr.on('data', (part) => (run.stderr += part))
    child.stdin.on('error', () => {})
    if (input !== null) child.stdin.end(input ?? '')
    run.ended = new Promise((resolve) => child.on('close', (code, signal) => {
        running.delete(child)
        resolve({ code, signal, stdout: run.stdout, stderr: run.stderr })
    }))
    return run
}

async function run(code, args, options) {
    const r = await begin(args, options).ended
    assert.equal(r.code, code, `exit status ${r.code} ${r.signal}: ${r.stderr}`)
    return r
}

const ask = (custom_id, url, body, more = {}) => JSON.stringify({ custom_id, method: 'POST', url, body, ...more })
const write = (name, lines, end = '\n') => fs.writeFileSync(file(name), lines.length ? lines.join('\n') + end : '')
const parse = (text) => text.split('\n').slice(0, -1).map((line) => JSON.parse(line))
const read = (name) => parse(fs.readFileSync(file(name), 'utf8'))
const by_id = (lines) => {
    const map = new Map()
    for (const l of lines) {
        assert.ok(!map.has(l.custom_id), `${l.custom_id} is answered twice`)
        map.set(l.custom_id, l)
    }
    return map
}
/** What does not depend on the request only: ids, times, what the cache happened to hold. */
const plain = (v) => v && typeof v === 'object'
    ? Array.isArray(v) ? v.map(plain)
        : Object.fromEntries(Object.entries(v).filter(([k]) => !/^id$|^item_id$|created|_at$|cached|cache_/.test(k)).map(([k, x]) => [k, plain(x)]))
    : v

const chat = (i, max_tokens = 12) => ({
    messages: [{ role: 'user', content: `Tell me about number ${i} of the river.` }],
    max_tokens, seed: i, temperature: 0.9, ignore_eos: true,
})
const chats = (n, max_tokens) => Array.from({ length: n }, (_, i) => ask(`chat-${i}`, '/v1/chat/completions', chat(i, max_tokens)))

/** Every line of `name` has its answer of 200 in `out`, with the text that HTTP gave. */
let references
function complete(out, n) {
    const lines = by_id(read(out))
    assert.equal(lines.size, n)
    for (let i = 0; i < n; i++) {
        const l = lines.get(`chat-${i}`)
        assert.equal(l.response.status_code, 200)
        assert.equal(l.error, null)
        assert.deepEqual(plain(l.response.body), references[i], `chat-${i}`)
    }
}

const N = slow ? 24 : 80
const d = await start()
await test('answers equal those over HTTP', async () => {
    references = await Promise.all(Array.from({ length: N }, async (_, i) => plain(await d.post('/v1/chat/completions', chat(i)))))
    // bodies as they stand: numbers that a double does not hold, blanks, an order of their own, escapes
    const bodies = [
        ['/v1/completions', '{"prompt": "The history of", "max_tokens": 9, "logprobs": 3, "seed": 9007199254740993, "temperature" : 1.10 }'],
        ['/v1/completions', '{"max_tokens":5,"prompt":["one \\u0064ay","\\"}{\\\\"],"n":2,"seed":3,"top_p":0.30000000000000004}'],
        ['/v1/completions', '{"prompt": [0, 17, 99, 1021], "max_tokens": 0, "echo": true, "logprobs": 2}'],
        ['/v1/chat/completions', '{"messages":[{"role":"user","content":"What is a lighthouse?"}],"max_tokens":20,"seed":4,"logprobs":true,"top_logprobs":2}'],
        ['/v1/chat/completions', '{"messages":[{"role":"user","content":"Yes or no?"}],"seed":5,"max_tokens":8,"stream":false,"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"enum":["yes","no"]}}}}'],
        ['/v1/embeddings', '{"input": ["a ship", "a boat"], "encoding_format": "base64"}'],
        ['/v1/embeddings', '{"input": "a ship"}'],
        ['/v1/responses', '{"input": "Say something.", "max_output_tokens": 12, "seed": 6, "store": false}'],
        ['/v1/messages', '{"messages":[{"role":"user","content":"Hello"}],"max_tokens":10,"seed":7}'],
        ['/v1/messages/count_tokens', '{"messages":[{"role":"user","content":"Hello"}]}'],
        ['/v1/tokenize', '{"prompt":"a few words"}'],
        ['/v1/detokenize', '{"tokens":[100,200]}'],
        // refused by the endpoint
        ['/v1/chat/completions', '{"messages":[]}'],
        ['/v1/completions', '{"prompt":"x","temperature":-1}'],
        ['/v1/completions', '{"prompt":"x","model":"another"}'],
        ['/v1/messages', '{"messages":[{"role":"user","content":"Hello"}]}'],
        ['/v1/completions', `{"prompt":"${'long '.repeat(20000)}"}`],
    ]
    write('equal', [...bodies.map(([url, body], i) => `{"body": ${body} ,"custom_id":"b${i}","url":"${url}","method":"POST"}`), ...chats(N)])
    const r = await run(3, ['equal', 'equal.out'])
    const lines = by_id(read('equal.out'))
    assert.equal(lines.size, bodies.length + N)
    for (const [i, [url, body]] of bodies.entries()) {
        const over_http = await d.request('POST', url, body)
        const l = lines.get(`b${i}`)
        assert.match(l.id, /^batch_req_[0-9a-f]+$/)
        assert.match(l.response.request_id, /^req-[0-9a-f]+$/)
        assert.equal(l.error, null)
        assert.equal(l.response.status_code, over_http.status, body.slice(0, 100))
        assert.deepEqual(plain(l.response.body), plain(over_http.json), body.slice(0, 100))
    }
    for (let i = 0; i < N; i++) assert.deepEqual(plain(lines.get(`chat-${i}`).response.body), references[i])
    const ids = new Set([...lines.values()].flatMap((l) => [l.id, l.response.request_id]))
    assert.equal(ids.size, 2 * lines.size)
    const tokens = [...lines.values()].map((l) => l.response.body.usage).filter((u) => u?.completion_tokens)
    const [, said, failed, prompts, generated] = /batch done: (\d+) lines in [0-9.]+ s, (\d+) of them failed; (\d+) prompt tokens, \d+ of them cached, (\d+) generated/.exec(r.stderr)
    assert.equal(Number(said), lines.size)
    assert.equal(Number(failed), 5)
    assert.ok(Number(prompts) >= tokens.reduce((n, u) => n + u.prompt_tokens, 0))
    assert.ok(Number(generated) >= tokens.reduce((n, u) => n + u.completion_tokens, 0))
})
await d.kill()

const good = ask('good', '/v1/completions', { prompt: 'A', max_tokens: 2 })
await test('a line that is no request is told and the others are answered', async () => {
    const c = '/v1/completions'
    const bad = [
        ['invalid_json_line', '{"custom_id":"a"', null],
        ['invalid_json_line', '[1]', null],
        ['invalid_json_line', `${good} x`, null],
        ['invalid_json_line', '\xff', null],
        ['invalid_json_line', '{"custom_id":"a\\u0000b"}', null],
        ['invalid_custom_id', '{"method":"POST","url":"/v1/completions","body":{}}', null],
        ['invalid_custom_id', ask(7, c, {}), null],
        ['invalid_custom_id', ask('', c, {}), null],
        ['invalid_method', ask('m', c, {}, { method: 'GET' }), 'm'],
        ['invalid_url', ask('u', '/v1/models', {}), 'u'],
        ['invalid_url', ask('u', `http://127.0.0.1${c}`, {}), 'u'],
        ['invalid_url', ask('u', '/v1/cache/save', {}), 'u'],
        ['invalid_body', ask('b', c, 'prompt'), 'b'],
        ['invalid_body', ask('b', c, undefined), 'b'],
        ['stream_unsupported', ask('s', c, { prompt: 'A', stream: true }), 's'],
        ['duplicate_custom_id', good, 'good'],
    ]
    fs.writeFileSync(file('bad'), Buffer.from(`${good}\r\n\r\n  \n${bad.map(([, line]) => line).join('\r\n')}\n${good.replaceAll('good', 'last')}`, 'latin1'))
    await run(3, ['bad', 'bad.out'])
    const lines = read('bad.out')
    assert.equal(lines.length, bad.length + 2)
    for (const [i, [code, , id]] of bad.entries()) {
        const [l, ...more] = lines.filter((x) => x.error?.line === i + 4)
        assert.ok(l && more.length === 0, `line ${i + 4}`)
        assert.equal(l.error.code, code)
        assert.ok(l.error.message.startsWith(`line ${i + 4}: `), l.error.message)
        assert.equal(l.custom_id, id)
        assert.equal(l.response, null)
    }
    for (const id of ['good', 'last']) assert.equal(lines.filter((l) => l.custom_id === id && l.response?.status_code === 200).length, 1)
    // again: nothing is told twice; mended, it is answered
    const r = await run(3, ['bad', 'bad.out'])
    assert.match(r.stderr, /batch done: 0 lines .* 18 lines were done before, 16 of them failed/)
    assert.equal(read('bad.out').length, lines.length)
    fs.writeFileSync(file('bad'), ask('u', c, { prompt: 'A', max_tokens: 1 }))
    await run(0, ['bad', 'bad.out'])
    assert.equal(read('bad.out').at(-1).response.status_code, 200)
})

await test('an empty file, one of blanks, a byte order mark, a huge line', async () => {
    write('empty', [])
    await run(0, ['empty', 'empty.out'])
    assert.equal(fs.readFileSync(file('empty.out'), 'utf8'), '')
    fs.writeFileSync(file('empty'), '\n \r\n\t')
    await run(0, ['empty', 'empty.out'])
    fs.writeFileSync(file('bom'), `\ufeff${good}`)
    await run(0, ['bom', 'bom.out'])
    const fitting = ask('fits', '/v1/completions', { prompt: 'A', max_tokens: 1, user: '' })
    const long = (id, n) => ask(id, '/v1/completions', { prompt: 'A', max_tokens: 1, user: 'u'.repeat(n - fitting.length) })
    const set = { max_body_size: 200000 }
    write('huge', [good, long('fits', 200000), long('over', 200001), long('much', 3000000), long('last', 4000000)], '')
    await run(3, ['huge', 'huge.out'], { set })
    const lines = read('huge.out')
    assert.deepEqual(lines.filter((l) => l.response?.status_code === 200).map((l) => l.custom_id).sort(), ['fits', 'good'])
    assert.deepEqual(lines.filter((l) => l.error?.code === 'line_too_long').map((l) => l.error.line), [3, 4, 5])
    assert.match(lines.find((l) => l.error).error.message, /^line 3: .*max_body_size = 200000/)
})

await test('standard input and output', async () => {
    const r = await run(0, ['-', '-'], { input: chats(8).join('\n') })
    const lines = by_id(parse(r.stdout))
    for (let i = 0; i < 8; i++) assert.deepEqual(plain(lines.get(`chat-${i}`).response.body), references[i])
    // a pipe that takes its time: what has come is answered at once
    const slow_run = begin(['-', '-'], { input: null })
    for (const line of chats(3)) {
        const before = slow_run.stdout.length
        slow_run.child.stdin.write(line.slice(0, 20))
        await sleep(60)
        slow_run.child.stdin.write(line.slice(20) + '\n')
        await until('an answer', () => slow_run.stdout.length > before && slow_run.stdout.endsWith('\n'), 60000)
    }
    slow_run.child.stdin.end()
    assert.equal((await slow_run.ended).code, 0)
    assert.equal(parse(slow_run.stdout).length, 3)
})

await test('what cannot start says why and leaves files alone', async () => {
    write('in', [good])
    const why = async (pattern, args, options) => assert.match((await run(1, args, options)).stderr, pattern)
    await why(/two files/, ['in'])
    await why(/two files/, ['in', 'a', 'b'])
    await why(/not for batch: --listen/, ['--listen', '127.0.0.1:0', 'in', 'x.out'])
    await why(/nothing\.jsonl: No such file/, ['nothing.jsonl', 'x.out'])
    await why(/No such file/, ['in', 'no/folder.out'])
    await why(/folder/, ['.', 'x.out'])
    await why(/is the input/, ['in', 'in'])
    fs.linkSync(file('in'), file('in2'))
    await why(/is the input/, ['in', 'in2'])
    assert.equal(fs.readFileSync(file('in'), 'utf8'), good + '\n')
    await why(/max_num_seqs/, ['in', 'x.out'], { set: { max_num_seqs: 0 } })
    await why(/no-such-model/, ['--model', 'no-such-model', 'in', 'x.out'])
    await why(/batch_max_lines = 3/, ['equal', 'few.out'], { set: { batch_max_lines: 3 } })
    await why(/standard output.*No space|\/dev\/full: No space/, ['in', '/dev/full'])
    for (const other of ['some text\n', '{"a":1}\n', '{"custom_id":1,"response":null,"error":null}\n', `${good}\n`]) {
        fs.writeFileSync(file('other'), other)
        await why(/line 1 is not one of a batch's output/, ['in', 'other'])
        assert.equal(fs.readFileSync(file('other'), 'utf8'), other)
    }
    const holder = begin(['-', 'held.out'], { input: null })
    await until('it runs', () => /cache of/.test(holder.stderr), 60000)
    await why(/held\.out is being written by another run/, ['in', 'held.out'])
    holder.child.stdin.end(good)
    assert.equal((await holder.ended).code, 0)
    assert.equal(read('held.out').length, 1)
    assert.match(execFileSync(program, ['batch', '--help'], { encoding: 'utf8' }), /IN OUT/)
})

await test('a full queue is no answer, and what it can never hold is refused', async () => {
    const set = { max_num_seqs: 2, max_queue_requests: 1 }
    write('full', [...chats(24), ask('wide', '/v1/completions', { prompt: Array(12).fill('A'), max_tokens: 2 }),
        ask('n', '/v1/completions', { prompt: 'A', max_tokens: 2, n: 2 })])
    await run(3, ['full', 'full.out'], { set })
    const lines = read('full.out')
    assert.equal(lines.length, 26)
    const refused = lines.filter((l) => l.response.status_code !== 200)
    assert.deepEqual(refused.map((l) => [l.custom_id, l.response.status_code]), [['wide', 400]])
    fs.writeFileSync(file('full.out'), lines.filter((l) => l.custom_id.startsWith('chat')).map((l) => JSON.stringify(l) + '\n').join(''))
    complete('full.out', 24)
})

await test('what failed in the server is tried again, what was refused is not', async () => {
    const told = (id, status) => `{"id":"x","custom_id":"${id}","response":{"status_code":${status},"request_id":"r","body":{"deep":[{"custom_id":"no"}]}},"error":null}\n`
    write('again', ['a', 'b', 'c', 'd'].map((id) => ask(id, '/v1/completions', { prompt: 'A', max_tokens: 2 })))
    fs.writeFileSync(file('again.out'), told('a', 503) + told('b', 400) + told('c', 200) + told('d', 408)) // 408: out of time
    const r = await run(3, ['again', 'again.out'])
    assert.match(r.stderr, /batch done: 2 lines .* 2 lines were done before, 1 of them failed/)
    assert.deepEqual(read('again.out').slice(0, 4).map((l) => [l.custom_id, l.response.status_code]), [['a', 503], ['b', 400], ['c', 200], ['d', 408]])
    assert.deepEqual(read('again.out').slice(4).map((l) => [l.custom_id, l.response.status_code]).sort(), [['a', 200], ['d', 200]])
})

await test('lines wait for each other as long as it takes', async () => {
    write('wait', chats(8))
    await run(0, ['wait', 'wait.out'], { set: { max_num_seqs: 1, max_queue_time: '1ms' } })
    complete('wait.out', 8)
})

write('all', chats(N))
await test(`kill -9 at any moment, seed ${seed}`, async () => {
    const out = file('killed.out')
    let kills = 0
    let kept = ''
    let amid = 0
    for (let i = 0; i < (slow ? 4 : 12); i++) {
        const r = begin(['all', 'killed.out'], { set: { max_num_seqs: 2, max_queue_requests: 2 } })
        const lines = () => (fs.existsSync(out) ? fs.readFileSync(out, 'utf8').split('\n').length - 1 : 0)
        const target = lines() + 1 + Math.floor(rng() * 5)
        await until('some lines', () => lines() >= target || r.child.exitCode !== null, 60000)
        await sleep(rng() * 20)
        r.child.kill('SIGKILL')
        kills += (await r.ended).signal === 'SIGKILL'
        const now = fs.readFileSync(out, 'utf8')
        assert.ok(now.startsWith(kept), 'a finished line was lost')
        kept = now.slice(0, now.lastIndexOf('\n') + 1)
        const n = parse(kept).length
        by_id(parse(kept))
        amid += n > 0 && n < N
        if (rng() < 0.5) { // as a write that a crash has torn
            const line = kept.slice(0, kept.indexOf('\n'))
            fs.writeFileSync(out, kept + line.slice(0, 1 + Math.floor(rng() * line.length)))
        }
    }
    note(`${kills} kills, ${amid} amid the lines`)
    assert.ok(kills > 0 && amid > 0)
    await run(0, ['all', 'killed.out'])
    complete('killed.out', N)
})

await test('a torn last line is cut off', async () => {
    const whole = fs.readFileSync(file('killed.out'), 'utf8')
    const last = whole.lastIndexOf('\n', whole.length - 2) + 1
    for (const end of [last + 1, last + 40, whole.length - 1]) {
        fs.writeFileSync(file('torn.out'), whole.slice(0, end))
        const r = await run(0, ['all', 'torn.out'])
        assert.match(r.stderr, /the last line is not whole; it is cut off/)
        assert.match(r.stderr, new RegExp(`batch done: 1 lines .* ${N - 1} lines were done before`))
        complete('torn.out', N)
    }
})

await test('signals: the first lets lines finish, the second does not wait', async () => {
    const set = { max_num_seqs: 2, max_queue_requests: 2 }
    for (const signal of ['SIGINT', 'SIGTERM']) {
        const name = `${signal}.out`
        const r = begin(['all', name], { set })
        await until('an answer', () => fs.existsSync(file(name)) && fs.statSync(file(name)).size > 0, 60000)
        r.child.kill(signal)
        const { code, stderr } = await r.ended
        assert.equal(code, 2, stderr)
        const finishing = Number(new RegExp(`${signal}: (\\d+) lines finish`).exec(stderr)[1])
        assert.ok(finishing > 0 && finishing <= 4)
        const n = read(name).length
        assert.ok(n > 0 && n < N)
        assert.match(stderr, new RegExp(`batch interrupted: ${n} lines`))
        await run(0, ['all', name])
        complete(name, N)
    }
    write('long', Array.from({ length: 4 }, (_, i) => ask(`chat-${i}`, '/v1/chat/completions', chat(i, 3500))))
    const r = begin(['long', 'long.out'], { set })
    await until('it runs', () => /cache of/.test(r.stderr), 60000)
    await sleep(300)
    r.child.kill('SIGINT')
    await until('it is told', () => /lines finish/.test(r.stderr))
    r.child.kill('SIGINT')
    const { code, stderr } = await r.ended
    assert.equal(code, 2, stderr)
    assert.match(stderr, /second signal: ending at once, 4 lines are cut off/)
    assert.equal(fs.statSync(file('long.out')).size, 0)
    const limited = begin(['long', 'long.out'], { set: { ...set, drain_timeout: '100ms' } })
    await until('it runs', () => /cache of/.test(limited.stderr), 60000)
    limited.child.kill('SIGTERM')
    const end = await limited.ended
    assert.equal(end.code, 2, end.stderr)
})

const script = (() => {
    try {
        return /util-linux/.test(execFileSync('script', ['--version'], { encoding: 'utf8' }))
    } catch {
        return false
    }
})()
if (script) {
    await test('on a terminal one line is written over', async () => {
        write('tty', chats(slow ? 12 : 40, 200))
        const text = execFileSync('script', ['-qec', `'${program}' batch --model '${model}' tty tty.out`, '/dev/null'], { encoding: 'utf8', cwd: folder, env, stdio: ['ignore', 'pipe', 'ignore'] })
        assert.match(text, /\r\d+ lines \(\d+\.\d %\)(, \d+:\d\d:\d\d left)?, \d+ tokens\/s, 0 failed\x1b\[K/)
        assert.match(text, /batch done: \d+ lines/)
    })
} else {
    skip_test('on a terminal one line is written over', 'no script')
}
await done()
