"""An expert that breaks when a trained model is used: what it costs, and whether to take it out.

    zero     its tokens are their mean: nothing arrives
    noise    normal noise of the tokens' own scale
    other    the tokens of another scene, always the same one for an image: right in kind, wrong
    gone     the expert is detached, which is what the others are held against

In a config, with custom_imports=dict(imports=["tove.reproduce.broken"]). Experts of the tiny world.

Shapes: B images, M tokens of an expert, D their width.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tove.engine.planning import left_overlay
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.source import check_detachable, check_source
from tove.errors import ConfigError, close_matches
from tove.protocols import Row
from tove.registry import STAGES
from tove.reproduce.stand_ins import OtherImage

__all__ = ["BrokenExpertStage"]

Way = Literal["zero", "noise", "other", "gone"]
Break = Callable[[Tensor, Tensor], Tensor]
"""Makes of an expert's tokens [B, M, D], normalised, and images [B, 3, 64, 64] what arrives."""


@STAGES.register_module()
class BrokenExpertStage:
    """Measures a stage's model while one of its experts is broken; nothing is trained.

    Args:
        name: the stage's name, and its row's.
        source: the stage whose model it is.
        slot: of the expert.
        way: how it is broken, see the module.
    """

    depends_on: tuple[str, ...] = ("model", "test_dataloader", "test_evaluator", "seed")
    repeats = False

    def __init__(self, name: str, source: str, slot: str, way: Way) -> None:
        self.name, self.source, self.slot, self.way = name, source, slot, way

    def check(self, context: StageContext) -> None:
        """Check that there is a model with such an expert.

        Raises:
            ConfigError: there is none.
        """
        check_source(context, self.name, self.source)
        slots = check_detachable(context, self.name, self.source)
        if slots is not None and self.slot not in slots:
            raise ConfigError(
                f"stages.{self.name}.slot is '{self.slot}', which stage '{self.source}' does not "
                f"have. {close_matches(self.slot, slots)}"
            )

    def run(self, context: StageContext) -> list[Row]:
        """Measure the model as it then is."""
        path = context.model_path(self.source)
        over = left_overlay(context.cfg, self.source)
        experts = context.model_settings(over)["experts"]
        slots = [slot for slot in experts if (slot, "gone") != (self.slot, self.way)]
        model, meta = context.load_model(path, slots=slots)
        if self.way != "gone":
            self._break(model, experts[self.slot]["type"], context)
        row = measure_row(
            context,
            evaluation_runner(context, self.name, model),
            name=self.name,
            role="variant",
            experts=slots,
            stage=self.name,
            training_images=meta.get("training_images", 0),
            steps=meta.get("steps", 0),
        )
        return [row]

    def _break(self, model: Any, expert: str, context: StageContext) -> None:  # noqa: ANN401
        """Let what the model reads of the expert be what arrives of it."""
        whole, broken = model.frozen_tokens, self._broken(model, expert, context)

        def frozen_tokens(slot: str, images: Tensor, ids: Sequence[str] | None = None) -> Tensor:
            tokens: Tensor = whole(slot, images, ids)
            return broken(tokens, images) if slot == self.slot else tokens

        model.frozen_tokens = frozen_tokens

    def _broken(self, model: Any, expert: str, context: StageContext) -> Break:  # noqa: ANN401
        if self.way == "zero":
            return lambda tokens_BMD, images_BCHW: torch.zeros_like(tokens_BMD)
        if self.way == "noise":
            generator = torch.Generator(context.device).manual_seed(context.seed)
            return lambda tokens_BMD, images_BCHW: torch.empty_like(tokens_BMD).normal_(
                generator=generator
            )
        other = OtherImage(expert).to(context.device).eval()
        return lambda tokens_BMD, images_BCHW: model.hub.normalise(
            self.slot, other((images_BCHW - 0.5) / 0.5)
        )
