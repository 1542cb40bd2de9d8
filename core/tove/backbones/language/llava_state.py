"""The weights of a Llava model of transformers, by the names that its hub folders have.

    vision_tower.vision_model.*                CLIP
    multi_modal_projector.linear_{1,2}.*       the projector
    language_model.model.*                     the language model, LoRA folded in
    language_model.lm_head.weight              left out where it is the word embeddings
    image_newline                              LLaVA-NeXT alone

Every version of transformers, and the servers that read its folders, take these names; what
`save_pretrained` of a later version writes, an earlier one reads without its vision tower.

Shapes: V vocabulary, D language width.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from tove.errors import ConfigError

__all__ = ["check_head", "language_state", "vision_state", "with_token_rows"]


def vision_state(tower: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a CLIPVisionModel; transformers 5 drops a level of their names."""
    state = tower.state_dict()
    prefix = "" if any(name.startswith("vision_model.") for name in state) else "vision_model."
    return {
        f"vision_tower.{prefix}{name}": tensor
        for name, tensor in state.items()
        if not name.endswith("position_ids")
    }


@torch.no_grad()
def check_head(model: Any) -> None:  # noqa: ANN401
    """Check that a causal language model's logits are the product with its head, and no more.

    Raises:
        ConfigError: a bias, a scale or a cap is upon them, for which a Llava model has no place.
    """
    head = model.get_output_embeddings()
    products: list[Tensor] = []
    with head.register_forward_hook(lambda layer, given, product: products.append(product)):
        words_12D = model.get_input_embeddings().weight[None, :2]
        logits_12V = model(inputs_embeds=words_12D, use_cache=False).logits
    same = torch.equal(products[0].to(logits_12V.dtype), logits_12V)
    if same and getattr(head, "bias", None) is None:
        return
    raise ConfigError(
        f"{type(model).__name__} has a bias, a scale or a cap on the logits of its head, which "
        "stock Llava models have not, so no Llava folder can hold this language model; use a "
        "Llama, Qwen, Mistral, SmolLM2, Phi-3 or Gemma 3 model."
    )


@torch.no_grad()
def language_state(model: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Return the weights of a causal language model, LoRA folded in; the model stays as it is."""
    head = model.get_output_embeddings()
    folded = _folded(model)
    base, words = model.base_model, model.get_input_embeddings().weight
    state = {}
    for name, tensor in base.state_dict(keep_vars=True).items():
        if "lora_" not in name:
            plain = name.replace(".base_layer.", ".")
            state[f"language_model.model.{plain}"] = folded.get(id(tensor), tensor).detach()
    if head.weight is not words:
        state["language_model.lm_head.weight"] = head.weight.detach()
    return state


def with_token_rows(state: dict[str, Tensor], embedding: str, num_tokens: int) -> None:
    """Give word embeddings, and a head of their own, rows up to a number of tokens, in place.

    New rows are the mean of the others. The head's then gives the mean of all logits, so that a
    token that no text has is never the likeliest.

    Args:
        state: of a Llava model.
        embedding: name of the word embeddings.
        num_tokens: rows wanted.
    """
    for name in (embedding, "language_model.lm_head.weight"):
        if name in state and len(state[name]) < num_tokens:
            table_VD = state[name]
            mean_1D = table_VD.float().mean(0, keepdim=True).to(table_VD.dtype)
            extra = mean_1D.expand(num_tokens - len(table_VD), -1)
            state[name] = torch.cat([table_VD, extra])


def _folded(model: nn.Module) -> dict[int, Tensor]:
    """Return the weights that LoRA adds to, with what it adds, by the identity of the weight."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    folded: dict[int, Tensor] = {}
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            merged = deepcopy(layer)  # one layer at a time: the model may fill the memory
            merged.merge(safe_merge=True)
            own = dict(layer.get_base_layer().named_parameters())
            for name, tensor in merged.get_base_layer().named_parameters():
                folded[id(own[name])] = tensor
    return folded
