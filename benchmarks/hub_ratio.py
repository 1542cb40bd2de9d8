"""What the hub adds to its experts: its forward over the sum of the bare networks' forwards.

    python benchmarks/hub_ratio.py

"bare" runs each network on pixels that are ready; "by hand" is what somebody would write instead of
the hub: resize where sizes differ, one affine map, the network, nothing checked or put back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import frame
from frame import Claim, Work

if TYPE_CHECKING:
    from torch import Tensor

    from tove.backbones.experts.hub import ExpertHub

GOAL = 1.03
WHY = (
    "what experts' code may change in the process is read before and behind each pass, which is 6 "
    "to 8 % of it at batch 1, half of that numpy's and Python's generators, which tell their state "
    "by a copy alone; to normalise is 1 to 2 %; the rest is what is called around networks of 2 ms"
)
TINY = ("tiny_depth", "tiny_segmentation", "tiny_detection", "tiny_dino")


def works(hub: ExpertHub, images_BCHW: Tensor) -> dict[str, Work]:
    """Return the hub's forward, the bare networks', and what one would write by hand."""
    import torch
    from torch.nn import functional as F

    device = images_BCHW.device
    experts = {slot: hub.network(slot, device) for slot in hub.attached}
    dtypes = {slot: next(expert.expert.parameters()).dtype for slot, expert in experts.items()}
    ready = {s: e.preprocess(images_BCHW).to(dtypes[s]) for s, e in experts.items()}
    affine = {}
    for slot, expert in experts.items():
        pre = expert.preprocess
        scale = (pre.high - pre.low) / pre.std
        affine[slot] = scale, (pre.low - pre.mean) / pre.std

    @torch.no_grad()
    def bare() -> None:
        for slot, expert in experts.items():
            expert.expert(ready[slot])

    @torch.no_grad()
    def by_hand() -> None:
        for slot, expert in experts.items():
            pre, pixels = expert.preprocess, images_BCHW
            if pixels.shape[-2:] != pre.size:
                options: Any = dict(mode=pre.interpolation, antialias=True)
                pixels = F.interpolate(pixels, size=pre.size, **options).clamp_(0, 1)
            scale, shift = affine[slot]
            expert.expert(torch.addcmul(shift, pixels, scale).to(dtypes[slot]))

    @torch.no_grad()
    def whole() -> None:
        hub(images_BCHW)

    return {"hub": whole, "bare": bare, "by hand": by_hand}


def measure(
    label: str,
    hub: ExpertHub,
    images_BCHW: Tensor,
    rounds: int,
    **clock: Any,  # noqa: ANN401 - of `frame.in_turns`
) -> list[Claim]:
    """Return the hub's ratios on a batch.

    Args:
        label: of the experts and the batch.
        hub: all of its attached experts run.
        images_BCHW: in [0, 1].
        rounds: turns.
        **clock: how `frame.in_turns` measures.
    """
    times = frame.in_turns(works(hub, images_BCHW), rounds, **clock)
    same = all(hub.specs[s].image.size == tuple(images_BCHW.shape[-2:]) for s in hub.attached)
    bare, hand = (frame.over(times["hub"], times[name]) for name in ("bare", "by hand"))
    return [  # where images are resized, that is no part of the bare networks
        Claim(f"hub / bare experts, {label}", bare, GOAL if same else None, why=WHY),
        Claim(f"hub / by hand, {label}", hand, None if same else GOAL),
    ]


def tiny_hub(names: Sequence[str] = TINY) -> ExpertHub:
    """Return the demo's experts."""
    from tove.backbones.experts.hub import ExpertHub

    return ExpertHub({name: {"type": name} for name in names})


def vit_hub(short: bool) -> ExpertHub:
    """Return one expert of ViT-B's size with random weights."""
    from tove.backbones.experts.hub import ExpertHub

    if short:
        return ExpertHub({"dino": {"type": "dinov2_base", "tiny": True}})
    return random_hub({"dino": {"type": "dinov2_base"}})


def random_hub(experts: dict[str, dict[str, Any]], **options: Any) -> ExpertHub:  # noqa: ANN401
    """Return a hub of experts at their own sizes, their weights random."""
    from tove.backbones.experts.hub import ExpertHub

    with random_weights():
        return ExpertHub(experts, **options)


def random_weights() -> Any:  # noqa: ANN401 - a patch
    """Return a context in which configs' experts are built whole, with random weights."""
    from dataclasses import replace
    from unittest.mock import patch

    from tove.backbones.experts.registration import expert_options, expert_spec
    from tove.registry import EXPERTS
    from tove_plugins import build_from_spec

    def build(cfg: dict[str, Any], registry: object) -> Any:  # noqa: ANN401
        options = {k: v for k, v in expert_options(cfg).items() if k != "_scope_"}
        tiny = options.pop("tiny", False)
        spec = replace(expert_spec({"type": cfg["type"]}).spec, weights=None)
        return build_from_spec(spec, tiny=tiny, options=options)

    return patch.object(EXPERTS, "build_func", build)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch

    args = frame.parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    claims, hub = [], tiny_hub(TINY[:1] if args.short else TINY)
    for batch in (1,) if args.short else (1, 8, 32):
        rounds = args.rounds or (2 if args.short else {1: 150, 8: 50, 32: 21}[batch])
        claims += measure(f"tiny, batch {batch}", hub, torch.rand(batch, 3, 64, 64), rounds)
    vit = vit_hub(args.short)
    side = vit.specs["dino"].image.size[0]
    rounds = args.rounds or (2 if args.short else 7)
    claims += measure("ViT-B, batch 2", vit, torch.rand(2, 3, side, side), rounds)
    frame.write("hub_ratio", "the hub over its bare experts", claims, args)


if __name__ == "__main__":
    main()
