"""What the fault scripts share: a miniature run, processes to do it in, and a row of the table.

Processes are forked: torch is imported once, and what kills one of them is a real signal.
"""

import argparse
import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.errors import ConfigError

ROOT = Path(__file__).parents[2]
Settings = dict[str, Any]


@dataclass
class Result:
    """A row of the table in docs/reliability.md."""

    fault: str
    tried: int = 0
    held: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, held: bool, case: str, kind: str = "") -> None:
        self.tried += 1
        self.held += held
        if kind:
            self.notes[kind] = self.notes.get(kind, 0) + 1
        if not held:
            self.failures.append(case)

    def row(self) -> str:
        notes = ", ".join(f"{name} {value}" for name, value in self.notes.items())
        return f"| {self.fault} | {self.tried} | {self.held} | {notes} |"


def miniature(folder: Path, stages: list[str] | None = None) -> Settings:
    """Make the models and data of tests/conftest.py in a folder; return its settings.

    Args:
        folder: empty or not there.
        stages: names of those to keep; None keeps all.
    """
    path = ROOT / "tests/conftest.py"
    spec = importlib.util.spec_from_file_location("miniature", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder.mkdir(parents=True, exist_ok=True)
    module._save_encoder(folder / "clip")
    module._save_language_model(folder / "lm")
    module._write_data(folder / "data")
    settings = module.miniature_settings(folder)
    settings["stages"] = [s for s in settings["stages"] if stages is None or s["name"] in stages]
    # Steps that draw random numbers: what is gone on with must draw the same.
    settings["model"].update(expert_dropout=0.4, gate={"noise": 1.0})
    return settings


def run(settings: Settings, work: Path, resume: bool = True) -> None:
    """Do what tools/train.py does after reading the config."""
    cfg = Config(deepcopy(settings) | {"work_dir": str(work)})
    check_config(cfg)
    StagedRunner(cfg, resume=resume).run()


def start(work: Callable[[], object], log: Path | None = None, said: int | None = None) -> int:
    """Do something in a forked process; return its id.

    It exits with 0, with 2 where it said one sentence, which goes to the descriptor `said`, else
    with 1. What it prints goes to the file `log`; None drops it.
    """
    gc.freeze()  # no collection of the fork looks through what is imported
    pid = os.fork()
    if pid:
        return pid
    code, last = 1, ""
    try:
        with open(log or os.devnull, "a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        # pytest has put others in their place.
        sys.stdout = open(1, "w", buffering=1, closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        try:
            code = work() or 0
        except ConfigError as error:
            code, last = 2, str(error)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            last = traceback.format_exc()
        if said is not None:
            os.write(said, last[-4000:].encode())
        print(last, flush=True)  # to a file, which may be one that has no room
    finally:
        os._exit(code)


def call(settings: Settings, work: Path) -> None:
    """Do what tools/train.py does with a config of these settings.

    Raises:
        ConfigError: the sentence that it ended with.
    """
    from tove.cli import train

    config = work.with_suffix(".py")
    # As a config file would have them: without this no number that is none could be read.
    numbers = "nan, inf = float('nan'), float('inf')\n"
    config.write_text(numbers + Config(deepcopy(settings)).pretty_text)
    options = dict.fromkeys(("cfg_options", "stage", "checkpoint", "resume", "amp"))
    more = dict(config=str(config), work_dir=str(work), launcher="none", local_rank=0)
    try:
        train.__wrapped__(argparse.Namespace(**options, **more))  # without its exit status
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("tove", "tove_plugins"):
            raise
        raise ConfigError(str(error)) from error


def count_told(result: Result, case: str, settings: Settings, work: Path) -> None:
    """Count a call with a mistake in it; it holds if it is told in a sentence before a stage."""
    code, said = do(lambda: call(settings, work))
    began = [path.parent.name for path in work.glob("*/config.json")]
    held = code == 2 and not began and len(said.strip().splitlines()) == 1
    result.count(held, f"{case}: exit {code}, stages begun: {began}, {said[-300:]}")


def wait(pid: int) -> int:
    """Return a process's exit code; of a killed one -9."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def do(work: Callable[[], object], log: Path | None = None) -> tuple[int, str]:
    """Do something in a forked process; return its exit code and what it said of an error."""
    reading, writing = os.pipe()
    code = wait(start(work, log, writing))
    os.close(writing)
    with open(reading) as stream:
        return code, stream.read()


def kill(pid: int, seconds: float) -> bool:
    """Send SIGKILL after a time; tell whether the process was still there."""
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return wait(pid) == -signal.SIGKILL


def leftovers(work: Path) -> list[str]:
    """Return what a run that has ended left of itself or of a killed one before it."""
    return [str(path.relative_to(work)) for path in work.rglob(".*")]


def outcome(work: Path) -> dict[str, Any]:
    """Return what a run has found: its rows without times and places, and every loss."""
    rows = json.loads((work / "results.json").read_text())
    timed = ("forward_ms", "peak_memory_mb", "cost")
    curves = {p.parent.name: p.read_text() for p in sorted(work.glob("*/loss.jsonl"))}
    return {
        "rows": [{k: v for k, v in row.items() if k not in timed} for row in rows],
        "losses": curves,
    }


def parse_args(argv: list[str] | None = None, tables: Sequence[str] = ()) -> argparse.Namespace:
    """Read the command line of a script; one that has several tables can take some of them."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--num", type=int, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="draws moments, bits and sizes")
    parser.add_argument("--json", type=Path, help="where the result is written as JSON")
    if tables:
        parser.add_argument("--tables", nargs="+", choices=tables, help="these only")
    return parser.parse_args(argv)


def _commit() -> str:
    """Name the commit that is tried, with "-dirty" where files differ from it."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or "unknown"


def main(measure: Callable[..., Result], args: argparse.Namespace, num: int) -> None:
    """Measure `num` cases unless the command line says how many; print the row, write it."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args.num or num, args.seed)
    result.notes |= {"commit": _commit(), "seconds": round(time.perf_counter() - begun)}
    print(result.row())
    for failure in result.failures:
        print(f"  did not hold: {failure}")
    if args.json:
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n")
    sys.exit(bool(result.failures))
