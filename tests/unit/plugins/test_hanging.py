"""A plugin that hangs where no signal reaches it, or ends the process, is named."""

import subprocess
import sys
from collections.abc import Callable

import pytest

ENDLESS = {
    # One call of C code that holds the interpreter for ever; it does not even hear a signal.
    "in_c": "import collections, itertools\ncollections.deque(itertools.count(), maxlen=0)",
    # Nothing of Python's can end a lock that is never freed, in a thread that hears no signal.
    "in_a_thread": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
}
DISCOVERY = {
    "in_c": "from tove_plugins import discover; discover()",
    "in_a_thread": (
        "import threading; from tove_plugins import discover; "
        "threading.Thread(target=discover).start()"
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_hang_that_cannot_be_ended_is_named(
    install: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    install("hanging-dist", ENDLESS[kind], plugin="hanging", version="2.0")
    monkeypatch.setenv("TOVE_PLUGIN_TIMEOUT", "0.2")
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    process = subprocess.Popen(
        [sys.executable, "-c", DISCOVERY[kind]], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        told = ""
        while "TOVE_BLOCK_PLUGINS" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
        assert "plugin 'hanging' of hanging-dist 2.0 hangs or crashes" in told
        assert "TOVE_BLOCK_PLUGINS=hanging" in told
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


FATAL = {
    "segfault": "import ctypes\nctypes.string_at(0)",
    "abort": "import os\nos.abort()",
}


def listing(monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess:
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    command = [sys.executable, "-m", "tove_plugins", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", FATAL)
def test_a_crash_is_named(
    install: Callable[..., str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    install("crashing-dist", FATAL[kind], plugin="crashing", version="2.0")
    done = listing(monkeypatch)
    assert done.returncode < 0
    assert "plugin 'crashing' of crashing-dist 2.0 hangs or crashes" in done.stderr
    monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "crashing")
    assert "tiny_dino" in listing(monkeypatch).stdout


def test_a_sudden_exit_is_told_and_the_others_are_listed(
    install: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that the plugin forks ends by the same call, and may.
    install(
        "exiting-dist",
        "import os\nchild = os.fork()\nif not child:\n    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\nos._exit(3)",
        version="2.0",
    )
    done = listing(monkeypatch)
    assert done.returncode == 0
    assert "tiny_dino" in done.stdout
    line = next(line for line in done.stdout.splitlines() if "exiting-dist 2.0 [error]" in line)
    assert "It called os._exit(3) while it was discovered." in line
