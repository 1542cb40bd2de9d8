"""Put single defects into files, one at a time, and see which of them the files' tests notice.

    make mutants FILES='core/tove/methods/tove core/tove/modules/resample.py' NUM=40 SEED=0

A sample of `--num` places is drawn with `--seed`, and of each place one defect: another operator or
number, a flipped bool, a keyword argument that is not passed on, a branch that is always taken or
never. The file's tests run in a COPY of the tree, the closest first, up to the first that fails;
printed last is every defect that all passed. What noticed a defect is run once more without any.

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
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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

DEFAULTS = "tests/integration/test_docs.py::test_told_defaults_are_the_code_s"
"""Holds every default to the pages, whatever file it stands in."""

SECONDS = 120
"""Of processor time that one test may take: a defect that goes round for ever has been noticed."""
PATIENCE = 3600
"""Seconds that all tests of a defect may take; one that waits for ever has been noticed."""
RUNNING = ".running"
"""A copy's file with the name of the test that runs in it."""

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
    """Find the tests of a source file, the closest first.

    Those with its name, those that import it, and those of the modules that import it; where it has
    none of its own, its folder's as well; last what holds defaults to the pages.
    """
    own, names = own_tests(file), names_of(file)
    callers = [
        other
        for folder in ("core/tove", "tove_plugins", "expert_plugins/tove_experts")
        for other, imported in imports_of(f"{folder}/**/*.py").items()
        if other != file and not names.isdisjoint(imported)
    ]
    theirs = [test for caller in callers for test in own_tests(caller)]
    folder = [] if own else [nearest_folder(room_of(file), Path(file).parent.name)]
    return tuple(dict.fromkeys([*own, *theirs, *folder, DEFAULTS]))


def own_tests(file: str) -> list[str]:
    """Find the tests with the name of a source file, and then those that import it."""
    path, room, modules = Path(file), room_of(file), names_of(file)
    names = {f"test_{path.stem.strip('_')}", f"test_{path.parent.name}_{path.stem.strip('_')}"}
    tests = imports_of("tests/[uc]*/**/test_*.py")
    named = [test for test in tests if Path(test).stem in names and test.startswith(f"{room}/")]
    return named + [test for test, found in tests.items() if not modules.isdisjoint(found)]


def names_of(file: str) -> set[str]:
    """Give what others import of a file: its module, and what a package gives as its own."""
    module = file.removeprefix("core/").removeprefix("expert_plugins/").removesuffix(".py")
    module = module.replace("/", ".").removesuffix(".__init__")
    package = module.rpartition(".")[0]
    return {module, *(f"{package}.{name}" for name in public_names(read(file)))}


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
def imports_of(pattern: str) -> dict[str, set[str]]:
    """Give the files of the repository that fit a pattern, each with what it imports."""
    files = (file.relative_to(ROOT).as_posix() for file in sorted(ROOT.glob(pattern)))
    return {file: imports(read(file)) for file in files}


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

    def noticed(self, tests: Sequence[str]) -> str:
        """Run tests up to the first that does not pass, and name that; nothing if all pass."""
        running = self.folder / RUNNING
        running.write_text(tests[0], "utf-8")  # until one is
        process = PROCESSES.Process(target=run_tests, args=(self.folder, tests, SECONDS))
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        return "" if process.exitcode == 0 else running.read_text("utf-8")

    def noticed_with(self, mutant: Mutant) -> str:
        """Name the test that notices a defect, and take the defect out again."""
        path = self.folder / mutant.file
        before = path.read_bytes()
        path.write_text(mutant.code, "utf-8")
        try:
            return self.noticed(mutant.tests)
        finally:
            path.write_bytes(before)


class Watch:
    """Writes down which test is running, and ends the process where it goes round for ever.

    Args:
        file: to write it to.
        seconds: of processor time that a test may take.
    """

    def __init__(self, file: Path, seconds: int) -> None:
        self.file, self.seconds = file, seconds

    def pytest_collectreport(self, report: Any) -> None:  # noqa: ANN401 - pytest's
        """Write the name of a file that cannot be imported."""
        if report.failed:
            self.file.write_text(report.nodeid, "utf-8")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Write a test's name and count its time from here."""
        self.file.write_text(nodeid, "utf-8")
        limit = int(time.process_time()) + self.seconds
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def run_tests(folder: Path, tests: Sequence[str], seconds: int) -> None:
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

    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    sys.exit(pytest.main([*options, *tests], plugins=[Watch(folder / RUNNING, seconds)]))


def survivors_of(mutants: Sequence[Mutant], jobs: int) -> tuple[list[Mutant], str]:
    """Run the tests of every defect, several copies of the tree side by side.

    Also names a test that noticed one and fails without any, if there is such a test.
    """
    with tempfile.TemporaryDirectory(prefix="mutants.") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(jobs)]
        free: SimpleQueue[Copy] = SimpleQueue()
        for copy in copies:
            free.put(copy)

        def noticed(mutant: Mutant) -> str:
            copy = free.get()
            try:
                test = copy.noticed_with(mutant)
            finally:
                free.put(copy)
            how = f"caught   {mutant.file}:{mutant.line} by {test}"
            print(how if test else f"SURVIVED {mutant.file}:{mutant.line}", flush=True)
            return test

        with ThreadPoolExecutor(jobs) as pool:
            found = list(pool.map(noticed, mutants))
        noticing = sorted(set(filter(None, found)))
        broken = copies[0].noticed(noticing) if noticing else ""
    return [mutant for mutant, test in zip(mutants, found, strict=True) if not test], broken


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
    parser.add_argument("--then", nargs="*", default=(), help="tests that run after the files' own")
    parser.add_argument("--start", type=int, default=0, help="leave out so many of those drawn")
    parser.add_argument("--list", action="store_true", help="show the defects and run nothing")
    args = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes' too
    mutants = sample(python_files(args.files), args.num, args.seed, tuple(args.tests))[args.start :]
    mutants = [replace(mutant, tests=(*mutant.tests, *args.then)) for mutant in mutants]
    survivors, broken = (mutants, "") if args.list else survivors_of(mutants, args.jobs)
    report(mutants, survivors, args.seed)
    if broken:
        raise SystemExit(f"{broken} fails without any defect, so it cannot tell one.")


if __name__ == "__main__":
    main()
