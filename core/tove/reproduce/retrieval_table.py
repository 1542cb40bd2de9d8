"""What exported encoders can still do of what their CLIP did: zero-shot retrieval."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["retrieval_table"]

_NOTE = (
    "R@1 among {images} test images and their captions, by the text tower of the CLIP that the "
    "encoder came from: before the merge, and after it (its class token is what `keep` bounds). "
    "By chance {chance:.3f}. Means over seeds."
)

_WAYS = ("image_to_text", "text_to_image")
_SIDES = ("source", "transformers")


def retrieval_table(
    rows: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> tuple[str, list[list[str]]]:
    """Return a note, and the heads and the cells of each arm whose export was asked.

    Args:
        rows: of a claim's records, by arm and seed.
    """
    lines, told = [], []
    for arm, by_seed in rows.items():
        own = [row["retrieval"] for row in by_seed.values() if _both(row.get("retrieval"))]
        if own:
            told += own
            lines.append([arm, *(_mean(own, side, way) for way in _WAYS for side in _SIDES)])
    if not lines:
        return "", []
    heads = [f"{way.replace('_', ' ')}, {name}" for way in _WAYS for name in ("CLIP", "merged")]
    chance = float(np.mean([entry["source"]["chance"] for entry in told]))
    note = _NOTE.format(images=told[0]["images"], chance=chance)
    return note, [["arm", *heads], *lines]


def _both(retrieval: Mapping[str, Any] | None) -> bool:
    return all(side in (retrieval or {}) for side in _SIDES)


def _mean(retrievals: list[Mapping[str, Any]], side: str, way: str) -> str:
    return f"{np.mean([entry[side][way] for entry in retrievals]):.2f}"
