// tests/integration/clients.mjs - the npm clients that people use, against the daemon: tools and thoughts over an engine that
// says what it is told (scripted.c), everything else over the model.
import { assert, done, path, start, test, top_srcdir } from './harness.mjs'
import { packages } from './npm.mjs'

const load = packages('npm-clients', {
    openai: '6', '@anthropic-ai/sdk': '0', ai: '5', '@ai-sdk/openai-compatible': '1', '@langchain/openai': '1', '@langchain/core': '1',
    ollama: '0.6', zod: '4',
})
const { default: OpenAI } = await load('openai')
const { default: Anthropic } = await load('@anthropic-ai/sdk')
const { z } = await load('zod')

const d = await start()
const s = await start({
    program: 'tests/scripted', set: { chat_template: path.join(top_srcdir, 'tests/data/scripted.jinja'), model_id: 'scripted' },
})
const locked = await start({ env: { LATENTD_API_KEY: '0123456789abcdef0123' } })
const openai = new OpenAI({ baseURL: `${d.base}/v1`, apiKey: 'none', maxRetries: 0 })
const scripted = new OpenAI({ baseURL: `${s.base}/v1`, apiKey: 'none', maxRetries: 0 })
const anthropic = new Anthropic({ baseURL: d.base, apiKey: 'none', maxRetries: 0 })
const told = new Anthropic({ baseURL: s.base, apiKey: 'none', maxRetries: 0 })
const model = 'latent-mini'
const user = (content) => [{ role: 'user', content }]
const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const tool = { type: 'function', function: { name: 'get_weather', description: 'weather', parameters: schema } }
const call = (city) => `<tool_call>\n{"name": "get_weather", "arguments": {"city": "${city}"}}\n</tool_call>`
const two = `<think>\nTwo calls.\n</think>\n\nLet me look.\n${call('Paris')}\n${call('Oslo')}`

await test('openai: tool calls, whole and streamed, with thoughts', async () => {
    const ask = { model: 'scripted', messages: user(two), tools: [tool] }
    const whole = (await scripted.chat.completions.create(ask)).choices[0]
    assert.equal(whole.finish_reason, 'tool_calls')
    assert.equal(whole.message.content, 'Let me look.')
    assert.equal(whole.message.reasoning_content, 'Two calls.')
    assert.deepEqual(whole.message.tool_calls.map((c) => JSON.parse(c.function.arguments).city), ['Paris', 'Oslo'])
    assert.notEqual(whole.message.tool_calls[0].id, whole.message.tool_calls[1].id)
    let thought = '', chunks = 0
    const stream = scripted.chat.completions.stream({ ...ask, stream_options: { include_usage: true } })
    stream.on('chunk', (c) => {
        thought += c.choices[0]?.delta.reasoning_content ?? ''
        chunks += c.choices[0]?.delta.tool_calls?.length ?? 0
    })
    const { choices: [c], usage } = await stream.finalChatCompletion()
    assert.equal(thought, 'Two calls.')
    assert.equal(c.message.content, 'Let me look.')
    assert.deepEqual(c.message.tool_calls.map((t) => [t.function.name, t.function.arguments]),
        whole.message.tool_calls.map((t) => [t.function.name, t.function.arguments]))
    assert.ok(chunks > 6, `${chunks} deltas: arguments are streamed`)
    assert.ok(usage.completion_tokens_details.reasoning_tokens > 0)
    const one = (await scripted.chat.completions.create({ ...ask, parallel_tool_calls: false })).choices[0]
    assert.equal(one.message.tool_calls.length, 1)
    const none = (await scripted.chat.completions.create({ ...ask, tool_choice: 'none', separate_reasoning: false })).choices[0]
    assert.equal(none.message.content, two)
    assert.equal(none.finish_reason, 'stop')
    await assert.rejects(scripted.chat.completions.create({ ...ask, tool_choice: 'required' }), OpenAI.BadRequestError)
    const ids = []
    for (const request_id of [undefined, 'a', 'b', 'a', undefined])
        ids.push(...(await scripted.chat.completions.create({ ...ask, request_id })).choices[0].message.tool_calls.map((t) => t.id))
    assert.equal(new Set(ids).size, 10, `of calls, whoever names the request: ${ids}`)
})

await test('openai: logprobs beside calls and thoughts in a stream', async () => {
    let n = 0
    const stream = await scripted.chat.completions.create({ model: 'scripted', messages: user(two), tools: [tool], logprobs: true, stream: true,
        stream_options: { include_usage: true } })
    for await (const c of stream) {
        n += c.choices[0]?.logprobs?.content.length ?? 0
        if (c.usage) assert.equal(n, c.usage.completion_tokens)
    }
    assert.ok(n > 20)
})

await test('openai: the runner of tools', async () => {
    const cities = []
    const runner = scripted.chat.completions.runTools({
        model: 'scripted', messages: user(two),
        tools: [{ type: 'function', function: { ...tool.function, parse: JSON.parse, function: ({ city }) => (cities.push(city), `sun in ${city}`) } }],
    })
    assert.equal(await runner.finalContent(), 'The tool said sun in Oslo')
    assert.deepEqual(cities, ['Paris', 'Oslo'])
})

await test('openai: responses and their events', async () => {
    const ask = { model, input: 'What is a lighthouse?', temperature: 0, max_output_tokens: 24 }
    const whole = await openai.responses.create(ask)
    assert.equal(whole.status, 'incomplete')
    assert.equal(whole.incomplete_details.reason, 'max_output_tokens')
    assert.ok(whole.output_text.length > 20)
    const types = []
    let text = '', n = 0
    for await (const e of await openai.responses.create({ ...ask, stream: true })) {
        assert.equal(e.sequence_number, n++)
        types.push(e.type)
        if (e.type === 'response.output_text.delta') text += e.delta
        if (e.type === 'response.incomplete') assert.equal(e.response.output[0].content[0].text, whole.output_text)
    }
    assert.equal(text, whole.output_text)
    assert.deepEqual([...new Set(types)], ['response.created', 'response.in_progress', 'response.output_item.added', 'response.content_part.added',
        'response.output_text.delta', 'response.output_text.done', 'response.content_part.done', 'response.output_item.done', 'response.incomplete'])
    const helper = await openai.responses.stream(ask).finalResponse()
    assert.equal(helper.output_text, whole.output_text)
    assert.equal((await openai.responses.retrieve(whole.id)).output[0].content[0].text, whole.output_text)
    const next = await openai.responses.create({ ...ask, input: 'And a lake?', previous_response_id: whole.id })
    assert.equal(next.previous_response_id, whole.id)
    assert.ok(next.usage.input_tokens > whole.usage.input_tokens + whole.usage.output_tokens)
    const items = []
    for await (const i of openai.responses.inputItems.list(next.id, { order: 'asc' })) items.push(i.role)
    assert.deepEqual(items, ['user', 'assistant', 'user'])
    await openai.responses.delete(whole.id)
    await assert.rejects(openai.responses.retrieve(whole.id), OpenAI.NotFoundError)
    assert.equal((await openai.responses.create({ ...ask, input: 'x', store: false })).store, false)
    const other = new OpenAI({ baseURL: `${d.base}/v1`, apiKey: 'another', maxRetries: 0 })
    await assert.rejects(other.responses.retrieve(next.id), OpenAI.NotFoundError) // nobody else's
    for (const wrong of [{ input: [{ type: 'item_reference', id: 'x' }] }, { input: '' , max_output_tokens: 0 }, { previous_response_id: 'resp_x' },
        { background: true }, { tools: [{ type: 'web_search' }] }, { text: { format: { type: 'nonsense' } } }, { input: [{ role: 'x', content: '' }] }])
        await assert.rejects(openai.responses.create({ ...ask, ...wrong }), (e) => e.status === 400 || e.status === 404)
})

await test('openai: a response is cancelled while it runs', async () => {
    let id, last
    for await (const e of await openai.responses.create({ model, input: 'What is a lighthouse?', stream: true, ignore_eos: true, max_output_tokens: 3000 })) {
        if (e.type === 'response.output_text.delta' && !id) {
            id = e.item_id.replace(/^msg_/, 'resp_').replace(/_0$/, '')
            assert.equal((await openai.responses.retrieve(id)).status, 'in_progress')
            assert.equal((await openai.responses.cancel(id)).status, 'cancelled')
        }
        last = e
    }
    assert.equal(last.response.status, 'cancelled')
    assert.ok(last.response.usage.output_tokens < 3000)
    await assert.rejects(openai.responses.cancel(id), OpenAI.BadRequestError)
})

await test('openai: a response in the background is gone on with where its stream broke', async () => {
    const ask = { model, input: 'What is a lighthouse?', background: true, stream: true, temperature: 0, ignore_eos: true, max_output_tokens: 400 }
    const told = []
    for await (const e of await openai.responses.create(ask)) {
        told.push(e)
        if (told.length === 30) break // closes the connection
    }
    const { id } = told[0].response
    assert.equal((await openai.responses.retrieve(id)).background, true)
    for await (const e of await openai.responses.retrieve(id, { stream: true, starting_after: told.at(-1).sequence_number })) told.push(e)
    told.forEach((e, i) => assert.equal(e.sequence_number, i))
    const { response } = told.at(-1)
    assert.equal(response.usage.output_tokens, 400)
    assert.equal(told.map((e) => (e.type === 'response.output_text.delta' ? e.delta : '')).join(''), response.output[0].content[0].text)
})

await test('openai: functions and reasoning in responses', async () => {
    const tools = [{ type: 'function', name: 'get_weather', parameters: schema, strict: false }]
    const r = await scripted.responses.stream({ model: 'scripted', input: two, tools }).finalResponse()
    assert.deepEqual(r.output.map((o) => o.type), ['reasoning', 'message', 'function_call', 'function_call'])
    assert.equal(r.output[2].arguments, '{"city": "Paris"}')
    assert.equal(r.status, 'completed')
    const next = await scripted.responses.create({ model: 'scripted', previous_response_id: r.id, tools,
        input: r.output.slice(2).map((o) => ({ type: 'function_call_output', call_id: o.call_id, output: `sun for ${o.call_id}` })) })
    assert.equal(next.output_text, `The tool said sun for ${r.output[3].call_id}`)
})

await test('openai: embeddings', async () => {
    const ask = { model, input: ['A cat sat on a mat.', 'The cat was sitting on the mat.', 'Stocks fell in London.'] }
    const { data, usage } = await openai.embeddings.create(ask) // base64, unless told otherwise
    const plain = (await openai.embeddings.create({ ...ask, encoding_format: 'float' })).data
    const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0)
    data.forEach((e, i) => {
        assert.ok(Math.abs(dot(e.embedding, e.embedding) - 1) < 1e-5)
        assert.ok(dot(e.embedding, plain[i].embedding) > 1 - 1e-6)
    })
    assert.ok(dot(data[0].embedding, data[1].embedding) > dot(data[0].embedding, data[2].embedding) + 0.05)
    assert.ok(usage.prompt_tokens > 15)
    const one = async (pooling) => (await openai.embeddings.create({ model, input: [[50]], encoding_format: 'float', pooling })).data[0].embedding
    assert.deepEqual(await one('mean'), await one('last'))
    await assert.rejects(openai.embeddings.create({ model, input: 'a', dimensions: 5 }), OpenAI.BadRequestError)
    const text = 'The history of the city. '.repeat(60)
    const e = await start({ set: { prefill_chunk: 7, threads: 1, max_num_batched_tokens: 50, max_num_seqs: 4 } })
    const cut = new OpenAI({ baseURL: `${e.base}/v1`, apiKey: 'none' })
    for (const pooling of ['mean', 'last']) {
        const on = async (client) => (await client.embeddings.create({ model, input: text, encoding_format: 'float', pooling })).data[0].embedding
        assert.deepEqual(await on(cut), await on(openai), 'the bits do not depend on chunks')
    }
    await e.kill()
})

await test('anthropic: messages, streams, errors', async () => {
    const ask = { model, max_tokens: 20, temperature: 0, messages: user('What is a lighthouse?') }
    const whole = await anthropic.messages.create(ask)
    assert.equal(whole.stop_reason, 'max_tokens')
    assert.equal(whole.content[0].type, 'text')
    const chat = await openai.chat.completions.create({ model, max_tokens: 20, temperature: 0, messages: ask.messages })
    assert.equal(whole.content[0].text, chat.choices[0].message.content)
    const streamed = await anthropic.messages.stream(ask).finalMessage()
    assert.equal(streamed.content[0].text, whole.content[0].text)
    assert.equal(streamed.usage.output_tokens, 20)
    assert.equal((await anthropic.messages.countTokens({ model, messages: ask.messages })).input_tokens,
        whole.usage.input_tokens + whole.usage.cache_read_input_tokens)
    const [word] = whole.content[0].text.trim().split(' ').slice(4)
    const stopped = await anthropic.messages.create({ ...ask, stop_sequences: [word] })
    assert.equal(stopped.stop_reason, 'stop_sequence')
    assert.equal(stopped.stop_sequence, word)
    const begun = await anthropic.messages.create({ ...ask, messages: [...ask.messages, { role: 'assistant', content: 'A lighthouse is' }] })
    assert.ok(begun.content[0].text)
    await assert.rejects(anthropic.messages.create({ ...ask, max_tokens: 0 }), (e) => {
        assert.equal(e.status, 400)
        assert.equal(e.error.type, 'error')
        assert.equal(e.error.error.type, 'invalid_request_error')
        assert.match(e.error.error.message, /max_tokens/)
        return true
    })
    await assert.rejects(anthropic.messages.create({ ...ask, model: 'claude' }), Anthropic.NotFoundError)
    await assert.rejects(new Anthropic({ baseURL: locked.base, apiKey: 'none', maxRetries: 0 }).messages.create(ask), (e) => {
        assert.ok(e instanceof Anthropic.AuthenticationError)
        assert.deepEqual([e.error.type, e.error.error.type], ['error', 'authentication_error'])
        return true
    })
    for (const content of [[{ type: 'image', source: { type: 'url', url: 'x' } }], [], 5])
        await assert.rejects(anthropic.messages.create({ ...ask, messages: user(content) }), Anthropic.BadRequestError)
    for (const more of [{ tool_choice: { type: 'any' } }, { tools: [{ type: 'web_search_20250305', name: 'web_search' }] }, { thinking: { type: 'x' } }])
        await assert.rejects(anthropic.messages.create({ ...ask, ...more }), Anthropic.BadRequestError)
})

await test('anthropic: an answer under a schema', async () => {
    const n = { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'], additionalProperties: false }
    const ask = { model, max_tokens: 100, seed: 1, messages: user('A number') }
    const format = { type: 'json_schema', schema: n }
    for (const more of [{ output_config: { format, effort: 'low' } }, { output_format: format }])
        assert.ok(Number.isInteger(JSON.parse((await anthropic.messages.create({ ...ask, ...more })).content[0].text).n))
    await anthropic.messages.create({ ...ask, output_config: { format: null, effort: 'max' } })
    assert.ok((await anthropic.messages.countTokens({ model, messages: ask.messages, output_config: { format } })).input_tokens > 0)
    for (const wrong of [5, { format: 5 }, { format: { type: 'json_schema' } }, { format: { type: 'json_schema', schema: { not: {} } } }])
        await assert.rejects(anthropic.messages.create({ ...ask, output_config: wrong }), (e) => e.status === 400 && /output_config/.test(e.message))
})

await test('anthropic: uses of tools, and thinking', async () => {
    const tools = [{ name: 'get_weather', description: 'weather', input_schema: schema }]
    const ask = { model: 'scripted', max_tokens: 500, tools, messages: user(two) }
    const whole = await told.messages.create(ask)
    assert.deepEqual(whole.content.map((b) => b.type), ['text', 'tool_use', 'tool_use'])
    assert.deepEqual(whole.content[1].input, { city: 'Paris' })
    assert.equal(whole.stop_reason, 'tool_use')
    const thinking = await told.messages.stream({ ...ask, thinking: { type: 'enabled', budget_tokens: 1024 } }).finalMessage().catch((e) => e)
    assert.equal(thinking.status, 400) // </think> is no token here: no budget
    const streamed = await told.messages.stream({ ...ask, thinking: { type: 'adaptive' } }).finalMessage()
    assert.deepEqual(streamed.content.map((b) => b.type), ['thinking', 'text', 'tool_use', 'tool_use'])
    assert.equal(streamed.content[0].thinking, 'Two calls.')
    assert.deepEqual(streamed.content[3].input, { city: 'Oslo' })
    const next = await told.messages.create({ ...ask, messages: [...ask.messages, { role: 'assistant', content: streamed.content },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: streamed.content[3].id, content: [{ type: 'text', text: 'sun' }] }] }] })
    assert.equal(next.content[0].text, 'The tool said sun')
})

await test('ai with @ai-sdk/openai-compatible', async () => {
    const { generateText, streamText, embed, tool: make, stepCountIs } = await load('ai')
    const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible')
    const provider = createOpenAICompatible({ name: 'latentd', baseURL: `${d.base}/v1`, includeUsage: true })
    const { text, usage } = await generateText({ model: provider(model), prompt: 'What is a lighthouse?', temperature: 0, maxOutputTokens: 20 })
    let streamed = ''
    for await (const part of streamText({ model: provider(model), prompt: 'What is a lighthouse?', temperature: 0, maxOutputTokens: 20 }).textStream)
        streamed += part
    assert.equal(streamed, text)
    assert.equal(usage.outputTokens, 20)
    assert.equal((await embed({ model: provider.textEmbeddingModel(model), value: 'a cat' })).embedding.length, 384)
    const other = createOpenAICompatible({ name: 'scripted', baseURL: `${s.base}/v1` })
    const tools = { get_weather: make({ description: 'w', inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => `sun in ${city}` }) }
    const r = streamText({ model: other('scripted'), prompt: two, tools, stopWhen: stepCountIs(3) })
    assert.match(await r.text, /^The tool said .*sun in Oslo/)
    const steps = await r.steps
    assert.equal(steps[0].reasoningText, 'Two calls.')
    assert.deepEqual(steps[0].toolCalls.map((c) => c.input.city), ['Paris', 'Oslo'])
})

await test('@langchain/openai', async () => {
    const { ChatOpenAI, OpenAIEmbeddings } = await load('@langchain/openai')
    const configuration = { baseURL: `${d.base}/v1` }
    const chat = new ChatOpenAI({ model, apiKey: 'none', temperature: 0, maxTokens: 20, configuration, maxRetries: 0 })
    const whole = await chat.invoke('What is a lighthouse?')
    let text = ''
    for await (const part of await chat.stream('What is a lighthouse?')) text += part.content
    assert.equal(text, whole.content)
    assert.equal(whole.usage_metadata.output_tokens, 20)
    const vectors = await new OpenAIEmbeddings({ model, apiKey: 'none', configuration }).embedDocuments(['a cat', 'a dog'])
    const many = await new OpenAIEmbeddings({ model, apiKey: 'none', configuration, batchSize: 600 }).embedDocuments(Array.from({ length: 600 }, (_, i) => `cat ${i}`))
    assert.equal(many.length, 600)
    assert.deepEqual(vectors.map((v) => v.length), [384, 384])
    const agent = new ChatOpenAI({ model: 'scripted', apiKey: 'none', configuration: { baseURL: `${s.base}/v1` }, maxRetries: 0 }).bindTools([tool])
    const said = await agent.invoke(two)
    assert.deepEqual(said.tool_calls.map((c) => c.args), [{ city: 'Paris' }, { city: 'Oslo' }])
})

await test('ollama', async () => {
    const { Ollama } = await load('ollama')
    const ollama = new Ollama({ host: d.base })
    const options = { temperature: 0, num_predict: 20 }
    assert.deepEqual((await ollama.list()).models.map((m) => m.name), [model])
    assert.ok((await ollama.show({ model })).capabilities.includes('completion'))
    assert.match((await ollama.version()).version, /^\d/)
    const whole = await ollama.chat({ model: `${model}:latest`, messages: user('What is a lighthouse?'), options })
    assert.equal(whole.eval_count, 20)
    assert.equal(whole.done_reason, 'length')
    let text = '', last
    for await (const part of await ollama.chat({ model, messages: user('What is a lighthouse?'), options, stream: true })) {
        text += part.message.content
        last = part
    }
    assert.equal(text, whole.message.content)
    assert.ok(last.done)
    const raw = await ollama.generate({ model, prompt: 'The history of the city', raw: true, options })
    assert.equal(raw.response, (await openai.completions.create({ model, prompt: 'The history of the city', temperature: 0, max_tokens: 20 })).choices[0].text)
    assert.equal((await ollama.generate({ model, prompt: 'What is a lighthouse?', options })).response, whole.message.content)
    const vectors = await ollama.embed({ model, input: ['a', 'b'] })
    assert.deepEqual((await ollama.embeddings({ model, prompt: 'a' })).embedding, vectors.embeddings[0])
    assert.equal(vectors.embeddings.length, 2)
    assert.ok(vectors.total_duration > 0 && vectors.load_duration === 0 && vectors.prompt_eval_count > 1) // clients ask for them
    await assert.rejects(ollama.pull({ model }), /there is no \/api\/pull here/)
    await assert.rejects(new Ollama({ host: locked.base }).list(), /an API key is needed/)
    for (const loaded of [await ollama.chat({ model }), await ollama.chat({ model, messages: [] }), await ollama.generate({ model, prompt: '' })])
        assert.deepEqual([loaded.done, loaded.done_reason, loaded.message?.content ?? loaded.response], [true, 'load', ''])
    await assert.rejects(ollama.chat({ model: 'x' }), /does not exist/)
    const t = new Ollama({ host: s.base })
    const calls = await t.chat({ model: 'scripted', messages: user(two), tools: [tool] })
    assert.equal(calls.message.thinking, 'Two calls.')
    assert.deepEqual(calls.message.tool_calls.map((c) => c.function.arguments), [{ city: 'Paris' }, { city: 'Oslo' }])
    const parts = []
    for await (const part of await t.chat({ model: 'scripted', messages: user(two), tools: [tool], stream: true }))
        parts.push(...(part.message.tool_calls ?? []))
    assert.deepEqual(parts.map((c) => c.function.arguments.city), ['Paris', 'Oslo'])
    await assert.rejects(ollama.chat({ model: 'x', messages: user('a') }), /does not exist/)
    await assert.rejects(ollama.chat({ model, messages: user('a'), options: { temperature: 9 } }), /temperature/)
})

await done()
