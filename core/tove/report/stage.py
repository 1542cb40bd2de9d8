"""The report stage: one page for people, and its pictures as files and in TensorBoard.

work_dir/report.html            self-contained: words, table, pictures
work_dir/<stage>/*.png          the same pictures
work_dir/<stage>/vis_data       the same pictures for TensorBoard

It trains and measures nothing; what an earlier stage has not left behind is a sentence on the page.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from mmengine.dist import is_main_process

from tove.atomic_io import atomic_writer, write_text
from tove.engine.rows import TABLE_METRICS
from tove.engine.stages.context import StageContext
from tove.errors import ConfigError, close_matches
from tove.protocols import Row
from tove.registry import STAGES
from tove.report.findings import findings, headline
from tove.report.page import Page, Section, render_page
from tove.report.report_data import Material, gather
from tove.report.sections.model import (
    example_section,
    expert_section,
    gate_section,
    provenance_section,
)
from tove.report.sections.scores import (
    detachment_section,
    loss_section,
    other_scores_section,
    relation_section,
    results_section,
)
from tove.report.theme import Picture

__all__ = ["ReportSettings", "ReportStage"]

PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What a report shows; `cfg.report` lies over the stage's own.

    Attributes:
        source: the stage whose model shows its gates.
        num_images: test images that gate weights are averaged over.
        num_maps: of them, those whose gate map is shown.
        num_examples: test samples whose answers are shown.
        title: of the page; None is the name of the work folder.
    """

    source: str = "transfer"
    num_images: int = 256
    num_maps: int = 12
    num_examples: int = 12
    title: str | None = None

    def overlaid(self, settings: Mapping[str, Any]) -> "ReportSettings":
        """Lay settings over these.

        Raises:
            ConfigError: one that no report has.
        """
        known = [entry.name for entry in fields(self)]
        for key in settings:
            if key not in known:
                raise ConfigError(
                    f"report.{key} of the config is unknown. {close_matches(key, known)}"
                )
        return replace(self, **settings)


@STAGES.register_module()
class ReportStage:
    """Writes the report of a work folder, anew at every call.

    Args:
        name: the stage's name.
        **settings: those of `ReportSettings`.
    """

    depends_on = ("model", "test_dataloader", "seed")
    repeats = True

    def __init__(self, name: str, **settings: Any) -> None:  # noqa: ANN401 - checked against fields
        self.name = name
        self.settings = ReportSettings().overlaid(settings)

    def check(self, context: StageContext) -> None:
        """Check the settings before what they are about has cost hours."""
        self.settings.overlaid(context.cfg.get("report", {}))

    def run(self, context: StageContext) -> list[Row]:
        """Write the page and the pictures; there are no rows."""
        if not is_main_process():
            return []
        settings = self.settings.overlaid(context.cfg.get("report", {}))
        material = gather(context, settings.source, context.cfg.get("table_metrics", TABLE_METRICS))
        sections = _sections(material, settings)
        metrics = material.metrics or list(TABLE_METRICS)
        page = Page(
            title=f"ToVE report: {settings.title or context.work_dir.name}",
            subtitle=f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {context.seed}",
            headline=headline(material.standing, metrics[0]),
            findings=findings(material.standing, material.metrics),
            sections=sections,
        )
        path = context.work_dir / PAGE
        write_text(path, render_page(page))
        context.files[path] = "the report: results, gate maps, curves, answers"
        self._write_pictures(context, [p for section in sections for p in section.pictures])
        return []

    def _write_pictures(self, context: StageContext, pictures: Sequence[Picture]) -> None:
        """Write the light pictures as PNG files and for TensorBoard."""
        from PIL import Image

        folder = context.folder(self.name)
        visualizer = _visualizer(str(folder))
        for picture in pictures:
            with atomic_writer(folder / f"{picture.name}.png") as stream:
                stream.write(picture.light)
            pixels_HW3 = np.asarray(Image.open(io.BytesIO(picture.light)).convert("RGB"))
            visualizer.add_image(f"report/{picture.name}", pixels_HW3)
        visualizer.close()
        if pictures:
            context.files[folder] = f"the report's {len(pictures)} pictures as PNG"


def _visualizer(folder: str) -> Any:  # noqa: ANN401 - mmengine's Visualizer
    from mmengine.visualization import Visualizer

    backends = [{"type": "TensorboardVisBackend"}]
    # One per call: mmengine keeps instances by name, with the folder of the first.
    name = f"report-{datetime.now(UTC).timestamp()}"
    return Visualizer.get_instance(name, vis_backends=backends, save_dir=folder)


def _sections(material: Material, settings: ReportSettings) -> list[Section]:
    sections = [
        results_section(material),
        relation_section(material),
        other_scores_section(material),
        gate_section(material, settings.num_images, settings.num_maps),
        detachment_section(material),
        example_section(material, settings.num_examples),
        loss_section(material),
        expert_section(material),
        provenance_section(material),
    ]
    return [section for section in sections if section is not None]
