"""What a step of ToVE costs once its frozen tokens are known, over a step without experts.

    python benchmarks/training_step.py

The demo's model on random images. "plain" is PlainCLIP with the same encoder, language model and
cache; a step is mmengine's `train_step`, the optimiser's included. Shares are of a step whose
frozen networks run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import frame
from frame import ROOT, Claim, Work

if TYPE_CHECKING:
    import torch

    from tove.methods.tove.model import ToVE

GOAL = 1.22
CONFIG = ROOT / "configs/tiny/tove-tiny_scenes.py"


def batch_of(images: torch.Tensor) -> dict[str, Any]:
    """Return a batch of a loader: images [B, 3, S, S] in uint8, statements and captions."""
    asked = ("the red ball is behind the blue box ?", "yes"), ("", "a red ball behind a blue box")
    samples = []
    for number in range(len(images)):
        prompt, target = asked[number % 2]
        samples.append(dict(image_id=f"image {number}", prompt=prompt, target=target))
    return {"images": images, "data_samples": samples}


def trainer(model: Any, amp: str | None = None) -> Callable[[dict[str, Any]], object]:  # noqa: ANN401
    """Return a function that takes one training step on a batch, by the engine's optimiser.

    Args:
        model: a method.
        amp: dtype of mixed precision; None is none.
    """
    from mmengine.optim import build_optim_wrapper

    from tove.engine.optimizer import Schedule, optim_wrapper_cfg

    options = {} if amp is None else {"amp_dtype": amp}
    cfg = optim_wrapper_cfg(Schedule(steps=50, lr=1e-5, **options), amp is not None)
    wrapper = build_optim_wrapper(model.train(), cfg)
    return lambda batch: model.train_step(batch, optim_wrapper=wrapper)


@contextmanager
def without_cache(model: ToVE) -> Iterator[None]:
    """Let the frozen networks run."""
    cache, model.cache = model.cache, None
    try:
        yield
    finally:
        model.cache = cache


def steps(
    model: ToVE,
    plain: Any,  # noqa: ANN401 - a method
    batch: dict[str, Any],
    amp: str | None = None,
) -> dict[str, Work]:
    """Return the steps that are compared: plain and ToVE's from a cache, and ToVE's without."""
    train, train_plain = trainer(model, amp), trainer(plain, amp)

    def live() -> None:
        with without_cache(model):
            train(batch)

    return {
        "plain, cached": lambda: train_plain(batch),
        "cached": lambda: train(batch),
        "live": live,
    }


def parts(model: ToVE, batch: dict[str, Any]) -> dict[str, Work]:
    """Return the forward of each part of a step; what is left of it is backward and optimiser."""
    import torch

    from tove.backbones.preprocess import to_unit_range

    device = next(model.language.parameters()).device
    images = to_unit_range(batch["images"].to(device))
    samples = batch["data_samples"]
    with without_cache(model), torch.no_grad():
        t_clip = model.encode(images)
        tokens = {slot: model.frozen_tokens(slot, images) for slot in model.slots}
        t_fuse = model.fuse_tokens(t_clip, tokens).t_fuse

    def frozen(run: Work) -> Work:
        return torch.no_grad()(run)

    experts = {
        f"expert {slot}": frozen(lambda slot=slot: model.hub.run(slot, images))
        for slot in model.slots
    }
    return {
        "encoder": frozen(lambda: model.encoder(images)),
        **experts,
        "gate, projection, transfer": lambda: model.fuse_tokens(t_clip, tokens),
        "language model": lambda: model.language.loss(t_fuse, samples),
    }


def claims_of(works: dict[str, Work], times: dict[str, list[float]], goal: float) -> list[Claim]:
    """Return the ratios of `steps`, of time and of floating-point operations."""
    from tove.evaluation.profile.flops import count_flops

    flops = count_flops(works["cached"]) / count_flops(works["plain, cached"])
    return [
        Claim(
            "cached step / plain step",
            frame.over(times["cached"], times["plain, cached"]),
            goal,
            why=f"its floating-point operations are {flops:.2f} times those of a plain one",
        ),
        Claim("the same, FLOPs", [flops]),
        Claim("live step / cached step", frame.over(times["live"], times["cached"])),
    ]


def shares(times: dict[str, list[float]], parts_of: Sequence[str]) -> list[Claim]:
    """Return each part's share of a live step, and the rest's."""
    live = times["live"]
    forward = [sum(values) for values in zip(*(times[part] for part in parts_of), strict=True)]
    rest = [1 - share for share in frame.over(forward, live)]
    return [
        *(Claim(f"share of a live step: {p}", frame.over(times[p], live)) for p in parts_of),
        Claim("share of a live step: backward, optimiser", rest),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch
    from mmengine.config import Config

    from tove.engine.planning import method_settings
    from tove.registry import MODELS

    args = frame.parser(__doc__).parse_args(argv)
    rounds = args.rounds or (2 if args.short else 30)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = Config.fromfile(str(CONFIG))
    cfg.model.expert_dropout = 0.0  # every step runs all experts
    model = MODELS.build(cfg.model)
    parts_shared = {"encoder": model.encoder, "language": model.language}
    plain = MODELS.build(method_settings(cfg.model, {"type": "PlainCLIP"}) | parts_shared)
    size = 2 if args.short else cfg.batch_size
    batch = batch_of(torch.randint(0, 256, (size, 3, 64, 64), dtype=torch.uint8))
    own, works = parts(model, batch), steps(model, plain, batch)
    times = frame.in_turns({**works, **own}, rounds)
    claims = claims_of(works, times, GOAL) + shares(times, list(own))
    frame.write("training_step", "a step from the cache over a step without experts", claims, args)


if __name__ == "__main__":
    main()
