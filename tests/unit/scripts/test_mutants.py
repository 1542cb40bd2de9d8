"""The tool that puts defects into files: which tests it takes, what it draws, what it tells."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts/mutants.py"
SOURCE = "def double(x):\n    return x * 2\n"
TEST = """
from tove.modules.{name} import double

def test_double():
    assert double({x}) == {y}
"""


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))  # for the processes that it starts, too
    return importlib.import_module("mutants")


@pytest.fixture
def tree(tmp_path: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool on a tree of two files: one test that tells a sum from a product, one not."""
    for name, x, y in (("seen", 3, 6), ("unseen", 2, 4)):
        source = tmp_path / f"core/tove/modules/{name}.py"
        test = tmp_path / f"tests/unit/modules/test_{name}.py"
        for path, text in ((source, SOURCE), (test, TEST.format(name=name, x=x, y=y))):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    pages = tmp_path / tool.DEFAULTS.partition("::")[0]
    pages.parent.mkdir()
    pages.write_text("def test_told_defaults_are_the_code_s():\n    pass\n")
    (tmp_path / "core/tove/modules/__init__.py").write_text("")
    (tmp_path / "core/tove/__init__.py").write_text("")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = core\naddopts = --import-mode=importlib"
    )
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    tool.PROCESSES.set_forkserver_preload(["pytest"])
    return tool


def with_sums(tool: ModuleType, *names: str) -> list[Any]:
    files = [f"core/tove/modules/{name}.py" for name in names]
    code = SOURCE.replace("*", "+")
    return [tool.Mutant(file, 2, code, tool.tests_of(file)) for file in files]


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        # By name, alone or behind its folder's; by what a test imports, from a package too.
        ("core/tove/backbones/clip/export.py", "tests/unit/backbones/test_clip_export.py"),
        ("core/tove/modules/resample.py", "tests/unit/methods/test_map_stem.py"),
        ("core/tove/evaluation/caption.py", "tests/unit/evaluation/test_metrics.py"),
        ("tove_plugins/_resources.py", "tests/unit/plugins/test_resources.py"),
        # By what a test of a module that imports it imports.
        ("core/tove/engine/provenance.py", "tests/unit/engine/test_expert_swap.py"),
        # None is its own: the folder's too.
        ("core/tove/backbones/language/adapters.py", "tests/unit/backbones/language"),
        ("tove_plugins/testing/_built.py", "tests/conformance"),
    ],
)
def test_a_file_s_tests_are_found(tool: ModuleType, file: str, tests: str):
    assert tests in tool.tests_of(file)


def test_a_file_outside_of_the_sources_is_refused(tool: ModuleType):
    with pytest.raises(SystemExit, match=r"docs/index\.md lies in none of core/tove/"):
        tool.tests_of("docs/index.md")


def test_the_closest_come_first_and_the_pages_defaults_last(tool: ModuleType):
    tests = tool.tests_of("core/tove/engine/provenance.py")
    assert tests[0] == "tests/unit/engine/test_checkpoint.py"  # imports it itself
    assert tests.index("tests/unit/engine/test_expert_swap.py") > 0
    assert tests[-1] == tool.DEFAULTS


def test_every_source_file_has_tests(tool: ModuleType):
    root = tool.ROOT
    for file in tool.python_files([str(root / "core/tove"), str(root / "tove_plugins")]):
        assert all((root / test.partition("::")[0]).exists() for test in tool.tests_of(file)), file


@pytest.mark.slow
def test_a_defect_that_no_test_notices_survives_and_is_told(
    tree: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
):
    mutants = with_sums(tree, "seen", "unseen")
    survivors, broken = tree.survivors_of(mutants, 1)
    assert not broken
    tree.report(mutants, survivors, 7)
    told = capsys.readouterr().out
    assert [mutant.file for mutant in survivors] == ["core/tove/modules/unseen.py"]
    assert "1/2   in all, 50% (seed 7)" in told
    assert re.search(r"caught +core/tove/modules/seen\.py:2 by .*test_seen\.py::test_double", told)
    assert re.search(r"-    return x \* 2\n\+    return x \+ 2", told)
    assert (tmp_path / "core/tove/modules/unseen.py").read_text() == SOURCE


@pytest.mark.slow
def test_tests_that_fail_anyway_tell_nothing(tree: ModuleType, tmp_path: Path):
    test = tmp_path / "tests/unit/modules/test_seen.py"
    test.write_text(TEST.format(name="seen", x=3, y=7))
    _, broken = tree.survivors_of(with_sums(tree, "seen"), 1)
    assert broken.endswith("test_seen.py::test_double")


@pytest.mark.slow
def test_a_defect_that_goes_round_for_ever_has_been_noticed(
    tree: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    code = "def double(x):\n    while True:\n        pass\n"
    file = "core/tove/modules/seen.py"
    monkeypatch.setattr(tree, "SECONDS", 1)
    survivors, _ = tree.survivors_of([tree.Mutant(file, 2, code, tree.tests_of(file))], 1)
    assert survivors == []


def test_what_is_drawn_depends_on_the_seed_alone(tree: ModuleType):
    pytest.importorskip("mutmut", reason="the extra `mutation` is not installed")
    draw: Callable = tree.sample
    files = [f"core/tove/modules/{name}.py" for name in ("seen", "unseen")]
    drawn = [[mutant.diff() for mutant in draw(files, 3, seed)] for seed in (0, 0, *range(1, 6))]
    assert drawn[0] == drawn[1]
    assert len({tuple(diffs) for diffs in drawn}) > 1
    assert {len(diffs) for diffs in drawn} == {3}
    assert len(set(drawn[0])) == 3


def test_messages_annotations_and_guards_of_zip_are_left_alone(tool: ModuleType):
    pytest.importorskip("mutmut", reason="the extra `mutation` is not installed")
    code = (
        "from a import b\n"
        "def f(x: int | None, y) -> dict[str, int | None]:\n"
        "    if x is None:\n"
        "        raise ValueError('x' + str(1))\n"
        "    return dict(zip(x, y, strict=True))\n"
    )
    assert {place.line for place in tool.places(code)} == {3}
