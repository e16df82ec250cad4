// tests/integration/openai.mjs - the official npm client `openai` against the daemon.
//
// The client is installed into the build folder; without npm or a registry that answers the test is
// skipped. The JavaScript examples of README.md run here too, since they use this client.
import { spawnSync } from 'node:child_process'
import { assert, done, fs, metric_of, note, path, scratch, sleep, slow, start, test, top_srcdir, until } from './harness.mjs'
import { examples } from './examples.mjs'
import { packages } from './npm.mjs'

const { default: OpenAI } = await packages('npm', { openai: '6' })('openai')

const d = await start()
const client = new OpenAI({ baseURL: `${d.base}/v1`, apiKey: 'none', maxRetries: 0 })
let model_id

await test('models.list and models.retrieve', async () => {
    const list = await client.models.list()
    assert.equal(list.data.length, 1)
    model_id = list.data[0].id
    assert.equal(list.data[0].object, 'model')
    assert.ok(model_id)
    assert.equal((await client.models.retrieve(model_id)).id, model_id)
    await assert.rejects(client.models.retrieve('no-such-model'), OpenAI.NotFoundError)
})

const greedy = { prompt: 'The history of the city', max_tokens: 24, temperature: 0 }
let text

await test('completions', async () => {
    const answer = await client.completions.create({ model: model_id, ...greedy })
    assert.match(answer.id, /^cmpl-/)
    assert.equal(answer.object, 'text_completion')
    assert.equal(answer.model, model_id)
    assert.ok(Math.abs(answer.created - Date.now() / 1000) < 600)
    assert.equal(answer.choices.length, 1)
    assert.equal(answer.choices[0].finish_reason, 'length')
    assert.deepEqual(
        [answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens], [6, 24, 30])
    text = answer.choices[0].text
    assert.match(text, /^ is/)
})

await test('completions, streamed, with usage', async () => {
    const stream = await client.completions.create({
        model: model_id, ...greedy, stream: true, stream_options: { include_usage: true },
    })
    let got = ''
    let usage
    let finish
    for await (const chunk of stream) {
        assert.equal(chunk.object, 'text_completion')
        got += chunk.choices[0]?.text ?? ''
        finish = chunk.choices[0]?.finish_reason ?? finish
        if (chunk.usage) {
            assert.deepEqual(chunk.choices, [])
            usage = chunk.usage
        }
    }
    assert.equal(got, text)
    assert.equal(finish, 'length')
    assert.equal(usage.completion_tokens, 24)
    assert.equal(usage.total_tokens, 30)
})

const chat = { messages: [{ role: 'user', content: 'What is a volcano?' }], max_tokens: 24, temperature: 0 }
let chat_text

await test('chat', async () => {
    const answer = await client.chat.completions.create({ model: model_id, ...chat })
    assert.match(answer.id, /^chatcmpl-/)
    assert.equal(answer.object, 'chat.completion')
    const [choice] = answer.choices
    assert.equal(choice.message.role, 'assistant')
    chat_text = choice.message.content
    assert.ok(chat_text.length > 10)
    // <|bos|><|user|>...<|assistant|>, as the reference writes it
    assert.equal(answer.usage.prompt_tokens, 9)
    assert.equal(answer.usage.total_tokens, 9 + answer.usage.completion_tokens)
})

await test('chat, streamed, with usage', async () => {
    const stream = await client.chat.completions.create({
        model: model_id, ...chat, stream: true, stream_options: { include_usage: true },
    })
    let got = ''
    let usage
    let role
    for await (const chunk of stream) {
        assert.equal(chunk.object, 'chat.completion.chunk')
        role ??= chunk.choices[0]?.delta.role
        got += chunk.choices[0]?.delta.content ?? ''
        usage = chunk.usage ?? usage
    }
    assert.equal(role, 'assistant')
    assert.equal(got, chat_text)
    assert.equal(usage.prompt_tokens, 9)
})

await test('chat by the stream helper, system message and parts', async () => {
    const runner = client.chat.completions.stream({
        model: model_id, max_tokens: 12, temperature: 0,
        messages: [
            { role: 'system', content: 'You answer briefly.' },
            { role: 'user', content: [{ type: 'text', text: 'Describe a ' }, { type: 'text', text: 'lighthouse.' }] },
        ],
    })
    let pieces = ''
    runner.on('content', (delta) => (pieces += delta))
    const message = await runner.finalMessage()
    assert.equal(message.content, pieces)
})

await test('n = 2, seeded: two different choices, twice the same', async () => {
    const ask = () => client.completions.create({
        model: model_id, prompt: 'Once upon a time there was', max_tokens: 24, n: 2, seed: 7, temperature: 0.9,
    })
    const a = await ask()
    const b = await ask()
    assert.deepEqual(a.choices.map((c) => c.index).sort(), [0, 1])
    assert.notEqual(a.choices[0].text, a.choices[1].text)
    assert.deepEqual(a.choices.map((c) => c.text), b.choices.map((c) => c.text))
    assert.equal(a.usage.completion_tokens, a.choices.length * 24)
})

await test('several prompts in one request', async () => {
    const prompts = ['The history of the city', 'The river rises in the']
    const both = await client.completions.create({ model: model_id, prompt: prompts, max_tokens: 8, temperature: 0 })
    for (const choice of both.choices) {
        const one = await client.completions.create({
            model: model_id, prompt: prompts[choice.index], max_tokens: 8, temperature: 0,
        })
        assert.equal(choice.text, one.choices[0].text)
    }
})

await test('log-probabilities of completions', async () => {
    const answer = await client.completions.create({ model: model_id, ...greedy, max_tokens: 6, logprobs: 3 })
    const { tokens, token_logprobs, top_logprobs, text_offset } = answer.choices[0].logprobs
    assert.equal(tokens.length, 6)
    assert.equal(tokens.join(''), answer.choices[0].text)
    let offset = 0
    tokens.forEach((token, i) => {
        assert.ok(token_logprobs[i] <= 0)
        assert.equal(text_offset[i], offset)
        offset += token.length
        const top = Object.entries(top_logprobs[i])
        assert.ok(top.length >= 3)
        // greedy: the token is the likeliest
        assert.equal(top.reduce((best, x) => (x[1] > best[1] ? x : best))[0], token)
        assert.ok(Math.abs(top_logprobs[i][token] - token_logprobs[i]) < 1e-6)
    })
})

await test('log-probabilities of chat', async () => {
    const answer = await client.chat.completions.create({ model: model_id, ...chat, max_tokens: 5, logprobs: true, top_logprobs: 2 })
    const { content } = answer.choices[0].logprobs
    assert.equal(content.length, 5)
    assert.equal(content.map((c) => c.token).join(''), answer.choices[0].message.content)
    for (const c of content) {
        assert.ok(c.logprob <= 0)
        assert.deepEqual(Buffer.from(c.bytes).toString(), c.token)
        assert.equal(c.top_logprobs.length, 2)
        assert.ok(c.top_logprobs[0].logprob >= c.top_logprobs[1].logprob)
    }
})

await test('stop strings end the text and never show', async () => {
    const word = text.trim().split(/\s+/)[3]
    const expected = text.slice(0, text.indexOf(word))
    const answer = await client.completions.create({ model: model_id, ...greedy, stop: word })
    assert.equal(answer.choices[0].finish_reason, 'stop')
    assert.equal(answer.choices[0].text, expected)
    let got = ''
    for await (const chunk of await client.completions.create({ model: model_id, ...greedy, stop: [word, '\u0001'], stream: true })) {
        got += chunk.choices[0]?.text ?? ''
        assert.ok(expected.startsWith(got), `${JSON.stringify(got)} shows the stop string`)
    }
    assert.equal(got, expected)
})

await test('a bad value is a BadRequestError that names the field', async () => {
    for (const [param, value] of [['temperature', 9], ['max_tokens', -2], ['top_p', 0], ['n', 'two'], ['stop', 3]]) {
        await assert.rejects(client.completions.create({ model: model_id, prompt: 'x', [param]: value }), (error) => {
            assert.ok(error instanceof OpenAI.BadRequestError, String(error))
            assert.equal(error.param, param)
            assert.equal(error.type, 'invalid_request_error')
            assert.ok(error.message.length > 10)
            return true
        })
    }
    await assert.rejects(client.chat.completions.create({ model: model_id, messages: [{ role: 'nobody', content: 'x' }] }),
        (error) => error instanceof OpenAI.BadRequestError && /^messages/.test(error.param))
})

await test('a prompt beyond the context is a BadRequestError with its code', async () => {
    await assert.rejects(client.completions.create({ model: model_id, prompt: Array(5000).fill(50), max_tokens: 1 }), (error) => {
        assert.ok(error instanceof OpenAI.BadRequestError, String(error))
        assert.equal(error.code, 'context_length_exceeded')
        return true
    })
})

await test('another model is a NotFoundError', async () => {
    await assert.rejects(client.completions.create({ model: 'gpt-4o', prompt: 'x' }), (error) => {
        assert.ok(error instanceof OpenAI.NotFoundError, String(error))
        assert.equal(error.code, 'model_not_found')
        return true
    })
})

await test('errors carry the request id', async () => {
    await assert.rejects(client.completions.create({ model: model_id, prompt: 'x', n: 0 }), (error) => {
        assert.match(error.requestID, /^req-/)
        return true
    })
})

await test('an abort signal ends the work', async () => {
    const controller = new AbortController()
    const streaming = await client.completions.create(
        { model: model_id, prompt: 'The', max_tokens: 3000, ignore_eos: true, stream: true }, { signal: controller.signal })
    let chunks = 0
    for await (const chunk of streaming) {
        assert.ok(chunk.choices)
        if (++chunks === 5) controller.abort()
    }
    await d.idle()
    assert.ok(chunks < 2500, `${chunks} chunks came`)

    // without streaming: the call rejects, the work goes
    const second = new AbortController()
    const call = client.completions.create({ model: model_id, prompt: 'The', max_tokens: 3000, ignore_eos: true }, { signal: second.signal })
    const rejected = assert.rejects(call, OpenAI.APIUserAbortError)
    await until('it runs', async () => await d.running() === 1)
    second.abort()
    await rejected
    await d.idle()
})

await test('nobody there is an APIConnectionError', async () => {
    const nowhere = new OpenAI({ baseURL: 'http://127.0.0.1:9/v1', apiKey: 'none', maxRetries: 0 })
    await assert.rejects(nowhere.models.list(), OpenAI.APIConnectionError)
})

for (const [i, source] of examples('js').entries()) {
    await test(`README.md, JavaScript example ${i + 1}`, async () => {
        const file = path.join(scratch, 'npm', `example${i + 1}.mjs`)
        fs.writeFileSync(file, source.replaceAll('http://127.0.0.1:8080', d.base))
        const result = await new Promise((resolve) => {
            const child = spawnSync(process.execPath, [file], { encoding: 'utf8', timeout: slow ? 300000 : 60000 })
            resolve(child)
        })
        assert.equal(result.status, 0, result.stderr)
        assert.ok(result.stdout.trim().length > 10, `it printed ${JSON.stringify(result.stdout)}`)
    })
}
await d.kill()

await test('a full queue is a RateLimitError, and the client comes back by Retry-After', async () => {
    const tight = await start({ set: { max_num_seqs: 1, max_queue_requests: 1 } })
    const c = new OpenAI({ baseURL: `${tight.base}/v1`, apiKey: 'none', maxRetries: 0 })
    const long = (signal) => c.completions.create(
        { model: model_id, prompt: 'The', max_tokens: 3000, ignore_eos: true, stream: true }, { signal })
    const first = new AbortController()
    const second = new AbortController()
    const drain = async (call) => {
        try {
            for await (const chunk of await call) assert.ok(chunk)
        } catch (error) {
            if (!(error instanceof OpenAI.APIUserAbortError)) throw error
        }
    }
    const running = drain(long(first.signal))
    await until('the first runs', async () => await tight.running() === 1)
    const waiting = drain(long(second.signal))
    await until('the second waits', async () => await tight.waiting() === 1)

    await assert.rejects(c.completions.create({ model: model_id, prompt: 'x' }), (error) => {
        assert.ok(error instanceof OpenAI.RateLimitError, String(error))
        const seconds = Number(error.headers.get('retry-after'))
        assert.ok(seconds >= 1 && seconds <= 60, `Retry-After: ${error.headers.get('retry-after')}`)
        return true
    })
    // A patient client is served once the others are gone.
    const patient = new OpenAI({ baseURL: `${tight.base}/v1`, apiKey: 'none', maxRetries: 5 })
    const begun = Date.now()
    const served = patient.completions.create({ model: model_id, prompt: 'x', max_tokens: 2, ignore_eos: true })
    await sleep(300)
    first.abort()
    second.abort()
    const answer = await served
    assert.equal(answer.usage.completion_tokens, 2)
    assert.ok(Date.now() - begun >= 900, 'the client did not wait for Retry-After')
    await Promise.all([running, waiting])
    await tight.idle()
    await tight.kill()
})

await test('while the model loads: 503 with Retry-After, and an InternalServerError', async () => {
    const loading = await start({ wait: false, args: ['--threads', '1'] })
    const c = new OpenAI({ baseURL: `${loading.base}/v1`, apiKey: 'none', maxRetries: 0 })
    // The small model loads in a moment; what comes is either the refusal or a served request.
    const outcome = await c.completions.create({ model: model_id, prompt: 'x', max_tokens: 1 }).then(() => 'served', (error) => error)
    if (outcome !== 'served') {
        assert.ok(outcome instanceof OpenAI.InternalServerError, String(outcome))
        assert.equal(outcome.status, 503)
        assert.ok(Number(outcome.headers.get('retry-after')) >= 1)
    }
    note(outcome === 'served' ? 'it was ready at once' : 'it was told to come back')
    const patient = new OpenAI({ baseURL: `${loading.base}/v1`, apiKey: 'none', maxRetries: 10 })
    assert.equal((await patient.completions.create({ model: model_id, prompt: 'x', max_tokens: 1, ignore_eos: true })).usage.completion_tokens, 1)
    await loading.kill()
})
await done()
