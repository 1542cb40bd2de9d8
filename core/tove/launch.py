"""What the command-line tools do once their arguments are read.

An error that the user can mend is printed as its one sentence and gives exit status 2; with
TOVE_TRACEBACK=1 the traceback comes along.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config, DictAction

from tove.errors import ConfigError, close_matches

__all__ = ["compare", "init_processes", "load_config", "test", "train"]

# The top-level settings that are read.
SETTINGS = frozenset(
    {
        "batch_size",
        "custom_imports",
        "data_root",
        "hub",
        "image_size",
        "merging",
        "model",
        "report",
        "scenes",
        "schedule",
        "seed",
        "stages",
        "table_metrics",
        "test_dataloader",
        "test_evaluator",
        "train_dataloader",
        "unlabelled_dataloader",
        "val_dataloader",
        "work_dir",
    }
)
_OWN_PACKAGES = ("tove", "tove_plugins")


def load_config(path: str, options: list[str] | None = None, work_dir: str | None = None) -> Config:
    """Read a config, lay the command line's settings over it, and fill in what follows from it.

    Args:
        path: of the file.
        options: "KEY=VALUE" strings.
        work_dir: overrides the config's; without both it is work_dirs/<config's name>.

    Raises:
        ConfigError: no such file, or an option that cannot be read.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"There is no config file {path}; give a path from here, or the name of one that "
            "`mim search tove_plugins` lists."
        )
    try:
        cfg = Config.fromfile(path)
    except (KeyError, TypeError, SyntaxError, NameError, ImportError, OSError) as error:
        raise ConfigError(
            f"The config {path} cannot be read ({type(error).__name__}: {error}); where it changes "
            "a setting of its _base_ from a value to a dict, add _delete_=True to that dict."
        ) from error
    if options:
        given = _parse_options(options)
        _check_options(given, cfg)
        _lay_over(cfg, given)
    if work_dir:
        cfg.work_dir = work_dir
    elif not cfg.get("work_dir"):
        cfg.work_dir = f"work_dirs/{Path(path).stem}"
    return cfg


def _lay_over(cfg: Config, given: dict) -> None:
    """Merge the command line's settings; a dict takes the place of a plain value whole."""
    replaced = {f"{path}._delete_": True for key in given for path in _plain_on_the_way(cfg, key)}
    try:
        cfg.merge_from_dict({**replaced, **given})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"--cfg-options {', '.join(given)} cannot be laid over the config: "
            f"{str(error).strip(chr(34))}. Give keys that the config has."
        ) from error


def _plain_on_the_way(cfg: Config, key: str) -> Iterator[str]:
    """Yield the path at which a key goes on below a value that holds nothing, if there is one.

    `merging.model.student.r=8` where `student` is "full", for example.
    """
    value: Any = cfg
    *way, _ = key.split(".")
    for depth, part in enumerate(way, start=1):
        if isinstance(value, Mapping | Config):
            value = value.get(part, {})
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return
        if not isinstance(value, Mapping | list | tuple):
            yield ".".join(way[:depth])
            return


def _parse_options(options: list[str]) -> dict:
    bad = [option for option in options if "=" not in option]
    if bad:
        raise ConfigError(
            f"--cfg-options takes KEY=VALUE, but got '{bad[0]}'; write for example "
            "data_root=DIR schedule.steps=300."
        )
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *options]).cfg_options


def _check_options(options: dict, cfg: Config) -> None:
    """Refuse settings that would be laid down and never read."""
    for option in options:
        key = option.partition(".")[0]
        if key not in SETTINGS:
            what = "only a variable inside the config file" if key in cfg else "unknown"
            raise ConfigError(
                f"--cfg-options {option}: '{key}' is {what}, so setting it would change nothing; "
                f"set what is read. {close_matches(key, SETTINGS)}"
            )


def init_processes(launcher: str, local_rank: int) -> bool:
    """Join the process group where a launcher started several processes.

    mmengine's own set-up calls `torch.cuda.set_device` whatever the backend, which fails on a
    machine without an accelerator; there the gloo group is made here, and mmengine finds it.

    Returns:
        Whether this run is distributed.
    """
    if launcher == "none":
        return False
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"--launcher pytorch needs {', '.join(missing)} in the environment; start the command "
            "with `torchrun --nproc_per_node=N` or `mim train ... --launcher pytorch --gpus N`."
        )
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return True


def train(args: argparse.Namespace) -> int:
    """Run the stages of a config; see `tools/train.py` for the arguments."""

    def work() -> None:
        from tove.preflight import check_config
        from tove.preparing import prepare_data
        from tove.runner import StagedRunner

        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        distributed = init_processes(args.launcher, args.local_rank)
        checkpoint = Path(args.checkpoint) if args.checkpoint else None
        check_config(cfg, amp=args.amp, checkpoint=checkpoint, only=args.stage)
        runner = StagedRunner(
            cfg,
            resume=args.resume,
            only=args.stage,
            checkpoint=args.checkpoint,
            amp=args.amp,
            distributed=distributed,
        )
        prepare_data(cfg)
        runner.run()

    return _guarded(work)


def test(args: argparse.Namespace) -> int:
    """Evaluate a checkpoint; see `tools/test.py` for the arguments."""

    def work() -> None:
        from tove.preflight import check_config
        from tove.preparing import prepare_data
        from tove.stages.evaluate import evaluate_checkpoint

        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        distributed = init_processes(args.launcher, args.local_rank)
        check_config(cfg, checkpoint=Path(args.checkpoint))
        prepare_data(cfg)
        evaluate_checkpoint(cfg, Path(args.checkpoint), args.split, distributed)

    return _guarded(work)


def compare(args: argparse.Namespace) -> int:
    """Set finished runs side by side; see `tools/compare.py` for the arguments."""

    def work() -> None:
        from tove.comparing import (
            choose_metric,
            cost_table,
            entries_of,
            remarks,
            score_table,
            write_csv,
            write_json,
        )
        from tove.report.comparison import write_comparison
        from tove.rows import make_console
        from tove.runs import read_runs, settings_of

        console = make_console()
        runs = read_runs(args.work_dirs)
        settings, metric = settings_of(runs, args.pool), choose_metric(runs, args.metric)
        entries = entries_of(settings, metric)
        for path, write in ((args.json, write_json), (args.csv, write_csv)):
            if path:
                write(path, entries, metric)
        write_comparison(args.plot, entries, metric)
        for table in (score_table(entries, metric), cost_table(entries)):
            if table:
                console.print(table)
        for remark in remarks(settings):
            console.print(remark, highlight=False)
        console.print(f"{args.plot}: cost against gain", highlight=False)

    return _guarded(work)


def _guarded(work: Callable[[], None]) -> int:
    """Run, and turn an error of our own packages into one sentence."""
    try:
        work()
    except Exception as error:
        own = type(error).__module__.partition(".")[0] in _OWN_PACKAGES
        if not own:
            raise
        if os.environ.get("TOVE_TRACEBACK") == "1":
            traceback.print_exc()
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


def _sentence(error: Exception) -> str:
    """Give an error's message; that of a loader's worker comes as its whole traceback."""
    text = str(error)
    if not (text.startswith("Caught ") and "Traceback (most recent call last)" in text):
        return text
    kind = type(error).__name__
    return text.rpartition(f"{kind}: ")[2].strip()
