"""CLIP between transformers and open_clip: the same network under two sets of names.

| open_clip                               | transformers                                     |
|-----------------------------------------|--------------------------------------------------|
| visual.conv1, ln_pre, ln_post           | embeddings.patch_embedding, pre_layrnorm, post_* |
| transformer.resblocks.i.ln_1, ln_2      | encoder.layers.i.layer_norm1, layer_norm2        |
| ...attn.in_proj_weight (packed q, k, v) | ...self_attn.{q,k,v}_proj.weight                 |
| ...mlp.c_fc, c_proj                     | ...mlp.fc1, fc2                                  |
| visual.proj, text_projection  [D, E]    | visual_projection, text_projection .weight [E, D]|

What one side can say and the other cannot is refused in one sentence.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from tove.errors import ConfigError

__all__ = [
    "clip_from_open_clip",
    "open_clip_config",
    "open_clip_state",
    "open_clip_vision_config",
    "placeholder_text_config",
    "vision_config_from_open_clip",
    "vision_state_from_open_clip",
    "vision_state_to_open_clip",
]

State = dict[str, Tensor]

# (open_clip, transformers); a tower's own names first, then those of a block.
_VISION = (
    ("class_embedding", "embeddings.class_embedding"),
    ("conv1.weight", "embeddings.patch_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_pre.", "pre_layrnorm."),
    ("ln_post.", "post_layernorm."),
)
_TEXT = (
    ("token_embedding.weight", "embeddings.token_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.", "final_layer_norm."),
)
_BLOCK = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
)
_BLOCKS = ("transformer.resblocks.", "encoder.layers.")
_Names = tuple[tuple[str, str], ...]

# open_clip's switches that change what a tower gives and that transformers' CLIP does not have.
_UNKNOWN_TO_EITHER = (
    "ls_init_value",
    "act_kwargs",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
_UNKNOWN_TO_TRANSFORMERS = (*_UNKNOWN_TO_EITHER, "attentional_pool", "no_ln_pre", "timm_model_name")
_UNKNOWN_TO_TEXT = (
    *_UNKNOWN_TO_EITHER,
    "embed_cls",
    "no_causal_mask",
    "proj_bias",
    "hf_model_name",
)


def _to_open_clip(state: Mapping[str, Tensor], names: _Names) -> State:
    """Rename one tower's state and pack its q, k, v."""
    renamed: State = {}
    for name, tensor in state.items():
        for ours, theirs in (*names, *_BLOCK, _BLOCKS):
            name = name.replace(theirs, ours)
        renamed[name] = tensor
    for name in [name for name in renamed if ".self_attn.q_proj." in name]:
        packed = [renamed.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        renamed[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(packed)
    return renamed


def _to_transformers(state: Mapping[str, Tensor], names: _Names) -> State:
    """Rename one tower's state and unpack its q, k, v."""
    renamed: State = {}
    for name, tensor in state.items():
        for ours, theirs in (*names, *_BLOCK, _BLOCKS):
            name = name.replace(ours, theirs)
        if ".attn.in_proj_" not in name:
            renamed[name] = tensor
            continue
        for part, rows in zip("qkv", tensor.chunk(3), strict=True):
            renamed[name.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = rows.clone()
    return renamed


def vision_state_to_open_clip(state: Mapping[str, Tensor], projection: Tensor | None) -> State:
    """Turn a transformers vision tower's state into that of open_clip's `visual`.

    Args:
        state: of `CLIPVisionModel.vision_model`.
        projection: [E, D] weight of visual_projection; None is the identity.
    """
    visual = _to_open_clip(state, _VISION)
    width = visual["class_embedding"].shape[0]
    visual["proj"] = (torch.eye(width) if projection is None else projection).T.contiguous()
    return visual


def vision_state_from_open_clip(state: Mapping[str, Tensor]) -> State:
    """Turn the state of open_clip's `visual` into that of transformers' vision tower."""
    return _to_transformers({n: t for n, t in state.items() if n != "proj"}, _VISION)


def open_clip_state(vision: Mapping[str, Tensor], source: CLIPModel) -> State:
    """Join a vision tower's state with the text tower of a full CLIPModel, as open_clip has them.

    Args:
        vision: state of a `vision_model`, in transformers' names.
        source: the model that the text tower, the projections and the temperature come from.
    """
    visual = vision_state_to_open_clip(vision, source.visual_projection.weight.data)
    text = _to_open_clip(source.text_model.state_dict(), _TEXT)
    return {
        **{f"visual.{name}": tensor for name, tensor in visual.items()},
        **text,
        "text_projection": source.text_projection.weight.data.T.contiguous(),
        "logit_scale": source.logit_scale.data,
    }


def _mlp_ratio(config: CLIPVisionConfig | CLIPTextConfig) -> float:
    return config.intermediate_size / config.hidden_size


def _norm_kwargs(config: CLIPVisionConfig | CLIPTextConfig) -> dict[str, Any]:
    eps = config.layer_norm_eps
    return {} if eps == 1e-5 else {"norm_kwargs": {"eps": eps}}


def _is_quick(config: CLIPVisionConfig | CLIPTextConfig) -> bool:
    if config.hidden_act not in ("quick_gelu", "gelu"):
        raise ConfigError(
            f"The encoder's activation is {config.hidden_act!r}, which open_clip's ViT does not "
            "have ('gelu' and 'quick_gelu' it has); export it with formats=('transformers',)."
        )
    return config.hidden_act == "quick_gelu"


def open_clip_vision_config(config: CLIPVisionConfig) -> dict[str, Any]:
    """Say in open_clip's `vision_cfg` what a CLIPVisionConfig says."""
    if config.num_channels != 3:
        raise ConfigError(
            f"The encoder takes {config.num_channels} channels, but open_clip's ViT takes 3; "
            "export it with formats=('transformers',)."
        )
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "head_width": config.hidden_size // config.num_attention_heads,
        "mlp_ratio": _mlp_ratio(config),
        **_norm_kwargs(config),
    }


def _open_clip_text_config(config: CLIPTextConfig) -> dict[str, Any]:
    # transformers keeps an old default, eos_token_id = 2, for "the highest id ends the text".
    by_id = {"pool_type": "eos", "eos_id": config.eos_token_id}
    return {
        "context_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "layers": config.num_hidden_layers,
        "mlp_ratio": _mlp_ratio(config),
        **(by_id if config.eos_token_id != 2 else {}),
        **_norm_kwargs(config),
    }


def placeholder_text_config() -> dict[str, Any]:
    """Give the smallest text tower that open_clip builds: its CLIP cannot be without one."""
    return {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}


def open_clip_config(vision: CLIPVisionConfig, source: CLIPModel | None) -> dict[str, Any]:
    """Give open_clip's `model_cfg` of a vision tower and, where there is one, its text tower."""
    text, embed_dim = placeholder_text_config(), vision.hidden_size
    if source is not None:
        text, embed_dim = _open_clip_text_config(source.config.text_config), source.projection_dim
        if _is_quick(source.config.text_config) != _is_quick(vision):
            raise ConfigError(
                "The image tower and the text tower have different activations, for which "
                "open_clip has no config; export with formats=('transformers',)."
            )
    return {
        "embed_dim": embed_dim,
        "quick_gelu": _is_quick(vision),
        "vision_cfg": open_clip_vision_config(vision),
        "text_cfg": text,
    }


def vision_config_from_open_clip(
    model_cfg: Mapping[str, Any],
    visual: Any,  # noqa: ANN401 - open_clip is not typed
) -> CLIPVisionConfig:
    """Say in a CLIPVisionConfig what open_clip's `model_cfg` says about its ViT.

    Raises:
        ConfigError: the ViT has something that transformers' CLIP does not.
    """
    vision = model_cfg["vision_cfg"]
    extra = [key for key in _UNKNOWN_TO_TRANSFORMERS if vision.get(key) not in (None, False)]
    extra += [] if vision.get("pool_type", "tok") == "tok" else ["pool_type"]
    extra += [] if vision.get("block_type") in (None, "default") else ["block_type"]
    if extra:
        raise ConfigError(
            f"The open_clip encoder has {', '.join(extra)} in its vision_cfg, which transformers' "
            "CLIPVisionModel does not have; export it with formats=('open_clip',)."
        )
    first = visual.transformer.resblocks[0]
    return CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=first.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=first.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        hidden_act="quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
        layer_norm_eps=first.ln_1.eps,
        projection_dim=visual.output_dim,
    )


def clip_from_open_clip(
    model_cfg: Mapping[str, Any],
    source: Any,  # noqa: ANN401 - open_clip is not typed
    vision_config: CLIPVisionConfig,
    vision: Mapping[str, Tensor],
) -> CLIPModel | None:
    """Join a vision tower with the text tower of an open_clip CLIP, as transformers has them.

    Args:
        model_cfg: open_clip's config of the source.
        source: the model that the text tower, the projections and the temperature come from.
        vision_config: of the vision tower.
        vision: its state, in transformers' names.

    Returns:
        The model; None where the text tower has something that transformers' CLIP does not.
    """
    text_config = _text_config_from_open_clip(model_cfg, source)
    if text_config is None:
        return None
    own = ("visual.", "text_projection", "logit_scale")
    text = {n: t for n, t in source.state_dict().items() if not n.startswith(own)}
    model = CLIPModel(
        CLIPConfig(
            text_config=text_config.to_dict(),
            vision_config=vision_config.to_dict(),
            projection_dim=source.text_projection.shape[1],
            logit_scale_init_value=source.logit_scale.item(),
        )
    )
    model.load_state_dict(
        {
            **{f"vision_model.{n}": t for n, t in vision.items()},
            **{f"text_model.{n}": t for n, t in _to_transformers(text, _TEXT).items()},
            "visual_projection.weight": source.visual.proj.T.contiguous(),
            "text_projection.weight": source.text_projection.T.contiguous(),
            "logit_scale": source.logit_scale.reshape(()),
        }
    )
    return model


def _text_config_from_open_clip(
    model_cfg: Mapping[str, Any],
    source: Any,  # noqa: ANN401 - open_clip is not typed
) -> CLIPTextConfig | None:
    text, pool = model_cfg["text_cfg"], model_cfg["text_cfg"].get("pool_type", "argmax")
    eos_id = text.get("eos_id", 2) if pool == "eos" else 2
    plain = not any(text.get(key) for key in _UNKNOWN_TO_TEXT)
    plain &= text.get("proj_type", "linear") == "linear" and hasattr(source, "token_embedding")
    plain &= pool == "argmax" or (pool == "eos" and eos_id != 2)
    plain &= getattr(source, "logit_bias", None) is None
    if not plain:
        return None
    first = source.transformer.resblocks[0]
    return CLIPTextConfig(
        vocab_size=source.vocab_size,
        hidden_size=source.ln_final.normalized_shape[0],
        intermediate_size=first.mlp.c_fc.out_features,
        num_hidden_layers=len(source.transformer.resblocks),
        num_attention_heads=first.attn.num_heads,
        max_position_embeddings=source.context_length,
        hidden_act="quick_gelu" if model_cfg.get("quick_gelu") else "gelu",
        layer_norm_eps=source.ln_final.eps,
        projection_dim=source.text_projection.shape[1],
        eos_token_id=eos_id,
        bos_token_id=min(1, source.vocab_size - 1),
    )
