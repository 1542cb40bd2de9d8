"""Runs the stages of a config one after another, each in its own folder, and resumes among them.

work_dir/<stage>/     checkpoints, loss.jsonl, rows.json, config.json, done.json
work_dir/results.json the rows of all finished stages, in order
work_dir/config.py    the whole config
work_dir/.lock        who writes there now, see `tove.locks`
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.registry import init_default_scope

from tove.atomic_io import is_full_disk, remove_unfinished, unwritable, write_text, writing
from tove.backbones.experts.licences import check_licences, licence_table
from tove.config.overlay import plain_settings
from tove.config.text import text_of
from tove.engine.planning import needed_slots, run_encoders, run_experts, run_overlay, source_of
from tove.engine.rows import TABLE_METRICS, make_console, results_table, show_score, write_rows
from tove.engine.score_names import score_names
from tove.engine.stages.context import StageContext
from tove.engine.stages.state import StageRecord
from tove.errors import ConfigError, close_matches
from tove.locks import locked
from tove.modules.collectives import on_main
from tove.protocols import Row, Stage
from tove.registry import SCOPE, STAGES

__all__ = ["LOCK", "StagedRunner"]

LOCK = ".lock"


class StagedRunner:
    """Runs `cfg.stages`.

    Args:
        cfg: a checked config (`tove.engine.preflight`), data roots filled in.
        resume: keep finished stages, go on within an interrupted one.
        only: run this stage alone.
        checkpoint: with `only`, the checkpoint that the stage starts from, in place of the one
            that an earlier stage wrote into the work folder.
        amp: mixed precision.
        distributed: whether a process group is there.

    Raises:
        ConfigError: no stage of that name, or an expert whose licence `hub` of the config refuses.
    """

    def __init__(
        self,
        cfg: Config,
        resume: bool = False,
        only: str | None = None,
        checkpoint: str | Path | None = None,
        amp: bool = False,
        distributed: bool = False,
    ) -> None:
        self.cfg = cfg
        self.work_dir = Path(cfg.work_dir).resolve()
        self.resume = resume
        self.console = make_console(quiet=not is_main_process())
        self.entries = [plain_settings(entry) for entry in cfg.stages]
        self.only = only
        self.metrics = cfg.get("table_metrics", TABLE_METRICS)
        names = [entry["name"] for entry in self.entries]
        if only is not None and only not in names:
            raise ConfigError(f"No stage is called '{only}'. {close_matches(only, names)}")
        checkpoint = Path(checkpoint) if checkpoint else None
        needed = needed_slots(cfg, checkpoint, only)
        experts = [entry for entry in run_experts(cfg, only) if entry[0] in needed]
        self.context = StageContext(
            cfg=cfg,
            work_dir=self.work_dir,
            resume=resume,
            amp=amp,
            distributed=distributed,
            checkpoint=checkpoint,
            terms=check_licences(cfg, experts, run_encoders(cfg, only)),
        )

    def run(self) -> list[Row]:
        """Run the stages, print the table, and give the rows.

        Raises:
            ConfigError: another run writes into the folder, what is kept is of other settings or
                not whole, or whatever a stage refuses.
        """
        stages = self.build_stages()
        # A stage that repeats gives no rows: alone it leaves those there are, and their config, and
        # may look at a folder that another run writes.
        if any(stage.repeats and stage.name == self.only for stage in stages):
            return self._run(stages, shows_only=True)
        with ExitStack() as held:
            on_main(lambda: self._lock(held))
            return self._run(stages)

    def build_stages(self) -> list[Stage]:
        """Build the stages; each checks the settings that it is going to read.

        Raises:
            ConfigError: whatever a stage refuses.
        """
        init_default_scope(SCOPE)
        return [self._build(entry) for entry in self.entries]

    def _lock(self, held: ExitStack) -> None:
        """Keep other runs out of the work folder, and remove what a killed one left in it."""
        path = self.work_dir / LOCK
        with writing(path):
            held.enter_context(locked(path, f"The work folder {self.work_dir}"))
            remove_unfinished(self.work_dir, [entry["name"] for entry in self.entries])

    def _run(self, stages: Sequence[Stage], shows_only: bool = False) -> list[Row]:
        records = [self._record(*pair) for pair in zip(stages, self.entries, strict=True)]
        for stage, record in zip(stages, records, strict=True):
            self._check_whole(stage, record)
        if not shows_only:
            for stage, record in zip(stages, records, strict=True):
                self._check_kept(stage, record)
            # Before an old result goes; the stage that runs first is the last one to be rehearsed,
            # and takes over the model that was built for it.
            for stage, record in zip(stages[::-1], records[::-1], strict=True):
                self._rehearse(stage, record)
            self._look_at_table()
            on_main(self._write_config)
        if self.context.terms:
            self.console.print(licence_table(self.context.terms))
        for stage, record in zip(stages, records, strict=True):
            if self.only not in (None, stage.name):
                self.context.rows += record.rows() if record.finished else []
            elif self._is_done(stage, record):
                self.console.print(f"{stage.name}: finished earlier, kept")
                self.context.rows += record.rows()
                self.context.files |= record.files()
            else:
                self._run_stage(stage, record)
        if not shows_only:
            self._write_results()
        self._summary()
        return self.context.rows

    def _build(self, entry: dict[str, Any]) -> Stage:
        """Build a stage and let it check the settings it is going to read."""
        stage: Stage = STAGES.build(dict(entry))
        if hasattr(stage, "check"):
            stage.check(self.context)
        return stage

    def _record(self, stage: Stage, entry: dict[str, Any]) -> StageRecord:
        """Say what the stage's outcome depends on: its entry, its settings, its source's entry."""
        settings = {key: self.cfg.get(key) for key in stage.depends_on}
        settings["stage"] = entry
        settings["source"] = self._sources(entry)
        if getattr(stage, "overlays_model", False):  # in this order an optimiser counts through
            over = run_overlay(self.cfg, stage.name)
            kind = self.context.kind_of(over)
            settings["slots"] = list(kind.experts_of(self.context.model_settings(over)))
        if self.context.checkpoint and self.only in (None, stage.name):
            settings["checkpoint"] = str(self.context.checkpoint)
        return StageRecord(self.work_dir / stage.name, stage.name, plain_settings(settings))

    def _sources(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the entries of the stages whose models lead to a stage's, the nearest first."""
        names = [other["name"] for other in self.entries]
        source = source_of(entry)
        if source not in names[: names.index(entry["name"])]:
            return []
        earlier = self.entries[names.index(source)]
        return [earlier, *self._sources(earlier)]

    def _check_whole(self, stage: Stage, record: StageRecord) -> None:
        """Look at what a finished stage left, unless the stage is to begin again."""
        again = not self.resume and self.only in (None, stage.name)
        if record.started and record.finished and not (again or stage.repeats):
            on_main(record.check_whole)

    def _check_kept(self, stage: Stage, record: StageRecord) -> None:
        """Refuse a stage whose rows or checkpoints would be kept and are of other settings."""
        if stage.repeats or not record.started:
            return
        if self.only not in (None, stage.name):
            if record.finished:
                keeps = self._with_other_experts(stage) == "keep"
                record.check(other_experts=keeps, other_checkpoint=True)
        elif self.resume:
            record.check(other_experts=self._with_other_experts(stage) != "refuse")

    def _with_other_experts(self, stage: Stage) -> str:
        decide = getattr(stage, "with_other_experts", None)
        return decide(self.context) if decide else "begin again"

    def _is_done(self, stage: Stage, record: StageRecord) -> bool:
        """Tell whether a stage can be kept, which `_check_kept` has allowed."""
        if not self.resume or stage.repeats:
            return False
        if record.started and record.check():
            self._meet_other_experts(stage, record)
        source = self._source_model(stage)
        if source and record.started and record.is_of_another_model(source):
            barrier()  # every rank has looked
            on_main(record.clear)
            self.console.print(f"{stage.name}: {source} is another model now; it begins again")
        return record.finished

    def _source_model(self, stage: Stage) -> Path | None:
        """Give the model of another stage that a stage takes."""
        source = getattr(stage, "source", None)
        return self.context.model_path(source) if source and not stage.repeats else None

    def _meet_other_experts(self, stage: Stage, record: StageRecord) -> None:
        """Prepare a stage that has begun for experts that came, went or changed since."""
        answer = self._with_other_experts(stage)
        source = self._source_model(stage)
        prepare = {
            "keep": lambda: record.keep(source),
            "begin again": record.clear,
            "carry over": record.set_aside,
        }
        barrier()
        on_main(prepare[answer])
        words = {
            "keep": "runs no expert, so it stays as it is",
            "begin again": "depends on all of them, so it begins again",
            "carry over": "trains anew from what it has learned",
        }
        self.console.print(f"{stage.name}: the experts have changed; it {words[answer]}")

    def _rehearse(self, stage: Stage, record: StageRecord) -> None:
        """Let a stage that is to run find out whether it can begin."""
        runs = self.only in (None, stage.name) and not (self.resume and record.finished)
        if runs and hasattr(stage, "rehearse"):
            stage.rehearse(self.context)

    def _look_at_table(self) -> None:
        """Tell which columns of the table nothing is going to measure."""
        wanted = self.cfg.get("table_metrics")
        loaders = self.context.loaders.values() if wanted else ()
        known = [score_names(each.dataset, self.context.evaluator()) for each in loaders]
        if not known or None in known:
            return
        measured = {name for names in known for name in names or ()}
        for name in sorted({*wanted} - measured):
            what = f"note: table_metrics names '{name}', which is not measured."
            self.console.print(f"{what} {close_matches(name, measured)}")

    def _run_stage(self, stage: Stage, record: StageRecord) -> None:
        self.console.print(f"{stage.name}: {type(stage).__name__} in {record.folder}")
        afresh = not (self.resume and record.started)
        barrier()
        on_main(lambda: record.begin(afresh, source=self._source_model(stage)))
        start = time.perf_counter()
        earlier, self.context.files = self.context.files, {}
        try:
            rows = stage.run(self.context)
        except OSError as error:  # of a log, of TensorBoard: files that are not ours
            if is_full_disk(error):
                raise unwritable(record.folder, error) from error
            raise
        seconds = time.perf_counter() - start
        on_main(lambda: record.finish(rows, seconds, self.context.files))
        self.context.rows += rows
        self.context.files |= earlier
        if not stage.repeats:
            self._write_results()
        self.console.print(f"{stage.name}: took {seconds:.0f} s")
        for row in rows:
            shown = [(m, row["metrics"][m]) for m in self.metrics if m in row["metrics"]]
            scores = ", ".join(f"{name} {show_score(score)}" for name, score in shown)
            self.console.print(f"  {row['name']}: {scores}")

    def _write_results(self) -> None:
        if is_main_process():
            write_rows(self.work_dir / "results.json", self.context.rows)

    def _write_config(self) -> None:
        if not self.resume and self.only is None:  # the rows there are of an earlier config
            (self.work_dir / "results.json").unlink(missing_ok=True)
        write_text(self.work_dir / "config.py", text_of(self.cfg))

    def _summary(self) -> None:
        """Print the table and the files."""
        if self.context.rows:
            self.console.print(results_table(self.context.rows, self.metrics))
        files = {**self.context.files, self.work_dir / "results.json": "the table as data"}
        for path in sorted(files):
            self.console.print(f"  {path}  {files[path]}")
