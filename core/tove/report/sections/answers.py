"""Test statements, captions and conversations with the answers of the run's models."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tove.backbones.language.chat_formats import IMAGE
from tove.evaluation.accuracy import words_of
from tove.report.model_probes import answers, evenly, load_items, view_of
from tove.report.page import Card, Section, data_uri, png_of, section
from tove.report.report_data import MENDABLE, Material

__all__ = ["example_section"]


@section(60)
def example_section(material: Material) -> Section:
    """Show test samples with the answers of the run's models."""
    title = "Answers on test images"
    if material.dataset is None:
        return Section("answers", title, [material.data_problem])
    items = load_items(material.dataset, _example_indices(material, material.settings.num_examples))
    columns, problems = _answer_columns(material, items)
    if not columns or not items:
        missing = "No stage has left a model, so there are no answers to show."
        return Section("answers", title, problems or [missing])
    cards = [
        _card(item, {name: column[position] for name, column in columns.items()})
        for position, item in enumerate(items)
    ]
    intro = "Taken at equal distances through the test split, none is picked."
    return Section("answers", title, [intro, *problems], cards=cards)


def _card(item: Mapping[str, Any], given: Mapping[str, str]) -> Card:
    """Show an item's image, what was asked, the right answer and those given, by the row's name."""
    sample, view = item["sample"], view_of(item)
    question, right = _asked(sample)
    caption = sample["task"] == "caption"
    return Card(
        "" if view is None else data_uri(png_of(view.permute(1, 2, 0).numpy())),
        _plain(question),
        f"{'reference' if caption else 'right answer'}: {_plain(right)}",
        [
            (name, _plain(text), None if caption else words_of(text) == words_of(right))
            for name, text in given.items()
        ],
    )


def _plain(text: str) -> str:
    """Put punctuation back to its word: tokenizers of small worlds take it apart."""
    return re.sub(r"\s+([.,;:?!])", r"\1", text)


def _asked(sample: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a sample asks, a conversation's earlier turns before it, and the right answer."""
    if sample["task"] == "conversation":
        *turns, last = (
            turn["value"].replace(IMAGE, "").strip() for turn in sample["conversations"]
        )
        return " ".join(turns), last
    if sample["task"] == "caption":
        return sample["prompt"] + " …", sample["target"]
    return sample.get("statement", sample["prompt"]), sample["target"]


def _example_indices(material: Material, num_examples: int) -> list[int]:
    """Choose positions, two of other tasks for every caption where the split has both."""
    by_task: dict[bool, list[int]] = {}
    for sample in material.samples:
        by_task.setdefault(sample["task"] == "caption", []).append(sample["index"])
    captions, others = by_task.get(True, []), by_task.get(False, [])
    num_captions = min(len(captions), num_examples // 3 if others else num_examples)
    chosen = [others[i] for i in evenly(len(others), num_examples - num_captions)]
    return chosen + [captions[i] for i in evenly(len(captions), num_captions)]


def _answer_columns(
    material: Material, items: Sequence[dict]
) -> tuple[dict[str, list[str]], list[str]]:
    """Give the answers by the row's name, and a sentence for each model that has none."""
    standing, context = material.standing, material.context
    columns, problems = {}, []
    for row in (standing.plain, standing.baseline, standing.method, standing.merged):
        if row is None or not items:
            continue
        try:
            model = material.model if row is standing.method else None
            if model is None:
                model, _ = context.load_model(context.folder(row["stage"]) / "model.pth")
            columns[row["name"]] = answers(context, model, items)
        except MENDABLE as error:
            problems.append(f"{row['name']} gives no answers here: {error}")
    return columns, problems
