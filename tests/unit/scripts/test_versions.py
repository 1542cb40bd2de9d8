"""The script that tries the versions of pyproject: what it pins, which combinations it tells."""

import importlib
import os
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

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


@pytest.mark.parametrize("shim", [False, True], ids=["no file", "a shim that finds none"])
def test_a_python_that_is_not_here_is_told(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    shim: bool,
):
    if shim:
        (tmp_path / "python3.99").write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / "python3.99").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    absent = tool.Combination("3.99, newest", "python3.99", (), ())
    monkeypatch.setattr(tool, "COMBINATIONS", (absent,))
    monkeypatch.setattr(sys, "argv", ["versions.py"])
    assert tool.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "| 3.99, newest | python3.99 is not here | | |"
    )


def test_a_call_cut_short_is_gone_on_with(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
):
    installed: list[str] = []
    ran: list[str] = []

    def install(combination: Any, folder: Path) -> None:
        installed.append(combination.name)
        folder.mkdir(exist_ok=True)
        if len(installed) == 1:
            raise KeyboardInterrupt

    def run_part(combination: Any, folder: Path, part: str, processes: str) -> dict[str, Any]:
        ran.append(part)
        if len(ran) == 2:
            raise KeyboardInterrupt
        failed = ["FAILED test_x"] * (part == "c")
        return dict(part=part, counts=dict(passed=3, error=1), failed=failed, minutes=2.0)

    here = tool.Combination("3.11, newest", "python3", (), ())
    monkeypatch.setattr(tool, "COMBINATIONS", (here,))
    monkeypatch.setattr(tool, "parts", lambda: ["a", "b", "c"])
    monkeypatch.setattr(tool, "versions", lambda *_: {"torch": "2"})
    monkeypatch.setattr(tool, "install", install)
    monkeypatch.setattr(tool, "run_part", run_part)
    monkeypatch.setattr(sys, "argv", ["versions.py", "--keep", str(tmp_path)])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tool.main()
    assert tool.main() == 0
    assert len(installed) == 2
    assert ran == ["a", "b", "b", "c"]
    told = capsys.readouterr()
    row = "| 3.11, newest | torch 2 | 3 of 3 parts: 9 passed, 0 skipped, 0 failed, 3 error | 6 |"
    assert told.out.splitlines()[-1] == row
    assert told.err == "FAILED test_x\n"


def test_the_parts_are_all_tests_of_the_two_tiers(tool: ModuleType):
    files = {*ROOT.glob("tests/unit/**/test_*.py"), *ROOT.glob("tests/conformance/**/test_*.py")}
    parts = [ROOT / part for part in tool.parts()]
    assert len(set(parts)) == len(parts)
    for file in files:
        assert sum(file == part or part in file.parents for part in parts) == 1, file
