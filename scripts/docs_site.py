"""What the documentation site has beyond the pages of docs/: hooks of mkdocs, see mkdocs.yml.

The API reference is made of the public lists, `tove_plugins` and `tove.api`, read without importing
them. A page's links to files of the repository, and to folders, are text on the site, which has no
such pages; one to a file that is not there is a warning, and warnings fail the build.
"""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks.docs_site")


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - mkdocs' config
    """Add the page of the API reference."""
    page = "\n".join(_reference())
    files.append(File.generated(config, "reference.md", content=page))
    return files


def on_page_markdown(markdown: str, page: Any, **context: Any) -> str:  # noqa: ANN401
    """Turn links to what the site has no page of, files outside docs/ and folders, into text."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        target = (folder / found["target"]).resolve()
        stays = target.is_relative_to(ROOT / "docs") and not target.is_dir()
        if ":" in found["target"] or stays:
            return found[0]
        if not target.exists():
            _log.warning("%s links to %s, which is not there", page.file.src_uri, found["target"])
        return f"{found['text']} (`{target.relative_to(ROOT)}`)"

    return _LINK.sub(link, markdown)


def _reference() -> Iterator[str]:
    yield "# API reference\n"
    yield "## tove_plugins\n\nThe SDK that an expert's package imports.\n"
    for module, names in _imported(ROOT / "tove_plugins/__init__.py"):
        yield from (f"::: {module}.{name}\n" for name in names)
    yield "## tove.api\n\nWhat a method's package imports of the engine.\n"
    for module, names in _listed(ROOT / "core/tove/api.py"):
        yield from (f"::: {module}.{name}\n" for name in names)


def _imported(file: Path) -> Iterator[tuple[str, list[str]]]:
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]


def _listed(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Read `_NAMES`, modules with the names that are taken of them."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_NAMES":
            yield from ast.literal_eval(node.value).items()
