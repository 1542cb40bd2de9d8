"""The public list: what a third party's method imports stays there, and the page tells it."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_origin

import pytest

from tove import api
from tove_plugins import METHOD_API_VERSION

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/api.md"


def test_the_page_lists_what_there_is_and_no_more() -> None:
    told = re.findall(r"^\| `(\w+)` \|", PAGE.read_text().partition("## Versions")[0], re.M)
    assert sorted(told) == sorted(api.__all__)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_is_there_with_a_docstring(name: str) -> None:
    found = getattr(api, name)
    assert found.__doc__ or get_origin(found) is Literal
    assert name in dir(api)


def test_a_type_checker_is_told_the_same_modules() -> None:
    tree = ast.parse(Path(api.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert told == api._MODULES


def test_importing_it_imports_no_framework() -> None:
    path = [entry for entry in sys.path if entry]
    code = (
        f"import json, sys; sys.path[:0] = {path!r}\n"
        "import tove.api\n"
        "print(json.dumps(sorted({'torch', 'numpy', 'mmengine'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_name_that_is_not_there_is_told_with_those_that_are_near() -> None:
    with pytest.raises(AttributeError, match=r"no name 'Fuse'. Did you mean 'Fused'.*docs/api\.md"):
        api.Fuse  # noqa: B018
    with pytest.raises(ImportError):
        from tove.api import NotThere  # type: ignore[attr-defined] # noqa: F401


def test_the_version_is_that_of_the_specs() -> None:
    assert api.API_VERSION == METHOD_API_VERSION
    assert f"now {METHOD_API_VERSION}." in PAGE.read_text()
