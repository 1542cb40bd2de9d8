"""Flip or cut bytes of a cache's files; a token that is read must be the right one.

    python tests/faults/cache_faults.py [--faults 1000]

Each time one fault is put into a fresh copy of a folder, then all is read twice: in mode "read",
which must refuse and name the file, and in mode "read-through", which must give the live tokens.
Counted are wrong tokens, faults that nobody named, and crashes.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cache_kills import cache_of, network, source, views

IMAGES = 40


def put_fault(path, chance):
    """Put one fault into a file; return what kind it is."""
    content = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "flip", "cut", "zeros", "swap"))
    place = chance.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "zeros":
        content[place : place + 64] = bytes(len(content[place : place + 64]))
    else:
        other = chance.randrange(len(content) - 16)
        place = min(place, len(content) - 16)
        first, second = content[place : place + 16], content[other : other + 16]
        content[place : place + 16], content[other : other + 16] = second, first
    changed = bytes(content) != path.read_bytes()
    path.write_bytes(content)
    return kind if changed else "no change"


def run(folder, faults, seed=0):
    """Put faults one after another; return counts of what came of them."""
    import torch

    from tove.errors import ConfigError

    ids, pixels = views(IMAGES)
    sound = folder / "sound"
    cache = cache_of(sound)
    expected = cache.get_or_compute(source(), (4, 4), ids, pixels, network)
    cache.disk.commit()
    chance, counts = random.Random(seed), Counter()
    for number in range(faults):
        copy = folder / f"copy-{number}"
        shutil.copytree(sound, copy)
        path = chance.choice(sorted(copy.rglob("*.safetensors")))
        kind = put_fault(path, chance)
        counts[kind] += 1
        reader = cache_of(copy)
        reader.experts = {"fake": {"mode": "read"}}
        try:
            found = reader.get_or_compute(source(), (4, 4), ids, pixels, network)
            counts["wrong"] += not torch.equal(found, expected)
            counts["not named"] += kind != "no change"
        except ConfigError as error:
            counts["not named"] += path.name not in str(error)
        mended = cache_of(copy)
        found = mended.get_or_compute(source(), (4, 4), ids, pixels, network)
        counts["wrong"] += not torch.equal(found, expected)
        mended.disk.commit()
        again = cache_of(copy)
        again.experts = {"fake": {"mode": "read"}}
        found = again.get_or_compute(source(), (4, 4), ids, pixels, network)
        counts["wrong"] += not torch.equal(found, expected)
        for store in (reader, mended, again):
            store.disk.close()
        shutil.rmtree(copy)
    return counts


def parse_arguments():
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--faults", type=int, default=1000)
    return parser.parse_args()


def main():
    """Put faults, tell."""
    args = parse_arguments()
    logging.disable(logging.WARNING)  # each fault that is mended warns
    with tempfile.TemporaryDirectory() as folder:
        counts = run(Path(folder), args.faults)
    print(", ".join(f"{what} {number}" for what, number in sorted(counts.items())))
    if counts["wrong"] or counts["not named"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
