"""What reading and writing tokens on disk reach, beside a raw `read()` and `write()` of the bytes.

    python benchmarks/token_cache.py [--gb 0.5] [--rounds 5]

Entries of 576 tokens of width 1,024 in bf16, in a temporary folder, from the page cache; every
entry is checked as in training. Both ways are measured in turns, reading by processor time; told
are the ratios.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import frame
import numpy as np
import torch
from frame import Claim

from tove.backbones.feature_cache.codecs import Codec
from tove.backbones.feature_cache.key import Source, entry_key
from tove.backbones.feature_cache.table import Table
from tove.backbones.feature_cache.writer import TableWriter

GRID, WIDTH, BATCH = (24, 24), 1024, 32
GOALS = {"sequential": 0.8, "shuffled": 0.5}
WHY = "six runs of one tree gave .70 to .80 in sequence, .75 to .80 shuffled"


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


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = frame.parser(__doc__)
    parser.add_argument("--gb", type=float, default=0.5)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    codec = Codec("bf16", Source("bench", "", WIDTH, GRID, False, dict), GRID)
    number = max(BATCH, int((0 if args.short else args.gb) * 1e9) // codec.entry_bytes)
    keys = [entry_key("bench", str(index)) for index in range(number)]
    shuffled = random.Random(0).sample(range(number), number)
    orders = {"sequential": [*range(number)], "shuffled": shuffled}
    rounds = args.rounds or (1 if args.short else 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = Table(folder / "table", "bench", codec.layout)
        size = number * codec.entry_bytes
        taken = fill(table, codec, keys)
        told = f"{number} entries, {size / 1e9:.2f} GB"
        written = seconds(lambda: raw_write(folder / "raw", size)) / taken
        claims = [Claim(f"raw write() / the cache's, {told}", [written])]
        (folder / "raw").write_bytes(np.random.default_rng(0).bytes(size))
        table.refresh()
        for what, order in orders.items():
            works = {
                "raw": lambda o=order: read_raw(folder / "raw", codec.entry_bytes, o),
                "own": lambda o=order: read_table(table, keys, o),
            }
            times = frame.in_turns(works, rounds, warm_up=0)
            values = frame.over(times["raw"], times["own"])
            name = f"raw read() / the cache's, {what}"
            claims.append(Claim(name, values, GOALS[what], at_least=True, why=WHY))
    frame.write("token_cache", "the cache beside raw reads and writes of its bytes", claims, args)


if __name__ == "__main__":
    main()
