"""Measure the tree: code lines by room, the share of guards, the longest functions.

    python scripts/structure.py [--ref COMMIT]

A code line is one that is neither empty nor a comment nor part of a docstring. A guard is an `if`
without `else` whose body ends in `raise`, or an `except` whose body does.
"""

import argparse
import ast
import subprocess
import tarfile
import tempfile
from collections import Counter
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("core/tove", "tove_plugins", "expert_plugins/tove_experts")
Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(tree: ast.Module, source: str) -> set[int]:
    """Return the numbers of the lines that are code."""
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, Scope) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    numbered = enumerate(source.splitlines(), 1)
    code = {i for i, line in numbered if line.strip() and not line.lstrip().startswith("#")}
    return code - docstrings


def guard_lines(tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that refuse something."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler | ast.If) or getattr(node, "orelse", None):
            continue
        if isinstance(node.body[-1], ast.Raise):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def measure(root: Path) -> None:
    """Print the table of a tree."""
    functions: list[tuple[int, str]] = []
    print("| package | code lines | guards |\n|---|---|---|")
    rooms: Counter[str] = Counter()
    for package in PACKAGES:
        total = guards = 0
        for file in sorted((root / package).rglob("*.py")):
            source = file.read_text("utf-8")
            tree = ast.parse(source)
            code = code_lines(tree, source)
            total += len(code)
            guards += len(guard_lines(tree) & code)
            place = file.relative_to(root / package)
            rooms[f"{package}/{place.parts[0]}"] += len(code)
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    body = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
                    functions.append((len(body & code), f"{package}/{place}: {node.name}"))
        print(f"| {package} | {total:,} | {guards / max(total, 1):.1%} |")
    print("\n| room | code lines |\n|---|---|")
    for room, lines in rooms.most_common(24):
        print(f"| {room} | {lines:,} |")
    print("\n| longest functions | code lines |\n|---|---|")
    for lines, name in sorted(functions, reverse=True)[:5]:
        print(f"| {name} | {lines} |")


def main() -> None:
    """Measure this tree, or that of a commit."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--ref", help="a commit; the default is the work tree")
    ref = parser.parse_args().ref
    if ref is None:
        measure(ROOT)
        return
    archive = subprocess.run(
        ["git", "archive", ref, *PACKAGES], cwd=ROOT, capture_output=True, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        measure(Path(folder))


if __name__ == "__main__":
    main()
