// tests/integration/npm.mjs - packages, installed into the build folder once. Without npm or a registry
// that answers the test is skipped.
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { fs, note, path, scratch, skip_all } from './harness.mjs'

/** Runs npm, one at a time in a folder: tests run side by side. Returns null, or what went wrong. */
function npm(folder, ...args) {
    fs.mkdirSync(folder, { recursive: true })
    const r = spawnSync('flock', [path.join(folder, 'lock'), 'npm', ...args, '--loglevel=error'],
        { cwd: folder, encoding: 'utf8', timeout: 300000, stdio: ['ignore', 'pipe', 'pipe'] })
    if (r.status === 69) skip_all('no npm') // flock found nothing to run
    if (r.error?.code === 'ENOENT') skip_all('no flock')
    if (r.status === 0) return null
    return (String(r.stderr || r.error || '').split('\n').find((line) => line.trim()) || 'no reason given').slice(0, 120)
}

/** Installs {name: version range} into the folder `into` where they lack; returns load(name), a dynamic import. */
export function packages(into, wanted) {
    const prefix = path.join(scratch, into)
    const at = (name) => path.join(prefix, 'node_modules', name, 'package.json')
    if (Object.keys(wanted).some((name) => !fs.existsSync(at(name)))) {
        fs.mkdirSync(prefix, { recursive: true })
        fs.writeFileSync(path.join(prefix, 'package.json'), '{"private": true}\n')
        const specs = Object.entries(wanted).map(([name, version]) => `${name}@${version}`)
        const why = npm(prefix, 'install', '--no-save', '--no-audit', '--no-fund', '--prefix', prefix, ...specs)
        if (why) skip_all(`npm cannot install ${specs.join(' ')}: ${why}`)
    }
    note(Object.keys(wanted).map((name) => `${name} ${JSON.parse(fs.readFileSync(at(name))).version}`).join(', '))
    const require = createRequire(path.join(prefix, 'x.js'))
    return (name) => import(pathToFileURL(require.resolve(name)).href)
}

/** What the archive of package@version has in its folder `from`, unpacked into the folder `into`, whose path is
 * returned; null, with a note, if it cannot be had. */
export function unpacked(into, spec, from) {
    const folder = path.join(scratch, into)
    if (fs.existsSync(folder)) return folder
    const part = `${folder}.${process.pid}`
    let why = npm(part, 'pack', '--silent', spec)
    const archive = why ? null : fs.readdirSync(part).find((f) => f.endsWith('.tgz'))
    if (!why) {
        const depth = from.split('/').length + 1
        const r = spawnSync('tar', ['-xzf', archive, `--strip-components=${depth}`, `package/${from}`], { cwd: part, encoding: 'utf8' })
        if (r.status !== 0) why = r.stderr.trim()
    }
    if (why) {
        fs.rmSync(part, { recursive: true, force: true })
        note(`${spec} cannot be had: ${why}`)
        return null
    }
    fs.rmSync(path.join(part, archive))
    try {
        fs.renameSync(part, folder)
    } catch (error) { // a test beside this one was first
        if (!fs.existsSync(folder)) throw error
        fs.rmSync(part, { recursive: true })
    }
    return folder
}
