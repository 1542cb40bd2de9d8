"""Data before a run: the tiny world is written where it is asked for, the rest is looked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.config.data_sets import data_sets
from tove.config.validation import check_arguments, check_known
from tove.data.annotations import read_json
from tove.errors import ConfigError
from tove.locks import locked
from tove.modules.collectives import on_main

__all__ = ["prepare_data"]

_SCENES = (
    *("data_root", "train", "unlabelled", "val", "test", "seed", "statements"),
    *("world", "shifted"),
)


def prepare_data(cfg: Config, write: Callable[..., Any] | None = None) -> None:
    """Write the tiny world where the config asks for it; then check that all data is there.

    Args:
        cfg: with data roots filled in.
        write: writes scenes; by default the project's own.

    Raises:
        ConfigError: a data root or an annotation file is missing.
    """
    scenes = cfg.get("scenes")
    if scenes:
        check_known(scenes, _SCENES, "scenes")
    if scenes and Path(scenes.data_root) == Path(cfg.data_root):
        root = Path(scenes.data_root).expanduser()
        on_main(lambda: _write_once(root, scenes, write or _write_scenes))
        _check_scenes(root, scenes)
    for loader, dataset in data_sets(cfg):
        _check_files(loader, dataset)


def _write_once(root: Path, scenes: Mapping[str, Any], write: Callable[..., Any]) -> None:
    """Write the world if it is not there; two runs that start at once do not both do so."""
    if (root / "annotations").is_dir():
        return
    try:
        with locked(root.with_name(f".{root.name}.lock"), f"The tiny world in {root}"):
            if (root / "annotations").is_dir():  # another run has just written it
                return
            if root.is_dir() and any(root.iterdir()):
                raise ConfigError(
                    f"The tiny world was to be written to {root}, but that folder holds other "
                    "files; empty it, or set both data_root and scenes.data_root to another."
                )
            write(root, **{key: value for key, value in scenes.items() if key != "data_root"})
    except OSError as error:
        raise ConfigError(
            f"The tiny world cannot be written to {root} ({error}); make room there, or set both "
            "data_root and scenes.data_root to a folder that can be written to."
        ) from error


def _write_scenes(root: Path, **settings: Any) -> None:  # noqa: ANN401
    from tove.data.tiny_world.write import write_scenes

    check_arguments(write_scenes, settings, "scenes", filled=("root",))
    write_scenes(root, **settings)


def _check_scenes(root: Path, scenes: Mapping[str, Any]) -> None:
    """Refuse a world that was written with other settings than those asked for."""
    written = root / "scenes.json"
    then = _written_settings(written) if written.exists() else {}
    changed = [k for k, v in scenes.items() if k in then and then[k] != v]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{root} holds a world written with {key}={then[key]}, but scenes.{key} is now "
            f"{scenes[key]}; delete {root}, or set both data_root and scenes.data_root to another "
            "folder."
        )


def _written_settings(path: Path) -> dict[str, Any]:
    then = read_json(str(path), "a file of settings of the tiny world; delete its folder")
    if not isinstance(then, dict):
        raise ConfigError(f"{path} holds no settings of a tiny world; delete its folder.")
    return then


def _check_files(loader: str, dataset: Mapping[str, Any]) -> None:
    root = dataset.get("data_root")
    if root is None:
        return
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ConfigError(
            f"The data root '{root}' ({loader}) is not a folder; pass the right one by "
            "--cfg-options data_root=DIR."
        )
    folder = dataset.get("img_dir")
    if folder and not (root / folder).is_dir():
        raise ConfigError(
            f"The image folder {root / folder} ({loader}) is missing; put the images there, "
            f"or name their folder as {loader}.dataset.img_dir."
        )
    file = dataset.get("ann_file")
    if file and not (root / file).is_file():
        mend = (
            f"this tiny world was written by an earlier version, perhaps; delete {root}, and the "
            "next run writes it anew"
            if (root / "scenes.json").is_file()
            else "it belongs there in the format that docs/data.md describes"
        )
        raise ConfigError(
            f"The annotation file {root / file} ({loader}) is missing; {mend}, or name another as "
            "ann_file."
        )
