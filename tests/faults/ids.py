"""Annotations whose ids, names or labels do not fit: refused, or counted in a warning.

No case changes the data without a word; those of `COUNTED` go on, with the number said.
"""

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from harness import Result, Settings, do, main, miniature, parse_args
from mmengine.config import Config
from rich.console import Console

from tove.data.look_over import look_over
from tove.data.prepare import prepare_data
from tove.engine.preflight import check_config
from tove.errors import ConfigError

Coco = dict[str, list[dict[str, Any]]]
CAPTIONS, STATEMENTS = "annotations/captions_train.json", "annotations/statements_train.jsonl"


def _images(change: Callable[[list], object]) -> Callable[[Coco, list], object]:
    return lambda coco, rows: change(coco["images"])


def _captions(change: Callable[[list], object]) -> Callable[[Coco, list], object]:
    return lambda coco, rows: change(coco["annotations"])


def _rows(change: Callable[[list], object]) -> Callable[[Coco, list], object]:
    return lambda coco, rows: change(rows)


def _each(entries: list, **values: Any) -> None:
    for entry in entries:
        entry.update({k: v(entry) if callable(v) else v for k, v in values.items()})


REFUSED: dict[str, Callable[[Coco, list], object]] = {
    "ids restart halfway": lambda coco, rows: (
        _each(coco["images"][6:], id=lambda e: e["id"] - 6),
        _each(coco["annotations"][6:], image_id=lambda e: e["image_id"] - 6),
    ),
    "one id of two images": _images(lambda e: e[1].update(id=e[0]["id"])),
    "half of the ids are texts": _images(lambda e: _each(e[6:], id=lambda i: str(i["id"]))),
    "all ids of captions are texts": _captions(
        lambda e: _each(e, image_id=lambda i: str(i["image_id"]))
    ),
    "ids are fractions": _images(lambda e: _each(e, id=lambda i: i["id"] + 0.5)),
    "an id is missing": _images(lambda e: e[3].pop("id")),
    "an image has no name": _images(lambda e: e[3].update(file_name=None)),
    "no caption has an image": _captions(lambda e: _each(e, image_id=999)),
    "a caption is a number": _captions(lambda e: e[2].update(caption=7)),
    **{
        f"a label is {value}": _rows(lambda e, value=value: e[2].update(label=value))
        for value in (0.3, 0.9, 1.7, -0.5, 2, "yes", None)
    },
    "a statement has no image": _rows(lambda e: e[2].pop("image")),
    "a statement is empty": _rows(lambda e: e[2].update(caption=" ")),
}
COUNTED: dict[str, tuple[Callable[[Coco, list], object], str]] = {
    "captions of no image": (
        _captions(lambda e: e[2].update(image_id=999)),
        "1 annotations belong to no image",
    ),
    "one photo under two ids": (
        _images(lambda e: e[3].update(file_name=e[2]["file_name"])),
        "1 images are listed again",
    ),
    "an image that is not there": (
        _images(lambda e: e[3].update(file_name="gone.png")),
        "1 of its 12 images are not in",
    ),
    "statements that occur again": (_rows(lambda e: e.append(e[0])), "1 statements occur again"),
    "true and false": (
        _rows(lambda e: e.append(e[0] | {"label": 1 - e[0]["label"]})),
        "1 statements are labelled true as well as false",
    ),
    "tested on what is trained on": (
        _rows(lambda e: e[0].update(image="test_000.png")),
        "of the test split are trained on as well",
    ),
}


def _look(settings: Settings, said: Path) -> None:
    cfg = Config(deepcopy(settings))
    check_config(cfg)
    prepare_data(cfg)
    with said.open("w") as stream:
        problems, remarks = look_over(cfg, Console(file=stream, width=10_000))
        stream.writelines(remarks)
    if problems:
        raise ConfigError(" ".join(problems))


def _changed(settings: Settings, data: Path, change: Callable[[Coco, list], object]) -> Settings:
    shutil.copytree(settings["data_root"], data)
    coco = json.loads((data / CAPTIONS).read_text())
    rows = [json.loads(line) for line in (data / STATEMENTS).read_text().splitlines()]
    change(coco, rows)
    (data / CAPTIONS).write_text(json.dumps(coco))
    (data / STATEMENTS).write_text("\n".join(map(json.dumps, rows)))
    return {**settings, "data_root": str(data)}


def measure(folder: Path, num: int, seed: int) -> Result:
    result = Result("ids, names and labels that do not fit")
    settings = miniature(folder / "miniature")
    wanted = {case: (change, "") for case, change in REFUSED.items()} | COUNTED
    for number, (case, (change, words)) in enumerate(list(wanted.items())[:num]):
        changed = _changed(settings, folder / f"data{number}", change)
        said, log = folder / f"said{number}", folder / f"log{number}"
        code, told = do(lambda changed=changed, said=said: _look(changed, said), log)
        heard = said.read_text() + log.read_text()
        held = words in heard and code == 0 if words else code == 2
        result.count(held, f"{case}: exit {code}, {told[-300:]}", "counted" if words else "refused")
    return result


if __name__ == "__main__":
    main(measure, parse_args(), len(REFUSED) + len(COUNTED))
