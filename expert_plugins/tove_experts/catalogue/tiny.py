"""The tiny world's experts.

They were trained on procedural scenes by the scripts in `tools/`. A card next to each weights
file, `weights/NAME.json`, holds its digest and size, so that training anew needs no change here.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]

WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"

TASKS = {
    "tiny_depth": ("depth", "Depth of every pixel; the features before its head."),
    "tiny_segmentation": ("segmentation", "Object classes of every pixel; features before it."),
    "tiny_detection": ("detection", "Boxes and classes on a grid; the features before them."),
    "tiny_dino": ("self-supervised", "Self-distillation without labels; the student's features."),
}


def specs() -> Iterator[ExpertSpec]:
    """Yield the tiny experts' specs."""
    for name, (task, description) in TASKS.items():
        yield ExpertSpec(
            name=name,
            task=task,
            factory="tove_experts.tiny:TinyExpert",
            tokens=TokenSpec(width=64, grid=(8, 8), kind="features"),
            image=ImageSpec(size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
            weights=_weights(name),
            options={"width": 64, "depth": 3},
            description=description,
        )


def _weights(name: str) -> Weights:
    card_file = WEIGHTS_FOLDER / f"{name}.json"
    card = json.loads(card_file.read_text()) if card_file.is_file() else {}
    return Weights(
        source=f"pkg:tove_experts/weights/{name}.safetensors",
        sha256=card.get("sha256"),
        size_mb=card.get("size_mb", 0.0),
        licence="Apache-2.0",
        trained_on="procedural scenes of tove's tiny world",
        commercial_use=True,
    )
