"""Test statements and captions with the answers of the run's models."""

from collections.abc import Sequence

from tove.report.model_probes import answers, evenly, load_items
from tove.report.page import Card, Section, data_uri, png_of, section
from tove.report.report_data import MENDABLE, Material

__all__ = ["example_section"]


@section(60)
def example_section(material: Material) -> Section:
    """Show test statements and captions with the answers of the run's models."""
    title = "Answers on test images"
    if material.dataset is None:
        return Section("answers", title, [material.data_problem])
    items = load_items(material.dataset, _example_indices(material, material.settings.num_examples))
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
