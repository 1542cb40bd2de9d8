"""A model that talks about images, as one Llava folder beside its encoder's export.

What is written is plain CLIP around a deployed encoder in front of its chat model; an image is seen
as the run's conversations show it.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_main_process

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.experts.licences import Terms
from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.image_projector import ImageProjector
from tove.backbones.language.llava_folder import LlavaParts, check_parts, write_llava_folder
from tove.engine.conversation_view import conversation_view
from tove.engine.stages.context import StageContext

__all__ = ["check_llava", "write_llava"]


def check_llava(context: StageContext, model: Any, encoder: Any) -> None:  # noqa: ANN401
    """Check that a model which talks about images will make a Llava folder.

    Args:
        context: the run.
        model: a method's, with a `projector`.
        encoder: as it would be exported.

    Raises:
        ConfigError: no Llava model can hold it; what to change is said.
    """
    if _talks(model, encoder):
        check_parts(_parts(context, model, encoder))


def write_llava(
    context: StageContext,
    model: Any,  # noqa: ANN401
    folder: Path,
    title: str,
    licences: Sequence[Mapping[str, Any]],
) -> bool:
    """Write the Llava folder of a plain CLIP model, over an earlier one.

    Args:
        context: the run.
        model: `PlainCLIP`.
        folder: where to.
        title: of the model card.
        licences: terms of the experts that the encoder has learned from.

    Returns:
        Whether there is one: the language model is a chat model, the encoder transformers' CLIP.
    """
    if not _talks(model, model.encoder):
        return False
    if is_main_process():
        shutil.rmtree(folder, ignore_errors=True)
        teachers = [Terms(**entry) for entry in licences]
        parts = _parts(context, model, model.encoder)
        write_llava_folder(parts, folder, title=title, teachers=teachers)
    barrier()
    return True


def _talks(model: Any, encoder: Any) -> bool:  # noqa: ANN401
    """Tell whether there is a Llava folder: its vision tower is stock CLIP and nothing else."""
    return type(encoder) is TransformersCLIP and isinstance(model.language, ChatLanguageModel)


def _parts(context: StageContext, model: Any, encoder: Any) -> LlavaParts:  # noqa: ANN401
    projector, view = model.projector, conversation_view(context.cfg)
    kind: Any = view.kind if view else "crop"
    return LlavaParts(
        encoder,
        ImageProjector.of(projector.first["clip"], projector.shared),
        model.language,
        kind,
        getattr(view, "grids", ()),
        model.language.newline_D if kind == "anyres" else None,
    )
