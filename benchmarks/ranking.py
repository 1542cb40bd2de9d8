"""Ranking a long list of answers: what a question costs in a batch, over one by one.

    python benchmarks/ranking.py

The demo's language model, lists of answers of one to three words as VQA's benchmarks have them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import frame
from frame import ROOT, Claim

GOAL = 3.0
WORDS = "red blue green ball box cylinder left right above below behind large small".split()


def answers(number: int) -> list[str]:
    """Return distinct answers."""
    chance, found = random.Random(0), dict[str, None]()
    while len(found) < number:
        found[" ".join(chance.choices(WORDS, k=chance.choice((1, 2, 2, 3))))] = None
    return [*found]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch
    from mmengine.config import Config

    from tove.registry import LANGUAGE_MODELS

    args = frame.parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = Config.fromfile(str(ROOT / "configs/tiny/tove-tiny_scenes.py"))
    language: Any = LANGUAGE_MODELS.build(cfg.model.language).eval()
    candidates = answers(20 if args.short else 500)
    number = 2 if args.short else 32
    memory = torch.randn(number, 16, language.width)
    samples = [
        dict(
            prompt=f"the {WORDS[index % 3]} ball is {WORDS[6 + index % 5]} ?", candidates=candidates
        )
        for index in range(number)
    ]

    def ranked(size: int) -> None:
        for first in range(0, number, size):
            last = first + size
            language.rank(memory[first:last], samples[first:last])

    sizes = (1, number) if args.short else (1, 8, number)
    rounds = args.rounds or (1 if args.short else 5)
    works = {str(size): lambda size=size: ranked(size) for size in sizes}
    times = frame.in_turns(works, rounds, warm_up=1)
    claims = [
        Claim(
            f"a question alone / in a batch of {size}",
            frame.over(times["1"], times[str(size)]),
            GOAL if size == number else None,
            True,
        )
        for size in sizes[1:]
    ]
    alone = [1e3 * taken / number for taken in times["1"]]
    claims.append(Claim(f"a question alone, {len(candidates)} answers", alone, unit="ms"))
    frame.write("ranking", "ranking of a long list of answers", claims, args)


if __name__ == "__main__":
    main()
