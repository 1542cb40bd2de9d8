"""Who may import whom, and what the core may not say."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tove_plugins import discover

ROOT = Path(__file__).resolve().parents[2]
OURS = {"tove", "tove_plugins", "tove_experts"}
FOLDERS = {
    "tove_plugins": ROOT / "tove_plugins",
    "tove": ROOT / "core" / "tove",
    "tove_experts": ROOT / "expert_plugins" / "tove_experts",
}
MAY_IMPORT = {"tove_plugins": set(), "tove_experts": {"tove_plugins"}, "tove": {"tove_plugins"}}
# Imported by experts and encoder factories, inside the function that builds.
BUILD_TIME = {"mmdet", "mmpretrain", "mmcv", "open_clip", "timm"}


# The engine's rooms from the top floor down; what a module imports lies below it, or in its room.
FLOORS = (
    {"cli", "testing", "api"},
    {"reproduce"},
    {"methods"},
    {"report"},
    {"engine"},
    {"backbones", "data"},
    {"evaluation", "modules"},
    {"config"},
    {"locks"},
    {"atomic_io"},
    {"protocols", "registry", "errors", "command_line"},
)


def sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(FOLDERS[package].rglob("*.py")):
        yield file, ast.parse(file.read_text(), str(file))


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield str(first.value).partition(".")[0]


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Give the statements that run on import, type-checking blocks aside."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_go_one_way(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file, tree in sources(package)
        for name in imported(tree)
        if name in OURS - allowed
    ]
    assert not wrong


@pytest.mark.parametrize("package", FOLDERS)
def test_expert_libraries_are_imported_at_build_time(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name} at its top"
        for file, tree in sources(package)
        for statement in top_level(tree)
        for name in imported(statement)
        if name in BUILD_TIME
    ]
    assert not wrong


def test_the_sdk_imports_torch_in_the_conformance_kit_only() -> None:
    wrong = [
        str(file.relative_to(ROOT))
        for file, tree in sources("tove_plugins")
        if "testing" not in file.parts
        for statement in top_level(tree)
        if {"torch", "numpy", "mmengine"} & set(imported(statement))
    ]
    assert not wrong


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT / "core").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules of the engine that each of them imports, at its top or in a function."""
    trees = {module_name(file): tree for file, tree in sources("tove")}
    found: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                used = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} has a relative import"
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & trees.keys()
                used = inside or {str(node.module)}
            else:
                continue
            found[name] |= used & trees.keys() - {name}
    return found


def test_the_engine_imports_downward(imports: dict[str, set[str]]) -> None:
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {name: name.split(".")[1] for name in imports if name.count(".")}
    assert set(rooms.values()) == set(floor), "a room has no floor, or a floor no room"
    wrong = [
        f"{name} imports {used}"
        for name, room in rooms.items()
        for used in imports[name] & rooms.keys()
        if rooms[used] != room and floor[rooms[used]] <= floor[room]
    ]
    assert not wrong


def test_no_modules_import_each_other(imports: dict[str, set[str]]) -> None:
    # A package's face hands names on; a module that takes one from it waits for all of them.
    waiting = {name: set(used) for name, used in imports.items()}
    while free := [name for name, used in waiting.items() if not used & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"circles run through {sorted(waiting)}"


def test_the_core_names_no_expert() -> None:
    # An expert for any model of a library has the library's name, which the core may say.
    names = set(discover().experts) - BUILD_TIME
    assert names
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno} says {node.value!r}"
        for file, tree in sources("tove")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if "tove_experts" in node.value or any(name in node.value for name in names)
    ]
    assert not wrong
