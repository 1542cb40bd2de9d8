"""How the hub's forward grows with experts, and with the batch.

python benchmarks/scaling.py
"""

from __future__ import annotations

from collections.abc import Sequence

import frame
from frame import Claim

MOST = 1.1  # of what as many single experts cost: nothing grows faster than their number


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch

    from tove.backbones.experts.hub import ExpertHub

    args = frame.parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds = args.rounds or (1 if args.short else 15)
    numbers = (1, 2) if args.short else (1, 2, 4, 8, 16)
    hub = ExpertHub({f"e{number}": {"type": "tiny_dino"} for number in range(numbers[-1])})
    images = torch.rand(1 if args.short else 8, 3, 64, 64)

    def first(number: int, size: int) -> None:
        with torch.no_grad():
            hub(images[:1].expand(size, -1, -1, -1).contiguous(), skip=hub.slots[number:])

    works = {number: lambda n=number: first(n, len(images)) for number in numbers}
    times = frame.in_turns({str(n): work for n, work in works.items()}, rounds)
    claims = [
        Claim(
            f"{number} experts / {number} times one",
            [value / number for value in frame.over(times[str(number)], times["1"])],
            MOST,
        )
        for number in numbers[1:]
    ]
    sizes = (1, 2) if args.short else (1, 4, 16, 64)
    by_size = {str(size): lambda size=size: first(1, size) for size in sizes}
    times = frame.in_turns(by_size, rounds)
    claims += [
        Claim(
            f"an image in a batch of {size} / alone",
            [value / size for value in frame.over(times[str(size)], times["1"])],
            MOST,
        )
        for size in sizes[1:]
    ]
    frame.write("scaling", "1 to 16 experts, batches of 1 to 64", claims, args)


if __name__ == "__main__":
    main()
