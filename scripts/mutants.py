"""Put single defects into files, one at a time, and see which of them the files' tests notice.

    make mutants FILES='core/tove/methods/tove core/tove/modules/resample.py' NUM=40 SEED=0

A sample of `--num` places is drawn with `--seed`, and of each place one defect: another operator or
number, a flipped bool, a keyword argument that is not passed on, a branch that is always taken or
never. The file's tests run in a COPY of the tree; printed last is every defect that all passed.

The operators are those of mutmut 3. Its runner is not used: it leaves decorated functions and
module-level constants alone, which here are checks, `no_grad` forwards and tolerances, it draws no
sample, and it gives all files one set of tests. cosmic-ray changes the working tree itself, has one
test command for all files as well, and no operator for an argument that is not passed on.

Left alone are messages (in `raise`), strings and annotations; and what nearly always crashes, and
so says little about a test: None in place of a value, a positional argument left out.
"""

import argparse
import ast
import difflib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (".", "core", "expert_plugins")
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", "__pycache__", "work_dirs", "data*."
)
ROOMS = {
    "core/tove/": "tests/unit/{}",
    "tove_plugins/testing/": "tests/conformance",
    "tove_plugins/": "tests/unit/plugins",
    "expert_plugins/tove_experts/": "tests/unit/experts",
}
"""Where the tests of a source folder lie; {} is the next folder's name. The first that fits."""

LIBRARIES = ["pytest", "torch", "mmengine.runner", "transformers.models.clip", "open_clip"]
# Every defect needs a fresh process, and these take longer to import than most tests to run.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(LIBRARIES)

Tests = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect.

    Args:
        file: relative to the repository.
        line: where it is.
        code: the whole file with the defect.
        tests: what is to notice it.
    """

    file: str
    line: int
    code: str
    tests: Tests

    def diff(self) -> str:
        """Give the defect as a unified diff with one line of context."""
        before, after = (code.splitlines(keepends=True) for code in (read(self.file), self.code))
        return "".join(difflib.unified_diff(before, after, self.file, self.file, n=1))


def read(file: str) -> str:
    """Read a file of the repository."""
    return (ROOT / file).read_text("utf-8")


def python_files(paths: Sequence[str]) -> list[str]:
    """Give the Python files among paths and below folders, relative to the repository."""
    found: set[str] = set()
    for path in map(Path, paths):
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found |= {file.resolve().relative_to(ROOT).as_posix() for file in files}
    return sorted(found)


def tests_of(file: str) -> Tests:
    """Find the tests of a source file: those with its name or that import it; else its room's."""
    path, room = Path(file), room_of(file)
    names = {f"test_{path.stem.strip('_')}", f"test_{path.parent.name}_{path.stem.strip('_')}"}
    module = file.removeprefix("core/").removeprefix("expert_plugins/").removesuffix(".py")
    module = module.replace("/", ".").removesuffix(".__init__")
    wanted = {module, *(f"{module.rpartition('.')[0]}.{name}" for name in public_names(read(file)))}
    found = []
    for test, imported in imports_of_tests(ROOT).items():
        named = Path(test).stem in names and test.startswith(f"{room}/")
        if named or not wanted.isdisjoint(imported):
            found.append(test)
    return tuple(found) or (nearest_folder(room, path.parent.name),)


def nearest_folder(room: str, own: str) -> str:
    """Give the folder of tests for a file that none is named after: its own, its room's, or all."""
    folders = (f"{room}/{own}", room)
    return next((folder for folder in folders if (ROOT / folder).is_dir()), "tests/unit")


def public_names(code: str) -> list[str]:
    """Give `__all__` of a file: a package may give these names as its own."""
    for node in ast.parse(code).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return []


def room_of(file: str) -> str:
    """Give the folder that holds the tests of a source file's folder."""
    for start, room in ROOMS.items():
        if file.startswith(start):
            return room.format(file.removeprefix(start).partition("/")[0].removesuffix(".py"))
    raise SystemExit(f"{file} lies in none of {', '.join(ROOMS)}, so it has no tests of its own.")


@cache
def imports_of_tests(root: Path) -> dict[str, set[str]]:
    """Give the files of the unit and conformance tests, each with what it imports."""
    files = sorted((root / "tests").glob("[uc]*/**/test_*.py"))
    return {file.relative_to(root).as_posix(): imports(file.read_text("utf-8")) for file in files}


def imports(code: str) -> set[str]:
    """Name the modules that a file imports, and what it imports from them as if a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where a defect can be put: libcst's module and node, and what may stand for the node."""

    line: int
    module: Any
    node: Any
    instead: tuple[Any, ...]


def places(code: str) -> Iterator[Place]:
    """Find every place of a file that a defect can be put into."""
    import libcst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation import mutators as theirs

    left_out = (theirs.operator_assignment, theirs.operator_string, theirs.operator_arg_removal)
    operators = [entry for entry in theirs.mutation_operators if entry[1] not in left_out]
    operators += [(libcst.Call, keyword_left_out), (libcst.If, theirs.operator_if_exp)]
    skipped = (libcst.Annotation, libcst.Import, libcst.ImportFrom, libcst.Raise)
    wrapper = MetadataWrapper(libcst.parse_module(code))
    positions = wrapper.resolve(PositionProvider)

    def walk(node: Any) -> Iterator[Place]:  # noqa: ANN401 - libcst's nodes
        if isinstance(node, skipped) or is_zip(node):
            return
        made = [new for kind, make in operators if isinstance(node, kind) for new in make(node)]
        if made:
            yield Place(positions[node].start.line, wrapper.module, node, tuple(made))
        for child in node.children:
            yield from walk(child)

    yield from walk(wrapper.module)


def is_zip(node: Any) -> bool:  # noqa: ANN401 - libcst's nodes
    """Tell whether this is a call of zip, whose `strict=True` only guards what already holds."""
    return getattr(getattr(node, "func", None), "value", None) == "zip"


def keyword_left_out(call: Any) -> Iterator[Any]:  # noqa: ANN401 - libcst's nodes
    """Leave each keyword argument of a call out: a setting that is not passed on."""
    for index, argument in enumerate(call.args):
        if argument.keyword:
            yield call.with_changes(args=[*call.args[:index], *call.args[index + 1 :]])


def sample(files: Sequence[str], num: int, seed: int, tests: Tests = ()) -> list[Mutant]:
    """Draw places over all files, each as likely, and a defect for each, in the order drawn."""
    every = [(file, place) for file in files for place in places(read(file))]
    generator = random.Random(seed)
    generator.shuffle(every)
    mutants: list[Mutant] = []
    for file, place in every:
        if len(mutants) == num:
            break
        code = place.module.deep_replace(place.node, generator.choice(place.instead)).code
        if compiles(code):
            mutants.append(Mutant(file, place.line, code, tests or tests_of(file)))
    return mutants


def compiles(code: str) -> bool:
    """Tell whether a file is Python at all."""
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class Copy:
    """A copy of the working tree that defects are put into.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED, symlinks=True)

    def passes(self, tests: Tests, timeout: float) -> bool:
        """Run tests up to the first that fails; one that hangs has noticed."""
        process = PROCESSES.Process(target=run_tests, args=(self.folder, tests))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode == 0

    def survives(self, mutant: Mutant, timeout: float) -> bool:
        """Tell whether the tests pass with a defect, and take it out again."""
        path = self.folder / mutant.file
        before = path.read_bytes()
        path.write_text(mutant.code, "utf-8")
        try:
            return self.passes(mutant.tests, timeout)
        finally:
            path.write_bytes(before)


def run_tests(folder: Path, tests: Tests) -> None:
    """Run tests of a copy of the tree in this process, silently, and exit with pytest's status."""
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os.chdir(folder)
    path = os.pathsep.join(str(folder / source) for source in SOURCES)
    os.environ |= {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    sys.dont_write_bytecode = True
    multiprocessing.set_start_method(None, force=True)  # data loaders' workers are not ours
    import pytest

    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests]))


def time_without_defect(copy: Copy, mutants: Sequence[Mutant]) -> dict[str, float]:
    """Time every test file on the tree as it is, in seconds; all have to pass."""
    seconds = {}
    for test in dict.fromkeys(test for mutant in mutants for test in mutant.tests):
        start = time.monotonic()
        if not copy.passes((test,), 1800):
            raise SystemExit(f"{test} fails without any defect, so it cannot tell one.")
        seconds[test] = time.monotonic() - start
    return seconds


def survivors_of(mutants: Sequence[Mutant], jobs: int) -> list[Mutant]:
    """Run the tests of every defect, several copies of the tree side by side."""
    with tempfile.TemporaryDirectory(prefix="mutants.") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(jobs)]
        seconds = time_without_defect(copies[0], mutants)
        free: SimpleQueue[Copy] = SimpleQueue()
        for copy in copies:
            free.put(copy)

        def survives(mutant: Mutant) -> bool:
            copy = free.get()
            try:
                survived = copy.survives(
                    mutant, 60 + 5 * sum(seconds[test] for test in mutant.tests)
                )
            finally:
                free.put(copy)
            print(
                "SURVIVED" if survived else "caught  ", f"{mutant.file}:{mutant.line}", flush=True
            )
            return survived

        with ThreadPoolExecutor(jobs) as pool:
            found = list(pool.map(survives, mutants))
    return [mutant for mutant, survived in zip(mutants, found, strict=True) if survived]


def report(mutants: Sequence[Mutant], survivors: Sequence[Mutant], seed: int) -> None:
    """Print the figures by file and the diff of every survivor."""
    drawn, passed = (Counter(mutant.file for mutant in group) for group in (mutants, survivors))
    print("\ncaught  file")
    for file, number in sorted(drawn.items()):
        print(f"{number - passed[file]:3}/{number:<3} {file}")
    caught = len(mutants) - len(survivors)
    share = f"{caught / len(mutants):.0%}" if mutants else "nothing"
    print(f"{caught:3}/{len(mutants):<3} in all, {share} (seed {seed})")
    for mutant in survivors:
        print(f"\n{mutant.diff()}  not noticed by {' '.join(mutant.tests)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, run, report."""
    parser = argparse.ArgumentParser(
        description="Put single defects into files and run their tests."
    )
    parser.add_argument("files", nargs="+", help="source files or folders")
    parser.add_argument("--num", type=int, default=40, help="defects to draw over all files")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--jobs", type=int, default=1, help="copies of the tree to run side by side"
    )
    parser.add_argument("--tests", nargs="*", default=(), help="in place of the files' own")
    parser.add_argument("--list", action="store_true", help="show the defects and run nothing")
    args = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes' too
    mutants = sample(python_files(args.files), args.num, args.seed, tuple(args.tests))
    survivors = mutants if args.list else survivors_of(mutants, args.jobs)
    report(mutants, survivors, args.seed)


if __name__ == "__main__":
    main()
