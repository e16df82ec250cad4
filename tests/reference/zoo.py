#!/usr/bin/env python3
"""Writes tests/data/zoo.json: what the models in models/zoo (or in the folder named) say, by float64 arithmetic on the
weights that their GGUF files hold: negative log-likelihood of two texts of tests/data/latent-mini-golden.json, the
likeliest tokens after each, and how greedy text goes on. `zoo.py [FOLDER]`; takes a minute."""
import json
import os
import struct
import sys
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import family  # noqa: E402

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
DATA = os.path.join(TOP, 'tests', 'data')
TEXTS, GREEDY, LIKELIEST = 2, 8, 5
ENDS = {'token_embd.weight': 'model.embed_tokens.weight', 'output_norm.weight': 'model.norm.weight',
        'output.weight': 'lm_head.weight'}
SIZES = (1, 1, 2, 2, 4, 4, 4, 1, None, None, 8, 8, 8)


class Reader:
    def __init__(self, path):
        self.data, self.at = open(path, 'rb').read(), 0

    def take(self, form):
        v = struct.unpack_from('<' + form, self.data, self.at)
        self.at += struct.calcsize('<' + form)
        return v[0] if len(v) == 1 else v

    def text(self):
        n = self.take('Q')
        self.at += n
        return self.data[self.at - n:self.at].decode('utf-8', 'replace')

    def value(self, kind):
        """Text; of other kinds nothing is needed here."""
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.take('IQ')
            for _ in range(n):
                self.value(kind)
        else:
            self.at += SIZES[kind]


def numbers(data, at, kind, n):
    if kind == 0:
        return np.frombuffer(data, '<f4', n, at)
    if kind == 30:
        return (np.frombuffer(data, '<u2', n, at).astype(np.uint32) << 16).view(np.float32)
    if kind != 8:
        sys.exit(f'tensor type {kind} is none that tools/train/gguf.py writes')
    blocks = np.frombuffer(data, np.dtype([('d', '<f2'), ('q', 'i1', 32)]), n // 32, at)
    return blocks['d'].astype(np.float64)[:, None] * blocks['q']


def read_gguf(path):
    """The configuration and the tensors, by their names in a folder of the family."""
    r = Reader(path)
    if r.take('4sI') != (b'GGUF', 3):
        sys.exit(f'{path}: not GGUF v3')
    n_tensors, n_pairs = r.take('QQ')
    pairs = {}
    for _ in range(n_pairs):
        key = r.text()
        pairs[key] = r.value(r.take('I'))
    infos = []
    for _ in range(n_tensors):
        name, n_dims = r.text(), r.take('I')
        infos.append((name, [r.take('Q') for _ in range(n_dims)][::-1], *r.take('IQ')))
    base = -(-r.at // 32) * 32
    return json.loads(pairs['latent-family.config']), {
        ENDS.get(name, name): numbers(r.data, base + at, kind, int(np.prod(shape))).reshape(shape)
        for name, shape, kind, at in infos}


def logprobs(model, ids):
    x = model.logits(ids)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def continued(model, ids):
    """Greedy ids and the least distance between the best two on the way."""
    ids, gap = list(ids), np.inf
    for _ in range(GREEDY):
        last = logprobs(model, ids)[-1]
        second, best = np.argsort(last, kind='stable')[-2:]
        gap = min(gap, last[best] - last[second])
        ids.append(int(best))
    return ids[-GREEDY:], round(float(gap), 4)


def results(path, texts):
    model, out = family.Model(*read_gguf(path)), []
    for text in texts:
        ids = text['ids']
        p = logprobs(model, ids)
        top = np.argsort(p[-1], kind='stable')[::-1][:LIKELIEST]
        greedy, gap = continued(model, ids)
        out.append({'nll': round(float(-p[np.arange(len(ids) - 1), ids[1:]].sum()), 4), 'top_ids': [int(i) for i in top],
                    'top_logprobs': [round(float(p[-1, i]), 4) for i in top], 'greedy_ids': greedy, 'smallest_gap': gap})
    return out


def main():
    zoo = sys.argv[1] if len(sys.argv) > 1 else os.path.join(TOP, 'models', 'zoo')
    with open(os.path.join(DATA, 'latent-mini-golden.json')) as file:
        texts = json.load(file)['texts'][:TEXTS]
    names = sorted(f[:-5] for f in os.listdir(zoo) if f.endswith('.gguf'))
    lines = [f'"{n}": ' + json.dumps(results(os.path.join(zoo, n + '.gguf'), texts)) for n in names]
    with open(os.path.join(DATA, 'zoo.json'), 'w') as file:
        file.write('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
    main()
