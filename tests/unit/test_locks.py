"""One writer at a time: whoever comes second is told, and a dead one's lock is taken over."""

import errno
import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tove.errors import ConfigError
from tove.locks import locked


def forked(work) -> int:
    """Do something in a process of its own; return its id."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = work() or 0
        except SystemExit as error:
            code = error.code
        finally:
            os._exit(code)
    return pid


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "work" / ".lock"


def test_the_second_is_told_who_writes_and_the_first_leaves_nothing(lock: Path):
    with locked(lock, "The folder"):
        told = rf"The folder is being written by process {os.getpid()} on .* since 20.*; wait for"
        with pytest.raises(ConfigError, match=told), locked(lock, "The folder"):
            pass
        assert [path.name for path in lock.parent.iterdir()] == [".lock"]
    assert not list(lock.parent.iterdir())
    with locked(lock, "The folder"):
        pass


def test_what_a_process_left_that_was_killed_while_it_took_the_lock_goes(lock: Path):
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def take() -> None:
        os.link = die
        with locked(lock, "The folder"):
            pass

    pid = forked(take)
    assert code_of(pid) == -signal.SIGKILL
    assert [path.name for path in lock.parent.iterdir()] == [f".lock.{socket.gethostname()}.{pid}"]
    others = lock.with_name(f".lock.elsewhere.{pid}")
    others.touch()
    with locked(lock, "The folder"):
        assert sorted(lock.parent.iterdir()) == sorted([lock, others])


def test_an_error_gives_the_lock_back(lock: Path):
    with pytest.raises(ZeroDivisionError), locked(lock, "The folder"):
        1 / 0  # noqa: B018
    assert not lock.exists()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_the_lock_of_an_ended_process(lock: Path, sign: int):
    def hold() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with locked(lock, "The folder"):
            time.sleep(60)

    pid = forked(hold)
    until(lock)
    os.kill(pid, sign)
    assert code_of(pid) == (128 + sign if sign == signal.SIGTERM else -sign)
    assert lock.exists() == (sign == signal.SIGKILL)
    with locked(lock, "The folder"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not list(lock.parent.iterdir())


def test_a_process_that_the_holder_forks_neither_gives_it_back_nor_hears_of_it(lock: Path):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def stay() -> None:
        lock.with_name("running").touch()
        time.sleep(60)

    with locked(lock, "The folder"):
        child = forked(stay)
        until(lock.with_name("running"))  # Python forgets signals that come while it forks
        os.kill(child, signal.SIGTERM)
        assert code_of(child) == -signal.SIGTERM

        def leave() -> None:
            raise SystemExit(0)

        assert code_of(forked(leave)) == 0
        assert lock.exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("host", "mend"), [("elsewhere", r"delete .*\.lock if that process is gone"), ("", "end it")]
)
def test_a_lock_that_may_be_held_is_not_taken(lock: Path, host: str, mend: str):
    lock.parent.mkdir()
    stat = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    holder = dict(pid=1, host=host or socket.gethostname(), since="2026-01-01", born=stat[19])
    lock.write_text(json.dumps(holder))
    with pytest.raises(ConfigError, match=mend), locked(lock, "The folder"):
        pass
    lock.write_text("no lock of ours")
    with pytest.raises(ConfigError, match="written by somebody"), locked(lock, "The folder"):
        pass


def test_a_number_that_another_process_has_by_now_is_no_holder(lock: Path):
    lock.parent.mkdir()
    holder = dict(pid=1, host=socket.gethostname(), since="2026-01-01", born="123")
    lock.write_text(json.dumps(holder))
    with locked(lock, "The folder"):
        pass


def test_of_many_that_find_a_dead_lock_one_at_a_time_has_it(lock: Path, tmp_path: Path):
    lock.parent.mkdir()
    dead = forked(lambda: 0)
    assert code_of(dead) == 0
    holder = dict(pid=dead, host=socket.gethostname(), since="2026-01-01", born="1")
    lock.write_text(json.dumps(holder))

    def take() -> int:
        try:
            with locked(lock, "The folder"):
                inside = tmp_path / "inside"
                inside.mkdir()  # fails where two are inside
                time.sleep(0.05)
                inside.rmdir()
        except ConfigError:
            return 2
        return 0

    codes = [code_of(pid) for pid in [forked(take) for _ in range(12)]]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    assert not list(lock.parent.iterdir())


def test_a_file_system_without_links(lock: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with (
        locked(lock, "The folder"),
        pytest.raises(ConfigError, match="is being written by process"),
        locked(lock, "The folder"),
    ):
        pass
    assert not list(lock.parent.iterdir())
