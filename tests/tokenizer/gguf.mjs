// tests/tokenizer/gguf.mjs - the tokenizer of a GGUF file as the tokenizer.json that it was made from.
import fs from 'node:fs'

const SCALARS = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }

/** The metadata of a GGUF v3 file as an object. */
export function metadata(file) {
    const b = fs.readFileSync(file)
    let at = 8 + 8 + 8 // magic and version, tensors, pairs
    const u64 = () => Number(b.readBigUInt64LE((at += 8) - 8))
    const u32 = () => b.readUInt32LE((at += 4) - 4)
    const string = () => {
        const n = u64()
        return b.toString('utf8', at, (at += n))
    }
    const value = (type) => {
        if (type === 8) return string()
        if (type === 9) {
            const of = u32()
            return Array.from({ length: u64() }, () => value(of))
        }
        const n = SCALARS[type]
        if (!n) throw new Error(`type ${type} in ${file}`)
        at += n
        return type === 4 ? b.readUInt32LE(at - 4) : type === 5 ? b.readInt32LE(at - 4) : type === 7 ? b[at - 1] !== 0 : null
    }
    const pairs = Number(b.readBigUInt64LE(16))
    const all = {}
    for (let i = 0; i < pairs; i++) {
        const key = string()
        all[key] = value(u32())
    }
    return all
}

// The patterns that the checkpoints' own tokenizer.json files hold, by tokenizer.ggml.pre.
const split = (Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })
const PATTERNS = {
    'deepseek-v3': [
        '\\p{N}{1,3}',
        '[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+',
        '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|' +
        ' ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+',
    ],
}

export function tokenizer_json(file) {
    const m = metadata(file)
    const tokens = m['tokenizer.ggml.tokens']
    const patterns = PATTERNS[m['tokenizer.ggml.pre']]
    if (!patterns) throw new Error(`no patterns for ${m['tokenizer.ggml.pre']}`)
    const special = (id) => m['tokenizer.ggml.token_type'][id] === 3
    const bos = m['tokenizer.ggml.bos_token_id']
    return {
        version: '1.0', truncation: null, padding: null, normalizer: null,
        added_tokens: tokens.flatMap((content, id) => special(id)
            ? [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }] : []),
        pre_tokenizer: {
            type: 'Sequence',
            pretokenizers: [...patterns.map(split),
                { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }],
        },
        post_processor: {
            type: 'TemplateProcessing',
            single: [{ SpecialToken: { id: tokens[bos], type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
            pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
            special_tokens: { [tokens[bos]]: { id: tokens[bos], ids: [bos], tokens: [tokens[bos]] } },
        },
        decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
        model: {
            type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null,
            fuse_unk: false, byte_fallback: false, ignore_merges: false,
            vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
            merges: m['tokenizer.ggml.merges'].map((pair) => pair.split(' ')),
        },
    }
}
