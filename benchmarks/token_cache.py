"""What reading and writing tokens on disk reach, beside a raw `read()` and `write()` of the bytes.

    python benchmarks/token_cache.py [--gb 0.5] [--repeats 5]

Entries of 576 tokens of width 1,024 in bf16, in a temporary folder, from the page cache; every
entry is checked as in training. Both ways are measured in turns, reading by processor time; told
are medians, and their ratios with the lowest and the highest.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.feature_cache.key import Source, entry_key
from tove.backbones.feature_cache.table import Table
from tove.backbones.feature_cache.writer import TableWriter

GRID, WIDTH, BATCH = (24, 24), 1024, 32
GOALS = {"sequential": 0.8, "shuffled": 0.5}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return what some work takes."""
    start = clock()
    work()
    return clock() - start


def fill(table: Table, codec: Codec, keys: list[bytes]) -> float:
    """Write entries; return the seconds that it took."""
    tokens = torch.randn(BATCH, GRID[0] * GRID[1], WIDTH)
    arrays = codec.encode(tokens)
    writer = TableWriter(table, 128)

    def work() -> None:
        for first in range(0, len(keys), BATCH):
            some = keys[first : first + BATCH]
            writer.add(some, {name: array[: len(some)] for name, array in arrays.items()})
        writer.commit()

    return seconds(work)


def raw_write(path: Path, num_bytes: int) -> None:
    """Write so many bytes in pieces of 128 MB, and have each on the disk."""
    block = np.random.default_rng(0).bytes(128_000_000)
    for first in range(0, num_bytes, len(block)):
        with path.open("wb") as stream:
            stream.write(block[: num_bytes - first])
            stream.flush()
            os.fsync(stream.fileno())


def read_raw(path: Path, entry: int, order: list[int]) -> None:
    """Read entries of one file with `read()`, a batch into the same memory."""
    memory = [memoryview(bytearray(entry)) for _ in range(BATCH)]
    file = os.open(path, os.O_RDONLY)
    for number, place in enumerate(order):
        os.preadv(file, [memory[number % BATCH]], place * entry)
    os.close(file)


def read_table(table: Table, keys: list[bytes], order: list[int]) -> None:
    """Read the entries as a training does, a batch at a time."""
    for first in range(0, len(order), BATCH):
        some = [keys[place] for place in order[first : first + BATCH]]
        _, missing = table.read(some, reuse=True)
        assert not missing


def main() -> None:
    """Measure, print, write benchmarks/out/token_cache.json."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    used = time.process_time  # what else runs on the machine does not count
    parser.add_argument("--gb", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    codec = Codec("bf16", Source("bench", "", WIDTH, GRID, False, dict), GRID)
    number = max(BATCH, int(args.gb * 1e9) // codec.entry_bytes)
    keys = [entry_key("bench", str(index)) for index in range(number)]
    shuffled = random.Random(0).sample(range(number), number)
    orders = {"sequential": [*range(number)], "shuffled": shuffled}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = Table(folder / "table", "bench", codec.layout)
        size = number * codec.entry_bytes
        taken = fill(table, codec, keys)
        ratios = {"write": [seconds(lambda: raw_write(folder / "raw", size)) / taken]}
        (folder / "raw").write_bytes(np.random.default_rng(0).bytes(size))
        print(f"{number} entries of {codec.entry_bytes / 1e6:.2f} MB, {size / 1e9:.2f} GB")
        print(f"write: {size / taken / 1e9:.2f} GB/s, {ratios['write'][0]:.2f} of a raw write()")
        table.refresh()
        for what, order in orders.items():
            pairs = []
            for _ in range(args.repeats):
                raw = seconds(lambda o=order: read_raw(folder / "raw", codec.entry_bytes, o), used)
                own = seconds(lambda o=order: read_table(table, keys, o), used)
                pairs.append((raw, own))
            ratios[what] = sorted(raw / own for raw, own in pairs)
            speeds = [size / statistics.median(side) / 1e9 for side in zip(*pairs, strict=True)]
            low, high = ratios[what][0], ratios[what][-1]
            print(
                f"{what}: read() {speeds[0]:.2f} GB/s, the cache {speeds[1]:.2f} GB/s: "
                f"{statistics.median(ratios[what]):.2f} ({low:.2f} to {high:.2f}), "
                f"goal {GOALS[what]}"
            )
    middle = {what: statistics.median(found) for what, found in ratios.items()}
    result = {
        "name": "token_cache",
        "ratios": {what: [middle[what], min(r), max(r)] for what, r in ratios.items()},
        "goal": GOALS,
        "holds": all(middle[what] >= goal for what, goal in GOALS.items()),
        "machine": f"{os.cpu_count()} cores",
    }
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    (out / "token_cache.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
