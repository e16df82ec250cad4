// tools/family_table.mjs DOC FILE.json... - fills the table of the zoo in DOC (docs/attention.md) with figures: FILEs are
// outputs of `latent-bench family --json` and models/zoo/results.json, earlier ones before later ones. Lines are found by the
// model's name; what stands in their last two columns, words, stays. Prints which figures it did not find.
import fs from 'node:fs'

const [doc, ...files] = process.argv.slice(2)
if (!files.length) {
    console.error('usage: family_table.mjs DOC FILE.json...')
    process.exit(1)
}
const BEGIN = '<!-- family_table.mjs: begin -->\n', END = '<!-- family_table.mjs: end -->'

const models = new Map() // name: {trained, served, bytes, prefill, decode: Map context -> row}
const contexts = new Set()
for (const file of files) {
    const all = JSON.parse(fs.readFileSync(file, 'utf8'))
    const of = (name) => models.get(name) ?? models.set(name, { decode: new Map() }).get(name)
    if (Array.isArray(all)) {
        for (const r of all) of(r.name).trained ??= r.perplexity
        continue
    }
    for (const r of all.rows.filter((r) => r.mode === 'family')) {
        const m = of(r.model)
        m.bytes ??= r.cache_bytes_a_token
        if (r.measure === 'perplexity') m.served ??= r.value
        if (r.measure === 'prefill') m.prefill ??= r.value
        if (r.measure === 'decode') {
            contexts.add(r.context)
            if (!m.decode.has(r.context)) m.decode.set(r.context, r)
        }
    }
}

const text = fs.readFileSync(doc, 'utf8')
const begin = text.indexOf(BEGIN), end = text.indexOf(END)
if (begin < 0 || end < begin) throw new Error(`${doc} has no ${BEGIN}`)
const old = text.slice(begin + BEGIN.length, end).trim().split('\n').slice(2).map((l) => l.split('|').slice(1, -1).map((c) => c.trim()))
const missing = []
// 0 and the longest are what a table has room for; the plot has them all
const shown = [...contexts].sort((a, b) => a - b).filter((c, i, all) => i === 0 || i === all.length - 1)
const head = ['model', 'bytes', 'perplexity', 'as served', ...shown.map((c) => `decode at ${c} (of bound)`), 'prefill', "authors' claim",
    'here']
const lines = old.map((cells) => {
    const m = models.get(cells[0]), figure = (what, v, digits) => {
        if (v === undefined) missing.push(`${cells[0]}: ${what}`)
        return v === undefined ? '' : v.toFixed(digits)
    }
    if (!m) {
        missing.push(cells[0])
        return cells
    }
    const speed = (c) => {
        const r = m.decode.get(c)
        return figure(`decode at ${c}`, r?.value, 0) + (r ? ` (${(r.value / r.bound).toFixed(2)})` : '')
    }
    return [cells[0], figure('bytes', m.bytes, 0), figure('perplexity', m.trained, 2), figure('perplexity as served', m.served, 2),
        ...shown.map(speed), figure('prefill', m.prefill, 0), ...cells.slice(-2)]
})
const row = (cells) => `| ${cells.join(' | ')} |\n`
fs.writeFileSync(doc, text.slice(0, begin + BEGIN.length) + row(head) + row(head.map(() => '---')) + lines.map(row).join('') +
    text.slice(end))
for (const m of missing) console.log('no figure: ' + m)
