"""Progress of evaluations: a bar on a terminal, now and then a line elsewhere, else silence."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tove.engine import progress
from tove.engine.progress import ProgressHook


class Clock:
    """Every batch takes ten seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def evaluate(hook: ProgressHook, clock: Clock, batches: int, of: str = "test") -> None:
    runner: Any = SimpleNamespace(**{f"{of}_dataloader": range(batches)})
    getattr(hook, f"before_{of}")(runner)
    for index in range(batches):
        clock.now += 10
        getattr(hook, f"after_{of}_iter")(runner, index, None, None)
    getattr(hook, f"after_{of}")(runner)


@pytest.mark.parametrize("of", ["test", "val"])
def test_a_pipe_gets_a_line_every_half_minute_with_the_time_left(of: str):
    out, clock = io.StringIO(), Clock()
    hook = ProgressHook(console=Console(file=out, width=140), clock=clock)
    evaluate(hook, clock, 9, of)
    what = {"test": "evaluation", "val": "validation"}[of]
    assert out.getvalue().splitlines() == [
        f"  {what}: 3 of 9 batches, 0.1/s, 1 min 0 s left",
        f"  {what}: 6 of 9 batches, 0.1/s, 30 s left",
    ]


def test_a_short_pass_leaves_nothing():
    out, clock = io.StringIO(), Clock()
    hook = ProgressHook(console=Console(file=out), clock=clock)
    evaluate(hook, clock, 2)
    evaluate(hook, clock, 2)
    assert out.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_when_it_is_done():
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=80)
    hook = ProgressHook(console=console, clock=clock)
    evaluate(hook, clock, 4)
    assert "4/4" in out.getvalue()
    assert " of 4 batches" not in out.getvalue()
    evaluate(hook, clock, 3)  # and another one begins anew
    assert "3/3" in out.getvalue()


@pytest.mark.parametrize("main", [True, False])
def test_of_several_processes_one_tells(
    main: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(progress, "is_main_process", lambda: main)
    clock = Clock()
    evaluate(ProgressHook(clock=clock), clock, 9)
    assert ("3 of 9 batches" in capsys.readouterr().out) is main
