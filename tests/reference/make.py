#!/usr/bin/env python3
"""Writes tests/data/family/NAME: tiny random checkpoints of every mechanism (config.json, model.safetensors in BF16) and
golden.json with their logits in float64. `make.py [NAME...]` in the top folder; the same bytes every time."""
import json
import os
import struct
import sys
import zlib
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import family  # noqa: E402

D, VOCAB, INTER, T = 32, 64, 24, 43
BASE = dict(model_type='latent_family', architectures=['LatentFamilyForCausalLM'], vocab_size=VOCAB, hidden_size=D,
            num_hidden_layers=2, intermediate_size=INTER, rms_norm_eps=1e-6, rope_theta=1000.0,
            max_position_embeddings=128, tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16)
LATENT = dict(q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12)

MODELS = {
    'gqa': dict(attention_mechanism='gqa'),
    'mha': dict(attention_mechanism='gqa', num_key_value_heads=4, rope_interleave=True),
    'mqa': dict(attention_mechanism='gqa', num_key_value_heads=1, rotary_dim=8),
    'gqa_nope': dict(attention_mechanism='gqa', rotary_dim=0, tie_word_embeddings=False),
    'sqa': dict(attention_mechanism='gqa', num_attention_heads=2, num_key_value_heads=1, head_dim=20),
    'sqa_reverse': dict(attention_mechanism='gqa', num_attention_heads=2, num_key_value_heads=4, head_dim=12),
    'qcqa': dict(attention_mechanism='gqa', num_attention_heads=6, num_key_value_heads=[3, 2], head_dim=8,
                 kv_head_map=[[0, 2, 0, 1, 0, 1], [1, 1, 1, 1, 0, 1]]),
    'gqa_kha': dict(attention_mechanism='gqa', knocking_heads='linear'),
    'gqa_kha_mlp': dict(attention_mechanism='gqa', knocking_heads='mlp'),
    'gqa_basis': dict(attention_mechanism='gqa', kv_heads_before=4, num_key_value_heads=2),
    'gqa_basis_shared': dict(attention_mechanism='gqa', num_hidden_layers=4, kv_share_factor=2, kv_heads_before=4),
    'cla': dict(attention_mechanism='gqa', num_hidden_layers=4, kv_share_factor=2),
    'cla_map': dict(attention_mechanism='gqa', num_hidden_layers=4, kv_layer=[0, 0, 0, 3]),
    'mfa': dict(attention_mechanism='mfa', share_q_dim=20, head_dim=24),
    'mfa_kr': dict(attention_mechanism='mfa_kr', share_q_dim=20, head_dim=24),
    'mla': dict(attention_mechanism='mla', **LATENT),
    'mla_plain': dict(attention_mechanism='mla', **{**LATENT, 'q_lora_rank': None, 'kv_lora_rank': [32, 20]},
                      latent_norm='none', rope_interleave=True),
    'clla': dict(attention_mechanism='mla', num_hidden_layers=4, kv_share_factor=2, **LATENT),
    'mla_kvr': dict(attention_mechanism='mla_kvr', latent_norm='none', **{**LATENT, 'q_lora_rank': None}),
    'mla_kvr_freqs': dict(attention_mechanism='mla_kvr', latent_norm='none', **{**LATENT, 'q_lora_rank': None}),
    'mla_vlm': dict(attention_mechanism='mla_vlm', latent_norm='none', image_token_ids=list(range(0, VOCAB, 3)),
                    **{**LATENT, 'q_lora_rank': None}),
    'gla': dict(attention_mechanism='gla', latent_groups=2, **{**LATENT, 'kv_lora_rank': 24}),
    'gla_4': dict(attention_mechanism='gla', latent_groups=4, rope_interleave=True, **{**LATENT, 'kv_lora_rank': 24}),
    'mlra_4': dict(attention_mechanism='mlra', latent_blocks=4, latent_branches=4, **{**LATENT, 'kv_lora_rank': 64}),
    'mlra_2': dict(attention_mechanism='mlra', latent_blocks=4, latent_branches=2, **{**LATENT, 'kv_lora_rank': 64}),
    'mlra_made': dict(attention_mechanism='mlra', latent_blocks=4, latent_branches=4,
                      **{**LATENT, 'kv_lora_rank': 256, 'q_lora_rank': None}),
    'mtla': dict(attention_mechanism='mtla', temporal_stride=2, **{**LATENT, 'q_lora_rank': None}),
    'mtla_4': dict(attention_mechanism='mtla', temporal_stride=4, **LATENT),
    'mtla_1': dict(attention_mechanism='mtla', temporal_stride=1, **LATENT),
    'mtla_3': dict(attention_mechanism='mtla', temporal_stride=3, **{**LATENT, 'q_lora_rank': None}),
    'mtla_5': dict(attention_mechanism='mtla', temporal_stride=5, num_hidden_layers=1,
                   **{**LATENT, 'q_lora_rank': None}),
    'mtla_2_3': dict(attention_mechanism='mtla', temporal_stride=[2, 3], **{**LATENT, 'q_lora_rank': None}),
    'mtla_cca': dict(attention_mechanism=['mtla', 'cca', 'mtla'], num_hidden_layers=3, rotary_dim=8,
                     temporal_stride=[3, 1, 2], **{**LATENT, 'q_lora_rank': None}),
    'gta': dict(attention_mechanism='gta'),
    'gta_1': dict(attention_mechanism='gta', num_key_value_heads=1),
    'gta_4': dict(attention_mechanism='gta', num_attention_heads=8, num_key_value_heads=4),
    'lrkv': dict(attention_mechanism='lrkv', kv_residual_rank=5, lrkv_rope='full'),
    'lrkv_latent': dict(attention_mechanism='lrkv', kv_residual_rank=6, lrkv_rope='latent'),
    'lrkv_whole': dict(attention_mechanism='lrkv', kv_residual_rank=4, lrkv_rope='latent'),
    'lrkv_interleaved': dict(attention_mechanism='lrkv', kv_residual_rank=6, lrkv_rope='full',
                             rope_interleave=True),
    'gqa_interleaved': dict(attention_mechanism='gqa', rotary_dim=8, rope_interleave=True),
    'tucker': dict(attention_mechanism='tucker', tucker_rank_q=20, tucker_rank_k=24, tucker_rank_v=18,
                   tucker_rank_o=22, head_dim=12),
    'tpa': dict(attention_mechanism='tpa', tpa_rank_q=6, tpa_rank_k=2, tpa_rank_v=2),
    'tpa_ranks': dict(attention_mechanism='tpa', num_attention_heads=5, head_dim=20, rope_interleave=True,
                      tpa_rank_q=[2, 3], tpa_rank_k=[1, 3], tpa_rank_v=[3, 1]),
    'cca': dict(attention_mechanism='cca', rotary_dim=8),
    'cca_mha': dict(attention_mechanism='cca', num_key_value_heads=4, num_hidden_layers=3, head_dim=12, rotary_dim=6),
    'eg_mla': dict(attention_mechanism='eg_mla', gate_embed_dim=10, gate_norm='head', **LATENT),
    'eg_mla_all': dict(attention_mechanism='eg_mla', gate_embed_dim=10, gate_norm='all', latent_norm='none',
                       **{**LATENT, 'q_lora_rank': None}),
    'eg_mla_absorbed': dict(attention_mechanism='eg_mla', gate_embed_dim=[10, 5], gate_norm='head', gate_plan='absorbed', **LATENT),
    'eg_mla_all_absorbed': dict(attention_mechanism='eg_mla', gate_embed_dim=7, gate_norm='all', gate_plan='absorbed',
                                **LATENT),
    'moas': dict(attention_mechanism='moas'),
    'moas_nope': dict(attention_mechanism='moas', rotary_dim=0),
    'mka': dict(attention_mechanism='mka', head_dim=8, memory_decay=0.9),
    'fast_mka': dict(attention_mechanism='fast_mka', head_dim=8, memory_decay=0.8, num_hidden_layers=3),
    'mka_rotary': dict(attention_mechanism=['mka', 'cca', 'fast_mka'], num_hidden_layers=3, head_dim=8, rotary_dim=4),
    'mixed': dict(attention_mechanism=['mla', 'gqa', 'mtla', 'cca'], num_hidden_layers=4, rotary_dim=8,
                  temporal_stride=2, **LATENT),
}


def shapes(c, layer):
    """Names and shapes of a layer's attention tensors."""
    def key(name, default=None):
        v = c.get(name, default)
        return v[layer] if isinstance(v, list) and name not in ('image_token_ids', 'kv_head_map') else v
    mech = c['attention_mechanism']
    mech = mech[layer] if isinstance(mech, list) else mech
    d, h, g, dh = c['hidden_size'], key('num_attention_heads'), key('num_key_value_heads'), key('head_dim')
    owner = c['kv_layer'][layer] if 'kv_layer' in c else layer // c.get('kv_share_factor', 1) * c.get('kv_share_factor', 1)
    own = owner == layer
    s = {}

    def proj(name, n_out, n_in=d, bias=False):
        s[name + '.weight'] = (n_out, n_in)
        if bias:
            s[name + '.bias'] = (n_out,)

    if mech in ('mla', 'gla', 'mlra', 'mtla', 'eg_mla', 'mla_kvr', 'mla_vlm'):
        nope, dr, v, r, rq = (key(k) for k in ('qk_nope_head_dim', 'qk_rope_head_dim', 'v_head_dim', 'kv_lora_rank',
                                               'q_lora_rank'))
        if rq:
            proj('q_a_proj', rq)
            s['q_a_layernorm.weight'] = (rq,)
            proj('q_b_proj', h * (nope + dr), rq)
        else:
            proj('q_proj', h * (nope + dr))
        proj('o_proj', d, h * v)
        if mech in ('mla_kvr', 'mla_vlm'):
            for tail in ('', '_img')[:1 + (mech == 'mla_vlm')]:
                proj('kv_a_proj' + tail, r)
                proj('kv_b_proj' + tail, h * (nope + v), r)
            proj('k_rope_proj', g * dr)
            if c.get('freqs'):
                s['rope_freqs'] = (g, dr // 2)
            return s
        m, blocks = key('latent_groups', 1), key('latent_blocks', 1)
        if own:
            proj('kv_a_proj_with_mqa', m * r + dr)
            if mech == 'gla':
                s['kv_a_layernorm.weight'] = (m, r)
            elif mech == 'mlra':
                s['kv_a_layernorm.weight'] = (blocks, r // blocks)
            elif key('latent_norm') != 'none' or mech == 'mtla':
                s['kv_a_layernorm.weight'] = (r,)
        if mech == 'mlra':
            s['kv_b_proj.weight'] = (blocks, h * key('latent_branches') // blocks * (nope + v), r // blocks)
        else:
            proj('kv_b_proj', h * (nope + v), r)
        if mech == 'mtla':
            s['kv_a_layernorm.bias'] = (r,)
            proj('temporal_pe_proj', r // 4, r, True)
            proj('temporal_c_proj', r // 4, r, True)
        if mech == 'eg_mla':
            s['gate_embed'] = (c['vocab_size'], key('gate_embed_dim'))
            proj('gate_up', h * (nope + v), key('gate_embed_dim'))
        return s
    if mech == 'moas':
        for branch, n in (('mha.', h), ('gqa.', g), ('mqa.', 1)):
            proj(branch + 'q_proj', h * dh)
            proj(branch + 'k_proj', n * dh)
            proj(branch + 'v_proj', n * dh)
            proj(branch + 'o_proj', d, h * dh)
        proj('gate_a', 20, d, True)
        proj('gate_b', 3, 20, True)
        return s
    if mech == 'tucker':
        rq, rk, rv, ro = (key('tucker_rank_' + x) for x in 'qkvo')
        proj('q_a_proj', rq)
        s['q_core'] = (h, rk, rq)
        proj('k_proj', rk)
        proj('v_proj', rv)
        s['o_core'] = (h, ro, rv)
        proj('o_proj', d, ro)
        return s
    if mech == 'tpa':
        for of in 'qkv':
            proj(f'a_{of}_proj', key('tpa_rank_' + of) * h)
            proj(f'b_{of}_proj', key('tpa_rank_' + of) * dh)
        proj('o_proj', d, h * dh)
        return s
    if mech in ('mfa', 'mfa_kr'):
        proj('q_a_proj', key('share_q_dim'))
        s['q_a_layernorm.weight'] = (key('share_q_dim'),)
        proj('q_b_proj', h * dh, key('share_q_dim'))
        proj('k_proj', dh)
        if mech == 'mfa':
            proj('v_proj', dh)
        else:
            proj('kr_map', dh, dh)
        proj('o_proj', d, h * dh)
        return s
    proj('q_proj', h * dh)
    if mech == 'gta':
        proj('kv_proj', g * dh)
        proj('k_rope_proj', dh // 2)
        proj('o_proj', d, h * dh)
        return s
    if mech == 'lrkv':
        r = key('kv_residual_rank')
        proj('k_proj', dh)
        proj('v_proj', dh)
        proj('k_res_proj', h * r)
        proj('v_res_proj', h * r)
        s['k_res_up'] = s['v_res_up'] = (h, dh, r)
        proj('o_proj', d, h * dh)
        return s
    if mech == 'cca':
        proj('k_proj', g * dh)
        proj('v_proj_current', g * dh // 2)
        proj('v_proj_delayed', g * dh // 2)
        s['conv_qk_depthwise.weight'], s['conv_qk_depthwise.bias'] = ((h + g) * dh, 1, 2), ((h + g) * dh,)
        s['conv_qk_grouped.weight'], s['conv_qk_grouped.bias'] = ((h + g) * dh, dh, 2), ((h + g) * dh,)
        s['k_temp'] = (g,)
        proj('o_proj', d, h * dh)
        return s
    if own:
        proj('k_proj', (key('kv_heads_before') or g) * dh)
        proj('v_proj', g * dh)
        if key('kv_heads_before'):
            s['k_basis'] = (g, key('kv_heads_before') // g * dh, dh)
        if key('knocking_heads'):
            s['k_knock.weight'] = (dh, dh)
        if key('knocking_heads') == 'linear':
            s['v_knock.weight'] = (dh, dh)
        if key('knocking_heads') == 'mlp':
            proj('v_knock_up', 20, dh)
            proj('v_knock_gate', 20, dh)
            proj('v_knock_down', dh, 20)
    if key('knocking_heads'):
        s['q_knock.weight'] = (dh, dh)
    proj('o_proj', d, max(h, g) * dh)
    if mech in ('mka', 'fast_mka'):
        proj('router_a', d // 2, d, True)
        proj('router_b', 2, d // 2, True)
    return s


def to_bf16(a):
    """Rounded to the nearest bfloat16, as the uint16 of its bits."""
    u = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((u + 0x7fff + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(u):
    return (u.astype(np.uint32) << 16).view(np.float32)


def random_tensors(name, c):
    rng, d = np.random.default_rng(zlib.crc32(name.encode())), c['hidden_size']
    all_shapes = {'model.embed_tokens.weight': (c['vocab_size'], d), 'model.norm.weight': (d,)}
    if not c['tie_word_embeddings']:
        all_shapes['lm_head.weight'] = (c['vocab_size'], d)
    for i in range(c['num_hidden_layers']):
        at = f'model.layers.{i}.'
        all_shapes[at + 'input_layernorm.weight'] = all_shapes[at + 'post_attention_layernorm.weight'] = (d,)
        all_shapes[at + 'mlp.gate_proj.weight'] = all_shapes[at + 'mlp.up_proj.weight'] = (c['intermediate_size'], d)
        all_shapes[at + 'mlp.down_proj.weight'] = (d, c['intermediate_size'])
        for k, v in shapes(c, i).items():
            all_shapes[at + 'self_attn.' + k] = v
    out = {}
    for k, shape in sorted(all_shapes.items()):
        if k.endswith('norm.weight') or k.endswith('k_temp'):
            a = 1 + 0.2 * rng.standard_normal(shape)
        elif k.endswith('rope_freqs'):
            a = np.sort(rng.uniform(0.01, 1, shape), -1)[:, ::-1]
        elif k.endswith('.bias'):
            a = 0.3 * rng.standard_normal(shape)
        elif k.endswith('gate_embed'):
            a = rng.standard_normal(shape)
        else:
            scale = 1.6 if k.endswith(('q_proj.weight', 'q_b_proj.weight', 'k_proj.weight', 'q_core')) else 1.0
            fan_in = 2 if k.endswith('depthwise.weight') else 2 * shape[1] if k.endswith('grouped.weight') else shape[-1]
            a = rng.standard_normal(shape) * scale / np.sqrt(fan_in)
        out[k] = to_bf16(a)
    return out


def write_safetensors(path, tensors):
    head, at = {}, 0
    for k, v in tensors.items():
        head[k] = {'dtype': 'BF16', 'shape': list(v.shape), 'data_offsets': [at, at + v.nbytes]}
        at += v.nbytes
    text = json.dumps(head, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        for v in tensors.values():
            f.write(v.astype('<u2').tobytes())


def golden_tokens(name, vocab):
    rng = np.random.default_rng(zlib.crc32((name + ' tokens').encode()))
    return [int(t) for t in rng.integers(0, vocab, T)]


def write_folder(folder, files, tensors, tokens, logits):
    """files: name -> what it has as JSON; logits of all tokens, of which golden.json keeps some."""
    os.makedirs(folder, exist_ok=True)
    for file, value in files.items():
        with open(os.path.join(folder, file), 'w') as f:
            f.write(json.dumps(value, indent=1) + '\n')
    write_safetensors(os.path.join(folder, 'model.safetensors'), tensors)
    positions = [0, 1, 2, 3, 7, 8, 16, 30, T - 2, T - 1]
    rows = ',\n'.join('[' + ','.join('%.17g' % v for v in logits[p]) + ']' for p in positions)
    with open(os.path.join(folder, 'golden.json'), 'w') as f:
        f.write('{"tokens": %s,\n"positions": %s,\n"logits": [\n%s]}\n' % (tokens, positions, rows))
    print(f'{os.path.basename(folder)}: logits {logits.std():.3f} in deviation')


def config_of(name):
    c = {**BASE, **MODELS[name]}
    if not any(k in json.dumps(c['attention_mechanism']) for k in ('gqa', 'mfa', 'gta', 'lrkv', 'tucker', 'tpa', 'cca', 'moas', 'mka')):
        c.pop('head_dim')
        if 'kvr' not in name and 'vlm' not in name:
            c.pop('num_key_value_heads')
    if c['attention_mechanism'] in ('mfa', 'mfa_kr', 'lrkv', 'tucker', 'tpa'):
        c.pop('num_key_value_heads')
    return c


def main():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data', 'family')
    for name in sys.argv[1:] or MODELS:
        folder, c = os.path.join(top, name), config_of(name)
        made = {**c, 'freqs': name.endswith('_freqs')}
        tensors = random_tensors(name, made)
        model = family.Model(c, {k: from_bf16(v) for k, v in tensors.items()})
        tokens = golden_tokens(name, c['vocab_size'])
        write_folder(folder, {'config.json': c}, tensors, tokens, model.logits(tokens))


if __name__ == '__main__':
    main()
