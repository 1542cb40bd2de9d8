"""lmms-eval's benchmarks on a Llava folder: run in an environment of its own, read back as rows.

    OUT/config.py, results.json    a run as `compare` reads it, of one row
    OUT/lmms_eval/                 what lmms-eval wrote: scores, and each answer

lmms-eval pins much that a training should not be bound by, so it is never imported here.
"""

import json
import os
import subprocess
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.atomic_io import writing
from tove.engine.rows import read_rows, write_rows
from tove.errors import ConfigError
from tove.protocols import Row

__all__ = ["VERSION", "command_of", "keep_row", "prepared", "read_scores", "run_tasks"]

VERSION = "0.7.3"
_REQUIREMENTS = (
    f"lmms_eval[video-legacy]=={VERSION}",  # its Llava imports decord whatever the task
    "filelock<4",  # it reaches into what 4 has no more
    "transformers<5",  # which resizes images as in training, see `model_card`
)
_INSTALLED = "from importlib.metadata import version; print(version('lmms_eval'))"
_ERRORS = ("_stderr", "_stderr_clt", "_stderr_clustered")


def prepared(environment: Path) -> Path:
    """Return the Python of an environment that has lmms-eval; one that is missing is made.

    Raises:
        ConfigError: there is none of this version, or it cannot be installed.
    """
    python = environment.absolute() / "bin/python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        _called([python, "-m", "pip", "install", *_REQUIREMENTS], "install lmms-eval")
    asked = subprocess.run(
        [python, "-c", _INSTALLED], capture_output=True, text=True, check=False, env=_environment()
    )
    found = asked.stdout.strip()
    if found != VERSION:
        wanted = " ".join(f"'{requirement}'" for requirement in _REQUIREMENTS)
        raise ConfigError(
            f"{environment} has lmms-eval {found or 'not at all'}, but results of {VERSION} are "
            f"read here; call {environment}/bin/python -m pip install {wanted}, or name another "
            "folder by --env."
        )
    return python


def command_of(
    python: Path,
    folder: Path,
    tasks: Sequence[str],
    device: str,
    include: Path | None = None,
    limit: int | None = None,
) -> list[str]:
    """Return how lmms-eval is called; it writes to a folder `lmms_eval` of where it runs.

    Args:
        python: of its environment.
        folder: of the Llava model.
        tasks: names of its tasks.
        device: such as "cuda" or "cpu".
        include: a folder of tasks of one's own.
        limit: samples of each task; None is all.
    """
    command = [str(python), "-m", "lmms_eval", "--model", "llava_hf"]
    # Without a device map transformers is told the empty one, which it refuses.
    command += ["--model_args", f"pretrained={folder.absolute()},device_map={device}"]
    command += ["--device", device, "--batch_size", "1", "--tasks", ",".join(tasks)]
    command += ["--output_path", "lmms_eval", "--log_samples"]
    command += ["--include_path", str(include.absolute())] if include else []
    return command + (["--limit", str(limit)] if limit else [])


def run_tasks(command: Sequence[str], out: Path) -> dict[str, dict[str, float]]:
    """Let lmms-eval run, its words on the console, and return its scores, see `read_scores`.

    Args:
        command: see `command_of`.
        out: where it runs.

    Raises:
        ConfigError: it failed, or left no results.
    """
    out.mkdir(parents=True, exist_ok=True)
    earlier = set(out.glob("lmms_eval/*/*_results.json"))
    _called(command, "run these tasks", cwd=out)
    new = set(out.glob("lmms_eval/*/*_results.json")) - earlier
    if not new:
        raise ConfigError("lmms-eval left no results; what it said stands above.")
    return read_scores(json.loads(new.pop().read_text()))


def read_scores(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the scores of a results file as a row's metrics, by "lmms_eval/TASK/METRIC".

    The interval is 1.96 of lmms-eval's standard errors to both sides, where it gives one.
    """
    metrics = {}
    for task, scores in results["results"].items():
        number = results["n-samples"].get(task, {}).get("effective")
        for key, value in scores.items():
            name, _, kind = key.partition(",")  # the kind of filter that answers went through
            if not isinstance(value, int | float) or name.endswith(_ERRORS):
                continue
            error = scores.get(f"{name}_stderr,{kind}")
            entry: dict[str, float] = {"value": value}
            if isinstance(error, int | float):
                entry |= {"low": value - 1.96 * error, "high": value + 1.96 * error}
            if number is not None:  # a group has none
                entry["n"] = number
            suffix = "" if kind in ("", "none") else f",{kind}"
            metrics[f"lmms_eval/{task}/{name}{suffix}"] = entry
    return metrics


def keep_row(folder: Path, metrics: Mapping[str, Mapping[str, float]], out: Path) -> Row:
    """Write the row of a Llava folder, beside the scores of other tasks that are of it.

    What it cost, its seed and its training are those that its run measured; a folder of no run has
    scores alone.

    Args:
        folder: that was measured.
        metrics: of this call.
        out: where to.
    """
    cfg, row = _origin(folder)
    results = out / "results.json"
    last = max(path.stat().st_mtime for path in folder.iterdir())
    known = read_rows(results) if results.exists() and results.stat().st_mtime > last else []
    earlier = known[0]["metrics"] if known else {}
    row |= {"metrics": {**earlier, **metrics}, "gain": {}, "measured_by": f"lmms_eval {VERSION}"}
    with writing(out):
        cfg.dump(out / "config.py")
    write_rows(results, [row])
    return row


def _origin(folder: Path) -> tuple[Config, Row]:
    """Return the config and the row of the run whose ExportStage wrote a folder."""
    folder = folder.absolute()
    for work in folder.parents:
        if not ((work / "config.py").is_file() and (work / "results.json").is_file()):
            continue
        cfg = Config.fromfile(work / "config.py", import_custom_modules=False)
        for stage in cfg.stages:
            place = stage.get("folder") or f"{stage['name']}/export"
            if work / f"{place}-llava" == folder:
                rows = [r for r in read_rows(work / "results.json") if r["stage"] == stage["name"]]
                return cfg, rows[0]
    row = {"name": folder.name, "role": "plain", "experts": [], "seed": 0, "stage": ""}
    cfg = Config({"model": {"pretrained": str(folder)}})
    return cfg, row | {"training_images": 0, "steps": 0}


def _environment() -> dict[str, str]:
    """Return the variables of another Python's process: none that would show it our packages."""
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in own}


def _called(command: Sequence[Any], what: str, cwd: Path | None = None) -> None:
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=_environment(), check=False)
    if done.returncode:
        raise ConfigError(
            f"It was not possible to {what} (exit status {done.returncode}); the cause stands "
            f"above. The command was: {' '.join(map(str, command))}"
        )
