"""Fake installed plugins: real modules and metadata in a folder on sys.path."""

import itertools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

_numbers = itertools.count()

HEADER = """
from tove_plugins import ExpertSpec, ImageSpec, MethodSpec, TokenSpec, Weights, hookimpl

def spec(name, factory="torch.nn:Identity", **more):
    return ExpertSpec(name, "test", factory, TokenSpec(8, (2, 2)),
                      ImageSpec((16, 16), (0.5,) * 3, (0.5,) * 3), **more)

def method(name, *types, module="json", **more):
    return MethodSpec(name, module, types or (f"MODELS.{name.title()}",), **more)
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TOVE_BLOCK_PLUGINS", "TOVE_LOAD_PLUGINS", "TOVE_PLUGIN_TIMEOUT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "200")  # what is told is not to wrap differently elsewhere


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give a function that installs a plugin's code under a distribution, and names its module."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def add(
        distribution: str,
        code: str,
        *,
        plugin: str = "",
        version: str = "1.0",
        requires: tuple[str, ...] = (),
        group: str = "tove.experts",
    ) -> str:
        module = f"fake_plugin_{next(_numbers)}"
        (site / f"{module}.py").write_text(HEADER + textwrap.dedent(code))
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        requirements = "".join(f"Requires-Dist: {text}\n" for text in requires)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{requirements}"
        )
        name = plugin or distribution.replace("-", "_")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        # discover() remembers a catalog for a path: a new folder on it makes it look again.
        monkeypatch.syspath_prepend(str(tmp_path / f"nothing{module}"))
        return module

    return add
