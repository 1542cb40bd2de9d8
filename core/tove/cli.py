"""What the command-line tools do once their arguments are read.

An error that the user can mend is printed as its one sentence and gives exit status 2; with
TOVE_TRACEBACK=1 the traceback comes along.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from tove.config.loading import load_config
from tove.engine.distributed import init_processes

__all__ = ["compare", "test", "train"]

_OWN_PACKAGES = ("tove", "tove_plugins")


def train(args: argparse.Namespace) -> int:
    """Run the stages of a config; see `tools/train.py` for the arguments."""

    def work() -> None:
        from tove.data.prepare import prepare_data
        from tove.engine.pipeline import StagedRunner
        from tove.engine.preflight import check_config
        from tove.methods.discovery import import_named_methods

        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        distributed = init_processes(args.launcher, args.local_rank)
        import_named_methods(cfg)
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
        from tove.data.prepare import prepare_data
        from tove.engine.preflight import check_config
        from tove.engine.stages.evaluate import evaluate_checkpoint
        from tove.methods.discovery import import_named_methods

        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        distributed = init_processes(args.launcher, args.local_rank)
        import_named_methods(cfg)
        check_config(cfg, checkpoint=Path(args.checkpoint))
        prepare_data(cfg)
        evaluate_checkpoint(cfg, Path(args.checkpoint), args.split, distributed)

    return _guarded(work)


def compare(args: argparse.Namespace) -> int:
    """Set finished runs side by side; see `tools/compare.py` for the arguments."""

    def work() -> None:
        from tove.engine.rows import make_console
        from tove.report.compare.aggregate import (
            choose_metric,
            cost_table,
            entries_of,
            remarks,
            score_table,
            write_csv,
            write_json,
        )
        from tove.report.compare.figure import write_comparison
        from tove.report.compare.runs import read_runs, settings_of

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
