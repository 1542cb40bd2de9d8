"""What every pretrained ViT needs before it gives tokens, whichever library and family it is of.

Weights are found and loaded whole or not at all, blocks are counted, positions are interpolated to
another input size, and the network's own random switches stay off: token dropping, drop path and
dropout are part of how a network was trained once, not of what its tokens are.

Shapes: D width, P = prefix + h * w positions, the prefix being class and register tokens.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import __version__ as transformers_version
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import cached_file, logging

from tove.backbones.preprocess import Preprocess
from tove.backbones.shapes import architecture, building_shapes
from tove.errors import ConfigError
from tove_plugins import resolve_resource
from tove_plugins.image_processor import FILES, read_image_processor

__all__ = [
    "check_image_size",
    "count_blocks",
    "load_whole",
    "locate",
    "output_of",
    "own_preprocess",
    "resize_positions",
    "set_encoder_mode",
    "tower_of",
    "unmasked",
]


def locate(pretrained: str) -> str:
    """Resolve "pkg:..." and paths; anything else is taken for a hub id.

    Raises:
        ConfigError: a path or package resource that is not there.
    """
    is_hub_id = not pretrained.startswith(("pkg:", "/", ".", "~")) and pretrained.count("/") <= 1
    path = resolve_resource(pretrained)
    if path.is_dir():
        return str(path)
    if is_hub_id:
        return pretrained
    raise ConfigError(
        f"The encoder's weights {pretrained!r} were looked for in {path}, which is not a folder; "
        "correct model.encoder.pretrained, or put a CLIP folder there."
    )


def check_image_size(image_size: int, patch_size: int, name: str) -> None:
    """Check that patches tile the image.

    Args:
        image_size: input side in pixels.
        patch_size: side of a patch in pixels.
        name: of the weights, as the config names them.

    Raises:
        ConfigError: they do not.
    """
    if image_size % patch_size:
        near = max(1, round(image_size / patch_size)) * patch_size
        raise ConfigError(
            f"model.encoder.image_size is {image_size}, which the patch size {patch_size} of "
            f"{name!r} does not divide; use a multiple of {patch_size}, such as {near}."
        )


def count_blocks(layer: int, num_layers: int, name: str) -> int:
    """Return how many blocks to run for `hidden_states[layer]`.

    Raises:
        ConfigError: there is no such layer.
    """
    if not -num_layers - 1 <= layer <= num_layers:
        raise ConfigError(
            f"model.encoder.layer is {layer}, but {name!r} has {num_layers} layers; "
            f"use a value from {-num_layers - 1} to {num_layers}, -1 being the last."
        )
    return layer % (num_layers + 1)


def load_whole(
    model_class: Any,  # noqa: ANN401
    source: str,
    pretrained: str,
    where: str = "model.encoder.pretrained",
) -> Any:  # noqa: ANN401
    """Load a model of transformers in float32; the library draws what is missing at random.

    Args:
        model_class: has `from_pretrained`.
        source: a folder or hub id.
        pretrained: how the user names it.
        where: the user does.

    Raises:
        ConfigError: there is no such model, or weights are missing.
    """
    if building_shapes():
        config = architecture(source, "model.encoder.pretrained")
        return model_class(getattr(config, "vision_config", config))
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a text tower is left out on purpose, a missing key is an error
    try:
        model, loaded = model_class.from_pretrained(
            source, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # a config.json that is not of its weights raises anything
        raise ConfigError(
            f"The encoder {pretrained!r} could not be loaded; {where} takes "
            f"the folder of a {model_class.__name__}, or of a model that holds one, "
            f"'pkg:PACKAGE/FOLDER' or a hub id. The cause: {type(error).__name__}: {error}"
        ) from error
    finally:
        logging.set_verbosity(level)
    if missing := sorted(loaded["missing_keys"]):
        raise ConfigError(
            f"{pretrained!r} is not a whole {model_class.__name__}: it has no {missing[0]!r} (and "
            f"{len(missing) - 1} more); point {where} at a folder that does."
            f"{_of_a_later_version(model.config)}"
        )
    return model


def _of_a_later_version(config: Any) -> str:  # noqa: ANN401
    """Return what to do about weights with the names that a later transformers gives them."""
    saved = Version(getattr(config, "transformers_version", None) or "0")
    if saved.major <= Version(transformers_version).major:
        return ""
    return (
        f" It was saved by transformers {saved}, whose names {transformers_version} does not know: "
        "install that version, or let an older one save it."
    )


def own_preprocess(
    source: str,
    side: int,
    mean: Sequence[float] = OPENAI_CLIP_MEAN,
    std: Sequence[float] = OPENAI_CLIP_STD,
) -> Preprocess:
    """Build the preprocessing that the source's image processor describes.

    Args:
        source: a folder or hub id.
        side: input side in pixels.
        mean: where its file says none; of images in [0, 1].
        std: likewise.

    Raises:
        ConfigError: the file is broken.
    """
    files = [
        cached_file(
            source,
            name,
            local_files_only=building_shapes(),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        for name in FILES
    ]
    folders = [Path(file).parent for file in files if file]
    try:
        found = read_image_processor(folders[0]) if folders else None
    except ValueError as error:
        raise ConfigError(f"The encoder's {error}") from error
    if found is None:
        return Preprocess((side, side), mean, std)
    white = found.value_range[1]
    return Preprocess(
        (side, side),
        found.mean or [value * white for value in mean],
        found.std or [value * white for value in std],
        found.value_range,
        found.interpolation or "bicubic",
    )


def resize_positions(table_PD: Tensor, side_in: int, side_out: int, prefix: int = 1) -> Tensor:
    """Interpolate a square grid's position table, the prefix's first: [P, D] to [P', D]."""
    if side_in == side_out:
        return table_PD
    grid_1Dhw = table_PD[prefix:].unflatten(0, (side_in, side_in)).permute(2, 0, 1)[None].float()
    # As transformers' interpolate_pos_encoding, but antialiased where the grid shrinks.
    grid_1Dhw = F.interpolate(
        grid_1Dhw, size=(side_out, side_out), mode="bicubic", antialias=side_out < side_in
    )
    patches_ND = grid_1Dhw[0].flatten(1).T.to(table_PD.dtype)
    return torch.cat([table_PD[:prefix], patches_ND])


@cache
def _asked_of(forward: Callable[..., Any]) -> Collection[str]:
    return inspect.signature(forward).parameters.keys()


def unmasked(block: nn.Module) -> dict[str, None]:
    """Return the masks that a block of transformers asks for; which ones depends on the version."""
    asked = _asked_of(type(block).forward)
    return {name: None for name in ("attention_mask", "causal_attention_mask") if name in asked}


def tower_of(model: Any) -> Any:  # noqa: ANN401 - another class in each version of transformers
    """Return the tower of a vision model; in transformers 5 a CLIPVisionModel is its own."""
    return getattr(model, "vision_model", model)


def output_of(block_output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return a block's hidden states, [B, P, D]: transformers 4 wraps them in a tuple, 5 does not.

    Indexing a tensor with [0] would drop the batch without a word.
    """
    return block_output if isinstance(block_output, Tensor) else block_output[0]


def set_encoder_mode(encoder: nn.Module, mode: bool) -> None:
    """Set the mode of LoRA inside an encoder; all else stays in eval, and gives every token."""
    from tove.backbones.language.adapters import set_adapter_mode

    for module in encoder.modules():
        module.training = False
    encoder.training = mode
    set_adapter_mode(encoder, mode)
