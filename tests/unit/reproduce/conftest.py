"""Claims and made-up records of cells, whose answers are known."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tove.reproduce.records import Record

METRIC = "vsr/accuracy"
IMAGES, EACH = 150, 4
CLAIM = """
question = "Does it help?"
paper = "It does."
config = "base.py"
metrics = ["vsr/accuracy"]
over = "plain"
cells = dict(
    plain=dict(stages=[dict(type="TrainStage", name="plain", model=dict(type="PlainCLIP"))]),
    ours=dict(stages=[dict(type="TrainStage", name="ours")]),
)
tests = [dict(says="ours is above plain", difference=("ours", "plain"), metric="vsr/accuracy")]
quick = dict(seeds=1, settings=dict(schedule=dict(steps=1)))
"""


@pytest.fixture
def write_claim(tmp_path: Path) -> Callable[..., Path]:
    """Write a claim into a folder of claims, and give its path."""

    def write(text: str = CLAIM, name: str = "helps", config: str = "model = dict()") -> Path:
        folder = tmp_path / "claims"
        folder.mkdir(exist_ok=True)
        (folder / "base.py").write_text(config)
        (folder / f"{name}.py").write_text(text)
        return folder / f"{name}.py"

    return write


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Give a cell's record, its answers drawn with a share of right ones for each arm."""

    def make(
        seed: int, shares: Mapping[str, float], images: Mapping[str, float] | None = None
    ) -> Record:
        hard = np.random.default_rng(seed).random((IMAGES, EACH)).ravel()  # of each item, for all
        kinds = {"images": np.repeat(np.arange(IMAGES), EACH).tolist(), "kinds": ["far", "near"]}
        items = {METRIC: {**kinds, "kind": [i % 2 for i in range(IMAGES * EACH)]}}
        rows: list[dict[str, Any]] = [
            {
                "arm": arm,
                "metrics": {METRIC: float((hard < share).mean())},
                "scores": {METRIC: (hard < share).astype(int).tolist()},
                "experts": [],
                "training_images": (images or {}).get(arm, 100),
                "steps": 10,
                "flops": 10**6,
                "trainable_parameters": 1000,
            }
            for arm, share in shares.items()
        ]
        told = {"seconds": 60, "version": "0.1", "commit": "abc", "digest": f"d{seed}"}
        return Record({**told, "seed": seed, "rows": rows}, items)

    return make
