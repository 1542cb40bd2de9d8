"""`python -m tove_plugins check`."""

import os
from collections.abc import Callable

import pytest

from tove.testing import METHOD_CHECKS
from tove_plugins._cli import main
from tove_plugins.testing import all_checks

PLUGIN = """
@hookimpl
def tove_experts():
    yield spec("e", factory=__name__ + ":build")

def build(spec, weights):
    {body}
"""
RIGHT = "from torch import nn; return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2), Turn())"
FLIPPED = RIGHT.replace("Turn()", "Turn(flipped=True)")
TURN = """
    return None

class Turn:
    def __new__(cls, flipped=False):
        from torch import nn

        class Module(nn.Module):
            def forward(self, x):
                return (x.flip(2) if flipped else x).transpose(1, 2)

        return Module()
"""


def test_a_right_expert_passes_and_each_check_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tiny_depth", "--only", "spec_complete", "shape_and_grid"]) == 0
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert "tiny_depth of tove_plugins" in head
    assert first.split()[:3] == ["1/2", "spec_complete", "passed"]
    assert second.split()[:3] == ["2/2", "shape_and_grid", "passed"]
    assert "2 passed, 0 failed, 0 skipped" in last


@pytest.mark.parametrize("own", [None, "0"])
def test_bars_of_short_loads_stay_out_of_the_lines_unless_asked_for(
    own: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TQDM_DELAY", own or "")
    if own is None:
        monkeypatch.delenv("TQDM_DELAY")
    assert main(["check", "tiny_depth", "--only", "spec_complete"]) == 0
    assert os.environ["TQDM_DELAY"] == (own or "2")


def test_real_builds_with_the_trained_weights(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = PLUGIN.replace(':build"', ':build", weights=Weights("/no/such/file")')
    install("somebodys-expert", plugin.format(body=RIGHT) + TURN)
    assert main(["check", "e", "--only", "finite"]) == 0
    assert main(["check", "e", "--only", "finite", "--real"]) == 1
    assert "/no/such/file" in capsys.readouterr().out


def test_a_faulty_expert_gives_status_1_and_the_sentence(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("somebodys-expert", PLUGIN.format(body=FLIPPED) + TURN)
    assert main(["check", "e", "--only", "finite", "spatial_order"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[1:3]] == ["passed", "failed"]
    assert "turned by half" in lines[2]


def test_a_cause_that_fails_many_checks_is_told_once(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("somebodys-expert", PLUGIN.format(body="raise RuntimeError('no such layer')"))
    assert main(["check", "e", "--only", "no_grad", "finite", "deterministic"]) == 1
    out = capsys.readouterr().out
    assert out.count("no such layer") == 1
    assert out.count("same reason as above") == 2


def test_the_checks_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--list"]) == 0
    of_experts, _, of_methods = capsys.readouterr().out.partition("Checks of a method:\n")
    for told, checks in ((of_experts, all_checks()), (of_methods, METHOD_CHECKS.every())):
        lines = [line for line in told.splitlines() if line.startswith("  ") and line[2] != " "]
        assert [line.split()[0] for line in lines] == [check.name for check in checks]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny_dept"], "tiny_depth"),
        (["tiny_depth", "--only", "spatial"], "spatial_order"),
        (["tiny_depth", "--device", "abacus"], "--device abacus cannot be used here"),
        ([], "--list"),
    ],
)
def test_what_cannot_be_checked_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["check", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
