"""A grid of runs: killed, gone on with, one that fails; what has finished is not run again."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import REPOSITORY, tool_environment

pytestmark = pytest.mark.slow

CLAIM = """
question = "Does it help?"
config = "{config}"
metrics = ["vsr/accuracy"]
over = "plain"
settings = dict(schedule=dict(steps=2, warmup=0))
cells = dict(
    plain=dict(stages=[dict(type="TrainStage", name="plain", model=dict(type="PlainCLIP"))]),
    ours=dict(stages=[dict(type="TrainStage", name="ours")]),
)
tests = [dict(says="ours is above plain", difference=("ours", "plain"), metric="vsr/accuracy")]
"""
BROKEN = (
    CLAIM
    + """
cells["broken"] = dict(
    stages=[dict(type="TrainStage", name="broken")],
    custom_hooks=[dict(type="EMAHook", nothing=1)],  # looked at as a run begins
)
"""
)


@pytest.fixture
def arguments(settings: dict[str, Any], write_config: Callable, tmp_path: Path) -> list[str]:
    claim = tmp_path / "helps.py"
    claim.write_text(BROKEN.format(config=write_config(settings)))
    folders = ["--work-dir", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    return ["--claim", str(claim), "--seeds", "1", "--jobs", "1", *folders]


def reproduce(arguments: list[str]) -> int:
    from tove.cli import reproduce

    tool = runpy.run_path(str(REPOSITORY / "tools/reproduce.py"))
    status: int = reproduce(tool["parse_args"](arguments))
    return status


def wait_for_a_record(folder: Path) -> None:
    until = time.monotonic() + 600
    while not list(folder.glob("plain-*.json")):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_grid_goes_on_where_it_was_killed(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    command = [sys.executable, str(REPOSITORY / "tools/reproduce.py"), *arguments]
    process = subprocess.Popen(
        command, env=tool_environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    wait_for_a_record(tmp_path / "results/cells")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (log,) = (tmp_path / "work/cells").glob("plain-*/log.txt")
    run_once = log.stat().st_mtime_ns

    assert reproduce(arguments) == 2
    said = capsys.readouterr()
    assert "1 of 3 cells failed, the first of them broken (seed 0): " in said.err
    assert "custom_hooks.0 cannot be built" in said.err
    assert "What has finished is kept" in said.err
    assert "helps: no page, 1 cells have not finished" in said.out
    assert log.stat().st_mtime_ns == run_once

    claim = Path(arguments[1])
    claim.write_text(claim.read_text().partition('cells["broken"]')[0])
    for folder in (tmp_path / "work").iterdir():  # the records are enough
        folder.rename(folder.with_name(f"{folder.name}.gone"))
    assert reproduce(arguments) == 0
    assert "2 cells, 2 of them finished" in capsys.readouterr().out
    told = json.loads((tmp_path / "results/helps.json").read_text())
    assert told["answer"] == "undecided"  # of one seed
    assert set(told["scores"]) == {"plain", "ours"}
    record = json.loads(next((tmp_path / "results/cells").glob("ours-*.json")).read_text())
    assert record["rows"][0]["steps"] == 2
    assert len(record["rows"][0]["scores"]["vsr/accuracy"]) == 8
    assert str(tmp_path) not in json.dumps({k: v for k, v in record.items() if k != "over"})
