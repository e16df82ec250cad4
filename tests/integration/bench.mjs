// tests/integration/bench.mjs - latent-bench measures each mode on the shipped model: rows with their
// parameters, a value beside its bound, and what the parts of a row say about each other. No speed is judged.
import { assert, done, fs, path, scratch, test, top_builddir, top_srcdir } from './harness.mjs'
import { spawnSync } from 'node:child_process'

const model = path.join(top_srcdir, 'models/latent-mini.q8_0.gguf')

function bench(mode, ...args) {
    const run = spawnSync(path.join(top_builddir, 'latent-bench'), [mode, ...args], { encoding: 'utf8' })
    return run
}

function rows(mode, ...args) {
    const run = bench(mode, '--json', '--threads', '2', '--repeat', '2', ...args)
    assert.equal(run.status, 0, run.stderr)
    const all = JSON.parse(run.stdout)
    assert.ok(all.machine.name && all.machine.cores > 0)
    for (const b of all.machine.bounds) {
        assert.ok(b.read_gb_s > 0)
        if (b.cpu !== 'generic') assert.ok(b.int8_gmac_s > 0 && b.float32_gmac_s > 0)
    }
    for (const r of all.rows) {
        assert.equal(r.mode, mode)
        assert.ok(r.value > 0 && r.unit && r.cpu)
        if (r.min) assert.ok(r.min <= r.value && r.value <= r.max)
        if (r.bound) {
            const ratio = r.unit === 'ms' ? r.bound / r.value : r.value / r.bound
            assert.ok(Math.abs(ratio / r.ratio - 1) < 1e-3)
            assert.match(r.limit, /^(memory|arithmetic)$/)
        }
    }
    return all
}

const of_model = ['--model', model, '--tokens', '2']
const pick = (list, ...keys) => list.map((r) => keys.map((k) => r[k]))

await test('decode: every combination of the lists, contexts ascending', () => {
    const all = rows('decode', ...of_model, '--context', '300,0', '--batch', '1,3')
    assert.deepEqual(pick(all.rows, 'context', 'batch'), [[0, 1], [0, 3], [300, 1], [300, 3]])
    assert.ok(all.rows.every((r) => r.bound > 0 && r.threads === 2))
    assert.ok(all.rows[2].bound < all.rows[0].bound, 'a context costs')
    assert.ok(all.rows[1].bound >= all.rows[0].bound, 'a batch costs no more')
    if (all.rows[0].limit === 'memory') // where the units are slower than the memory it shares nothing that counts
        assert.ok(all.rows[1].bound > all.rows[0].bound, 'a batch shares weights')
    assert.equal(all.model.name, 'latent-mini')
    // one sequence: every active weight and the rows so far, once
    const bytes = (r) => all.model.active_bytes + (r.context + 1) * all.model.cache_bytes_a_token
    for (const r of all.rows.filter((r) => r.batch === 1 && r.limit === 'memory')) {
        const bound = all.machine.bounds[0].read_gb_s * 1e9 / (bytes(r) + all.model.cache_bytes_a_token)
        assert.ok(Math.abs(bound / r.bound - 1) < 1e-4, `${r.bound}, not ${bound}`)
    }
})

await test('schemes: each of the four beside what it should take', () => {
    const all = rows('schemes', ...of_model, '--context', '600')
    const by = Object.fromEntries(all.rows.map((r) => [r.scheme, r]))
    assert.deepEqual(Object.keys(by), ['absorbed', 'decompressed', 'reuse', 'recompute'])
    assert.ok(by.decompressed.mmacs > 5 * by.absorbed.mmacs, 'keys and values are made anew')
    assert.ok(by.recompute.mmacs > by.reuse.mmacs, 'so is the product')
    assert.ok(by.reuse.read_mb >= by.absorbed.read_mb, 'a product is larger than its factors')
})

await test('batch: powers of two up to the size', () => {
    const all = rows('batch', ...of_model, '--batch', '5')
    assert.deepEqual(pick(all.rows, 'batch'), [[1], [2], [4], [5]])
})

await test('shared: a common prefix is paid once', () => {
    const { rows: [r] } = rows('shared', ...of_model, '--batch', '4', '--shared', '600')
    const { rows: [own] } = rows('decode', ...of_model, '--batch', '4', '--context', '600')
    assert.equal(r.context, 600)
    assert.equal(r.shared, 600)
    assert.equal(own.shared, 0)
})

await test('prefill: depth and chunk; a profile adds up', () => {
    const all = rows('prefill', '--model', model, '--tokens', '70', '--context', '0,40', '--chunk', '32', '--profile')
    assert.deepEqual(pick(all.rows, 'tokens', 'context', 'chunk'), [[70, 0, 32], [70, 40, 32]])
    for (const { profile: p } of all.rows) {
        assert.ok(p.products > 0 && p.attention > 0 && p.rest > 0)
        assert.ok(Math.abs(p.products + p.attention + p.rest - 1) < 1e-3)
    }
})

await test('threads: a row for each count, with bounds of its own', () => {
    const all = rows('decode', ...of_model, '--threads', '1,2')
    assert.deepEqual(pick(all.rows, 'threads'), [[1], [2]])
    assert.deepEqual(pick(all.machine.bounds, 'threads'), [[1], [2]])
})

await test('serve: output, first token, between tokens', () => {
    const all = rows('serve', '--model', model, '--batch', '3', '--context', '20', '--tokens', '4')
    assert.deepEqual(pick(all.rows, 'measure', 'unit'), [['output', 'tokens/s'], ['first token', 'ms'], ['between tokens', 'ms']])
    assert.ok(all.rows.every((r) => r.batch === 3 && r.context === 20 && r.tokens === 4))
})

await test('kernels: one kernel, one weight type', () => {
    assert.deepEqual(pick(rows('kernels', '--kernel', 'rms_norm').rows, 'kernel', 'unit').slice(0, 1), [['rms_norm', 'us']])
    const types = rows('kernels', '--kernel', 'Q4_0', '--cpu', 'generic').rows
    assert.deepEqual(pick(types, 'kernel', 'rows'), [['product', 1], ['product', 8], ['product', 32], ['product', 128], ['product', 256], ['pack', 0]])
})

await test('what is wrong is said', () => {
    for (const [args, text] of [
        [['decode'], /usage/], [['fly', '--model', model], /usage/],
        [['decode', '--model', model, '--batch', '1,x'], /--batch takes/],
        [['decode', '--model', model, '--shared', '8'], /--shared belongs/],
        [['decode', '--model', model, '--cpu', 'abacus'], /--cpu is/],
        [['decode', '--model', model, '--cache-type', 'f7'], /--cache-type is/],
        [['serve', '--model', model, '--context', '0'], /at least 1/],
        [['decode', '--model', '/nonexistent.gguf'], /nonexistent/],
        [['decode', '--model', model, '--kernel', 'rms_norm'], /--kernel belongs/],
        [['decode', '--model', model, '--repeat', '1,2'], /--repeat takes one integer/],
        [['kernels', '--kernel', 'q4_0', '--repeat', '1'], /no kernel or weight type is called "q4_0"/],
    ]) {
        const run = bench(...args)
        assert.equal(run.status, 1, args.join(' '))
        assert.match(run.stderr, text)
    }
    assert.equal(bench('--help').status, 0)
    if (!fs.existsSync('/dev/full')) return
    const full = fs.openSync('/dev/full', 'w')
    const run = spawnSync(path.join(top_builddir, 'latent-bench'), ['decode', '--model', model, '--tokens', '2', '--repeat', '1'],
        { encoding: 'utf8', stdio: ['ignore', full, 'pipe'] })
    fs.closeSync(full)
    assert.deepEqual([run.status, /standard output/.test(run.stderr)], [1, true])
})

await test('family: the zoo in one table, its plots, and the table of a document', () => {
    const { texts } = JSON.parse(fs.readFileSync(path.join(top_srcdir, 'tests/data/latent-mini-golden.json')))
    const file = (name) => path.join(scratch, `bench-family-${name}`)
    fs.writeFileSync(file('text'), texts.map((t) => t.text).join('<|eos|>'))
    const all = rows('family', '--model', path.join(top_srcdir, 'models/zoo'), '--text', file('text'), '--context', '0,100', '--tokens',
        '2')
    const scored = all.rows.filter((r) => r.measure === 'perplexity')
    // what docs/attention.md says that a token takes
    assert.deepEqual(Object.fromEntries(pick(scored, 'model', 'cache_bytes_a_token')), { cca: 1848, cla: 768, eg_mla: 600, gla: 960,
        gqa: 1536, gta: 960, mfa: 1536, mla: 960, mlra_4: 960, mtla: 480 })
    for (const r of scored) assert.ok(r.value > 25 && r.value < 70, `${r.model}: perplexity ${r.value}`)

    fs.writeFileSync(file('rows'), JSON.stringify(all))
    const node = (...args) => assert.equal(spawnSync(process.execPath, args).status, 0)
    node(path.join(top_srcdir, 'tools/plot.mjs'), file('plots'), file('rows'))
    for (const name of ['perplexity', 'context', 'bound']) {
        const svg = fs.readFileSync(path.join(file('plots'), `family-${name}.svg`), 'utf8')
        for (const r of scored) assert.ok(svg.includes(`>${r.model}</text>`), `${name}: no ${r.model}`)
        assert.doesNotMatch(svg, /NaN|undefined|Infinity/)
    }
    fs.copyFileSync(path.join(top_srcdir, 'docs/attention.md'), file('doc'))
    node(path.join(top_srcdir, 'tools/family_table.mjs'), file('doc'), path.join(top_srcdir, 'models/zoo/results.json'), file('rows'))
    const before = fs.readFileSync(path.join(top_srcdir, 'docs/attention.md'), 'utf8'), after = fs.readFileSync(file('doc'), 'utf8')
    const words = (text) => text.split('\n').filter((l) => !l.startsWith('| ')).join('\n')
    assert.equal(words(after), words(before))
    for (const r of scored)
        assert.match(after, new RegExp(`\\| ${r.model} \\| ${r.cache_bytes_a_token} \\| [0-9.]+ \\| ${r.value.toFixed(2)} `))
})
await done()
