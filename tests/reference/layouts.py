#!/usr/bin/env python3
"""Published layouts of the attention family in float64, from the formulas of their modelling code: a whole sequence at a time,
no cache. Writes tests/data/layout/NAME: tiny random checkpoints with the names of tensors and keys that their authors give them,
and golden.json with their logits. `layouts.py [NAME...]`; the same bytes every time.

A layout is a class: config (what config.json says), shapes() (name -> shape), attend(i, x) and mlp(i, x), both of
normalised rows [T, d]."""
import math
import os
import sys
import zlib
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from family import attend_heads, gelu, layer_norm, rms, rope, sigmoid, silu, softmax  # noqa: E402
from make import from_bf16, golden_tokens, to_bf16, write_folder  # noqa: E402

D, VOCAB, LAYERS = 32, 64, 4
LAYOUTS = {}


def layout(name, **changes):
    """A folder NAME of the class below, its configuration changed so."""
    def add(cls):
        LAYOUTS[name] = (cls, changes)
        return cls
    return add


class Published:
    config = {}
    files = {}  # beside config.json: name -> object
    eps, names, tied = 1e-5, ('model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight'), False
    at = 'model.layers.'

    def __init__(self, changes):
        self.config = {**self.config, **{k: v for k, v in changes.items() if k != 'files'}}
        self.files = {k: {**v, **changes.get('files', {}).get(k, {})} for k, v in self.files.items()}
        self.c = self.config.get('text_config', self.config)
        self.setup()

    def setup(self):
        pass

    def n_layers(self):
        return self.c['num_hidden_layers']

    def w(self, i, name):
        return self.tensors[f'{self.at}{i}.{name}']

    def project(self, i, x, name):
        return x @ self.w(i, name + '.weight').T

    def swiglu(self, i, x, prefix):
        return self.project(i, silu(self.project(i, x, prefix + 'gate_proj')) * self.project(i, x, prefix + 'up_proj'),
                            prefix + 'down_proj')

    def mlp(self, i, x):
        return self.swiglu(i, x, 'mlp.')

    def block_shapes(self, prefix, width):
        return {prefix + 'gate_proj.weight': (width, D), prefix + 'up_proj.weight': (width, D),
                prefix + 'down_proj.weight': (D, width)}

    def all_shapes(self):
        s = {self.names[0]: (VOCAB, D), self.names[1]: (D,)}
        if not self.tied:
            s[self.names[2]] = (VOCAB, D)
        for i in range(self.n_layers()):
            own = {'input_layernorm.weight': (D,), 'post_attention_layernorm.weight': (D,), **self.shapes(i)}
            s.update({f'{self.at}{i}.{k}': v for k, v in own.items()})
        return s

    def body(self, x):
        for i in range(self.n_layers()):
            x = x + self.attend(i, rms(x, self.w(i, 'input_layernorm.weight'), self.eps))
            x = x + self.mlp(i, rms(x, self.w(i, 'post_attention_layernorm.weight'), self.eps))
        return x

    def logits(self, tokens):
        x = self.body(self.tensors[self.names[0]][np.asarray(tokens)])
        head = self.tensors[self.names[0] if self.tied else self.names[2]]
        return rms(x, self.tensors[self.names[1]], self.eps) @ head.T


def routed(logits, k, normalise, expert, x):
    """The k best experts of softmax(logits) for each row of x, summed with their weights."""
    p = softmax(logits)
    y = np.zeros_like(x)
    for t in range(len(x)):
        best = np.argsort(-p[t], kind='stable')[:k]
        weights = p[t, best] / (p[t, best].sum() if normalise else 1)
        for e, weight in zip(best, weights):
            y[t] += weight * expert(e, x[t:t + 1])[0]
    return y


# --- Hunyuan: CLA, norms after rotation ---------------------------------------------------------------


class Hunyuan(Published):
    config = dict(model_type='hunyuan_v1_moe', architectures=['HunYuanMoEV1ForCausalLM'], vocab_size=VOCAB, hidden_size=D,
                  num_hidden_layers=LAYERS, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2,
                  attention_head_dim=16, hidden_act='silu', max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=100.0,
                  rope_scaling=dict(alpha=1000.0, beta_fast=32, beta_slow=1, factor=1.0, mscale=1.0, mscale_all_dim=1.0,
                                    type='dynamic'),
                  tie_word_embeddings=True, use_qk_norm=True, use_cla=True, cla_share_factor=2, attention_bias=False,
                  num_experts=4, moe_topk=[2] * LAYERS, moe_intermediate_size=[20] * LAYERS, num_shared_expert=[1] * LAYERS,
                  use_mixed_mlp_moe=True, moe_drop_tokens=False, norm_topk_prob=True, kv_lora_rank=None, use_mla=False)

    def setup(self):
        c = self.c
        self.tied, self.shared = c['tie_word_embeddings'], {}
        self.h, self.g, self.dh = c['num_attention_heads'], c['num_key_value_heads'], c['attention_head_dim']
        self.fused = c['model_type'] == 'hunyuan'
        scaling = c.get('rope_scaling')
        self.theta = c['rope_theta'] * (scaling['alpha'] ** (self.dh / (self.dh - 2)) if scaling else 1)

    def one(self, key):
        return self.c[key][0] if isinstance(self.c[key], list) else self.c[key]

    def owner(self, i):
        s = self.c['cla_share_factor'] if self.c['use_cla'] else 1
        return i // s * s

    def block(self, prefix, width):
        if not self.fused:
            return self.block_shapes(prefix, width)
        return {prefix + 'gate_and_up_proj.weight': (2 * width, D), prefix + 'down_proj.weight': (D, width)}

    def shapes(self, i):
        h, g, dh = self.h, self.g, self.dh
        s = {'self_attn.o_proj.weight': (D, h * dh)}
        if self.c['use_qk_norm']:
            s.update({'self_attn.query_layernorm.weight': (dh,), 'self_attn.key_layernorm.weight': (dh,)})
        if self.owner(i) != i:
            s['self_attn.q_proj.weight'] = (h * dh, D)
        elif self.fused:
            s['self_attn.qkv_proj.weight'] = ((h + 2 * g) * dh, D)
        else:
            s.update({'self_attn.q_proj.weight': (h * dh, D), 'self_attn.k_proj.weight': (g * dh, D),
                      'self_attn.v_proj.weight': (g * dh, D)})
        if self.c.get('num_experts', 1) == 1:
            return {**s, **self.block('mlp.', self.c['intermediate_size'])}
        s['mlp.gate.wg.weight'] = (self.c['num_experts'], D)
        s.update(self.block('mlp.shared_mlp.', self.c['intermediate_size'] * self.one('num_shared_expert')))
        for e in range(self.c['num_experts']):
            s.update(self.block(f'mlp.experts.{e}.', self.one('moe_intermediate_size')))
        return s

    def qkv(self, i, x):
        t, h, g, dh = len(x), self.h, self.g, self.dh
        if self.owner(i) != i:
            return self.project(i, x, 'self_attn.q_proj').reshape(t, h, dh), None, None
        if self.fused:  # of each group: its queries, a key, a value
            a = self.project(i, x, 'self_attn.qkv_proj').reshape(t, g, h // g + 2, dh)
            return a[:, :, :-2].reshape(t, h, dh), a[:, :, -2], a[:, :, -1]
        return tuple(self.project(i, x, f'self_attn.{p}_proj').reshape(t, -1, dh) for p in 'qkv')

    def attend(self, i, x):
        q, k, v = self.qkv(i, x)
        q = rope(q, self.theta, False)
        if k is not None:
            self.shared[i] = rope(k, self.theta, False), v
        k, v = self.shared[self.owner(i)]
        if self.c['use_qk_norm']:
            q = rms(q, self.w(i, 'self_attn.query_layernorm.weight'), self.eps)
            k = rms(k, self.w(i, 'self_attn.key_layernorm.weight'), self.eps)  # the layer's own weights
        of = np.arange(self.h) * self.g // self.h
        return self.project(i, attend_heads(q, k[:, of], v[:, of], self.dh ** -0.5).reshape(len(x), -1), 'self_attn.o_proj')

    def feed(self, i, x, prefix):
        if not self.fused:
            return self.swiglu(i, x, prefix)
        up, gate = np.split(self.project(i, x, prefix + 'gate_and_up_proj'), 2, -1)
        return self.project(i, silu(gate) * up, prefix + 'down_proj')

    def mlp(self, i, x):
        if self.c.get('num_experts', 1) == 1:
            return self.feed(i, x, 'mlp.')
        k = self.one('moe_topk')
        return self.feed(i, x, 'mlp.shared_mlp.') + routed(
            self.project(i, x, 'mlp.gate.wg'), k, k > 1, lambda e, r: self.feed(i, r, f'mlp.experts.{e}.'), x)


layout('hunyuan_v1_moe')(Hunyuan)
layout('hunyuan', model_type='hunyuan', architectures=['HunYuanForCausalLM'], num_experts=4, moe_topk=1, num_shared_expert=2,
       moe_intermediate_size=16, tie_word_embeddings=False)(Hunyuan)
layout('hunyuan_v1_dense', model_type='hunyuan_v1_dense', architectures=['HunYuanDenseV1ForCausalLM'], num_experts=1,
       use_cla=False, num_hidden_layers=2)(Hunyuan)


# --- Step-3: MFA --------------------------------------------------------------------------------------


class Step3(Published):
    config = dict(model_type='step3_text', architectures=['Step3TextForCausalLM'], hidden_size=D, intermediate_size=24,
                  num_attention_heads=4, num_attention_groups=1, num_hidden_layers=LAYERS, max_seq_len=128, vocab_size=VOCAB,
                  rms_norm_eps=1e-5, moe_intermediate_size=20, moe_num_experts=4, moe_top_k=2, rope_theta=500.0,
                  rope_scaling=None, max_position_embedding=128, share_expert_dim=28, share_q_dim=20, head_dim=24,
                  norm_expert_weight=False, moe_layers_enum='1,2')

    def setup(self):
        c = self.c
        self.h, self.dh = c['num_attention_heads'], c['head_dim']
        self.routed = [int(s) for s in c['moe_layers_enum'].split(',')]

    def shapes(self, i):
        c, n = self.c, self.c['moe_num_experts']
        s = {'self_attn.q_proj.weight': (c['share_q_dim'], D), 'self_attn.k_proj.weight': (self.dh, D),
             'self_attn.v_proj.weight': (self.dh, D), 'self_attn.inter_norm.weight': (c['share_q_dim'],),
             'self_attn.wq.weight': (self.h * self.dh, c['share_q_dim']), 'self_attn.o_proj.weight': (D, self.h * self.dh)}
        if i not in self.routed:
            return {**s, **self.block_shapes('mlp.', c['intermediate_size'])}
        s.update(self.block_shapes('share_expert.', c['share_expert_dim']))
        width = c['moe_intermediate_size']
        return {**s, 'moe.gate.weight': (n, D), 'moe.gate_proj.weight': (n, width, D), 'moe.up_proj.weight': (n, width, D),
                'moe.down_proj.weight': (n, D, width)}

    def attend(self, i, x):
        q = rms(self.project(i, x, 'self_attn.q_proj'), self.w(i, 'self_attn.inter_norm.weight'), self.eps)
        q = rope(self.project(i, q, 'self_attn.wq').reshape(len(x), self.h, self.dh), self.c['rope_theta'], False)
        k = rope(self.project(i, x, 'self_attn.k_proj'), self.c['rope_theta'], False)
        v = self.project(i, x, 'self_attn.v_proj')
        o = attend_heads(q, np.repeat(k[:, None], self.h, 1), np.repeat(v[:, None], self.h, 1), self.dh ** -0.5)
        return self.project(i, o.reshape(len(x), -1), 'self_attn.o_proj')

    def mlp(self, i, x):
        if i not in self.routed:
            return self.swiglu(i, x, 'mlp.')

        def expert(e, r):
            gate, up, down = (self.w(i, f'moe.{n}_proj.weight')[e] for n in ('gate', 'up', 'down'))
            return (silu(r @ gate.T) * (r @ up.T)) @ down.T
        return self.swiglu(i, x, 'share_expert.') + routed(self.project(i, x, 'moe.gate'), self.c['moe_top_k'],
                                                           self.c['norm_expert_weight'], expert, x)


layout('step3_text')(Step3)
layout('step3_vl', model_type='step3_vl', architectures=['Step3VLForConditionalGeneration'],
       text_config={**Step3.config, 'norm_expert_weight': True}, vision_config={'model_type': 'step3_vision_encoder'})(Step3)


# --- Llamas made over ------------------------------------------------------------------------------------

LLAMA = dict(architectures=['LlamaForCausalLM'], vocab_size=VOCAB, hidden_size=D, num_hidden_layers=3, intermediate_size=24,
             num_attention_heads=4, num_key_value_heads=2, hidden_act='silu', max_position_embeddings=128, rms_norm_eps=1e-5,
             rope_theta=500.0, rope_scaling=None, attention_bias=False, mlp_bias=False, tie_word_embeddings=True)


def llama3_frequencies(theta, n, s):
    """Those of n values; long waves are stretched (rope_scaling of type llama3)."""
    f = theta ** (-2.0 * np.arange(n // 2) / n)
    turns = s['original_max_position_embeddings'] * f / (2 * np.pi)
    smooth = (turns - s['low_freq_factor']) / (s['high_freq_factor'] - s['low_freq_factor'])
    between = (1 - smooth) * f / s['factor'] + smooth * f
    return np.where(turns < s['low_freq_factor'], f / s['factor'], np.where(turns > s['high_freq_factor'], f, between))


def yarn_frequencies(theta, n, factor, original, fast=32, slow=1):
    def dim(turns):
        return n * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
    low, high = max(math.floor(dim(fast)), 0), min(math.ceil(dim(slow)), n - 1)
    ramp = np.clip((np.arange(n // 2) - low) / ((high - low) or 0.001), 0, 1)
    f = theta ** (-2.0 * np.arange(n // 2) / n)
    return f / factor * ramp + f * (1 - ramp)


class Llama(Published):
    def setup(self):
        c = self.c
        self.tied, self.eps = c['tie_word_embeddings'], c['rms_norm_eps']
        self.h, self.g = c['num_attention_heads'], c['num_key_value_heads']
        self.dh = c.get('head_dim', D // self.h)

    def shapes(self, i):
        return {**self.attention_shapes(i), **self.block_shapes('mlp.', self.c['intermediate_size'])}

    def mla_keys(self, c, pe, kv_b, nope, v):
        kv = (c @ kv_b.T).reshape(len(c), -1, nope + v)
        return np.concatenate((kv[..., :nope], np.repeat(pe[:, None], kv.shape[1], 1)), -1), kv[..., nope:]


@layout('llama_mtla_3', down_rate=3, num_hidden_layers=1)
@layout('llama_mtla')
class Mtla(Llama):
    config = {**LLAMA, 'model_type': 'llama-mtla', 'architectures': ['LlamaMTLAForCausalLM'], 'num_hidden_layers': 2,
              'kv_lora_rank': 24, 'q_lora_rank': 0, 'qk_rope_head_dim': 8, 'qk_nope_head_dim': 8, 'v_head_dim': 12,
              'down_rate': 2, 'recompute_prompt_attn': True, 'partial_rotary_factor': 1.0, 'use_cache': False,
              'rope_scaling': dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                   original_max_position_embeddings=32)}

    def attention_shapes(self, i):
        c, r = self.c, self.c['kv_lora_rank']
        n, dr, v = c['qk_nope_head_dim'], c['qk_rope_head_dim'], c['v_head_dim']
        s = {'wq.weight': (self.h * (n + dr), D), 'wkv_a.weight': (r + dr, D), 'kv_norm.weight': (r,), 'kv_norm.bias': (r,),
             'wkv_b.weight': (self.h * (n + v), r), 'wo.weight': (D, self.h * v)}
        for fc in 'cp':
            s[f'hypernet_down.fc_{fc}.weight'], s[f'hypernet_down.fc_{fc}.bias'] = (r // 4, r), (r // 4,)
        return {'self_attn.' + k: v for k, v in s.items()}

    def attend(self, i, x):
        c, t, at = self.c, len(x), 'self_attn.'
        r, n, s, v = c['kv_lora_rank'], c['qk_nope_head_dim'], c['down_rate'], c['v_head_dim']
        f = llama3_frequencies(c['rope_theta'], c['qk_rope_head_dim'], c['rope_scaling'])
        q = self.project(i, x, at + 'wq').reshape(t, self.h, -1)
        q = np.concatenate((q[..., :n], rope(q[..., n:], 0, False, f)), -1)
        kv = self.project(i, x, at + 'wkv_a')
        latent = layer_norm(kv[:, :r], 1e-5, self.w(i, at + 'kv_norm.weight'), self.w(i, at + 'kv_norm.bias'))
        pe = rope(kv[:, r:], 0, False, f)
        chunk = np.arange(t) // s
        a = chunk[:, None] * np.exp(np.arange(0, r, 2) * (-math.log(10000.0) / r))
        code = np.empty((t, r))
        code[:, 0::2], code[:, 1::2] = np.sin(a), np.cos(a)

        def fc(name, y):
            return self.project(i, y, at + 'hypernet_down.fc_' + name) + self.w(i, at + f'hypernet_down.fc_{name}.bias')
        # the weight of token j is that of its own chunk's code; row k merges what came of its chunk up to k
        weight = sigmoid(fc('c', code) @ fc('p', latent).T)
        j = np.arange(t)
        same = (chunk[:, None] == chunk) & (j[:, None] >= j)
        merged = (weight * same) @ latent
        keys, values = self.mla_keys(merged, pe, self.w(i, at + 'wkv_b.weight'), n, v)
        seen = ((j <= j[:, None]) & ((j + 1) % s == 0)) | (j == j[:, None])
        p = softmax(np.where(seen, np.einsum('ihd,jhd->hij', q, keys) * q.shape[-1] ** -0.5, -np.inf))
        return self.project(i, np.einsum('hij,jhd->ihd', p, values).reshape(t, -1), at + 'wo')


class Mha2Mla(Llama):
    config = {**LLAMA, 'model_type': 'llama', 'hidden_size': D, 'num_attention_heads': 2, 'num_key_value_heads': 1,
              'mha2mla_args': dict(partial_rope_version='high', rope_dim_for_mla=4, uniform_start_point=0, qk_tensor_path=None,
                                   svd_init_method='joint', low_rank=6, is_baseline=False, is_gqa2mha2mla=False)}

    def attention_shapes(self, i):
        a, h, g, dh = self.c['mha2mla_args'], self.h, self.g, self.dh
        r, dr = a['low_rank'] * g, a['rope_dim_for_mla']
        s = {'q_proj.weight': (h * dh, D), 'k_r_proj.weight': (g * dr, D), 'kv_proj.down_kv.weight': (r, D),
             'kv_proj.up_k.weight': (g * (dh - dr), r), 'kv_proj.up_v.weight': (g * dh, r), 'o_proj.weight': (D, h * dh)}
        if a['partial_rope_version'] == '2-norm':
            s['rope_freqs'] = (g, dr // 2)  # ours
        return {'self_attn.' + k: v for k, v in s.items()}

    def frequencies(self, i, group):
        a, dh = self.c['mha2mla_args'], self.dh
        n, half, version = a['rope_dim_for_mla'], dh // 2, a['partial_rope_version']
        if version == '2-norm':
            return self.w(i, 'self_attn.rope_freqs')[group]
        kept = np.zeros(dh, bool)  # of the head's values, by the authors' rules
        if version == 'high':
            kept[:n // 2] = kept[half:half + n // 2] = True
        elif version == 'low':
            kept[dh - n // 2:] = kept[half - n // 2:half] = True
        else:
            kept[a['uniform_start_point']::dh // n] = True
        all_of = self.c['rope_theta'] ** (-2.0 * (np.arange(dh) % half) / dh)
        return all_of[kept][:n // 2]  # the halves have the same

    def attend(self, i, x):
        t, h, g, at = len(x), self.h, self.g, 'self_attn.'
        dr = self.c['mha2mla_args']['rope_dim_for_mla']
        q = self.project(i, x, at + 'q_proj')
        q_r, q_c = q[:, :h * dr].reshape(t, h, dr), q[:, h * dr:].reshape(t, h, -1)
        k_r = self.project(i, x, at + 'k_r_proj').reshape(t, g, dr)
        latent = self.project(i, x, at + 'kv_proj.down_kv')
        k_c = self.project(i, latent, at + 'kv_proj.up_k').reshape(t, g, -1)
        v = self.project(i, latent, at + 'kv_proj.up_v').reshape(t, g, -1)
        of = np.arange(h) * g // h
        q_r = np.stack([rope(q_r[:, a], 0, False, self.frequencies(i, of[a])) for a in range(h)], 1)
        k_r = np.stack([rope(k_r[:, a], 0, False, self.frequencies(i, a)) for a in range(g)], 1)
        q, k = np.concatenate((q_r, q_c), -1), np.concatenate((k_r, k_c), -1)
        return self.project(i, attend_heads(q, k[:, of], v[:, of], self.dh ** -0.5).reshape(t, -1), at + 'o_proj')


layout('mha2mla')(Mha2Mla)
layout('mha2mla_low', num_attention_heads=4, num_key_value_heads=2,
       mha2mla_args={**Mha2Mla.config['mha2mla_args'], 'partial_rope_version': 'low', 'low_rank': 9})(Mha2Mla)
layout('mha2mla_uniform', num_attention_heads=4, num_key_value_heads=4,
       mha2mla_args={**Mha2Mla.config['mha2mla_args'], 'partial_rope_version': 'uniform', 'uniform_start_point': 1})(Mha2Mla)
layout('mha2mla_2_norm', num_attention_heads=4, num_key_value_heads=2,
       mha2mla_args={**Mha2Mla.config['mha2mla_args'], 'partial_rope_version': '2-norm'})(Mha2Mla)


class EcoMla(Llama):
    """Layers of latent attention beside plain ones. YaRN's amplitude is on the rotary parts of q and k."""
    SCALING = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=32)
    config = {**LLAMA, 'model_type': 'llama', 'head_dim': 8, 'rope_scaling': SCALING, 'num_hidden_layers': 4}
    files = {'MLA_config.json': dict(d_model=D, rms_norm_eps=1e-5, d_inner=D, d_xb=16, intermediate_size=24, hidden_act='silu',
                                     n_layer=4, attn_layers=[1, 3]),
             'mla_layer_config.json': dict(hidden_size=D, num_attention_heads=4, llama_num_key_value_heads=2, kv_lora_rank=24,
                                           q_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8,
                                           use_lora_layer_norm=False, rope_theta=500.0, rope_scaling=SCALING,
                                           layer_rank_list={'0': dict(q_rank=20, kv_rank=28)}, model_type='deepseek_v3')}

    def setup(self):
        super().setup()
        self.m, self.plain = self.files['mla_layer_config.json'], self.files['MLA_config.json']['attn_layers']

    def ranks(self, i):
        own = self.m['layer_rank_list'].get(str(i))
        return (own['q_rank'], own['kv_rank']) if own else (self.m['q_lora_rank'], self.m['kv_lora_rank'])

    def attention_shapes(self, i):
        h, g, dh, m = self.h, self.g, self.dh, self.m
        if i in self.plain:
            return {'self_attn.q_proj.weight': (h * dh, D), 'self_attn.k_proj.weight': (g * dh, D),
                    'self_attn.v_proj.weight': (g * dh, D), 'self_attn.o_proj.weight': (D, h * dh)}
        rq, r = self.ranks(i)
        n, dr, v = m['qk_nope_head_dim'], m['qk_rope_head_dim'], m['v_head_dim']
        s = {'mla.q_a_proj.weight': (rq, D), 'mla.q_b_proj.weight': (h * (n + dr), rq),
             'mla.kv_a_proj_with_mqa.weight': (r + dr, D), 'mla.kv_b_proj.weight': (h * (n + v), r),
             'mla.out_proj.weight': (D, h * v)}
        if m['use_lora_layer_norm']:
            s.update({'mla.q_a_layernorm.weight': (rq,), 'mla.kv_a_layernorm.weight': (r,)})
        return s

    def attend(self, i, x):
        t, h, m = len(x), self.h, self.m
        if i in self.plain:
            f = llama3_frequencies(self.c['rope_theta'], self.dh, self.c['rope_scaling'])
            q, k, v = (self.project(i, x, f'self_attn.{p}_proj').reshape(t, -1, self.dh) for p in 'qkv')
            of = np.arange(h) * self.g // h
            o = attend_heads(rope(q, 0, False, f), rope(k, 0, False, f)[:, of], v[:, of], self.dh ** -0.5)
            return self.project(i, o.reshape(t, -1), 'self_attn.o_proj')
        n, dr, v = m['qk_nope_head_dim'], m['qk_rope_head_dim'], m['v_head_dim']
        norm = (lambda y, name: rms(y, self.w(i, f'mla.{name}.weight'), 1e-6)) if m['use_lora_layer_norm'] else lambda y, _: y
        s = m['rope_scaling']
        f = yarn_frequencies(m['rope_theta'], dr, s['factor'], s['original_max_position_embeddings'])
        amplitude = 0.1 * math.log(s['factor']) + 1
        q = self.project(i, norm(self.project(i, x, 'mla.q_a_proj'), 'q_a_layernorm'), 'mla.q_b_proj').reshape(t, h, n + dr)
        q = np.concatenate((q[..., :n], rope(q[..., n:], 0, True, f) * amplitude), -1)
        kv = self.project(i, x, 'mla.kv_a_proj_with_mqa')
        pe = rope(kv[:, -dr:], 0, True, f) * amplitude
        k, val = self.mla_keys(norm(kv[:, :-dr], 'kv_a_layernorm'), pe, self.w(i, 'mla.kv_b_proj.weight'), n, v)
        return self.project(i, attend_heads(q, k, val, (n + dr) ** -0.5).reshape(t, -1), 'mla.out_proj')


layout('x_ecomla')(EcoMla)
layout('x_ecomla_norm', files={'mla_layer_config.json': dict(use_lora_layer_norm=True, layer_rank_list={}),
                               'MLA_config.json': dict(attn_layers=[])}, num_hidden_layers=2)(EcoMla)


# --- MLRA ------------------------------------------------------------------------------------------------


class Mlra(Published):
    config = dict(model_type='gpt2', architectures=['GPT'], vocab_size=VOCAB, n_layer=2, n_head=4, n_embd=D,
                  intermediate_size=24, block_size=128, bias=False, dropout=0.0, q_lora_rank=20, kv_lora_rank=32,
                  qk_nope_head_dim=8, qk_rope_head_dim=4)
    names, at, tied, eps, branches = ('transformer.wte.weight', 'layernorm.weight', ''), 'transformer.h.', True, 1e-6, 4

    def n_layers(self):
        return self.c['n_layer']

    def shapes(self, i):
        c, h = self.c, self.c['n_head']
        n, dr, r, rq = (c[k] for k in ('qk_nope_head_dim', 'qk_rope_head_dim', 'kv_lora_rank', 'q_lora_rank'))
        s = {'q_a_proj.weight': (rq, D), 'q_a_layernorm.weight': (rq,), 'q_b_proj.weight': (h * (n + dr), rq),
             'kv_a_proj_with_mqa.weight': (r + dr, D), 'kv_b_proj': (4, r // 4, h * self.branches // 4 * 2 * n),
             'c_proj.weight': (D, h * n)}
        s.update({f'kv_a_layernorms.{j}.weight': (r // 4,) for j in range(4)})
        width = c['intermediate_size']
        return {**{'attn.' + k: v for k, v in s.items()}, 'mlp.c_fc1.weight': (width, D), 'mlp.c_fc2.weight': (width, D),
                'mlp.c_proj.weight': (D, width)}

    def attend(self, i, x):
        c, t, h = self.c, len(x), self.c['n_head']
        n, dr, r, rq = (c[k] for k in ('qk_nope_head_dim', 'qk_rope_head_dim', 'kv_lora_rank', 'q_lora_rank'))
        q = rms(self.project(i, x, 'attn.q_a_proj'), self.w(i, 'attn.q_a_layernorm.weight'), 1e-6) * math.sqrt(D / rq)
        q = self.project(i, q, 'attn.q_b_proj').reshape(t, h, n + dr)
        q = np.concatenate((q[..., :n], rope(q[..., n:], 10000.0, False)), -1)
        kv = self.project(i, x, 'attn.kv_a_proj_with_mqa')
        pe = np.repeat(rope(kv[:, r:], 10000.0, False)[:, None], h, 1)
        heads = []  # of each block: keys and values of the heads that it serves
        for j, latent in enumerate(np.split(kv[:, :r], 4, -1)):
            latent = rms(latent, self.w(i, f'attn.kv_a_layernorms.{j}.weight'), 1e-6) * math.sqrt(D / (r // 4))
            heads.append((latent @ self.w(i, 'attn.kv_b_proj')[j]).reshape(t, -1, 2 * n))
        if self.branches == 2:  # blocks 0 and 1 side by side, then 2 and 3
            heads = [np.concatenate(heads[:2], 1), np.concatenate(heads[2:], 1)]
        o = sum(attend_heads(q, np.concatenate((kv[..., :n], pe), -1), kv[..., n:], (n + dr) ** -0.5) for kv in heads)
        return self.project(i, (o / math.sqrt(self.branches)).reshape(t, -1), 'attn.c_proj')

    def mlp(self, i, x):
        return self.project(i, silu(self.project(i, x, 'mlp.c_fc1')) * self.project(i, x, 'mlp.c_fc2'), 'mlp.c_proj')


@layout('mlra_published_2')
class Mlra2(Mlra):
    branches, names = 2, ('lm_head.weight', 'layernorm.weight', '')


layout('mlra_published_4')(Mlra)


# --- ZAYA: CCA, routed by a network with a state, weighted residuals -----------------------------------------


@layout('zaya')
class Zaya(Published):
    config = dict(model_type='zaya', architectures=['ZayaForCausalLM'], attention_bias=False, cca_time0=2, cca_time1=2, head_dim=16,
                  hidden_act='silu', hidden_size=D, layer_types=['hybrid'] * 3, lm_head_bias=False, max_position_embeddings=128,
                  moe_intermediate_size=20, num_attention_heads=4, num_experts=3, num_experts_per_tok=1, num_hidden_layers=3,
                  num_key_value_heads=2, partial_rotary_factor=0.5, rms_norm_eps=1e-5,
                  rope_parameters=dict(hybrid=dict(partial_rotary_factor=0.5, rope_theta=500, rope_type='default'),
                                       hybrid_sliding=dict(partial_rotary_factor=0.5, rope_theta=100.0, rope_type='default'),
                                       rope_type='default'),
                  router_hidden_size=12, sliding_window=None, tie_word_embeddings=True, vocab_size=VOCAB)
    tied = True

    def all_shapes(self):
        return {**super().all_shapes(), 'model.input_hidden_states_scale': (D,), 'model.input_hidden_states_bias': (D,)}

    def shapes(self, i):
        c, e, r = self.c, self.c['num_experts'], self.c['router_hidden_size']
        h, g, dh, width = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim'], c['moe_intermediate_size']
        at = 'self_attn.qkv_proj.'
        s = {at + 'q_proj.weight': (h * dh, D), at + 'k_proj.weight': (g * dh, D), at + 'v_proj_current.weight': (g * dh // 2, D),
             at + 'v_proj_delayed.weight': (g * dh // 2, D), at + 'conv_qk_depthwise.weight': ((h + g) * dh, 1, 2),
             at + 'conv_qk_depthwise.bias': ((h + g) * dh,), at + 'conv_qk_grouped.weight': ((h + g) * dh, dh, 2),
             at + 'conv_qk_grouped.bias': ((h + g) * dh,), 'self_attn.qk_norm.temp': (g,), 'self_attn.o_proj.weight': (D, h * dh)}
        for block in ('attention', 'mlp'):
            for name in ('hidden_states_scale', 'hidden_states_bias', 'residual_scale', 'residual_bias'):
                s[f'post_{block}_residual_scale.{name}'] = (D,)
        gate = {'down_proj.weight': (r, D), 'down_proj.bias': (r,), 'router_mlp.norm.weight': (r,),
                'router_mlp.fc1.weight': (r, r), 'router_mlp.fc1.bias': (r,), 'router_mlp.fc2.weight': (r, r),
                'router_mlp.fc2.bias': (r,), 'router_mlp.out_proj.weight': (e + 1, r), 'balancing_biases': (e + 1,)}
        if i > 0:
            gate['router_states_scale'] = (r,)
        s.update({'mlp.gate.' + k: v for k, v in gate.items()})
        return {**s, 'mlp.experts.gate_up_proj': (e, 2 * width, D), 'mlp.experts.down_proj': (e, D, width)}

    def attend(self, i, x):
        c, t, at = self.c, len(x), 'self_attn.qkv_proj.'
        h, g, dh = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim']
        q, k = self.project(i, x, at + 'q_proj'), self.project(i, x, at + 'k_proj')
        q_mean = (q.reshape(t, h, dh) + np.repeat(k.reshape(t, g, dh), h // g, 1)) / 2
        k_mean = q_mean.reshape(t, g, h // g, dh).mean(2)
        u = np.concatenate((np.zeros((2, (h + g) * dh)), np.concatenate((q, k), -1)))  # padded once, by both kernels' reach
        w, b = self.w(i, at + 'conv_qk_depthwise.weight')[:, 0], self.w(i, at + 'conv_qk_depthwise.bias')
        u = (u[:-1] * w[:, 0] + u[1:] * w[:, 1] + b).reshape(t + 1, h + g, dh)
        w = self.w(i, at + 'conv_qk_grouped.weight').reshape(h + g, dh, dh, 2)
        y = np.einsum('goc,tgc->tgo', w[..., 0], u[:-1]) + np.einsum('goc,tgc->tgo', w[..., 1], u[1:]) + \
            self.w(i, at + 'conv_qk_grouped.bias').reshape(h + g, dh)
        q, k = y[:, :h] + q_mean, y[:, h:] + k_mean
        q = q * math.sqrt(dh) / np.linalg.norm(q, axis=-1, keepdims=True)
        k = k * math.sqrt(dh) / np.linalg.norm(k, axis=-1, keepdims=True) * self.w(i, 'self_attn.qk_norm.temp')[:, None]
        late = self.project(i, x, at + 'v_proj_delayed')
        v = np.concatenate((self.project(i, x, at + 'v_proj_current'), np.concatenate((np.zeros_like(late[:1]), late[:-1]))), -1)
        v, hybrid = v.reshape(t, g, dh), c['rope_parameters']['hybrid']
        n = int(dh * hybrid['partial_rotary_factor'])
        q, k = (np.concatenate((rope(a[..., :n], hybrid['rope_theta'], False), a[..., n:]), -1) for a in (q, k))
        of = np.arange(h) * g // h
        return self.project(i, attend_heads(q, k[:, of], v[:, of], dh ** -0.5).reshape(t, -1), 'self_attn.o_proj')

    def mlp(self, i, x):
        e, at = self.c['num_experts'], 'mlp.gate.'
        r = self.project(i, x, at + 'down_proj') + self.w(i, at + 'down_proj.bias')
        if i > 0:
            r = r + self.state * self.w(i, at + 'router_states_scale')
        self.state = r
        a = rms(r, self.w(i, at + 'router_mlp.norm.weight'), self.eps)
        for fc in ('fc1', 'fc2'):
            a = gelu(self.project(i, a, f'{at}router_mlp.{fc}') + self.w(i, f'{at}router_mlp.{fc}.bias'))
        p = softmax(self.project(i, a, at + 'router_mlp.out_proj'))
        chosen, y = (p + self.w(i, at + 'balancing_biases')).argmax(-1), np.zeros_like(x)
        for t in range(len(x)):
            if chosen[t] < e:  # the last one is to skip
                gate, up = np.split(x[t] @ self.w(i, 'mlp.experts.gate_up_proj')[chosen[t]].T, 2)
                y[t] = p[t, chosen[t]] * ((silu(gate) * up) @ self.w(i, 'mlp.experts.down_proj')[chosen[t]].T)
        self.skipped = getattr(self, 'skipped', 0) + (chosen == e).sum()
        return y

    def join(self, i, block, y, x):
        a, b, c, d = (self.w(i, f'post_{block}_residual_scale.{name}') for name in
                      ('hidden_states_scale', 'hidden_states_bias', 'residual_scale', 'residual_bias'))
        return (y + b) * a + (x + d) * c

    def body(self, x):
        x = (x + self.tensors['model.input_hidden_states_bias']) * self.tensors['model.input_hidden_states_scale']
        for i in range(self.n_layers()):
            x = self.join(i, 'attention', self.attend(i, rms(x, self.w(i, 'input_layernorm.weight'), self.eps)), x)
            x = self.join(i, 'mlp', self.mlp(i, rms(x, self.w(i, 'post_attention_layernorm.weight'), self.eps)), x)
        assert 0 < self.skipped < self.n_layers() * len(x) / 2, self.skipped
        return x


# --- writing --------------------------------------------------------------------------------------------


def random_tensors(name, shapes):
    rng, out = np.random.default_rng(zlib.crc32(name.encode())), {}
    for k, shape in sorted(shapes.items()):
        if 'norm' in k and k.endswith('weight'):
            a = 1 + 0.2 * rng.standard_normal(shape)
        elif k.endswith('rope_freqs'):
            a = np.sort(rng.uniform(0.01, 1, shape), -1)[:, ::-1]
        elif k.endswith('balancing_biases'):
            a = 0.1 * rng.standard_normal(shape)
        elif k.endswith(('_scale', '.temp')):
            a = 1 + 0.2 * rng.standard_normal(shape)
        elif len(shape) == 1 or k.endswith('.bias'):
            a = 0.3 * rng.standard_normal(shape)
        else:
            wide = k.endswith(('q_proj.weight', 'wq.weight', 'k_proj.weight', 'qkv_proj.weight', 'q_b_proj.weight', 'wq.weight', 'wkv_a.weight'))
            a = rng.standard_normal(shape) * (1.6 if wide else 1.0) / math.sqrt(2 if 'depthwise' in k else 2 * shape[1] if 'grouped' in k else shape[-1])
        out[k] = to_bf16(a)
    return out


def main():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data', 'layout')
    for name in sys.argv[1:] or LAYOUTS:
        cls, changes = LAYOUTS[name]
        model = cls(changes)
        tensors = random_tensors(name, model.all_shapes())
        model.tensors = {k: from_bf16(v).astype(np.float64) for k, v in tensors.items()}
        tokens = golden_tokens(name, VOCAB)
        logits = model.logits(tokens)
        if name == 'step3_vl':
            tensors['vision_model.class_embedding'] = to_bf16(np.zeros(4))
        write_folder(os.path.join(top, name), {'config.json': model.config, **model.files}, tensors, tokens, logits)


if __name__ == '__main__':
    main()
