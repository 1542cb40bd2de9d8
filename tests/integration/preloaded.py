"""Runs scripts in forks of a process that has imported the heavy libraries once.

An import of torch, mmengine and transformers takes seconds, a script of `tools` is started some
forty times. What runs in a fork is the same: its own arguments, environment, folder and output; its
exit functions are run, and a signal ends it.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Preloaded"]


class Preloaded:
    """The process that forks, seen from a test.

    Args:
        environment: of the process, and so of what it imports.
        root: the folder to start in.
    """

    def __init__(self, environment: dict[str, str], root: Path) -> None:
        self.environment, self.root = environment, root
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, arguments: list[str], environment: dict[str, str], scratch: Path, timeout: int
    ) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENTS...`, a script's path first; give what came of it.

        Args:
            arguments: of python.
            environment: of the script.
            scratch: a folder to keep its output in.
            timeout: seconds until it is killed.
        """
        out, err = scratch / "stdout", scratch / "stderr"
        asked = dict(argv=arguments, env=environment, out=str(out), err=str(err))
        server = self._running()
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        late.start()
        status = int(server.stdout.readline())
        late.cancel()
        return subprocess.CompletedProcess(arguments, status, out.read_text(), err.read_text())

    def _running(self) -> Any:
        if self._server is None:
            command = [sys.executable, __file__]
            pipe = subprocess.PIPE
            self._server = subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdin=pipe, stdout=pipe, text=True
            )
        return self._server

    def close(self) -> None:
        """End the process."""
        if self._server is not None:
            self._server.communicate()


def serve(requests: TextIO, answers: TextIO) -> None:
    """Fork for each request; answer with the fork's number, then with its exit status."""
    import tove.cli  # noqa: F401

    gc.collect()
    gc.freeze()
    for line in requests:
        pid = os.fork()
        if pid == 0:
            _become(**json.loads(line))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(argv: list[str], env: dict[str, str], out: str, err: str) -> None:
    """Be `python ARGV...` from here on; never return."""
    for number, name in ((0, os.devnull), (1, out), (2, err)):
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, mode), number)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False, buffering=1)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = argv
    sys.path[0] = str(Path(argv[0]).resolve().parent)
    added = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[1:1] = [path for path in added if path not in sys.path]
    status: Any = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.stdin, os.fdopen(os.dup(1), "w"))
