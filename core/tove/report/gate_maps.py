"""Gate maps: which expert each token of an image asks for, in the expert's colour.

    colour_i  = that of argmax_k g_ik
    opacity_i = (max_k g_ik - 1/K) / (largest weight shown - 1/K)      transparent: no preference

Shapes: I images, S x S pixels, h x w tokens, K slots.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tove.report.figures import legend_columns, shown
from tove.report.theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["expert_maps", "gate_maps", "preference_overlay"]

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_TILE = 0.82  # inches
_PAIRS = 3  # pairs of image and map in a line
_LINE = 6  # tiles in a line of `expert_maps`
_STRONGEST = 0.85  # opacity of the strongest preference: the image stays visible


def preference_overlay(gate_hwK: Array, colours: Sequence[str], largest: float) -> Array:
    """Return the layer [h, w, 4] (RGBA) to put over an image.

    Args:
        gate_hwK: weights.
        colours: of the K slots.
        largest: the weight that gets full opacity.
    """
    from matplotlib.colors import to_rgb

    equal = 1 / len(colours)
    palette_K3 = np.array([to_rgb(colour) for colour in colours])
    weight_hw = gate_hwK.max(axis=-1)
    span = largest - equal
    opacity_hw = np.clip((weight_hw - equal) / span, 0, 1) if span > 1e-9 else 0 * weight_hw
    rgb_hw3 = palette_K3[gate_hwK.argmax(axis=-1)]
    return np.concatenate([rgb_hw3, _STRONGEST * opacity_hw[..., None]], axis=-1)


def gate_maps(
    theme: Theme, images_ISS3: Pixels, gates_IhwK: Array, colours: Mapping[str, str]
) -> "Figure":
    """Draw pairs: an image, and the same with each token in the colour of its expert."""
    from matplotlib.figure import Figure

    lines = -(-len(images_ISS3) // _PAIRS)
    figure = Figure(figsize=(2 * _PAIRS * _TILE + 0.2, lines * (_TILE + 0.06) + 0.35))
    grid = figure.subplots(lines, 2 * _PAIRS, squeeze=False)
    largest = float(gates_IhwK.max())
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (image, gate) in enumerate(zip(images_ISS3, gates_IhwK, strict=True)):
        line, column = divmod(index, _PAIRS)
        _image(grid[line, 2 * column], image)
        overlaid = grid[line, 2 * column + 1]
        _image(overlaid, image)
        _over(overlaid, preference_overlay(gate, list(colours.values()), largest), image)
    _legend(figure, colours)
    return figure


def expert_maps(
    theme: Theme, images_ISS3: Pixels, gates_IhwK: Array, colours: Mapping[str, str]
) -> "Figure":
    """Draw for each image one map per expert: its colour, as opaque as its weight is large."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    columns = min(1 + len(colours), _LINE)
    lines = -(-len(colours) // (columns - 1))
    rows = lines * len(images_ISS3)
    figure = Figure(figsize=(columns * _TILE * 1.1 + 0.2, rows * (_TILE * 1.1 + 0.36)))
    grid = figure.subplots(rows, columns, squeeze=False)
    low, high = float(gates_IhwK.min()), float(gates_IhwK.max())
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (image, gate_hwK) in enumerate(zip(images_ISS3, gates_IhwK, strict=True)):
        _image(grid[index * lines, 0], image)
        for k, (slot, colour) in enumerate(colours.items()):
            line, column = divmod(k, columns - 1)
            axes = grid[index * lines + line, 1 + column]
            _image(axes, _dimmed(image))
            share_hw1 = (gate_hwK[..., k : k + 1] - low) / max(high - low, 1e-9)
            rgb_hw3 = np.broadcast_to(to_rgb(colour), (*gate_hwK.shape[:2], 3))
            _over(axes, np.concatenate([rgb_hw3, 0.9 * share_hw1], axis=-1), image)
            words = f"{_short(slot)}\n{gate_hwK[..., k].mean():.2f}"
            axes.set_title(words, fontsize=7.5, pad=2)
    return figure


def _short(slot: str, limit: int = 13) -> str:
    return slot if len(slot) <= limit else f"{slot[: limit - 1]}…"


def _dimmed(image_SS3: Pixels) -> Pixels:
    """Give the image in light grey, so that the colour over it is the expert's alone."""
    grey_SS = image_SS3.astype(np.float64).mean(axis=-1)
    return np.repeat((0.6 * grey_SS + 90)[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)


def _image(axes: "Axes", image_SS3: Pixels) -> None:
    axes.imshow(image_SS3, interpolation="bilinear")


def _over(axes: "Axes", layer_hw4: Array, image_SS3: Pixels) -> None:
    height, width = image_SS3.shape[:2]
    axes.imshow(layer_hw4, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")


def _legend(figure: "Figure", colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=shown(slot)) for slot, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns(colours))
