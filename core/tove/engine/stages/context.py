"""What a stage is given: the run that it is part of, with its settings, models and loaders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import DataLoader

from tove.config.build import or_told
from tove.config.keys import RUNNER_SETTINGS
from tove.config.overlay import merged_settings, plain_settings
from tove.config.validation import check_arguments
from tove.engine.known_tokens import name_views
from tove.engine.optimizer import Schedule
from tove.engine.stages.models import RunModels
from tove.errors import ConfigError
from tove.protocols import Row
from tove.registry import FUNCTIONS

__all__ = ["StageContext"]


@dataclass
class StageContext(RunModels):
    """The run that a stage is part of. It takes the arguments of `RunModels` as well.

    Args:
        work_dir: the run's folder.
        rows: the rows of the stages before, in order.
        resume: go on with what is in the folder.
        amp: mixed precision.
        distributed: whether a process group is there.
        checkpoint: given by the user for a stage that is run alone.
        files: files that the user is told about at the end, with what each is.
        loaders: data loaders of evaluation that are built already, by name.
    """

    work_dir: Path
    rows: list[Row] = field(default_factory=list)
    resume: bool = False
    amp: bool = False
    distributed: bool = False
    checkpoint: Path | None = None
    files: dict[Path, str] = field(default_factory=dict)
    loaders: dict[str, DataLoader] = field(default_factory=dict)

    @property
    def slots(self) -> list[str]:
        """The slots of all configured experts, in the config's order."""
        return list(self.cfg.model.get("experts", {}))

    @property
    def image_size(self) -> int:
        """Side of the square view that the data sets give, in pixels."""
        return int(self.cfg.image_size)

    def folder(self, name: str) -> Path:
        """Return a stage's folder."""
        return self.work_dir / name

    def model_path(self, name: str) -> Path:
        """Return the checkpoint that a stage starts from: the user's, or what `name` wrote."""
        return self.checkpoint or self.folder(name) / "model.pth"

    def resumes(self, name: str) -> bool:
        """Tell whether a stage goes on within an interrupted training."""
        return self.resume and (self.folder(name) / "last_checkpoint").exists()

    def schedule(
        self,
        stage: str,
        over: Mapping[str, Any],
        runner: Mapping[str, Any],
        section: str = "schedule",
    ) -> Schedule:
        """Return the config's schedule with a stage's own settings over it.

        Args:
            stage: the stage's name.
            over: the stage's own.
            runner: the stage's settings in mmengine's vocabulary; steps and validation interval of
                a `train_cfg` there, or in the config, count.
            section: where in the config the stage's settings are, beside its own.

        Raises:
            ConfigError: a setting that no schedule has, `steps` left out, a value that is none, or
                a warm-up that does not end.
        """
        settings = merged_settings(plain_settings(self.cfg.get("schedule", {})), over)
        loop = self.runner_settings(runner).get("train_cfg", {})
        if loop.get("by_epoch") or "max_epochs" in loop:
            raise ConfigError(
                "train_cfg counts epochs, but stages are trained by steps, so that runs on data of "
                "different sizes compare; write train_cfg=dict(max_iters=...) or schedule.steps."
            )
        named = {"max_iters": "steps", "val_interval": "val_interval"}
        settings |= {ours: loop[theirs] for theirs, ours in named.items() if theirs in loop}
        check_arguments(Schedule, settings, section)
        schedule = Schedule(**settings)
        if schedule.steps and schedule.warmup >= schedule.steps:
            raise ConfigError(
                f"The stage '{stage}' has {schedule.steps} steps and cannot warm up for "
                f"{schedule.warmup} of them; set {section}.warmup below {section}.steps."
            )
        return schedule

    def runner_settings(self, over: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config's settings in mmengine's vocabulary with a stage's own over them."""
        own = {key: plain_settings(self.cfg[key]) for key in RUNNER_SETTINGS if key in self.cfg}
        return merged_settings(own, plain_settings(over))

    def require(self, stage: str, *settings: str) -> None:
        """Check that the config has what a stage reads.

        Raises:
            ConfigError: one of the top-level settings is missing, or empty.
        """
        missing = [key for key in settings if not self.cfg.get(key)]
        if missing:
            raise ConfigError(
                f"Stage '{stage}' needs the setting `{missing[0]}`, which the config lacks; "
                "configs/tiny/tove-tiny_scenes.py shows one."
            )

    def loader(self, name: str) -> dict[str, Any]:
        """Return the config of a data loader, such as "train_dataloader"."""
        loader = plain_settings(self.cfg[name])
        collate = loader.setdefault("collate_fn", {"type": "tove_collate"})
        # mmengine looks this one up in its root registry, whatever the scope.
        collate["type"] = FUNCTIONS.get(collate["type"])
        return loader

    def build_loader(self, name: str) -> DataLoader:
        """Build a data loader by its name, its data set and sampler included.

        Raises:
            ConfigError: its settings are none of a loader's.
        """
        make = partial(Runner.build_dataloader, self.loader(name), seed=self.seed)
        loader: DataLoader = or_told(make, name)
        return loader

    def evaluation_loader(self, name: str) -> DataLoader:
        """Return a data loader by its name, built once: its decoded images stay."""
        if name not in self.loaders:
            loader = self.build_loader(name)
            name_views(loader.dataset, self.cfg.model.get("token_cache"))
            self.loaders[name] = loader
        return self.loaders[name]

    def evaluator(self) -> list[dict[str, Any]]:
        """Return the configs of the metrics."""
        metrics = plain_settings(self.cfg.test_evaluator)
        metrics = metrics if isinstance(metrics, list) else [metrics]
        if self.distributed:
            for metric in metrics:
                # "gpu" gathers through the process group, gloo's too; "cpu" through files that
                # mmengine puts into the current folder.
                metric.setdefault("collect_device", "gpu")
        return metrics
