"""The command line: quick to ask, clear when it refuses."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tool", ["train", "test"])
def test_asking_for_help_imports_nothing_heavy(tool: str, launch: Callable):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{tool}.py', '-h']\n"
        f"try: runpy.run_path('tools/{tool}.py', run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules, 'mmengine' in sys.modules)"
    )
    result = launch("-c", code)
    assert "--cfg-options" in result.stdout
    assert result.stdout.splitlines()[-1] == "False False"


def test_a_checkpoint_without_a_stage_is_refused(capsys: pytest.CaptureFixture):
    tool = runpy.run_path(str(REPOSITORY / "tools" / "train.py"))
    with pytest.raises(SystemExit):
        tool["parse_args"](["x.py", "--checkpoint", "y.pth"])
    assert "--checkpoint needs --stage" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", ["--local_rank", "--local-rank"])
def test_both_spellings_of_the_local_rank_are_taken(spelling: str):
    for tool, extra in (("train", []), ("test", ["x.pth"])):
        parse = runpy.run_path(str(REPOSITORY / "tools" / f"{tool}.py"))["parse_args"]
        assert parse(["x.py", *extra, f"{spelling}=1"]).local_rank == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cfg-options", "model.experts.depth.type=tiny_dept"], "Did you mean"),
        (["--cfg-options", "schedule.step=3"], "schedule.step is unknown. Did you mean 'steps'?"),
        (["--stage", "merg"], "No stage is called 'merg'. Did you mean 'merge' or 'merged'?"),
        (["--launcher", "pytorch"], "--launcher pytorch needs RANK"),
        (["--stage", "merge"], "There is no checkpoint at"),
        (["--amp"], "--amp in float16 needs an accelerator"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_2(
    options: list[str],
    message: str,
    settings: dict[str, Any],
    write_config: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
):
    from tove.cli import train

    if "--amp" in options and torch.cuda.is_available():
        pytest.skip("there is an accelerator here")
    parse = runpy.run_path(str(REPOSITORY / "tools" / "train.py"))["parse_args"]
    arguments = [str(write_config(settings)), "--work-dir", str(tmp_path / "work"), *options]
    assert train(parse(arguments)) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert not [line for line in error if "Traceback" in line]
    assert not (tmp_path / "work" / "results.json").exists()


def test_a_mistake_shows_no_traceback_unless_asked_for(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["data_root"] = "nowhere"
    config = write_config(settings)
    command = ("tools/train.py", config, "--work-dir", tmp_path / "work")
    plain, asked = launch(*command), launch(*command, TOVE_TRACEBACK="1")
    assert plain.returncode == asked.returncode == 2
    assert plain.stderr.startswith("error: The data root 'nowhere'")
    assert "Traceback" in asked.stderr
