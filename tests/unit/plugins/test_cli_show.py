"""`python -m tove_plugins show`."""

import io
import sys
from collections.abc import Callable

import pytest

from tove_plugins._cli import main

FACTORY = '''
class Factory:
    """A factory.

    Args:
        spec: What the plugin says.
        width: Of its layers,
            in channels.
        other: Anything.

    Raises:
        ValueError: Never.
    """

    def __init__(self, spec, weights=None, width: "int | None" = 3, *, other=None):
        pass
'''
PLUGIN = """
@hookimpl
def tove_experts():
    yield spec(
        "e",
        factory=__name__ + ":Factory",
        weights=Weights("hub:org/name", size_mb=12.0, licence="MIT", trained_on="ten photographs"),
        requires=("somelib>=2",),
        options={"width": 7},
        tiny={"width": 1},
        description="Sees things.",
    )
"""


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        assert main(["show", *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_card_tells_all_that_the_spec_does(
    install: Callable[..., str], show: Callable[..., str]
) -> None:
    install("somebodys-expert", PLUGIN + FACTORY, version="3.1")
    card = show("e")
    for told in (
        "Sees things.",
        "16x16",
        "2x2 tokens of width 8, features",
        "hub:org/name (12 MB)",
        "MIT, no commercial use",
        "ten photographs",
        "width=7",
        "width=1",
        "somelib>=2",
        "somebodys-expert 3.1",
        "active",
        'dict(type="e")',
        "--cfg-options model.experts.test.type=e",
    ):
        assert told in card


def test_the_line_for_the_command_line_is_one_that_a_run_takes(show: Callable[..., str]) -> None:
    from tove.backbones.experts.hub import check_slots

    option = show("tiny_dino").split("--cfg-options ")[1].split()[0]
    _, _, slot, _ = option.partition("=")[0].split(".")
    check_slots([slot])


def test_options_are_the_factory_s_with_the_spec_s_defaults(
    install: Callable[..., str], show: Callable[..., str]
) -> None:
    install("somebodys-expert", PLUGIN + FACTORY)
    told = show("e", "--options").partition("Options of")[2].splitlines()[1:]
    width, meaning, *rest = map(str.strip, told)
    assert (width, meaning) == ("width: int | None = 7", "Of its layers, in channels.")
    assert rest == ["other = None", "Anything."]


def test_no_factory_is_imported_for_a_card(
    install: Callable[..., str], show: Callable[..., str]
) -> None:
    install("somebodys-expert", PLUGIN.replace("__name__", "'there.is.no.such.module'"))
    assert "there.is.no.such.module:Factory" in show("e")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "tiny_dept"], ["No expert is called 'tiny_dept'", "tiny_depth"]),
        (["check", "ToVE"], ["No expert is called 'ToVE'", "such a method; there are: none."]),
        (["show", "e", "--options"], ["there is no module 'there'", "Install the package"]),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_sentence(
    install: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: list[str],
) -> None:
    install("somebodys-expert", PLUGIN.replace("__name__", "'there.is.no.such.module'"))
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert all(word in told for word in words)


def test_what_a_locale_cannot_print_is_told_otherwise(
    install: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("ascii-dist", PLUGIN.replace("Sees things.", "Sees B\u00e4ume."))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["show", "e"]) == 0
    assert b"Sees B\\xe4ume." in out.buffer.getvalue()
