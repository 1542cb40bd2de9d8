"""mmengine's way to call a trained model: `INFERENCERS.build(dict(type=..., model=WORK_DIR))`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.infer import BaseInferencer

from tove.engine.inference import Answer
from tove.engine.load_trained import load
from tove.registry import INFERENCERS, SCOPE

__all__ = ["VisionLanguageInferencer"]


@INFERENCERS.register_module()
class VisionLanguageInferencer(BaseInferencer):
    """Captions images, or answers a question about them: `inferencer(images)["predictions"]`.

    Args:
        model: the folder of a run.
        show_progress: a bar over the batches.
        **options: those of `tove.load`.
    """

    forward_kwargs = {"prompt", "question", "answers"}  # noqa: RUF012 - mmengine's

    def __init__(self, model: str | Path, show_progress: bool = True, **options: Any) -> None:  # noqa: ANN401
        self.trained = load(model, **options)
        self.model, self.scope, self.show_progress = self.trained.model, SCOPE, show_progress

    def _init_pipeline(self, cfg: Any) -> None:  # noqa: ANN401
        """Have none: the trained model reads and resizes images itself."""

    def preprocess(
        self,
        inputs: Sequence[Any],
        batch_size: int = 1,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[Sequence[Any]]:
        """Yield the images in batches."""
        for start in range(0, len(inputs), batch_size):
            yield inputs[start : start + batch_size]

    def forward(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        question: str | None = None,
        answers: Sequence[str] | None = None,
    ) -> list[str] | list[Answer]:
        """Caption the images, or ask one question about all; see `TrainedModel`."""
        if question is None:
            return self.trained.caption(inputs, prompt)
        return self.trained.ask(inputs, question, answers)

    def visualize(self, *args: Any, **kwargs: Any) -> list[Any]:  # noqa: ANN401
        """Draw nothing."""
        return []

    def postprocess(
        self,
        preds: list[Any],
        visualization: list[Any],
        return_datasample: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        """Return mmengine's dict of `predictions` and `visualization`."""
        return {"predictions": preds, "visualization": visualization}
