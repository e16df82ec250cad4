// tests/integration/npm.mjs - packages of clients, installed into the build folder once. Without npm or a registry
// that answers the test is skipped.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { fs, note, path, scratch, skip_all } from './harness.mjs'

/** Installs {name: version range} into the folder `into` where they lack; returns load(name), a dynamic import. */
export function packages(into, wanted) {
    const prefix = path.join(scratch, into)
    const at = (name) => path.join(prefix, 'node_modules', name, 'package.json')
    if (Object.keys(wanted).some((name) => !fs.existsSync(at(name)))) {
        fs.mkdirSync(prefix, { recursive: true })
        fs.writeFileSync(path.join(prefix, 'package.json'), '{"private": true}\n')
        const specs = Object.entries(wanted).map(([name, version]) => `${name}@${version}`)
        // one at a time: tests that run side by side share the folder
        const r = spawnSync('flock', [path.join(prefix, 'lock'), 'npm', 'install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error', '--prefix', prefix, ...specs],
            { encoding: 'utf8', timeout: 300000, stdio: ['ignore', 'pipe', 'pipe'] })
        if (r.status === 69) skip_all('no npm') // flock found nothing to run
        if (r.error?.code === 'ENOENT') skip_all('no flock')
        if (r.status !== 0) {
            const why = String(r.stderr || r.error || '').split('\n').find((line) => line.trim()) || 'no reason given'
            skip_all(`npm cannot install ${specs.join(' ')}: ${why.slice(0, 120)}`)
        }
    }
    note(Object.keys(wanted).map((name) => `${name} ${JSON.parse(fs.readFileSync(at(name))).version}`).join(', '))
    const require = createRequire(path.join(prefix, 'x.js'))
    return (name) => import(pathToFileURL(require.resolve(name)).href)
}
