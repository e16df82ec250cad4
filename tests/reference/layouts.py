#!/usr/bin/env python3
"""Published layouts of the attention family in float64, from the formulas of their modelling code: a whole sequence at a time,
no cache. Writes tests/data/layout/NAME: tiny random checkpoints with the names of tensors and keys that their authors give them,
and golden.json with their logits. `layouts.py [NAME...]`; the same bytes every time.

A layout is a class: config (what config.json says), shapes() (name -> shape), attend(i, x) and mlp(i, x), both of
normalised rows [T, d]."""
import json
import math
import os
import sys
import zlib
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from family import attend_heads, gelu, layer_norm, rms, rope, sigmoid, silu, softmax  # noqa: E402
from make import from_bf16, to_bf16, write_safetensors  # noqa: E402

D, VOCAB, T, LAYERS = 32, 64, 43, 4
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


# --- writing --------------------------------------------------------------------------------------------


def random_tensors(name, shapes):
    rng, out = np.random.default_rng(zlib.crc32(name.encode())), {}
    for k, shape in sorted(shapes.items()):
        if 'norm' in k and k.endswith('weight'):
            a = 1 + 0.2 * rng.standard_normal(shape)
        elif len(shape) == 1 or k.endswith('.bias'):
            a = 0.3 * rng.standard_normal(shape)
        else:
            wide = k.endswith(('q_proj.weight', 'wq.weight', 'k_proj.weight', 'qkv_proj.weight', 'q_b_proj.weight'))
            a = rng.standard_normal(shape) * (1.6 if wide else 1.0) / math.sqrt(shape[-1])
        out[k] = to_bf16(a)
    return out


def main():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data', 'layout')
    for name in sys.argv[1:] or LAYOUTS:
        cls, changes = LAYOUTS[name]
        model, folder = cls(changes), os.path.join(top, name)
        os.makedirs(folder, exist_ok=True)
        tensors = random_tensors(name, model.all_shapes())
        model.tensors = {k: from_bf16(v).astype(np.float64) for k, v in tensors.items()}
        rng = np.random.default_rng(zlib.crc32((name + ' tokens').encode()))
        tokens = [int(t) for t in rng.integers(0, VOCAB, T)]
        logits = model.logits(tokens)
        positions = [0, 1, 2, 3, 7, 8, 16, 30, T - 2, T - 1]
        for file, config in {'config.json': model.config, **model.files}.items():
            with open(os.path.join(folder, file), 'w') as f:
                f.write(json.dumps(config, indent=1) + '\n')
        if name == 'step3_vl':
            tensors['vision_model.class_embedding'] = to_bf16(np.zeros(4))
        write_safetensors(os.path.join(folder, 'model.safetensors'), tensors)
        rows = ',\n'.join('[' + ','.join('%.17g' % v for v in logits[p]) + ']' for p in positions)
        with open(os.path.join(folder, 'golden.json'), 'w') as f:
            f.write('{"tokens": %s,\n"positions": %s,\n"logits": [\n%s]}\n' % (tokens, positions, rows))
        print(f'{name}: logits {logits.std():.3f} in deviation')


if __name__ == '__main__':
    main()
