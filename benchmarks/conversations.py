"""How long LLaVA's JSON of 665k records takes to index and to open, and what a worker holds.

    python benchmarks/conversations.py

The file is synthetic, about as large as llava_v1_5_mix665k (1 GB): 1 to 10 turns, one in 16 records
without an image.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]

RECORDS = 665_298
WORDS = "the a of cat dog street sign in on behind two red large shows that there is people".split()


def write(path: Path) -> None:
    """Writes the file."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 60))) for _ in range(1000)]
    with open(path, "w") as file:
        for number in range(RECORDS):
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
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


def read(data: object, count: int, answers: multiprocessing.Queue) -> None:
    """Reads records in random order, in a process of its own; gives memory and seconds."""
    chance = random.Random(os.getpid())
    before, start = rss(), time.perf_counter()
    for _ in range(count):
        data.get_data_info(chance.randrange(len(data)))  # type: ignore[attr-defined,arg-type]
    answers.put((before, rss(), time.perf_counter() - start))


def main() -> None:
    """Prints the times and memory."""
    from tove.data.conversations import LlavaConversations

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "conversations.json"
        write(path)
        print(f"{RECORDS:,} records, {path.stat().st_size / 1e6:.0f} MB")
        for label in ("built", "opened again"):
            before, start, busy = rss(), time.perf_counter(), time.process_time()
            data = LlavaConversations(folder, path.name)
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(
                f"index {label}: {seconds:.2f} s, of which processor {busy:.2f} s, "
                f"memory {before} -> {rss()} MB, peak {peak} MB"
            )
        start = time.perf_counter()
        json.loads(path.read_bytes())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"json.loads, for comparison: {time.perf_counter() - start:.2f} s, peak {peak} MB")
        size = sum(file.stat().st_size for file in Path(folder).iterdir() if file != path)
        print(f"index: {size / 1e6:.0f} MB, {data.num_images:,} distinct images")
        context = multiprocessing.get_context("spawn")
        for count in (1_000, 100_000):
            answers: multiprocessing.Queue = context.Queue()
            worker = context.Process(target=read, args=(data, count, answers))
            worker.start()
            before, after, seconds = answers.get()
            worker.join()
            print(
                f"a worker reads {count:,} records: memory {before} -> {after} MB, "
                f"{seconds / count * 1e6:.0f} us each"
            )


if __name__ == "__main__":
    main()
