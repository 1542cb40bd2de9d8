"""The wheel in a clean environment, used through mim as a stranger would."""

import itertools
import json
import re
import shlex
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

pytest.importorskip("mim", reason="mim is an extra: pip install -e '.[mim]'")
pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
DEMO = "configs/tiny/tove-tiny_scenes.py"
MIM = ("-c", "from mim.cli import cli; cli()")


Stranger = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def smoke(make_settings: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Settings of a run of seconds."""
    settings = make_settings()
    settings["schedule"].update(steps=3, warmup=1)
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    return settings


def test_the_wheel_holds_code_tools_configs_and_weights(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "tove_plugins/__init__.py",
        "tove/methods/tove/model.py",
        "tove/data/image_dataset.py",
        "tove_experts/plugin.py",
        "tove_plugins/.mim/tools/train.py",
        "tove_plugins/.mim/configs/tiny/tove-tiny_scenes.py",
        "tove_plugins/.mim/configs/_base_/runtime.py",
        "tove_plugins/.mim/model-index.yml",
        "tove/.mim/tools/test.py",
    ):
        assert name in names
    shipped = [REPOSITORY / "core/tove/assets", REPOSITORY / "expert_plugins/tove_experts/weights"]
    for folder in shipped:
        for file in folder.rglob("*"):
            if file.is_file() and file.suffix in (".safetensors", ".json"):
                inside = file.relative_to(REPOSITORY).as_posix()
                inside = inside.removeprefix("core/").removeprefix("expert_plugins/")
                assert inside in names
    assert not [name for name in names if name.startswith(("core/", "tests/", "expert_plugins/"))]


def test_the_installed_packages_are_the_wheel_s(stranger: Stranger):
    code = "import tove, tove_plugins, tove_experts; print(tove.__file__, tove_plugins.__file__)"
    result = stranger("-c", code)
    assert result.returncode == 0, result.stderr
    assert str(REPOSITORY) not in result.stdout


def test_mim_trains_and_tests(smoke: dict[str, Any], stranger: Stranger, tmp_path: Path):
    Config(smoke).dump(tmp_path / "smoke.py")
    work = tmp_path / "work"
    train = stranger(
        *(*MIM, "train", "tove_plugins", tmp_path / "smoke.py", "--work-dir", work),
        *("--cfg-options", "schedule.steps=4"),
    )
    assert train.returncode == 0, train.stdout[-2000:] + train.stderr[-2000:]
    row = json.loads((work / "results.json").read_text())[0]
    assert (row["name"], row["steps"]) == ("tove", 4)

    test = stranger(
        *(*MIM, "test", "tove_plugins", tmp_path / "smoke.py", "--work-dir", tmp_path / "test"),
        *("--checkpoint", work / "transfer" / "model.pth"),
    )
    assert test.returncode == 0, test.stdout[-2000:] + test.stderr[-2000:]
    tested = json.loads((tmp_path / "test" / "test-test" / "rows.json").read_text())[0]
    assert tested["metrics"] == row["metrics"]


@pytest.mark.heavy
def test_the_commands_of_the_page_on_comparing_runs(
    smoke: dict[str, Any], stranger: Stranger, tmp_path: Path
):
    Config(smoke).dump(tmp_path / "grid.py")
    page = (REPOSITORY / "docs/comparing-runs.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)
    commands = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    grid, *more = [shlex.split(command.replace(DEMO, "grid.py")) for command in commands]

    def run(words: list[str]) -> str:
        found = [sorted(map(str, tmp_path.glob(w))) if "*" in w else [w] for w in words[1:]]
        done = stranger(*MIM, *itertools.chain(*found), cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run(grid)
    swapped = [path.parent.name for path in sorted(tmp_path.rglob("results.json"))]
    key = "swap_search_model.experts.depth.type"
    assert swapped == [f"{key}_tiny_depth", f"{key}_tiny_detection"]
    told, *_ = [run(words) for words in more]
    assert "depth=tiny_depth" in told
    table = json.loads((tmp_path / "comparison.json").read_text())
    entries = {entry["setting"]: entry for entry in table}
    assert [(name, entry["seeds"]) for name, entry in sorted(entries.items())] == [
        ("depth=tiny_depth", [0]),
        ("depth=tiny_detection", [0, 1]),
    ]
    for setting, entry in entries.items():
        assert entry["types"]["depth"] == setting.removeprefix("depth=")
        assert entry["parts"]["expert depth"]["forward_ms"] > 0
    for picture in ("comparison.png", "captions.png"):
        assert (tmp_path / picture).stat().st_size > 10_000


def test_mim_finds_the_demo_s_config_by_name(stranger: Stranger):
    result = stranger(
        *(*MIM, "train", "tove_plugins", "tove-tiny_scenes.py"),
        *("--cfg-options", "data_root=no_such_folder"),
    )
    assert result.returncode != 0
    assert "tove-tiny_scenes.py" in result.stdout
