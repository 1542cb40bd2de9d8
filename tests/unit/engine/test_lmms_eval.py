"""How lmms-eval is called, and its results as rows; `lmms_eval_results.json` is of a real run."""

import json
import os
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from tove.cli import lmms_eval
from tove.engine import lmms_eval as bridge
from tove.engine.rows import write_rows
from tove.errors import ConfigError
from tove.report.compare.runs import read_run

RESULTS = Path(__file__).with_name("lmms_eval_results.json")
# Stands for lmms-eval: notes how it was called, and leaves the results that a real run left.
STAND_IN = f"""
import json, os, pathlib, shutil, sys
pathlib.Path("called.json").write_text(json.dumps(sys.argv[1:]))
if "broken" in sys.argv[sys.argv.index("--tasks") + 1]:
    sys.exit(3)
folder = pathlib.Path(sys.argv[sys.argv.index("--output_path") + 1]) / "export__export-llava"
folder.mkdir(parents=True, exist_ok=True)
if "silent" not in sys.argv[sys.argv.index("--tasks") + 1]:
    shutil.copy({str(RESULTS)!r}, folder / f"{{len(os.listdir(folder))}}_results.json")
"""
ROW = dict(name="export", role="plain", experts=[], metrics={}, seed=3, stage="export")
ROW |= dict(training_images=12, steps=32, flops=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llava folder in a run's work folder."""
    made = tmp_path / "work/export/export-llava"
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps({"model_type": "llava_next"}))
    stages = [dict(type="ExportStage", name="export", source="tune")]
    Config(dict(model=dict(type="PlainCLIP"), stages=stages)).dump(tmp_path / "work/config.py")
    write_rows(tmp_path / "work/results.json", [ROW | {"name": "other", "stage": "tune"}, ROW])
    return made


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment whose lmms-eval is the stand-in; its Python is this one."""
    site = tmp_path / "env/site"
    (site / "lmms_eval-0.7.3.dist-info").mkdir(parents=True)
    (site / "lmms_eval-0.7.3.dist-info/METADATA").write_text("Name: lmms_eval\nVersion: 0.7.3\n")
    (site / "lmms_eval.py").write_text(STAND_IN)
    python = tmp_path / "env/bin/python"
    python.parent.mkdir()
    start = f'PYTHONPATH={site} exec {sys.executable} "$@"'
    python.write_text(f'#!/bin/sh\n[ -z "$PYTHONPATH" ] || exit 9\n{start}\n')
    python.chmod(0o755)
    return tmp_path / "env"


def called(folder: Path, environment: Path, *tasks: str, **options: object) -> int:
    import runpy

    tool = Path(__file__).parents[3] / "tools/lmms_eval.py"
    words = [str(folder), "--env", str(environment), "--device", "cpu", "--tasks", *tasks]
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return lmms_eval(runpy.run_path(str(tool))["parse_args"](words))


def test_scores_are_metrics_with_intervals_and_numbers():
    found = bridge.read_scores(json.loads(RESULTS.read_text()))
    assert found.keys() == {"lmms_eval/mats/accuracy"}
    assert found["lmms_eval/mats/accuracy"] == pytest.approx(
        {"value": 0.5, "low": 0.5 - 1.96 * 0.5 / 5**0.5, "high": 0.5 + 1.96 * 0.5 / 5**0.5, "n": 6}
    )


def test_filters_of_answers_and_groups_keep_their_names_and_what_is_no_number_is_left_out():
    scores = {"alias": "g", "acc,none": 0.25, "acc_stderr,none": "N/A", "acc,strict": 1, " ": " "}
    found = bridge.read_scores({"results": {"g": scores}, "n-samples": {}})
    assert found == {"lmms_eval/g/acc": {"value": 0.25}, "lmms_eval/g/acc,strict": {"value": 1}}


def test_a_folder_s_row_is_its_run_s_and_gathers_tasks(
    folder: Path, environment: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    assert called(folder, environment, "mats", "pope", limit=7) == 0
    out = folder.with_name("export-llava-lmms_eval")
    arguments = json.loads((out / "called.json").read_text())
    assert arguments[:4] == ["--model", "llava_hf", "--model_args", arguments[3]]
    assert arguments[3] == f"pretrained={folder},device_map=cpu"
    assert arguments[arguments.index("--tasks") + 1] == "mats,pope"
    assert arguments[-2:] == ["--limit", "7"]
    assert "0.500 [0.06, 0.94]" in capsys.readouterr().out
    run = read_run(out)  # as `compare` reads it
    assert run.cfg["model"] == {"type": "PlainCLIP"}
    (row,) = run.rows
    assert (row["name"], row["seed"], row["flops"]) == ("export", 3, 100)
    assert row["measured_by"] == "lmms_eval 0.7.3"

    rows = json.loads((out / "results.json").read_text())
    rows[0]["metrics"]["lmms_eval/gqa/accuracy"] = {"value": 0.75}
    write_rows(out / "results.json", rows)
    assert called(folder, environment, "mats") == 0
    assert len(read_run(out).rows[0]["metrics"]) == 2
    (folder / "model.safetensors").touch()  # another model now
    os.utime(folder / "model.safetensors", (2e9, 2e9))
    assert called(folder, environment, "mats") == 0
    assert len(read_run(out).rows[0]["metrics"]) == 1


def test_a_folder_of_no_run_has_scores_alone(folder: Path, environment: Path, tmp_path: Path):
    other = folder.rename(tmp_path / "llava-1.5-7b-hf")
    assert called(other, environment, "mats", out=tmp_path / "out") == 0
    run = read_run(tmp_path / "out")
    assert run.rows[0]["name"] == "llava-1.5-7b-hf"
    assert run.cfg == {"model": {"pretrained": str(other)}}


@pytest.mark.parametrize(
    ("task", "said"), [("broken", r"exit status 3"), ("silent", "left no results")]
)
def test_what_went_wrong_is_said(
    task: str, said: str, folder: Path, environment: Path, capsys: pytest.CaptureFixture
):
    assert called(folder, environment, task) == 2
    assert said in capsys.readouterr().err
    assert called(environment, environment, task) == 2
    assert "no Llava folder" in capsys.readouterr().err


def test_another_version_is_refused(environment: Path):
    metadata = environment / "site/lmms_eval-0.7.3.dist-info/METADATA"
    metadata.write_text("Name: lmms_eval\nVersion: 0.6.0\n")
    with pytest.raises(ConfigError, match=r"has lmms-eval 0.6.0, .*'lmms_eval.*==0.7.3'"):
        bridge.prepared(environment)
