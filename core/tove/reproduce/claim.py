"""A claim: a question in words, the runs that answer it, and the comparison that decides.

A claim is a file of `configs/claims`, in mmengine's text style:

    question  what is asked, answered by yes, no or undecided
    paper     what the paper reports
    config    of the runs, a path from the claim's file
    settings  laid over the config in every run
    cells     {name: settings laid over that}; each is a run for each seed
    tests     what has to hold for a yes, see `Criterion`; together they answer the question
    beside    the same, reported and not part of the answer
    over      the arm that the table's differences are over
    metrics   of the table, the first one is the figure's
    figure    dict(x=..., lines={name: [arms]}), or None for a dot for each arm
    seeds     how many, from 0 on
    quick     dict(seeds=..., settings=..., cells=[...], tests=[...]) for a first look, in which
              criteria of arms that are left out are not looked at

Where a value of the settings is "{seed}", it is the seed. A cell's rows are the claim's arms, by
name: those of a DetachStage are called STAGE-NUMBER, by the number of experts that are left, for
which one goes first depends on the seed.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from mmengine.config import Config

from tove.config.keys import check_misspelt
from tove.config.overlay import merged_settings, plain_settings
from tove.config.validation import Range, check_known, check_value
from tove.errors import ConfigError, close_matches

__all__ = ["Claim", "Criterion", "find_claims", "read_claim"]

_SEEDS = Annotated[int, Range(1)]
_KEYS: Mapping[str, Any] = {
    "question": str,
    "paper": str,
    "config": str,
    "settings": dict,
    "cells": dict,
    "tests": list[dict],
    "beside": list[dict],
    "over": str | None,
    "metrics": list[str],
    "figure": dict | None,
    "seeds": _SEEDS,
    "quick": dict,
}
_QUICK: Mapping[str, Any] = {
    "seeds": _SEEDS,
    "settings": dict,
    "cells": list[str],
    "tests": list[dict],
}
_X = Literal[
    "training_images",
    "steps",
    "experts",
    "trainable_parameters",
    "total_parameters",
    "flops",
    "forward_ms",
    "peak_memory_mb",
    "vision_tokens",
]
_FIGURE: Mapping[str, Any] = {"x": _X, "lines": dict[str, list[str]]}
_KINDS: Mapping[str, Any] = {
    "difference": tuple[str, str],
    "share": tuple[str, str, str],
    "factor": tuple[str, str],
}
_CRITERION: Mapping[str, Any] = {"says": str, "metric": str, "above": float, **_KINDS}


@dataclass(frozen=True, slots=True)
class Criterion:
    """A number that is above another one, or not.

    Attributes:
        says: the statement, in words.
        kind: "difference" of two arms' scores; "share" of a gain, (a - c) / (b - c) of three arms;
            "factor" in data at equal score, of two lines of the figure.
        arms: that it is of.
        metric: of the scores.
        above: what the number is held against.
    """

    says: str
    kind: str
    arms: tuple[str, ...]
    metric: str
    above: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as its file says it.

    Attributes:
        name: of the file.
        path: of the file.
        asked: how the command line names it.
        question: see the module.
        config: absolute path.
        cells: settings over those of the config, by name.
        tests: at least one.
        beside: further ones.
        metrics: at least one.
        over: an arm; None where the table has no differences.
        paper: see the module.
        x: what the figure's lines are drawn over, an entry of the rows; "" for a dot each.
        lines: arms by line.
        seeds: at least one.
        quick: see the module.
    """

    name: str
    path: Path
    asked: str
    question: str
    config: Path
    cells: Mapping[str, Mapping[str, Any]]
    tests: Sequence[Criterion]
    beside: Sequence[Criterion]
    metrics: Sequence[str]
    over: str | None = None
    paper: str = ""
    x: str = ""
    lines: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeds: int = 3
    quick: Mapping[str, Any] = field(default_factory=dict)

    def quickly(self) -> "Claim":
        """Return the claim as it is looked at first: fewer seeds, cells, and smaller ones."""
        over = self.quick.get("settings", {})
        kept = self.quick.get("cells", self.cells)
        cells = {name: merged_settings(self.cells[name], over) for name in kept}
        tests = [_criterion(self.path, entry) for entry in self.quick.get("tests", ())]
        seeds = self.quick.get("seeds", 1)
        return replace(self, cells=cells, seeds=seeds, tests=tests or self.tests)


def find_claims(folder: Path) -> dict[str, Path]:
    """Return the claims' files by name; those that begin with "_" are parts of others."""
    return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def read_claim(name: str, folder: Path) -> Claim:
    """Read a claim.

    Args:
        name: of a file in `folder`, or the path of another one.
        folder: of the claims.

    Raises:
        ConfigError: there is no such claim, or its file does not say what is needed.
    """
    known = find_claims(folder)
    path = known.get(name, Path(name))
    if not path.is_file():
        raise ConfigError(
            f"There is no claim '{name}': neither in {folder} nor a file. "
            f"{close_matches(name, known)}"
        )
    try:
        told = plain_settings(Config.fromfile(path).to_dict())
        return _claim(path.resolve(), shlex.quote(name), told)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a claim is a program, and may raise anything
        raise ConfigError(
            f"The claim {path} cannot be read ({type(error).__name__}: {error}); docs/reproduce.md "
            "tells what it has to say."
        ) from error


def _claim(path: Path, asked: str, told: Mapping[str, Any]) -> Claim:
    where = f"The claim {path}"
    check_misspelt(told, _KEYS, where)
    _check_part(told, _KEYS, where, ("question", "config", "cells", "tests", "metrics"))
    figure, quick = told.get("figure") or {}, told.get("quick", {})
    for name, part, kinds in (("figure", figure, _FIGURE), ("quick", quick, _QUICK)):
        check_known(part, kinds, f"{where}: {name}")
        _check_part(part, kinds, f"{where}: {name}")
    if figure:
        _check_part(figure, {}, f"{where}: figure", [*_FIGURE])
    for name, own in told["cells"].items():
        check_value(own, dict, f"{where}: cells.{name}")
    everywhere = told.get("settings", {})
    config = (path.parent / told["config"]).resolve()
    if not config.is_file():
        raise ConfigError(f"{where} is about {config}, which is no file; mend `config`.")
    claim = Claim(
        name=path.stem,
        path=path,
        asked=asked,
        question=told["question"],
        config=config,
        cells={n: merged_settings(everywhere, own) for n, own in told["cells"].items()},
        tests=[_criterion(path, entry) for entry in told["tests"]],
        beside=[_criterion(path, entry) for entry in told.get("beside", ())],
        metrics=told["metrics"],
        over=told.get("over"),
        paper=told.get("paper", ""),
        x=figure.get("x", ""),
        lines=figure.get("lines", {}),
        seeds=told.get("seeds", 3),
        quick=quick,
    )
    missing = set(quick.get("cells", ())) - set(claim.cells)
    if missing or not (claim.cells and claim.tests and claim.metrics):
        raise ConfigError(
            f"{where} needs at least one cell, test and metric, and `quick` may name its own cells "
            f"only (unknown: {', '.join(sorted(missing)) or 'none'})."
        )
    return claim


def _check_part(
    part: Mapping[str, Any], kinds: Mapping[str, Any], where: str, needed: Collection[str] = ()
) -> None:
    """Refuse entries of another kind, and what lacks one that is needed."""
    for name in needed:
        if name not in part:
            raise ConfigError(
                f"{where} lacks `{name}`; docs/reproduce.md tells what it has to say."
            )
    for name, hint in kinds.items():
        if name in part:
            check_value(part[name], hint, f"{where}: {name}")


def _criterion(path: Path, entry: Mapping[str, Any]) -> Criterion:
    where = f"The claim {path}: test {entry.get('says')!r}"
    check_known(entry, _CRITERION, where)
    _check_part(entry, _CRITERION, where, ("says", "metric"))
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise ConfigError(
            f"{where} has {' and '.join(kinds) or 'nothing to compare'}; give it difference=(ours, "
            "theirs), share=(part, whole, none) or factor=(our line, their line), one of them."
        )
    arms = tuple(entry[kinds[0]])
    return Criterion(entry["says"], kinds[0], arms, entry["metric"], float(entry.get("above", 0)))
