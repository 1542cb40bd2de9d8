"""What a report shows of the gate: where in the images each expert is asked for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tove.report import figures, gate_maps
from tove.report.model_probes import (
    GateSample,
    depth_layers,
    evenly,
    row_layers,
    sample_gates,
)
from tove.report.page import Section, section
from tove.report.report_data import MENDABLE, Material
from tove.report.theme import Picture, Theme, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gate_section"]

_IMAGES_BY_EXPERT = 4
Draw = Callable[[Theme], "Figure"]


@section(40)
def gate_section(material: Material) -> Section | None:
    """Show where in the images each expert is asked for; nothing of a method without a gate."""
    num_images, num_maps = material.settings.num_images, material.settings.num_maps
    title = "Where the gate looks"
    if material.model is None or material.dataset is None:
        problem = material.model_problem or material.data_problem
        return Section("gates", title, [problem])
    if not hasattr(material.model, "gate_weights"):
        return None
    try:
        sample = sample_gates(
            material.context, material.model, material.dataset, material.samples, num_images
        )
    except MENDABLE as error:
        return Section("gates", title, [f"There are no gate maps: {error}."])
    colours = {slot: material.colours[slot] for slot in sample.slots}
    both = material.model.gate.sees_experts
    sees = "CLIP's and the experts' tokens" if both else "CLIP's tokens alone"
    intro = (
        f"For every token the gate shares one unit of weight among the experts, from {sees}. With "
        f"{len(colours)} experts an equal share is {1 / len(colours):.2f}.{_entropy(material)} "
        "Images are taken at equal distances through the test split, none is picked."
    )
    pictures = [
        _maps(sample, colours, num_maps),
        _expert_maps(sample, colours),
        _means(sample, colours),
        _layers(material, sample, colours),
    ]
    return Section("gates", title, [intro], pictures=pictures)


def _entropy(material: Material) -> str:
    """Say how even the shares were over the whole test split, where a row tells it."""
    method = material.standing.method
    source = material.settings.source or (method["stage"] if method else None)
    told = [row["gate"] for row in material.rows if row["stage"] == source and "gate" in row]
    if not told:
        return ""
    return (
        f" Over the whole test split the shares' entropy is {told[0]['entropy']:.2f} of that of "
        "equal ones."
    )


def _maps(sample: GateSample, colours: dict[str, str], num_maps: int) -> Picture:
    shown = evenly(len(sample.images), num_maps)
    winner = sample.gates.argmax(axis=-1)
    parts = [f"{slot} {100 * (winner == k).mean():.0f} %" for k, slot in enumerate(colours)]
    caption = (
        "Pairs of a test image and the same with every token in the colour of the expert that "
        "weighs most there. The more the colour covers, the clearer the preference: it is full at "
        f"a weight of {sample.gates[shown].max():.2f}, the largest shown, and gone at an equal "
        f"share. Over {len(sample.images):,} images the most heavily weighed expert is: "
        f"{', '.join(parts)} of the tokens."
    )
    figure: Draw = partial(
        gate_maps.gate_maps,
        images_ISS3=sample.images[shown],
        gates_IhwK=sample.gates[shown],
        colours=colours,
    )
    return draw("gate_maps", "Test images and their gate maps", caption, figure)


def _expert_maps(sample: GateSample, colours: dict[str, str]) -> Picture:
    shown = evenly(len(sample.images), _IMAGES_BY_EXPERT)
    gates = sample.gates[shown]
    caption = (
        "A test image and, over its grey copy, the weight of each expert alone, its mean over the "
        f"image under its name. No colour is {gates.min():.2f}, full colour {gates.max():.2f}, "
        "the smallest and largest weight shown, the same scale in all maps."
    )
    figure: Draw = partial(
        gate_maps.expert_maps,
        images_ISS3=sample.images[shown],
        gates_IhwK=gates,
        colours=colours,
    )
    return draw("gate_maps_by_expert", "Gate weight of each expert", caption, figure)


def _means(sample: GateSample, colours: dict[str, str]) -> Picture:
    per_image_IK = sample.gates.mean(axis=(1, 2))
    mean_K, slots = per_image_IK.mean(axis=0), list(colours)
    most, least = slots[int(mean_K.argmax())], slots[int(mean_K.argmin())]
    caption = (
        f"Mean gate weight of each expert over {len(sample.images):,} test images; the thin line "
        f"spans the middle 80 % of the images. Most weight goes to {most} ({mean_K.max():.2f}), "
        f"least to {least} ({mean_K.min():.2f})."
    )
    figure: Draw = partial(figures.gate_means, per_image_IK=per_image_IK, colours=colours)
    return draw("gate_means", "Mean gate weight of each expert", caption, figure)


def _layers(material: Material, sample: GateSample, colours: dict[str, str]) -> Picture:
    """Draw weights over depth where it is known, else over the height in the image."""
    root = Path(str(material.context.cfg.data_root)).expanduser()
    by_depth = depth_layers(sample, root)
    values = row_layers(sample) if by_depth is None else by_depth
    mean_LK, slots = np.nanmean(values, axis=0), list(colours)
    change_K = mean_LK[-1] - mean_LK[0]
    k = int(np.abs(change_K).argmax())
    if by_depth is None:
        what, ends, name = "height in the image", ("bottom", "top"), "gate_by_height"
        where = f"over the {values.shape[1]} rows of tokens, the image's lowest row at the bottom"
    else:
        what, ends, name = "depth", ("nearest", "farthest"), "gate_by_depth"
        where = f"over {values.shape[1]} layers of depth with equally many tokens"
    caption = (
        f"Mean gate weight of each expert {where}; bands span the middle half of the images. From "
        f"{ends[0]} to {ends[1]} the weight of {slots[k]} changes most, from {mean_LK[0, k]:.2f} "
        f"to {mean_LK[-1, k]:.2f}."
    )
    figure: Draw = partial(figures.gate_layers, per_layer_ILK=values, colours=colours, ends=ends)
    return draw(name, f"Gate weight by {what}", caption, figure)
