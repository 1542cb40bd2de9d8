"""The sections about the model: gates over test images, answers, experts, provenance."""

import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tove.config import environment
from tove.report import figures, gate_maps
from tove.report.model_probes import (
    GateSample,
    answers,
    depth_layers,
    evenly,
    expert_costs,
    load_items,
    row_layers,
    sample_gates,
)
from tove.report.page import Card, Section, Table, data_uri, png_of
from tove.report.report_data import MENDABLE, Material
from tove.report.theme import Picture, Theme, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["example_section", "expert_section", "gate_section", "provenance_section"]

_IMAGES_BY_EXPERT = 4
Draw = Callable[[Theme], "Figure"]


def gate_section(material: Material, num_images: int, num_maps: int) -> Section:
    """Show where in the images each expert is asked for.

    Args:
        material: of the run.
        num_images: test images that the averages are over.
        num_maps: of them, those that are shown.
    """
    title = "Where the gate looks"
    if material.model is None or material.dataset is None:
        problem = material.model_problem or material.data_problem
        return Section("gates", title, [problem])
    try:
        sample = sample_gates(
            material.context, material.model, material.dataset, material.samples, num_images
        )
    except MENDABLE as error:
        return Section("gates", title, [f"There are no gate maps: {error}."])
    colours = {slot: material.colours[slot] for slot in sample.slots}
    intro = (
        "For every token the gate shares one unit of weight among the experts, from CLIP's tokens "
        f"alone. With {len(colours)} experts an equal share is {1 / len(colours):.2f}. Images are "
        "taken at equal distances through the test split, none is picked."
    )
    pictures = [
        _maps(sample, colours, num_maps),
        _expert_maps(sample, colours),
        _means(sample, colours),
        _layers(material, sample, colours),
    ]
    return Section("gates", title, [intro], pictures=pictures)


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


def example_section(material: Material, num_examples: int) -> Section:
    """Show test statements and captions with the answers of the run's models."""
    title = "Answers on test images"
    if material.dataset is None:
        return Section("answers", title, [material.data_problem])
    items = load_items(material.dataset, _example_indices(material, num_examples))
    columns, problems = _answer_columns(material, items)
    if not columns or not items:
        missing = "No stage has left a model, so there are no answers to show."
        return Section("answers", title, problems or [missing])
    cards = []
    for position, item in enumerate(items):
        sample = item["sample"]
        choice = sample["task"] == "statement"
        given = [(name, column[position]) for name, column in columns.items()]
        cards.append(
            Card(
                data_uri(png_of(item["image"].permute(1, 2, 0).numpy())),
                sample.get("statement", sample["prompt"]) if choice else sample["prompt"] + " …",
                f"{'right answer' if choice else 'reference'}: {sample['target']}",
                [
                    (name, text, text == sample["target"] if choice else None)
                    for name, text in given
                ],
            )
        )
    intro = "Taken at equal distances through the test split, none is picked."
    return Section("answers", title, [intro, *problems], cards=cards)


def _example_indices(material: Material, num_examples: int) -> list[int]:
    """Choose positions, two statements for every caption where the split has both."""
    by_task: dict[str, list[int]] = {}
    for sample in material.samples:
        by_task.setdefault(sample["task"], []).append(sample["index"])
    captions, statements = by_task.get("caption", []), by_task.get("statement", [])
    num_captions = min(len(captions), num_examples // 3 if statements else num_examples)
    chosen = [statements[i] for i in evenly(len(statements), num_examples - num_captions)]
    return chosen + [captions[i] for i in evenly(len(captions), num_captions)]


def _answer_columns(
    material: Material, items: Sequence[dict]
) -> tuple[dict[str, list[str]], list[str]]:
    """Give the answers by the row's name, and a sentence for each model that has none."""
    standing, context = material.standing, material.context
    columns, problems = {}, []
    for row in (standing.plain, standing.baseline, standing.tove, standing.merged):
        if row is None or not items:
            continue
        try:
            model = material.model if row is standing.tove else None
            if model is None:
                model, _ = context.load_model(context.folder(row["stage"]) / "model.pth")
            columns[row["name"]] = answers(context, model, items)
        except MENDABLE as error:
            problems.append(f"{row['name']} gives no answers here: {error}")
    return columns, problems


def expert_section(material: Material) -> Section:
    """List the experts: what they are, where they come from, what they cost."""
    title = "Experts"
    if not material.colours:
        return Section("experts", title, ["The config has no experts."])
    costs = expert_costs(material.context, material.model) if material.model is not None else {}
    rows, problems = [], []
    for slot in material.colours:
        try:
            rows.append(_expert_cells(slot, material.context.cfg.model.experts[slot], costs))
        except MENDABLE as error:
            problems.append(f"{slot}: {error}")
    header = ["slot", "expert", "task", "tokens", "package", "licence", "trained on"]
    header += ["commercial use", "parameters", "ms"]
    note = "Frozen throughout. Milliseconds are the median for one image on this run's machine."
    return Section("experts", title, [note, *problems], Table(header, rows, (8, 9)))


def _expert_cells(
    slot: str, cfg: Mapping[str, Any], costs: Mapping[str, tuple[int, float]]
) -> list[str]:
    from tove.backbones.experts.registration import expert_spec

    entry = expert_spec(cfg)
    spec, weights = entry.spec, None if cfg.get("tiny") else entry.spec.weights
    licence, trained_on, commercial = "none", "random weights", "-"
    if weights is not None:
        licence, trained_on = weights.licence, weights.trained_on
        commercial = "yes" if weights.commercial_use else "no"
    return [
        slot,
        spec.name,
        spec.task,
        f"{spec.tokens.grid[0]} by {spec.tokens.grid[1]}, width {spec.tokens.width}",
        f"{entry.distribution} {entry.version}",
        licence,
        trained_on,
        commercial,
        *((f"{costs[slot][0]:,}", f"{costs[slot][1]:.2f}") if slot in costs else ("-", "-")),
    ]


def provenance_section(material: Material) -> Section:
    """Tell what this run was made of and with."""
    context = material.context
    versions = {"python": platform.python_version(), **environment.versions()}
    facts = [
        ("command", f"python {shlex.join(sys.argv)}"),
        ("config", str(context.cfg.filename or "not from a file")),
        ("work folder", str(context.work_dir)),
        ("seed", str(context.seed)),
        ("device", f"{context.device} on {platform.system()} {platform.machine()}"),
        ("data", str(context.cfg.data_root)),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    table = Table(("what", "value"), facts)
    folded = [("The whole config", context.cfg.pretty_text)]
    return Section("provenance", "Provenance", table=table, folded=folded)
