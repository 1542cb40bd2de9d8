"""The normalisations that vision networks come with, to call a mistake by its name."""

from collections.abc import Iterator

__all__ = ["KNOWN", "Triple", "close", "name_affine"]

Triple = tuple[float, float, float]

KNOWN: dict[str, tuple[Triple, Triple]] = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "the (0.5, 0.5)": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and std per RGB channel, for images in [0, 1]."""

BYTE = 255.0


def close(one: Triple, other: Triple, slack: float) -> bool:
    """Tell whether two triples differ by at most `slack` in each entry."""
    return all(abs(a - b) <= slack for a, b in zip(one, other, strict=True))


def name_affine(scale: Triple, offset: Triple) -> str:
    """Say what a map `x * scale + offset` of normalised images probably is."""
    for sentence, known_scale, known_offset in _explanations():
        ratios = [a / b for a, b in zip(scale, known_scale, strict=True)]
        largest = max(1.0, *map(abs, known_offset))
        if close((ratios[0], ratios[1], ratios[2]), (1, 1, 1), 0.02) and close(
            offset, known_offset, 0.02 * largest
        ):
            return sentence
    return "it scales or shifts the values again"


def _explanations() -> Iterator[tuple[str, Triple, Triple]]:
    zero = (0.0, 0.0, 0.0)
    yield "it divides by 255", (1 / BYTE,) * 3, zero
    yield "it multiplies by 255", (BYTE,) * 3, zero
    for name, (rgb_mean, rgb_std) in KNOWN.items():
        for order in ("", " in the order BGR"):
            mean, std = (_turned(side) if order else side for side in (rgb_mean, rgb_std))
            words = f"{name} mean and std{order}"
            yield f"it normalises again, with {words}", *_normalise(mean, std, 1)
            yield (
                f"it normalises again, with {words}, as if it were in 0 to 255",
                *_normalise(mean, std, BYTE),
            )
            yield f"it undoes a normalisation with {words}", std, mean


def _turned(triple: Triple) -> Triple:
    return triple[2], triple[1], triple[0]


def _normalise(mean: Triple, std: Triple, unit: float) -> tuple[Triple, Triple]:
    scale = [1 / (s * unit) for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return (scale[0], scale[1], scale[2]), (offset[0], offset[1], offset[2])
