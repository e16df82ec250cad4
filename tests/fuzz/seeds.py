#!/usr/bin/env python3
"""Writes tests/fuzz/seeds and tests/fuzz/weights: the same bytes whenever it runs.

seeds.py [--folders DIR]: DIR holds small Hugging Face folders, one per family; their config.json become
seeds and the shapes of their tensors become weights/FAMILY.txt. Without it those are left as they are.
"ok-" seeds must be served, "bad-" ones refused (replay.c).
"""
import argparse, json, os, struct

HERE = os.path.dirname(os.path.abspath(__file__))
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q",
         F64: "d"}


SEEDS = {}


def put(kind, name, data):
    SEEDS.setdefault(kind, {})[name] = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")


def write_packs():
    """One file per kind, as replay.c reads it: "name bytes", a line end, the bytes, a line end."""
    os.makedirs(os.path.join(HERE, "seeds"), exist_ok=True)
    for kind, seeds in SEEDS.items():
        with open(os.path.join(HERE, "seeds", kind), "wb") as f:
            for name in sorted(seeds):
                f.write(b"%s %d\n%s\n" % (name.encode(), len(seeds[name]), seeds[name]))


# --- GGUF ------------------------------------------------------------------------------------------

def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def value(kind, v):
    if kind == STR:
        return text(v)
    if kind == ARR:
        elem, items = v
        return struct.pack("<IQ", elem, len(items)) + b"".join(value(elem, i) for i in items)
    return struct.pack("<" + FORMS[kind], v)


class Tensor:
    def __init__(self, name, ne, type_id=0):
        self.name, self.ne, self.type, self.offset = name, ne, type_id, None

    def size(self):
        n = 1
        for d in self.ne:
            n *= d
        blocks = {0: (1, 4), 1: (1, 2), 30: (1, 2), 8: (32, 34), 2: (32, 18), 3: (32, 20), 6: (32, 22),
                  7: (32, 24), 20: (32, 18), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176),
                  14: (256, 210), 23: (256, 136)}
        elems, size = blocks.get(self.type, (1, 4))
        return n // elems * size


class Gguf:
    """A file under construction; every number in it can be overridden to make it wrong."""

    def __init__(self, kv, tensors, alignment=32):
        self.kv, self.tensors, self.alignment = kv, tensors, alignment
        self.version, self.n_tensors, self.n_kv = 3, None, None
        self.cut = None

    def bytes(self):
        def count(claimed, real):
            return real if claimed is None else claimed
        out = b"GGUF" + struct.pack("<IQQ", self.version, count(self.n_tensors, len(self.tensors)),
                                    count(self.n_kv, len(self.kv)))
        for key, kind, v in self.kv:
            out += text(key) + struct.pack("<I", kind) + (v if isinstance(v, bytes) and kind != STR
                                                          else value(kind, v))
        at = 0
        for t in self.tensors:
            offset = at if t.offset is None else t.offset
            ne = t.ne
            out += text(t.name) + struct.pack("<I", len(ne)) + struct.pack("<%dQ" % len(ne), *ne)
            out += struct.pack("<IQ", t.type, offset)
            if t.offset is None:
                at = (at + t.size() + self.alignment - 1) // self.alignment * self.alignment
        out += b"\0" * (-len(out) % self.alignment)
        out += bytes((i * 37 + 11) & 0x3f for i in range(at))
        return out if self.cut is None else out[:self.cut]


def alphabet():
    """The byte alphabet of GPT-2: a printable character per byte."""
    plain = list(range(0x21, 0x7f)) + list(range(0xa1, 0xad)) + list(range(0xae, 0x100))
    out, n = {}, 0
    for b in range(256):
        if b in plain:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + n)
            n += 1
    return [out[b] for b in range(256)]


SPECIALS = ["<s>", "</s>", "<|eot_id|>", "[PAD]"]
MERGES = ["h e", "l l", "he ll", "\u0120 t", "i n"]


def vocabulary():
    return alphabet() + [m.replace(" ", "", 1) for m in MERGES] + SPECIALS


def tokenizer_kv(pre="deepseek-v3"):
    tokens = vocabulary()
    types = [1] * (len(tokens) - len(SPECIALS)) + [3] * len(SPECIALS)
    return [("tokenizer.ggml.model", STR, "gpt2"), ("tokenizer.ggml.pre", STR, pre),
            ("tokenizer.ggml.tokens", ARR, (STR, tokens)), ("tokenizer.ggml.token_type", ARR, (I32, types)),
            ("tokenizer.ggml.merges", ARR, (STR, MERGES)),
            ("tokenizer.ggml.bos_token_id", U32, len(tokens) - 4),
            ("tokenizer.ggml.eos_token_id", U32, len(tokens) - 3),
            ("tokenizer.ggml.padding_token_id", U32, len(tokens) - 1),
            ("tokenizer.ggml.add_bos_token", BOOL, 1)]


def sentencepiece_kv():
    tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + ["\u2581", "h", "e", "l", "o",
                                                                             "\u2581h", "el", "lo"]
    types = [2, 3, 3] + [6] * 256 + [1] * 8
    scores = [0.0] * 259 + [-float(i) for i in range(8)]
    return [("tokenizer.ggml.model", STR, "llama"), ("tokenizer.ggml.tokens", ARR, (STR, tokens)),
            ("tokenizer.ggml.scores", ARR, (F32, scores)), ("tokenizer.ggml.token_type", ARR, (I32, types)),
            ("tokenizer.ggml.bos_token_id", U32, 1), ("tokenizer.ggml.eos_token_id", U32, 2),
            ("tokenizer.ggml.unknown_token_id", U32, 0), ("tokenizer.ggml.add_space_prefix", BOOL, 1)]


def deepseek2(experts=0, q_lora=4, split=True, tokenizer=None, vocab=None, type_id=1, alignment=32, hidden=4):
    """One or two layers, every size as small as it goes."""
    kv_tok = tokenizer or []
    vocab = vocab or (len(dict((k, v) for k, _, v in kv_tok)["tokenizer.ggml.tokens"][1]) if kv_tok else 3)
    h, heads, nope, rope, v, lora, ffn, moe = hidden, 2, 2, 2, 2, 4, 4, 2
    layers = 2 if experts else 1
    p = "deepseek2."
    kv = [("general.architecture", STR, "deepseek2"), ("general.name", STR, "tiny"),
          (p + "block_count", U32, layers), (p + "context_length", U32, 64), (p + "embedding_length", U32, h),
          (p + "feed_forward_length", U32, ffn), (p + "attention.head_count", U32, heads),
          (p + "attention.head_count_kv", U32, 1), (p + "attention.layer_norm_rms_epsilon", F32, 1e-6),
          (p + "attention.kv_lora_rank", U32, lora), (p + "rope.dimension_count", U32, rope),
          (p + "rope.freq_base", F32, 10000.0), (p + "vocab_size", U32, vocab)]
    if q_lora:
        kv.append((p + "attention.q_lora_rank", U32, q_lora))
    if split:
        kv += [(p + "attention.key_length", U32, lora + rope), (p + "attention.value_length", U32, lora),
               (p + "attention.key_length_mla", U32, nope + rope), (p + "attention.value_length_mla", U32, v)]
    else:
        kv += [(p + "attention.key_length", U32, nope + rope), (p + "attention.value_length", U32, v)]
    if experts:
        kv += [(p + "leading_dense_block_count", U32, 1), (p + "expert_count", U32, experts),
               (p + "expert_used_count", U32, 1), (p + "expert_shared_count", U32, 1),
               (p + "expert_feed_forward_length", U32, moe), (p + "expert_weights_scale", F32, 2.5),
               (p + "expert_weights_norm", BOOL, 1), (p + "expert_gating_func", U32, 2),
               (p + "rope.scaling.type", STR, "yarn"), (p + "rope.scaling.factor", F32, 4.0),
               (p + "rope.scaling.original_context_length", U32, 16),
               (p + "rope.scaling.yarn_log_multiplier", F32, 0.1)]
    if alignment != 32:
        kv.append(("general.alignment", U32, alignment))
    kv += kv_tok

    tensors = [Tensor("token_embd.weight", [h, vocab], type_id), Tensor("output_norm.weight", [h])]
    for i in range(layers):
        b = "blk.%d." % i
        tensors += [Tensor(b + "attn_norm.weight", [h]), Tensor(b + "ffn_norm.weight", [h])]
        if q_lora:
            tensors += [Tensor(b + "attn_q_a.weight", [h, q_lora]), Tensor(b + "attn_q_a_norm.weight", [q_lora]),
                        Tensor(b + "attn_q_b.weight", [q_lora, heads * (nope + rope)])]
        else:
            tensors += [Tensor(b + "attn_q.weight", [h, heads * (nope + rope)])]
        tensors += [Tensor(b + "attn_kv_a_mqa.weight", [h, lora + rope]),
                    Tensor(b + "attn_kv_a_norm.weight", [lora])]
        if split:
            tensors += [Tensor(b + "attn_k_b.weight", [nope, lora, heads]),
                        Tensor(b + "attn_v_b.weight", [lora, v, heads])]
        else:
            tensors += [Tensor(b + "attn_kv_b.weight", [lora, heads * (nope + v)])]
        tensors += [Tensor(b + "attn_output.weight", [heads * v, h])]
        if experts and i >= 1:
            tensors += [Tensor(b + "ffn_gate_inp.weight", [h, experts]), Tensor(b + "exp_probs_b.bias", [experts]),
                        Tensor(b + "ffn_gate_exps.weight", [h, moe, experts]),
                        Tensor(b + "ffn_up_exps.weight", [h, moe, experts]),
                        Tensor(b + "ffn_down_exps.weight", [moe, h, experts]),
                        Tensor(b + "ffn_gate_shexp.weight", [h, moe]), Tensor(b + "ffn_up_shexp.weight", [h, moe]),
                        Tensor(b + "ffn_down_shexp.weight", [moe, h])]
        else:
            tensors += [Tensor(b + "ffn_gate.weight", [h, ffn]), Tensor(b + "ffn_up.weight", [h, ffn]),
                        Tensor(b + "ffn_down.weight", [ffn, h])]
    return Gguf(kv, tensors, alignment)


def without(g, key):
    g.kv = [k for k in g.kv if k[0] != key]
    return g


def change(g, key, kind, v):
    g.kv = [(k, kind, v) if k == key else (k, t, x) for k, t, x in g.kv]
    if key not in [k[0] for k in g.kv]:
        g.kv.append((key, kind, v))
    return g


def tensor(g, name):
    return next(t for t in g.tensors if t.name == name)


def gguf_seeds():
    def bad(name, g):
        put("gguf", "bad-" + name, g if isinstance(g, bytes) else g.bytes())

    def ok(name, g):
        put("gguf", "ok-" + name, g.bytes())

    ok("split-kb", deepseek2())
    ok("legacy-kvb", deepseek2(split=False))
    ok("without-q-lora", deepseek2(q_lora=0, split=False))
    ok("experts-yarn", deepseek2(experts=2))
    ok("tokenizer", deepseek2(tokenizer=tokenizer_kv(), alignment=8))
    ok("quantised", deepseek2(type_id=8, hidden=32))
    put("gguf", "sentencepiece", deepseek2(tokenizer=sentencepiece_kv(), alignment=8).bytes())

    g = deepseek2()
    g.kv += [("split.no", U16, 0), ("split.count", U16, 2), ("split.tensors.count", I32, len(g.tensors))]
    half = len(g.tensors) // 2
    second = Gguf([("split.no", U16, 1), ("split.count", U16, 2)], g.tensors[half:])
    g.tensors = g.tensors[:half]
    one = g.bytes()
    put("gguf", "ok-two-parts", one + second.bytes())
    bad("second-part-missing", one)
    second.kv[0] = ("split.no", U16, 7)
    bad("second-part-number", one + second.bytes())
    second.kv[0] = ("split.no", U16, 1)
    second.tensors = g.tensors
    bad("second-part-repeats-tensors", one + second.bytes())
    bad("split-count-huge", change(deepseek2(), "split.count", U16, 65535))

    bad("empty", b"")
    bad("magic", b"GGUG" + deepseek2().bytes()[4:])
    for version in (0, 1, 4, 0x03000000, 0xffffffff):
        g = deepseek2()
        g.version = version
        bad("version-%x" % version, g)
    for name, n in (("2-63", 1 << 63), ("max", (1 << 64) - 1), ("wraps-size", (1 << 64) // 24 + 1), ("one-more", 20),
                    ("2-32", 1 << 32)):
        g = deepseek2()
        g.n_kv = n
        bad("n-kv-" + name, g)
        g = deepseek2()
        g.n_tensors = n if name != "one-more" else len(g.tensors) + 1
        bad("n-tensors-" + name, g)
    g = deepseek2()
    g.n_tensors = 0
    bad("n-tensors-0", g)
    for name, n in (("max", (1 << 64) - 1), ("wraps", (1 << 64) - 8), ("file", 4096), ("int-min", 1 << 31)):
        bad("key-length-" + name, b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, n) + b"general.name" + b"\0" * 64)
        bad("string-length-" + name,
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("general.name") + struct.pack("<IQ", STR, n) + b"\0" * 64)
        for elem, label in ((STR, "str"), (U64, "u64"), (U8, "u8")):
            bad("array-length-%s-%s" % (label, name),
                b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("tokenizer.ggml.tokens") +
                struct.pack("<IIQ", ARR, elem, n) + b"\0" * 64)
    bad("array-of-arrays", change(deepseek2(), "x", ARR, struct.pack("<IQ", ARR, 1) * 40))
    bad("array-element-type", change(deepseek2(), "x", ARR, struct.pack("<IQ", 13, 1) + b"\0" * 16))
    bad("value-type", change(deepseek2(), "x", 13, b"\0" * 16))
    bad("value-type-max", change(deepseek2(), "x", 0xffffffff, b"\0" * 16))
    bad("key-empty", change(deepseek2(), "", U8, 1))
    bad("key-control", change(deepseek2(), "a\x1b[31m", U8, 1))
    bad("key-nul", change(deepseek2(), "general.name\0x", U8, 1))
    bad("key-long", change(deepseek2(), "k" * 1025, U8, 1))
    g = deepseek2()
    g.kv.append(("general.name", STR, "again"))
    bad("key-twice", g)
    for a in (0, 1, 4, 3, 24, 31, 33, 1 << 21, (1 << 32) - 1):
        bad("alignment-%d" % a, change(deepseek2(), "general.alignment", U32, a))
    bad("alignment-negative", change(deepseek2(), "general.alignment", I64, -32))
    bad("alignment-string", change(deepseek2(), "general.alignment", STR, "32"))
    bad("alignment-u64", change(deepseek2(), "general.alignment", U64, 1 << 63))
    for name, offset in (("max", (1 << 64) - 32), ("outside", 1 << 20), ("odd", 33), ("2-63", 1 << 63)):
        g = deepseek2()
        tensor(g, "output_norm.weight").offset = offset
        bad("tensor-offset-" + name, g)
    g = deepseek2()
    tensor(g, "output_norm.weight").offset = 0
    bad("tensors-overlap", g)
    g = deepseek2()
    g.tensors[-1].offset = sum((t.size() + 31) // 32 * 32 for t in g.tensors[:-1]) + 32
    bad("tensor-crosses-end", g)
    for name, ne in (("dims-0", []), ("dims-5", [1, 1, 1, 1, 4]), ("ne-0", [0]), ("ne-max", [(1 << 64) - 1]),
                     ("ne-product", [1 << 32, 1 << 32]), ("ne-product-63", [1 << 31, 1 << 32]),
                     ("ne-product-size", [1 << 40, 1 << 22]), ("ne-2-48", [1 << 48]), ("ne-wraps", [1 << 33, 1 << 31, 4, 4])):
        g = deepseek2()
        t = tensor(g, "output_norm.weight")
        t.ne, t.offset = ne, 0
        bad("tensor-" + name, g)
    g = deepseek2()
    t = tensor(g, "output_norm.weight")
    head = g.bytes()
    at = head.index(b"output_norm.weight") + len(b"output_norm.weight")
    bad("tensor-dims-max", head[:at] + b"\xff" * 4 + head[at + 4:])
    for type_id in (4, 5, 9, 15, 16, 31, 36, 40, 255, 256, 1001, 1 << 31, (1 << 32) - 1):
        g = deepseek2()
        tensor(g, "output_norm.weight").type = type_id
        bad("tensor-type-%d" % type_id, g)
    for type_id in (2, 8, 12, 23):
        g = deepseek2()
        tensor(g, "blk.0.attn_output.weight").type = type_id
        bad("tensor-block-%d" % type_id, g)
    g = deepseek2()
    g.tensors.append(Tensor("output_norm.weight", [4]))
    bad("tensor-twice", g)
    for name, s in (("empty", ""), ("long", "t" * 300), ("control", "blk\n")):
        g = deepseek2()
        g.tensors.append(Tensor(s, [4]))
        bad("tensor-name-" + name, g)
    for name in ("token_embd", "blk.0.attn_kv_a_mqa", "blk.0.ffn_down"):
        g = deepseek2()
        g.tensors.remove(tensor(g, name + ".weight"))
        bad("tensor-missing-" + name, g)
    for i, key in enumerate(("block_count", "context_length", "embedding_length", "attention.head_count",
                             "attention.kv_lora_rank", "rope.dimension_count", "vocab_size",
                             "attention.q_lora_rank")):
        for v, kind in ((0, U32), ((1 << 32) - 1, U32), (-1, I32), ((1 << 63), U64), (1 << 20, U32)):
            if key == "context_length" and v == 1 << 20:
                continue
            bad("%s-%s" % (key.replace("attention.", ""), v), change(deepseek2(), "deepseek2." + key, kind, v))
        bad(key.replace("attention.", "") + "-string", change(deepseek2(), "deepseek2." + key, STR, "1"))
    for v in ((1 << 32) - 1, 3, 100000):
        bad("expert-count-%d" % v, change(deepseek2(experts=2), "deepseek2.expert_count", U32, v))
    for v in (3, (1 << 32) - 1):
        bad("expert-used-%d" % v, change(deepseek2(experts=2), "deepseek2.expert_used_count", U32, v))
    bad("expert-groups-0", change(deepseek2(experts=2), "deepseek2.expert_group_count", U32, 0))
    bad("expert-groups-3", change(deepseek2(experts=4), "deepseek2.expert_group_count", U32, 3))
    bad("nextn-all", change(deepseek2(experts=2), "deepseek2.nextn_predict_layers", U32, 2))
    for name, v in (("nan", float("nan")), ("inf", float("inf")), ("negative", -1.0)):
        bad("eps-" + name, change(deepseek2(), "deepseek2.attention.layer_norm_rms_epsilon", F32, v))
        bad("freq-" + name, change(deepseek2(), "deepseek2.rope.freq_base", F32, v))
    bad("yarn-factor-nan", change(deepseek2(experts=2), "deepseek2.rope.scaling.factor", F32, float("nan")))
    bad("architecture", change(deepseek2(), "general.architecture", STR, "llama"))
    bad("architecture-nul", change(deepseek2(), "general.architecture", STR, "deepseek2\0x"))
    bad("architecture-long", change(deepseek2(), "general.architecture", STR, "d" * 5000))
    bad("architecture-missing", without(deepseek2(), "general.architecture"))

    def tok(key, kind, v):
        return change(deepseek2(tokenizer=tokenizer_kv(), alignment=8), "tokenizer.ggml." + key, kind, v)
    n = len(vocabulary())
    bad("tokens-missing", without(tok("pre", STR, "deepseek-v3"), "tokenizer.ggml.tokens"))
    bad("tokens-too-many", tok("tokens", ARR, (STR, vocabulary() + ["x"])))
    bad("tokens-empty", tok("tokens", ARR, (STR, [])))
    bad("tokens-type", tok("tokens", ARR, (U32, [1, 2])))
    bad("token-types-short", tok("token_type", ARR, (I32, [1] * (n - 1))))
    bad("token-types-i64", tok("token_type", ARR, (I64, [1] * n)))
    bad("scores-short", tok("scores", ARR, (F32, [1.0])))
    bad("bos-outside", tok("bos_token_id", U32, n))
    bad("bos-2-31", tok("bos_token_id", U32, 1 << 31))
    bad("eos-negative", tok("eos_token_id", I32, -2))
    bad("merge-without-space", tok("merges", ARR, (STR, ["he"])))
    bad("pre-unknown", tok("pre", STR, "no-such"))
    bad("model-unknown", tok("model", STR, "wordpiece"))
    bad("add-bos-2", tok("add_bos_token", BOOL, 2))
    put("gguf", "merge-of-missing-tokens", tok("merges", ARR, (STR, ["qq ww", "h zz", " ", "  ", "a  b"])).bytes())
    put("gguf", "merges-twice", tok("merges", ARR, (STR, MERGES + MERGES)).bytes())
    put("gguf", "token-types-odd", tok("token_type", ARR, (I32, [-(1 << 31), 99, 0, 6, 5, 2, 4] + [1] * (n - 7))).bytes())
    put("gguf", "tokens-equal", tok("tokens", ARR, (STR, ["same"] * n)).bytes())
    put("gguf", "tokens-of-no-bytes", tok("tokens", ARR, (STR, [""] * n)).bytes())
    put("gguf", "tokens-not-utf8", tok("tokens", ARR, (STR, [b"\xff\xfe", b"\xc3", b"\0"] + vocabulary()[3:])).bytes())
    put("gguf", "template", change(deepseek2(), "tokenizer.chat_template", STR, "{{ messages }}").bytes())
    bad("template-nul", change(deepseek2(), "tokenizer.chat_template", STR, "{{ a }}\0{{ b }}"))
    for name, cut in (("magic", 3), ("version", 6), ("counts", 20), ("key", 30), ("kv", 300), ("infos", 900)):
        g = deepseek2()
        g.cut = cut
        bad("cut-" + name, g)
    whole = deepseek2().bytes()
    bad("cut-data", whole[:-40])


# --- safetensors -----------------------------------------------------------------------------------

def safetensors(entries, length=None, data=None, raw=None):
    header = raw if raw is not None else json.dumps(entries, separators=(",", ":")).encode()
    size = max([e["data_offsets"][1] for e in entries.values() if isinstance(e, dict) and "data_offsets" in e]
               or [0]) if data is None else data
    return struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * size


TINY = [("model.embed_tokens.weight", [8, 4]), ("model.norm.weight", [4]),
        ("model.layers.0.input_layernorm.weight", [4]), ("model.layers.0.post_attention_layernorm.weight", [4]),
        ("model.layers.0.self_attn.q_proj.weight", [4, 4]),
        ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", [6, 4]),
        ("model.layers.0.self_attn.kv_a_layernorm.weight", [4]),
        ("model.layers.0.self_attn.kv_b_proj.weight", [4, 4]), ("model.layers.0.self_attn.o_proj.weight", [4, 2]),
        ("model.layers.0.mlp.gate_proj.weight", [4, 4]), ("model.layers.0.mlp.up_proj.weight", [4, 4]),
        ("model.layers.0.mlp.down_proj.weight", [4, 4])]


def tiny(dtype="BF16", names=TINY):
    out, at = {}, 0
    for name, shape in names:
        n = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1}[dtype]
        for d in shape:
            n *= d
        out[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + n]}
        at += n
    return out


def safetensors_seeds():
    kind = "safetensors"

    def bad(name, data):
        put(kind, "bad-" + name, data)

    for dtype in ("BF16", "F16", "F32"):
        put(kind, "ok-" + dtype.lower(), safetensors(tiny(dtype)))
    put(kind, "f8", safetensors(tiny("F8_E4M3")))
    with_meta = {"__metadata__": {"format": "pt"}}
    with_meta.update(tiny())
    put(kind, "ok-metadata", safetensors(with_meta))
    a, b = tiny(names=TINY[:5]), tiny(names=TINY[5:])
    index = {"metadata": {}, "weight_map": {k: "a.safetensors" if k in a else "b.safetensors" for k, _ in TINY}}

    def shards(index_text, one, two=None):
        # a shard must not hold the divider itself: the data are zeros and the header is text
        return b"\x1e" + index_text.encode() + b"\x1e" + one + (b"" if two is None else b"\x1e" + two)
    sa, sb = safetensors(a), safetensors(b)
    assert b"\x1e" not in sa and b"\x1e" not in sb
    put(kind, "ok-shards", shards(json.dumps(index), sa, sb))
    bad("shard-missing", shards(json.dumps(index), sa))
    bad("shard-repeats", shards(json.dumps(index), sa, sa))
    for name, path in (("parent", "../a.safetensors"), ("root", "/etc/passwd"), ("dot", "."), ("dotdot", ".."),
                       ("empty", ""), ("self", "model.safetensors.index.json"), ("long", "a" * 300)):
        bad("shard-path-" + name, shards(json.dumps({"weight_map": {"x": path}}), sa, sb))
    bad("index-number", shards('{"weight_map":{"x":1}}', sa, sb))
    bad("index-list", shards('{"weight_map":[]}', sa, sb))
    bad("index-twice", shards('{"weight_map":{},"weight_map":{}}', sa, sb))
    bad("index-empty", shards("", sa, sb))

    good = tiny()
    bad("empty", b"")
    bad("seven-bytes", b"\1\0\0\0\0\0\0")
    for name, n in (("0", 0), ("max", (1 << 64) - 1), ("wraps", (1 << 64) - 8), ("2-63", 1 << 63), ("2-32", 1 << 32),
                    ("past-end", 100000)):
        bad("header-length-" + name, safetensors(good, length=n))
    bad("not-json", safetensors(good, raw=b"\x80\4pickle"))
    bad("header-list", safetensors(good, raw=b"[]"))
    bad("header-deep", safetensors({}, raw=b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"))
    bad("header-trailing", safetensors(good, raw=json.dumps(good).encode() + b"{}"))
    bad("header-nul", safetensors(good, raw=json.dumps(good).encode() + b"\0"))

    def with_entry(name, **changes):
        d = tiny()
        d["model.norm.weight"].update(changes)
        bad(name, safetensors(d, data=2000))
    first = good["model.norm.weight"]["data_offsets"]
    with_entry("offsets-reversed", data_offsets=first[::-1])
    with_entry("offsets-negative", data_offsets=[-8, 0])
    with_entry("offsets-outside", data_offsets=[1 << 40, (1 << 40) + 8])
    with_entry("offsets-2-53", data_offsets=[(1 << 53) - 8, 1 << 53])
    with_entry("offsets-1e300", data_offsets=[1e300, 1e300])
    with_entry("offsets-fraction", data_offsets=[64.5, 72.5])
    with_entry("offsets-three", data_offsets=first + [99])
    with_entry("offsets-one", data_offsets=[0])
    with_entry("offsets-strings", data_offsets=["64", "72"])
    with_entry("offsets-null", data_offsets=None)
    with_entry("offsets-short", data_offsets=[first[0], first[1] - 1])
    with_entry("offsets-overlap", data_offsets=[first[0] - 2, first[1] - 2])
    with_entry("shape-negative", shape=[-4])
    with_entry("shape-huge", shape=[1 << 53])
    with_entry("shape-product", shape=[1 << 32, 1 << 32])
    with_entry("shape-zero", shape=[0, 4], data_offsets=[0, 0])
    with_entry("shape-nine", shape=[1] * 9 + [4])
    with_entry("shape-five", shape=[1] * 4 + [4])
    with_entry("shape-string", shape="4")
    with_entry("shape-nested", shape=[[4]])
    with_entry("shape-null", shape=None)
    with_entry("shape-other", shape=[8], data_offsets=[first[0], first[0] + 16])
    with_entry("dtype-unknown", dtype="Q4")
    with_entry("dtype-number", dtype=1)
    with_entry("dtype-i64", dtype="I64", data_offsets=[1000, 1032])
    with_entry("dtype-bool", dtype="BOOL", data_offsets=[1000, 1004])
    d = tiny()
    d["model.norm.weight"] = 1
    bad("entry-number", safetensors(d))
    d = tiny()
    del d["model.layers.0.mlp.up_proj.weight"]
    bad("tensor-missing", safetensors(d))
    raw = json.dumps(tiny()).encode()
    bad("tensor-twice", safetensors(tiny(), raw=raw[:-1] + b"," + raw[1:]))
    bad("tensor-name-empty", safetensors(tiny(), raw=raw[:-1] + b',"":{"dtype":"F32","shape":[],"data_offsets":[0,0]}}'))
    bad("dtype-twice", safetensors(tiny(), raw=raw.replace(b'"dtype"', b'"dtype":"F32","dtype"', 1)))
    bad("data-cut", safetensors(tiny(), data=10))


# --- tokenizer.json --------------------------------------------------------------------------------

def bpe(**changes):
    tokens = alphabet() + [m.replace(" ", "", 1) for m in MERGES]
    n = len(tokens)
    t = {"version": "1.0",
         "added_tokens": [{"id": n + i, "content": s, "special": True, "normalized": False, "lstrip": False,
                           "rstrip": False, "single_word": False} for i, s in enumerate(SPECIALS)],
         "normalizer": None,
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
             {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated",
              "invert": False},
             {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
         "post_processor": {"type": "TemplateProcessing",
                            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                       {"Sequence": {"id": "A", "type_id": 0}}],
                            "special_tokens": {"<s>": {"id": "<s>", "ids": [n], "tokens": ["<s>"]}}},
         "decoder": {"type": "ByteLevel"},
         "model": {"type": "BPE", "vocab": {s: i for i, s in enumerate(tokens)}, "merges": MERGES,
                   "ignore_merges": False}}
    for path, v in changes.items():
        at, parts = t, path.split("__")
        for p in parts[:-1]:
            at = at[p]
        if v is ...:
            del at[parts[-1]]
        else:
            at[parts[-1]] = v
    return t


def tokenizer_seeds():
    kind = "tokenizer"

    def dump(t):
        return json.dumps(t, ensure_ascii=False, separators=(",", ":"))

    def ok(name, t, s="hello there 12345  in\n\n"):
        put(kind, "ok-" + name, dump(t) + "\x1e" + s)

    def bad(name, t):
        put(kind, "bad-" + name, t if isinstance(t, (str, bytes)) else dump(t))

    ok("byte-level", bpe())
    ok("pairs", bpe(model__merges=[m.split(" ") for m in MERGES]))
    ok("ignore-merges", bpe(model__ignore_merges=True))
    ok("without-space", bpe(), "hell" * 600)
    ok("spaces", bpe(), " " * 2000)
    ok("one-letter", bpe(), "l" * 2000)
    ok("digits", bpe(), "1234567890" * 200)
    ok("specials", bpe(), "<s></s><|eot_id|>" * 100 + "<|eot_id")
    put(kind, "not-utf8-text", dump(bpe()).encode() + b"\x1e\xff\xfe\xc3(\xed\xa0\x80\xf4\x90\x80\x80\0")
    small = bpe()
    small["model"]["vocab"] = {c: i for i, c in enumerate("abcdefgh")}
    small["model"]["merges"] = ["a b", "ab c"]
    small["added_tokens"] = []
    small["post_processor"] = None
    put(kind, "few-tokens", dump(small) + "\x1eabcabcxyz")

    def few(**changes):
        t = json.loads(dump(small))
        for k, v in changes.items():
            at, parts = t, k.split("__")
            for p in parts[:-1]:
                at = at[p]
            at[parts[-1]] = v
        return t

    def full(**changes):
        t = bpe()
        if "model__vocab" in changes:  # besides the bytes, from 256
            t["model"]["vocab"] = {c: i for i, c in enumerate(alphabet())}
            t["model"]["vocab"].update({k: v + 256 for k, v in changes.pop("model__vocab").items() if len(k) > 1})
            t["model"]["merges"], t["added_tokens"], t["post_processor"] = [], [], None
        if "added_tokens" in changes:
            t["post_processor"] = None
        for k, v in changes.items():
            at, parts = t, k.split("__")
            for p in parts[:-1]:
                at = at[p]
            at[parts[-1]] = v
        return t

    def split(regex):
        return full(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "use_regex": False}]})
    for name, regex in (("backtracking", "(a+)+$"), ("nested", "((a*)*)*b"), ("empty-match", "x*"), ("keep-out", "a\\Kb"),
                        ("keep-out-ahead", "(?=ab\\K)"), ("keep-out-behind", "(?<=a\\Kb)"), ("single-unit", "\\C"),
                        ("recursion", "(a(?1)?b)"), ("recursion-forever", "(?1)(a|(?1)b)"), ("repeat", "(a{1000}){1000}"),
                        ("callout", "a(?C1)b"), ("backreference", "(a+)\\1+"), ("verbs", "a(*SKIP)b(*F)|."),
                        ("limits", "(*LIMIT_MATCH=4294967295)(a+)+b"), ("not-utf8", "\udc80["),
                        ("lookbehind", "(?<=a{1,9})b"), ("unclosed", "((((("), ("deep", "(" * 300 + ")" * 300),
                        ("class", "[\\p{L}--a]"), ("possessive", "\\p{L}++|\\s*+"), ("define", "(?(DEFINE)(?<x>a\\K))(?=(?&x))")):
        data = dump(split(regex)).encode("utf-8", "surrogatepass").replace(b"\xed\xb2\x80", b"\x80")
        # these split characters or move a match's begin: no answer would be right
        refused = name in ("single-unit", "keep-out-ahead", "keep-out-behind", "unclosed", "limits", "deep")
        put(kind, ("bad-regex-" if refused else "regex-") + name, data + b"\x1e" + b"a" * 60 + b"abc" * 30)
    bad("empty", "")
    bad("list", "[]")
    bad("deep", '{"a":' * 2000 + "1" + "}" * 2000)
    bad("deep-list", '{"model":' + "[" * 100000)
    bad("model-missing", few(model=None))
    bad("model-type", few(model__type="WordPiece"))
    bad("vocab-list", few(model__vocab=[]))
    bad("vocab-empty", few(model__vocab={}))
    for name, v in (("negative", -1), ("outside", 1024), ("2-31", 1 << 31), ("2-63", 1 << 63), ("1e300", 1e300),
                    ("fraction", 0.5), ("string", "1"), ("null", None), ("list", [1])):
        bad("id-" + name, few(model__vocab={"a": v}))
        bad("added-id-" + name, few(added_tokens=[{"id": v, "content": "<s>", "special": True}]))
    bad("id-twice", few(model__vocab={"a": 1, "b": 1}))
    bad("vocab-key-twice", dump(small).replace('"a":0', '"a":0,"a":0'))
    bad("merges-object", few(model__merges={}))
    for name, v in (("no-space", "ab"), ("empty", ""), ("three", ["a", "b", "c"]), ("one", ["a"]), ("none", []), ("number", 1),
                    ("nested", [["a"], "b"])):
        bad("merge-" + name, few(model__merges=[v]))
    put(kind, "merge-of-missing-tokens", dump(full(model__merges=["x y", "a zz"])))
    put(kind, "merge-twice", dump(full(model__merges=["a b", "a b"])) + "\x1eabab")
    put(kind, "merge-circle", dump(full(model__vocab={"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4},
                                       model__merges=["a b", "b a", "ab a", "a ba"])) + "\x1e" + "ab" * 500)
    put(kind, "added-empty", dump(full(added_tokens=[{"id": 309, "content": "", "special": True}])) + "\x1eabc")
    put(kind, "added-prefixes", dump(full(added_tokens=[{"id": 320 + i, "content": "aa" + "b" * i, "special": i % 2 == 0}
                                                       for i in range(40)])) + "\x1eaa" + "b" * 500)
    put(kind, "added-same", dump(full(added_tokens=[{"id": 300 + i, "content": "zz", "special": True} for i in range(20)])) + "\x1ezz")
    put(kind, "added-replaces", dump(full(added_tokens=[{"id": 0, "content": "Q", "special": True}])) + "\x1eaQ")
    put(kind, "added-rules", dump(full(added_tokens=[{"id": 320, "content": "<x>", "lstrip": True, "rstrip": True},
                                                    {"id": 321, "content": "<y>", "single_word": True},
                                                    {"id": 322, "content": "<z>", "normalized": True}])) + "\x1e a <x> b<y>c <z>")
    bad("pretok-missing", few(pre_tokenizer=None))
    bad("pretok-unknown", few(pre_tokenizer={"type": "Nonsense"}))
    bad("pretok-many", few(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits"}] * 1000}))
    put(kind, "pretok-nested", dump(full(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}]})))
    put(kind, "split-string", dump(full(pre_tokenizer={"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": "a.*[(\\"}, "behavior": "Isolated"}, {"type": "ByteLevel"}]})) + "\x1eaa.*[(\\b")
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        put(kind, "split-" + behavior.lower(), dump(full(pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "b"}, "behavior": behavior}, {"type": "ByteLevel"}]})) + "\x1eabcab")
    put(kind, "post-nested", dump(full(post_processor={"type": "Sequence", "processors": [
        {"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": [{}], "special_tokens": 1}]}]})))
    deep = {"type": "TemplateProcessing", "single": []}
    for _ in range(400):
        deep = {"type": "Sequence", "processors": [deep]}
    put(kind, "post-deep", dump(full(post_processor=deep)))
    sp = {"model": {"type": "BPE", "byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>",
                    "vocab": {s: i for i, s in enumerate(["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
                                                       + ["\u2581", "a", "b", "\u2581a", "ab"])},
                    "merges": ["\u2581 a", "a b"]},
          "added_tokens": [{"id": i, "content": s, "special": True} for i, s in enumerate(["<unk>", "<s>", "</s>"])],
          "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                             {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
          "pre_tokenizer": None, "post_processor": None,
          "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                       {"type": "ByteFallback"}, {"type": "Fuse"},
                                                       {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}
    put(kind, "sentencepiece", dump(sp) + "\x1eab a  b \u00e9\n")
    for name, normalizer in (("nfc", {"type": "NFC"}), ("replace-empty", {"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
                             ("prepend-long", {"type": "Prepend", "prepend": "p" * 3000})):
        t = json.loads(dump(sp))
        t["normalizer"] = normalizer
        put(kind, "normalizer-" + name, dump(t) + "\x1ea\u0301b a")


# --- config.json -----------------------------------------------------------------------------------

def config_seeds(folders):
    kind = "config"
    family_of = {}
    os.makedirs(os.path.join(HERE, "weights"), exist_ok=True)
    for folder in sorted(os.listdir(folders)):
        path = os.path.join(folders, folder)
        with open(os.path.join(path, "config.json")) as f:
            config = json.load(f)
        if folder != config["model_type"]:
            continue  # the second of a family
        for key in ("torch_dtype", "transformers_version", "dtype", "_name_or_path"):
            config.pop(key, None)
        family_of[folder] = config
        with open(os.path.join(path, "model.safetensors"), "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        with open(os.path.join(HERE, "weights", folder + ".txt"), "w") as f:
            for name in sorted(header):
                if name != "__metadata__":
                    t = header[name]
                    f.write(" ".join([name, t["dtype"]] + [str(d) for d in t["shape"]]) + "\n")

    def dump(c):
        return json.dumps(c, separators=(",", ":"))

    for name, config in family_of.items():
        put(kind, "ok-" + name, dump(config))
    base = family_of["deepseek_v3"]

    def bad(name, c):
        put(kind, "bad-" + name, c if isinstance(c, (str, bytes)) else dump(c))

    def changed(**changes):
        c = json.loads(dump(base))
        c.update(changes)
        return c
    put(kind, "ok-with-files", dump(base) + '\x1e{"eos_token_id":[1,2,3],"bos_token_id":0}\x1e'
        '{"add_bos_token":true,"chat_template":[{"name":"default","template":"{{ x }}"}]}\x1e')
    put(kind, "ok-template-file", dump(base) + "\x1e\x1e\x1e{{ bos_token }}")
    put(kind, "eos-many", dump(base) + '\x1e{"eos_token_id":[' + ",".join(str(i) for i in range(400)) + "]}")
    put(kind, "eos-odd", dump(base) + '\x1e{"eos_token_id":[-1,1e300,0.5,"x",null,[1]],"bos_token_id":-1}')
    bad("empty", "")
    bad("list", "[]")
    bad("deep", '{"a":' * 2000 + "1" + "}" * 2000)
    bad("generation-not-json", dump(base) + "\x1e{")
    bad("tokenizer-config-list", dump(base) + "\x1e\x1e[]")
    bad("model-type-missing", {k: v for k, v in base.items() if k != "model_type"})
    bad("model-type-unknown", changed(model_type="gpt2"))
    bad("model-type-long", changed(model_type="d" * 3000))
    bad("key-twice", dump(base)[:-1] + ',"hidden_size":64}')
    for key in sorted(k for k, v in base.items() if isinstance(v, int) and not isinstance(v, bool)):
        for label, v in (("0", 0), ("negative", -1), ("2-31", 1 << 31), ("2-63", 1 << 63), ("1e300", 1e300),
                         ("half", 0.5), ("string", "1"), ("null", None), ("list", [])):
            put(kind, "%s-%s" % (key, label), dump(changed(**{key: v})))
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank"):
        for label in ("0", "negative", "2-31", "2-63", "1e300", "half", "string", "null", "list"):
            name = "%s-%s" % (key, label)
            SEEDS[kind]["bad-" + name] = SEEDS[kind].pop(name)
    for key in ("rms_norm_eps", "rope_theta", "routed_scaling_factor"):
        for label, v in (("nan", "NaN"), ("inf", "1e999"), ("negative", "-1")):
            put(kind, "%s-%s" % (key, label), dump(changed(**{key: "@"})).replace('"@"', v))
    bad("layers-1024", changed(num_hidden_layers=1024))
    bad("experts-8192", changed(n_routed_experts=8192))
    bad("experts-and-layers", changed(n_routed_experts=8192, num_hidden_layers=1024, first_k_dense_replace=0))
    bad("vocab-4m", changed(vocab_size=4 << 20))
    bad("heads-1024", changed(num_attention_heads=1024))
    bad("rope-type", changed(rope_parameters={"rope_type": "unknown"}))
    put(kind, "yarn", dump(changed(rope_parameters={"rope_type": "yarn", "factor": 4.0, "beta_fast": 1e-3,
                                                    "beta_slow": 1e6, "original_max_position_embeddings": 1})))
    put(kind, "longrope", dump(changed(rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 5000,
                                                     "long_factor": ["x", None, -1]})))


# --- templates -------------------------------------------------------------------------------------

def template_seeds():
    kind = "template"
    for name, s in (
            ("ok-text", "plain text"), ("ok-empty", ""),
            ("loop", "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"),
            ("ok-strip", " a {%- if true -%} b {%- endif -%} c {#- d -#} e"),
            ("ok-prompt", "{{ bos_token }}{% if add_generation_prompt %}<|a|>{% endif %}"),
            ("filters", "{% for m in messages %}{{ m.content | default('x') | string | trim | upper | tojson }}{% endfor %}"),
            ("namespace", "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
                          "{% endfor %}{{ ns.n }}"),
            ("macro", "{% macro f(a, b='x') -%}{{ a ~ b }}{%- endmacro %}{{ f('1') }}{{ f(b=2, a=3) }}"),
            ("slices", "{% for m in messages[1:] %}{{ m.role }}{% endfor %}{{ messages[::-1][0].role }}{{ 'abc'[-9:9:2] }}"),
            ("methods", "{{ 'a,b'.split(',')[-1] }}{{ ' x '.strip() }}{{ {'a': 1}.items() | list }}"
                        "{{ 'abc'.startswith('a') and 'abc'.endswith(('c','d')) }}{{ 'a'.replace('a', 'bb') }}"),
            ("tools", "{% if tools %}{% for t in tools %}{{ t.function | tojson(indent=2) }}{% endfor %}{% endif %}"),
            ("tool-calls", "{% for m in messages %}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}"
                           "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{% endfor %}"),
            ("set-block", "{% set x %}a{{ 1 + 1 }}{% endset %}{{ x | length }}"),
            ("call", "{% macro w() %}[{{ caller() }}]{% endmacro %}{% call w() %}in{% endcall %}"),
            ("strftime", "{{ strftime_now('%Y-%m-%d') }}"),
            ("tests", "{{ 1 is odd }}{{ 2 is divisibleby(2) }}{{ 'a' is in ['a'] }}{{ x is undefined }}{{ 1 is sameas 1 }}"),
            ("filters-2", "{{ [3,1,2] | sort | join('-') }}{{ messages | map(attribute='role') | unique | list }}"
                          "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'a b' | title | indent(2) }}"
                          "{{ '%s-%d' | format('a', 3) }}{{ 'x' | replace('x', 'yy') }}{{ [1,2,3] | batch(2) | list }}"),
            ("numbers", "{{ 1.5e3 }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ -7 % 3 }}{{ 1 / 3 }}{{ 1_000 }}{{ 0x10 }}"),
            ("loop-controls", "{% for i in range(10) %}{% if i == 3 %}{% continue %}{% elif i > 5 %}{% break %}{% endif %}"
                              "{{ loop.index ~ loop.revindex ~ loop.cycle('a','b') }}{% endfor %}"),
            ("raw", "{% raw %}{{ x }}{% endraw %}"), ("generation", "{% generation %}x{% endgeneration %}"),
            ("bad-raise", "{{ raise_exception('no') }}"), ("bad-unclosed", "{{ a"), ("bad-string", "{{ 'a }}"),
            ("bad-comment", "{# a"), ("bad-if", "{% if a %}"), ("bad-endfor", "{% endfor %}"), ("bad-operator", "{{ 1 + }}"),
            ("bad-statement", "{% frobnicate %}"),
            ("divide-by-zero", "{{ 1 / 0 }}{{ 1 % 0 }}{{ 1 // 0 }}"), ("min-by-minus-1", "{{ (-9223372036854775807 - 1) // -1 }}"
                                                                       "{{ (-9223372036854775807 - 1) % -1 }}"),
            ("overflow", "{{ 9223372036854775807 + 1 }}{{ 9223372036854775807 * 9223372036854775807 }}{{ 99999999999999999999 }}"
                         "{{ 2 ** 100000 }}{{ -9223372036854775808 }}"),
            ("repeat", "{{ 'a' * 1000000000 }}"), ("repeat-list", "{{ [1] * 1000000000 }}"), ("range", "{{ range(1000000000) | list }}"),
            ("center", "{{ 'a' | center(1000000000) }}{{ 'a'.center(1000000000) }}{{ 'a'.zfill(1000000000) }}"),
            ("indent", "{{ messages | tojson(indent=1000000000) }}"), ("format-width", "{{ '%1000000000d' | format(1) }}{{ '%*d' % (9, 1) }}"),
            ("format-n", "{{ '%n%s%x%p' | format(1) }}{{ '%s%s%s' % 'a' }}"), ("strftime-odd", "{{ strftime_now('%' * 500) }}{{ strftime_now('%9999Y') }}"),
            ("double", "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"),
            ("double-list", "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"),
            ("nested-lists", "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}"),
            ("self-reference", "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}{{ ns | tojson }}{{ ns == ns }}"),
            ("list-of-itself", "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}{{ l | tojson }}{{ l == l }}"),
            ("append-in-loop", "{% set l = [1] %}{% for i in l %}{% set _ = l.append(i) %}{% endfor %}"),
            ("loops", "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}{% endfor %}{% endfor %}{% endfor %}"),
            ("recursion", "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}"),
            ("recursive-loop", "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}"),
            ("many-not", "{{ " + "not " * 3000 + "1 }}"), ("many-minus", "{{ " + "-" * 3000 + "1 }}"),
            ("many-parens", "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}"), ("many-lists", "{{ " + "[" * 3000 + "]" * 3000 + " }}"),
            ("many-ifs", "{% if 1 %}" * 1000 + "{% endif %}" * 1000), ("many-elifs", "{% if 0 %}" + "{% elif 0 %}" * 900 + "{% endif %}"),
            ("many-sums", "{{ 1" + "+1" * 5000 + " }}"), ("many-filters", "{{ 'a'" + "|trim" * 2000 + " }}"),
            ("many-attributes", "{{ a" + ".a" * 5000 + " }}"), ("many-conditions", "{{ 1" + " if 1 else 1" * 900 + " }}"),
            ("many-ors", "{{ 0" + " or 0" * 2000 + " }}"), ("many-tags", "{{1}}" * 2000), ("many-power", "{{ 2" + "**1" * 3000 + " }}"),
            ("many-compares", "{{ 1" + "<2" * 3000 + " }}"), ("many-concats", "{{ 1" + "~1" * 3000 + " }}"),
            ("many-tests", "{{ 1" + " is defined" * 900 + " }}"), ("many-calls", "{{ a" + "()" * 3000 + " }}"),
            ("many-macros", "{% macro a() %}" * 800 + "{% endmacro %}" * 800), ("many-braces", "{" * 9000),
            ("many-comments", "{#" * 4000), ("attribute-odd", "{{ messages.__class__.__mro__ }}{{ ''.__class__ }}{{ loop }}{{ self }}"),
            ("unicode", "{{ '\u00e9\U0001f600' | upper | length }}{{ '\u00e9'[0] }}{{ '\\u00e9\\x41\\N' }}"),
            ("dict", "{{ {'a': {'b': [1, (2, 3)]}, 1: 2, 'a': 3} }}{{ dict(a=1) }}")):
        put(kind, name, s)
    put(kind, "not-utf8", b"{{ '\xff\xc3' | upper }}\xed\xa0\x80{{ '\x80'[0] }}")
    put(kind, "nul", b"a\0b{{ 'c\0d' }}\0")
    odd = [('[{"role":"user","content":"hi"}]', "plain"), ("[]", "empty"), ('[{}]', "no-keys"),
           ('[{"role":null,"content":[]}]', "null"), ('[{"role":1e999,"content":-0.0}]', "number"),
           ('[{"role":"user","content":"{{ 7*7 }}{% raise %}<|a|></s>"}]', "template-inside"),
           ('[{"role":"user","role":"system","content":"a","content":"b"}]', "twice"),
           ('[{"role":"user","content":' + "[" * 900 + "]" * 900 + "}]", "deep"),
           ('[{"role":"user","content":"\\ud800\\u0000\\udfff"}]', "surrogates"),
           ('[{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\\"a\\":[1,{}]}"}}]}]', "calls"),
           ('[{"role":"user","content":"' + "x" * 7000 + '"}]', "long"),
           ("[" + ",".join(['{"role":"user","content":"q"}'] * 250) + "]", "many")]
    tools = '[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}}]'
    for i, letter in enumerate("abcdefghijkl"):
        for s, name in odd if i < 4 else odd[:2] + odd[-3:-2]:
            put(kind, "messages-%s-%s" % (letter, name), letter + "\x1e" + s)
        put(kind, "tools-" + letter, letter + "\x1e" + odd[0][0] + "\x1e" + tools + '\x1e{"enable_thinking":true,"x":[1]}')
    put(kind, "kwargs-odd", 'a\x1e[]\x1e[{}]\x1e{"messages":1,"loop":2,"bos_token":"<s>","a":{"b":[null]}}')
    models = os.path.join(HERE, "..", "template", "models")
    for file in sorted(os.listdir(models)):
        if file.endswith(".jinja"):
            with open(os.path.join(models, file), "rb") as f:
                put(kind, "model-" + file[:-6], f.read())


# --- the cache's disk tier -------------------------------------------------------------------------------

DISK_HEADER, DISK_RECORD = 512, 1024


def disk_patch(*edits, cut=0xffff):
    return b"p" + struct.pack("<H", cut) + b"".join(struct.pack("<HB", at, x) for at, x in edits)


def disk_header(magic=b"latentKV", version=1, order=0x01020304, fingerprint=(5, 6), page_tokens=8, page_bytes=64,
                record_bytes=DISK_RECORD, number=1):
    h = magic + struct.pack("<IIQQQQQQQ", version, order, *fingerprint, page_tokens, page_bytes, record_bytes, number, 0)
    return h.ljust(DISK_HEADER, b"\0")


def disk_record(slot, magic=0x4B56504C, n_tokens=8, number=1, salt=7, ways=(8, 3), parent=(7, 0x6C6174656E74), at=None,
                tokens=None):
    tokens = tokens or [slot * 8 + i for i in range(8)]
    head = struct.pack("<IIQQQQQQQHHIQ", magic, n_tokens, number, slot if at is None else at, 0, 0, *parent, salt, *ways, 0, 0)
    return (head + struct.pack("<8i", *tokens)).ljust(512, b"\0") + (b"%c" % (65 + slot) * 64).ljust(512, b"\0")


def disk_seeds():
    kind = "disk"
    put(kind, "ok-whole", disk_patch())
    for name, at in (("magic", 0), ("version", 8), ("order", 12), ("fingerprint", 16), ("fingerprint-2", 24),
                     ("page-tokens", 32), ("page-bytes", 40), ("record-bytes", 48), ("number", 56), ("checksum", 64)):
        for bit in (1, 128):
            put(kind, "bad-header-%s-%d" % (name, bit), disk_patch((at, bit)))
    put(kind, "ok-header-padding", disk_patch((100, 255), (511, 1)))
    put(kind, "ok-record-padding", disk_patch((DISK_HEADER + 300, 255), (DISK_HEADER + 1000, 1)))
    for i in range(3):
        for name, at in (("magic", 0), ("n-tokens", 4), ("number", 8), ("slot", 16), ("hash", 24), ("parent", 40), ("salt", 56),
                         ("ways", 64), ("zero", 68), ("page-checksum", 72), ("token", 80), ("last-token", 111), ("checksum", 112),
                         ("page", 512), ("page-end", 575)):
            put(kind, "record-%d-%s" % (i, name), disk_patch((DISK_HEADER + i * DISK_RECORD + at, 1)))
    put(kind, "bad-every-page", disk_patch(*((DISK_HEADER + i * DISK_RECORD + 520, 4) for i in range(3))))
    for cut in (0, 1, 71, 511, 512, 513, 512 + 511, 512 + 1023):
        put(kind, "bad-cut-%d" % cut, disk_patch(cut=cut))
    for cut in (512 + 1024, 512 + 1025, 512 + 2048, 512 + 3071):
        put(kind, "cut-%d" % cut, disk_patch(cut=cut))
    put(kind, "ok-cut-longer", disk_patch(cut=512 + 3072))
    put(kind, "ok-repaired", b"c")
    good = [disk_record(i) for i in range(3)]
    put(kind, "repaired-one", b"r" + disk_header() + good[0])
    put(kind, "repaired-order", b"r" + disk_header() + good[1] + good[0])
    put(kind, "repaired-twice", b"r" + disk_header() + good[0] + disk_record(0, at=1))
    for name, h in (("version-2", disk_header(version=2)), ("huge-record", disk_header(record_bytes=2**63)),
                    ("no-record", disk_header(record_bytes=0)), ("no-page", disk_header(page_bytes=0)),
                    ("many-tokens", disk_header(page_tokens=2**31)), ("other-number", disk_header(number=2)),
                    ("other-order", disk_header(order=0x04030201)), ("other-model", disk_header(fingerprint=(5, 7)))):
        put(kind, "bad-repaired-" + name, b"r" + h + good[0])
    for name, r in (("n-tokens", disk_record(0, n_tokens=2**32 - 1)), ("slot", disk_record(0, at=2**63)),
                    ("number", disk_record(0, number=0)), ("magic", disk_record(0, magic=0)), ("salt", disk_record(0, salt=8)),
                    ("ways", disk_record(0, ways=(65535, 65535))), ("parent", disk_record(0, parent=(0, 0))),
                    ("tokens", disk_record(0, tokens=[2**31 - 1, -2**31, -1, 0, 0, 0, 0, 0]))):
        put(kind, "bad-repaired-record-" + name, b"r" + disk_header() + r)
    put(kind, "bad-many", b"r" + disk_header() + disk_record(0, magic=1) * 10)
    put(kind, "bad-raw", b"x" + disk_header() + good[0])
    put(kind, "bad-empty", b"x")
    put(kind, "bad-text", b"xhello, world" * 60)


# --- access and HTTP -------------------------------------------------------------------------------

def access_seeds():
    h = "sha256:" + "0123456789abcdef" * 4
    for name, b in (("keys", "k# c\nalice %s requests_per_minute=6 tokens_per_minute=7 concurrent=8\n\nbob sha256:%s admin # x\n"
                     % (h, "f" * 64)), ("keys-empty", "k"), ("keys-priority", "ka %s priority=5 best_priority=-5 models=a,b" % h),
                    ("conf", "clisten = tls:127.0.0.1:1 # x\nmax_body_size = 3M\nmodel = \"a \\\" b\"\nidle_timeout = 5m\n"),
                    ("nets", "n10.0.0.0/8, ::1 fd00::/9,unix"), ("v1", "pPROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET"),
                    ("v1-unknown", "pPROXY UNKNOWN\r\n"), ("xff", "x1.2.3.4, 10.0.0.1"), ("xff-v6", "x[fd00::1]:3"),
                    ("forwarded", "fby=x;for=\"[2001:db8::1]:4\", for=10.1.1.1")):
        put("access", "ok-" + name, b)
    v2 = b"\r\n\r\n\0\r\nQUIT\n"
    put("access", "ok-v2", b"p" + v2 + b"\x21\x11\0\x0c" + bytes(range(12)) + b"rest")
    put("access", "ok-v2-v6", b"p" + v2 + b"\x21\x21\0\x24" + bytes(range(36)))
    put("access", "bad-v2-short", b"p" + v2 + b"\x21\x11\0\x0b" + bytes(12))
    put("access", "bad-v2-long", b"p" + v2 + b"\x21\x11\xff\xff" + bytes(12))
    for name, b in (("keys-twice", "ka %s\nb %s\n" % (h, h)), ("keys-name", "k../a %s" % h), ("keys-hash", "ka sha256:00"),
                    ("keys-number", "ka %s concurrent=99999999999999999999" % h), ("keys-long", "k" + "a" * 9000),
                    ("keys-option", "ka %s root" % h), ("conf-key", "cno_key = 1"), ("conf-range", "cpage_tokens = 99999"),
                    ("conf-quote", 'cmodel = "x'), ("conf-overflow", "ccache_size = 99999999999999999T"),
                    ("conf-line", "cmodel = " + "x" * 9000), ("nets", "n10.0.0.0/33"), ("nets-many", "n" + "::1," * 65),
                    ("v1", "pPROXY TCP4 1.2.3.4\r\n"), ("v1-endless", "pPROXY " + "1" * 200), ("xff", "xhost"), ("forwarded", "ffor=_x")):
        put("access", "bad-" + name, b)


def http_seeds():
    def h(how, b, piece=0):
        return bytes((how, piece)) + (b if isinstance(b, bytes) else b.encode("latin-1"))
    get = "GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\n"
    post = "POST /v1/a HTTP/1.1\r\nHost: x\r\n"
    for name, how, b in (("get", 0, get), ("pipelined", 0, get * 5), ("body", 0, post + "Content-Length: 3\r\n\r\nabc" + get),
                         ("chunked", 0, post + "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n" + get),
                         ("stream", 0, post.replace("/a", "/stream") + "Content-Length: 3\r\n\r\nabc"),
                         ("expect", 0, post + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na"),
                         ("http10", 0, "GET /v1/a HTTP/1.0\r\n\r\n"), ("health", 1, get.replace("/v1/a", "/livez")),
                         ("key", 1, get.replace("Host", "Authorization: Bearer 0123456789abcdef\r\nHost")),
                         ("x-api-key", 1, get.replace("Host", "X-Api-Key: 0123456789abcdef\r\nHost")),
                         ("proxy", 2, "PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n" + get),
                         ("forwarded", 0, get.replace("Host", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nHost")),
                         ("preflight", 5, "OPTIONS /v1/a HTTP/1.1\r\nHost: x\r\nOrigin: https://a.b\r\nAccess-Control-Request-Method: "
                          "POST\r\nAccess-Control-Request-Headers: a,b\r\n\r\n"),
                         ("metrics", 0, get.replace("/v1/a", "/metrics")), ("absolute", 0, get.replace("/v1/a", "http://x/v1/a"))):
        put("http", "ok-" + name, h(how, b))
        put("http", "ok-" + name + "-pieces", h(how, b, 1))
    for name, how, b in (("no-key", 1, get), ("two-keys", 1, get.replace("Host", "X-Api-Key: 0123456789abcdef\r\nAuthorization: Bearer y\r\nHost")),
                         ("url-key", 1, get.replace("/v1/a", "/v1/a?api_key=0123456789abcdef")), ("no-host", 0, "GET /v1/a HTTP/1.1\r\n\r\n"),
                         ("two-lengths", 0, post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc" + get),
                         ("length-and-chunks", 0, post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get),
                         ("fold", 0, post + "X: y\r\n Content-Length: 3\r\n\r\nabc"), ("te", 0, post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
                         ("long-uri", 0, get.replace("/v1/a", "/v1/" + "a" * 300)), ("long-header", 0, get.replace("Host", "X: " + "a" * 2000 + "\r\nHost")),
                         ("many-headers", 0, get.replace("Host", "X: a\r\n" * 300 + "Host")), ("large", 0, post + "Content-Length: 5000\r\n\r\n"),
                         ("large-chunks", 0, post + "Transfer-Encoding: chunked\r\n\r\n" + ("400\r\n" + "a" * 1024 + "\r\n") * 4),
                         ("huge-chunk", 0, post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), ("nul", 0, get.replace("/v1/a", "/v1/%00")),
                         ("percent", 0, get.replace("/v1/a", "/v1/%4")), ("connect", 0, "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
                         ("http2", 0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), ("rubbish", 0, "\x16\x03\x01\x02"), ("half", 0, get[:-3]),
                         ("no-proxy", 2, get), ("origin", 0, (post + "Origin: https://a.b\r\nContent-Length: 0\r\n\r\n"))):
        put("http", "bad-" + name, h(how, b))


def body_seeds():
    def j(letter, **fields):
        return letter + json.dumps(fields)
    for name, b in (("completion", j("c", model="m", prompt="x", max_tokens=5, temperature=0.5, top_p=0.9, top_k=-1, stop=["a", "b"], seed=1,
                                     logit_bias={"5": -100, "6": 1.5}, n=4, logprobs=5, stream=True, priority=-3, timeout=1.5)),
                    ("ids", j("c", prompt=[1, 2, 3], stop_token_ids=[0, 999], echo=True, max_tokens=0)),
                    ("nulls", j("c", prompt="x", n=None, stop=None, seed=None)),
                    ("chat", j("m", messages=[{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}],
                               tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], top_logprobs=2, logprobs=True)),
                    ("tokenize", j("t", prompt="x", add_special_tokens=False)), ("detokenize", j("d", tokens=[1, 2])), ("cache", j("k", prompt="x", id=3)),
                    ("unknown", j("c", prompt="x", nothing=1)), ("twice", 'c{"prompt":"x","prompt":"y","n":1,"n":2}')):
        put("body", "ok-" + name, b)
    c = lambda text: 'c{"prompt":"x",' + text + "}"
    for name, b in (("nan", c('"temperature":NaN')), ("infinite", c('"temperature":1e999')), ("n-huge", c('"n":1e18')), ("n-negative", c('"n":-1')),
                    ("n-fraction", c('"n":1.5')), ("logprobs", c('"logprobs":99999999999')), ("min-above-max", c('"min_tokens":9,"max_tokens":3')),
                    ("bias-id", c('"logit_bias":{"1000":1}')), ("bias-text", c('"logit_bias":{"x":1}')), ("bias-value", c('"logit_bias":{"1":101}')),
                    ("bias-many", c('"logit_bias":{%s}' % ",".join('"%d":1' % i for i in range(11)))), ("stop-id", c('"stop_token_ids":[-1]')),
                    ("stop-many", c('"stop":["a","b","c","d"]')), ("stop-empty", c('"stop":[""]')), ("missing-comma", 'c{"a":1 "b":2}'), ("model-list", 'c{"prompt":"x","model":[1]}'),
                    ("depth", "c" + "[" * 5000), ("deep-field", c('"metadata":' + '{"a":' * 2000 + "1" + "}" * 2000)), ("cut", 'c{"prompt":"x'),
                    ("no-object", "c[1]"), ("behind", 'c{"prompt":"x"}x'), ("nul", 'c{"prompt":"x"}\0'), ("strict", j("C", prompt="x", nothing=1)),
                    ("role", j("m", messages=[{"role": "root", "content": "x"}])), ("messages", j("m", messages={})), ("tool", j("m", messages=[], tools=[1])),
                    ("template", j("m", messages=[{"role": "user", "content": "x"}], chat_template="{{ 1 }}")), ("surrogate", 'c{"prompt":"\\ud800"}')):
        put("body", "bad-" + name, b)


# --- grammars ----------------------------------------------------------------------------------------

def grammar_seeds():
    kind = "grammar"
    dump = json.dumps
    ok = [("g", 'root ::= "a" b* | [0-9]{2,3}\nb ::= "x" | "y" # more\n'), ("g", 'root ::= "(" root ")" | ""'),
          ("g", 'start: "a" word?\nword: /[b-d]+/ | \'q\'\n'), ("g", 'root ::= [^a-z\\n] . "\\x41\\u00e9"'),
          ("r", "(foo|bar)+\\d{2}"), ("r", "^[^\\s\"]+?$"), ("r", "(?:a|b){0}c|\\u{1F600}|[\\w-]{2,}"), ("r", "(a|b)*a(a|b){40}"),
          ("c", '["yes","no"]'), ("o", ""), ("s", "{}"), ("s", "true"),
          ("s", dump({"type": "object", "properties": {"a": {"type": "integer", "minimum": -3, "maximum": 120}, "b": {"type": "string", "format": "date"}},
                      "required": ["b"], "additionalProperties": {"type": "null"}, "maxProperties": 3})),
          ("s", dump({"type": "array", "prefixItems": [{"const": 1}], "items": {"enum": ["a", None]}, "minItems": 1, "maxItems": 4})),
          ("s", dump({"allOf": [{"type": "object", "properties": {"a": {"type": "number"}}}, {"required": ["a"]}], "title": "x"})),
          ("s", dump({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}}}})),
          ("s", dump({"oneOf": [{"type": "string", "pattern": "^a|b$", "description": ""}, {"type": "number", "exclusiveMinimum": 0, "maximum": 9}]})),
          ("s", dump({"type": "integer", "multipleOf": 7})), ("s", dump({"patternProperties": {"^x": {"type": "boolean"}}, "minProperties": 1})),
          ("t", dump({"structures": [{"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"}], "triggers": ["<f=", "<<"][:1]}))]
    bad = [("g", "root ::= root"), ("g", 'root ::= ((("a"{900}){900}){900})'), ("g", 'root ::= "a'), ("g", "%import x\n"), ("g", "root ::= " + "(" * 500),
           ("r", "(?=a)"), ("r", "(" * 500), ("r", "a{9,1}"), ("r", "((a{99}){99}){99}"), ("r", "\\"), ("c", "[]"), ("c", '{"a":1}'), ("s", "{"), ("s", "false"),
           ("s", '{"not":{}}'), ("s", '{"$ref":"#"}'), ("s", '{"allOf":[{"$ref":"#"},{"$ref":"#"}]}'), ("s", '{"items":' * 300 + "{}" + "}" * 300),
           ("s", '{"type":"string","pattern":"\\u0001("}'), ("s", '{"\\u0007\\u00e9":1}'), ("s", '{"minLength":1e9,"type":"string"}'), ("s", '{"properties":{"a":5}}'),
           ("t", "{}"), ("t", dump({"structures": [{"begin": "a", "schema": {}, "end": ""}], "triggers": ["b"]}))]
    for name, seeds in (("ok", ok), ("bad", bad)):
        for i, (letter, source) in enumerate(seeds):
            put(kind, f"{name}-{letter}{i}", letter + source)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--folders")
    a = p.parse_args()
    gguf_seeds()
    safetensors_seeds()
    tokenizer_seeds()
    if a.folders:
        config_seeds(a.folders)
    template_seeds()
    disk_seeds()
    access_seeds()
    http_seeds()
    body_seeds()
    grammar_seeds()
    write_packs()


if __name__ == "__main__":
    main()
