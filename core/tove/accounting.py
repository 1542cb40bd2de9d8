"""What a configuration costs: parameters, trainable and in all, and the latency of its vision side.

forward_ms = median over runs of the time from an image batch to t_fuse, after warm-up
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["count_parameters", "distinct_parameters", "forward_ms", "median_ms"]


def distinct_parameters(modules: Iterable[nn.Module]) -> dict[int, nn.Parameter]:
    """Gather the parameters of several modules, each once, keyed by identity."""
    return {id(p): p for module in modules for p in module.parameters()}


def count_parameters(model: nn.Module, excluded: Iterable[nn.Module] = ()) -> tuple[int, int]:
    """Count parameters, a shared one once.

    Args:
        model: what is counted.
        excluded: parts of it that this configuration does not run, detached experts for example.

    Returns:
        (trainable, total).
    """
    left_out = distinct_parameters(excluded)
    parameters = [p for key, p in distinct_parameters([model]).items() if key not in left_out]
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return trainable, sum(p.numel() for p in parameters)


def median_ms(step: Callable[[], Any], device: torch.device, runs: int, warm_up: int) -> float:
    """Time a call: the median of `runs` after `warm_up` untimed ones, in milliseconds."""
    times = []
    for run in range(warm_up + runs):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run >= warm_up:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


@torch.no_grad()
def forward_ms(
    model: nn.Module, image_size: int, device: torch.device, runs: int = 15, warm_up: int = 3
) -> float:
    """Time one image through the vision side, experts included, cache left out.

    Args:
        model: has `fuse(images_BCHW)`.
        image_size: side of the square view that the data sets give.
        device: where the model is.
        runs: timed calls.
        warm_up: untimed calls before them.

    Returns:
        Milliseconds for a batch of one image.
    """
    was_training = model.training
    fuse: Any = model.fuse
    model.eval()
    images_BCHW = torch.rand(1, 3, image_size, image_size, device=device)
    try:
        return median_ms(lambda: fuse(images_BCHW), device, runs, warm_up)
    finally:
        model.train(was_training)
