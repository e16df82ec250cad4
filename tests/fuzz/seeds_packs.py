"""Seeds by harness, and the packs that they are written to."""
import os

HERE = os.path.dirname(os.path.abspath(__file__))
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
