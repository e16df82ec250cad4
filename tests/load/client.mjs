// tests/load/client.mjs - requests to any port, a fresh connection each; nothing is thrown: what came is told.
import http from 'node:http'
import https from 'node:https'

/** After this long without a byte a request is given up with status -1. */
let patience_ms = 60000
export const set_patience = (ms) => (patience_ms = ms)

/** From now on over TLS, to whoever is there; false: plain. */
let secure = false
export const set_tls = (on) => (secure = on)

function open(port, method, url_path, body, headers, on_response, resolve) {
    const data = body === undefined ? undefined : JSON.stringify(body)
    const req = (secure ? https : http).request({ host: '127.0.0.1', rejectUnauthorized: false, port, method, path: url_path, agent: false,
        headers: { ...(data === undefined ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(data) }), ...headers } },
    on_response)
    // silence is told as such: who waits for ever finds nothing
    req.setTimeout(patience_ms, () => {
        resolve({ status: -1, error: 'silence', headers: {}, text: '' })
        req.destroy()
    })
    req.on('error', (e) => resolve({ status: 0, error: e.code ?? e.message, headers: {}, text: '' }))
    req.end(data)
    return req
}

/** {status (0: none), headers, text, json, error} */
export function ask(port, method, url_path, body, headers = {}) {
    return new Promise((resolve) => open(port, method, url_path, body, headers, (res) => {
        let text = ''
        res.setEncoding('utf8').on('data', (part) => (text += part)).on('error', () => {})
        res.on('close', () => {
            const r = { status: res.complete ? res.statusCode : 0, headers: res.headers, text, error: res.complete ? null : 'cut off' }
            try {
                r.json = JSON.parse(text)
            } catch {
                if (r.status === 200) r.error = 'no JSON'
            }
            resolve(r)
        })
    }, resolve))
}

/** {status, finished, n_tokens, ids, times (ms of each event with tokens), error}; on_token(r) may call r.req.destroy(). */
export function ask_stream(port, url_path, body, headers = {}, on_token = () => {}) {
    return new Promise((resolve) => {
        const r = { status: 0, finished: false, n_tokens: 0, ids: [], times: [], text: '', error: null, began: performance.now() }
        r.req = open(port, 'POST', url_path, { ...body, stream: true, return_token_ids: true }, headers, (res) => {
            r.status = res.statusCode
            r.headers = res.headers
            let rest = ''
            res.setEncoding('utf8').on('error', () => {}).on('data', (part) => {
                rest += part
                if (r.status !== 200) {
                    r.text = rest
                    return
                }
                for (let at; (at = rest.indexOf('\n\n')) >= 0; rest = rest.slice(at + 2)) {
                    const line = rest.slice(0, at)
                    if (line === 'data: [DONE]') r.finished = true
                    if (!line.startsWith('data: {')) continue
                    const event = JSON.parse(line.slice(6))
                    if (event.error) r.error = event.error
                    const ids = event.choices?.[0]?.token_ids ?? []
                    if (!ids.length) continue
                    r.ids.push(...ids)
                    r.n_tokens += ids.length
                    r.times.push(performance.now())
                    on_token(r)
                }
            })
            res.on('close', () => resolve(r))
        }, (broken) => resolve({ ...r, ...broken }))
    })
}
