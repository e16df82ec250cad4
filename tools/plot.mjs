// tools/plot.mjs OUT_DIR FILE.json... - plots of latent-bench's rows as SVG: speed against context, against the
// number of sequences, against threads. Each line stands beside its bound (dashed). Needs Node.js and nothing
// else; a plot without rows is not written.
import fs from 'node:fs'
import path from 'node:path'

const [out, ...files] = process.argv.slice(2)
if (!files.length) {
    console.error('usage: plot.mjs OUT_DIR FILE.json...')
    process.exit(1)
}
const W = 680, H = 400, LEFT = 64, RIGHT = 190, TOP = 40, BOTTOM = 48
const COLOURS = ['#1f5fa8', '#c44e1c', '#2e8540', '#7a3e9d', '#8a6d00', '#00838a']

const machines = new Set()
const rows = files.flatMap((f) => {
    const all = JSON.parse(fs.readFileSync(f, 'utf8'))
    machines.add(`${all.machine.name}, ${all.machine.cores} processors`)
    return all.rows.map((r) => ({ ...r, model: all.model?.name }))
})

const escape = (s) => String(s).replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c])
const round = (v) => Math.round(v * 10) / 10

// 1, 2 or 5 times a power of ten, about n of them up to max
function ticks(max, n) {
    const raw = max / n, power = 10 ** Math.floor(Math.log10(raw))
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw)
    return Array.from({ length: Math.floor(max / step + 1e-9) + 1 }, (_, i) => i * step)
}

function chart(file, { title, x_label, y_label, series, log_x }) {
    const lines = series.filter((s) => s.points.length > 1)
    if (!lines.length) return
    const xs = [...new Set(lines.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b)
    const y_max = 1.08 * Math.max(...lines.flatMap((s) => s.points.flatMap((p) => [p.y, p.max ?? 0, p.bound ?? 0])))
    const scale = (v) => (log_x ? Math.log2(v) : v)
    const x_at = (v) => LEFT + (scale(v) - scale(xs[0])) / (scale(xs.at(-1)) - scale(xs[0])) * (W - LEFT - RIGHT)
    const y_at = (v) => H - BOTTOM - v / y_max * (H - TOP - BOTTOM)
    const line = (points, pick) => points.filter((p) => pick(p) > 0).map((p) => `${round(x_at(p.x))},${round(y_at(pick(p)))}`).join(' ')
    const svg = [
        `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${W} ${H}" font-family="sans-serif" font-size="12">`,
        `<rect width="${W}" height="${H}" fill="#fff"/>`,
        `<text x="${LEFT}" y="18" font-size="14">${escape(title)}</text>`,
        `<text x="${LEFT}" y="33" fill="#666" font-size="11">${escape([...machines].join('; '))}; dashed: bound</text>`,
    ]
    for (const v of ticks(y_max, 5))
        svg.push(`<path d="M${LEFT} ${round(y_at(v))}H${W - RIGHT}" stroke="#ddd"/>`,
            `<text x="${LEFT - 6}" y="${round(y_at(v) + 4)}" text-anchor="end">${v}</text>`)
    for (const v of log_x ? xs : ticks(xs.at(-1), 6).filter((v) => v >= xs[0]))
        svg.push(`<text x="${round(x_at(v))}" y="${H - BOTTOM + 16}" text-anchor="middle">${v}</text>`)
    svg.push(`<text x="${(LEFT + W - RIGHT) / 2}" y="${H - 10}" text-anchor="middle">${escape(x_label)}</text>`,
        `<text transform="translate(14 ${(TOP + H - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">${escape(y_label)}</text>`)
    lines.forEach((s, i) => {
        const colour = COLOURS[i % COLOURS.length]
        svg.push(`<polyline points="${line(s.points, (p) => p.bound)}" fill="none" stroke="${colour}" stroke-dasharray="4 3"/>`,
            `<polyline points="${line(s.points, (p) => p.y)}" fill="none" stroke="${colour}" stroke-width="2"/>`)
        for (const p of s.points) {
            const x = round(x_at(p.x))
            if (p.max) svg.push(`<path d="M${x} ${round(y_at(p.min))}V${round(y_at(p.max))}" stroke="${colour}"/>`)
            svg.push(`<circle cx="${x}" cy="${round(y_at(p.y))}" r="3" fill="${colour}"/>`)
        }
        svg.push(`<text x="${W - RIGHT + 10}" y="${TOP + 12 + 17 * i}" fill="${colour}">${escape(s.name)}</text>`)
    })
    fs.mkdirSync(out, { recursive: true })
    fs.writeFileSync(path.join(out, file), svg.join('\n') + '\n</svg>\n')
    console.log(path.join(out, file))
}

// Rows that differ in `x` only form a line; later files do not overwrite earlier points.
function lines(list, x, names) {
    const found = new Map()
    for (const r of list) {
        const name = names.map((n) => (typeof n === 'function' ? n(r) : r[n])).filter(Boolean).join(', ')
        if (!found.has(name)) found.set(name, new Map())
        if (!found.get(name).has(r[x])) found.get(name).set(r[x], { x: r[x], y: r.value, min: r.min, max: r.max, bound: r.bound })
    }
    return [...found].map(([name, points]) => ({ name, points: [...points.values()].sort((a, b) => a.x - b.x) }))
}

const several = new Set(rows.map((r) => r.threads).filter(Boolean)).size > 1
const on = (r) => (several ? `${r.threads} threads` : '')
const decodes = rows.filter((r) => r.mode === 'decode' || r.mode === 'batch')
const batch_of = (r) => (r.batch > 1 ? `${r.batch} sequences` : '')

chart('decode-context.svg', {
    title: 'Decoding one sequence', x_label: 'tokens of context', y_label: 'tokens a second',
    series: lines(decodes.filter((r) => r.batch === 1), 'context', ['cpu', 'cache_type', on]),
})
chart('prefill-context.svg', {
    title: 'A prompt of 512 tokens behind a context', x_label: 'tokens of context', y_label: 'tokens a second',
    series: lines(rows.filter((r) => r.mode === 'prefill' && r.tokens === 512), 'context', ['cpu', 'cache_type', on]),
})
chart('decode-batch.svg', {
    title: 'Decoding many sequences, tokens of all', x_label: 'sequences', y_label: 'tokens a second', log_x: true,
    series: [
        ...lines(decodes.filter((r) => r.context > 0), 'batch', ['cpu', 'cache_type', (r) => `${r.context} each`, on]),
        ...lines(rows.filter((r) => r.mode === 'shared'), 'batch', ['cpu', 'cache_type', (r) => `${r.shared} shared`, on]),
    ],
})
const by_threads = (list, names) => lines(list, 'threads', names)
chart('decode-threads.svg', {
    title: 'Decoding', x_label: 'threads', y_label: 'tokens a second', log_x: true,
    series: by_threads(decodes, ['cpu', batch_of, (r) => (r.context ? `${r.context} each` : '')]),
})
chart('prefill-threads.svg', {
    title: 'A prompt of 512 tokens', x_label: 'threads', y_label: 'tokens a second', log_x: true,
    series: by_threads(rows.filter((r) => r.mode === 'prefill' && !r.context && r.tokens === 512), ['cpu']),
})
