"""Counting parameters and timing calls.

median_ms = median over runs of the wall time of a call, after warm-up
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["count_parameters", "distinct_parameters", "median_ms"]

_FEWEST_RUNS = 3
_SECONDS = 3.0  # of timing a call: a slow one is timed less often


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
    """Time a call.

    Args:
        step: the call.
        device: that it runs on, waited for.
        runs: timed calls; fewer, but at least three, once they have taken three seconds.
        warm_up: untimed calls before them.

    Returns:
        The median in milliseconds.
    """
    times: list[float] = []
    for run in range(warm_up + runs):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run >= warm_up:
            times.append((time.perf_counter() - start) * 1e3)
        if len(times) >= _FEWEST_RUNS and sum(times) > _SECONDS * 1e3:
            break
    return statistics.median(times)
