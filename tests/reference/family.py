"""The attention family in float64, straight from the formulas of docs/family-format.md: a whole sequence at a time, no
cache, no tricks. What the C side is compared with. Needs NumPy only.

    logits = Model(config, tensors).logits(token_ids)      # config: dict of config.json; tensors: name -> array

One function a mechanism: attend(layer, x) takes the attention's input x [T, d] (normalised already) and gives what joins
the residual stream, [T, d]. A layer answers w(name) for its weights and key(name) for its numbers."""
import math
import numpy as np

MECHANISMS = {}


def mechanism(name):
    def add(f):
        MECHANISMS[name] = f
        return f
    return add


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x):
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w


def layer_norm(x, eps, w=1.0, b=0.0):
    m = x.mean(-1, keepdims=True)
    return (x - m) / np.sqrt(((x - m) ** 2).mean(-1, keepdims=True) + eps) * w + b


def rope(x, theta, interleave, freqs=None, positions=None):
    """x [T, ..., n], n even, rotated by its position along the first axis."""
    n = x.shape[-1]
    f = theta ** (-2.0 * np.arange(n // 2) / n) if freqs is None else freqs
    t = np.arange(x.shape[0]) if positions is None else positions
    a = t.reshape((-1,) + (1,) * (x.ndim - 1)) * f
    c, s = np.cos(a), np.sin(a)
    y = np.empty_like(x)
    u, v = (x[..., 0::2], x[..., 1::2]) if interleave else (x[..., :n // 2], x[..., n // 2:])
    if interleave:
        y[..., 0::2], y[..., 1::2] = u * c - v * s, u * s + v * c
    else:
        y[..., :n // 2], y[..., n // 2:] = u * c - v * s, u * s + v * c
    return y


def causal(scores):
    """softmax over j <= i of scores [.., T, T]."""
    t = scores.shape[-1]
    return softmax(np.where(np.tri(t, dtype=bool), scores, -np.inf))


class Layer:
    def __init__(self, model, index):
        self.model, self.index = model, index

    def key(self, name, default=None):
        v = self.model.config.get(name, default)
        # kv_head_map and image_token_ids are lists already: of the model, or one of them a layer
        if name == 'kv_head_map':
            return v[self.index] if v is not None and isinstance(v[0], list) else v
        if name == 'image_token_ids':
            return v
        return v[self.index] if isinstance(v, list) else v

    def has(self, name):
        return f'model.layers.{self.index}.self_attn.{name}' in self.model.tensors

    def w(self, name):
        return self.model.tensors[f'model.layers.{self.index}.self_attn.{name}']

    def project(self, x, name):  # of the projection NAME
        return x @ self.w(name + '.weight').T

    def rotate(self, x, n=None, freqs=None):
        """The first n values of each head (default all)."""
        n = x.shape[-1] if n is None else n
        r = rope(x[..., :n], self.model.config['rope_theta'], self.model.config.get('rope_interleave', False), freqs)
        return np.concatenate((r, x[..., n:]), -1)

    def latent_queries(self, x):
        """[T, H, nope + rope], the rope part rotated."""
        nope, dr = self.key('qk_nope_head_dim'), self.key('qk_rope_head_dim')
        if self.key('q_lora_rank'):
            x = self.project(rms(self.project(x, 'q_a_proj'), self.w('q_a_layernorm.weight'), self.model.eps), 'q_b_proj')
        else:
            x = self.project(x, 'q_proj')
        q = x.reshape(len(x), -1, nope + dr)
        return np.concatenate((q[..., :nope], self.rotate(q[..., nope:])), -1)

    def latent_norm(self, c):
        return c if self.key('latent_norm') == 'none' else rms(c, self.w('kv_a_layernorm.weight'), self.model.eps)


def attend_heads(q, k, v, scale):
    """q, k [T, H, dk], v [T, H, dv] -> [T, H, dv]."""
    a = causal(np.einsum('ihd,jhd->hij', q, k) * scale)
    return np.einsum('hij,jhd->ihd', a, v)


def output(layer, o, name='o_proj'):
    return layer.project(o.reshape(len(o), -1), name)


# --- keys and values as they are -------------------------------------------------------------------


def gqa_rows(layer, kv_x):
    """Keys (rotated) and values of a gqa layer, from the input of the layer that owns them."""
    dh, n = layer.key('head_dim'), layer.key('rotary_dim')
    n = dh if n is None else n
    k = layer.project(kv_x, 'k_proj').reshape(len(kv_x), -1, dh)
    v = layer.project(kv_x, 'v_proj').reshape(len(kv_x), -1, dh)
    kind = layer.key('knocking_heads')
    if kind:
        k = k @ layer.w('k_knock.weight').T
    if kind == 'linear':
        v = v @ layer.w('v_knock.weight').T
    elif kind == 'mlp':
        v = 2 * (v @ layer.w('v_knock_up.weight').T * sigmoid(v @ layer.w('v_knock_gate.weight').T)) @ \
            layer.w('v_knock_down.weight').T
    k = layer.rotate(k, n)
    if layer.key('kv_heads_before'):
        basis = layer.w('k_basis')  # [G, t dh, dh]
        k = np.einsum('ngj,gjd->ngd', k.reshape(len(k), basis.shape[0], -1), basis)
    return k, v


@mechanism('gqa')
def gqa(layer, x, shared=None):
    h, g, dh = layer.key('num_attention_heads'), layer.key('num_key_value_heads'), layer.key('head_dim')
    n = layer.key('rotary_dim')
    q = layer.project(x, 'q_proj').reshape(len(x), h, dh)
    if layer.key('knocking_heads'):
        q = q @ layer.w('q_knock.weight').T
    q = layer.rotate(q, dh if n is None else n)
    owner, kv_x = shared or (layer, x)
    k, v = gqa_rows(owner, kv_x)
    if owner.key('kv_heads_before'):
        before = owner.key('kv_heads_before')
        basis = owner.w('k_basis').reshape(before, dh, dh)  # of each head before: its rows of the group's basis
        q = np.einsum('ihd,hde->ihe', q, basis[np.arange(h) * before // h])
    if h < g:  # reverse SQA
        q, of = q[:, np.arange(g) * h // g], np.arange(g)
    else:
        of = np.array(layer.key('kv_head_map') or [i * g // h for i in range(h)])
    return output(layer, attend_heads(q, k[:, of], v[:, of], dh ** -0.5))


def mfa_queries(layer, x):
    q = rms(layer.project(x, 'q_a_proj'), layer.w('q_a_layernorm.weight'), layer.model.eps)
    return layer.rotate(layer.project(q, 'q_b_proj').reshape(len(x), layer.key('num_attention_heads'), -1))


def one_head(layer, q, k, v):
    h = q.shape[1]
    return output(layer, attend_heads(q, np.repeat(k[:, None], h, 1), np.repeat(v[:, None], h, 1),
                                      layer.key('head_dim') ** -0.5))


@mechanism('mfa')
def mfa(layer, x):
    return one_head(layer, mfa_queries(layer, x), layer.rotate(layer.project(x, 'k_proj')), layer.project(x, 'v_proj'))


@mechanism('mfa_kr')
def mfa_kr(layer, x):
    k = layer.project(x, 'k_proj')
    return one_head(layer, mfa_queries(layer, x), layer.rotate(k), layer.project(k, 'kr_map'))


@mechanism('gta')
def gta(layer, x):
    h, g, dh = layer.key('num_attention_heads'), layer.key('num_key_value_heads'), layer.key('head_dim')
    q = layer.project(x, 'q_proj').reshape(len(x), h, dh)
    q = np.concatenate((q[..., :dh // 2], layer.rotate(q[..., dh // 2:])), -1)
    kv = layer.project(x, 'kv_proj').reshape(len(x), g, dh)
    pe = layer.rotate(layer.project(x, 'k_rope_proj'))
    k = np.concatenate((kv[..., :dh // 2], np.repeat(pe[:, None], g, 1)), -1)
    of = np.arange(h) * g // h
    return output(layer, attend_heads(q, k[:, of], kv[:, of], dh ** -0.5))


# --- latents -----------------------------------------------------------------------------------------


def multiplied_out(c, pe, kv_b, h, nope, v):
    """Keys [T, h, nope + rope] and values [T, h, v] of latents c [T, r] and one rope key pe [T, dr]."""
    kv = (c @ kv_b.T).reshape(len(c), h, nope + v)
    return np.concatenate((kv[..., :nope], np.repeat(pe[:, None], h, 1)), -1), kv[..., nope:]


def latent_parts(layer, x):
    r = layer.key('kv_lora_rank') * (layer.key('latent_groups') or 1)
    a = layer.project(x, 'kv_a_proj_with_mqa')
    return a[:, :r], layer.rotate(a[:, r:])


def mla_scale(layer):
    return (layer.key('qk_nope_head_dim') + layer.key('qk_rope_head_dim')) ** -0.5


@mechanism('mla')
def mla(layer, x, shared=None):
    h, nope, v = layer.key('num_attention_heads'), layer.key('qk_nope_head_dim'), layer.key('v_head_dim')
    owner, kv_x = shared or (layer, x)
    c, pe = latent_parts(owner, kv_x)
    k, val = multiplied_out(owner.latent_norm(c), pe, layer.w('kv_b_proj.weight'), h, nope, v)
    return output(layer, attend_heads(layer.latent_queries(x), k, val, mla_scale(layer)))


def kvr_keys(layer, x):
    """Rope keys of each KV head [T, G, rope], rotated by its own frequencies where there are any."""
    g = layer.key('num_key_value_heads')
    pe = layer.project(x, 'k_rope_proj').reshape(len(x), g, -1)
    if not layer.has('rope_freqs'):
        return layer.rotate(pe)
    return np.stack([layer.rotate(pe[:, i], freqs=layer.w('rope_freqs')[i]) for i in range(g)], 1)


def kvr_queries(layer, x):
    h, g = layer.key('num_attention_heads'), layer.key('num_key_value_heads')
    nope, dr = layer.key('qk_nope_head_dim'), layer.key('qk_rope_head_dim')
    q = layer.project(x, 'q_proj').reshape(len(x), h, nope + dr)
    if not layer.has('rope_freqs'):
        pe = layer.rotate(q[..., nope:])
    else:
        pe = np.stack([layer.rotate(q[:, i, nope:], freqs=layer.w('rope_freqs')[i * g // h]) for i in range(h)], 1)
    return np.concatenate((q[..., :nope], pe), -1)


@mechanism('mla_kvr')
def mla_kvr(layer, x, images=None):
    h, g = layer.key('num_attention_heads'), layer.key('num_key_value_heads')
    nope, v = layer.key('qk_nope_head_dim'), layer.key('v_head_dim')
    c = layer.project(x, 'kv_a_proj')
    kv = layer.project(c, 'kv_b_proj')
    if images is not None:
        i = layer.project(layer.project(x, 'kv_a_proj_img'), 'kv_b_proj_img')
        kv = np.where(images[:, None], i, kv)
    kv = kv.reshape(len(x), h, nope + v)
    pe = kvr_keys(layer, x)[:, np.arange(h) * g // h]
    k = np.concatenate((kv[..., :nope], pe), -1)
    return output(layer, attend_heads(kvr_queries(layer, x), k, kv[..., nope:], mla_scale(layer)))


@mechanism('mla_vlm')
def mla_vlm(layer, x):
    return mla_kvr(layer, x, np.isin(layer.model.tokens, layer.key('image_token_ids')))


@mechanism('gla')
def gla(layer, x):
    h, nope, v = layer.key('num_attention_heads'), layer.key('qk_nope_head_dim'), layer.key('v_head_dim')
    m, r = layer.key('latent_groups'), layer.key('kv_lora_rank')
    c, pe = latent_parts(layer, x)
    q, b = layer.latent_queries(x), layer.w('kv_b_proj.weight').reshape(h, nope + v, r)
    o = []
    for j in range(m):
        heads = slice(j * h // m, (j + 1) * h // m)
        cj = rms(c[:, j * r:(j + 1) * r], layer.w('kv_a_layernorm.weight')[j], layer.model.eps)
        k, val = multiplied_out(cj, pe, b[heads].reshape(-1, r), h // m, nope, v)
        o.append(attend_heads(q[:, heads], k, val, mla_scale(layer)))
    return output(layer, np.concatenate(o, 1))


@mechanism('mlra')
def mlra(layer, x):
    h, nope, v = layer.key('num_attention_heads'), layer.key('qk_nope_head_dim'), layer.key('v_head_dim')
    n, branches, r = layer.key('latent_blocks'), layer.key('latent_branches'), layer.key('kv_lora_rank')
    w, hb = r // n, h * branches // n
    c, pe = latent_parts(layer, x)
    q, kv_b = layer.latent_queries(x), layer.w('kv_b_proj.weight')
    o = np.zeros((len(x), h, v))
    for i in range(n):
        ci = rms(c[:, i * w:(i + 1) * w], layer.w('kv_a_layernorm.weight')[i], layer.model.eps)
        k, val = multiplied_out(ci, pe, kv_b[i], hb, nope, v)
        first = 0 if hb == h else (i % 2) * hb  # two branches: even blocks serve the first half of the heads
        heads = slice(first, first + hb)
        o[:, heads] += attend_heads(q[:, heads], k, val, mla_scale(layer))
    return output(layer, o / np.sqrt(branches))


@mechanism('mtla')
def mtla(layer, x):
    h, nope, v = layer.key('num_attention_heads'), layer.key('qk_nope_head_dim'), layer.key('v_head_dim')
    s, t, r = layer.key('temporal_stride'), len(x), layer.key('kv_lora_rank')
    c, pe = latent_parts(layer, x)
    c = layer_norm(c, 1e-5, layer.w('kv_a_layernorm.weight'), layer.w('kv_a_layernorm.bias'))
    slot = np.arange(t) // s
    a = slot[:, None] * 10000.0 ** (-2.0 * np.arange(r // 2) / r)
    code = np.stack((np.sin(a), np.cos(a)), -1).reshape(t, r)
    w = sigmoid(((layer.project(code, 'temporal_pe_proj') + layer.w('temporal_pe_proj.bias')) *
                 (layer.project(c, 'temporal_c_proj') + layer.w('temporal_c_proj.bias'))).sum(-1))
    q, o = layer.latent_queries(x), np.zeros((t, h, v))
    for i in range(t):  # what token i sees: whole slots, and of its own slot what has come so far
        seen = np.stack([(w[:i + 1, None] * c[:i + 1])[slot[:i + 1] == j].sum(0) for j in range(slot[i] + 1)])
        latest = np.minimum(np.arange(slot[i] + 1) * s + s - 1, i)
        k, val = multiplied_out(seen, pe[latest], layer.w('kv_b_proj.weight'), h, nope, v)
        p = softmax(np.einsum('hd,jhd->hj', q[i], k) * mla_scale(layer))
        o[i] = np.einsum('hj,jhd->hd', p, val)
    return output(layer, o)


@mechanism('eg_mla')
def eg_mla(layer, x):
    h, nope, v = layer.key('num_attention_heads'), layer.key('qk_nope_head_dim'), layer.key('v_head_dim')
    c, pe = latent_parts(layer, x)
    kv = layer.project(layer.latent_norm(c), 'kv_b_proj')
    gate = layer.w('gate_embed')[layer.model.tokens] @ layer.w('gate_up.weight').T
    kv = (kv * gate).reshape(len(x), h, nope + v)
    if layer.key('gate_norm') == 'all':
        kv = layer_norm(kv.reshape(len(x), -1), layer.model.eps).reshape(kv.shape)
    else:
        kv = layer_norm(kv, layer.model.eps)
    k = np.concatenate((kv[..., :nope], np.repeat(pe[:, None], h, 1)), -1)
    return output(layer, attend_heads(layer.latent_queries(x), k, kv[..., nope:], mla_scale(layer)))


# --- others ------------------------------------------------------------------------------------------


@mechanism('lrkv')
def lrkv(layer, x):
    h, dh, r = layer.key('num_attention_heads'), layer.key('head_dim'), layer.key('kv_residual_rank')
    t = len(x)
    q = layer.rotate(layer.project(x, 'q_proj').reshape(t, h, dh))
    k, val = layer.project(x, 'k_proj'), layer.project(x, 'v_proj')
    rk = layer.project(x, 'k_res_proj').reshape(t, h, r)
    rv = layer.project(x, 'v_res_proj').reshape(t, h, r)
    k_up, v_up = layer.w('k_res_up'), layer.w('v_res_up')  # [H, dh, r]
    if layer.key('lrkv_rope') == 'latent':
        key = layer.rotate(k)[:, None] + np.einsum('hdr,thr->thd', k_up, layer.rotate(rk))
    else:
        key = layer.rotate(k[:, None] + np.einsum('hdr,thr->thd', k_up, rk))
    value = val[:, None] + np.einsum('hdr,thr->thd', v_up, rv)
    return output(layer, attend_heads(q, key, value, dh ** -0.5))


@mechanism('tucker')
def tucker(layer, x):
    h, t = layer.key('num_attention_heads'), len(x)
    q = np.einsum('hkr,tr->thk', layer.w('q_core'), layer.project(x, 'q_a_proj'))
    k, v = layer.rotate(layer.project(x, 'k_proj')), layer.project(x, 'v_proj')
    o = attend_heads(layer.rotate(q), np.repeat(k[:, None], h, 1), np.repeat(v[:, None], h, 1),
                     layer.key('head_dim') ** -0.5)
    return layer.project(np.einsum('hov,thv->to', layer.w('o_core'), o), 'o_proj')


@mechanism('tpa')
def tpa(layer, x):
    h, dh, t = layer.key('num_attention_heads'), layer.key('head_dim'), len(x)

    def factors(of):  # [t, R, H] and [t, R, dh]
        rank = layer.key('tpa_rank_' + of)
        return (layer.project(x, f'a_{of}_proj').reshape(t, rank, h), layer.project(x, f'b_{of}_proj').reshape(t, rank, dh))

    def product(a, b):
        return np.einsum('trh,trd->thd', a, b) / a.shape[1]

    q, k, v = (product(*factors(of)) for of in 'qkv')
    return output(layer, attend_heads(layer.rotate(q), layer.rotate(k), v, dh ** -0.5))


@mechanism('cca')
def cca(layer, x):
    h, g, dh, t = layer.key('num_attention_heads'), layer.key('num_key_value_heads'), layer.key('head_dim'), len(x)
    n = layer.key('rotary_dim')
    q, k = layer.project(x, 'q_proj'), layer.project(x, 'k_proj')
    q_mean = (q.reshape(t, h, dh) + np.repeat(k.reshape(t, g, dh), h // g, 1)) / 2
    k_mean = q_mean.reshape(t, g, h // g, dh).mean(2)

    def before(a):
        return np.concatenate((np.zeros_like(a[:1]), a[:-1]))

    u = np.concatenate((q, k), -1)
    w = layer.w('conv_qk_depthwise.weight')  # [(H + G) dh, 1, 2]: the tap before, and now's
    u0 = before(u) * w[:, 0, 0] + u * w[:, 0, 1] + layer.w('conv_qk_depthwise.bias')
    # both run over two columns of zeros before the sequence, so the first one's output there is its bias
    past = np.concatenate((layer.w('conv_qk_depthwise.bias')[None], u0[:-1])).reshape(t, h + g, dh)
    heads = u0.reshape(t, h + g, dh)
    w = layer.w('conv_qk_grouped.weight').reshape(h + g, dh, dh, 2)
    u = np.einsum('god,tgd->tgo', w[..., 0], past) + np.einsum('god,tgd->tgo', w[..., 1], heads) + \
        layer.w('conv_qk_grouped.bias').reshape(h + g, dh)
    q, k = u[:, :h] + q_mean, u[:, h:] + k_mean
    q = q / np.sqrt((q * q).sum(-1, keepdims=True) + 1e-12) * np.sqrt(dh)
    k = k / np.sqrt((k * k).sum(-1, keepdims=True) + 1e-12) * np.sqrt(dh) * layer.w('k_temp')[:, None]
    n = dh // 2 if n is None else n
    q, k = layer.rotate(q, n), layer.rotate(k, n)
    delayed = before(layer.project(x, 'v_proj_delayed')).reshape(t, g, dh // 2)
    v = np.concatenate((layer.project(x, 'v_proj_current').reshape(t, g, dh // 2), delayed), -1)
    of = np.arange(h) * g // h
    return output(layer, attend_heads(q, k[:, of], v[:, of], dh ** -0.5))


@mechanism('moas')
def moas(layer, x):
    h, dh, t = layer.key('num_attention_heads'), layer.key('head_dim'), len(x)
    n = layer.key('rotary_dim')
    gate = gelu(x @ layer.w('gate_a.weight').T + layer.w('gate_a.bias'))
    gate = softmax(gate @ layer.w('gate_b.weight').T + layer.w('gate_b.bias'))
    y = 0
    for i, (branch, g) in enumerate((('mha', h), ('gqa', layer.key('num_key_value_heads')), ('mqa', 1))):
        q = layer.rotate(layer.project(x, branch + '.q_proj').reshape(t, h, dh), dh if n is None else n)
        k = layer.rotate(layer.project(x, branch + '.k_proj').reshape(t, g, dh), dh if n is None else n)
        v = layer.project(x, branch + '.v_proj').reshape(t, g, dh)
        of = np.arange(h) * g // h
        y = y + gate[:, i:i + 1] * output(layer, attend_heads(q, k[:, of], v[:, of], dh ** -0.5), branch + '.o_proj')
    return y


def memory_levels(layer, x):
    decay, levels = layer.key('memory_decay', 0.9), [x, np.empty_like(x)]
    state = np.zeros(x.shape[1])
    for i in range(len(x)):
        state = decay * state + (1 - decay) * x[i]
        levels[1][i] = state
    return levels


def memory_router(layer, x, act):
    q = layer.project(x, 'q_proj')
    a = act(layer.project(q, 'router_a') + layer.w('router_a.bias'))
    return softmax(layer.project(a, 'router_b') + layer.w('router_b.bias'))


def memory_attend(layer, x, memory):
    h, g, dh, t = layer.key('num_attention_heads'), layer.key('num_key_value_heads'), layer.key('head_dim'), len(x)
    n = layer.key('rotary_dim')
    n = dh if n is None else n
    q = layer.rotate(layer.project(x, 'q_proj').reshape(t, h, dh), n)
    k = layer.rotate(layer.project(memory, 'k_proj').reshape(t, g, dh), n)
    v = layer.project(memory, 'v_proj').reshape(t, g, dh)
    of = np.arange(h) * g // h
    return attend_heads(q, k[:, of], v[:, of], dh ** -0.5)


@mechanism('mka')
def mka(layer, x):
    lam = memory_router(layer, x, gelu)
    o = sum(lam[:, l, None, None] * memory_attend(layer, x, m) for l, m in enumerate(memory_levels(layer, x)))
    return output(layer, o)


@mechanism('fast_mka')
def fast_mka(layer, x):
    lam = memory_router(layer, x, silu)
    f = sum(lam[:, l, None] * m for l, m in enumerate(memory_levels(layer, x)))
    return output(layer, memory_attend(layer, x, f))


# --- the model -----------------------------------------------------------------------------------------


class Model:
    def __init__(self, config, tensors):
        self.config, self.eps = config, config['rms_norm_eps']
        self.tensors = {k: np.asarray(v, np.float64) for k, v in tensors.items()}

    def owner(self, i):
        """The layer whose rows layer i attends to."""
        if 'kv_layer' in self.config:
            return self.config['kv_layer'][i]
        s = self.config.get('kv_share_factor', 1)
        return i // s * s

    def hidden(self, tokens):
        """What the last norm gives for each token."""
        c, w = self.config, self.tensors
        self.tokens = np.asarray(tokens)
        x, inputs = w['model.embed_tokens.weight'][self.tokens], {}
        for i in range(c['num_hidden_layers']):
            name = c['attention_mechanism']
            name = name[i] if isinstance(name, list) else name
            at, own = f'model.layers.{i}.', self.owner(i)
            inputs[i] = n = rms(x, w[at + 'input_layernorm.weight'], self.eps)
            f = MECHANISMS[name]
            x = x + (f(Layer(self, i), n) if own == i else f(Layer(self, i), n, (Layer(self, own), inputs[own])))
            n = rms(x, w[at + 'post_attention_layernorm.weight'], self.eps)
            gate, up = n @ w[at + 'mlp.gate_proj.weight'].T, n @ w[at + 'mlp.up_proj.weight'].T
            x = x + (silu(gate) * up) @ w[at + 'mlp.down_proj.weight'].T
        return rms(x, w['model.norm.weight'], self.eps)

    def logits(self, tokens):
        c, w = self.config, self.tensors
        return self.hidden(tokens) @ w['model.embed_tokens.weight' if c['tie_word_embeddings'] else 'lm_head.weight'].T
