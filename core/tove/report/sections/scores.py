"""The sections about scores: the table, relations, detachment, loss curves."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from tove.config.upgrade import upgraded_ranking
from tove.engine.rows import role_of, show_cost
from tove.evaluation import wilson_interval
from tove.report import figures
from tove.report.model_probes import relation_counts
from tove.report.page import Section, Table, section
from tove.report.report_data import Curves, Material, loss_panels
from tove.report.row_roles import Row, Score, metric_label, score_of
from tove.report.theme import Picture, draw
from tove_plugins import resolve_resource

__all__ = [
    "detachment_section",
    "loss_section",
    "other_scores_section",
    "relation_section",
    "results_section",
]

_ROLES: Mapping[str, str] = {
    "plain": "frozen CLIP alone in front of the language model, what lies between them trained",
    "baseline": "the same with as many trained parameters as the method, and no expert",
    "method": "the method, with all its experts",
    "variant": "the method with something changed",
    "detached": "the method with experts removed and nothing trained again",
    "merged": "the exported encoder, which has learned from the method and runs no expert",
    "control": "an encoder merged from a model without experts",
}
_RELATION = "/relation/"  # behind the metric's prefix
_MOST_RELATIONS = 16  # in the picture; the table has all


@section(10)
def results_section(material: Material) -> Section:
    """Lay all rows out in a table."""
    if not material.rows:
        return Section("results", "Results", ["No stage has measured anything yet."])
    costs = ["forward ms", "FLOPs", "MB", "trained parameters", "all parameters"]
    costs += ["images", "steps"]
    header = ["row", "experts", *map(metric_label, material.metrics), *costs]
    rows = [_cells(row, material.metrics) for row in material.rows]
    apart = _shown_apart(material)
    shown = [i for i, row in enumerate(material.rows) if row["name"] in apart]
    note = (
        "Scores on the held-out test split, under them their 95 % intervals. Forward is the "
        "median time of one image through the vision side, FLOPs its operations and MB the most "
        "memory it takes; images are the distinct ones that training saw, those of a teacher "
        "included."
    )
    notes = [_what_rows_are(material.rows), note, *_common_start(material)]
    return Section("results", "Results", notes, Table(header, rows, range(2, len(header)), shown))


def _what_rows_are(rows: Sequence[Row]) -> str:
    """Say of each part that a row plays what it stands for, the rows by name."""
    by_role: dict[str, list[str]] = {}
    for row in rows:
        by_role.setdefault(role_of(row), []).append(row["name"])
    return " ".join(f"{', '.join(names)}: {_ROLES[role]}." for role, names in by_role.items())


def _shown_apart(material: Material) -> tuple[str, ...]:
    """Return the names of the rows that a run is about: the method's and the merged encoder's."""
    rows = (material.standing.method, material.standing.merged)
    return tuple(row["name"] for row in rows if row is not None)


def _common_start(material: Material) -> list[str]:
    """Say what all rows started from, and on how many images that was trained, if anyone noted it.

    The note is a card in JSON beside the weights, as the shipped ones have it.
    """
    source = material.context.cfg.model.get("init_from")
    if source is None:
        return []
    name = str(source).rpartition("/")[2]
    sentence = "whose own training images are not counted here"
    try:
        card = json.loads(resolve_resource(source).with_suffix(".json").read_text())
        sentence = f"trained before on {card['score']['distinct_images']:,} other images"
    except (OSError, ValueError, KeyError, TypeError):
        pass  # weights of someone's own
    return [f"All rows start from the same {name}, {sentence}."]


@section(30)
def other_scores_section(material: Material) -> Section | None:
    """Lay out the scores that are neither the headline's nor a relation's."""
    names = dict.fromkeys(
        n for row in material.rows for n in row["metrics"] if "/relation/" not in n
    )
    others = [name for name in names if name not in material.metrics]
    if not others:
        return None
    rows = [
        [row["name"], *(_score_cell(score_of(row, metric)) for metric in others)]
        for row in material.rows
    ]
    header = ["row", *map(metric_label, others)]
    return Section("others", "Other scores", [], Table(header, rows, range(1, len(header))))


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    return [
        row["name"],
        ", ".join(row["experts"]) or "none",
        *(_score_cell(score_of(row, metric)) for metric in metrics),
        *(show_cost(row, cost) for cost in ("forward_ms", "flops", "peak_memory_mb")),
        f"{row['trainable_parameters']:,}",
        f"{row['total_parameters']:,}",
        f"{row['training_images']:,}",
        f"{row['steps']:,}",
    ]


def _score_cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score}\n{score.interval}" if score.interval else str(score)


@section(20)
def relation_section(material: Material) -> Section:
    """Show the accuracy on each relation."""
    title = "By relation"
    by_row = _relation_scores(material)
    relations = list(dict.fromkeys(name for scores in by_row.values() for name in scores))
    if not relations:
        return Section(
            "relations", title, ["No row has scores by relation, so there is nothing to compare."]
        )
    counts = relation_counts(material.samples)
    relations.sort(key=lambda relation: -_gain(material, by_row, relation))
    header = ["relation", "items", *by_row]
    rows = [
        [
            name,
            f"{counts.get(name, 0):,}" if counts else "-",
            *(str(by_row[row][name]) if name in by_row[row] else "-" for row in by_row),
        ]
        for name in relations
    ]
    detached = {row["name"] for row in material.standing.detached}
    main = {name: scores for name, scores in by_row.items() if name not in detached}
    shown = sorted(sorted(relations, key=lambda r: -counts.get(r, 0))[:_MOST_RELATIONS])
    shown.sort(key=relations.index)
    notes, standing = [], material.standing
    if standing.method and standing.baseline:
        notes.append(
            f"Ordered by how much more {standing.name} has right than the baseline, the largest "
            "gain on top."
        )
    if len(shown) < len(relations):
        notes.append(f"The picture has the {len(shown)} relations with the most items.")
    caption = (
        "Share answered right, by relation or kind of question, one panel per row of the results. "
        "Thin lines are 95 % intervals; the dashed line at 50 is guessing between two answers. "
        "Intervals of single relations are wide: read the pattern rather than a single bar."
    )
    figure = partial(
        figures.relation_bars, rows=main, relations=shown, emphasised=_shown_apart(material)
    )
    picture = draw("relations", "Bars of accuracy by relation", caption, figure)
    table = Table(header, rows, range(1, len(header)))
    return Section("relations", title, notes, table, [picture])


def _relation_scores(material: Material) -> dict[str, dict[str, Score]]:
    """Give, by row and relation, the accuracy with Wilson's interval."""
    counts = relation_counts(material.samples)
    found: dict[str, dict[str, Score]] = {}
    for row in material.rows:
        scores = {}
        for metric, entry in row["metrics"].items():
            if _RELATION in metric:
                relation = metric.partition(_RELATION)[2]
                scores[relation] = _with_interval(metric, entry["value"], counts.get(relation))
        if scores:
            found[row["name"]] = scores
    return found


def _with_interval(metric: str, value: float, n: int | None) -> Score:
    if not n:
        return Score(metric, value)
    interval = wilson_interval(round(value * n), n)
    return Score(metric, value, interval.low, interval.high, n)


def _gain(material: Material, by_row: Mapping[str, Mapping[str, Score]], relation: str) -> float:
    standing = material.standing
    names = (row["name"] if row else "" for row in (standing.method, standing.baseline))
    ours, other = (by_row.get(name, {}).get(relation) for name in names)
    return ours.value - other.value if ours and other else 0.0


@section(50)
def detachment_section(material: Material) -> Section:
    """Show the score as experts are removed."""
    title, standing = "Detaching experts", material.standing
    if standing.method is None or not standing.detached:
        missing = "No detach stage has run, so there is no curve of removals."
        return Section("detachment", title, [missing])
    pictures = []
    for metric in material.metrics:
        scores = [score_of(row, metric) for row in (standing.method, *standing.detached)]
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            continue
        references = {
            name: score
            for name, row in (
                ("baseline", standing.baseline),
                ("plain CLIP", standing.plain),
                ("merged", standing.merged),
            )
            if (score := score_of(row, metric))
        }
        figure = partial(
            figures.detachment,
            labels=["all experts", *(f"- {slot}" for slot in standing.removed)],
            scores=known,
            references=references,
            colours=[None, *(material.colours.get(slot) for slot in standing.removed)],
        )
        pictures.append(draw(*_detachment_words(metric, known), figure))
    return Section("detachment", title, [_order(material)], pictures=pictures)


def _detachment_words(metric: str, scores: Sequence[Score]) -> tuple[str, str, str]:
    """Give a picture's name, its alternative text and its caption."""
    label = metric_label(metric)
    first, last = scores[0], scores[-1]
    path = " → ".join(str(score) for score in scores)
    caption = (
        f"{label[:1].upper()}{label[1:]} on the test split, from left to right as one expert after "
        f"another is removed for good, nothing re-tuned: from {first} to {last}. The band is the "
        "95 % interval; the lines are what it is held against; a point has the colour of the "
        "expert that went."
    )
    name = f"detachment_{metric.replace('/', '_')}"
    return name, f"{label} after each removal: {path}", caption


def _order(material: Material) -> str:
    """Say in which order experts went, and why."""
    weights: dict[str, float] = {}
    rules: set[str] = set()
    for stage in material.stages("DetachStage"):
        path = material.context.folder(stage) / "ranking.json"
        if path.is_file():
            ranking = upgraded_ranking(json.loads(path.read_text("utf-8")))
            weights |= {entry["slot"]: entry["score"] for entry in ranking}
            rules |= {entry["rule"] for entry in ranking}
    parts = [
        f"{slot} ({weights[slot]:.3f})" if slot in weights else slot
        for slot in material.standing.removed
    ]
    words = {
        "gate": "the lowest mean gate weight on the validation split (in brackets) first",
        "leave_one_out": "what adds least to the validation score (in brackets) first",
        "add_one_in": "what adds least by itself to the validation score (in brackets) first",
        "shapley": "the smallest Shapley value for the validation score (in brackets) first",
        "random": "at random",
    }
    why = ", " + " or ".join(words.get(rule, f"by the rule '{rule}'") for rule in sorted(rules))
    return f"Removed in this order{why if weights else ''}: {', '.join(parts)}."


@section(70)
def loss_section(material: Material) -> Section:
    """Show the loss curves of all stages that trained."""
    panels = loss_panels(material.context)
    title = "Loss curves"
    if not panels:
        return Section("losses", title, ["No stage has written a loss curve."])
    return Section("losses", title, pictures=[_loss_picture(*panel) for panel in panels.items()])


def _loss_picture(name: str, curves: Curves) -> Picture:
    ends = [
        f"{stage} {figures.smoothed(values, figures.smoothing_span(values))[-1]:.4g}"
        for stage, (_, values) in curves.items()
    ]
    caption = (
        f"{name} in training, by step: faint the raw values, over them the running mean of a "
        f"twenty-fifth of the steps. It ends at {', '.join(ends)}."
    )
    figure = partial(figures.loss_curves, name=name, curves=curves)
    return draw(f"curve_{name}", f"{name} by training step", caption, figure)
