"""The scripts that train the tiny weights, called without options, repeat what their cards say."""

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ASSETS = ROOT / "core/tove/assets"
EXPERTS = ROOT / "expert_plugins/tove_experts/weights"
CARDS = {
    "clip": ASSETS / "tiny_clip/card.json",
    "lm": ASSETS / "tiny_lm/card.json",
    "align": ASSETS / "tiny_align.json",
    "chat": ASSETS / "tiny_chat/card.json",
    **{task: EXPERTS / f"tiny_{task}.json" for task in ("depth", "segmentation", "detection")},
    "dino": EXPERTS / "tiny_dino.json",
}


@pytest.mark.parametrize("task", CARDS)
def test_defaults_are_the_shipped_weights_own(task: str, monkeypatch: pytest.MonkeyPatch):
    scripts = {"lm": "language", "align": "language", "chat": "chat"}
    script = f"train_tiny_{scripts.get(task, 'encoders')}.py"
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [script] if task == "chat" else [script, task])
    args = runpy.run_path(str(ROOT / "scripts" / script))["parse_arguments"]()
    card = json.loads(CARDS[task].read_text())
    assert (args.steps, args.batch) == (card["score"]["steps"], card["score"]["batch"])
    assert args.seed == card["seed"]
    assert card["data"].startswith(f"{args.scenes} ")
