"""The command line: quick to ask, clear when it refuses."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
        (["--cfg-options", "data_root=nowhere"], "The data root 'nowhere'"),
        (["--cfg-options", "model.experts.depth.type=tiny_dept"], "Did you mean"),
        (["--stage", "merg"], "No stage is called 'merg'. Did you mean 'merge'?"),
        (["--launcher", "pytorch"], "--launcher pytorch needs RANK"),
        (["--stage", "merge"], "There is no checkpoint at"),
        (["--amp"], "--amp needs an accelerator"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_2(
    options: list[str],
    message: str,
    settings: dict[str, Any],
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
):
    if "--amp" in options and sys.modules["torch"].cuda.is_available():
        pytest.skip("there is an accelerator here")
    config = write_config(settings)
    result = launch("tools/train.py", config, "--work-dir", tmp_path / "w", *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr


def test_the_traceback_is_there_for_those_who_ask(
    settings: dict[str, Any], write_config: Callable, launch: Callable, tmp_path: Path
):
    settings["data_root"] = "nowhere"
    config = write_config(settings)
    result = launch("tools/train.py", config, "--work-dir", tmp_path / "w", TOVE_TRACEBACK="1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
