"""Rows of a run as the stages write them."""

from collections.abc import Callable
from typing import Any

import pytest

Rows = Callable[..., list[dict[str, Any]]]


def _row(name: str, score: float, spread: float, **entries: Any) -> dict[str, Any]:
    metric = {"value": score, "low": score - spread, "high": score + spread, "n": 1000}
    return {
        "name": name,
        "experts": [],
        "metrics": {"vsr/accuracy": metric, "vsr/relation/left": {"value": score}},
        "trainable_parameters": 1000,
        "total_parameters": 2000,
        "forward_ms": 1.0,
        "training_images": 500,
        "steps": 300,
        "seed": 0,
        "stage": name,
        **entries,
    }


@pytest.fixture
def make_rows() -> Rows:
    """Give the rows of a run with the slots `a` and `b`; `a` is removed first."""

    def make(
        plain: float = 0.70,
        baseline: float = 0.75,
        tove: float = 0.85,
        merged: float = 0.81,
        after: tuple[float, float] = (0.84, 0.75),
        spread: float = 0.02,
    ) -> list[dict[str, Any]]:
        return [
            _row("plain_clip", plain, spread),
            _row("baseline", baseline, spread),
            _row("tove", tove, spread, experts=["a", "b"], stage="transfer", forward_ms=9.0),
            _row("tove-a", after[0], spread, experts=["b"], stage="detach"),
            _row("tove-b", after[1], spread, stage="detach"),
            _row("merged", merged, spread, stage="merge"),
        ]

    return make
