"""How long LLaVA's JSON of 665k records takes to index and to open, and what a worker holds.

    python benchmarks/conversations.py [--records 665298]

The file is synthetic, 1 to 10 turns a record, one in 16 without an image; with 665,298 of them it
is about as large as llava_v1_5_mix665k (1 GB), and `json.loads` takes 5 GB of memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import frame
from frame import Claim

RECORDS = 66_530
WORDS = "the a of cat dog street sign in on behind two red large shows that there is people".split()


def write(path: Path, records: int) -> None:
    """Write the file."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 60))) for _ in range(1000)]
    with open(path, "w") as file:
        for number in range(records):
            record: dict = {"id": f"{number:09}"}
            if chance.random() < 15 / 16:
                record["image"] = f"coco/train2017/{number // 2:012}.jpg"
            turns = []
            for turn in range(chance.randint(1, 10)):
                marker = "<image>\n" if "image" in record and not turn else ""
                turns.append({"from": "human", "value": marker + chance.choice(texts)})
                turns.append({"from": "gpt", "value": chance.choice(texts)})
            record["conversations"] = turns
            file.write(("[" if not number else ",\n ") + json.dumps(record))
        file.write("]\n")


def rss() -> int:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def read(data: object, count: int, answers: multiprocessing.Queue) -> None:
    """Read records in random order, in a process of its own; give memory and seconds."""
    chance = random.Random(os.getpid())
    before, start = rss(), time.perf_counter()
    for _ in range(count):
        data.get_data_info(chance.randrange(len(data)))  # type: ignore[attr-defined,arg-type]
    answers.put((before, rss(), time.perf_counter() - start))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = frame.parser(__doc__)
    parser.add_argument("--records", type=int, default=RECORDS)
    args = parser.parse_args(argv)
    records = 20 if args.short else args.records

    from tove.data.conversations import LlavaConversations

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.json"
        write(path, records)
        works = {}
        for label in ("built", "opened again"):
            start = time.process_time()
            data = LlavaConversations(folder, path.name)
            works[label] = time.process_time() - start
        start = time.process_time()
        held = json.loads(path.read_bytes())
        plain = time.process_time() - start
        del held
        told = f"{records:,} records, {path.stat().st_size / 1e6:.0f} MB"
        claims = [
            Claim(f"index {label} / json.loads, {told}", [taken / plain])
            for label, taken in works.items()
        ]
        count = 20 if args.short else 20_000
        before, after, seconds = in_a_worker(data, count)
        claims += [
            Claim("a worker reads a record", [seconds / count * 1e3], 1.0, unit="ms"),
            Claim(f"a worker's memory, {count:,} records", [after - before], 50, unit="MB"),
        ]
    frame.write("conversations", "LLaVA's conversations, indexed and read", claims, args)


def in_a_worker(data: object, count: int) -> tuple[float, float, float]:
    """Return a worker's memory before and after it has read, and its seconds."""
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue = context.Queue()
    worker = context.Process(target=read, args=(data, count, answers))
    worker.start()
    found: tuple[float, float, float] = answers.get()
    worker.join()
    return found


if __name__ == "__main__":
    main()
