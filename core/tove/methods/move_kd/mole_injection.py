"""Put MoLE into the FFNs of an encoder's blocks.

"used" takes the blocks that the encoder's tokens depend on, "all" every block, as the release
does: the last block's MoLE of a student read at hidden_states[-2] then learns from the balance loss
alone, its LoRA pairs from nothing, which plain DDP refuses.
"""

from typing import Any, Literal, cast

from torch import nn

from tove.errors import ConfigError
from tove.methods.move_kd.mole import MoLE, ffn_layers

__all__ = ["inject_mole", "mole_layers"]


def inject_mole(
    encoder: Any,  # noqa: ANN401 - an encoder of ENCODERS
    layers: Literal["used", "all"] = "used",
    **options: Any,  # noqa: ANN401 - MoLE's
) -> list[MoLE]:
    """Replace FFNs by MoLE around them, in place, and return the new layers.

    What else of the encoder trains is not touched; the new pairs and routers do.

    Args:
        encoder: whose `blocks()` are the ones that run.
        layers: "used" are those, "all" every block that the encoder has.
        options: arguments of `MoLE` after the first.

    Raises:
        ConfigError: the encoder has MoLE already, or no FFN of a known kind where one is wanted.
    """
    used = {id(module) for _, block in encoder.blocks() for module in block.modules()}
    if mole_layers(encoder):
        raise ConfigError(
            "MoLE was to be put into an encoder that has it already; build the student from a "
            "plain CLIP and load what was trained from the checkpoint."
        )
    found = [
        (block, ffn)
        for block in encoder.modules()
        if (ffn := getattr(block, "mlp", None)) is not None and ffn_layers(ffn)
        if layers == "all" or id(ffn) in used
    ]
    if not found:
        raise ConfigError(
            f"No block of the {type(encoder).__name__} has an FFN that MoLE knows (transformers' "
            "fc1 and fc2, open_clip's c_fc and c_proj); use a CLIP of one of them as the student."
        )
    added = []
    for block, ffn in found:
        layer = MoLE(cast(nn.Module, ffn), **options)
        layer.train(ffn.training)
        block.mlp = layer
        added.append(layer)
    return added


def mole_layers(model: nn.Module) -> list[MoLE]:
    """Return a model's MoLE layers in the order of its blocks."""
    return [module for module in model.modules() if isinstance(module, MoLE)]
