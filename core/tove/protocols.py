"""What the parts of the engine are to each other: samples, rows, stages."""

from typing import Any, Protocol

__all__ = ["Model", "Row", "Sample", "Stage"]

Row = dict[str, Any]
"""What one configuration scored and cost, see `tove.engine.rows`."""
Sample = dict[str, Any]
"""One item of a data set: image_id, task, prompt, target, candidates, ..."""
Model = Any
"""The model that a stage trains: ToVE's or another method's."""


class Stage(Protocol):
    """One step from the frozen parts to the merged encoder.

    Registered in STAGES and built from an entry of `cfg.stages`, `name` always among its arguments.

    Attributes:
        name: also the name of its folder.
        depends_on: the top-level settings that its outcome depends on.
        repeats: run on every call, finished before or not (a report, for example).

    A stage may also have `check(context)`, called before any stage runs, that raises ConfigError
    for settings it could not run with; and `with_other_experts(context)`, asked when a run is
    resumed with other experts than the stage began with, that gives "keep" (no expert plays a
    part), "carry over" (`run` goes on from what was learned) or "begin again", the default.
    """

    name: str
    depends_on: tuple[str, ...]
    repeats: bool

    def run(self, context: Any) -> list[Row]:  # noqa: ANN401 - a `StageContext`
        """Do the stage's work in `context.folder(self.name)` and give its rows."""
