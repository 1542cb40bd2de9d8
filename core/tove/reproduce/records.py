"""What is kept of a finished cell: rows and the score of every test item, in a few kilobytes.

    RESULTS/cells/NAME.json           {digest, seed, version, commit, seconds, config, over, items,
                                      rows: [{arm, metrics, scores, costs, ...}]}; a row's
                                      `gate`, `contribution` and `on_objects` are there where the
                                      run, or a stage that looked at the row's model, told them
    RESULTS/cells/items-DIGEST.json   {metric: {images, kinds, kind}} of the items of `scores`:
                                      for each the number of its image and of its kind

Records can be committed one by one; a cell whose record is there with the same digest is finished,
its work folder may be gone.
"""

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

import tove
from tove.atomic_io import write_text
from tove.config.overlay import plain_settings
from tove.config.validation import fits
from tove.data.annotations import read_json
from tove.engine.rows import COST_COLUMNS, read_rows, role_of
from tove.errors import ConfigError
from tove.evaluation.intervals import image_of, item_name
from tove.registry import DATASETS, SCOPE
from tove.reproduce.cells import Cell

__all__ = ["Record", "arm_of", "commit", "keep", "read"]

_DIGITS = 4
_WHAT = "the record of a cell; delete it, and the same command makes it anew"
_TOLD = {"commit", "digest", "rows", "seconds", "version"}  # of a record, that its page says
_ROW = {"arm", "metrics", "scores"}
_KEPT = ("experts", "training_images", "steps", "gate", "retrieval", "cost", *COST_COLUMNS)

Table = dict[str, Any]
"""images [n], kinds and kind [n] of a metric's items, see the module."""


@dataclass(frozen=True, slots=True)
class Record:
    """A finished cell.

    Attributes:
        told: what its file says.
        items: by metric, the table of its test items.
    """

    told: Mapping[str, Any]
    items: Mapping[str, Table]

    @property
    def arms(self) -> dict[str, Mapping[str, Any]]:
        """Its rows by arm."""
        return {row["arm"]: row for row in self.told["rows"]}


def arm_of(row: Mapping[str, Any]) -> str:
    """Return what a claim calls a row: its name; of a detachment STAGE-EXPERTS LEFT."""
    left = f"{row['stage']}-{len(row['experts'])}" if role_of(row) == "detached" else row["name"]
    return str(left)


def read(cell: Cell, folder: Path) -> Record | None:
    """Return a cell's record; None where there is none, or one of other settings.

    Args:
        cell: that may be finished.
        folder: of the records.

    Raises:
        ConfigError: it is damaged.
    """
    path = folder / f"{cell.name}.json"
    if not path.is_file():
        return None
    told = read_json(str(path), _WHAT, hint=dict)
    if told.get("digest") != cell.digest:
        return None
    items = folder / f"items-{told.get('items')}.json"
    if not items.is_file():
        return None
    found = Record(told, read_json(str(items), _WHAT, hint=dict[str, dict]))
    if not _is_whole(found):
        raise ConfigError(f"{str(path)!r} is not {_WHAT} (it and {items.name} do not fit).")
    return found


def _is_whole(record: Record) -> bool:
    """Tell whether a record has what an answer takes, and a score for each of its items."""
    rows: Any = record.told.get("rows")
    if not (record.told.keys() >= _TOLD and fits(rows, list[dict])):
        return False
    try:
        return all(
            row.keys() >= _ROW
            and all(
                len(own) == len(record.items[metric]["images"]) == len(record.items[metric]["kind"])
                for metric, own in row["scores"].items()
            )
            for row in rows
        )
    except (AttributeError, KeyError, TypeError):
        return False


def keep(cell: Cell, folder: Path, seconds: float) -> Record:
    """Write the record of a cell whose run has just finished.

    Args:
        cell: with all that its stages left.
        folder: of the records.
        seconds: that it took.
    """
    cfg = Config.fromfile(cell.folder / "config.py")
    rows = read_rows(cell.folder / "results.json")
    items = {arm_of(row): _items(cell.folder, row) for row in rows}
    looks = _looks(cell.folder, cfg.stages)
    root = f"{Path(cfg.data_root).resolve()}/"
    tables, digest = _tables(items, _kinds(cfg), root)
    told = {
        "digest": cell.digest,
        "seed": cell.seed,
        "version": metadata.version("tove_plugins"),
        "commit": commit(),
        "seconds": round(seconds),
        "config": cell.config.name,
        "over": plain_settings(cell.over),
        "items": digest,
        "rows": [_row(row, items[arm_of(row)]) | looks.get(row["stage"], {}) for row in rows],
    }
    write_text(folder / f"items-{digest}.json", json.dumps(tables, separators=(",", ":")) + "\n")
    write_text(folder / f"{cell.name}.json", json.dumps(told, separators=(",", ":")) + "\n")
    return Record(told, tables)


def commit() -> str:
    """Return the commit of the code, "+" where files differ from it; "" outside of a repository."""
    folder = Path(tove.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        known = bool(git("ls-files", "__init__.py"))  # not that of a folder around site-packages
        return (
            git("rev-parse", "--short=10", "HEAD")
            + "+" * bool(git("diff", "--name-only", "HEAD", "--", "."))
            if known
            else ""
        )
    except OSError:  # there is no git
        return ""


def _items(folder: Path, row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    path = folder / row["stage"] / "items" / f"{row['name']}.json"
    found: dict[str, dict[str, float]] = read_json(str(path), _WHAT) if path.is_file() else {}
    return found


def _looks(folder: Path, stages: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what stages have told of others' models, by the stage that trained the model."""
    looks: dict[str, dict[str, Any]] = {}
    for entry in stages:
        for name, kept in _LOOKS.items():
            path = folder / entry["name"] / f"{name}.json"
            if path.is_file():
                told = read_json(str(path), _WHAT)
                looks.setdefault(entry["source"], {})[name] = kept(told)
    return looks


def _contributions(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return {measure: {metric: {slot: value}}}."""
    return {
        measure: {
            metric: {slot: round(entry["value"], 5) for slot, entry in by_slot.items()}
            for metric, by_slot in by_metric.items()
        }
        for measure, by_metric in told["measures"].items()
    }


_LOOKS: dict[str, Callable[[Any], Any]] = {"contribution": _contributions, "on_objects": dict}
"""What of the files that a stage may leave in its folder is kept with the row of its source."""


def _kinds(cfg: Config) -> dict[str, str]:
    """Return the relation of each test item that has one."""
    init_default_scope(SCOPE)
    dataset = DATASETS.build(plain_settings(cfg.test_dataloader["dataset"]))
    kinds = {}
    for part in getattr(dataset, "datasets", [dataset]):
        part.full_init()
        for number in range(len(part)):
            sample = part.get_data_info(number)
            if sample.get("relation"):
                names = (sample["image_id"], sample["prompt"], sample.get("source_id"))
                kinds[item_name(*names)] = sample["relation"]
    return kinds


def _tables(
    items: Mapping[str, Mapping[str, Mapping[str, float]]], kinds: Mapping[str, str], root: str
) -> tuple[dict[str, Table], str]:
    """Return the table of each metric's items, in the order of their names, and their digest."""
    named = {
        metric: sorted(own) for by_metric in items.values() for metric, own in by_metric.items()
    }
    told = json.dumps({m: [n.removeprefix(root) for n in own] for m, own in sorted(named.items())})
    return {m: _table(own, kinds) for m, own in named.items()}, hashlib.sha256(
        told.encode()
    ).hexdigest()[:12]


def _table(names: list[str], kinds: Mapping[str, str]) -> Table:
    own = [kinds.get(name, "") for name in names]
    known = sorted(set(own))
    _, images = np.unique([image_of(name) for name in names], return_inverse=True)
    return {"images": images.tolist(), "kinds": known, "kind": [known.index(kind) for kind in own]}


def _row(row: Mapping[str, Any], items: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    metrics = {name: round(entry["value"], 5) for name, entry in row["metrics"].items()}
    scores = {m: [_short(own[name]) for name in sorted(own)] for m, own in items.items()}
    costs = {name: row[name] for name in _KEPT if name in row}
    return {"arm": arm_of(row), "metrics": metrics, "scores": scores, **costs}


def _short(value: float) -> float:
    return int(value) if value == int(value) else round(value, _DIGITS)
