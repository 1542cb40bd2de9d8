"""How a command ends: by a sentence where a user can mend it, by a traceback where nobody can."""

import argparse
import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tove.cli.answers import caption
from tove.cli.ending import command
from tove.data import TooManyCorruptImages
from tove.errors import ConfigError

FROM_A_WORKER = (
    "Caught TooManyCorruptImages in DataLoader worker process 0.\nOriginal Traceback (most "
    "recent call last):\n  File x\ntove.data.loading.TooManyCorruptImages: 3 images of "
    "'data' could not be read.\n"
)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "work/vis_data")


def end(error: BaseException) -> int:
    @command
    def fail(args: argparse.Namespace) -> None:
        raise error

    return fail(argparse.Namespace())


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError("Set `seed`."), 2, "error: Set `seed`.\n"),
        (TooManyCorruptImages(FROM_A_WORKER), 2, "error: 3 images of 'data' could not be read.\n"),
        (FULL, 2, "error: work/vis_data: No space left on device.\n"),
        (KeyboardInterrupt(), 130, "interrupted; --resume goes on where a training had saved\n"),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture
):
    assert end(error) == status
    assert capsys.readouterr().err == told


def test_ctrl_c_that_a_library_took_for_an_error_of_its_own(capsys: pytest.CaptureFixture):
    """As mmengine's pretty_text does, which writes the config into every checkpoint."""

    @command
    def fail(args: argparse.Namespace) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException:
            raise SyntaxError("Failed to format the config file")  # noqa: B904

    assert fail(argparse.Namespace()) == 130
    assert capsys.readouterr().err.startswith("interrupted; ")


def test_a_fault_is_a_traceback_and_asks_for_a_report(capsys: pytest.CaptureFixture):
    assert end(ZeroDivisionError("division by zero")) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert told.endswith("please report them.\n")


def test_the_traceback_of_a_sentence_comes_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setenv("TOVE_TRACEBACK", "1")
    assert end(ConfigError("Set `seed`.")) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path):
    (tmp_path / "many.py").write_text(
        "from tove.cli.ending import command\n"
        "@command\ndef many(args):\n    [print('line', i) for i in range(100_000)]\n"
        "import sys; sys.exit(many(None))"
    )
    command = f"{sys.executable} {tmp_path / 'many.py'} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["line 0", "141"]
    assert "Traceback" not in done.stderr


def in_the_c_locale(code: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    plain = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, *options, "-c", code, "Bäume"]
    return subprocess.run(command, env=plain, capture_output=True, encoding="utf-8", check=False)


def test_a_command_speaks_utf_8_in_any_locale():
    code = "from tove.command_line import prepare_process as p; p(); import sys; print(sys.argv[1])"
    assert in_the_c_locale(code).stdout == "Bäume\n"
    asked = in_the_c_locale(code.replace("argv[1]", "flags.utf8_mode"), "-X", "utf8=0")
    assert asked.stdout == "0\n"  # as was asked for, and not anew without end


def test_files_are_utf_8_in_any_locale(tmp_path: Path):
    file = tmp_path / "report.html"
    done = in_the_c_locale(
        "from pathlib import Path; from tove.atomic_io import write_text; "
        f"write_text(Path({str(file)!r}), 'Gr\\xf6\\xdfe \\xb1')"
    )
    assert done.returncode == 0, done.stderr
    assert file.read_text("utf-8") == "Größe ±"


def test_what_is_imported_is_kept_from_garbage_collection_while_a_command_runs() -> None:
    found = []

    @command
    def look(args: argparse.Namespace) -> None:
        found.append((gc.isenabled(), gc.get_freeze_count() > 10_000))

    gc.disable()  # as `prepare_process` leaves it
    assert look(argparse.Namespace()) == 0
    assert found == [(True, True)]
    assert gc.get_freeze_count() == 0


def test_an_image_that_is_none_is_said_before_a_model_is_loaded(tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no image")
    args = dict(images=[str(tmp_path / "text.jpg")], work_dir=tmp_path, prompt=None)
    assert caption(argparse.Namespace(**args)) == 2
    assert "text.jpg cannot be read as an image" in capsys.readouterr().err
