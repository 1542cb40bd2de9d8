"""A cache folder's card: what is in it, on whose terms, and how well; for people and for programs.

`card.json` is read where an expert's package is not installed: its spec, name and version are those
that the card tells, and its tokens those of the folder.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tove.atomic_io import write_text
from tove.backbones.experts.registration import Stored, register_stored
from tove.backbones.feature_cache.fitted import read_errors
from tove.backbones.feature_cache.shards import SUFFIX
from tove.errors import ConfigError
from tove_plugins import ExpertEntry, ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["NOT_TOLD", "read_card", "register_card", "tables_of", "write_card"]

NOT_TOLD = "not told"
_HEAD = """# Tokens of frozen vision networks

Extracted by tove_plugins; read with `token_cache=dict(dir="THIS FOLDER", mode="read")` of a model,
whether or not the experts' packages are installed. A changed expert, version, weights, spec, view
or pixel is a miss. `mim run tove_plugins cache CONFIG --verify` checks every byte.

| network | package | weights | their licence | trained on | view | codec | tokens | lost |
|---|---|---|---|---|---|---|---|---|
"""


def tables_of(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each table's folder and description."""
    for path in sorted(folder.glob("*/table.json")):
        try:
            told = dict(json.loads(path.read_text()))
            if "codec" in told:  # else it is that of the views, which says nothing more
                source, stored = told["source"], told["stored"]
                _ = told["key"], source["name"], source["spec"]["tokens"], stored["grid"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} is damaged ({type(error).__name__}: {error}); remove {path.parent} and "
                "extract its tokens again."
            ) from error
        yield path.parent, told


def write_card(
    folder: Path, experts: Mapping[str, Mapping[str, Any]], data: Sequence[Mapping[str, Any]]
) -> None:
    """Write the card of a folder, over what an earlier one says of other tables.

    Args:
        folder: of the cache.
        experts: by the key of their table, dict(spec=..., licence=..., trained_on=...).
        data: of each data set, dict(files=..., images=..., licence=...).
    """
    path = folder / "card.json"
    earlier = read_card(folder) if path.exists() else {"tables": {}, "data": []}
    tables = {}
    for place, described in tables_of(folder):
        if "codec" in described:
            about = experts.get(described["key"]) or earlier["tables"].get(place.name, {})
            errors = {"errors": read_errors(place)}
            tables[place.name] = {**about, **described, **errors, "bytes": _size(place)}
    sets = {entry["files"]: entry for entry in earlier["data"]}
    for entry in data:
        told = sets.get(entry["files"], entry)["licence"]
        own = entry["licence"] if entry["licence"] != NOT_TOLD else told
        sets[entry["files"]] = {**entry, "licence": own}
    card = {"format": 1, "tables": tables, "data": [*sets.values()]}
    write_text(path, json.dumps(card, indent=1) + "\n")
    write_text(folder / "README.md", _readme(card))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))


def read_card(folder: Path) -> dict[str, Any]:
    """Read a folder's card.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = folder / "card.json"
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The token cache {folder} has no card that can be read ({error}); run "
            "`mim run tove_plugins cache CONFIG`, which writes it."
        ) from error
    return card


def _readme(card: Mapping[str, Any]) -> str:
    lines = []
    for table in card["tables"].values():
        source, tokens = table["source"], table["source"]["spec"]["tokens"]
        lost = table["errors"].get("held_out")
        cells = (
            source["name"],
            f"{source['distribution']} {source['version']}",
            str(source["weights"])[:18],
            table.get("licence") or NOT_TOLD,
            table.get("trained_on") or NOT_TOLD,
            f"{table['view'][0]} px",
            table["codec"],
            f"{table['stored']['grid'][0]} x {table['stored']['grid'][1]} x {tokens['width']}",
            "not measured" if lost is None else f"{lost:.2g}",
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    data = [
        f"- {d['files']}: {d['images']} images; licence: {d['licence']}\n" for d in card["data"]
    ]
    lost = (
        "\n`lost` is the share of the tokens' variance that the codec loses on held-out images.\n"
    )
    return _HEAD + "".join(lines) + lost + "\nThe images:\n\n" + "".join(data)


def register_card(folder: Path) -> None:
    """Make the experts that a folder has tokens of known where their packages are not installed."""
    if not (folder / "card.json").exists():
        return
    stored: dict[str, list[Stored]] = {}
    for table in read_card(folder)["tables"].values():
        if "expert" in table:
            source = table["source"]
            made = source["distribution"], source["version"]
            entry = ExpertEntry(_spec(table["expert"]), "token cache", *made)
            stored.setdefault(source["name"], []).append((source["options"], source, entry))
    for name, entries in stored.items():
        register_stored(name, entries, str(folder))


def _spec(told: Mapping[str, Any]) -> ExpertSpec:
    """Make a spec of what `as_dict` gave; JSON has lists where it has tuples."""

    def tuples(part: Mapping[str, Any]) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list) else v for k, v in part.items()}

    weights = told["weights"]
    parts = {
        "tokens": TokenSpec(**tuples(told["tokens"])),
        "image": ImageSpec(**tuples(told["image"])),
        "weights": None if weights is None else Weights(**weights),
        "requires": tuple(told["requires"]),
    }
    return ExpertSpec(**{**told, **parts})
