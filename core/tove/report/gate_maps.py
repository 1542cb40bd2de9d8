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
    from matplotlib.figure import Figure

__all__ = ["expert_maps", "gate_maps", "preference_overlay"]

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_WIDTH = 5.0  # inches of a full line
_LINE = 6  # tiles in it: pairs of image and map, or one image's experts
_GAP = 0.06  # between tiles, in tiles
_STRONGEST = 0.85  # opacity of the strongest preference: the image stays visible


class _Sheet:
    """Tiles in one pair of axes: a grid of axes would take seconds to lay out.

    Args:
        columns: tiles in a line.
        lines: of tiles.
        head: height over each line for words, in tiles.
    """

    def __init__(self, columns: int, lines: int, head: float = 0.0) -> None:
        from matplotlib.figure import Figure

        self.step = 1 + _GAP
        self.rise = self.step + head
        width, height = columns * self.step - _GAP, lines * self.rise - _GAP
        tile = _WIDTH / (_LINE * self.step)
        room = 0.1 if head else 0.4  # for a legend
        self.figure = Figure(figsize=(width * tile + 0.1, height * tile + room))
        self.axes = self.figure.add_subplot()
        self.axes.set_axis_off()
        self.extent, self.head = (0.0, width, height, 0.0), head

    def put(self, line: int, column: int, pixels: Pixels | Array, smooth: bool = False) -> None:
        """Lay an image, or a layer with opacity, into a tile."""
        left, top = column * self.step, line * self.rise + self.head
        self.axes.imshow(
            pixels,
            extent=(left, left + 1, top + 1, top),
            interpolation="bilinear" if smooth else "nearest",
        )

    def say(self, line: int, column: int, words: str) -> None:
        """Write over a tile."""
        place = column * self.step, line * self.rise + self.head - 0.04
        self.axes.text(*place, words, fontsize=7.5, va="bottom", linespacing=1.15)

    def finished(self) -> "Figure":
        """Give the figure, its axes cut to the tiles."""
        self.axes.set_xlim(self.extent[0], self.extent[1])
        self.axes.set_ylim(self.extent[2], self.extent[3])
        return self.figure


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
    pairs = _LINE // 2
    sheet = _Sheet(_LINE, -(-len(images_ISS3) // pairs))
    largest = float(gates_IhwK.max())
    for index, (image, gate) in enumerate(zip(images_ISS3, gates_IhwK, strict=True)):
        line, pair = divmod(index, pairs)
        for column in (2 * pair, 2 * pair + 1):
            sheet.put(line, column, image, smooth=True)
        layer = preference_overlay(gate, list(colours.values()), largest)
        sheet.put(line, 2 * pair + 1, layer)
    _legend(sheet.figure, colours)
    return sheet.finished()


def expert_maps(
    theme: Theme, images_ISS3: Pixels, gates_IhwK: Array, colours: Mapping[str, str]
) -> "Figure":
    """Draw for each image one map per expert: its colour, as opaque as its weight is large."""
    from matplotlib.colors import to_rgb

    in_line = min(len(colours), _LINE - 1)
    lines = -(-len(colours) // in_line)
    sheet = _Sheet(1 + in_line, lines * len(images_ISS3), head=0.42)
    low, high = float(gates_IhwK.min()), float(gates_IhwK.max())
    for index, (image, gate_hwK) in enumerate(zip(images_ISS3, gates_IhwK, strict=True)):
        sheet.put(index * lines, 0, image, smooth=True)
        grey = _dimmed(image)
        for k, (slot, colour) in enumerate(colours.items()):
            line, column = index * lines + k // in_line, 1 + k % in_line
            share_hw1 = (gate_hwK[..., k : k + 1] - low) / max(high - low, 1e-9)
            rgb_hw3 = np.broadcast_to(to_rgb(colour), (*gate_hwK.shape[:2], 3))
            sheet.put(line, column, grey, smooth=True)
            sheet.put(line, column, np.concatenate([rgb_hw3, 0.9 * share_hw1], axis=-1))
            sheet.say(line, column, f"{_short(slot)}\n{gate_hwK[..., k].mean():.2f}")
    return sheet.finished()


def _short(slot: str, limit: int = 13) -> str:
    return slot if len(slot) <= limit else f"{slot[: limit - 1]}…"


def _dimmed(image_SS3: Pixels) -> Pixels:
    """Give the image in light grey, so that the colour over it is the expert's alone."""
    grey_SS = image_SS3.astype(np.float64).mean(axis=-1)
    return np.repeat((0.6 * grey_SS + 90)[..., None], 3, axis=-1).clip(0, 255).astype(np.uint8)


def _legend(figure: "Figure", colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=shown(slot)) for slot, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns(colours))
