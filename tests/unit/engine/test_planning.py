"""Which experts have to be there for what a checkpoint, or one stage, is going to run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from tove.engine.planning import needed_slots

ToVE = {"type": "ToVE"}


def stored(folder: Path, model: dict[str, Any], attached: list[str] | None) -> Path:
    meta = {"settings": model} | ({} if attached is None else {"attached": attached})
    torch.save({"meta": meta, "state_dict": {}}, folder / "model.pth")
    return folder / "model.pth"


@pytest.mark.parametrize(
    ("model", "attached", "only", "needed"),
    [
        (ToVE, ["dino"], None, {"dino"}),
        (ToVE, [], None, set()),
        (ToVE, None, None, {"depth", "dino"}),  # it does not say
        ({"type": "MoVEKD"}, ["depth", "dino"], None, set()),  # its experts only taught
        (ToVE, ["dino"], "merge", {"dino"}),  # takes the checkpoint's model
        (ToVE, ["dino"], "transfer", {"depth", "dino"}),  # trains its own
    ],
)
def test_a_checkpoint_needs_the_experts_that_it_has_parameters_for(
    model: dict[str, Any],
    attached: list[str] | None,
    only: str | None,
    needed: set[str],
    settings: dict[str, Any],
    tmp_path: Path,
):
    checkpoint = stored(tmp_path, model, attached)
    assert needed_slots(Config(settings), checkpoint, only) == needed


def test_without_a_checkpoint_all_but_the_detached_are_needed(settings: dict[str, Any]):
    assert needed_slots(Config(settings), None, None) == {"depth", "dino"}
    settings["model"]["detached"] = ["depth"]
    assert needed_slots(Config(settings), None, None) == {"dino"}
