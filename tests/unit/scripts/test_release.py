"""A release gathers every fragment once, newest release first, and sets the version."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts/release.py"


@pytest.fixture
def gather() -> Callable[[Path, str, str], int]:
    return runpy.run_path(str(SCRIPT))["gather"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "changelog.d").mkdir()
    (tmp_path / "changelog.d/README.md").write_text("how")
    (tmp_path / "changelog.d/a.added.md").write_text("A new\nthing.\n")
    (tmp_path / "changelog.d/b.fixed.md").write_text("Mended.\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\nHow.\n")
    project = '[project]\nversion = "0.1.0"\n[tool.x]\nversion = "9"\n'
    (tmp_path / "pyproject.toml").write_text(project)
    return tmp_path


def test_two_releases(tree: Path, gather: Callable[[Path, str, str], int]):
    assert gather(tree, "0.2.0", "2026-01-31") == 2
    assert [file.name for file in (tree / "changelog.d").iterdir()] == ["README.md"]
    project = (tree / "pyproject.toml").read_text()
    assert 'version = "0.2.0"\n[tool.x]\nversion = "9"' in project
    (tree / "changelog.d/c.changed.md").write_text("Other.")
    gather(tree, "0.3.0rc1", "2026-02-28")
    assert (tree / "CHANGELOG.md").read_text() == (
        "# Changelog\n\nHow.\n\n## 0.3.0rc1 (2026-02-28)\n\n### Changed\n\n- Other.\n\n"
        "## 0.2.0 (2026-01-31)\n\n### Added\n\n- A new thing.\n\n### Fixed\n\n- Mended.\n"
    )


@pytest.mark.parametrize("version", ["v0.2.0", "two", ""])
def test_what_is_no_version(tree: Path, gather: Callable[[Path, str, str], int], version: str):
    with pytest.raises(ValueError, match="cannot be released"):
        gather(tree, version, "2026-01-31")


def test_a_fragment_of_no_kind_is_named(tree: Path, gather: Callable[[Path, str, str], int]):
    (tree / "changelog.d/c.improved.md").write_text("Better.")
    with pytest.raises(ValueError, match=r"c\.improved\.md"):
        gather(tree, "0.2.0", "2026-01-31")
    assert (tree / "changelog.d/a.added.md").exists()
