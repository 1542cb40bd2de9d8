"""Finished runs, read from their work folders and named by what differs in their configs.

Runs whose configs differ in the seed alone are one setting.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.config.keys import SETTINGS
from tove.config.overlay import flatten
from tove.engine.rows import read_rows
from tove.errors import ConfigError, close_matches
from tove.protocols import Row

__all__ = ["Run", "Setting", "read_run", "read_runs", "settings_of"]

# What does not tell one experiment from another.
_NOT_COMPARED = {"custom_imports", "hub", "report", "seed", "table_metrics", "work_dir"}
_NEEDED = ("name", "experts", "metrics", "seed")

Units = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run, read from its work folder.

    Attributes:
        folder: the work folder.
        cfg: its config, plain.
        rows: of its results.
    """

    folder: Path
    cfg: Mapping[str, Any]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Setting:
    """Runs whose configs differ in the seed alone.

    Attributes:
        label: what sets it apart from the others.
        runs: at least one.
    """

    label: str
    runs: Sequence[Run]


def read_run(folder: Path) -> Run:
    """Read a run's work folder.

    Raises:
        ConfigError: it is not one, or nothing has been measured in it yet.
    """
    results, config = folder / "results.json", folder / "config.py"
    for path in (results, config):
        if not path.is_file():
            raise ConfigError(f"{folder} has no {path.name}; give the work folder of a run.")
    try:
        rows = read_rows(results)
        cfg = Config.fromfile(config, import_custom_modules=False).to_dict()
        lacking = {key for row in rows for key in _NEEDED if key not in row}
        foreign = [row["name"] for row in rows if not _is_of_its_stage(folder, row)]
    except Exception as error:  # the config is Python: it can fail in any way
        raise ConfigError(f"{folder} cannot be read as a run ({error}); run it again.") from error
    if lacking:
        raise ConfigError(f"{results} has rows without {', '.join(sorted(lacking))}; run it again.")
    if foreign:
        raise ConfigError(
            f"{results} and the rows.json of a stage differ in the row '{foreign[0]}': one of them "
            "is damaged or was changed; resume the run, which looks at both."
        )
    if not rows:
        raise ConfigError(f"{folder} has no row in {results.name}; let it finish a stage.")
    return Run(folder, cfg, rows)


def _is_of_its_stage(folder: Path, row: Row) -> bool:
    """Tell whether a stage has the same row; results that were copied alone have no stages."""
    own = folder / str(row.get("stage")) / "rows.json"
    if own.is_file():
        return row in read_rows(own)
    return own.parent.is_dir() or not any(folder.glob("*/done.json"))


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Read work folders, each once; those that are none are named on stderr and left out.

    Raises:
        ConfigError: none can be read.
    """
    runs = []
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        try:
            runs.append(read_run(folder))
        except ConfigError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not runs:
        raise ConfigError(
            "None of the folders is that of a run with results; give work folders in which "
            "`mim train tove_plugins` has finished a stage."
        )
    return runs


def settings_of(runs: Iterable[Run], pool: Iterable[str] = ()) -> list[Setting]:
    """Pool the runs that differ in the seed alone, and name each setting by what differs.

    Args:
        runs: at least one.
        pool: names in the config that tell no settings apart either, "data_root" for example.

    Raises:
        ConfigError: a name is none of a setting by which runs are told apart.
    """
    runs, pool = list(runs), tuple(pool)
    settings = {f".{key}." for run in runs for key in _compared(run.cfg)}
    for name in pool:
        if not any(f".{name}." in key for key in settings):
            known = {part for key in settings for part in key.strip(".").split(".")}
            raise ConfigError(
                f"--pool names '{name}', by which no runs are told apart. "
                f"{close_matches(name, known)}"
            )
    pooled: dict[str, list[Run]] = {}
    for run in runs:
        compared = _without(_compared(run.cfg), pool)
        pooled.setdefault(json.dumps(compared, sort_keys=True), []).append(run)
    groups = list(pooled.values())
    if len(groups) == 1:
        return [Setting(groups[0][0].folder.name, groups[0])]
    labels = _labels([_units(group[0].cfg, pool) for group in groups])
    if len(set(labels)) < len(labels):  # the order of the stages alone
        labels = [
            f"{label} ({group[0].folder})" for label, group in zip(labels, groups, strict=True)
        ]
    return [Setting(label, group) for label, group in zip(labels, groups, strict=True)]


def _compared(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return flatten({key: cfg[key] for key in sorted(SETTINGS - _NOT_COMPARED) if key in cfg})


def _without(flat: Mapping[str, Any], pool: Iterable[str]) -> dict[str, Any]:
    """Leave out the keys that have one of the names in their path."""
    return {k: v for k, v in flat.items() if not any(f".{name}." in f".{k}." for name in pool)}


def _units(cfg: Mapping[str, Any], pool: Iterable[str]) -> Units:
    """Give the flat settings by what they are of: an expert's slot, a stage, or "" for the rest."""
    experts = cfg.get("model", {}).get("experts", {})
    rest = {**cfg, "stages": [], "model": {**cfg.get("model", {}), "experts": {}}}
    units = {"": _without(_compared(rest), pool)}
    units |= {slot: _without(flatten(expert), pool) for slot, expert in experts.items()}
    for stage in cfg.get("stages", ()):
        settings = {key: value for key, value in stage.items() if key != "name"}
        units[f"stage {stage['name']}"] = _without(flatten(settings), pool)
    return units


def _labels(settings: Sequence[Units]) -> list[str]:
    names = list(dict.fromkeys(name for units in settings for name in units))
    pieces: list[list[str]] = [[] for _ in settings]
    for name in names:
        for index, units in enumerate(settings):
            pieces[index] += _piece(name, units, settings)
    return [", ".join(found) or "the config as it is" for found in pieces]


def _piece(name: str, units: Units, settings: Sequence[Units]) -> list[str]:
    """Say what sets one unit of a setting apart; options count among units of the same type."""
    mine = units.get(name)
    if mine is None:
        return [f"no {name}"]
    theirs = [other[name] for other in settings if name in other]
    said = []
    if len(theirs) < len(settings) or any(o.get("type") != mine.get("type") for o in theirs):
        said.append(f"{name}={mine.get('type')}")
    alike = [other for other in theirs if other.get("type") == mine.get("type")]
    for key in sorted({key for other in alike for key in other}):
        if any(other.get(key) != mine.get(key) for other in alike):
            path = f"{name}.{key}" if name else key.removeprefix("model.")
            said.append(f"{path}={mine.get(key)}")
    return said
