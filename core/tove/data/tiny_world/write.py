"""Writes the tiny world to disk in the formats that everybody's data comes in.

    root/images/{split}_000012.png                    train, val, test
    root/unlabelled/000012.png                        for the merge
    root/annotations/captions_{split}.json            COCO captions
    root/annotations/statements_{split}.jsonl         VSR
    root/annotations/questions_{split}.jsonl          {"image", "question", "answer", "relation"}
    root/annotations/conversations_{split}.json       LLaVA's JSON, and the questions' kinds
    root/annotations/conversations_pretrain.json      LLaVA's JSON: captions of unlabelled/
    root/annotations/depth_test.npz                   {file stem: [16, 16] log depth}

The splits are scenes of different seeds: no scene is in two of them, and none was seen by the
shipped weights (they know stream 0 only). A shifted split, by a name of the user's, has the test
scenes' random numbers in another world.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from tove.config.validation import Range, check_arguments
from tove.data.tiny_world.dialogue import (
    caption_conversation,
    conversations_about,
    words_conversation,
)
from tove.data.tiny_world.rendered import Pool, make_pool, seeded
from tove.data.tiny_world.scene import World
from tove.data.tiny_world.text import (
    Thing,
    ordered_caption,
    questions_of,
    relation_caption,
    statements_of,
)
from tove.errors import ConfigError

__all__ = ["SPLITS", "stream_of", "world_of", "write_scenes"]

SPLITS = ("train", "val", "test", "unlabelled")
_CHUNK = 256
_DIALOGUE = 1  # names the random numbers of conversations
_SCENES_PER_TEXT = 4
_SETTINGS = "scenes.json"  # there first and gone last: tells our leftovers from a user's folder
_FOLDERS = ("images", "unlabelled", "annotations")


def stream_of(split: str, seed: int) -> int:
    """Seed of a split's scenes; distinct for every split and seed, and never 0."""
    return 16 + 4 * seed + SPLITS.index(split)


@dataclass(frozen=True, slots=True)
class Split:
    """Scenes that are written: `count` of a stream, in a world."""

    name: str
    stream: int
    count: int
    world: World


def world_of(settings: Mapping[str, Any] | None, where: str = "scenes.world") -> World:
    """Return the world of a config's settings; None is that of the shipped weights.

    Raises:
        ConfigError: it cannot be drawn.
    """
    check_arguments(World, settings or {}, where)
    return World(**{key: tuple(value) for key, value in (settings or {}).items()})


def write_scenes(
    root: Path,
    *,
    train: Annotated[int, Range(1)],
    unlabelled: Annotated[int, Range(1)],
    val: Annotated[int, Range(1)],
    test: Annotated[int, Range(1)],
    seed: Annotated[int, Range(0)] = 0,
    statements: Annotated[int, Range(1)] = 6,
    world: Mapping[str, Any] | None = None,
    shifted: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Renders the splits and writes them; all of them or nothing.

    Args:
        root: Folder to make.
        train: Scenes with captions and statements to train on.
        unlabelled: Images without text.
        val: Scenes for every choice.
        test: Scenes for the report.
        seed: Another seed gives other scenes.
        statements: Statements about each scene, at most; of different relations.
        world: What scenes are drawn from, see `tove.data.tiny_world.scene.World`.
        shifted: Further test splits by name, none of SPLITS: what is laid over `world` there.

    Raises:
        ConfigError: A folder of the user's is where the world would be written first, or a world
            that cannot be drawn.
        OSError: The disk is full or `root` cannot be written; nothing is left behind.
    """
    counts = {"train": train, "unlabelled": unlabelled, "val": val, "test": test}
    splits = _splits(counts, seed, world or {}, shifted or {})
    partial = root.with_name(root.name + ".partial")
    if partial.exists() and not (partial / _SETTINGS).is_file() and any(partial.iterdir()):
        raise ConfigError(
            f"The tiny world is written to {partial} first, but there is such a folder already, "
            "and it is not of an earlier try; move it away."
        )
    _remove(partial)
    partial.mkdir(parents=True)
    settings: dict[str, Any] = {**counts, "seed": seed, "statements": statements}
    settings |= {"world": world} if world else {}
    settings |= {"shifted": shifted} if shifted else {}
    (partial / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    for folder in _FOLDERS:
        (partial / folder).mkdir()
    try:
        with _one_thread(), _Progress(sum(split.count for split in splits)) as advance:
            for split in splits:
                _write_split(partial, split, statements, advance)
        root.parent.mkdir(parents=True, exist_ok=True)
        if root.is_dir():  # a folder without annotations, e.g. made by hand
            root.rmdir()
        os.replace(partial, root)
    except BaseException:
        _remove(partial)
        raise


def _splits(
    counts: Mapping[str, int],
    seed: int,
    world: Mapping[str, Any],
    shifted: Mapping[str, Mapping[str, Any]],
) -> list[Split]:
    own = world_of(world, "scenes.world")
    splits = [Split(name, stream_of(name, seed), count, own) for name, count in counts.items()]
    for name, over in shifted.items():
        other = world_of({**world, **over}, f"scenes.shifted.{name}")
        splits.append(Split(name, stream_of("test", seed), counts["test"], other))
    return splits


def _remove(partial: Path) -> None:
    for folder in _FOLDERS:
        shutil.rmtree(partial / folder, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Renders on one thread: on a busy machine, threads that wait for each other are far slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Progress:
    """A rich progress bar as a context; gives a function that advances it."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = TextColumn("Rendering the tiny world"), BarColumn(), MofNCompleteColumn()
        self._bar = Progress(*columns)
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Callable[[int], None]:
        self._bar.start()
        return lambda n: self._bar.advance(self._task, n)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def _write_split(root: Path, split: Split, statements: int, advance: Callable[[int], None]) -> None:
    stream, captioned = split.stream, split.name != "unlabelled"
    folder, prefix = ("images", f"{split.name}_") if captioned else ("unlabelled", "")
    captions: dict[str, list[dict]] = {"images": [], "annotations": []}
    lines: list[str] = []
    questions: list[str] = []
    records: list[dict] = []
    depths: dict[str, np.ndarray] = {}
    with ThreadPoolExecutor(2) as pool:
        for first, chunk in _chunks(split):
            names = [f"{prefix}{first + i:06d}.png" for i in range(len(chunk))]
            arrays = chunk.images.permute(0, 2, 3, 1).numpy()
            saved = pool.map(_save, arrays, [root / folder / name for name in names])
            for i, name in enumerate(names):
                records += _conversations(chunk.things[i], f"{folder}/{name}", stream, first + i)
            if captioned:
                for i, name in enumerate(names):
                    rng = seeded(stream, first + i)
                    _describe(captions, chunk.things[i], name, first + i, rng)
                    lines += _statements(chunk.things[i], name, statements, rng)
                    questions += _questions(chunk.things[i], name, rng)
                    depths[Path(name).stem] = chunk.depth[i].numpy().astype(np.float16)
            list(saved)
            advance(len(chunk))
    annotations = root / "annotations"
    file = f"conversations_{split.name if captioned else 'pretrain'}.json"
    (annotations / file).write_text(json.dumps(records))
    if not captioned:
        return
    (annotations / f"captions_{split.name}.json").write_text(json.dumps(captions))
    (annotations / f"statements_{split.name}.jsonl").write_text("".join(lines))
    (annotations / f"questions_{split.name}.jsonl").write_text("".join(questions))
    if split.name == "test":
        np.savez_compressed(annotations / "depth_test.npz", allow_pickle=False, **depths)


def _chunks(split: Split) -> Iterator[tuple[int, Pool]]:
    for first in range(0, split.count, _CHUNK):
        count = min(_CHUNK, split.count - first)
        yield first, make_pool(split.stream, first, count, world=split.world)


def _save(array: np.ndarray, path: Path) -> None:
    Image.fromarray(array).save(path, compress_level=1)


def _describe(
    captions: dict[str, list[dict]], things: list[Thing], name: str, index: int, rng: random.Random
) -> None:
    """Adds a scene's captions."""
    captions["images"].append({"id": index, "file_name": name})
    texts = [ordered_caption(things)]
    relation = relation_caption(things, rng)
    texts += [relation] if relation else []
    for text in texts:
        number = len(captions["annotations"])
        captions["annotations"].append({"id": number, "image_id": index, "caption": text})


def _statements(things: list[Thing], name: str, number: int, rng: random.Random) -> list[str]:
    return [
        json.dumps(
            {"image": name, "caption": s.text, "label": int(s.label), "relation": s.relation}
        )
        + "\n"
        for s in statements_of(things, number, rng)
    ]


def _questions(things: list[Thing], name: str, rng: random.Random) -> list[str]:
    return [
        json.dumps({"image": name, "question": q.text, "answer": q.answer, "relation": q.relation})
        + "\n"
        for q in questions_of(things, 4, rng)
    ]


def _conversations(things: list[Thing], image: str, stream: int, index: int) -> list[dict]:
    """Write a scene's records of LLaVA's JSON; every fourth scene brings one without an image."""
    name = Path(image).stem
    if image.startswith("unlabelled/"):
        return [caption_conversation(ordered_caption(things), image, name)]
    rng = seeded(stream, index, _DIALOGUE)  # numbers of its own: all else stays as it was
    records = conversations_about(things, image, name, rng)
    if index % _SCENES_PER_TEXT == 0:
        records.append(words_conversation(f"{name}-words", rng))
    return records
