// tools/plot.mjs OUT_DIR FILE.json... - plots of latent-bench's rows as SVG: speed against context, against the
// number of sequences, against threads, each line beside its bound (dashed); of mode family perplexity against bytes of
// the cache, speed against context and its share of the bound. Needs Node.js and nothing else; a plot without rows is
// not written.
import fs from 'node:fs'
import path from 'node:path'

const [out, ...files] = process.argv.slice(2)
if (!files.length) {
    console.error('usage: plot.mjs OUT_DIR FILE.json...')
    process.exit(1)
}
const W = 680, H = 400, LEFT = 64, RIGHT = 190, TOP = 40, BOTTOM = 48
const COLOURS = ['#1f5fa8', '#c44e1c', '#2e8540', '#7a3e9d', '#8a6d00', '#00838a']
// of as many lines as there are mechanisms, colour alone tells few apart
const SHAPES = ['M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z', 'M-3.5-3.5H3.5V3.5H-3.5z', 'M0-4.5L4.5 3.5H-4.5z',
    'M0-5L5 0L0 5L-5 0z', 'M0 4.5L4.5-3.5H-4.5z', 'M-4-1.3H-1.3V-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4z']

const machines = new Set()
const rows = files.flatMap((f) => {
    const all = JSON.parse(fs.readFileSync(f, 'utf8'))
    machines.add(`${all.machine.name}, ${all.machine.cores} processors`)
    return all.rows.map((r) => ({ model: all.model?.name, ...r }))
})

const escape = (s) => String(s).replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c])
const round = (v) => Math.round(v * 10) / 10

// 1, 2 or 5 times a power of ten, about n of them up to max
function ticks(max, n) {
    const raw = max / n, power = 10 ** Math.floor(Math.log10(raw))
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw)
    return Array.from({ length: Math.floor(max / step + 1e-9) + 1 }, (_, i) => i * step)
}

const log_ticks = (min, max) => Array.from({ length: 24 }, (_, i) => [1, 2, 5][i % 3] * 10 ** (Math.floor(i / 3) - 2))
    .filter((v) => v >= min && v <= max)

const frame = (title, under) => [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${W} ${H}" font-family="sans-serif" font-size="12">`,
    `<rect width="${W}" height="${H}" fill="#fff"/>`,
    `<text x="${LEFT}" y="18" font-size="14">${escape(title)}</text>`,
    `<text x="${LEFT}" y="33" fill="#666" font-size="11">${escape(under)}</text>`,
]
const axes = (x_label, y_label, right) => [
    `<text x="${(LEFT + W - right) / 2}" y="${H - 10}" text-anchor="middle">${escape(x_label)}</text>`,
    `<text transform="translate(14 ${(TOP + H - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">${escape(y_label)}</text>`,
]

function write(file, svg) {
    fs.mkdirSync(out, { recursive: true })
    fs.writeFileSync(path.join(out, file), svg.join('\n') + '\n</svg>\n')
    console.log(path.join(out, file))
}

/** Shapes: a mark for each line, and no bounds; circles otherwise. */
function chart(file, { title, x_label, y_label, series, log_x, log_y, shapes }) {
    const lines = series.filter((s) => s.points.length > 1)
    if (!lines.length) return
    const xs = [...new Set(lines.flatMap((s) => s.points.map((p) => p.x)))].sort((a, b) => a - b)
    const y_max = 1.08 * Math.max(...lines.flatMap((s) => s.points.flatMap((p) => [p.y, p.max ?? 0, p.bound ?? 0])))
    const scale = (v) => (log_x ? Math.log2(v) : v)
    const x_at = (v) => LEFT + (scale(v) - scale(xs[0])) / (scale(xs.at(-1)) - scale(xs[0])) * (W - LEFT - RIGHT)
    const y_min = log_y ? 0.9 * Math.min(...lines.flatMap((s) => s.points.map((p) => p.y))) : 0
    const y_share = log_y ? (v) => Math.log(v / y_min) / Math.log(y_max / y_min) : (v) => v / y_max
    const y_at = (v) => H - BOTTOM - y_share(v) * (H - TOP - BOTTOM)
    const line = (points, pick) => points.filter((p) => pick(p) > 0).map((p) => `${round(x_at(p.x))},${round(y_at(pick(p)))}`).join(' ')
    const svg = frame(title, [...machines].join('; ') + (shapes ? '' : '; dashed: bound'))
    for (const v of log_y ? log_ticks(y_min, y_max) : ticks(y_max, 5))
        svg.push(`<path d="M${LEFT} ${round(y_at(v))}H${W - RIGHT}" stroke="#ddd"/>`,
            `<text x="${LEFT - 6}" y="${round(y_at(v) + 4)}" text-anchor="end">${v}</text>`)
    for (const v of log_x ? xs : ticks(xs.at(-1), 6).filter((v) => v >= xs[0]))
        svg.push(`<text x="${round(x_at(v))}" y="${H - BOTTOM + 16}" text-anchor="middle">${v}</text>`)
    svg.push(...axes(x_label, y_label, RIGHT))
    lines.forEach((s, i) => {
        const colour = colour_of(i)
        if (!shapes)
            svg.push(`<polyline points="${line(s.points, (p) => p.bound)}" fill="none" stroke="${colour}" stroke-dasharray="4 3"/>`)
        svg.push(`<polyline points="${line(s.points, (p) => p.y)}" fill="none" stroke="${colour}" stroke-width="2"/>`)
        for (const p of s.points) {
            const x = round(x_at(p.x))
            if (p.max && !shapes) svg.push(`<path d="M${x} ${round(y_at(p.min))}V${round(y_at(p.max))}" stroke="${colour}"/>`)
            svg.push(shapes ? shape(i, x, round(y_at(p.y))) : `<circle cx="${x}" cy="${round(y_at(p.y))}" r="3" fill="${colour}"/>`)
        }
        const y = TOP + 12 + 17 * i
        if (shapes) svg.push(shape(i, W - RIGHT + 16, y - 4))
        svg.push(`<text x="${W - RIGHT + (shapes ? 28 : 10)}" y="${y}" fill="${colour}">${escape(s.name)}</text>`)
    })
    write(file, svg)
}

// shape and colour come together again only after many
const colour_of = (i) => COLOURS[(i + Math.floor(i / COLOURS.length)) % COLOURS.length]
const shape = (i, x, y) => `<path transform="translate(${x} ${y})" d="${SHAPES[i % SHAPES.length]}" fill="${colour_of(i)}"/>`

/** Points with their names beside them, each name where it covers no other. */
function scatter(file, { title, under, x_label, y_label, points }) {
    if (points.length < 2) return
    const ys = points.map((p) => p.y), low = 5 * Math.floor((Math.min(...ys) - 1) / 5), high = Math.max(...ys) + 1
    const x_max = 1.1 * Math.max(...points.map((p) => p.x))
    const x_at = (v) => LEFT + v / x_max * (W - LEFT - 30), y_at = (v) => H - BOTTOM - (v - low) / (high - low) * (H - TOP - BOTTOM)
    const svg = frame(title, under)
    for (const v of ticks(high - low, 6).map((v) => v + low))
        svg.push(`<path d="M${LEFT} ${round(y_at(v))}H${W - 30}" stroke="#ddd"/>`,
            `<text x="${LEFT - 6}" y="${round(y_at(v) + 4)}" text-anchor="end">${v}</text>`)
    for (const v of ticks(x_max, 6))
        svg.push(`<text x="${round(x_at(v))}" y="${H - BOTTOM + 16}" text-anchor="middle">${v}</text>`)
    svg.push(...axes(x_label, y_label, 30))
    const taken = points.map((p) => [x_at(p.x) - 5, y_at(p.y) - 5, x_at(p.x) + 5, y_at(p.y) + 5])
    points.forEach((p, i) => {
        const x = x_at(p.x), y = y_at(p.y), w = 7 * p.name.length
        const places = [[9, 4], [-9 - w, 4], [9, -7], [9, 15], [-9 - w, -7], [-9 - w, 15]].map(([dx, dy]) =>
            [x + dx, y + dy - 9, x + dx + w, y + dy + 2])
        const free = places.find((a) => taken.every((b) => a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1])) ?? places[0]
        taken.push(free)
        svg.push(shape(i, round(x), round(y)), `<text x="${round(free[0])}" y="${round(free[3] - 2)}">${escape(p.name)}</text>`)
    })
    write(file, svg)
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

// --- mode family: a line or a point for each model, by name -----------------------------------------------

const family = rows.filter((r) => r.mode === 'family').sort((a, b) => (a.model < b.model ? -1 : a.model > b.model))
const family_decodes = family.filter((r) => r.measure === 'decode')
scatter('family-perplexity.svg', {
    title: 'Quality against cache', under: 'models of equal size and training; lower and further left is better',
    x_label: 'bytes of a token in the cache', y_label: 'perplexity',
    points: family.filter((r) => r.measure === 'perplexity').map((r) => ({ name: r.model, x: r.cache_bytes_a_token, y: r.value })),
})
chart('family-context.svg', {
    title: 'Decoding one sequence', x_label: 'tokens of context', y_label: 'tokens a second', log_y: true, shapes: true,
    series: lines(family_decodes, 'context', ['model']),
})
chart('family-bound.svg', {
    title: 'Decoding one sequence, over its bound', x_label: 'tokens of context', y_label: 'share of the bound', shapes: true,
    series: lines(family_decodes.map((r) => ({ ...r, value: r.value / r.bound, bound: 0, max: 0 })), 'context', ['model']),
})
