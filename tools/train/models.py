#!/usr/bin/env python3
"""The models of the zoo: one of each mechanism (docs/family-format.md), with the same parameters within 2 % but for attention's share.
Needs NumPy; family.py trains them.

    models.py names                      name, parameters, width of the feed-forward block
    models.py make OUT CONTEXT [NAME...] OUT/NAME with random weights, for CONTEXT tokens: enough to measure speed"""
import json
import math
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.environ.get('REFERENCE', os.path.join(HERE, '..', '..', 'tests', 'reference')))
import make  # noqa: E402

PARAMETERS = 4_800_000
BASE = dict(model_type='latent_family', architectures=['LatentFamilyForCausalLM'], vocab_size=8192, hidden_size=256,
            num_hidden_layers=6, rms_norm_eps=1e-6, rope_theta=10000.0, max_position_embeddings=4096,
            tie_word_embeddings=True)
LATENT = dict(num_attention_heads=8, q_lora_rank=None, kv_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16,
              v_head_dim=32)
HEADS = dict(attention_mechanism='gqa', num_attention_heads=8, head_dim=32)
ZOO = {
    'mha': dict(HEADS, num_key_value_heads=8),
    'gqa': dict(HEADS, num_key_value_heads=2),
    'mqa': dict(HEADS, num_key_value_heads=1),
    'sqa': dict(HEADS, num_attention_heads=4, num_key_value_heads=2),
    'cla': dict(HEADS, num_key_value_heads=2, kv_share_factor=2),
    'kha': dict(HEADS, num_key_value_heads=2, knocking_heads='linear'),
    'mfa': dict(attention_mechanism='mfa', num_attention_heads=6, head_dim=64, share_q_dim=128),
    'mfa_kr': dict(attention_mechanism='mfa_kr', num_attention_heads=6, head_dim=64, share_q_dim=128),
    'mla': dict(attention_mechanism='mla', **LATENT),
    'clla': dict(attention_mechanism='mla', kv_share_factor=2, **LATENT),
    'gla': dict(attention_mechanism='gla', latent_groups=2, **{**LATENT, 'kv_lora_rank': 32}),
    'mlra_2': dict(attention_mechanism='mlra', latent_blocks=4, latent_branches=2, **LATENT),
    'mlra_4': dict(attention_mechanism='mlra', latent_blocks=4, latent_branches=4, **LATENT),
    'mtla': dict(attention_mechanism='mtla', temporal_stride=2, **LATENT),
    'gta': dict(attention_mechanism='gta', num_attention_heads=8, num_key_value_heads=2, head_dim=32),
    'lrkv': dict(attention_mechanism='lrkv', num_attention_heads=8, head_dim=32, kv_residual_rank=4, lrkv_rope='latent'),
    'tucker': dict(attention_mechanism='tucker', num_attention_heads=8, head_dim=32, tucker_rank_q=96, tucker_rank_k=64,
                   tucker_rank_v=64, tucker_rank_o=96),
    'cca': dict(attention_mechanism='cca', num_attention_heads=4, num_key_value_heads=2, head_dim=32, rotary_dim=16),
    'eg_mla': dict(attention_mechanism='eg_mla', gate_embed_dim=8, gate_norm='head', **{**LATENT, 'kv_lora_rank': 32}),
    'moas': dict(attention_mechanism='moas', num_attention_heads=4, num_key_value_heads=2, head_dim=32),
    'mka': dict(attention_mechanism='mka', num_attention_heads=8, num_key_value_heads=2, head_dim=32, memory_decay=0.9),
    'fast_mka': dict(attention_mechanism='fast_mka', num_attention_heads=8, num_key_value_heads=2, head_dim=32,
                     memory_decay=0.9),
}


def tensor_shapes(c):
    d, inter = c['hidden_size'], c['intermediate_size']
    s = {'model.embed_tokens.weight': (c['vocab_size'], d), 'model.norm.weight': (d,)}
    for i in range(c['num_hidden_layers']):
        at = f'model.layers.{i}.'
        s[at + 'input_layernorm.weight'] = s[at + 'post_attention_layernorm.weight'] = (d,)
        s[at + 'mlp.gate_proj.weight'] = s[at + 'mlp.up_proj.weight'] = (inter, d)
        s[at + 'mlp.down_proj.weight'] = (d, inter)
        for k, v in make.shapes(c, i).items():
            s[at + 'self_attn.' + k] = v
    return s


def n_parameters(c):
    return sum(math.prod(s) for s in tensor_shapes(c).values())


def config_of(name):
    c = {**BASE, **ZOO[name], 'intermediate_size': 0}
    per = 3 * c['hidden_size'] * c['num_hidden_layers']
    c['intermediate_size'] = max(32, round((PARAMETERS - n_parameters(c)) / per / 32) * 32)  # Q8_0 blocks
    return c


def main(mode, *rest):
    if mode == 'names':
        for n in ZOO:
            print(n, n_parameters(config_of(n)), config_of(n)['intermediate_size'])
        return
    out, context, *names = rest
    for n in names or ZOO:
        folder, c = os.path.join(out, n), {**config_of(n), 'max_position_embeddings': int(context)}
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, 'config.json'), 'w') as f:
            f.write(json.dumps(c, indent=1) + '\n')
        make.write_safetensors(os.path.join(folder, 'model.safetensors'), make.random_tensors(n, c))


if __name__ == '__main__':
    main(*sys.argv[1:])
