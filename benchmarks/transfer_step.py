"""Where the time of a training step goes, and what the exact savings are worth. Ratios, one run.

The tiny config's own model on random images: the frozen encoders with and without the token
cache, the fused gate against the naive form (every expert projected in full), language model.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]


def milliseconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Median time of a call, after two to warm up."""
    times = []
    for i in range(repeats + 2):
        start = time.perf_counter()
        work()
        if i >= 2:
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    """Prints the table."""
    import torch
    from mmengine.config import Config
    from rich.console import Console
    from rich.table import Table

    from tove.methods.tove.model import ToVE
    from tove.registry import MODELS

    cfg = Config.fromfile(str(ROOT / "configs/tiny/tove-tiny_scenes.py"))
    torch.manual_seed(0)
    model: ToVE = MODELS.build(cfg.model)
    batch = cfg.batch_size
    images = torch.randint(0, 256, (batch, 3, 64, 64), dtype=torch.uint8)
    ids = [f"image {i}" for i in range(batch)]
    prompts, targets = ["the red ball is behind the blue box ?"] * batch, ["yes"] * batch
    samples = [
        dict(image_id=i, prompt=p, target=t) for i, p, t in zip(ids, prompts, targets, strict=True)
    ]
    slots = model.slots
    tokens = {s: model.hub.run(s, images / 255) for s in slots}
    clip = model.encoder(images / 255).detach()
    gates = model.gate(clip).weights.detach()

    def naive() -> torch.Tensor:
        every = [model.projector.shared(model.projector.hidden_tokens(s, tokens[s])) for s in slots]
        return (torch.stack(every, -1) * gates[:, :, None]).sum(-1)

    def step() -> None:
        losses = model(images, samples, mode="loss")
        sum(v for k, v in losses.items() if "loss" in k).backward()

    def uncached() -> None:
        cache, model.cache = model.cache, None
        step()
        model.cache = cache

    difference = (naive() - model.projector.mix(gates, slots, tokens)).abs().max().item()
    memory = model.fuse(images, ids).t_fuse.detach()
    rows = {
        "CLIP, forward": milliseconds(lambda: model.encoder(images / 255)),
        "all experts, forward": milliseconds(
            lambda: [model.hub.run(s, images / 255) for s in slots]
        ),
        "gated sum, fused": milliseconds(lambda: model.projector.mix(gates, slots, tokens)),
        "gated sum, naive": milliseconds(naive),
        "language model, forward": milliseconds(lambda: model.language.loss(memory, samples)),
        "training step, token cache": milliseconds(step),
        "training step, no cache": milliseconds(uncached),
    }
    table = Table("part", "ms", "share of a cached step")
    for name, value in rows.items():
        table.add_row(name, f"{value:.1f}", f"{value / rows['training step, token cache']:.2f}")
    console = Console(width=100)
    console.print(f"batch {batch}, {torch.get_num_threads()} threads, {len(slots)} experts")
    console.print(table)
    console.print(
        f"naive / fused gate {rows['gated sum, naive'] / rows['gated sum, fused']:.2f} "
        f"(largest difference {difference:.1e}); no cache / cache "
        f"{rows['training step, no cache'] / rows['training step, token cache']:.2f}"
    )


if __name__ == "__main__":
    main()
