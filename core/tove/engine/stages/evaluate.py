"""Evaluate one checkpoint, slim ones included, outside of a run's stages.

work_dir/test-<split>/rows.json       the row
work_dir/test-<split>/answers.jsonl   every answer with its scores, one a line
"""

import json
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import init_default_scope

from tove.atomic_io import check_places, write_text
from tove.backbones.experts.licences import check_licences
from tove.config.overlay import plain_settings
from tove.engine.planning import needed_slots
from tove.engine.rows import TABLE_METRICS, make_console, results_table, show_score, write_rows
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, item_scores, measure_row
from tove.errors import ConfigError
from tove.protocols import Row
from tove.registry import SCOPE

__all__ = ["ANSWERS", "evaluate_checkpoint"]

ANSWERS = "answers.jsonl"


def evaluate_checkpoint(
    cfg: Config, checkpoint: Path, split: str = "test", distributed: bool = False
) -> Row:
    """Load a checkpoint, evaluate it, print and write the row.

    Args:
        cfg: a checked config.
        checkpoint: any that a stage wrote; experts that it has no parameters for are not built.
        split: "test" or "val".
        distributed: whether a process group is there.

    Raises:
        ConfigError: the config lacks the split or metrics, or the row could not be written.
    """
    data, folder = f"{split}_dataloader", Path(cfg.work_dir).resolve() / f"test-{split}"
    _check(cfg, data, folder)
    init_default_scope(SCOPE)
    needed = needed_slots(cfg, checkpoint, None)
    experts = cfg.model.get("experts", {}).items()
    runs = [(slot, expert) for slot, expert in experts if slot in needed]
    check_licences(cfg, runs, [cfg.model.encoder])
    metrics = plain_settings(cfg.test_evaluator)
    metrics = metrics if isinstance(metrics, list) else [metrics]
    cfg.test_evaluator = [*metrics, dict(type="AnswerLog")]
    context = StageContext(cfg=cfg, work_dir=Path(cfg.work_dir).resolve(), distributed=distributed)
    model, meta = context.load_model(checkpoint)
    runner = evaluation_runner(context, f"test-{split}", model, data)
    row = measure_row(
        context,
        runner,
        name=checkpoint.stem,
        role=type(model).role,
        experts=list(model.running()),
        stage=meta.get("stage", ""),
        training_images=meta.get("training_images", 0),
        steps=meta.get("steps", 0),
    )
    if is_main_process():
        path = folder / "rows.json"
        write_rows(path, [row])
        log = runner.test_evaluator.metrics[-1]
        lines = [json.dumps(answer) for answer in log.scored(item_scores(runner))]
        write_text(folder / ANSWERS, "".join(f"{line}\n" for line in lines))
        console = make_console()
        shown = cfg.get("table_metrics", TABLE_METRICS)
        console.print(results_table([row], shown))
        for name, score in row["metrics"].items():
            if name not in shown:
                console.print(f"  {name}: {show_score(score)}")
        console.print(f"  {path}")
    return row


def _check(cfg: Config, data: str, folder: Path) -> None:
    """Say before the evaluation what would end it."""
    for key in (data, "test_evaluator"):
        if not cfg.get(key):
            raise ConfigError(
                f"The config {cfg.filename} has no `{key}`, so there is nothing to evaluate; add "
                "it, or take the other --split."
            )
    check_places(folder / "rows.json")
