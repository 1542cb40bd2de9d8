"""A stranger's expert, from `new` to a wheel to a run without it, in an environment of its own."""

import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

pytestmark = pytest.mark.slow

Stranger = Callable[..., subprocess.CompletedProcess[str]]
EDGES = ("--cfg-options", "model.experts.edges.type=edges")


@pytest.fixture(scope="module")
def project(stranger: Stranger, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that our wheel's `new` writes."""
    folder = tmp_path_factory.mktemp("project")
    written = stranger("-m", "tove_plugins", "new", "edges", "--to", folder)
    assert written.returncode == 0, written.stderr
    return folder / "tove-edges"


@pytest.fixture(scope="module")
def plugin_wheel(project: Path, build_wheel: Callable[[Path, Path], Path]) -> Path:
    return build_wheel(project, project / "dist")


@pytest.fixture(scope="module")
def user(stranger: Any, plugin_wheel: Path) -> Any:
    """The stranger's colleague, who has both wheels."""
    stranger.pip("install", "--no-index", "--no-deps", plugin_wheel)
    return stranger


@pytest.fixture(scope="module")
def run_folder(
    user: Any,
    make_settings: Callable[[], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A short run with the expert, detached from it at the end: `mini.py` and `work`."""
    settings = make_settings()
    settings["schedule"].update(steps=3, warmup=1)
    settings["stages"] = [
        dict(type="TrainStage", name="transfer", row="tove"),
        dict(type="DetachStage", name="detach", source="transfer"),
        dict(
            type="TrainStage",
            name="distil",
            model=dict(type="MoVEKD", preset="fixed", mole=dict(num_experts=2, rank=2)),
        ),
    ]
    folder = tmp_path_factory.mktemp("run")
    Config(settings).dump(folder / "mini.py")
    train = user.site / "tove_plugins/.mim/tools/train.py"
    done = user(train, folder / "mini.py", "--work-dir", folder / "work", *EDGES)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_the_wheel_holds_the_plugin_and_its_weights(plugin_wheel: Path):
    names = set(zipfile.ZipFile(plugin_wheel).namelist())
    assert {"tove_edges/plugin.py", "tove_edges/weights/edges.safetensors"} <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "tove_plugins"))]


def test_the_package_s_own_tests_pass_as_they_were_written(user: Stranger, project: Path):
    tested = user("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout
    assert "README.md is still the template's: rewrite it" in tested.stdout


def test_its_tests_tell_whether_the_readme_was_rewritten(user: Stranger, project: Path):
    ask = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "readme")
    readme = project / "README.md"
    written = readme.read_text()
    try:
        for text, told in (("`edges` sees edges.", "1 passed"), ("Nothing of it.", "1 failed")):
            readme.write_text(text)
            assert told in user(*ask, cwd=project).stdout
    finally:
        readme.write_text(written)


def listed_experts(user: Stranger) -> dict[str, dict[str, Any]]:
    listing = json.loads(user("-m", "tove_plugins", "list", "--json").stdout)
    return {expert["name"]: expert for expert in listing["experts"]}


def test_it_is_listed_and_shown(user: Stranger):
    edges = listed_experts(user)["edges"]
    assert (edges["distribution"], edges["status"]) == ("tove-edges", "active")
    shown = user("-m", "tove_plugins", "show", "edges", "--options")
    assert "spacing: int = 1" in shown.stdout
    assert "tove-edges 0.1.0" in shown.stdout


def test_it_is_checked(user: Stranger):
    checked = user("-m", "tove_plugins", "check", "edges")
    assert checked.returncode == 0, checked.stdout
    skipped = re.findall(r"^ *\d+/\d+ (\w+) +skipped ", checked.stdout, re.M)
    assert skipped == ["library_normalisation"]  # it wraps no library


def mim_run(user: Stranger, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mim", reason="mim is an extra: pip install -e '.[mim]'")
    command = ("-c", "from mim.cli import cli; cli()", "run", "tove_plugins", *arguments)
    return user(*command, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "edges"), "tove-edges 0.1.0"),
        (("show", "edges"), "8x8 tokens of width 16"),
        (("check", "edges", "--only", "spec_complete"), "1 passed"),
        (("new", "other"), "tove-other"),
    ],
)
def test_mim_runs_the_same_commands(
    user: Stranger, tmp_path: Path, arguments: tuple[str, ...], told: str
):
    done = mim_run(user, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert told in done.stdout


def test_a_run_learns_with_it_by_one_option(run_folder: Path):
    (row,) = json.loads((run_folder / "work/transfer/rows.json").read_text())
    assert row["experts"] == ["depth", "dino", "edges"]


def test_it_teaches_a_student_by_the_same_option(run_folder: Path):
    first = json.loads((run_folder / "work/distil/loss.jsonl").read_text().splitlines()[0])
    assert {"variance/depth", "variance/dino", "variance/edges"} <= first.keys()
    assert first["loss_kd"] > 0


def test_mim_compares_the_run(user: Stranger, run_folder: Path, tmp_path: Path):
    done = mim_run(user, "compare", run_folder / "work", "--json", "table.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tove" in done.stdout
    assert (tmp_path / "table.json").is_file()


# --- the package is gone; these tests come last, for it does not return ---------------------------


@pytest.fixture(scope="module")
def without_it(user: Any, run_folder: Path) -> Any:
    """The colleague, who has a run with the expert and no longer the expert."""
    user.pip("uninstall", "-y", "tove-edges")
    return user


def evaluate(
    user: Any, run_folder: Path, checkpoint: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    test = user.site / "tove_plugins/.mim/tools/test.py"
    work = run_folder / "work"
    return user(test, run_folder / "mini.py", work / checkpoint, "--work-dir", folder, *EDGES)


def test_what_it_was_detached_from_needs_it_no_more(
    without_it: Any, run_folder: Path, tmp_path: Path
):
    detached = json.loads((run_folder / "work/detach/rows.json").read_text())
    row = next(row for row in detached if "edges" not in row["experts"])
    assert "edges" not in listed_experts(without_it)

    slim = f"detach/slim_{len(row['experts'])}.pth"
    done = evaluate(without_it, run_folder, slim, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (again,) = json.loads((tmp_path / "test-test/rows.json").read_text())
    assert again["experts"] == row["experts"]
    assert again["metrics"] == row["metrics"]


def test_whom_it_has_taught_needs_it_no_more(without_it: Any, run_folder: Path, tmp_path: Path):
    done = evaluate(without_it, run_folder, "distil/model.pth", tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (again,) = json.loads((tmp_path / "test-test/rows.json").read_text())
    (row,) = json.loads((run_folder / "work/distil/rows.json").read_text())
    assert again["metrics"] == row["metrics"]


def test_what_still_has_it_asks_for_it(without_it: Any, run_folder: Path, tmp_path: Path):
    done = evaluate(without_it, run_folder, "transfer/model.pth", tmp_path)
    assert done.returncode == 2
    assert "error: No expert is called 'edges'" in done.stderr
    assert "was trained with it: pip install tove-edges==0.1.0" in done.stderr
    assert "Traceback" not in done.stderr
