#!/usr/bin/env python3
"""Trains small language models that differ in nothing but their attention mechanism (docs/family-format.md): the same
parameters within 2 %, the same data in the same order, the same number of tokens.

    family.py data TEXT.bz2 TOKENIZER.json DATA        once: train.npy and val.npy in the folder DATA
    family.py check [NAME...]                          forward passes against tests/reference/family.py
    family.py train NAME DATA OUT [TOKENS]             OUT/NAME: config.json, model.safetensors (BF16), result.json

models.py says which there are. Needs PyTorch; one GPU trains one of them on 30 M tokens in about a minute."""
import bz2
import json
import math
import os
import sys
import time
import numpy as np
import torch
import torch.nn.functional as F

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.environ.get('REFERENCE', os.path.join(HERE, '..', '..', 'tests', 'reference')))
import family as reference  # noqa: E402
import make  # noqa: E402
from models import ZOO, config_of, n_parameters, tensor_shapes  # noqa: E402

# --- the mechanisms, over batches ------------------------------------------------------------------------


def rms(x, w, eps):
    y = x.float() if x.dtype != torch.float64 else x
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (y * w.to(y.dtype)).to(x.dtype)


def rope(x, theta):
    """[B, T, ..., n]: halves, by the position in dimension 1."""
    n, t = x.shape[-1], x.shape[1]
    if n == 0:
        return x
    high = torch.float64 if x.dtype == torch.float64 else torch.float32
    f = theta ** (-2.0 * torch.arange(n // 2, device=x.device, dtype=torch.float64) / n)
    a = torch.arange(t, device=x.device, dtype=torch.float64)[:, None] * f
    a = a.view((1, t) + (1,) * (x.dim() - 3) + (n // 2,))
    c, s = a.cos().to(high), a.sin().to(high)
    u, v = x[..., :n // 2].to(high), x[..., n // 2:].to(high)
    return torch.cat((u * c - v * s, u * s + v * c), -1).to(x.dtype)


def attend(q, k, v, scale, mask=None):
    """[B, T, H, .] -> [B, T, H, dv]."""
    dk, dv = q.shape[-1], v.shape[-1]
    n = max(dk, dv)
    q, k, v = (F.pad(a, (0, n - a.shape[-1])).transpose(1, 2) for a in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return o.transpose(1, 2)[..., :dv]


class Layer:
    def __init__(self, model, i, x, inputs):
        self.m, self.i, self.c, self.x, self.inputs = model, i, model.c, x, inputs
        self.B, self.T = x.shape[:2]

    def w(self, name):
        return self.m.p(f'model.layers.{self.i}.self_attn.{name}')

    def proj(self, x, name):
        return F.linear(x, self.w(name + '.weight').to(x.dtype))

    def heads(self, x, name, h):
        return self.proj(x, name).view(self.B, self.T, h, -1)

    def rope(self, x, n=None):
        n = x.shape[-1] if n is None else n
        return torch.cat((rope(x[..., :n], self.c['rope_theta']), x[..., n:]), -1)

    def out(self, o, name='o_proj'):
        return self.proj(o.reshape(self.B, self.T, -1), name)

    def owner(self):
        s = self.c.get('kv_share_factor', 1)
        j = self.i // s * s
        return self if j == self.i else Layer(self.m, j, self.inputs[j], self.inputs)

    def latent_queries(self):
        nope = self.c['qk_nope_head_dim']
        if self.c['q_lora_rank']:
            q = self.heads(rms(self.proj(self.x, 'q_a_proj'), self.w('q_a_layernorm.weight'), self.c['rms_norm_eps']),
                           'q_b_proj', self.c['num_attention_heads'])
        else:
            q = self.heads(self.x, 'q_proj', self.c['num_attention_heads'])
        return torch.cat((q[..., :nope], self.rope(q[..., nope:])), -1)

    def latents(self):
        r = self.c['kv_lora_rank'] * self.c.get('latent_groups', 1)
        a = self.proj(self.x, 'kv_a_proj_with_mqa')
        return a[..., :r], self.rope(a[..., r:])

    def multiply(self, c, pe, kv_b, h):
        nope, v = self.c['qk_nope_head_dim'], self.c['v_head_dim']
        kv = F.linear(c, kv_b.to(c.dtype)).view(self.B, self.T, h, nope + v)
        return torch.cat((kv[..., :nope], pe.unsqueeze(2).expand(-1, -1, h, -1)), -1), kv[..., nope:]


def repeat(k, h):
    return k.repeat_interleave(h // k.shape[2], 2)


def gqa_rows(l, x, dh, g, n):
    k, v = l.heads(x, 'k_proj', g), l.heads(x, 'v_proj', g)
    if l.c.get('knocking_heads') == 'linear':
        k, v = F.linear(k, l.w('k_knock.weight').to(k.dtype)), F.linear(v, l.w('v_knock.weight').to(v.dtype))
    return l.rope(k, n), v


def f_gqa(l):
    c, h, dh = l.c, l.c['num_attention_heads'], l.c['head_dim']
    n, o = c.get('rotary_dim', dh), l.owner()
    q = l.heads(l.x, 'q_proj', h)
    if c.get('knocking_heads'):
        q = F.linear(q, l.w('q_knock.weight').to(q.dtype))
    k, v = gqa_rows(o, o.x, dh, c['num_key_value_heads'], n)
    return l.out(attend(l.rope(q, n), repeat(k, h), repeat(v, h), dh ** -0.5))


def mfa_queries(l):
    q = rms(l.proj(l.x, 'q_a_proj'), l.w('q_a_layernorm.weight'), l.c['rms_norm_eps'])
    return l.rope(l.heads(q, 'q_b_proj', l.c['num_attention_heads']))


def one_head(l, q, k, v):
    h = q.shape[2]
    return l.out(attend(q, repeat(k.unsqueeze(2), h), repeat(v.unsqueeze(2), h), l.c['head_dim'] ** -0.5))


def f_mfa(l):
    return one_head(l, mfa_queries(l), l.rope(l.proj(l.x, 'k_proj')), l.proj(l.x, 'v_proj'))


def f_mfa_kr(l):
    k = l.proj(l.x, 'k_proj')
    return one_head(l, mfa_queries(l), l.rope(k), l.proj(k, 'kr_map'))


def f_gta(l):
    h, g, dh = l.c['num_attention_heads'], l.c['num_key_value_heads'], l.c['head_dim']
    q, kv = l.heads(l.x, 'q_proj', h), l.heads(l.x, 'kv_proj', g)
    q = torch.cat((q[..., :dh // 2], l.rope(q[..., dh // 2:])), -1)
    pe = l.rope(l.proj(l.x, 'k_rope_proj')).unsqueeze(2).expand(-1, -1, g, -1)
    return l.out(attend(q, repeat(torch.cat((kv[..., :dh // 2], pe), -1), h), repeat(kv, h), dh ** -0.5))


def latent_scale(l):
    return (l.c['qk_nope_head_dim'] + l.c['qk_rope_head_dim']) ** -0.5


def f_mla(l):
    o = l.owner()
    a, pe = o.latents()
    a = a if l.c.get('latent_norm') == 'none' else rms(a, o.w('kv_a_layernorm.weight'), l.c['rms_norm_eps'])
    k, v = l.multiply(a, pe, l.w('kv_b_proj.weight'), l.c['num_attention_heads'])
    return l.out(attend(l.latent_queries(), k, v, latent_scale(l)))


def f_gla(l):
    c, h = l.c, l.c['num_attention_heads']
    m, r = c['latent_groups'], c['kv_lora_rank']
    (a, pe), q, b = l.latents(), l.latent_queries(), l.w('kv_b_proj.weight').view(h, -1, r)
    o, n = [], h // m
    for j in range(m):
        k, v = l.multiply(rms(a[..., j * r:(j + 1) * r], l.w('kv_a_layernorm.weight')[j], c['rms_norm_eps']), pe,
                          b[j * n:(j + 1) * n].reshape(-1, r), n)
        o.append(attend(q[:, :, j * n:(j + 1) * n], k, v, latent_scale(l)))
    return l.out(torch.cat(o, 2))


def f_mlra(l):
    c, h = l.c, l.c['num_attention_heads']
    n, branches = c['latent_blocks'], c['latent_branches']
    w, hb = c['kv_lora_rank'] // n, h * branches // n
    (a, pe), q = l.latents(), l.latent_queries()
    o = [0] * (h // hb)
    for i in range(n):
        k, v = l.multiply(rms(a[..., i * w:(i + 1) * w], l.w('kv_a_layernorm.weight')[i], c['rms_norm_eps']), pe,
                          l.w('kv_b_proj.weight')[i], hb)
        part = i % len(o)
        o[part] = o[part] + attend(q[:, :, part * hb:(part + 1) * hb], k, v, latent_scale(l))
    return l.out(torch.cat(o, 2) / math.sqrt(branches))


def f_mtla(l):
    c, s, r, T = l.c, l.c['temporal_stride'], l.c['kv_lora_rank'], l.T
    high = torch.float64 if l.x.dtype == torch.float64 else torch.float32
    a, pe = l.latents()
    a = F.layer_norm(a.to(high), (r,), l.w('kv_a_layernorm.weight').to(high), l.w('kv_a_layernorm.bias').to(high), 1e-5)
    t = torch.arange(T, device=a.device)
    f = 10000.0 ** (-2.0 * torch.arange(r // 2, device=a.device, dtype=torch.float64) / r)
    ang = (t // s).double()[:, None] * f
    code = torch.stack((ang.sin(), ang.cos()), -1).view(T, r).to(high)
    with torch.autocast('cuda', enabled=False):
        w = torch.sigmoid(((F.linear(code, l.w('temporal_pe_proj.weight').to(high), l.w('temporal_pe_proj.bias').to(high))) *
                           (F.linear(a, l.w('temporal_c_proj.weight').to(high), l.w('temporal_c_proj.bias').to(high)))).sum(-1))
    x = a * w.unsqueeze(-1)
    # column j: what has come of its slot by then
    x = x.view(l.B, T // s, s, r).cumsum(2).view(l.B, T, r).to(l.x.dtype)
    mask = ((t[None] <= t[:, None]) & ((t[None] + 1) % s == 0)) | (t[None] == t[:, None])
    k, v = l.multiply(x, pe, l.w('kv_b_proj.weight'), c['num_attention_heads'])
    return l.out(attend(l.latent_queries(), k, v, latent_scale(l), mask))


def f_eg_mla(l):
    c, h, nope = l.c, l.c['num_attention_heads'], l.c['qk_nope_head_dim']
    a, pe = l.latents()
    a = a if c.get('latent_norm') == 'none' else rms(a, l.w('kv_a_layernorm.weight'), c['rms_norm_eps'])
    gate = F.linear(F.embedding(l.m.tokens, l.w('gate_embed')).to(l.x.dtype), l.w('gate_up.weight').to(l.x.dtype))
    kv = l.proj(a, 'kv_b_proj') * gate
    n = kv.shape[-1] if c['gate_norm'] == 'all' else nope + c['v_head_dim']
    kv = kv.view(l.B, l.T, -1, n)
    kv = F.layer_norm(kv, (n,), eps=c['rms_norm_eps']).to(l.x.dtype).view(l.B, l.T, h, -1)
    k = torch.cat((kv[..., :nope], pe.unsqueeze(2).expand(-1, -1, h, -1)), -1)
    return l.out(attend(l.latent_queries(), k, kv[..., nope:], latent_scale(l)))


def f_lrkv(l):
    c, h, dh, r = l.c, l.c['num_attention_heads'], l.c['head_dim'], l.c['kv_residual_rank']
    q = l.rope(l.heads(l.x, 'q_proj', h))
    k, v = l.proj(l.x, 'k_proj').unsqueeze(2), l.proj(l.x, 'v_proj').unsqueeze(2)
    rk, rv = l.heads(l.x, 'k_res_proj', h), l.heads(l.x, 'v_res_proj', h)
    up = lambda name, y: torch.einsum('hdr,bthr->bthd', l.w(name).to(y.dtype), y)  # noqa: E731
    key = l.rope(k) + up('k_res_up', l.rope(rk)) if c['lrkv_rope'] == 'latent' else l.rope(k + up('k_res_up', rk))
    return l.out(attend(q, key, v + up('v_res_up', rv), dh ** -0.5))


def f_tucker(l):
    c, h = l.c, l.c['num_attention_heads']
    q = l.proj(l.x, 'q_a_proj')
    q = l.rope(torch.einsum('hkr,btr->bthk', l.w('q_core').to(q.dtype), q))
    k, v = l.rope(l.proj(l.x, 'k_proj')).unsqueeze(2), l.proj(l.x, 'v_proj').unsqueeze(2)
    o = attend(q, repeat(k, h), repeat(v, h), c['head_dim'] ** -0.5)
    return l.out(torch.einsum('hov,bthv->bto', l.w('o_core').to(o.dtype), o))


def before(x, first=None):
    first = torch.zeros_like(x[:, :1]) if first is None else first.to(x.dtype).expand(x.shape[0], 1, -1)
    return torch.cat((first, x[:, :-1]), 1)


def f_cca(l):
    c, h, g, dh = l.c, l.c['num_attention_heads'], l.c['num_key_value_heads'], l.c['head_dim']
    q, k, B, T = l.proj(l.x, 'q_proj'), l.proj(l.x, 'k_proj'), l.B, l.T
    q_mean = (q.view(B, T, h, dh) + repeat(k.view(B, T, g, dh), h)) / 2
    k_mean = q_mean.view(B, T, g, h // g, dh).mean(3)
    u, w, b = torch.cat((q, k), -1), l.w('conv_qk_depthwise.weight').to(q.dtype), l.w('conv_qk_depthwise.bias').to(q.dtype)
    u = before(u) * w[:, 0, 0] + u * w[:, 0, 1] + b
    w = l.w('conv_qk_grouped.weight').to(q.dtype).view(h + g, dh, dh, 2)
    u = torch.einsum('god,btgd->btgo', w[..., 0], before(u, b).view(B, T, h + g, dh)) + \
        torch.einsum('god,btgd->btgo', w[..., 1], u.view(B, T, h + g, dh)) + \
        l.w('conv_qk_grouped.bias').to(q.dtype).view(h + g, dh)
    high = torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k = (u[:, :, :h] + q_mean).to(high), (u[:, :, h:] + k_mean).to(high)
    q, k = (a * torch.rsqrt(a.pow(2).sum(-1, keepdim=True) + 1e-12) * dh ** 0.5 for a in (q, k))
    k = k * l.w('k_temp').to(high)[:, None]
    q, k = l.rope(q, c['rotary_dim']).to(l.x.dtype), l.rope(k, c['rotary_dim']).to(l.x.dtype)
    v = torch.cat((l.heads(l.x, 'v_proj_current', g), before(l.proj(l.x, 'v_proj_delayed')).view(B, T, g, -1)), -1)
    return l.out(attend(q, repeat(k, h), repeat(v, h), dh ** -0.5))


def f_moas(l):
    c, h, dh = l.c, l.c['num_attention_heads'], l.c['head_dim']
    gate = F.gelu(l.proj(l.x, 'gate_a') + l.w('gate_a.bias').to(l.x.dtype))
    gate = torch.softmax(l.proj(gate, 'gate_b') + l.w('gate_b.bias').to(l.x.dtype), -1)
    l.m.gates.append(gate.mean((0, 1)))
    n, y = c.get('rotary_dim', dh), 0
    for i, (b, g) in enumerate((('mha.', h), ('gqa.', c['num_key_value_heads']), ('mqa.', 1))):
        q, k = l.rope(l.heads(l.x, b + 'q_proj', h), n), l.rope(l.heads(l.x, b + 'k_proj', g), n)
        v = l.heads(l.x, b + 'v_proj', g)
        y = y + gate[..., i:i + 1] * l.out(attend(q, repeat(k, h), repeat(v, h), dh ** -0.5), b + 'o_proj')
    return y


def averaged(l):
    decay, t = l.c['memory_decay'], torch.arange(l.T, device=l.x.device, dtype=torch.float64)
    m = torch.where(t[:, None] >= t, (1 - decay) * decay ** (t[:, None] - t).clamp(min=0), 0.0)
    high = torch.float64 if l.x.dtype == torch.float64 else torch.float32
    with torch.autocast('cuda', enabled=False):
        return torch.einsum('ij,bjd->bid', m.to(high), l.x.to(high)).to(l.x.dtype)


def f_mka(l, fast=False):
    c, h, g, dh = l.c, l.c['num_attention_heads'], l.c['num_key_value_heads'], l.c['head_dim']
    n, q = c.get('rotary_dim', dh), l.proj(l.x, 'q_proj')
    a = (F.silu if fast else F.gelu)(l.proj(q, 'router_a') + l.w('router_a.bias').to(q.dtype))
    lam = torch.softmax(l.proj(a, 'router_b') + l.w('router_b.bias').to(q.dtype), -1)
    q, levels, o = l.rope(q.view(l.B, l.T, h, dh), n), (l.x, averaged(l)), 0
    if fast:
        levels = (lam[..., :1] * levels[0] + lam[..., 1:] * levels[1],)
    for i, m in enumerate(levels):
        k, v = l.rope(l.heads(m, 'k_proj', g), n), l.heads(m, 'v_proj', g)
        z = attend(q, repeat(k, h), repeat(v, h), dh ** -0.5)
        o = z if fast else o + lam[..., i, None, None] * z
    return l.out(o)


def f_fast_mka(l):
    return f_mka(l, True)


MECHANISMS = {k[2:]: v for k, v in list(globals().items()) if k.startswith('f_')}


class Model(torch.nn.Module):
    def __init__(self, c, tensors=None, seed=1):
        super().__init__()
        self.c, self.gates = c, []
        g = torch.Generator().manual_seed(seed)
        self.params = torch.nn.ParameterDict()
        for name, shape in tensor_shapes(c).items():
            if tensors is not None:
                v = torch.from_numpy(np.asarray(tensors[name], np.float64))
            elif name.endswith(('norm.weight', 'k_temp')):
                v = torch.ones(shape)
            elif name.endswith('.bias'):
                v = torch.zeros(shape)
            else:
                std = 0.02 if 'embed' in name else 1 / math.sqrt(2 * shape[1] if 'grouped' in name else 2 if 'depthwise' in name
                                                                 else shape[-1])
                if name.endswith(('o_proj.weight', 'down_proj.weight')):
                    std /= math.sqrt(2 * c['num_hidden_layers'])
                v = torch.randn(shape, generator=g) * std
                if name.endswith('gate_embed'):
                    v = torch.ones(shape) + 0.1 * torch.randn(shape, generator=g)
                if name.endswith(('knock.weight', 'kr_map.weight')):
                    v = torch.eye(shape[0])
            self.params[name.replace('.', '/')] = torch.nn.Parameter(v)

    def p(self, name):
        return self.params[name.replace('.', '/')]

    def forward(self, tokens):
        c, self.tokens, self.gates, inputs = self.c, tokens, [], {}
        x = F.embedding(tokens, self.p('model.embed_tokens.weight'))
        if torch.is_autocast_enabled():
            x = x.bfloat16()
        for i in range(c['num_hidden_layers']):
            at = f'model.layers.{i}.'
            inputs[i] = n = rms(x, self.p(at + 'input_layernorm.weight'), c['rms_norm_eps'])
            x = x + MECHANISMS[c['attention_mechanism']](Layer(self, i, n, inputs))
            n = rms(x, self.p(at + 'post_attention_layernorm.weight'), c['rms_norm_eps'])
            w = {k: self.p(at + f'mlp.{k}_proj.weight').to(x.dtype) for k in ('gate', 'up', 'down')}
            x = x + F.linear(F.silu(F.linear(n, w['gate'])) * F.linear(n, w['up']), w['down'])
        x = rms(x, self.p('model.norm.weight'), c['rms_norm_eps'])
        return F.linear(x, self.p('model.embed_tokens.weight').to(x.dtype))


def check(name):
    try:
        return compare(name)
    except Exception as e:  # of one, not of all
        print(f'check {name}: {type(e).__name__}: {e}', flush=True)
        return False


def compare(name):
    """The torch form of a mechanism against the reference, in float64, with random weights."""
    c = {**config_of(name), 'vocab_size': 50, 'intermediate_size': 16, 'num_hidden_layers': 2}
    tensors = {k: make.from_bf16(v) for k, v in make.random_tensors(name, {**c, 'freqs': False}).items()}
    tokens = np.random.default_rng(1).integers(0, 50, 32)
    want = reference.Model(c, tensors).logits(tokens)
    with torch.no_grad():
        got = Model(c, tensors).double()(torch.from_numpy(tokens)[None])[0].numpy()
    off = np.abs(got - want).max() / want.std()
    print(f'check {name}: {off:.1e} of the deviation', flush=True)
    return off < 1e-6  # rotations' cosines are made in float64 on both sides


# --- training --------------------------------------------------------------------------------------------


def make_data(text, tokenizer, out):
    from tokenizers import Tokenizer
    os.makedirs(out, exist_ok=True)
    t = Tokenizer.from_file(tokenizer)
    with bz2.open(text) as f:
        docs = [x for x in f.read().decode('utf-8', 'ignore').split('\0') if x]
    order, parts = np.random.default_rng(1).permutation(len(docs)), []
    for i in range(0, len(docs), 4000):
        batch = t.encode_batch([docs[j] for j in order[i:i + 4000]])
        parts += [np.array(e.ids + [1], np.int16) for e in batch]
    n_val = len(parts) // 50
    for name, some in (('val', parts[:n_val]), ('train', parts[n_val:])):
        a = np.concatenate(some)
        np.save(os.path.join(out, name + '.npy'), a)
        print(name, len(a) / 1e6, 'M tokens', flush=True)


def write_folder(folder, c, model):
    tensors = {k: make.to_bf16(model.p(k).detach().float().cpu().numpy()) for k in sorted(tensor_shapes(c))}
    with open(os.path.join(folder, 'config.json'), 'w') as f:
        f.write(json.dumps(c, indent=1) + '\n')
    make.write_safetensors(os.path.join(folder, 'model.safetensors'), tensors)


def train(name, data, out, n_tokens):
    dev, T, B = 'cuda', 512, 64
    c, folder = config_of(name), os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision('high')
    toks = {k: torch.from_numpy(np.load(os.path.join(data, k + '.npy')).astype(np.int64)).to(dev) for k in ('train', 'val')}
    m = Model(c).to(dev)
    flat = [p for p in m.parameters() if p.dim() < 2]
    wide = [p for p in m.parameters() if p.dim() >= 2]
    opt = torch.optim.AdamW([dict(params=wide, weight_decay=0.1), dict(params=flat, weight_decay=0.0)], lr=4e-3,
                            betas=(0.9, 0.95), fused=True)
    steps, g, began, total = n_tokens // (B * T), torch.Generator().manual_seed(7), time.time(), 0.0
    for step in range(steps):
        f = min(1, (step + 1) / 100) * max(0.02, 1 - step / steps)
        for group in opt.param_groups:
            group['lr'] = 4e-3 * f
        at = torch.randint(0, len(toks['train']) - T - 1, (B,), generator=g)  # the same for all mechanisms
        ids = toks['train'][(at[:, None] + torch.arange(T + 1)).to(dev)]
        with torch.autocast('cuda', torch.bfloat16):
            logits = m(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        extra = sum((w.float() - 1 / 3).pow(2).mean() for w in m.gates) * 0.01 if m.gates else 0
        (loss + extra).backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        if step % 100 == 0:
            total = loss.item()
            print(f'{name} {step}/{steps} loss {total:.4f} {time.time() - began:.0f} s', flush=True)
    losses = []
    with torch.no_grad(), torch.autocast('cuda', torch.bfloat16):
        for i in range(16):
            at = torch.arange(i * B, (i + 1) * B, device=dev) * T
            at = at[at + T + 1 < len(toks['val'])]
            if len(at):
                ids = toks['val'][at[:, None] + torch.arange(T + 1, device=dev)]
                losses.append(F.cross_entropy(m(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten()).item())
    val = sum(losses) / len(losses)
    write_folder(folder, c, m)
    result = dict(name=name, parameters=n_parameters(c), tokens=steps * B * T, train_loss=total, val_loss=val,
                  perplexity=math.exp(val), seconds=time.time() - began)
    open(os.path.join(folder, 'result.json'), 'w').write(json.dumps(result))
    print('done', json.dumps(result), flush=True)


def main():
    what, rest = sys.argv[1], sys.argv[2:]
    if what == 'data':
        make_data(*rest)
    elif what == 'check':
        good = [n for n in rest or ZOO if check(n)]
        print('agree:', *good)
        sys.exit(len(good) < len(rest or ZOO))
    elif what == 'train':
        train(rest[0], rest[1], rest[2], int(rest[3]) if len(rest) > 3 else 30_000_000)
    else:
        sys.exit(__doc__)


if __name__ == '__main__':
    main()
