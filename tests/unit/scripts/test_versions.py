"""The script that tries the versions of pyproject: what it pins, which combinations it tells."""

import importlib
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("versions")


def test_lower_bounds_are_pins_and_extras_are_followed(tool: ModuleType):
    project = {
        "name": "mine",
        "dependencies": ["a>=1.2,<2", "b[c]>=3.0.1", "unbound"],
        "optional-dependencies": {"all": ["mine[some]", "d>=4"], "some": ["a<1.9", "e!=2,>=1"]},
    }
    assert tool.lower_bounds(project, ()) == ["a==1.2", "b==3.0.1"]
    assert tool.lower_bounds(project, ("all",)) == ["a==1.2", "b==3.0.1", "d==4", "e==1"]


def test_each_dependency_of_the_project_has_one_lower_bound_that_it_allows(tool: ModuleType):
    extras = ("dev", "experts")
    pins = [Requirement(pin) for pin in tool.lower_bounds(PROJECT, extras)]
    bounds = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    assert len(bounds) == len(pins)
    optional = PROJECT["optional-dependencies"]
    lists = (PROJECT["dependencies"], *(optional[name] for name in (*extras, "mm", "maps")))
    asked = [Requirement(text) for texts in lists for text in texts]
    others = [requirement for requirement in asked if requirement.name != PROJECT["name"]]
    assert set(bounds) == {requirement.name for requirement in others}
    for requirement in others:
        assert requirement.specifier.contains(bounds[requirement.name]), requirement


def test_combinations_are_within_what_the_project_allows(tool: ModuleType):
    python = SpecifierSet(PROJECT["requires-python"])
    for combination in tool.COMBINATIONS:
        assert python.contains(combination.python.removeprefix("python"))
        assert set(combination.extras) <= set(PROJECT["optional-dependencies"])


def test_a_python_that_is_not_here_is_told(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    absent = tool.Combination("3.99, newest", "python3.99", (), ())
    monkeypatch.setattr(tool, "COMBINATIONS", (absent,))
    monkeypatch.setattr(sys, "argv", ["versions.py"])
    assert tool.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "| 3.99, newest | python3.99 is not here | | |"
    )
