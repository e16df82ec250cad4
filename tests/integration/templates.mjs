// tests/integration/templates.mjs - tools, documents and template variables reach the operator's own template.
import { assert, done, fs, model, path, scratch, start, test, top_srcdir } from './harness.mjs'

const CHAT = '/v1/chat/completions'
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'Weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } } }]
const call = { id: 'c1', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Z\u00fcrich"}' } }
const talk = [{ role: 'user', content: 'Weather?' }, { role: 'assistant', content: null, tool_calls: [call] },
    { role: 'tool', tool_call_id: 'c1', content: '21 C' }]

/** The prompt as text: what /tokenize makes of the messages. */
async function prompt(d, body) {
    const { tokens } = await d.post('/tokenize', body)
    return (await d.post('/detokenize', { tokens })).prompt
}

const qwen = await start({ set: { chat_template: path.join(top_srcdir, 'tests/template/models/qwen3.jinja') } })
await test('tools and tool calls are in the prompt', async () => {
    const text = await prompt(qwen, { messages: talk, tools })
    assert.ok(text.startsWith('<|im_start|>system\n# Tools'), text)
    assert.ok(text.includes(`<tools>\n${JSON.stringify(tools[0]).replaceAll('":', '": ').replaceAll(',"', ', "')}\n</tools>`), text)
    assert.ok(text.includes('<tool_call>\n{"name": "get_weather", "arguments": {"city": "Z\u00fcrich"}}\n</tool_call>'), text)
    assert.ok(text.includes('<tool_response>\n21 C\n</tool_response>'), text)
    assert.ok(text.endsWith('<|im_start|>assistant\n'), text)
    // an object instead of its text is the same
    const as_object = structuredClone(talk)
    as_object[1].tool_calls[0].function.arguments = { city: 'Z\u00fcrich' }
    assert.equal(await prompt(qwen, { messages: as_object, tools }), text)
    assert.ok(!(await prompt(qwen, { messages: talk })).includes('# Tools'))
})
await test('a chat with tools is answered', async () => {
    for (const more of [{ tools }, { tools, tool_choice: 'auto' }, { tools, tool_choice: 'none' }, { tools: [] }, { tool_choice: 'none' }]) {
        const r = await qwen.post(CHAT, { messages: talk, max_tokens: 4, ...more })
        assert.equal(r.choices[0].message.role, 'assistant')
        assert.equal(r.usage.prompt_tokens > 200, !!more.tools?.length && more.tool_choice !== 'none', JSON.stringify(r.usage))
    }
})
await test('chat_template_kwargs', async () => {
    const messages = [{ role: 'user', content: 'Hi' }]
    assert.ok((await prompt(qwen, { messages, chat_template_kwargs: { enable_thinking: false } })).endsWith('<think>\n\n</think>\n\n'))
    assert.ok(!(await prompt(qwen, { messages, chat_template_kwargs: { enable_thinking: true } })).includes('<think>'))
})

const file = path.join(scratch, 'own.jinja')
fs.writeFileSync(file, `{{ bos_token }}{% for d in documents or [] %}[{{ d.title }}]{% endfor %}{{ kind }}
{%- if messages[0].content == 'no' %}{{ raise_exception('not this one') }}{% endif %}
{%- for m in messages %}{{ (m.content | trim if trims else m.content) ~ m.name ~ m.extra }};{% endfor %}`)
const own = await start({ set: { chat_template: file } })
await test('documents, other fields, and marks', async () => {
    const messages = [{ role: 'user', content: 'a', name: 'n', extra: 'x' }, { role: 'developer', content: [{ type: 'text', text: 'b' }] }]
    const text = await prompt(own, { messages, documents: [{ title: 't' }], chat_template_kwargs: { kind: '<|eos|>' } })
    assert.ok(text.endsWith('[t]<|eos|>anx;b;'), text)
    const { tokens } = await own.post('/tokenize', { messages, documents: [{ title: '<|eos|>' }], chat_template_kwargs: { kind: '<|eos|>' } })
    assert.equal(tokens.filter((id) => id < 4).length, 1, `only the template's own: ${tokens}`)
})
await test('the last message is gone on with', async () => {
    const body = { messages: [{ role: 'user', content: 'q' }, { role: 'assistant', content: ' Answer: ' }], continue_final_message: true }
    const kept = await prompt(own, body)
    assert.ok(kept.endsWith('q; Answer: '), JSON.stringify(kept)) // the blank at the end is the client's: what follows joins it
    const trimmed = await prompt(own, { ...body, chat_template_kwargs: { trims: true } })
    assert.ok(trimmed.endsWith('q;Answer:'), JSON.stringify(trimmed))
})
await test('the template refuses', async () => {
    const r = await own.request('POST', CHAT, { messages: [{ role: 'user', content: 'no' }] })
    assert.equal(r.status, 400)
    assert.match(JSON.parse(r.text).error.message, /line 2: not this one/)
})

// A second template, by one more key in front of the model's others.
function with_tool_template(text) {
    const b = fs.readFileSync(model)
    const key = 'tokenizer.chat_template.tool_use'
    const head = 8 + key.length + 4 + 8
    while ((head + text.length) % 32) text += '\n' // what follows keeps its alignment
    const pair = Buffer.alloc(head + text.length)
    pair.writeBigUInt64LE(BigInt(key.length), 0)
    pair.write(key, 8)
    pair.writeUInt32LE(8, 8 + key.length)
    pair.writeBigUInt64LE(BigInt(text.length), 12 + key.length)
    pair.write(text, head)
    b.writeBigUInt64LE(b.readBigUInt64LE(16) + 1n, 16)
    const made = path.join(scratch, 'tool_use.gguf')
    fs.writeFileSync(made, Buffer.concat([b.subarray(0, 24), pair, b.subarray(24)]))
    return made
}
const made = with_tool_template('with {{ tools | length }} tools')
const both = await start({ args: ['--model', made] })
await test('a template for requests with tools', async () => {
    const messages = [{ role: 'user', content: 'Hi' }]
    assert.ok(!(await prompt(both, { messages })).includes('tools'))
    assert.equal((await prompt(both, { messages, tools })).trim(), 'with 1 tools')
    assert.ok(!(await prompt(both, { messages })).includes('tools'))
})
fs.rmSync(made)
await done()
