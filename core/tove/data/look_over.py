"""What the stages of a run are going to read, opened before the first of them trains.

Every data set of the config is built once: its annotations are read (COCO's stay in memory for the
stages), all its images looked for, some of them decoded. Splits are compared, metrics built.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tove.config.data_sets import data_sets, is_wrapper, loaders_by_split
from tove.data.image_io import CorruptImage
from tove.data.leaks import image_ids, leaks
from tove.errors import ConfigError
from tove.registry import DATASETS, METRICS

__all__ = ["Findings", "look_over"]

_DECODED = 16  # images of each data set
_KNOWN = (ConfigError, OSError, ValueError, KeyError, TypeError)


class Findings(NamedTuple):
    """What is wrong, and what a user should know; each a sentence."""

    problems: list[str]
    remarks: list[str]


def look_over(cfg: Config, console: Console | None = None) -> Findings:
    """Open everything that a config's loaders and metrics will read.

    Args:
        cfg: with data roots and image sizes filled in.
        console: where the progress is shown, on the main process.

    Returns:
        All problems, not the first only.
    """
    problems: list[str] = []
    remarks: list[str] = []
    splits: dict[str, set[str]] = {}
    looked_for: set[tuple[Any, ...]] = set()
    chosen = loaders_by_split(cfg)
    entries = [(loader, dict(entry)) for loader, entry in data_sets(cfg) if not is_wrapper(entry)]
    columns = (
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = console is not None and is_main_process()
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("looking over the data", total=len(entries))
        for loader, entry in entries:
            told = f"looking over {loader}: {_name(entry)}"
            progress.update(task, description=told, refresh=True)
            try:
                dataset = _build(entry)
                remarks += _looked_for(dataset, loader, looked_for)
                remarks += _decode_some(dataset, loader)
                for split in [name for name, own in chosen.items() if loader in own]:
                    name = "train" if split == "train" else loader.removesuffix("_dataloader")
                    splits.setdefault(name, set()).update(image_ids(dataset))
            except _KNOWN as error:
                problems.append(f"{loader}: {_sentence(error)}")
            progress.advance(task)
    remarks += leaks(splits)
    return Findings(problems + _metric_problems(cfg.get("test_evaluator", [])), remarks)


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("ann_file") or entry.get("img_dir") or entry.get("type"))


def _build(entry: dict[str, Any]) -> Any:  # noqa: ANN401 - any data set
    entry.pop("keep_decoded_gb", None)  # memory that is filled in training
    dataset = DATASETS.build(entry)
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    return dataset


def _looked_for(
    dataset: Any,  # noqa: ANN401 - any data set
    loader: str,
    known: set[tuple[Any, ...]],
) -> list[str]:
    """Look for every image of conversations; return a remark where some are not as named.

    Args:
        dataset: of the loader.
        loader: its name.
        known: files whose images have been looked for, hundreds of thousands maybe; it is filled.

    Raises:
        ConfigError: more are missing or damaged than the data set puts up with.
    """
    if not hasattr(dataset, "check_images"):
        return []  # looked for them when its annotations were read
    file = (dataset.ann_file, dataset.img_dir, dataset.corrupt_limit)
    if file in known:
        return []
    known.add(file)
    report = dataset.check_images()
    if report.num_unreadable > dataset.corrupt_limit:
        raise ConfigError(
            f"{report.num_unreadable} images of {dataset.ann_file!r} cannot be read, more than "
            f"corrupt_limit={dataset.corrupt_limit}. Of {report} Set img_dir to their folder, "
            "fetch or leave out what is missing, or raise corrupt_limit."
        )
    found = report.num_unreadable or report.misnamed or report.other_kind
    return [f"{loader}: {report}"] if found else []


def _decode_some(dataset: Any, loader: str) -> list[str]:  # noqa: ANN401 - any data set
    """Decode images at equal distances; return a remark where some cannot be.

    Raises:
        ConfigError: none of them can.
    """
    if not hasattr(dataset, "image_views"):  # research code: it says itself what is wrong
        dataset[0]
        return []
    number = min(_DECODED, dataset.num_images)
    if not number:  # conversations without an image
        return []
    failed = []
    for index in range(number):
        try:
            dataset.image_views(index * dataset.num_images // number)
        except CorruptImage as error:
            failed.append(str(error))
    if len(failed) == number:
        raise ConfigError(
            f"None of the {number} images looked at can be read. {failed[0]}. Check img_dir and "
            "the copy of the data."
        )
    if not failed:
        return []
    return [f"{loader}: {len(failed)} of {number} images looked at cannot be read. {failed[0]}."]


def _metric_problems(metrics: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[str]:
    problems = []
    for metric in [metrics] if isinstance(metrics, Mapping) else metrics:
        try:
            METRICS.build(dict(metric))
        except _KNOWN as error:
            problems.append(f"test_evaluator: {_sentence(error)}")
    return problems


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
