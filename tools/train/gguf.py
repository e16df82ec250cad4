#!/usr/bin/env python3
"""A folder of the attention family (docs/family-format.md) as one GGUF file with Q8_0 weights:

    gguf.py FOLDER TOKENIZER.gguf OUT.gguf

The tokenizer is copied from another GGUF file; "-": none. Matrices whose rows are multiples of 32 become Q8_0, other
matrices BF16, vectors F32."""
import json
import os
import struct
import sys
import numpy as np

ALIGN = 32
ENDS = {'model.embed_tokens.weight': 'token_embd.weight', 'model.norm.weight': 'output_norm.weight',
        'lm_head.weight': 'output.weight'}


def read_folder(folder):
    data = open(os.path.join(folder, 'model.safetensors'), 'rb').read()
    n = struct.unpack('<Q', data[:8])[0]
    tensors = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name == '__metadata__':
            continue
        a, e = (8 + n + x for x in t['data_offsets'])
        if t['dtype'] == 'BF16':
            v = (np.frombuffer(data[a:e], '<u2').astype(np.uint32) << 16).view(np.float32)
        else:
            v = np.frombuffer(data[a:e], {'F32': '<f4', 'F16': '<f2'}[t['dtype']]).astype(np.float32)
        tensors[name] = v.reshape(t['shape'])
    return json.load(open(os.path.join(folder, 'config.json'))), tensors


def tokenizer_pairs(path):
    """The bytes of each tokenizer.* pair of a GGUF file."""
    data = open(path, 'rb').read(64 << 20)
    n_kv, at, sizes = struct.unpack('<Q', data[16:24])[0], 24, (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)

    def skip(kind, at):
        if kind == 8:
            return at + 8 + struct.unpack('<Q', data[at:at + 8])[0]
        if kind == 9:
            elem, n = struct.unpack('<IQ', data[at:at + 12])
            at += 12
            if elem != 8:
                return at + n * sizes[elem]
            for _ in range(n):
                at = skip(8, at)
            return at
        return at + sizes[kind]

    for _ in range(n_kv):
        begin = at
        n = struct.unpack('<Q', data[at:at + 8])[0]
        name = data[at + 8:at + 8 + n].decode()
        at += 8 + n
        at = skip(struct.unpack('<I', data[at:at + 4])[0], at + 4)
        if name.startswith('tokenizer.'):
            yield data[begin:at]


def text(s):
    s = s.encode()
    return struct.pack('<Q', len(s)) + s


def q8_0(a):
    x = a.reshape(-1, 32)
    scale = (np.abs(x).max(1) / 127).astype('<f2')
    f = scale.astype(np.float32)
    q = np.clip(np.rint(x / np.where(f == 0, 1, f)[:, None]), -127, 127).astype(np.int8)
    out = np.empty((len(x), 34), np.uint8)
    out[:, :2] = scale.view(np.uint8).reshape(-1, 2)
    out[:, 2:] = q.view(np.uint8)
    return out.tobytes()


def bf16(a):
    u = np.ascontiguousarray(a, '<f4').view('<u4')
    return ((u + 0x7fff + ((u >> 16) & 1)) >> 16).astype('<u2').tobytes()


def write(path, name, config, tensors, tokenizer):
    pairs = [] if tokenizer == '-' else list(tokenizer_pairs(tokenizer))
    for key, value in (('general.architecture', 'latent-family'), ('general.name', name),
                       ('latent-family.config', json.dumps(config))):
        pairs.insert(0, text(key) + struct.pack('<I', 8) + text(value))
    infos, blobs, at = b'', [], 0
    for key, a in sorted(tensors.items()):
        matrix = a.ndim > 1 and 'norm' not in key
        kind = 8 if matrix and a.shape[-1] % 32 == 0 else 30 if matrix else 0
        blob = q8_0(a) if kind == 8 else bf16(a) if kind == 30 else a.astype('<f4').tobytes()
        infos += text(ENDS.get(key, key)) + struct.pack('<I', a.ndim) + struct.pack(f'<{a.ndim}Q', *reversed(a.shape)) + \
            struct.pack('<IQ', kind, at)
        blobs.append(blob + b'\0' * (-len(blob) % ALIGN))
        at += len(blobs[-1])
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(pairs)) + b''.join(pairs) + infos
    with open(path, 'wb') as f:
        f.write(head + b'\0' * (-len(head) % ALIGN))
        for blob in blobs:
            f.write(blob)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    folder, tokenizer, out = sys.argv[1:]
    config, tensors = read_folder(folder)
    write(out, os.path.basename(os.path.normpath(folder)), config, tensors, tokenizer)


if __name__ == '__main__':
    main()
