#!/usr/bin/env python3
"""Is tests/reference/family.py what the papers say? Identities between mechanisms that hold exactly, one-token recurrences
against the form over a whole sequence, and the committed checkpoints against their golden.json. TAP; needs NumPy."""
import json
import os
import struct
import sys

try:
    import numpy as np
except ImportError:
    print('1..0 # SKIP no NumPy (python3-numpy)')
    sys.exit(0)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import family as f  # noqa: E402
import layouts  # noqa: E402
import make  # noqa: E402

CHECKS = []
D, T = make.D, 19
RNG = np.random.default_rng(8)
X = RNG.standard_normal((T, D))
TOKENS = RNG.integers(0, make.VOCAB, T)


def check(fn):
    CHECKS.append(fn)
    return fn


def layer(mechanism, **keys):
    """Layer 0 of a random model."""
    c = {**make.BASE, **keys, 'attention_mechanism': mechanism}
    made = make.random_tensors(mechanism, c)
    model = f.Model(c, {k: make.from_bf16(v) for k, v in made.items()})
    model.tokens = TOKENS
    return f.Layer(model, 0)


def bare(mechanism, weights, **keys):
    """Layer 0 with the weights given: name -> array."""
    c = {**make.BASE, **keys, 'attention_mechanism': mechanism}
    model = f.Model(c, {'model.layers.0.self_attn.' + k: v for k, v in weights.items()})
    model.tokens = TOKENS
    return f.Layer(model, 0)


def attend(l, x=X):
    return f.MECHANISMS[l.model.config['attention_mechanism']](l, x)


def weights(l):
    at = 'model.layers.0.self_attn.'
    return {k[len(at):]: v for k, v in l.model.tensors.items() if k.startswith(at)}


def same(a, b, within=1e-11):
    worst = np.abs(a - b).max() / np.abs(b).max()
    assert worst < within, f'{worst:.3g} apart'


def apart(a, b):
    worst = np.abs(a - b).max() / np.abs(b).max()
    assert worst > 1e-3, f'only {worst:.3g} apart'


def heads(w, n):  # the rows of a projection, by head
    return w.reshape(n, -1, w.shape[-1])


def gqa_of(l, q, k, v, **keys):
    """Plain attention of projections composed to [heads, dh, d], with o_proj of l."""
    keys.setdefault('num_attention_heads', len(q))
    return bare('gqa', {'q_proj.weight': q.reshape(-1, D), 'k_proj.weight': k.reshape(-1, D),
                        'v_proj.weight': v.reshape(-1, D), 'o_proj.weight': l.w('o_proj.weight')},
                num_key_value_heads=len(k), head_dim=q.shape[1], **keys)


# --- keys and values as they are -------------------------------------------------------------------


@check
def ragged_groups_are_repeated_heads():
    of = [0, 2, 0, 1, 0, 1]
    l = layer('gqa', num_attention_heads=6, num_key_value_heads=3, head_dim=8, kv_head_map=of)
    q, k, v = (heads(l.w(n + '_proj.weight'), m) for n, m in (('q', 6), ('k', 3), ('v', 3)))
    same(attend(l), attend(gqa_of(l, q, k[of], v[of])))


@check
def reverse_sqa_repeats_queries():
    l = layer('gqa', num_attention_heads=2, num_key_value_heads=4, head_dim=12)
    q, k, v = (heads(l.w(n + '_proj.weight'), m) for n, m in (('q', 2), ('k', 4), ('v', 4)))
    same(attend(l), attend(gqa_of(l, q[[0, 0, 1, 1]], k, v)))


@check
def linear_knocking_heads_fold():
    l = layer('gqa', knocking_heads='linear')
    q, k, v = (np.einsum('ij,hjd->hid', l.w(n + '_knock.weight'), heads(l.w(n + '_proj.weight'), m))
               for n, m in (('q', 4), ('k', 2), ('v', 2)))
    same(attend(l), attend(gqa_of(l, q, k, v)))


@check
def a_basis_of_its_own_per_head_changes_nothing_when_orthogonal():
    l = layer('gqa', kv_heads_before=2, num_key_value_heads=2)
    w = weights(l)
    w['k_basis'] = np.stack([np.linalg.qr(b)[0] for b in w['k_basis']])
    l = bare('gqa', w, kv_heads_before=2, num_key_value_heads=2)
    q, k, v = (heads(w[n + '_proj.weight'], m) for n, m in (('q', 4), ('k', 2), ('v', 2)))
    same(attend(l), attend(gqa_of(l, q, k, v)))


@check
def a_follower_has_the_keys_of_its_owner():
    own, l = layer('gqa'), bare('gqa', {k: v[::-1] for k, v in weights(layer('gqa')).items()})
    w = {**weights(own), **{k: l.w(k) for k in ('q_proj.weight', 'o_proj.weight')}}
    same(f.gqa(l, X, (own, X)), attend(bare('gqa', w)))  # of one input: a layer with weights of both
    own = layer('mla', **make.LATENT)
    l = bare('mla', {k: v[::-1] for k, v in weights(own).items()}, **make.LATENT)
    w = {**weights(l), **{k: v for k, v in weights(own).items() if 'kv_a' in k}}  # what is multiplied out is its own
    same(f.mla(l, X, (own, X)), attend(bare('mla', w, **make.LATENT)))


@check
def mfa_kr_is_mfa_with_values_of_keys_and_folds_into_the_output():
    l = layer('mfa_kr', share_q_dim=20, head_dim=24)
    w = weights(l)
    m = w.pop('kr_map.weight')
    with_v = {**w, 'v_proj.weight': m @ w['k_proj.weight']}
    same(attend(l), attend(bare('mfa', with_v, share_q_dim=20, head_dim=24)))
    folded = np.einsum('dhv,vk->dhk', w['o_proj.weight'].reshape(D, 4, 24), m).reshape(D, -1)
    k = l.project(X, 'k_proj')  # only these are kept: turned for the score, as they are for the value
    o = f.attend_heads(f.mfa_queries(l, X), np.repeat(l.rotate(k)[:, None], 4, 1), np.repeat(k[:, None], 4, 1), 24 ** -0.5)
    same(o.reshape(T, -1) @ folded.T, attend(l))


@check
def gta_is_gqa_with_keys_tied_to_values():
    l = layer('gta')
    half = 8
    q, kv = heads(l.w('q_proj.weight'), 4), heads(l.w('kv_proj.weight'), 2)
    pe = np.repeat(l.w('k_rope_proj.weight')[None], 2, 0)
    q = np.concatenate((q[:, half:], q[:, :half]), 1)  # gqa turns the first values of a head, gta the last
    same(attend(l), attend(gqa_of(l, q, np.concatenate((pe, kv[:, :half]), 1), kv, rotary_dim=half)))


# --- latents -----------------------------------------------------------------------------------------


def absorbed(l, q, c, pe, kv_b):
    """Heads of q over latents c and rope keys pe, nothing multiplied out; kv_b [h, nope + v, r]. -> [T, h, v]"""
    nope = l.key('qk_nope_head_dim')
    qc = np.einsum('thn,hnr->thr', q[..., :nope], kv_b[:, :nope])
    s = np.einsum('ihr,jr->hij', qc, c) + np.einsum('ihp,jp->hij', q[..., nope:], pe)
    z = np.einsum('hij,jr->ihr', f.causal(s * f.mla_scale(l)), c)
    return np.einsum('ihr,hvr->ihv', z, kv_b[:, nope:])


@check
def mla_absorbed_is_mla():
    l = layer('mla', **make.LATENT)
    c, pe = f.latent_parts(l, X)
    o = absorbed(l, l.latent_queries(X), l.latent_norm(c), pe, heads(l.w('kv_b_proj.weight'), 4))
    same(f.output(l, o), attend(l))


@check
def one_latent_group_or_block_is_mla():
    keys = {**make.LATENT}
    l = layer('mla', **keys)
    w = weights(l)
    norm, up = w['kv_a_layernorm.weight'], w['kv_b_proj.weight']
    same(attend(bare('gla', {**w, 'kv_a_layernorm.weight': norm[None]}, latent_groups=1, **keys)), attend(l))
    same(attend(bare('mlra', {**w, 'kv_a_layernorm.weight': norm[None], 'kv_b_proj.weight': up[None]},
                     latent_blocks=1, latent_branches=1, **keys)), attend(l))


@check
def gla_absorbed_is_mla_of_its_heads():
    l = layer('gla', latent_groups=2, **{**make.LATENT, 'kv_lora_rank': 24})
    c, pe = f.latent_parts(l, X)
    q, up = l.latent_queries(X), heads(l.w('kv_b_proj.weight'), 4)
    o = [absorbed(l, q[:, h:h + 1], f.rms(c[:, h // 2 * 24:h // 2 * 24 + 24], l.w('kv_a_layernorm.weight')[h // 2],
                                          l.model.eps), pe, up[h:h + 1]) for h in range(4)]
    same(f.output(l, np.concatenate(o, 1)), attend(l))


def mlra_absorbed(branches, blocks_of_head):
    l = layer('mlra', latent_blocks=4, latent_branches=branches, **{**make.LATENT, 'kv_lora_rank': 64})
    c, pe = f.latent_parts(l, X)
    q, up = l.latent_queries(X), l.w('kv_b_proj.weight')
    o = np.zeros((T, 4, l.key('v_head_dim')))
    for h in range(4):
        for i in blocks_of_head(h):
            ci = f.rms(c[:, 16 * i:16 * i + 16], l.w('kv_a_layernorm.weight')[i], l.model.eps)
            row = heads(up[i], branches)[h % branches]
            o[:, h:h + 1] += absorbed(l, q[:, h:h + 1], ci, pe, row[None])
    same(f.output(l, o / np.sqrt(branches)), attend(l))


@check
def mlra_4_absorbed():
    mlra_absorbed(4, lambda h: range(4))


@check
def mlra_2_absorbed_first_half_of_the_heads_reads_even_blocks():
    mlra_absorbed(2, lambda h: (h // 2, h // 2 + 2))


@check
def mla_kvr_is_gqa_of_composed_keys_and_values():
    keys = {**make.LATENT, 'q_lora_rank': None, 'qk_nope_head_dim': 8, 'qk_rope_head_dim': 8, 'v_head_dim': 16}
    l = layer('mla_kvr', latent_norm='none', **keys)
    q, kv = heads(l.w('q_proj.weight'), 4), heads(l.w('kv_b_proj.weight'), 4) @ l.w('kv_a_proj.weight')
    pe = heads(l.w('k_rope_proj.weight'), 2)[[0, 0, 1, 1]]
    k = np.concatenate((pe, kv[:, :8]), 1)
    same(attend(l), attend(gqa_of(l, np.concatenate((q[:, 8:], q[:, :8]), 1), k, kv[:, 8:], rotary_dim=8)))


@check
def mla_vlm_without_or_with_images_alone_is_mla_kvr():
    keys = {**make.LATENT, 'q_lora_rank': None, 'latent_norm': 'none'}
    l = layer('mla_vlm', image_token_ids=[], **keys)
    w = weights(l)
    text = bare('mla_kvr', w, **keys)
    image = bare('mla_kvr', {**w, 'kv_a_proj.weight': w['kv_a_proj_img.weight'],
                             'kv_b_proj.weight': w['kv_b_proj_img.weight']}, **keys)
    same(attend(l), attend(text))
    same(attend(bare('mla_vlm', w, image_token_ids=[int(t) for t in TOKENS], **keys)), attend(image))
    apart(attend(text), attend(image))


@check
def mla_vlm_by_two_absorbed_queries():
    images = sorted({int(t) for t in TOKENS})[::2]
    keys = {**make.LATENT, 'q_lora_rank': None, 'latent_norm': 'none'}
    l = layer('mla_vlm', image_token_ids=images, **keys)
    is_image = np.isin(TOKENS, images)
    nope, g = l.key('qk_nope_head_dim'), 2
    q, pe = f.kvr_queries(l, X), f.kvr_keys(l, X)[:, np.arange(4) * g // 4]
    c = np.where(is_image[:, None], l.project(X, 'kv_a_proj_img'), l.project(X, 'kv_a_proj'))
    ups = [heads(l.w('kv_b_proj' + tail + '.weight'), 4) for tail in ('', '_img')]
    s = np.einsum('ihp,jhp->hij', q[..., nope:], pe)
    of = [np.einsum('ihn,hnr,jr->hij', q[..., :nope], up[:, :nope], c) for up in ups]
    a = f.causal((s + np.where(is_image, of[1], of[0])) * f.mla_scale(l))
    o = sum(np.einsum('hij,jr,hvr->ihv', a * keep, c, up[:, nope:]) for keep, up in zip((~is_image, is_image), ups))
    same(f.output(l, o), attend(l))


@check
def eg_mla_over_all_heads_by_two_scalars_a_key():
    l = layer('eg_mla', gate_embed_dim=10, gate_norm='all', **make.LATENT)
    nope = l.key('qk_nope_head_dim')
    c, pe = f.latent_parts(l, X)
    c = l.latent_norm(c)
    y = (c @ l.w('kv_b_proj.weight').T) * (l.w('gate_embed')[TOKENS] @ l.w('gate_up.weight').T)
    mean, inv = y.mean(-1), 1 / np.sqrt(y.var(-1) + l.model.eps)
    y, q = y.reshape(T, 4, -1), l.latent_queries(X)
    s = (np.einsum('ihn,jhn->hij', q[..., :nope], y[..., :nope]) - q[..., :nope].sum(-1).T[:, :, None] * mean) * inv
    a = f.causal((s + np.einsum('ihp,jp->hij', q[..., nope:], pe)) * f.mla_scale(l))
    z = np.einsum('hij,jhv->ihv', a * inv, y[..., nope:]) - np.einsum('hij,j->ih', a * inv, mean)[..., None]
    same(f.output(l, z), attend(l))


# --- MTLA --------------------------------------------------------------------------------------------


def mtla_rows(l, x):
    """Weighted latents [T, r] and rope keys of each token, before they are merged."""
    r, s = l.key('kv_lora_rank'), l.key('temporal_stride')
    c, pe = f.latent_parts(l, x)
    c = f.layer_norm(c, 1e-5, l.w('kv_a_layernorm.weight'), l.w('kv_a_layernorm.bias'))
    code = np.zeros((len(x), r))
    for i in range(len(x)):  # spelled out, unlike family.py
        for p in range(r // 2):
            a = (i // s) / 10000.0 ** (2.0 * p / r)
            code[i, 2 * p], code[i, 2 * p + 1] = np.sin(a), np.cos(a)
    u = code @ l.w('temporal_pe_proj.weight').T + l.w('temporal_pe_proj.bias')
    v = c @ l.w('temporal_c_proj.weight').T + l.w('temporal_c_proj.bias')
    return c / (1 + np.exp(-(u * v).sum(-1, keepdims=True))), pe


def mtla_recurrent(s):
    l = layer('mtla', temporal_stride=s, **make.LATENT)
    wc, pe = mtla_rows(l, X)
    q, up, slots, keys, o = l.latent_queries(X), heads(l.w('kv_b_proj.weight'), 4), [], [], []
    for i in range(T):  # append at a chunk's first token, else add to the last slot and overwrite its rope key
        if i % s == 0:
            slots.append(wc[i])
            keys.append(pe[i])
        else:
            slots[-1], keys[-1] = slots[-1] + wc[i], pe[i]
        c, k, nope = np.array(slots), np.array(keys), l.key('qk_nope_head_dim')
        sc = np.einsum('hn,hnr,jr->hj', q[i, :, :nope], up[:, :nope], c) + np.einsum('hp,jp->hj', q[i, :, nope:], k)
        p = f.softmax(sc * f.mla_scale(l))
        o.append(np.einsum('hj,jr,hvr->hv', p, c, up[:, nope:]))
    same(f.output(l, np.array(o)), attend(l))
    return l


def mtla_masked(s):
    """The training form: T columns of partial sums, column j seen by row i if it ends its chunk or j == i."""
    l = layer('mtla', temporal_stride=s, **make.LATENT)
    wc, pe = mtla_rows(l, X)
    i = np.arange(T)
    partial = np.stack([wc[j // s * s:j + 1].sum(0) for j in i])
    k, v = f.multiplied_out(partial, pe, l.w('kv_b_proj.weight'), 4, l.key('qk_nope_head_dim'), l.key('v_head_dim'))
    see = (i[None] < i[:, None]) & ((i[None] + 1) % s == 0) | np.eye(T, dtype=bool)
    a = f.softmax(np.where(see, np.einsum('ihd,jhd->hij', l.latent_queries(X), k) * f.mla_scale(l), -np.inf))
    same(f.output(l, np.einsum('hij,jhd->ihd', a, v)), attend(l))


@check
def mtla_token_by_token():
    for s in (1, 2, 3, 4, 5, 7):
        mtla_recurrent(s)


@check
def mtla_with_the_stride_aware_mask():
    for s in (1, 2, 3, 4, 5, 7):
        mtla_masked(s)


@check
def mtla_of_stride_1_is_mla_over_weighted_latents():
    l = layer('mtla', temporal_stride=1, **make.LATENT)
    wc, pe = mtla_rows(l, X)
    same(f.output(l, absorbed(l, l.latent_queries(X), wc, pe, heads(l.w('kv_b_proj.weight'), 4))), attend(l))


# --- others ------------------------------------------------------------------------------------------


@check
def lrkv_full_is_mha_of_composed_keys_and_values():
    l = layer('lrkv', kv_residual_rank=5, lrkv_rope='full')
    k, v = (l.w(n + '_proj.weight') + np.einsum('hir,hrd->hid', l.w(n + '_res_up'), heads(l.w(n + '_res_proj.weight'), 4))
            for n in 'kv')
    same(attend(l), attend(gqa_of(l, heads(l.w('q_proj.weight'), 4), k, v)))


def lrkv_by_parts(l):
    """Scores q.k + (up^T q).res with everything turned: the printed identity."""
    q = l.rotate(l.project(X, 'q_proj').reshape(T, 4, -1))
    rk, rv = (l.project(X, n + '_res_proj').reshape(T, 4, -1) for n in 'kv')
    s = np.einsum('ihd,jd->hij', q, l.rotate(l.project(X, 'k_proj'))) + \
        np.einsum('ihd,hdr,jhr->hij', q, l.w('k_res_up'), l.rotate(rk))
    a = f.causal(s * l.key('head_dim') ** -0.5)
    o = np.einsum('hij,jd->ihd', a, l.project(X, 'v_proj')) + \
        np.einsum('hij,jhr,hdr->ihd', a, rv, l.w('v_res_up'))
    return f.output(l, o)


@check
def lrkv_latent_is_the_printed_identity_and_full_is_not():
    l = layer('lrkv', kv_residual_rank=6, lrkv_rope='latent')
    same(lrkv_by_parts(l), attend(l))
    full = bare('lrkv', weights(l), kv_residual_rank=6, lrkv_rope='full')
    apart(lrkv_by_parts(full), attend(full))


def tucker_of(l, h, g, dh):
    """Tucker weights of a gqa layer: ranks (H dh, G dh), cores that pick a head and its group."""
    core_q, core_o = np.zeros((h, g * dh, h * dh)), np.zeros((h, h * dh, g * dh))
    for i in range(h):
        at = i * g // h * dh
        core_q[i, at:at + dh, i * dh:(i + 1) * dh] = core_o[i, i * dh:(i + 1) * dh, at:at + dh] = np.eye(dh)
    w = weights(l)
    return bare('tucker', {'q_a_proj.weight': w['q_proj.weight'], 'q_core': core_q, 'k_proj.weight': w['k_proj.weight'],
                           'v_proj.weight': w['v_proj.weight'], 'o_core': core_o, 'o_proj.weight': w['o_proj.weight']},
                head_dim=dh)


@check
def tucker_is_mqa_with_its_rope():
    l = layer('gqa', num_key_value_heads=1)
    same(attend(tucker_of(l, 4, 1, 16)), attend(l))


@check
def tucker_is_gqa_and_mha_without_rope_but_not_with_it():
    for g in (2, 4):
        l = layer('gqa', num_key_value_heads=g)
        t = tucker_of(l, 4, g, 16)
        apart(attend(t), attend(l))  # it turns all r3 values as one head: other frequencies
        l.rotate = t.rotate = lambda x, n=None, freqs=None: x
        same(attend(t), attend(l))


@check
def moas_with_a_gate_that_is_sure_is_one_branch():
    l = layer('moas')
    for i, (branch, g) in enumerate((('mha', 4), ('gqa', 2), ('mqa', 1))):
        w = weights(l)
        w['gate_b.bias'] = np.where(np.arange(3) == i, 1e4, -1e4)
        of = {k[len(branch) + 1:]: v for k, v in w.items() if k.startswith(branch + '.')}
        same(attend(bare('moas', w)), attend(bare('gqa', of, num_key_value_heads=g)))


@check
def cca_token_by_token():
    """What is kept of the past: keys, values, and of the last token its q and k rows, theirs convolved, and its delayed v."""
    h, g, dh, n = 4, 2, 16, 8
    l = layer('cca', rotary_dim=n)
    dw, db = l.w('conv_qk_depthwise.weight')[:, 0], l.w('conv_qk_depthwise.bias')
    gw, gb = l.w('conv_qk_grouped.weight').reshape(h + g, dh, dh, 2), l.w('conv_qk_grouped.bias').reshape(h + g, dh)
    u_old, c_old, v_old = np.zeros((h + g) * dh), db.copy(), np.zeros(g * dh // 2)
    ks, vs, o = [], [], []

    def turn(a, i):
        return np.concatenate((f.rope(a[None, :, :n], l.model.config['rope_theta'], False, positions=np.array([i]))[0],
                               a[:, n:]), -1)

    def unit(a):
        return a / np.sqrt((a * a).sum(-1, keepdims=True) + 1e-12) * np.sqrt(dh)

    for i in range(T):
        x = X[i]
        q, k = l.project(x, 'q_proj'), l.project(x, 'k_proj')
        u = np.concatenate((q, k))
        c = dw[:, 0] * u_old + dw[:, 1] * u + db
        y = np.stack([gw[e, :, :, 0] @ heads(c_old[:, None], h + g)[e, :, 0] +
                      gw[e, :, :, 1] @ heads(c[:, None], h + g)[e, :, 0] + gb[e] for e in range(h + g)])
        q, k = q.reshape(h, dh), k.reshape(g, dh)
        q_mean = np.stack([(q[e] + k[e // 2]) / 2 for e in range(h)])
        k_mean = np.stack([(q_mean[2 * e] + q_mean[2 * e + 1]) / 2 for e in range(g)])
        q = turn(unit(y[:h] + q_mean), i)
        ks.append(turn(unit(y[h:] + k_mean) * l.w('k_temp')[:, None], i))
        vs.append(np.concatenate((l.project(x, 'v_proj_current').reshape(g, -1), v_old.reshape(g, -1)), -1))
        u_old, c_old, v_old = u, c, l.project(x, 'v_proj_delayed')
        k, v = np.array(ks), np.array(vs)
        o.append([f.softmax(k[:, e // 2] @ q[e] / np.sqrt(dh)) @ v[:, e // 2] for e in range(h)])
    same(f.output(l, np.array(o)), attend(l))


def memory_closed(decay):  # L2 without the recurrence: (1 - decay) sum of decay^(t - i) x_i
    i = np.arange(T)
    age = i[:, None] - i[None]
    return np.where(age >= 0, (1 - decay) * decay ** np.maximum(age, 0), 0) @ X


@check
def memory_as_a_weighted_sum():
    l = layer('mka', head_dim=8, memory_decay=0.8)
    same(f.memory_levels(l, X)[1], memory_closed(0.8))


@check
def fast_mka_sums_keys_of_its_levels():
    """The projections are linear: k_t is the mix of the keys of both levels, which mka keeps apart."""
    l = layer('fast_mka', head_dim=8, memory_decay=0.8)
    lam = f.memory_router(l, X, f.silu)
    levels = (X, memory_closed(0.8))
    k, v = (sum(lam[:, i, None] * l.project(m, n) for i, m in enumerate(levels)).reshape(T, 2, 8)
            for n in ('k_proj', 'v_proj'))
    q, of = l.rotate(l.project(X, 'q_proj').reshape(T, 4, 8)), [0, 0, 1, 1]
    same(f.output(l, f.attend_heads(q, l.rotate(k)[:, of], v[:, of], 8 ** -0.5)), attend(l))


@check
def mka_that_remembers_nothing_is_gqa():
    l = layer('mka', head_dim=8, memory_decay=0.0)  # L2 = L1: both levels alike, their weights sum to one
    plain = {k: v for k, v in weights(l).items() if not k.startswith('router')}
    for mechanism in ('mka', 'fast_mka'):
        same(attend(bare(mechanism, weights(l), head_dim=8, memory_decay=0.0)), attend(bare('gqa', plain, head_dim=8)))


# --- the committed data --------------------------------------------------------------------------------


def read_safetensors(path):
    with open(path, 'rb') as file:
        n, = struct.unpack('<Q', file.read(8))
        head, data = json.loads(file.read(n)), file.read()
    out = {}
    for name, t in head.items():
        a, b = t['data_offsets']
        assert t['dtype'] == 'BF16', name
        out[name] = make.from_bf16(np.frombuffer(data[a:b], '<u2')).reshape(t['shape'])
    return out


@check
def committed_checkpoints_give_their_goldens():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data', 'family')
    assert sorted(os.listdir(top)) == sorted(make.MODELS), 'folders and make.py name different models'
    for name in make.MODELS:
        with open(os.path.join(top, name, 'config.json')) as file:
            c = json.load(file)
        with open(os.path.join(top, name, 'golden.json')) as file:
            golden = json.load(file)
        model = f.Model(c, read_safetensors(os.path.join(top, name, 'model.safetensors')))
        try:
            same(model.logits(golden['tokens'])[golden['positions']], np.array(golden['logits']), 1e-10)
        except AssertionError as e:
            raise AssertionError(f'{name}: {e}') from None


@check
def committed_layouts_give_their_goldens():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data', 'layout')
    assert sorted(os.listdir(top)) == sorted(layouts.LAYOUTS), 'folders and layouts.py name different models'
    for name, (cls, changes) in layouts.LAYOUTS.items():
        with open(os.path.join(top, name, 'golden.json')) as file:
            golden = json.load(file)
        model = cls(changes)
        model.tensors = {k: v.astype(np.float64)
                         for k, v in read_safetensors(os.path.join(top, name, 'model.safetensors')).items()}
        try:
            same(model.logits(golden['tokens'])[golden['positions']], np.array(golden['logits']), 1e-10)
        except AssertionError as e:
            raise AssertionError(f'{name}: {e}') from None


def main():
    failed = 0
    print(f'1..{len(CHECKS)}')
    for i, fn in enumerate(CHECKS, 1):
        said = fn.__name__.replace('_', ' ')
        try:
            fn()
            print(f'ok {i} - reference: {said}')
        except Exception as e:  # a check that breaks is a failure with its reason; the others still run
            failed += 1
            print(f'not ok {i} - reference: {said}\n# {type(e).__name__}: {e}')
    return failed > 0


if __name__ == '__main__':
    sys.exit(main())
