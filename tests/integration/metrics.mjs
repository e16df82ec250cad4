// tests/integration/metrics.mjs - /metrics: types, labels and buckets of vLLM's and llama-server's names, both text
// formats, sums that must agree; docs/metrics.md says the same, the dashboard and the rules ask for nothing else.
//
//   WRITE_DOCS=1 make check TESTS=tests/integration/metrics.mjs    writes the tables of docs/metrics.md
import crypto from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { assert, done, fs, metric_of, path, scratch, skip_test, start, test, top_srcdir as src, until } from './harness.mjs'

const key = crypto.randomBytes(16).toString('hex')
const keys = path.join(scratch, `metrics-${process.pid}.keys`)
fs.writeFileSync(keys, `user sha256:${crypto.createHash('sha256').update(key).digest('hex')}\n`, { mode: 0o600 })
const disk = path.join(scratch, `metrics-${process.pid}.cache`)
const audit = path.join(scratch, `metrics-${process.pid}.audit`)
process.on('exit', () => [keys, disk, audit].forEach((p) => fs.rmSync(p, { recursive: true, force: true })))
const OM = 'application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1'
const d = await start({ set: { api_keys_file: keys, cache_disk_path: disk, audit_log_file: audit, model_id: 'm"x' } })
const auth = { Authorization: `Bearer ${key}` }
const scrape = (headers = {}) => d.request('GET', '/metrics', undefined, { ...auth, ...headers })
const complete = (body) => d.request('POST', '/v1/completions', body, auth)

/** Families of an exposition: name -> {type, help, samples: [{name, labels, value}]}; anything malformed throws. */
function parse(text) {
    const families = new Map()
    let now
    assert.ok(text.endsWith('\n'))
    for (const line of text.slice(0, -1).split('\n')) {
        if (line === '# EOF') continue
        const head = /^# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$/.exec(line)
        if (head?.[1] === 'HELP') {
            assert.ok(!families.has(head[2]), `${head[2]} comes twice`)
            families.set(head[2], (now = { name: head[2], help: head[3], samples: [] }))
            continue
        }
        if (head) {
            assert.equal(head[2], now.name)
            now.type = head[3]
            continue
        }
        const s = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$/.exec(line)
        assert.ok(s, `not a sample: ${line}`)
        const labels = Object.fromEntries([...(s[2] ?? '').matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1], m[2]]))
        assert.ok(s[1].startsWith(now.name), `${s[1]} below ${now.name}`)
        assert.ok(Number.isFinite(Number(s[3])), line)
        now.samples.push({ name: s[1], labels, value: Number(s[3]) })
    }
    return families
}

const LATENCY = '0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 240.0 480.0 960.0 1920.0 7680.0'
const TTFT = '0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0 160.0 640.0 2560.0'
const ITL = '0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 40.0 80.0'
const TOKENS = '1.0 2.0 5.0 10.0 20.0 50.0 100.0 200.0 500.0 1000.0 2000.0 5000.0'
/** vLLM's names that have a meaning here: type, labels besides model_name and engine, buckets. */
const VLLM = {
    num_requests_running: ['gauge'], num_requests_waiting: ['gauge'], kv_cache_usage_perc: ['gauge'],
    num_requests_waiting_by_reason: ['gauge', { reason: 'capacity deferred' }],
    prefix_cache_queries_total: ['counter'], prefix_cache_hits_total: ['counter'],
    corrupted_requests_total: ['counter'], num_preemptions_total: ['counter'], prompt_tokens_total: ['counter'], prompt_tokens_cached_total: ['counter'],
    prompt_tokens_by_source_total: ['counter', { source: 'local_cache_hit local_compute' }],
    generation_tokens_total: ['counter'],
    spec_decode_num_drafts_total: ['counter'], spec_decode_num_draft_tokens_total: ['counter'], spec_decode_num_accepted_tokens_total: ['counter'],
    request_success_total: ['counter', { finished_reason: 'abort error length repetition stop' }],
    time_to_first_token_seconds: ['histogram', {}, TTFT],
    inter_token_latency_seconds: ['histogram', {}, ITL], time_per_output_token_seconds: ['histogram', {}, ITL],
    request_time_per_output_token_seconds: ['histogram', {}, ITL],
    e2e_request_latency_seconds: ['histogram', {}, LATENCY], request_queue_time_seconds: ['histogram', {}, LATENCY],
    request_inference_time_seconds: ['histogram', {}, LATENCY], request_prefill_time_seconds: ['histogram', {}, LATENCY],
    request_decode_time_seconds: ['histogram', {}, LATENCY],
    request_prompt_tokens: ['histogram', {}, TOKENS], request_generation_tokens: ['histogram', {}, TOKENS],
    request_max_num_generation_tokens: ['histogram', {}, TOKENS], request_params_max_tokens: ['histogram', {}, TOKENS],
    request_prefill_kv_computed_tokens: ['histogram', {}, TOKENS],
    request_params_n: ['histogram', {}, '1.0 2.0 5.0 10.0 20.0'],
    iteration_tokens_total: ['histogram', {}, '1.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 2048.0 4096.0 8192.0 16384.0'],
}
const LLAMA = {
    prompt_tokens_total: 'counter', prompt_seconds_total: 'counter', tokens_predicted_total: 'counter',
    tokens_predicted_seconds_total: 'counter', n_decode_total: 'counter', n_tokens_max: 'counter',
    prompt_tokens_seconds: 'gauge', predicted_tokens_seconds: 'gauge', requests_processing: 'gauge',
    requests_deferred: 'gauge', n_busy_slots_per_decode: 'gauge',
}

const prompt = 'In the beginning of the story there was a long road that led from the town to the sea, and on it '.repeat(4)
// cold, so that two choices are forks of the first; then from the cache
for (const n of [3, 1]) assert.equal((await complete({ prompt, max_tokens: 9, n, ignore_eos: true })).status, 200)
assert.equal((await complete({ prompt: 'other', max_tokens: 20, ignore_eos: true })).status, 200)
await d.request('GET', '/nothing', undefined, auth)
const text = (await scrape()).text
const families = parse(text)

await test("vLLM's names: types, labels and buckets", () => {
    const found = [...families.keys()].filter((n) => n.startsWith('vllm:') && n !== 'vllm:cache_config_info')
    assert.deepEqual(found.sort(), Object.keys(VLLM).map((n) => 'vllm:' + n).sort())
    for (const [name, [type, own = {}, buckets]] of Object.entries(VLLM)) {
        const f = families.get('vllm:' + name)
        assert.equal(f.type, type, name)
        for (const s of f.samples) {
            const { model_name, engine, le, ...rest } = s.labels
            assert.equal(model_name, 'm\\"x', name)
            assert.equal(engine, '0', name)
            assert.equal(le !== undefined, s.name.endsWith('_bucket') && type === 'histogram', name)
            assert.deepEqual(Object.keys(rest), Object.keys(own), name)
        }
        for (const [label, values] of Object.entries(own))
            assert.equal([...new Set(f.samples.map((s) => s.labels[label]))].sort().join(' '), values)
        if (buckets === undefined) continue
        const le = f.samples.filter((s) => s.name.endsWith('_bucket')).map((s) => s.labels.le)
        assert.equal(le.at(-1), '+Inf')
        const shown = le.slice(0, -1).join(' ')
        assert.ok(buckets === TOKENS ? shown.startsWith(buckets.slice(0, 40)) && le.length < 32 : shown === buckets, `${name}: ${shown}`)
    }
    const info = families.get('vllm:cache_config_info').samples
    assert.equal(info.length, 1)
    assert.equal(info[0].value, 1)
    assert.equal(info[0].labels.enable_prefix_caching, 'True')
    const pages = families.get('latentd_kv_pages').samples.filter((s) => 'free held cached'.includes(s.labels.state))
    assert.equal(Number(info[0].labels.num_gpu_blocks), pages.reduce((sum, s) => sum + s.value, 0))
})

await test("llama-server's names: types, and no labels", () => {
    const found = [...families.keys()].filter((n) => n.startsWith('llamacpp:'))
    assert.deepEqual(found.sort(), Object.keys(LLAMA).map((n) => 'llamacpp:' + n).sort())
    for (const [name, type] of Object.entries(LLAMA)) {
        const f = families.get('llamacpp:' + name)
        assert.equal(f.type, type)
        assert.deepEqual(f.samples.map((s) => s.labels), [{}], name)
    }
})

await test('histograms: buckets ascend, +Inf is the count', () => {
    for (const f of families.values()) {
        if (f.type !== 'histogram') continue
        const groups = new Map()
        for (const s of f.samples) {
            const { le, ...rest } = s.labels
            const g = JSON.stringify(rest)
            groups.set(g, [...(groups.get(g) ?? []), s])
        }
        for (const g of groups.values()) {
            const buckets = g.filter((s) => s.name === f.name + '_bucket')
            for (let i = 1; i < buckets.length; i++) assert.ok(buckets[i].value >= buckets[i - 1].value, f.name)
            assert.equal(buckets.at(-1).value, g.find((s) => s.name === f.name + '_count').value, f.name)
            assert.equal(g.length, buckets.length + 2, f.name)
        }
    }
})

await test('figures agree with what was asked', async () => {
    const m = new Map(text.split('\n').filter((l) => l && l[0] !== '#').map((l) => [l.slice(0, l.lastIndexOf(' ')), Number(l.slice(l.lastIndexOf(' ') + 1))]))
    const of = (name, label) => metric_of(m, name, label)
    assert.equal(of('vllm:generation_tokens_total'), 9 + 27 + 20)
    assert.equal(of('vllm:request_success_total', '"length"'), 5)
    assert.equal(of('vllm:request_params_n_sum'), 5)
    assert.equal(of('vllm:request_params_n_count'), 3)
    assert.equal(of('vllm:request_params_max_tokens_sum'), 9 * 4 + 20)
    assert.equal(of('vllm:request_max_num_generation_tokens_sum'), 9 + 9 + 20)
    assert.equal(of('vllm:prompt_tokens_total'), of('vllm:request_prompt_tokens_sum'))
    const computed = of('vllm:prompt_tokens_by_source_total', 'local_compute')
    const hit = of('vllm:prompt_tokens_by_source_total', 'local_cache_hit')
    assert.ok(hit > 0 && computed > 0)
    assert.equal(computed + hit, of('vllm:prompt_tokens_total'))
    assert.equal(hit, of('vllm:prompt_tokens_cached_total'))
    assert.equal(computed, of('vllm:request_prefill_kv_computed_tokens_sum'))
    assert.equal(computed, of('latentd_prompt_tokens_computed_total'), 'nothing was preempted')
    assert.equal(of('llamacpp:prompt_tokens_total'), computed)
    assert.equal(of('llamacpp:tokens_predicted_total'), 56)
    assert.equal(of('llamacpp:n_decode_total'), of('vllm:iteration_tokens_total_count'))
    assert.ok(of('llamacpp:n_busy_slots_per_decode') > 1 && of('llamacpp:n_busy_slots_per_decode') < 3)
    assert.ok(of('llamacpp:n_tokens_max') > 60)
    const itl = 'inter_token_latency_seconds_sum', old = 'time_per_output_token_seconds_sum'
    assert.equal(of('vllm:' + itl), of('vllm:' + old))
    for (const part of ['products', 'attention', 'rest']) assert.ok(of('latentd_step_part_seconds_total', `"${part}"`) > 0, part)
    assert.equal(of('latentd_latent_bytes'),
        (of('latentd_kv_pages', 'held') + of('latentd_kv_pages', 'cached')) * of('latentd_kv_page_bytes'))
    const [mean, max] = ['mean', 'max'].map((l) => of('latentd_expert_load_ratio', `"${l}"`))
    assert.ok(mean >= 1 && max >= mean, `${mean} ${max}`)
    assert.equal(of('latentd_step_age_seconds'), 0)
    assert.equal(of('vllm:corrupted_requests_total'), 0)
    assert.ok(of('latentd_weight_bytes') > 1e6)
    assert.equal(of('latentd_scheme_info', of('latentd_mla_block_tokens') > 0 ? 'mla="decompressed"' : 'mla="absorbed"'), 1)
    const age = Date.now() / 1000 - of('process_start_time_seconds')
    assert.ok(age > 0 && age < 600, `${age}`)
    assert.ok(of('process_cpu_seconds_total') > 0.01 && of('process_resident_memory_bytes') > 1e6)
    const fds = fs.readdirSync(`/proc/${d.child.pid}/fd`).length
    assert.ok(Math.abs(of('process_open_fds') - fds) <= 3, `${of('process_open_fds')} ${fds}`)
})

await test('who waits is counted, and for how long', async () => {
    const small = await start({ set: { max_num_seqs: 1 } })
    const cancel = new AbortController()
    const ask = (p) => fetch(`http://127.0.0.1:${small.port}/v1/completions`,
        { method: 'POST', signal: cancel.signal, headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({ prompt: p, max_tokens: 4000, ignore_eos: true }) }).catch(() => {})
    const asked = ['one', 'two', 'three'].map(ask)
    const seen = await until('two wait', async () => {
        const m = await small.metrics()
        return m.get([...m.keys()].find((k) => k.startsWith('vllm:num_requests_waiting{'))) === 2 &&
            metric_of(m, 'latentd_queue_age_seconds') > 0 && m
    })
    cancel.abort()
    await Promise.all(asked)
    assert.equal(metric_of(seen, 'vllm:num_requests_waiting_by_reason', 'capacity'), 2)
    assert.equal(metric_of(seen, 'vllm:num_requests_waiting_by_reason', 'deferred'), 0)
    await small.idle()
    assert.equal(await small.metric('latentd_queue_age_seconds'), 0)
})

await test('OpenMetrics for who prefers it', async () => {
    const plain = /^text\/plain; version=0.0.4/, open = /^application\/openmetrics-text; version=1.0.0; charset=utf-8$/
    for (const [accept, wanted] of [
        [OM, open], ['application/openmetrics-text', open], ['text/plain;q=0.2, Application/OpenMetrics-Text ; q=0.3', open],
        ['*/*', plain], ['', plain], ['text/html', plain], ['application/openmetrics-text;q=0', plain],
        ['application/openmetrics-text;q=0.1,text/plain', plain], ['application/openmetrics-textual', plain],
        ['application/openmetrics-text;q=nonsense;;;=,;q', plain], [';;,,;q=,', plain]])
        assert.match((await scrape({ Accept: accept })).headers['content-type'], wanted, accept)
    const res = await scrape({ Accept: OM })
    assert.ok(res.text.endsWith('# EOF\n'))
    assert.equal(res.headers['process-start-time-unix'], String(Math.floor(metric_of(new Map(
        [['x', Number(/^process_start_time_seconds (\S+)$/m.exec(res.text)[1])]]), 'x'))))
    const om = parse(res.text)
    for (const [name, f] of families) {
        const of = f.type === 'counter' ? om.get(name.replace(/_total$/, '')) : om.get(name)
        assert.equal(of?.type, f.type === 'counter' && !name.endsWith('_total') ? 'unknown' : f.type, name)
        if (!name.startsWith('http_request')) // the scrapes themselves are new series of these
            assert.deepEqual(of.samples.map((s) => s.name), f.samples.map((s) => s.name), name)
    }
})

const tool = (argv, input) => spawnSync(argv[0], argv.slice(1), { input, encoding: 'utf8' })
/** A test that needs a program of somebody else's: `probe` says whether it is here. */
const test_with = (probe, name, body) =>
    tool(probe).status === 0 ? test(name, body) : skip_test(name, `${probe.join(' ')} fails: is the package installed?`)
const promtool = ['promtool', '--version'] // Debian: prometheus
const client = ['/usr/bin/python3', '-c', 'import prometheus_client.openmetrics.parser'] // python3-prometheus-client

await test_with(client, "Prometheus' own client reads both", async () => {
    const program = 'import sys\n' +
        'from prometheus_client.openmetrics.parser import text_string_to_metric_families as o\n' +
        'from prometheus_client.parser import text_string_to_metric_families as t\n' +
        'print(len(list((o if sys.argv[1] == "o" else t)(sys.stdin.read()))))'
    for (const [kind, accept] of [['t', 'text/plain'], ['o', OM]]) {
        const body = (await scrape({ Accept: accept })).text
        const r = tool(['/usr/bin/python3', '-c', program, kind], body)
        assert.equal(r.status, 0, r.stderr)
        assert.equal(Number(r.stdout), parse(body).size)
    }
})

await test_with(promtool, 'promtool: nothing is said of our names, and of theirs only what they have', () => {
    const r = tool(['promtool', 'check', 'metrics'], text)
    const theirs = [/^(vllm|llamacpp):\S+ metric names should not contain ':'$/,
        /^vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix$/,
        /^llamacpp:n_tokens_max counter metrics should have "_total" suffix$/]
    const lines = (r.stdout + r.stderr).split('\n').filter(Boolean)
    assert.ok(lines.length > 30, 'it says nothing of them')
    assert.deepEqual(lines.filter((l) => !theirs.some((t) => t.test(l))), [])
})

const doc = path.join(src, 'docs', 'metrics.md')
await test('docs/metrics.md says the same', () => {
    const groups = { vllm: /^vllm:/, llamacpp: /^llamacpp:/, latentd: /^latentd_/, process: /^(http|process)_/ }
    let said = fs.readFileSync(doc, 'utf8')
    for (const [group, which] of Object.entries(groups)) {
        const table = [...families.values()].filter((f) => which.test(f.name)).map((f) => {
            const labels = new Set(f.samples.flatMap((s) => Object.keys(s.labels)))
            for (const l of ['le', 'model_name', 'engine']) if (f.name !== 'vllm:cache_config_info') labels.delete(l)
            return `| \`${f.name}\` | ${f.type} | ${[...labels].join(', ')} | ${f.help} |`
        }).sort().join('\n') + '\n'
        assert.ok(table.length > 200)
        const begin = `<!-- ${group} -->\n| name | type | labels | |\n| --- | --- | --- | --- |\n`, end = '<!-- end -->'
        const a = said.indexOf(begin) + begin.length, b = said.indexOf(end, a)
        assert.ok(a >= begin.length && b >= 0, group)
        if (process.env.WRITE_DOCS) said = said.slice(0, a) + table + said.slice(b)
        else assert.equal(said.slice(a, b), table)
    }
    if (process.env.WRITE_DOCS) fs.writeFileSync(doc, said)
})

/** Names of series in an expression. */
const names_in = (expr) => [...expr.matchAll(/\b(?:vllm:|llamacpp:|latentd_|http_|process_)[a-z0-9_]+/g)].map((m) => m[0])
const exists = (name) => [...families.values()].some((f) => f.name === name || f.samples.some((s) => s.name === name))

await test('the dashboard asks for series that exist', () => {
    const board = JSON.parse(fs.readFileSync(path.join(src, 'etc', 'grafana-dashboard.json'), 'utf8'))
    const exprs = board.panels.flatMap((p) => (p.targets ?? []).map((t) => t.expr))
    assert.ok(exprs.length > 15)
    for (const e of exprs) {
        assert.ok(names_in(e).length > 0, e)
        for (const n of names_in(e)) assert.ok(exists(n), n)
    }
    const ids = board.panels.map((p) => p.id)
    assert.equal(new Set(ids).size, ids.length)
})

const rules = path.join(src, 'etc', 'prometheus-rules.yml')
await test('the rules ask for series that exist', () => {
    const names = names_in(fs.readFileSync(rules, 'utf8'))
    assert.ok(names.length > 8)
    for (const n of names) assert.ok(exists(n), n)
})

await test('what is lost has an alert', async () => {
    const text = fs.readFileSync(rules, 'utf8')
    const lost = [...parse((await scrape()).text).keys()].filter((name) => /_lost_total$|_spans_dropped_total$|corrupted/.test(name))
    assert.ok(lost.length >= 4, lost)
    for (const name of lost) assert.ok(text.includes(name), name)
})

await test_with(promtool, 'the rules are right, and fire', () => {
    for (const argv of [['check', 'rules', rules], ['test', 'rules', path.join(src, 'tests', 'data', 'prometheus-rules-test.yml')]]) {
        const r = tool(['promtool', ...argv])
        assert.equal(r.status, 0, r.stdout + r.stderr)
    }
})

await done()
