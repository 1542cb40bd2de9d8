"""What a later stage would stumble over is told before the first one trains."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from harness import Result, Settings, count_told, main, miniature, parse_args
from safetensors.torch import save

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
FOREIGN = save({"head.weight": torch.zeros(3)})
Change = Callable[[Settings, Path, Path], object]


def _write(name: str, text: str) -> Change:
    return lambda settings, data, work: (data / name).write_text(text)


def _spoil(name: str) -> Change:
    def spoil(settings: Settings, data: Path, work: Path) -> None:
        for path in (data / name).parent.glob(Path(name).name):
            path.write_bytes(b"no image")

    return spoil


def _remove(name: str) -> Change:
    def remove(settings: Settings, data: Path, work: Path) -> None:
        for path in (data / name).parent.glob(Path(name).name):
            path.unlink()

    return remove


def _expert(content: bytes) -> Change:
    def change(settings: Settings, data: Path, work: Path) -> None:
        (data / "weights.safetensors").write_bytes(content)
        weights = str(data / "weights.safetensors")
        settings["model"]["experts"]["depth"] = dict(type="tiny_depth", weights=weights)

    return change


def _initial(content: bytes) -> Change:
    def change(settings: Settings, data: Path, work: Path) -> None:
        (data / "initial.safetensors").write_bytes(content)
        settings["model"]["init_from"] = str(data / "initial.safetensors")

    return change


def _only_last(**options: object) -> Change:
    """Change the model of the last stage that trains; those before it could run."""

    def change(settings: Settings, data: Path, work: Path) -> None:
        (data / "foreign.safetensors").write_bytes(FOREIGN)
        stage = next(s for s in settings["stages"] if s["name"] == "transfer")
        stage["model"] = {k: str(data / v) if k == "init_from" else v for k, v in options.items()}

    return change


def _export(settings: Settings, data: Path, work: Path) -> None:
    (work / "export").mkdir(parents=True)
    (work / "export/thesis.tex").touch()


def _report(**options: object) -> Change:
    def add(settings: Settings, data: Path, work: Path) -> None:
        settings["stages"].append(dict(type="ReportStage", name="report"))
        settings["report"] = options

    return add


def _stage(name: str, **options: object) -> Change:
    def change(settings: Settings, data: Path, work: Path) -> None:
        next(s for s in settings["stages"] if s["name"] == name).update(options)

    return change


def _runner(name: str, **options: object) -> Change:
    """Give a stage settings in mmengine's words."""
    return _stage(name, runner=options)


CASES: dict[str, Change] = {
    "val statements are no JSON": _write("annotations/statements_val.jsonl", "{"),
    "val statements are empty": _write("annotations/statements_val.jsonl", ""),
    "test captions are no COCO": _write("annotations/captions_test.json", "[]"),
    "test statements have a label .3": _write(
        "annotations/statements_test.jsonl",
        '{"image": "test_000.png", "caption": "a", "label": .3}',
    ),
    "test statements are missing": _remove("annotations/statements_test.jsonl"),
    "val images are missing": _remove("images/val_*.png"),
    "test images cannot be read": _spoil("images/test_*.png"),
    "unlabelled images cannot be read": _spoil("unlabelled/*.png"),
    "there are no unlabelled images": _remove("unlabelled/*.png"),
    "an LFS pointer as an expert's weights": _expert(POINTER),
    "another model's weights as an expert's": _expert(FOREIGN),
    "an LFS pointer as init_from": _initial(POINTER),
    "a foreign init_from": _initial(FOREIGN),
    "a foreign init_from of a later stage": _only_last(init_from="foreign.safetensors"),
    "a later stage trains what is not there": _stage("transfer", trains=["gate.no_such"]),
    "the export's folder holds something else": _export,
    "the export's folder is a stage's": _stage("merged", folder="transfer"),
    "report.num_maps='x'": _report(num_maps="x"),
    "report.no_such=1": _report(no_such=1),
    "generation.num_beams='x'": lambda s, d, w: s["model"].update(generation={"num_beams": "x"}),
    "the unlabelled sampler": lambda s, d, w: s["unlabelled_dataloader"]["sampler"].update(
        type="NoSampler"
    ),
    "the test sampler never ends": lambda s, d, w: s["test_dataloader"]["sampler"].update(
        type="InfiniteSampler"
    ),
    "a metric's option": lambda s, d, w: s["test_evaluator"][1].update(num_resample=3),
    "a budget of 5 of 2 experts": _stage("detach", budget=5),
    "a later stage trains nothing": _stage("transfer", trains=[]),
    "a later stage's hook of no name": _runner("merge", custom_hooks=[dict(type="No")]),
    "a metric that nothing measures": _stage("detach", metric="vqa/accuracy"),
    "a metric misspelt behind its prefix": _stage("detach", metric="vsr/acuracy"),
    "the score of the best, misspelt": _runner(
        "transfer",
        train_cfg=dict(val_interval=2),
        default_hooks=dict(checkpoint=dict(save_best="vsr/acuracy", rule="greater")),
    ),
    "an optimiser's argument": _runner(
        "merge", optim_wrapper=dict(optimizer=dict(type="SGD", momentun=0.9))
    ),
    "an optimiser's value": _runner(
        "merge", optim_wrapper=dict(optimizer=dict(type="SGD", momentum=-1.0))
    ),
    "an argument of clip_grad": _runner("merge", optim_wrapper=dict(clip_grad=dict(nrom=1.0))),
    "a scheduler's argument": _runner(
        "merge", param_scheduler=[dict(type="MultiStepLR", milestone=[2])]
    ),
    "a hook's argument": _runner("merge", custom_hooks=[dict(type="EMAHook", momentun=0.1)]),
    "a visualizer's backend": _runner(
        "merge", visualizer=dict(vis_backends=[dict(type="TensorboardVisBackend", proj="x")])
    ),
    "a loader that torch refuses": lambda s, d, w: s["unlabelled_dataloader"].update(
        prefetch_factor=2, num_workers=0
    ),
    "no metric at all": lambda s, d, w: s.update(test_evaluator=[]),
    "a ranking of no name": _stage("detach", rule="gates"),
    "a student of no kind": lambda s, d, w: s["merging"]["model"].update(student="all"),
}


def measure(folder: Path, num: int, seed: int) -> Result:
    result = Result("what only a later stage reads is wrong")
    settings = miniature(folder / "miniature")
    for number, (case, change) in enumerate(list(CASES.items())[:num]):
        data, work, changed = folder / f"data{number}", folder / f"work{number}", deepcopy(settings)
        shutil.copytree(settings["data_root"], data)
        changed["data_root"] = str(data)
        change(changed, data, work)
        count_told(result, case, changed, work)
    return result


if __name__ == "__main__":
    main(measure, parse_args(), len(CASES))
