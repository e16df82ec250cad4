// tests/integration/tool_choice.mjs - answers that must be calls, and answers under a schema, by the npm clients over the
// shipped model: it was never trained for tools, so that what is right here is the grammar's doing.
import { assert, done, start, test } from './harness.mjs'
import { packages } from './npm.mjs'

const load = packages('npm-clients', {
    openai: '6', '@anthropic-ai/sdk': '0', ai: '5', '@ai-sdk/openai-compatible': '1', '@langchain/openai': '1', '@langchain/core': '1',
    ollama: '0.6', zod: '4',
})
const { default: OpenAI } = await load('openai')
const { zodResponseFormat } = await load('openai/helpers/zod')
const { default: Anthropic } = await load('@anthropic-ai/sdk')
const { z } = await load('zod')

const model = 'latent-mini'
const user = (content) => [{ role: 'user', content }]
const parameters = { type: 'object', properties: { city: { type: 'string', enum: ['Paris', 'Oslo'] }, days: { type: 'integer', minimum: 1, maximum: 14 } },
    required: ['city', 'days'], additionalProperties: false }
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'weather', parameters } },
    { type: 'function', function: { name: 'get_time', parameters: { type: 'object', properties: { zone: { type: 'string', maxLength: 8 } }, required: ['zone'] } } }]
const right = (name, args) => {
    assert.ok(['get_weather', 'get_time'].includes(name), name)
    if (name === 'get_time') return assert.ok([...args.zone].length <= 8 && Object.keys(args).length === 1)
    assert.ok(['Paris', 'Oslo'].includes(args.city) && args.days >= 1 && args.days <= 14 && Object.keys(args).length === 2, JSON.stringify(args))
}
const once = { parallel_tool_calls: false, temperature: 1.2, max_tokens: 300 }

for (const parser of ['auto', 'hermes', 'llama', 'kimi', 'glm', 'longcat', 'qwen_coder', 'dsml', 'deepseek'])
    await test(`${parser}: required, named, streamed and not`, async () => {
        const d = await start({ set: { tool_parser: parser } })
        const openai = new OpenAI({ baseURL: `${d.base}/v1`, apiKey: 'none', maxRetries: 0 })
        for (const tool_choice of ['required', { type: 'function', function: { name: 'get_weather' } }])
            for (let seed = 0; seed < 3; seed++) {
                const ask = { model, messages: user('Say it.'), tools, tool_choice, seed, ...once }
                const { message, finish_reason } = (await openai.chat.completions.create(ask)).choices[0]
                assert.equal(finish_reason, 'tool_calls')
                assert.equal(message.content, null)
                assert.equal(message.tool_calls.length, 1)
                const { name, arguments: args } = message.tool_calls[0].function
                right(name, JSON.parse(args))
                if (tool_choice !== 'required') assert.equal(name, 'get_weather')
                const streamed = (await openai.chat.completions.stream(ask).finalChatCompletion()).choices[0]
                assert.deepEqual(streamed.message.tool_calls.map((c) => [c.function.name, c.function.arguments]), [[name, args]])
                assert.equal(streamed.finish_reason, 'tool_calls')
            }
        const several = await openai.chat.completions.create({ model, messages: user('Say it.'), tools, tool_choice: 'required', max_tokens: 200, seed: 1 })
        assert.ok(several.choices[0].message.tool_calls.length >= 1)
        await d.stop()
    })

const d = await start()
const openai = new OpenAI({ baseURL: `${d.base}/v1`, apiKey: 'none', maxRetries: 0 })

await test('openai: zod, the runner of tools, Responses', async () => {
    const answer = z.object({ name: z.enum(['a', 'b']), size: z.number().int().min(0).max(9), tags: z.array(z.boolean()).max(2) })
    const parsed = await openai.chat.completions.parse({ model, messages: user('Say it.'), max_tokens: 200, seed: 1, response_format: zodResponseFormat(answer, 'answer') })
    answer.parse(parsed.choices[0].message.parsed)
    const seen = []
    const runner = openai.chat.completions.runTools({ model, messages: user('Say it.'), ...once, seed: 1, tool_choice: { type: 'function', function: { name: 'get_weather' } },
        tools: [{ type: 'function', function: { ...tools[0].function, parse: JSON.parse, function: (args) => (seen.push(args), 'sun') } }] })
    await runner.done()
    assert.equal(seen.length, 1)
    right('get_weather', seen[0])
    for (const tool_choice of ['required', { type: 'function', name: 'get_time' }]) {
        const r = await openai.responses.create({ model, input: 'Say it.', tools: tools.map((t) => ({ type: 'function', ...t.function })), tool_choice,
            parallel_tool_calls: false, max_output_tokens: 200, temperature: 1 })
        assert.equal(r.output[0].type, 'function_call')
        right(r.output[0].name, JSON.parse(r.output[0].arguments))
        assert.deepEqual(r.tool_choice, tool_choice)
    }
})

await test('anthropic: any and tool, streamed and not', async () => {
    const anthropic = new Anthropic({ baseURL: d.base, apiKey: 'none', maxRetries: 0 })
    const given = tools.map(({ function: f }) => ({ name: f.name, input_schema: f.parameters }))
    for (const choice of [{ type: 'any' }, { type: 'tool', name: 'get_time' }]) {
        const ask = { model, max_tokens: 300, tools: given, messages: user('Say it.'), tool_choice: { ...choice, disable_parallel_tool_use: true } }
        for (const r of [await anthropic.messages.create(ask), await anthropic.messages.stream(ask).finalMessage()]) {
            assert.equal(r.stop_reason, 'tool_use')
            assert.deepEqual(r.content.map((b) => b.type), ['tool_use'])
            right(r.content[0].name, r.content[0].input)
            if (choice.name) assert.equal(r.content[0].name, choice.name)
        }
    }
})

await test('ai: generateObject; langchain: withStructuredOutput', async () => {
    const { generateObject } = await load('ai')
    const { createOpenAICompatible } = await load('@ai-sdk/openai-compatible')
    const { ChatOpenAI } = await load('@langchain/openai')
    const schema = z.object({ city: z.enum(['Paris', 'Oslo']), days: z.number().int().min(1).max(14) })
    const provider = createOpenAICompatible({ name: 'latentd', baseURL: `${d.base}/v1`, supportsStructuredOutputs: true })
    right('get_weather', (await generateObject({ model: provider(model), schema, prompt: 'Say it.', maxOutputTokens: 200, seed: 1 })).object)
    const chat = new ChatOpenAI({ model, apiKey: 'none', temperature: 1, maxTokens: 200, maxRetries: 0, configuration: { baseURL: `${d.base}/v1` } })
    for (const method of ['functionCalling', 'jsonSchema'])
        right('get_weather', await chat.withStructuredOutput(schema, { name: 'answer', method }).invoke('Say it.'))
})

// The model is pushed towards a brace, with which the calls of Llama begin; what follows is the grammar's doing.
await test('strict tools under auto: a call keeps their schema, text is free', async () => {
    const d = await start({ set: { tool_parser: 'llama' } })
    const openai = new OpenAI({ baseURL: `${d.base}/v1`, apiKey: 'none', maxRetries: 0 })
    const anthropic = new Anthropic({ baseURL: d.base, apiKey: 'none', maxRetries: 0 })
    const brace = (await d.post('/tokenize', { content: '{' })).tokens.at(-1)
    const strict = tools.map((t) => ({ ...t, function: { ...t.function, strict: true } }))
    const ask = { model, messages: user('Say it.'), tools: strict, logit_bias: { [brace]: 60 }, ...once }
    for (let seed = 0; seed < 6; seed++) {
        const { message, finish_reason } = (await openai.chat.completions.create({ ...ask, seed })).choices[0]
        assert.equal(finish_reason, 'tool_calls')
        right(message.tool_calls[0].function.name, JSON.parse(message.tool_calls[0].function.arguments))
        const streamed = (await openai.chat.completions.stream({ ...ask, seed }).finalChatCompletion()).choices[0]
        assert.equal(streamed.message.tool_calls[0].function.arguments, message.tool_calls[0].function.arguments)
    }
    // not strict: nothing is held to; nor by what answers with text
    const loose = (await openai.chat.completions.create({ ...ask, tools, max_tokens: 5 })).choices[0]
    assert.ok(!loose.message.tool_calls)
    const text = { model, messages: user('Say it.'), max_tokens: 40, temperature: 0 }
    const free = (await openai.chat.completions.create({ ...text, tools: strict })).choices[0]
    assert.equal(free.message.content, (await openai.chat.completions.create({ ...text, tools })).choices[0].message.content)
    // one is, the other is not
    for (let seed = 0; seed < 6; seed++) {
        const { message } = (await openai.chat.completions.create({ ...ask, seed, max_tokens: 60, logit_bias: { [brace]: 60 }, tools: [strict[0], tools[1]] })).choices[0]
        const call = message.tool_calls?.[0].function
        assert.ok(['get_weather', 'get_time'].includes(call.name))
        if (call.name === 'get_weather') right(call.name, JSON.parse(call.arguments))
    }
    for (const given of [true, false]) {
        const r = await anthropic.messages.create({ model, max_tokens: given ? 300 : 5, messages: user('Say it.'), temperature: 1, logit_bias: { [brace]: 60 },
            tools: tools.map(({ function: f }) => ({ name: f.name, input_schema: f.parameters, strict: given })), tool_choice: { type: 'auto', disable_parallel_tool_use: true } })
        assert.equal(r.content[0].type === 'tool_use', given)
        if (given) right(r.content[0].name, r.content[0].input)
    }
    const r = await openai.responses.create({ model, input: 'Say it.', tools: tools.map((t) => ({ type: 'function', ...t.function, strict: true })),
        parallel_tool_calls: false, max_output_tokens: 300, logit_bias: { [brace]: 60 } })
    assert.equal(r.output[0].type, 'function_call')
    right(r.output[0].name, JSON.parse(r.output[0].arguments))
    for (const [tool, message] of [[{ strict: 1 }, /tools\[0\].function.strict/], [{ strict: true, parameters: { type: 'object', properties: { a: { not: {} } } } }, /tools\[0\].function.parameters#\/properties\/a\/not/]]) {
        const bad = await d.request('POST', '/v1/chat/completions', { messages: user('Say it.'), max_tokens: 5, tools: [{ type: 'function', function: { name: 'f', ...tool } }] })
        assert.equal(bad.status, 400, bad.text)
        assert.match(bad.json.error.message, message)
    }
    await d.stop()
})

await test('mistakes', async () => {
    const wrong = [
        [{ tool_choice: 'required' }, /tools is empty/], [{ tools, tool_choice: { type: 'function', function: { name: 'x' } } }, /no tool "x"/],
        [{ tools, tool_choice: { type: 'function', function: {} } }, /by its name/], [{ tools, tool_choice: 'x' }, /by its name/],
        [{ tools, tool_choice: { type: 'custom' } }, /not supported/], [{ tools, tool_choice: 'required', response_format: { type: 'json_object' } }, /cannot be combined/],
        [{ tools: [{ type: 'function', function: { name: 'f', parameters: { type: 'object', properties: { a: { not: {} } } } } }], tool_choice: 'required' },
            /tools\[0\].function.parameters#\/properties\/a\/not/],
    ]
    for (const [fields, message] of wrong) {
        const r = await d.request('POST', '/v1/chat/completions', { messages: user('Say it.'), max_tokens: 5, ...fields })
        assert.equal(r.status, 400, r.text)
        assert.match(r.json.error.message, message)
    }
    await d.idle()
})

await done()
