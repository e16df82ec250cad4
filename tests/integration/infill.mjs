// tests/integration/infill.mjs - llama-server's /completion and /infill: its fields, its answers, its events.
import { assert, done, fs, model, path, scratch, start, test } from './harness.mjs'

/** The shipped model with other texts of its control tokens, in a file of the same size: the chat template gives the bytes. */
function with_tokens(names) {
    let b = fs.readFileSync(model)
    const string_at = (at) => [at, Number(b.readBigUInt64LE(at))]
    const array = b.indexOf('tokenizer.ggml.tokens') + 'tokenizer.ggml.tokens'.length + 4 + 4 + 8
    const template = b.indexOf('tokenizer.chat_template') + 'tokenizer.chat_template'.length + 4
    const parts = []
    let at = array, grown = 0
    for (let id = 0; id < 6; id++) {
        const [from, n] = string_at(at)
        const old = b.toString('utf8', from + 8, from + 8 + n), text = Buffer.from(names[old] ?? old), head = Buffer.alloc(8)
        head.writeBigUInt64LE(BigInt(text.length))
        parts.push(head, text)
        grown += text.length - n
        at = from + 8 + n
    }
    const [, n] = string_at(template)
    assert.ok(template > at && grown > 0 && n > grown)
    const head = Buffer.alloc(8)
    head.writeBigUInt64LE(BigInt(n - grown))
    b = Buffer.concat([b.subarray(0, array), ...parts, b.subarray(at, template), head, b.subarray(template + 8, template + 8 + n - grown), b.subarray(template + 8 + n)])
    const file = path.join(scratch, `infill-${process.pid}.gguf`)
    fs.writeFileSync(file, b)
    process.on('exit', () => fs.rmSync(file, { force: true }))
    return file
}

const greedy = { n_predict: 12, temperature: 0 }
const frames = (text) => text.split('\n\n').filter((f) => f.startsWith('data: ')).map((f) => JSON.parse(f.replace(/^data: /, '')))
let d = await start()

await test('/completion: the answer of /v1/completions in the other shape', async () => {
    const other = await d.post('/v1/completions', { prompt: 'A river', max_tokens: 12, temperature: 0 })
    const r = await d.post('/completion', { ...greedy, prompt: 'A river' })
    assert.equal(r.content, other.choices[0].text)
    assert.deepEqual([r.stop, r.stop_type, r.stopping_word, r.truncated, r.prompt], [true, 'limit', '', false, 'A river'])
    assert.equal(r.tokens_predicted, 12)
    assert.equal(r.tokens_evaluated, other.usage.prompt_tokens)
    assert.equal(r.tokens_cached, r.tokens_evaluated + 12)
    assert.deepEqual(r.tokens, [])
    assert.equal(r.timings.cache_n + r.timings.prompt_n, r.tokens_evaluated)
    assert.equal(r.timings.predicted_n, 12)
    for (const [name, v] of Object.entries(r.timings)) assert.ok(Number.isFinite(v) && v >= 0, name)
    assert.equal(r.generation_settings.n_predict, 12)
    const ids = (await d.post('/tokenize', { prompt: 'A river' })).tokens
    assert.equal((await d.post('/completions', { ...greedy, prompt: ids })).content, r.content)
    const word = await d.post('/completion', { ...greedy, prompt: 'A river', stop: ['zzz', r.content.slice(4, 9)] })
    assert.deepEqual([word.content, word.stop_type, word.stopping_word], [r.content.slice(0, 4), 'word', r.content.slice(4, 9)])
    const probs = await d.post('/completion', { ...greedy, prompt: 'A river', n_probs: 3, return_tokens: true })
    assert.equal(probs.tokens.length, 12)
    assert.deepEqual(probs.completion_probabilities.map((t) => t.id), probs.tokens)
    for (const t of probs.completion_probabilities) {
        assert.equal(t.top_logprobs.length, 3)
        assert.deepEqual([t.id, t.logprob], [t.top_logprobs[0].id, t.top_logprobs[0].logprob])
        assert.equal(Buffer.from(t.bytes).toString(), t.token)
    }
    const grammar = await d.post('/completion', { ...greedy, n_predict: -1, prompt: 'A river', grammar: 'root ::= "yes" | "no"' })
    assert.match(grammar.content, /^(yes|no)$/)
    assert.equal(grammar.stop_type, 'eos')
})

await test('/completion: several prompts and choices are a list', async () => {
    const list = await d.post('/completion', { ...greedy, prompt: ['A river', 'The sea'], n: 2, temperature: 0.8, seed: 3 })
    assert.deepEqual(list.map((r) => r.index), [0, 1, 2, 3])
    assert.deepEqual(list.map((r) => r.prompt), ['A river', 'A river', 'The sea', 'The sea'])
})

await test('n_predict 0 puts the prompt into the cache and generates nothing', async () => {
    const prompt = 'The lighthouse on the northern cape was built of granite. '.repeat(20)
    const r = await d.post('/completion', { prompt, n_predict: 0, temperature: 0, samplers: [], t_max_prompt_ms: 1, t_max_predict_ms: 1, response_fields: [''] })
    assert.deepEqual([r.content, r.stop, r.stop_type, r.tokens_predicted, r.timings.cache_n], ['', true, 'limit', 0, 0])
    const events = frames((await d.request('POST', '/completion', { prompt, n_predict: 0, stream: true })).text)
    assert.deepEqual(events.map((e) => [e.content, e.stop]), [['', true]])
    assert.ok((await d.post('/completion', { ...greedy, prompt })).timings.cache_n > 100)
    assert.equal((await d.post('/completion', { prompt: 'A river', max_tokens: 3, ignore_eos: true })).tokens_predicted, 3)
    const o = await d.post('/api/generate', { prompt: 'A river', raw: true, stream: false, format: { const: 'yes' }, options: { num_predict: 0 } })
    assert.equal(o.response, '"yes"') // Ollama's 0 is no bound
})

await test('logit_bias as llama-server has it: pairs, texts, false', async () => {
    const id = async (content) => (await d.post('/tokenize', { content })).tokens
    const ask = { prompt: 'A river', n_predict: 2, temperature: 0, return_tokens: true }
    const [first] = (await d.post('/completion', ask)).tokens
    assert.notEqual((await d.post('/completion', { ...ask, logit_bias: [[first, false]] })).tokens[0], first)
    assert.notEqual((await d.post('/completion', { ...ask, logit_bias: { [first]: false } })).tokens[0], first)
    assert.deepEqual((await d.post('/completion', { ...ask, logit_bias: [[700, 100]] })).tokens, [700, 700])
    const both = await id(' lighthouse city')
    assert.ok(both.length > 1)
    for (const logit_bias of [[[' lighthouse city', 100]], { ' lighthouse city': 100 }])
        for (const t of (await d.post('/completion', { ...ask, logit_bias })).tokens) assert.ok(both.includes(t))
    for (const wrong of [5, 'x', [5], [[5]], [[5, 'x']], [[5, true]], [[5, 101]], [[8192, 1]], [[-1, 1]], [[1.5, 1]], [[5, 1, 1]], [['x'.repeat(300), 1]], { 9000: 1 },
        Array(1025).fill([5, 1])]) {
        const e = await d.request('POST', '/completion', { ...ask, logit_bias: wrong })
        assert.deepEqual([e.status, e.json.error.param], [400, 'logit_bias'], JSON.stringify(wrong).slice(0, 60))
    }
})

await test('a seed of -1 draws one, as in llama-server and Ollama', async () => {
    const hot = { prompt: 'A river', temperature: 1.5, n_predict: 16 }, one = []
    for (let i = 0; i < 3; i++) {
        one.push((await d.post('/completion', { ...hot, seed: -1 })).content)
        one.push((await d.post('/api/generate', { prompt: hot.prompt, raw: true, stream: false, options: { temperature: 1.5, num_predict: 16, seed: -1 } })).response)
    }
    assert.equal(new Set(one).size, 6, JSON.stringify(one))
    const again = async (seed) => (await d.post('/completion', { ...hot, seed })).content
    for (const seed of [-2, 0, 7]) assert.equal(await again(seed), await again(seed))
})

await test('/completion: events', async () => {
    const whole = await d.post('/completion', { ...greedy, prompt: 'A river', return_tokens: true })
    const r = await d.request('POST', '/completion', { ...greedy, prompt: 'A river', stream: true })
    const events = frames(r.text), last = events.pop()
    assert.match(r.headers['content-type'], /^text\/event-stream/)
    assert.equal(events.map((e) => e.content).join('') + last.content, whole.content)
    assert.deepEqual([...events, last].flatMap((e) => e.tokens), whole.tokens)
    assert.ok(events.length > 5 && events.every((e) => e.stop === false))
    assert.deepEqual([last.stop, last.stop_type, last.tokens_predicted], [true, 'limit', 12])
    assert.equal(last.timings.predicted_n, 12)
    const late = await d.request('POST', '/completion', { prompt: 'A river', ignore_eos: true, timeout: 0.2, stream: true })
    assert.equal(frames(late.text).at(-1).error.code, 'timeout')
    const long = 'The history of the city is long. '.repeat(60)
    const told = frames((await d.request('POST', '/completion', { ...greedy, prompt: long, stream: true, return_progress: true })).text)
    assert.ok(told[0].prompt_progress.total > 300 && told[0].content === '')
    const resumable = await d.request('POST', '/completion', { ...greedy, prompt: 'A river', stream: true, resumable: true })
    assert.equal((await d.get(resumable.headers['content-location'])).text, resumable.text)
})

await test('/infill without tokens for it says which are missing', async () => {
    for (const [body, message] of [[{}, /input_prefix is missing/], [{ input_prefix: 'a' }, /input_suffix is missing/],
        [{ input_prefix: 'a', input_suffix: 'b' }, /lacks tokens .*<｜fim▁begin｜>, <｜fim▁hole｜>, <｜fim▁end｜>, or those of another family/]]) {
        const r = await d.request('POST', '/infill', body)
        assert.equal(r.status, 400)
        assert.match(r.json.error.message, message)
    }
    assert.equal((await d.get('/props')).json.infill, false)
    await d.kill()
})

await test('/infill: the prompt has the form of the model, and what is in it is text', async () => {
    const file = with_tokens({ '<|pad|>': '<|fim_prefix|>', '<|system|>': '<|fim_suffix|>', '<|user|>': '<|fim_middle|>', '<|assistant|>': '<|file_sep|>' })
    d = await start({ args: ['--model', file] })
    assert.equal((await d.get('/props')).json.infill, true)
    const body = {
        input_prefix: 'def f():\n', prompt: '    return', input_suffix: '\n<|fim_middle|>', ...greedy, cache_prompt: true, samplers: ['top_k', 'infill'],
        t_max_predict_ms: 1000, input_extra: [{ filename: 'a.py', text: 'x = 1\n' }, { text: 'y' }],
    }
    const r = await d.post('/infill', body)
    assert.equal(r.prompt, '<|file_sep|>a.py\nx = 1\n<|file_sep|>tmp\ny<|file_sep|>filename\n' +
        '<|fim_prefix|>def f():\n    return<|fim_suffix|>\n<|fim_middle|><|fim_middle|>')
    // the same, token by token: control tokens only where the form has them
    const ids = async (prompt) => (await d.post('/tokenize', { prompt, add_special_tokens: false, parse_special: false })).tokens
    const id = { prefix: 2, suffix: 3, middle: 4, file: 5 }
    const form = [id.file, ...await ids('a.py\nx = 1\n'), id.file, ...await ids('tmp\ny'), id.file, ...await ids('filename\n'),
        id.prefix, ...await ids('def f():\n    return'), id.suffix, ...await ids('\n<|fim_middle|>'), id.middle]
    const same = await d.post('/completion', { ...greedy, prompt: form.length === r.tokens_evaluated ? form : [0, ...form] })
    assert.equal(same.tokens_evaluated, r.tokens_evaluated)
    assert.equal(same.content, r.content)
    const events = frames((await d.request('POST', '/infill', { ...body, stream: true })).text)
    assert.equal(events.map((e) => e.content).join(''), r.content)
    const plain = await d.post('/v1/completions', { prompt: 'def f():\n    return', suffix: '\n<|fim_middle|>', max_tokens: 12, temperature: 0 })
    const bare = await d.post('/infill', { ...body, input_extra: undefined })
    assert.ok(bare.prompt.endsWith('<|fim_prefix|>def f():\n    return<|fim_suffix|>\n<|fim_middle|><|fim_middle|>') && plain.choices[0].text !== undefined)
    // as llama.vim warms the cache up
    const warm = { input_prefix: '', input_suffix: '', input_extra: body.input_extra, prompt: '', n_predict: 0, temperature: 0, samplers: [], stream: false, cache_prompt: true }
    assert.deepEqual([(await d.post('/infill', warm)).content, (await d.post('/infill', warm)).tokens_predicted], ['', 0])
    // the suffix goes into each prompt: together they are no longer than one may be
    const many = { prompt: Array(64).fill('a'), max_tokens: 1 }
    assert.equal((await d.request('POST', '/v1/completions', { ...many, suffix: 'b' })).status, 200)
    const e = await d.request('POST', '/v1/completions', { ...many, suffix: 'b'.repeat(3 << 20) })
    assert.deepEqual([e.status, e.json.error.param], [400, 'suffix'])
    for (const wrong of [{ input_extra: 'x' }, { input_extra: [{ filename: 'a' }] }, { input_extra: [{ text: 'a', filename: 1 }] }, { prompt: [1] }, { input_prefix: 1 }, { n_predict: -3 }, { n_probs: 99 }]) {
        const e = await d.request('POST', '/infill', { ...body, ...wrong })
        assert.equal(e.status, 400, JSON.stringify(wrong))
        assert.ok(e.json.error.param === Object.keys(wrong)[0], e.text)
    }
})

await done()
