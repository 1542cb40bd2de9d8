"""A plugin that hangs where no signal reaches it is named on stderr, with what leaves it out."""

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
        assert "plugin 'hanging' of hanging-dist 2.0 hangs" in told
        assert "TOVE_BLOCK_PLUGINS=hanging" in told
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
