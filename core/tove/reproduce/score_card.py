"""What an expert is worth beside others: what it adds alone, and what it adds last.

    alone   SingleExpert with it, over plain CLIP
    last    ToVE with all experts, over ToVE with all others

All are trained, each on several seeds. An expert can be worth much alone and nothing last: then
others know what it knows. The cells are those of the claims where the settings are the same.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from tove.atomic_io import check_places, write_text
from tove.backbones.experts.registration import expert_options, expert_spec
from tove.config.loading import load_config
from tove.config.options import parse_options
from tove.engine.rows import COST_COLUMNS, make_console, show_cost
from tove.errors import ConfigError
from tove.evaluation.intervals import Interval
from tove.report.row_roles import metric_label
from tove.reproduce.answers import Measured, gather, judge
from tove.reproduce.cells import make_cell
from tove.reproduce.claim import Criterion
from tove.reproduce.grid import Grid, failure
from tove.reproduce.records import read
from tove.reproduce.score_picture import write_picture
from tove_plugins import build_expert

__all__ = ["Card", "cells_of", "score"]

METRICS = ("vsr/accuracy", "caption/CIDEr")
_QUICK = {
    "schedule": {"steps": 200},
    "scenes": {"train": 800, "unlabelled": 500, "val": 100, "test": 200},
}
_COSTS = ("flops", "forward_ms", "peak_memory_mb", "total_parameters")
_WHEN = ("alone", "last")


@dataclass(frozen=True, slots=True)
class Card:
    """One expert's score card.

    Attributes:
        expert: its name.
        licence: of its weights, with what it allows.
        costs: of one image, by name.
        adds: by "alone" and "last", by metric; those of kinds are PREFIX/relation/KIND.
    """

    expert: str
    licence: str
    costs: Mapping[str, float]
    adds: Mapping[str, Mapping[str, Interval]]


def _options_of(expert: str, options: list[str]) -> dict[str, Any]:
    """Read an expert's own options, as those of a config's expert are read."""
    for option in options:
        if not option.partition("=")[1]:
            raise ConfigError(f"--options takes KEY=VALUE, but got '{option}'; give it a value.")
    place = "model.experts.scored."
    beside = {"model": {"experts": {"scored": {"type": expert}}}}
    found = parse_options([f"{place}{option}" for option in options], beside)
    return {key.removeprefix(place): value for key, value in found.items()}


def score(args: argparse.Namespace) -> None:
    """Run the cells, print the cards, write the picture; see `tools/score.py` for the arguments.

    Raises:
        ConfigError: or an error of `tove_plugins`: no such expert, one that cannot be built, files
            that cannot be written, or cells that failed; what has finished is kept.
    """
    picture = args.picture or Path(f"{args.name}.svg")
    check_places(picture, args.json)
    console = make_console()
    config = load_config(str(args.config))
    given = {"type": args.name, **_options_of(args.name, args.options or [])}
    experts = {slot: dict(expert) for slot, expert in config.model.experts.items()}
    slot = next((s for s, e in experts.items() if e == given), args.name)
    experts[slot] = given
    specs = {name: expert_spec(expert).spec for name, expert in experts.items()}
    over = _QUICK if args.quick else {}
    cells = {
        name: {
            s: make_cell(args.config, own, s, args.work_dir.resolve()) for s in range(args.seeds)
        }
        for name, own in cells_of(experts, over, set(config.model.experts)).items()
    }
    grid = Grid(args.work_dir, args.work_dir / "records", args.train, args.jobs, console)
    planned = [own[seed] for seed in range(args.seeds) for own in cells.values()]
    if any(read(cell, grid.records) is None for cell in planned):
        build_expert(args.name, **expert_options(given))  # else half of the cells run in vain
    found = grid.run(planned)
    if grid.failed:
        raise failure(grid.failed, len(planned))
    records = {name: {s: found[c.name] for s, c in own.items()} for name, own in cells.items()}
    measured = gather(records, {})
    cards = {
        name: _card(measured, name, str(experts[name]["type"]), specs[name]) for name in experts
    }
    ordered = [cards[slot], *(card for name, card in cards.items() if name != slot)]
    console.print(_table(ordered, args.seeds))
    console.print(_kinds(ordered[0], measured))
    write_picture(picture, ordered, METRICS[0], args.seeds)
    console.print(f"  {picture}  the picture, for a README")
    if args.json:
        told = {"seeds": args.seeds, "quick": args.quick, "cards": [asdict(c) for c in ordered]}
        write_text(args.json, json.dumps(told, indent=1) + "\n")


def cells_of(
    experts: Mapping[str, Mapping[str, Any]], over: Mapping[str, Any], own: set[str]
) -> dict[str, dict[str, Any]]:
    """Return the settings of the cells, by name.

    Args:
        experts: by slot, the one that is looked at among them.
        over: settings of all cells.
        own: the slots that the config itself has.
    """
    new = {slot: expert for slot, expert in experts.items() if slot not in own}

    def cell(stage: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
        model = {"model": {"experts": dict(added)}} if added else {}
        return {**over, **model, "stages": [{"type": "TrainStage", **stage}]}

    cells = {"plain": cell({"name": "plain_clip", "model": {"type": "PlainCLIP"}}, {})}
    cells["all"] = cell({"name": "transfer", "row": "tove"}, new)
    for slot in experts:
        added = {name: expert for name, expert in new.items() if name == slot}
        alone = {"name": slot, "model": {"type": "SingleExpert", "expert": slot}}
        cells[f"alone {slot}"] = cell(alone, added)
        # What is not new stays in the config, so it is detached; what is new stays away.
        others = {name: expert for name, expert in new.items() if name != slot}
        without = {"detached": [slot]} if slot in own else {}
        cells[f"without {slot}"] = cell({"name": f"without_{slot}", "model": without}, others)
    return cells


def _card(measured: Measured, slot: str, name: str, spec: Any) -> Card:  # noqa: ANN401
    pairs = {"alone": (slot, "plain_clip"), "last": ("tove", f"without_{slot}")}
    kinds = [f"{m.partition('/')[0]}/relation/{k}" for m in METRICS for k in measured.kinds(m)]
    adds = {
        when: {
            metric: judge(Criterion("", "difference", arms, metric), measured).interval
            for metric in (*METRICS, *kinds)
        }
        for when, arms in pairs.items()
    }
    row = next(iter(measured.rows[slot].values()))
    costs = row["cost"]["experts"][slot]
    weights = spec.weights
    if weights is None:
        licence = "no weights"
    else:
        licence = weights.licence + ("" if weights.commercial_use else ", not for commerce")
    return Card(name, licence, {c: costs[c] for c in _COSTS if c in costs}, adds)


def _table(cards: Sequence[Card], seeds: int) -> Table:
    title = f"What an expert adds: alone to CLIP, last to all others ({seeds} seeds, 95 %)"
    table = Table(title=title, box=box.SIMPLE)
    table.add_column("expert", no_wrap=True)
    for metric in METRICS:
        for when in _WHEN:
            table.add_column(f"{metric_label(metric)}, {when}", justify="right")
    for cost in _COSTS:
        table.add_column(COST_COLUMNS[cost], justify="right")
    table.add_column("licence")
    for card in cards:
        adds = [_shown(card.adds[when][metric]) for metric in METRICS for when in _WHEN]
        costs = [show_cost(card.costs, cost) for cost in _COSTS]
        table.add_row(card.expert, *adds, *costs, card.licence)
    return table


def _kinds(card: Card, measured: Measured) -> Table:
    table = Table(title=f"{card.expert}, by kind of question", box=box.SIMPLE)
    table.add_column("kind")
    for when in _WHEN:
        table.add_column(when, justify="right")
    for metric in card.adds["alone"]:
        _, found, kind = metric.partition("/relation/")
        if found:
            table.add_row(kind, *(_shown(card.adds[when][metric]) for when in _WHEN))
    return table


def _shown(interval: Interval) -> str:
    return f"{interval.value:+.3f} [{interval.low:+.2f}, {interval.high:+.2f}]"
