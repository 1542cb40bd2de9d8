"""Configs, annotations, images, weights and written files that are wrong, some hundreds by script.

A case holds if the command ends well or with one sentence; a traceback does not. Each is the real
command in a forked process: `train` on the miniature run, and `compare`, `caption` and `train
--resume` on what it left. Without `--num` what passes all checks is run to its end, with it up to
the first stage.
"""

import argparse
import gc
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import harness
from harness import Result, Settings, main, miniature, start, wait
from mmengine.config import Config
from PIL import Image

from tove.data.look_over import look_over
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.engine.stages.context import StageContext

Command = Callable[[], int]
Case = tuple[str, Callable[[Path], Command]]  # its name; given an empty folder it makes the mistake
STAGES = ["plain_clip", "transfer", "detach", "merge", "merged"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
CUTS = [k / 11 for k in range(11)]


# --- commands -----------------------------------------------------------------------------------


def train(config: Path, work: Path, resume: bool = False, options: list[str] | None = None) -> int:
    from tove.cli import train

    given = dict(config=str(config), work_dir=str(work), resume=resume, cfg_options=options)
    rest = dict(stage=None, checkpoint=None, amp=False, launcher="none", local_rank=0)
    return train(argparse.Namespace(**given, **rest))


def compare(work: Path, folder: Path) -> int:
    from tove.cli import compare

    rest = dict(metric=None, pool=[], plot=folder / "c.png", json=folder / "c.json", csv=None)
    return compare(argparse.Namespace(work_dirs=[work], **rest))


def caption(work: Path, image: Path, stage: str) -> int:
    from tove.cli import caption

    rest = dict(detached=[], device=None, dtype=None, json=False, prompt=None)
    return caption(argparse.Namespace(work_dir=work, images=[str(image)], stage=stage, **rest))


def with_settings(settings: Settings, folder: Path) -> Command:
    config = folder / "config.py"
    config.write_text("".join(f"{key} = {value!r}\n" for key, value in settings.items()))
    return lambda: train(config, folder / "work")


# --- configs ------------------------------------------------------------------------------------


def places(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """Yield the way to every setting, sections and entries of lists included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in inside:
        yield (*way, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*way, key))


def put(settings: Settings, way: tuple, value: Any, key: str | None = None) -> Settings:
    changed = deepcopy(settings)
    at: Any = changed
    for part in way[:-1]:
        at = at[part]
    if key is not None:
        value = at.pop(way[-1])
    at[way[-1] if key is None else key] = value
    return changed


def other_kinds(value: Any) -> list[Any]:
    """Give values of kinds that a setting of this value is not."""
    kinds: list[Any] = [None, "x", 7, -1.5, ["x"], {"x": 1}]
    same = {str: 1, int: 2, float: 2, bool: -1, list: 4, tuple: 4, dict: 5}[type(value)]
    return [kind for index, kind in enumerate(kinds) if index != same]


def configs(root: Path) -> Iterator[Case]:
    settings = miniature(root / "configs", STAGES)
    settings["schedule"].update(steps=1, warmup=0)
    settings["merging"]["schedule"].update(steps=1)
    settings["report"] = {}
    settings["stages"].append(dict(type="ReportStage", name="report"))
    for way in places(settings):
        name = ".".join(map(str, way))
        at: Any = settings
        for part in way:
            at = at[part]
        for value in other_kinds(at):
            changed = put(settings, way, value)
            yield f"{name}={value!r}", lambda f, s=changed: with_settings(s, f)
        if isinstance(way[-1], str):
            changed = put(settings, way, None, key=f"{way[-1]}z")
            yield f"{name} misspelt", lambda f, s=changed: with_settings(s, f)


TEXTS: dict[str, bytes] = {
    "1/0": b"seed = 1 / 0",
    "a syntax error": b"model = dict(",
    "not UTF-8": b"# caf\xe9\nseed = 0",
    "empty": b"",
    "binary": bytes(range(256)),
    "an import that fails": b"import no_such_module",
    "sys.exit": b"import sys\nsys.exit(3)",
    "read_base over a text config": (
        b"from mmengine.config import read_base\nwith read_base():\n    from .base import *"
    ),
    "_base_ of nowhere": b"_base_ = ['nowhere.py']",
    "_base_ of itself": b"_base_ = ['config.py']",
    "_base_ is a number": b"_base_ = 3",
    "json": b'{"seed": 0}',
    "custom_imports of nowhere": b"custom_imports = dict(imports=['no_such'])",
    "custom_imports of another kind": b"custom_imports = dict(imports=3)",
    "custom_imports misspelt": b"custom_imports = dict(import_=['json'])",
}
OPTIONS = [
    "x", "=1", "seed", "seed=", "seed=x", "model=1", "model.=1", ".seed=1", "model..type=ToVE",
    "stages.0=1", "stages.9.name=x", "stages.x=1", "train_dataloader=None", "data_root=",
    "data_root=no/such", "work_dir=/dev/null/x", "model.experts=None", "model.experts.new=1",
    "model.experts.new.type=no_such", "model.type=PlainClip", "schedule.steps=1e9999",
    "schedule.steps=nan", "model.experts.depth.device=cuda:7", "model.encoder.layer=99",
    "model.encoder.image_size=33", "test_evaluator=[]", "test_evaluator.0.type=no_such",
    "model.language.fusion=cross", "image_size=9999999", "batch_size=9999999999999",
]  # fmt: skip


def texts(root: Path) -> Iterator[Case]:
    settings = miniature(root / "texts", ["transfer"])

    def text(content: bytes, suffix: str) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            Config(settings).dump(folder / "base.py")
            (folder / f"config{suffix}").write_bytes(content)
            return lambda: train(folder / f"config{suffix}", folder / "work")

        return make

    def option(given: str) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            Config(settings).dump(folder / "config.py")
            return lambda: train(folder / "config.py", folder / "work", options=[given])

        return make

    for name, content in TEXTS.items():
        yield f"a config: {name}", text(content, ".py")
    for suffix in (".json", ".yaml", ".txt", ""):
        yield f"a config of the name config{suffix}", text(b"seed: 0", suffix)
    yield "a config that is a folder", lambda f: lambda: train(f, f / "work")
    for given in OPTIONS:
        yield f"--cfg-options {given}", option(given)
    for name in ("work[red]", "[/x]", "wörk [bold]", "w\nork"):

        def make(folder: Path, name: str = name) -> Command:
            Config(settings).dump(folder / "config.py")
            return lambda: train(folder / "config.py", folder / name)

        yield f"the work folder {name!r}", make
    for name in ("file", "/proc/x", "/dev/null"):

        def make(folder: Path, name: str = name) -> Command:
            (folder / "file").touch()
            Config(settings).dump(folder / "config.py")
            return lambda: train(folder / "config.py", folder / name / "work")

        yield f"a work folder below {name}", make


# --- annotations --------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, 7, -1, 0.5, True, "", " ", "\ud800", "a\0b", "a\nb", [], ["x"], {}, "x" * 70_000,
    "../../etc/hostname", "/etc/hostname", "é", "[red]",
]  # fmt: skip
FILES: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a number": b"3",
    "a list": b"[]",
    "a list of lists": b"[[]]",
    "an empty object": b"{}",
    "a text": b'"x"',
    "nested 100,000 deep": b"[" * 100_000,
    "objects nested 100,000 deep": b'{"a":' * 100_000,
    "UTF-16": '{"images": []}'.encode("utf-16"),
    "Latin-1": '{"images": ["é"]}'.encode("latin-1"),
    "binary": bytes(range(256)) * 9,
    "an LFS pointer": POINTER,
    "a web page": b"<!DOCTYPE html><html></html>",
    "NaN": b"NaN",
    "a huge number": b"1" + b"0" * 5000,
}


def annotations(root: Path) -> Iterator[Case]:
    settings = miniature(root / "annotations", ["transfer"])
    data = Path(settings["data_root"])

    def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            shutil.copytree(data / "annotations", folder / "data/annotations")
            for part in ("images", "unlabelled"):
                (folder / "data" / part).symlink_to(data / part)
            file = folder / "data/annotations" / name
            file.write_bytes(change(file.read_bytes()))
            return with_settings({**settings, "data_root": str(folder / "data")}, folder)

        return make

    for name in ("captions_train.json", "captions_test.json", "statements_train.jsonl",
                 "statements_test.jsonl"):  # fmt: skip
        for what, content in FILES.items():
            yield f"{name} is {what}", changed(name, lambda _, content=content: content)
        for cut in (0.3, 0.9):
            yield f"{name} cut at {cut}", changed(name, lambda b, c=cut: b[: int(len(b) * c)])
    for value in VALUES:
        said = repr(value)[:30]
        for part, key in (("images", "file_name"), ("images", "id"), ("annotations", "caption"),
                          ("annotations", "image_id")):  # fmt: skip

            def coco(old: bytes, part: str = part, key: str = key, value: Any = value) -> bytes:
                content = json.loads(old)
                content[part][2][key] = value
                return json.dumps(content).encode()

            yield f"{part}[2].{key} = {said}", changed("captions_train.json", coco)
        for key in ("image", "caption", "label", "relation"):

            def row(old: bytes, key: str = key, value: Any = value) -> bytes:
                lines = old.decode().splitlines()
                lines[2] = json.dumps(json.loads(lines[2]) | {key: value})
                return "\n".join(lines).encode()

            yield f"a statement's {key} = {said}", changed("statements_train.jsonl", row)
    for value in (None, 7, "x", [], {}):
        for part in ("images", "annotations"):

            def whole(old: bytes, part: str = part, value: Any = value) -> bytes:
                return json.dumps(json.loads(old) | {part: value}).encode()

            def entry(old: bytes, part: str = part, value: Any = value) -> bytes:
                content = json.loads(old)
                content[part][1] = value
                return json.dumps(content).encode()

            yield f"{part} = {value!r}", changed("captions_train.json", whole)
            yield f"{part}[1] = {value!r}", changed("captions_train.json", entry)


# --- images -------------------------------------------------------------------------------------


def _png(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 32), **more: Any) -> None:
    Image.new(mode, size).save(path, "PNG", **more)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _with(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _cut(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


IMAGES: dict[str, Callable[[Path], object]] = {
    "empty": _with(b""),
    "text": _with(b"no image"),
    "an LFS pointer": _with(POINTER),
    "a web page": _with(b"<html></html>"),
    "PostScript": _with(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
    "SVG": _with(b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "PDF": _with(b"%PDF-1.4\n"),
    **{f"cut at {share:.2f}": _cut(share) for share in CUTS[1:]},
    "a pipe": _fifo,
    "a folder": _folder,
    "gone": Path.unlink,
    "a link to nowhere": _link("nowhere"),
    "a link to itself": _link("train_003.png"),
    "a link to a device": _link("/dev/zero"),
    **{f"of mode {mode}": lambda p, m=mode: _png(p, m) for mode in ("1", "L", "LA", "P", "RGBA")},
    "of mode I;16": lambda p: _png(p, "I;16"),
    "a TIFF of mode I": lambda p: Image.new("I", (9, 9), 70_000).save(p, "TIFF"),
    "1 x 1": lambda p: _png(p, size=(1, 1)),
    "1 x 3000": lambda p: _png(p, size=(1, 3000)),
    "float TIFF": lambda p: Image.new("F", (9, 9), 0.5).save(p, "TIFF"),
    "float TIFF of NaN": lambda p: Image.new("F", (9, 9), float("nan")).save(p, "TIFF"),
    "float TIFF below zero": lambda p: Image.new("F", (9, 9), -3.0).save(p, "TIFF"),
    "CMYK JPEG": lambda p: Image.new("CMYK", (9, 9)).save(p, "JPEG"),
    "a bomb": lambda p: Image.new("1", (30_000, 30_000)).save(p, "PNG"),
    "an animation": lambda p: Image.new("P", (9, 9)).save(
        p, "GIF", save_all=True, append_images=[Image.new("P", (9, 9), 3)]
    ),
}
NAMES = [b"caf\xe9.png", "é.png".encode(), b"a b.png", b"[red].png", b"a\nb.png", b".hidden.png",
         b"x.JPG", b"x.jfif", b"x.avif", b"x.jp2", b"x.eps", b"x.txt", b"x"]  # fmt: skip


def images(root: Path) -> Iterator[Case]:
    settings = miniature(root / "images", ["transfer", "merge"])
    settings["schedule"].update(steps=6, warmup=0)  # of 4 each: all 24 samples are drawn
    data = Path(settings["data_root"])

    def changed(name: str, change: Callable[[Path], object]) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            shutil.copytree(data, folder / "data")
            change(folder / "data" / name)
            return with_settings({**settings, "data_root": str(folder / "data")}, folder)

        return make

    for what, change in IMAGES.items():
        for name in ("images/train_003.png", "images/test_003.png", "unlabelled/003.png"):
            yield f"{name} is {what}", changed(name, change)
    for name in NAMES:

        def rename(path: Path, name: bytes = name) -> None:
            os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/" + name)

        yield f"an unlabelled image is called {name!r}", changed("unlabelled/003.png", rename)


# --- weights ------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda old: b"",
    "an LFS pointer": lambda old: POINTER,
    "a web page": lambda old: b"<!DOCTYPE html><html><body>log in</body></html>",
    "GGUF": lambda old: b"GGUF\x03\0\0\0" + bytes(99),
    "random bytes": lambda old: random.Random(0).randbytes(999),
    "null": lambda old: b"null",
    "a list": lambda old: b"[]",
    "an empty object": lambda old: b"{}",
    **{f"cut at {share:.2f}": lambda old, c=share: old[: int(len(old) * c)] for share in CUTS[1:]},
}


def weights(root: Path) -> Iterator[Case]:
    from safetensors.torch import save_file

    from tove_plugins import build_expert

    settings = miniature(root / "weights", ["plain_clip", "transfer"])
    place = root / "weights"
    save_file(build_expert("tiny_depth", tiny=True).state_dict(), place / "expert.safetensors")
    save_file({}, place / "initial.safetensors")

    def using(folder: Path) -> Settings:
        changed = deepcopy(settings)
        changed["model"]["encoder"]["pretrained"] = str(folder / "clip")
        changed["model"]["language"]["pretrained"] = str(folder / "lm")
        depth = dict(type="tiny_depth", weights=str(folder / "expert.safetensors"), tiny=True)
        changed["model"]["experts"]["depth"] = depth
        changed["model"]["init_from"] = str(folder / "initial.safetensors")
        return changed

    def damaged(name: str, change: Callable[[Path], object]) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            for part in ("clip", "lm"):
                shutil.copytree(place / part, folder / part)
            for file in place.glob("*.safetensors"):
                shutil.copy(file, folder)
            change(folder / name)
            return with_settings(using(folder), folder)

        return make

    files = [f.relative_to(place) for part in ("clip", "lm") for f in (place / part).iterdir()]
    files += [Path("expert.safetensors"), Path("initial.safetensors")]
    for file in sorted(map(str, files)):
        for what, change in DAMAGE.items():

            def spoil(path: Path, change: Callable[[bytes], bytes] = change) -> None:
                path.write_bytes(change(path.read_bytes()))

            yield f"{file} is {what}", damaged(file, spoil)
        yield f"{file} is gone", damaged(file, Path.unlink)
        yield f"{file} is a folder", damaged(file, _folder)
    for name in ("clip", "lm"):
        for key, value in json.loads((place / name / "config.json").read_text()).items():
            for new in (None, "x", -1, 48):

                def say(path: Path, key: str = key, new: Any = new) -> None:
                    path.write_text(json.dumps(json.loads(path.read_text()) | {key: new}))

                if new != value:
                    told = f"{name}/config.json: {key} = {new!r} for {value!r}"
                    yield told, damaged(f"{name}/config.json", say)


# --- what a run wrote ---------------------------------------------------------------------------

WRITTEN = {name: DAMAGE[name] for name in ("empty", "null", "a list", "an empty object")}
WRITTEN |= {f"cut at {c:.2f}": lambda old, c=c: old[: int(len(old) * c)] for c in CUTS[1:]}


def work_dirs(root: Path) -> Iterator[Case]:
    settings = miniature(root / "work_dirs", STAGES)
    finished, config = root / "work_dirs/finished", root / "work_dirs/config.py"
    Config(deepcopy(settings)).dump(config)
    if not (finished / "results.json").exists():
        code = wait(start(lambda: train(config, finished), root / "work_dirs/log"))
        assert code == 0, (root / "work_dirs/log").read_text()[-2000:]
    image = Path(settings["data_root"]) / "images/test_000.png"

    def damaged(
        name: str, change: Callable[[bytes], bytes], then: Callable[[Path, Path], int]
    ) -> Callable[[Path], Command]:
        def make(folder: Path) -> Command:
            work = folder / "work"
            shutil.copytree(finished, work)
            file = work / name
            file.write_bytes(change(file.read_bytes()))
            return lambda: then(work, folder)

        return make

    texts = sorted(f for s in ("*.json", "*.jsonl", "*.txt", "last_checkpoint", "config.py")
                   for f in finished.rglob(s) if "vis_data" not in str(f))  # fmt: skip
    commands: dict[str, Callable[[Path, Path], int]] = {
        "train --resume": lambda work, folder: train(config, work, resume=True),
        "compare": compare,
        "caption": lambda work, folder: caption(work, image, "merged"),
    }
    for file in texts:
        name = str(file.relative_to(finished))
        for what, change in WRITTEN.items():
            for command, then in commands.items():
                if command != "train --resume" and what.startswith("cut") and what != "cut at 0.55":
                    continue
                yield f"{command}: {name} is {what}", damaged(name, change, then)


# --- all of them --------------------------------------------------------------------------------

TABLES: dict[str, Callable[[Path], Iterator[Case]]] = {
    "configs": configs,
    "texts and options": texts,
    "annotations": annotations,
    "images": images,
    "weights": weights,
    "work folders": work_dirs,
}


def within(seconds: int, command: Command, to_the_end: bool) -> Command:
    """End a command that hangs by a signal, which is told by its exit code.

    Args:
        seconds: it may take.
        command: to do.
        to_the_end: run the stages too.
    """

    def timed() -> int:
        signal.alarm(seconds)
        # A test's own capture would take what is said.
        sys.stdout = open(1, "w", buffering=1, closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        if not to_the_end:
            StagedRunner._run_stage = lambda self, *_: sys.exit(0)
        return command()

    return timed


def warm_up(folder: Path) -> None:
    """Import what all cases need, and keep the garbage collector off it: forks would copy it."""
    cfg = Config(miniature(folder / "warm") | {"work_dir": str(folder / "warm/work")})
    check_config(cfg)
    look_over(cfg)
    context = StageContext(cfg, folder / "warm/work")
    context.build_model()
    gc.collect()
    gc.freeze()


def measure(
    folder: Path, num: int | None = None, seed: int = 0, tables: list[str] | None = None
) -> Result:
    result = Result("inputs that are wrong, in configs, annotations, images, weights, work folders")
    folder.mkdir(exist_ok=True)
    warm_up(folder)
    try:
        _try_all(result, folder, num, seed, tables or [*TABLES])
    finally:
        gc.unfreeze()
    return result


def _try_all(result: Result, folder: Path, num: int | None, seed: int, tables: list[str]) -> None:
    cases = [(t, *case) for t in tables for case in TABLES[t](folder)]
    if num is not None and num < len(cases):
        cases = random.Random(seed).sample(cases, num)
    for number, (table, name, make) in enumerate(cases):
        place, log = folder / f"case{number}", folder / f"log{number}"
        place.mkdir()
        code = wait(start(within(120, make(place), to_the_end=num is None), log))
        said = log.read_text(errors="replace").strip().splitlines() or [""]
        one = code == 2 and said[-1].startswith("error: ") and "Traceback (most" not in said
        result.count(code == 0 or one, f"{table}: {name}: exit {code}, {said[-3:]}", table)
        shutil.rmtree(place)
        log.unlink()


def parse_args() -> argparse.Namespace:
    """Read the command line, which can name some of the tables."""
    return harness.parse_args(tables=[*TABLES])


if __name__ == "__main__":
    args = parse_args()
    main(partial(measure, tables=args.tables), args, None)
