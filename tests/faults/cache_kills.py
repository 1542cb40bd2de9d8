"""Kill an extraction at random moments; what is left must be sound, and equal to live tokens.

    python tests/faults/cache_kills.py [--kills 50] [--images 400]

Each time the extraction is started anew in the same folder and killed (SIGKILL) after a random
while. At the end it runs through; then every byte is verified, and every entry is compared with
what the networks give.
"""

import argparse
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path


def source():
    """Return a network of 64 tokens of width 12."""
    from tove.backbones.feature_cache.key import Source

    spec = {"tokens": {"width": 12, "grid": [8, 8], "kind": "features"}, "image": {}}
    told = {"name": "fake", "distribution": "fakes", "version": "1", "weights": "0", "spec": spec}
    return Source("fake", "", 12, (8, 8), False, lambda: told)


def network(images):
    """Return tokens that depend on the image, [B, 64, 12]."""
    import torch

    return torch.nn.functional.pixel_unshuffle(images, 2).flatten(2).transpose(1, 2)


def views(number):
    """Return ids and pixels of drawn views."""
    import torch

    from tove.modules.view_key import ViewKey, view_digest

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, 3, 16, 16), generator=generator).byte()
    return [ViewKey(view_digest(view)) for view in pixels], pixels.float() / 255


def cache_of(folder):
    """Return a cache that commits often, so that a kill meets a write."""
    from tove.backbones.feature_cache.token_cache import TokenCache

    return TokenCache(dir=str(folder), codec="pool+int8", shard_mb=0.002)


def extract(folder, images, begun):
    """Extract all tokens, a few at once in random order."""
    import torch

    torch.manual_seed(os.getpid())
    cache, (ids, pixels) = cache_of(folder), views(images)
    order = torch.randperm(len(ids)).tolist()
    begun.set()
    for first in range(0, len(ids), 8):
        rows = order[first : first + 8]
        cache.get_or_compute(source(), (4, 4), [ids[r] for r in rows], pixels[rows], network)
    cache.disk.commit()


def start(folder, images):
    """Start an extraction in a process of its own; return once it has begun."""
    context = multiprocessing.get_context("fork")  # importing torch anew takes seconds
    begun = context.Event()
    process = context.Process(target=extract, args=(folder, images, begun))
    process.start()
    assert begun.wait(60)
    return process


def check(folder, images):
    """Verify every byte and compare every entry; return the number of shards."""
    import torch

    from tove.engine.cache_tools import verify

    ids, pixels = views(images)
    for name, _, damaged in verify(folder):
        assert not damaged, f"{name}: {damaged}"
    cache = cache_of(folder)
    opened = cache.open(source(), (4, 4), 16)
    cache.experts = {"fake": {"mode": "read"}}
    found = cache.get_or_compute(source(), (4, 4), ids, pixels, network)
    assert torch.equal(found, opened.through_codec(network(pixels))), "tokens are not the live ones"
    return len(list(opened.table.folder.glob("*.safetensors")))


def kill_and_check(folder, kills, images, seed=0):
    """Kill extractions, finish one, check; return the shards that there are, and left files."""
    import xxhash  # noqa: F401 - now, and not once in each fork

    source(), views(1), cache_of(folder).disk.close()
    chance = random.Random(seed)
    for _ in range(kills):
        process = start(folder, images)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.join()
    process = start(folder, images)
    process.join()
    assert process.exitcode == 0
    return check(folder, images), len(list(folder.rglob("*.tmp")))


def parse_arguments():
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--images", type=int, default=400)
    return parser.parse_args()


def main():
    """Kill, check, tell."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        shards, left = kill_and_check(Path(folder), args.kills, args.images)
    print(
        f"{args.kills} kills: {shards} shards, {left} temporary files left by the killed; every "
        f"entry sound, {args.images} images' tokens equal to live ones"
    )


if __name__ == "__main__":
    main()
