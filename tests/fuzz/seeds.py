#!/usr/bin/env python3
"""Writes tests/fuzz/seeds and tests/fuzz/weights: the same bytes whenever it runs.

seeds.py [--folders DIR]: DIR (tests/data/hf) holds small Hugging Face folders, one per family, and DIR/../layout
published layouts of the attention family; their config.json become seeds and the shapes of their tensors
become weights/FAMILY.txt. Without it those are left as they are.
"ok-" seeds must be served, "bad-" ones refused (replay.c).
"""
import argparse, json, os, struct
from seeds_models import config_seeds, gguf_seeds, safetensors_seeds, tokenizer_seeds
from seeds_packs import HERE, put, write_packs


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
    tool = {"name": "get", "schema": {"type": "object", "properties": {"a": {"type": "string"}, "n": {"enum": [1, 2]}}, "required": ["a"]}, "path": "tools[0]"}
    plain = {"section": "", "section_end": "", "between": "\n", "open": '<call>{"name": "', "name_end": '", "args": ', "close": "}</call>", "many": True, "tools": [tool]}
    tags = {"argument": {"begin": "<k>", "text": "</k><v>", "json": "</k><v>", "before": "", "end": "</v>", "after": "\n"}, "open": "<call>", "name_end": "\n", "close": "</call>"}
    section = {"section": "<|call|>", "section_end": "<|end|>", "numbered": True, "lead": True}
    may = {"marks": ["<|call|>", "<call>"]}
    ok += [("l", dump(plain)), ("l", dump(plain | section)), ("l", dump(plain | tags)), ("l", dump(plain | may)), ("l", dump(plain | may | section)),
           ("l", dump(plain | tags | may | {"tools": [tool, {"name": "any", "free": True}]})), ("l", dump(plain | {"marks": ["<", "<|end|>"], "first": True}))]
    bad = [("g", "root ::= root"), ("g", 'root ::= ((("a"{900}){900}){900})'), ("g", 'root ::= "a'), ("g", "%import x\n"), ("g", "root ::= " + "(" * 500),
           ("r", "(?=a)"), ("r", "(" * 500), ("r", "a{9,1}"), ("r", "((a{99}){99}){99}"), ("r", "\\"), ("c", "[]"), ("c", '{"a":1}'), ("s", "{"), ("s", "false"),
           ("s", '{"not":{}}'), ("s", '{"$ref":"#"}'), ("s", '{"allOf":[{"$ref":"#"},{"$ref":"#"}]}'), ("s", '{"items":' * 300 + "{}" + "}" * 300),
           ("s", '{"type":"string","pattern":"\\u0001("}'), ("s", '{"\\u0007\\u00e9":1}'), ("s", '{"minLength":1e9,"type":"string"}'), ("s", '{"properties":{"a":5}}'),
           ("t", "{}"), ("t", dump({"structures": [{"begin": "a", "schema": {}, "end": ""}], "triggers": ["b"]})),
           ("l", dump(plain | {"marks": [""]})), ("l", dump(plain | {"marks": ["a"] * 9})), ("l", dump(plain | {"tools": [tool | {"schema": {"type": "string"}}]})),
           ("l", dump(plain | {"open": "x" * 300})), ("l", dump(plain | tags | {"tools": [tool | {"schema": {"anyOf": [{}, {}]}}]})),
           ("l", dump(plain | tags | {"tools": [tool | {"schema": {"type": "object", "properties": ["a"]}}]})),
           ("s", dump({"allOf": [{"type": "object", "properties": ["a"]}]}))]
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
        config_seeds(a.folders, os.path.join(a.folders, "..", "layout"))
    template_seeds()
    disk_seeds()
    access_seeds()
    http_seeds()
    body_seeds()
    grammar_seeds()
    write_packs()


if __name__ == "__main__":
    main()
