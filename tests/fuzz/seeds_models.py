"""Seeds of what a model's files hold: GGUF, safetensors, tokenizer.json, config.json."""
import json, os, struct
from seeds_packs import HERE, SEEDS, put

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q",
         F64: "d"}


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

def paths_to_numbers(o, at=()):
    """Where an object has numbers, words and flags, also inside objects."""
    for key, v in o.items():
        if isinstance(v, dict):
            yield from paths_to_numbers(v, at + (key,))
        else:
            yield at + (key,)


def layout_seeds(folders, known):
    """Layouts of the attention family as others publish them: each key that the families above do not have, with values
    that it must not have. A folder's further files of keys are members of its config.json, as the reader makes them."""
    types, tried = set(), set()
    for folder in sorted(os.listdir(folders)):
        path = os.path.join(folders, folder)
        with open(os.path.join(path, "config.json")) as f:
            config = json.load(f)
        for name in ("MLA_config", "mla_layer_config"):
            if os.path.exists(os.path.join(path, name + ".json")):
                with open(os.path.join(path, name + ".json")) as f:
                    config[name] = json.load(f)
        weights = config["model_type"]
        if "text_config" in config:
            continue  # the same within another
        if weights not in types:
            write_weights(path, weights)
        ok = "" if weights in types else "ok-"
        types.add(weights)
        put("config", ok + "layout-" + folder, json.dumps(config, separators=(",", ":")))
        for at in paths_to_numbers(config):
            if at in tried or (len(at) == 1 and at[0] in known):
                continue
            tried.add(at)
            for label, v in (("2-31", 1 << 31), ("word", "x")):
                changed = json.loads(json.dumps(config))
                o = changed
                for key in at[:-1]:
                    o = o[key]
                o[at[-1]] = v
                put("config", "layout-%s-%s-%s" % (folder, "-".join(at), label), json.dumps(changed, separators=(",", ":")))


def write_weights(path, name):
    with open(os.path.join(path, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    with open(os.path.join(HERE, "weights", name + ".txt"), "w") as f:
        for tensor in sorted(header):
            if tensor != "__metadata__":
                t = header[tensor]
                f.write(" ".join([tensor, t["dtype"]] + [str(d) for d in t["shape"]]) + "\n")


def config_seeds(folders, layouts):
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
        write_weights(path, folder)

    def dump(c):
        return json.dumps(c, separators=(",", ":"))

    for name, config in family_of.items():
        put(kind, "ok-" + name, dump(config))
    base = family_of["deepseek_v3"]
    layout_seeds(layouts, set(base) | {"architectures", "dropout", "vocab_size"})

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
