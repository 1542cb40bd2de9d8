"""Loading of causal language models from transformers, with what their families need amended.

RoBERTa's kin count positions from behind the padding index, which `generate()` of transformers does
not know; models shipped with sampling settings must not sample here.
"""

import inspect
import os
from collections.abc import Collection
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from tove.backbones.shapes import architecture, building_shapes, word_tokenizer
from tove.errors import ConfigError

__all__ = [
    "CROSS_ATTENTION",
    "cache_argument",
    "cross_attention_readers",
    "first_position",
    "is_cross_attention",
    "load_causal_lm",
    "new_cache",
    "room_for_text",
    "unfreeze_cross_attention",
]

_READERS = ("c_attn", "key", "value", "k_proj", "v_proj")
CROSS_ATTENTION = ("crossattention", "cross_attn", "encoder_attn")
"""Parts of the names of a block's cross-attention and its norm, which begin anew where missing."""


def load_causal_lm(pretrained: str, fusion: str, dtype: str | None) -> tuple[Any, Any]:
    """Load the weights and the tokenizer, as a decoder, with cross-attention where asked for.

    Args:
        pretrained: a folder written by `save_pretrained`, "pkg:PACKAGE/PATH", or a hub id.
        fusion: "cross_attention" or "prefix".
        dtype: torch dtype by name; None is float32.

    Returns:
        The model, with neutral generation settings, and its tokenizer; the classes that generate
        share no static type.

    Raises:
        ConfigError: no such causal language model, or one without cross-attention.
    """
    source = pretrained
    if pretrained.startswith("pkg:"):
        from tove_plugins import resolve_resource

        source = str(resolve_resource(pretrained))
    elif pretrained.startswith((os.sep, ".", "~")):
        source = os.path.expanduser(pretrained)
        if not os.path.isdir(source):
            raise ConfigError(
                f"language.pretrained names the folder {pretrained!r}, which does not exist; "
                "give a folder written by save_pretrained, 'pkg:PACKAGE/PATH' or a hub id."
            )
    try:
        model, tokenizer, absent = _loaded(source, fusion, dtype)
    except Exception as error:  # a config.json that is not of its weights raises anything
        raise ConfigError(
            f"The language model {pretrained!r} (language.pretrained) could not be loaded; give a "
            "folder written by save_pretrained, 'pkg:PACKAGE/PATH' or the hub id of a causal "
            f"language model. The cause: {type(error).__name__}: {error}"
        ) from error
    missing = sorted(name for name in absent if not is_cross_attention(name))
    if missing:
        raise ConfigError(
            f"{pretrained!r} (language.pretrained) lacks {len(missing)} of the weights that a "
            f"{type(model).__name__} has ({missing[0]}, ...), which would be random; it is of "
            "another kind of model, or cut short. Fetch it again, or name another."
        )
    if fusion == "cross_attention" and not any(
        is_cross_attention(name) for name, _ in model.named_parameters()
    ):
        raise ConfigError(
            f"{type(model).__name__} ({pretrained!r}) has no cross-attention; use "
            "language.fusion='prefix' with it, or a GPT-2, BERT or RoBERTa model."
        )
    model.generation_config = GenerationConfig()
    for part in model.modules():
        # It reads ids back from the device in each forward, to warn of padding without a mask.
        if hasattr(part, "warn_if_padding_and_no_attention_mask"):
            part.warn_if_padding_and_no_attention_mask = _warn_of_nothing
    if first_position(model):
        model.prepare_inputs_for_generation = MethodType(_offset_inputs, model)
    return model, tokenizer


def _loaded(source: str, fusion: str, dtype: str | None) -> tuple[Any, Any, Collection[str]]:
    """Return a model, its tokenizer, and the names of the weights that the source lacks."""
    shapes = building_shapes()
    config = (
        architecture(source, "model.language.pretrained")
        if shapes
        else AutoConfig.from_pretrained(source)
    )
    config.is_decoder = True
    config.add_cross_attention = fusion == "cross_attention"
    loader: Any = AutoModelForCausalLM
    if shapes:
        model = loader.from_config(config, dtype=getattr(torch, dtype or "float32"))
        return model, word_tokenizer(source), ()
    model, loaded = loader.from_pretrained(
        source, config=config, dtype=dtype or torch.float32, output_loading_info=True
    )
    return model, AutoTokenizer.from_pretrained(source), loaded["missing_keys"]


def _warn_of_nothing(*args: object, **kwargs: object) -> None:
    """Stand in for a library's warning; causal attention sees no padding to its right."""


def is_cross_attention(name: str) -> bool:
    """Tell whether a parameter or module name lies in a cross-attention block."""
    return any(part in name for part in CROSS_ATTENTION)


def cross_attention_readers(model: nn.Module) -> list[nn.Module]:
    """Give the layers that make keys and values of the memory, block by block."""
    readers = []
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in CROSS_ATTENTION:
            continue
        for inner_name, inner in module.named_modules():
            if inner_name.rpartition(".")[2] in _READERS:
                readers.append(inner)
    return readers


def unfreeze_cross_attention(model: nn.Module) -> None:
    """Let the cross-attention train, with its layer norms; LoRA inside it is left as it is."""
    for name, parameter in model.named_parameters():
        if is_cross_attention(name) and "lora_" not in name:
            parameter.requires_grad_(True)


def first_position(model: nn.Module) -> int:
    """Return the first position id: RoBERTa's kin begin behind the padding index, others at 0."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding) and table.padding_idx is not None:
            return table.padding_idx + 1
    return 0


def room_for_text(model: Any, first: int, taken: int) -> int:  # noqa: ANN401
    """Return how many text tokens the position embeddings leave room for.

    Args:
        model: a causal language model.
        first: its first position.
        taken: number of vision tokens before the text.

    Raises:
        ConfigError: not even for a start token and one more.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None:
        return 2**31
    room = positions - first - taken
    if room < 2:
        raise ConfigError(
            f"The {taken} vision tokens leave no room for text among the {positions} positions "
            "of the language model; use language.fusion='cross_attention', a smaller "
            "model.encoder.image_size or a model with more positions."
        )
    return room


def cache_argument(model: Any) -> str | None:  # noqa: ANN401
    """Return how a model's forward and generate call the cache; None where they take none."""
    taken = inspect.signature(model.forward).parameters
    # transformers renamed it on the way through version 5.
    return next((name for name in ("cache", "past_key_values") if name in taken), None)


def new_cache(model: Any, fusion: str) -> Cache | None:  # noqa: ANN401
    """Make an empty cache; None where the model has another kind, as state-space models do."""
    if cache_argument(model) is None or getattr(model, "_is_stateful", False):
        return None
    if fusion == "prefix":
        return DynamicCache()
    # The BERT classes write both kinds of keys into a plain cache, hence the double one.
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def _offset_inputs(
    self: Any,  # noqa: ANN401
    input_ids: Tensor,
    inputs_embeds: Tensor | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Shift the positions that generate() counts from 0, wrongly for RoBERTa's kin."""
    prepare = type(self).prepare_inputs_for_generation
    inputs = prepare(self, input_ids, inputs_embeds=inputs_embeds, **kwargs)
    inputs["position_ids"] = inputs["position_ids"] + self.config.pad_token_id + 1
    return inputs
