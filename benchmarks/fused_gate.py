"""ToVE's gated sum: the shared layer once (fused) against every expert projected in full (naive).

    python benchmarks/fused_gate.py

Forward and backward through the projection, at ToVE's own sizes on a CPU of 1/16 of the tokens'
width; `gpu_check.py` takes 576 tokens of 4,096. The limit is the matrix products of the fused form
alone, forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import frame
from frame import Claim, Work

if TYPE_CHECKING:
    from tove.modules.projector import Projector


@dataclass(frozen=True)
class Sizes:
    """Of one measurement.

    Attributes:
        experts: K.
        side: of the grid.
        width: of the experts' tokens.
        language: width of the language model, and of the hidden layer.
        batch: images.
    """

    experts: int
    side: int
    width: int
    language: int
    batch: int

    @property
    def told(self) -> str:
        """As a claim says it."""
        return f"K = {self.experts}, {self.side**2} tokens, {self.width} -> {self.language}"


def works(sizes: Sizes, device: Any, dtype: Any) -> dict[str, Work]:  # noqa: ANN401 - torch's
    """Return both forms with their backward passes, the fused one forward, and its products."""
    import torch
    from torch.nn import functional as F

    from tove.modules.projector import Projector

    slots = [f"e{number}" for number in range(sizes.experts)]
    grid = (sizes.side, sizes.side)
    widths, grids = dict.fromkeys(slots, sizes.width), dict.fromkeys(slots, grid)
    made = Projector(sizes.width, widths, grid, grids, sizes.language, sizes.language)
    projector: Projector = made.to(device, dtype)
    shape = (sizes.batch, sizes.side**2)
    tokens = {s: torch.randn(*shape, sizes.width, device=device, dtype=dtype) for s in slots}
    scores = torch.randn(*shape, sizes.experts, device=device, dtype=dtype)
    gates = scores.softmax(-1).requires_grad_()
    cotangent = torch.randn(*shape, sizes.language, device=device, dtype=dtype)

    def naive() -> torch.Tensor:
        every = [projector.project_expert(slot, tokens[slot]) for slot in slots]
        return (torch.stack(every, -1) * gates[:, :, None]).sum(-1)

    def fused() -> torch.Tensor:
        return projector.mix(gates, slots, tokens)

    def whole(form: Callable[[], torch.Tensor]) -> Work:
        def run() -> None:
            projector.zero_grad(set_to_none=True)
            gates.grad = None
            form().backward(cotangent)

        return run

    @torch.no_grad()
    def products() -> None:
        for slot in slots:
            first: Any = projector.first[slot]
            hidden = F.linear(tokens[slot], first.weight, first.bias)
        projector.shared(hidden)

    return {
        "naive": whole(naive),
        "fused": whole(fused),
        "fused, forward": torch.no_grad()(fused),
        "products": products,
    }


def measure(
    sizes: Sizes,
    rounds: int,
    device: Any = "cpu",  # noqa: ANN401 - torch's
    dtype: Any = None,  # noqa: ANN401
    **clock: Any,  # noqa: ANN401 - of `frame.in_turns`
) -> list[Claim]:
    """Return the ratios of time and memory at some sizes."""
    import torch

    from tove.evaluation.profile.memory import peak_bytes

    own = works(sizes, device, dtype or torch.float32)
    times = frame.in_turns(own, rounds, **clock)
    memory = {form: peak_bytes(own[form], ()) for form in ("naive", "fused")}
    return [
        Claim(f"naive / fused, {sizes.told}", frame.over(times["naive"], times["fused"]), 1, True),
        Claim(f"memory, naive / fused, {sizes.told}", [memory["naive"] / memory["fused"]], 1, True),
        Claim(
            f"fused, forward / its products alone, {sizes.told}",
            frame.over(times["fused, forward"], times["products"]),
        ),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch

    args = frame.parser(__doc__).parse_args(argv)
    rounds = args.rounds or (2 if args.short else 9)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    claims = []
    for experts in (2,) if args.short else (2, 4, 8):
        sizes = Sizes(experts, 4 if args.short else 14, 64, 64 if args.short else 512, 2)
        claims += measure(sizes, rounds)
    frame.write("fused_gate", "the gate's sum, shared layer once or for every expert", claims, args)


if __name__ == "__main__":
    main()
