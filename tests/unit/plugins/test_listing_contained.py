"""Nothing that a plugin says of its experts keeps `list` and `show` from telling the others."""

import json
from collections.abc import Callable

import pytest

from tove_plugins._cli import main

PLAIN = "@hookimpl\ndef tove_experts():\n    yield spec({name!r}, {more})"
WRONG_FIELDS = {
    "description": "description=None",
    "size": "weights=Weights('p', size_mb='big')",
    "licence": "weights=Weights('p', licence=None)",
    "tokens": "tiny={(0, 1): 2}",
}


@pytest.mark.parametrize("kind", WRONG_FIELDS)
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["show", "tiny_dino"]])
def test_a_plugin_with_a_wrong_field_is_in_error_and_the_others_are_told(
    install: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    kind: str,
) -> None:
    install("wrong-field", PLAIN.format(name="wrong", more=WRONG_FIELDS[kind]))
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "tiny_dino" in told
    if arguments == ["list"]:
        line = next(line for line in told.splitlines() if "wrong-field 1.0 [error]" in line)
        assert "Its specs are not usable" in line
    if arguments == ["list", "--json"]:
        records = {record["name"]: record for record in json.loads(told)["plugins"]}
        assert records["wrong_field"]["status"] == "error"


ODD_OPTIONS = """
import math
class Odd:
    def __repr__(self):
        raise RuntimeError("no repr")
    def __deepcopy__(self, memo):
        raise RuntimeError("no copy")
OPTIONS = {"m": {(0, 1): math}, "o": Odd(), "n": float("nan"), "s": {1}}
"""


def test_options_that_json_does_not_know_are_written_as_they_print(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("odd", ODD_OPTIONS + PLAIN.format(name="odd_one", more="options=OPTIONS"))
    assert main(["list", "--json", "odd_one"]) == 0
    listing = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    options = listing["experts"][0]["options"]
    assert list(options["m"]) == ["(0, 1)"]
    assert options["m"]["(0, 1)"].startswith("<module 'math'")
    assert (options["o"], options["n"], options["s"]) == ("<Odd>", "nan", "{1}")
    assert main(["show", "odd_one"]) == 0
    assert "o=<Odd>" in capsys.readouterr().out


def test_a_row_that_cannot_be_written_leaves_the_others(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    class_that_lies = "class Text(str):\n    def __str__(self): raise RuntimeError\n"
    more = "weights=Weights('p', licence=Text('MIT'))"
    install("lies", class_that_lies + PLAIN.format(name="lying", more=more))
    install("half", PLAIN.format(name="half", more=r"weights=Weights('p', licence='\\ud800')"))
    assert main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "not shown: RuntimeError" in rows["lying"]
    assert "\\ud800" in rows["half"]
    assert rows["tiny_dino"].endswith("active")


def test_an_expert_that_json_cannot_write_leaves_the_others(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("endless", PLAIN.format(name="tiny_x", more="options={'digits': 10**5000}"))
    assert main(["list", "--json", "tiny"]) == 0
    experts = {e["name"]: e for e in json.loads(capsys.readouterr().out)["experts"]}
    assert experts["tiny_x"]["not_shown"] == "ValueError"
    assert experts["tiny_dino"]["tokens"]["width"] == 64
