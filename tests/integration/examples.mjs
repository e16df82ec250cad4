// tests/integration/examples.mjs - the code blocks of README.md, by language.
import fs from 'node:fs'
import path from 'node:path'
import { top_srcdir } from './harness.mjs'

/** Text of each fenced block of that language, in order. */
export function examples(language) {
    const text = fs.readFileSync(path.join(top_srcdir, 'README.md'), 'utf8')
    return [...text.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)]
        .filter(([, name]) => name === language)
        .map(([, , source]) => source)
}
