"""What the command-line tools do once their arguments are read; how they end: `tove.cli.ending`."""

import argparse
import gc
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console

from tove.cli.answers import ask, caption, chat
from tove.cli.ending import command
from tove.config.loading import load_config
from tove.engine.distributed import init_processes, timeout_of
from tove.engine.rows import make_console
from tove.errors import ConfigError

if TYPE_CHECKING:
    from tove.backbones.feature_cache.token_cache import TokenCache

__all__ = [
    "ask",
    "cache",
    "caption",
    "chat",
    "compare",
    "export",
    "lmms_eval",
    "plan",
    "reproduce",
    "score",
    "test",
    "train",
]


@command
def train(args: argparse.Namespace) -> None:
    """Run the stages of a config; see `tools/train.py` for the arguments."""
    from tove.data.prepare import prepare_data
    from tove.engine.pipeline import StagedRunner
    from tove.engine.preflight import check_config

    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    distributed = init_processes(args.launcher, args.local_rank, timeout_of(cfg))
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
    gc.freeze()  # what was imported meanwhile, too: mmengine asks for a collection in each data set
    prepare_data(cfg)
    if not args.stage:  # one stage alone may do without the data of the others
        _look_over(cfg, runner.console)
    runner.run()


def _look_over(cfg: Config, console: Console) -> None:
    """Open what the stages will read; what is wrong with it is said before the first trains."""
    from tove.data.look_over import look_over

    problems, remarks = look_over(cfg, console)
    if problems:
        raise ConfigError(" ".join(problems))
    for remark in remarks:
        console.print(f"note: {remark}")


@command
def test(args: argparse.Namespace) -> None:
    """Evaluate a checkpoint; see `tools/test.py` for the arguments."""
    from tove.data.prepare import prepare_data
    from tove.engine.benchmark_config import with_model_of
    from tove.engine.preflight import check_config
    from tove.engine.stages.evaluate import evaluate_checkpoint
    from tove.report.answers_page import write_answers_page

    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    cfg = with_model_of(cfg, Path(args.checkpoint))
    distributed = init_processes(args.launcher, args.local_rank, timeout_of(cfg))
    check_config(cfg, checkpoint=Path(args.checkpoint))
    prepare_data(cfg)
    row = evaluate_checkpoint(cfg, Path(args.checkpoint), args.split, distributed)
    if is_main_process():
        page = write_answers_page(cfg, row, Path(cfg.work_dir) / f"test-{args.split}")
        print(f"  {page}", flush=True)


@command
def compare(args: argparse.Namespace) -> None:
    """Set finished runs side by side; see `tools/compare.py` for the arguments."""
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
    for remark in remarks(settings, metric):
        console.print(remark)
    console.print(f"{args.plot}: cost against gain")


@command
def lmms_eval(args: argparse.Namespace) -> None:
    """Run lmms-eval's benchmarks; see `tools/lmms_eval.py` for the arguments."""
    from tove.engine.lmms_eval import command_of, keep_row, prepared, run_tasks
    from tove.engine.rows import results_table
    from tove.engine.stock_llava import is_llava_folder

    folder = args.folder
    if not is_llava_folder(folder):
        raise ConfigError(
            f"{folder} is no Llava folder; give one that an ExportStage wrote, NAME/export-llava."
        )
    out = args.out or folder.with_name(f"{folder.name}-lmms_eval")
    python = prepared(args.env)
    called = command_of(python, folder, args.tasks, args.device, args.include_path, args.limit)
    row = keep_row(folder, run_tasks(called, out), out)
    console = make_console()
    console.print(results_table([row], row["metrics"]))
    console.print(f"{out}: for `compare`")


@command
def reproduce(args: argparse.Namespace) -> None:
    """Test claims by grids of runs; see `tools/reproduce.py` for the arguments."""
    from tove.reproduce.command import reproduce as run_claims

    run_claims(args)


@command
def score(args: argparse.Namespace) -> None:
    """Tell what an expert adds beside others; see `tools/score.py` for the arguments."""
    from tove.reproduce import score_card

    score_card.score(args)


@command
def cache(args: argparse.Namespace) -> None:
    """Keep the tokens of frozen networks on disk; see `tools/cache.py` for the arguments."""
    from tove.backbones.feature_cache.remote import copy_to, local_folder
    from tove.data.prepare import prepare_data
    from tove.engine.preflight import check_config, check_outline
    from tove.engine.token_extraction import Extraction, cache_of, chosen_slots, folder_of

    cfg = load_config(args.config, args.cfg_options)
    check_outline(cfg)
    distributed = init_processes(args.launcher, args.local_rank, timeout_of(cfg))
    console = make_console(quiet=distributed and not is_main_process())
    if args.verify:
        return _verify(local_folder(folder_of(cfg)), console)
    known, slots = cache_of(cfg), chosen_slots(cfg, args.experts)
    unused = [slot for slot in cfg.model.get("experts", {}) if slot not in slots]
    check_config(cfg, without=cfg.model.get("experts", ()) if args.dry_run else unused)
    if args.dry_run:
        return _estimate(cfg, known, slots, args.images, console)
    prepare_data(cfg)
    done = Extraction(cfg, slots, console, args.data_licence, args.batch_size).run()
    console.print(f"{known.folder}: {done:,} entries written by this process; README.md tells")
    if args.copy_to and is_main_process():
        console.print(f"{args.copy_to}: {copy_to(known.folder, args.copy_to):,} files copied")


def _verify(folder: Path, console: Console) -> None:
    from tove.backbones.feature_cache.card import tables_of
    from tove.engine.cache_tools import verify

    if not any(tables_of(folder)):
        raise ConfigError(
            f"{folder} has no tokens to verify; correct model.token_cache.dir, or extract them "
            "first, with `mim run tove_plugins cache CONFIG`."
        )
    damaged = []
    for name, sound, found in verify(folder):
        console.print(f"{name}: {sound:,} entries are sound")
        for place in found:
            console.print(place, soft_wrap=True)
        damaged += found
    if damaged:
        raise ConfigError(
            f"{len(damaged)} places of the token cache are damaged, first: {damaged[0]} Remove the "
            "files that are named and run the command without --verify: it extracts anew what they "
            "held."
        )


def _estimate(
    cfg: Config, known: "TokenCache", slots: list[str], images: int | None, console: Console
) -> None:
    from tove.backbones.feature_cache.writer import free_bytes
    from tove.config.data_sets import most_views
    from tove.engine.cache_tools import estimate, estimate_table
    from tove.engine.distinct_views import distinct_views

    if images is None:
        try:
            views = sum(len(part) * part.views for part in distinct_views(cfg))
        except ConfigError as error:
            raise ConfigError(f"{error} Before the data is there: --images N.") from error
    else:
        views = images * most_views(cfg)
    free = free_bytes(known.folder)
    console.print(estimate_table(estimate(cfg, known, slots), views, free))


@command
def plan(args: argparse.Namespace) -> None:
    """Say what a config is going to take; see `tools/plan.py` for the arguments."""
    from tove.engine.plan.options import PlanOptions
    from tove.engine.plan.plan import make_plan
    from tove.engine.preflight import check_config, check_outline
    from tove.report.plan.figure import write_picture
    from tove.report.plan.tables import cache_table, part_table, remarks, run_table, write_json

    cfg = load_config(args.config, args.cfg_options)
    check_outline(cfg)
    check_config(cfg, without=() if args.probe else cfg.model.get("experts", ()))
    asked = ("stage", "images", "words", "gpus", "amp", "tflops", "probe", "price")
    made = make_plan(cfg, PlanOptions(**{name: getattr(args, name) for name in asked}))
    console = make_console()
    for table in (*map(part_table, made.stages), run_table(made), cache_table(made)):
        console.print(table)
    for remark in remarks(made):
        console.print(remark)
    for path, write in ((args.json, write_json), (args.plot, write_picture)):
        if path:
            write(path, made)
            console.print(f"{path}: the plan")


@command
def export(args: argparse.Namespace) -> None:
    """Turn an exported encoder into another format; see `tools/export.py` for the arguments."""
    from tove.engine.onnx_export import export_onnx

    file = args.output or args.folder / "model.onnx"
    difference = export_onnx(args.folder, file)
    print(f"{file}: pixel_values -> tokens; off the folder by {difference:.1e} of their std")
