"""The report stage: one page for people, and its pictures as files and in TensorBoard.

work_dir/report.html            self-contained: words, table, pictures
work_dir/<stage>/*.png          the same pictures
work_dir/<stage>/vis_data       the same pictures for TensorBoard

It trains and measures nothing; what an earlier stage has not left behind is a sentence on the page.
"""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
from mmengine.dist import is_main_process

from tove.atomic_io import atomic_writer, write_text
from tove.engine.rows import TABLE_METRICS
from tove.engine.stages.context import StageContext
from tove.protocols import Row
from tove.registry import SECTIONS, STAGES
from tove.report.findings import findings, headline
from tove.report.page import Page, Section, order_of, render_page
from tove.report.report_data import Material, ReportSettings, gather
from tove.report.theme import Picture

__all__ = ["ReportSettings", "ReportStage"]

PAGE = "report.html"


@STAGES.register_module()
class ReportStage:
    """Writes the report of a work folder, anew at every call.

    Args:
        name: the stage's name.
        **settings: those of `ReportSettings`.
    """

    depends_on = ("model", "test_dataloader", "seed")
    repeats = True
    reads: ClassVar[Mapping[str, type]] = {"report": ReportSettings}
    """What top-level settings are the arguments of, for what is read from the command line."""

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
        material = gather(context, settings, context.cfg.get("table_metrics", TABLE_METRICS))
        sections = _sections(material)
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


def _sections(material: Material) -> list[Section]:
    SECTIONS.import_from_location()
    made = [make(material) for make in sorted(SECTIONS.module_dict.values(), key=order_of)]
    return [section for section in made if section is not None]
