"""A stranger's method, from `new` to a wheel to runs beside ours; the core has never heard of it.

It is trained in two stages, killed in the second, resumed, reported and compared.
"""

import json
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

pytestmark = pytest.mark.slow

Stranger = Callable[..., subprocess.CompletedProcess[str]]
REPOSITORY = Path(__file__).parents[2]
STEPS = 40
SLOTS = ["depth", "dino"]


@pytest.fixture(scope="module")
def project(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that our wheel's `new --method` writes."""
    folder = tmp_path_factory.mktemp("project")
    written = stranger("-m", "tove_plugins", "new", "--method", "channel-sum", "--to", folder)
    assert written.returncode == 0, written.stderr
    return folder / "tove-channel-sum"


@pytest.fixture(scope="module")
def method_wheel(project: Path, build_wheel: Callable[[Path, Path], Path]) -> Path:
    return build_wheel(project, project / "dist")


@pytest.fixture(scope="module")
def user(stranger: Any, method_wheel: Path) -> Any:
    """The stranger's colleague, who has both wheels."""
    stranger.pip("install", "--no-index", "--no-deps", method_wheel)
    return stranger


@pytest.fixture(scope="module")
def settings_of_the_run(make_settings: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """ToVE, then the stranger's method: a projection first, then all of its own on top of that."""
    settings = make_settings()
    settings["schedule"].update(steps=4, checkpoint_interval=10)
    settings["report"] = dict(source="tune", num_images=4, num_maps=2, num_examples=2)
    kind = dict(type="ChannelSum", channel_gate=dict(start=-1.0))
    settings["stages"] = [
        dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
        dict(type="TrainStage", name="transfer", row="tove"),
        dict(type="TrainStage", name="align", model=kind, trains=["projector"]),
        dict(
            type="TrainStage",
            name="tune",
            row="channel sum",
            source="align",
            trains=["projector", "channel_gate", "language.adapters"],
            schedule=dict(steps=STEPS),
        ),
        dict(type="ReportStage", name="report"),
    ]
    return settings


def run(user: Any, folder: Path, work: str, *more: str) -> subprocess.CompletedProcess[str]:
    return user(*command(user, folder, work), *more)


def command(user: Any, folder: Path, work: str) -> list[object]:
    tool = user.site / "tove_plugins/.mim/tools/train.py"
    return [tool, folder / "mini.py", "--work-dir", folder / work]


@pytest.fixture(scope="module")
def run_folder(
    user: Any, settings_of_the_run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A whole run: `mini.py` and `work`."""
    folder = tmp_path_factory.mktemp("run")
    Config(settings_of_the_run).dump(folder / "mini.py")
    done = run(user, folder, "work")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def checkpoint(run_folder: Path, stage: str) -> dict[str, Any]:
    return torch.load(run_folder / "work" / stage / "model.pth", weights_only=True)


def curve(work: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / stage / "loss.jsonl").read_text().splitlines()]


def rows_of(work: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((work / "results.json").read_text())}


def test_the_wheel_holds_the_method_and_nothing_of_ours(method_wheel: Path):
    names = set(zipfile.ZipFile(method_wheel).namelist())
    assert {"tove_channel_sum/plugin.py", "tove_channel_sum/method.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "tove/", "tove_plugins"))]


def test_neither_our_wheel_nor_our_sources_know_its_name(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        texts = {n: archive.read(n) for n in archive.namelist() if n.endswith(".py")}
    assert not [name for name, text in texts.items() if b"ChannelSum" in text]


def test_the_package_s_own_tests_pass_as_they_were_written(user: Stranger, project: Path):
    tested = user("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout


def test_it_is_listed_shown_and_checked(user: Stranger):
    listing = json.loads(user("-m", "tove_plugins", "list", "--json").stdout)
    (method,) = listing["methods"]
    assert (method["name"], method["distribution"]) == ("channel_sum", "tove-channel-sum")
    assert (method["status"], method["types"]) == ("active", ["MODELS.ChannelSum"])
    assert "MODELS.ChannelSum" in user("-m", "tove_plugins", "show", "channel_sum").stdout
    checked = user("-m", "tove_plugins", "check", "channel_sum")
    assert checked.returncode == 0, checked.stdout
    assert "14 passed, 0 failed, 0 skipped" in checked.stdout


def test_the_second_stage_starts_from_the_first_and_trains_more(run_folder: Path):
    first, second = (checkpoint(run_folder, stage)["state_dict"] for stage in ("align", "tune"))
    assert first.keys() == second.keys()
    start = torch.full_like(first["channel_gate.scores"], -1.0)
    assert torch.equal(first["channel_gate.scores"], start)
    assert not torch.equal(second["channel_gate.scores"], start)
    adapters = [name for name in first if name.startswith("language.adapters")]
    assert adapters
    assert any(not torch.equal(first[name], second[name]) for name in adapters)
    rows = rows_of(run_folder / "work")
    assert (rows["align"]["steps"], rows["channel sum"]["steps"]) == (4, 4 + STEPS)


def test_its_experts_are_known_to_rows_cost_provenance_and_licences(run_folder: Path):
    row = rows_of(run_folder / "work")["channel sum"]
    assert (row["experts"], row["model"], row["role"]) == (SLOTS, "ChannelSum", "method")
    assert set(row["cost"]["experts"]) == set(SLOTS)
    assert all(part["flops"] > 0 for part in row["cost"]["experts"].values())
    meta = checkpoint(run_folder, "tune")["meta"]
    assert {slot: told["name"] for slot, told in meta["experts"].items()} == {
        "depth": "tiny_depth",
        "dino": "tiny_dino",
    }
    assert meta["method"]["tove-channel-sum"] == "0.1.0"
    assert meta["attached"] == SLOTS
    assert sorted(terms["slot"] for terms in meta["licences"]) == SLOTS


def test_the_report_has_its_section_and_its_experts(run_folder: Path):
    page = (run_folder / "work/report.html").read_text()
    assert "How far the gate opens" in page
    assert "channel sum" in page
    for slot in SLOTS:
        assert f"tiny_{slot}" in page


def test_it_stands_beside_tove_in_one_table(user: Stranger, run_folder: Path, tmp_path: Path):
    tool = user.site / "tove_plugins/.mim/tools/compare.py"
    done = user(tool, run_folder / "work", "--json", "table.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = {entry["row"]: entry for entry in json.loads((tmp_path / "table.json").read_text())}
    assert list(table) == ["plain_clip", "tove", "align", "channel sum"]
    own, rows = table["channel sum"], rows_of(run_folder / "work")
    assert (own["experts"], own["over"]) == (table["tove"]["experts"], "plain_clip")
    assert own["score"]["value"] == rows["channel sum"]["metrics"]["vsr/accuracy"]["value"]
    assert own["types"] == {"depth": "tiny_depth", "dino": "tiny_dino"}
    assert "expert depth" in own["parts"]
    assert "channel sum" in done.stdout


def test_killed_in_the_second_stage_it_resumes_to_the_same_losses(user: Any, run_folder: Path):
    broken = run_folder / "broken"
    arguments = [str(part) for part in (user.python, *command(user, run_folder, "broken"))]
    with (run_folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            arguments, cwd=user.home, env=user.environment, stdout=log, stderr=log
        )
        saved, losses = broken / "tune/iter_10.pth", broken / "tune/loss.jsonl"
        deadline = time.monotonic() + 240
        while not (saved.exists() and len(losses.read_text().splitlines()) > 12):
            assert process.poll() is None, (run_folder / "killed.log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(curve(broken, "tune")) < STEPS, "killed too late to test anything"

    done = run(user, run_folder, "broken", "--resume")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "align: finished earlier, kept" in done.stdout
    assert curve(broken, "tune") == curve(run_folder / "work", "tune")
    ours, theirs = rows_of(broken), rows_of(run_folder / "work")
    assert {name: row["metrics"] for name, row in ours.items()} == {
        name: row["metrics"] for name, row in theirs.items()
    }


def test_its_checkpoint_is_evaluated(user: Any, run_folder: Path, tmp_path: Path):
    tool, work = user.site / "tove_plugins/.mim/tools/test.py", run_folder / "work"
    done = user(tool, run_folder / "mini.py", work / "tune/model.pth", "--work-dir", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (row,) = json.loads((tmp_path / "test-test/rows.json").read_text())
    assert row["metrics"] == rows_of(work)["channel sum"]["metrics"]


# --- the package is gone; this test comes last, for it does not return ----------------------------


def test_without_the_package_a_config_that_names_it_is_refused_in_a_sentence(
    user: Any, run_folder: Path
):
    user.pip("uninstall", "-y", "tove-channel-sum")
    done = run(user, run_folder, "again")
    assert done.returncode == 2
    assert "stages.align.model.type is 'ChannelSum', which is unknown" in done.stderr
    assert "Traceback" not in done.stderr
