#!/usr/bin/env python3
"""Embeddings of a folder of the family in float64: `embedding.py FOLDER` prints {"mean": [...], "last": [...]}, of length
1, of the tokens of its golden.json: what the last norm gives, over all tokens or of the last."""
import json
import os
import sys
import check
import family
import numpy as np


def main(folder):
    with open(os.path.join(folder, 'config.json')) as file:
        config = json.load(file)
    with open(os.path.join(folder, 'golden.json')) as file:
        tokens = json.load(file)['tokens']
    h = family.Model(config, check.read_safetensors(os.path.join(folder, 'model.safetensors'))).hidden(tokens)
    print(json.dumps({name: list(v / np.sqrt((v * v).sum())) for name, v in (('mean', h.mean(0)), ('last', h[-1]))}))


main(sys.argv[1])
