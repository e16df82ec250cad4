// tests/integration/readme.mjs - README.md tells the truth: its curl and Python examples run, and the
// paths in its table of endpoints answer. (Its JavaScript examples run in openai.mjs.)
import { execFile } from 'node:child_process'
import { assert, done, fs, path, scratch, skip_test, slow, start, test, top_srcdir } from './harness.mjs'
import { examples } from './examples.mjs'

const d = await start()
const run = (program, args) => new Promise((resolve) => {
    execFile(program, args, { encoding: 'utf8', timeout: slow ? 300000 : 60000 },
        (error, stdout, stderr) => resolve({ error, stdout, stderr }))
})
const here = (source) => source.replaceAll('http://127.0.0.1:8080', d.base)
const has = async (program) => (await run(program, ['--version'])).error?.code !== 'ENOENT'

const shell = examples('sh').filter((source) => source.includes('curl'))
await test('there are curl and Python examples', () => {
    assert.ok(shell.length >= 1)
    assert.ok(examples('python').length >= 1)
    assert.ok(examples('js').length >= 1)
})

const with_curl = await has('curl')
for (const [i, source] of shell.entries()) {
    if (!with_curl) {
        skip_test(`curl example ${i + 1}`, 'no curl')
        continue
    }
    await test(`curl example ${i + 1}`, async () => {
        const { error, stdout, stderr } = await run('sh', ['-e', '-c', here(source)])
        assert.equal(error, null, stderr)
        assert.ok(stdout.trim().length > 20, `it printed ${JSON.stringify(stdout)}`)
        assert.doesNotMatch(stdout, /"error"/)
    })
}

const python = process.env.PYTHON3 || 'python3'
const with_python = await has(python)
for (const [i, source] of examples('python').entries()) {
    if (!with_python) {
        skip_test(`Python example ${i + 1}`, 'no python3')
        continue
    }
    await test(`Python example ${i + 1}`, async () => {
        const file = path.join(scratch, `example${i + 1}.py`)
        fs.writeFileSync(file, here(source))
        const { error, stdout, stderr } = await run(python, [file])
        assert.equal(error, null, stderr)
        assert.ok(stdout.trim().length > 20, `it printed ${JSON.stringify(stdout)}`)
    })
}

await test('every endpoint in the table is there', async () => {
    const text = fs.readFileSync(path.join(top_srcdir, 'README.md'), 'utf8')
    const rows = [...text.matchAll(/^\| `(GET|POST) (\/\S+)` \|/gm)]
    assert.ok(rows.length >= 10)
    const model_id = (await d.get('/v1/models')).json.data[0].id
    for (const [, method, endpoint] of rows) {
        const res = await d.request(method, endpoint.replace('{id}', model_id), method === 'POST' ? '{}' : undefined)
        // an empty body is a mistake of the client, not an unknown path
        const status = endpoint === '/v1/cache/save' ? 503 // everything, to a disk tier that is not there
            : method === 'POST' ? 400 : 200
        assert.equal(res.status, status, `${method} ${endpoint}: ${res.status} ${res.text.slice(0, 200)}`)
    }
})

await test('every file and folder that the documents name exists', () => {
    const documents = ['README.md', 'docs/design.md', 'docs/adding.md', 'docs/cache.md', 'docs/performance.md', 'docs/templates.md', 'models/README.md']
    const missing = []
    let count = 0
    for (const document of documents) {
        const text = fs.readFileSync(path.join(top_srcdir, document), 'utf8')
        for (const [, name] of text.matchAll(/`((?:base|kvcache|engine|api|server|tools|models|etc|docs|tests)\/[\w./-]*)/g)) {
            if (/[A-Z]{4}/.test(name) && !name.endsWith('README.md')) continue // arch_NAME.c
            count++
            // a program is named without its .c
            if (!['', '.c'].some((end) => fs.existsSync(path.join(top_srcdir, name + end)))) missing.push(`${document}: ${name}`)
        }
    }
    assert.ok(count >= 40)
    assert.deepEqual(missing, [])
})
await done()
