"""What the sections of a report are made of: rows, files of the stages, the model, test samples.

A stage that did not run, or a model that cannot be loaded, is a sentence in the report and never
the end of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tove.config.validation import Range, check_arguments
from tove.engine.stages.context import StageContext
from tove.errors import ConfigError
from tove.report.model_probes import ImageSplit, split_samples, test_split
from tove.report.row_roles import Row, Standing, standing_of
from tove.report.theme import slot_colours
from tove_plugins import ExpertBuildError, ExpertNotAvailable, ExpertSpecError

__all__ = ["MENDABLE", "Curves", "Material", "ReportSettings", "gather", "loss_panels"]

MENDABLE = (ConfigError, ExpertBuildError, ExpertNotAvailable, ExpertSpecError, OSError)
"""What a stage that is missing or has moved on may raise; a mistake of ours is none of these."""

Curves = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What a report shows; `cfg.report` lies over the stage's own.

    Attributes:
        source: the stage whose model is shown; None is that of the method's row.
        num_images: test images that gate weights are averaged over.
        num_maps: of them, those whose gate map is shown.
        num_examples: test samples whose answers are shown.
        title: of the page; None is the name of the work folder.
    """

    source: str | None = None
    num_images: Annotated[int, Range(1)] = 256
    num_maps: Annotated[int, Range(0)] = 12
    num_examples: Annotated[int, Range(0)] = 12
    title: str | None = None

    def overlaid(self, settings: Mapping[str, Any]) -> "ReportSettings":
        """Lay settings over these.

        Raises:
            ConfigError: one that no report has, or a value that is none.
        """
        check_arguments(ReportSettings, settings, "report")
        return replace(self, **settings)


@dataclass
class Material:
    """Everything that the sections draw on.

    Attributes:
        context: of the run.
        settings: what the report shows.
        rows: of all stages.
        standing: the rows by the part they play.
        metrics: those of the headline, in order of importance.
        colours: by slot, in the config's order.
        model: the trained model with its experts, in eval; None with a `model_problem`.
        model_problem: why there is no model.
        dataset: of the test split; None with a `data_problem`.
        data_problem: why there is no data set.
        samples: of the test split, without images.
    """

    context: StageContext
    settings: ReportSettings
    rows: Sequence[Row]
    standing: Standing
    metrics: Sequence[str]
    colours: dict[str, str]
    model: Any = None
    model_problem: str = ""
    dataset: ImageSplit | None = None
    data_problem: str = ""
    samples: list[dict[str, Any]] = field(default_factory=list)

    def stages(self, kind: str) -> list[str]:
        """Give the names of the config's stages of one type."""
        return stage_names(self.context, kind)


def stage_names(context: StageContext, kind: str) -> list[str]:
    """Give the names of the config's stages of one type."""
    return [e["name"] for e in context.cfg.stages if str(e["type"]).rpartition(".")[2] == kind]


def gather(context: StageContext, settings: ReportSettings, metrics: Sequence[str]) -> Material:
    """Collect the material; what is not there is noted, not raised.

    Args:
        context: of the run.
        settings: what the report shows.
        metrics: wanted in the headline; those that no row has are left out.
    """
    rows = list(context.rows)
    known = [metric for metric in metrics if any(metric in row["metrics"] for row in rows)]
    material = Material(
        context,
        settings,
        rows,
        standing_of(rows),
        known,
        slot_colours(context.slots),
    )
    try:
        material.dataset = test_split(context)
        material.samples = split_samples(material.dataset)
    except MENDABLE as error:
        material.data_problem = f"The test split cannot be read: {error}"
    method = material.standing.method
    source = settings.source or (method["stage"] if method else None)
    if source is None:
        material.model_problem = "No stage has trained a method yet, so there is no model to show."
        return material
    try:
        model, _ = context.load_model(context.model_path(source))
        material.model = cast(nn.Module, model).eval()
    except MENDABLE as error:
        material.model_problem = f"The model of stage '{source}' cannot be shown: {error}"
    return material


def read_losses(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read a stage's `loss.jsonl`: by loss, (steps, values); the total only where it is alone."""
    if not path.is_file():
        return {}
    losses: dict[str, tuple[list[float], list[float]]] = {}
    for line in path.read_text("utf-8").splitlines():
        try:
            entry: Mapping[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue  # an interrupted run may leave half a line at the end
        for name, value in entry.items():
            if "loss" in name and np.isfinite(value):
                steps, values = losses.setdefault(name, ([], []))
                steps.append(entry["iter"])
                values.append(value)
    if len(losses) > 1:
        losses.pop("loss", None)
    return losses


def loss_panels(context: StageContext) -> dict[str, Curves]:
    """Gather the curves of all stages: by loss, by stage, (steps, values)."""
    panels: dict[str, Curves] = {}
    for entry in context.cfg.stages:
        losses = read_losses(context.folder(entry["name"]) / "loss.jsonl")
        for name, (steps, values) in losses.items():
            curve = np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)
            panels.setdefault(name, {})[entry["name"]] = curve
    return panels
