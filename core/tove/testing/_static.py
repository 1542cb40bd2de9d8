"""Checks of the spec and of the package's source: no model is built."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from mmengine.registry import Registry

from tove import registry
from tove.engine.method_packages import registered_type
from tove.testing._checks import METHOD_CHECKS
from tove.testing._subject import MethodSubject
from tove_plugins import import_method
from tove_plugins.testing import fail, require_light_listing

__all__: list[str] = []

PUBLIC = ("api", "testing")
UNNAMED = ("SECTIONS",)  # no config names a section of the report


@METHOD_CHECKS.register("static")
def check_spec_told(subject: MethodSubject) -> None:
    """Whoever composes a run reads in the listing what the method is, and on what terms.

    The spec's `summary` and `licence` must be told.

    Mend: Say in one line what the method does, and name the licence of its code as SPDX does.
    """
    for field in ("summary", "licence"):
        if getattr(subject.spec, field).strip().lower() in ("", "unknown"):
            fail(f"MethodSpec.{field} is not told; the spec must say it.")


@METHOD_CHECKS.register("static")
def check_listing_is_light(subject: MethodSubject) -> None:
    """Listing runs at every start, of runs without the method too, so it must cost no framework.

    The plugin is listed in a fresh interpreter; afterwards neither torch nor the method's module
    may have been imported.

    Mend: Import torch and the engine in the method's module only, and keep that module out of the
    plugin's and the package's `__init__`.
    """
    module = subject.spec.module
    require_light_listing(subject.entry.plugin, subject.name, module, "in the method's module only")


@METHOD_CHECKS.register("static")
def check_registers_its_types(subject: MethodSubject) -> None:
    """A config finds the package by the types that its spec declares.

    The method's module is imported; each declared type must be registered by the package then, and
    whatever else a config can name of the package must be declared.

    Mend: Decorate each class with `@REGISTRY.register_module()`, import its file from the
    method's module, and name all of them in `MethodSpec.types`.
    """
    import_method(subject.entry)
    package = subject.spec.module.partition(".")[0]
    for text in subject.spec.types:
        found = registered_type(text)
        if found is None:
            fail(f"The spec declares {text}, but importing {subject.spec.module} registers none.")
        if found.__module__.partition(".")[0] != package:
            fail(f"{text} is of {found.__module__}, not of the package {package}.")
    undeclared = sorted(set(_registered_by(package)) - set(subject.spec.types))
    if undeclared:
        fail(
            f"The package registers {', '.join(undeclared)} as well, which the spec does not "
            "declare: a config that names nothing else of it would not find them."
        )


def _registered_by(package: str) -> Iterator[str]:
    for kind, found in vars(registry).items():
        if isinstance(found, Registry) and kind not in UNNAMED:
            for name, what in found.module_dict.items():
                if getattr(what, "__module__", "").partition(".")[0] == package:
                    yield f"{kind}.{name}"


@METHOD_CHECKS.register("static")
def check_public_names_only(subject: MethodSubject) -> None:
    """What is not on the public list may be moved by any release, and the package would break.

    Every file of the package is read; of the engine it may import `tove.api` and `tove.testing`.

    Mend: Import from `tove.api`; ask for what is missing there, or keep a copy in the package.
    """
    found = importlib.util.find_spec(subject.spec.module.partition(".")[0])
    roots = list(found.submodule_search_locations or []) if found else []
    files = sorted(file for root in roots for file in Path(root).rglob("*.py"))
    wrong = [f"{file.name}:{line} imports {name}" for file in files for line, name in _own(file)]
    if wrong:
        fail(f"{'; '.join(wrong)}: not on the public list, see docs/api.md.")


def _own(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every import of the engine past its public list."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
            if node.module == "tove":
                names = [f"tove.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, _, inside = name.partition(".")
            if root == "tove" and inside.partition(".")[0] not in PUBLIC:
                yield node.lineno, name
