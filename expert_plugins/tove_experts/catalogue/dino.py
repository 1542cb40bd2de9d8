"""The DINO experts: DINOv2, DINOv2 with registers and DINOv3, through transformers.

Their image sizes are ours to choose, for all of them take any that divides by the patch. DINOv2 is
pretrained at 224 px and only finished at 518; its 14-pixel patches give 16 x 16 tokens at 224, the
grid that CLIP ViT-L/14 has, for a fifth of the 37 x 37 tokens at 518. DINOv3 is pretrained at
256 px, with 16-pixel patches the same grid, so that one can stand in for the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tove_experts.hf import as_size, patch_grid, read_config, read_image
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["num_blocks_read", "resolve", "specs"]


class Model(NamedTuple):
    """A published model: "facebook/..." on the hub, megabytes of its float32 weights."""

    model_type: str
    repository: str
    width: int
    num_blocks: int
    size_mb: float


REGISTERS = "dinov2_with_registers"
MODELS = {
    "dinov2_small": Model("dinov2", "dinov2-small", 384, 12, 88),
    "dinov2_base": Model("dinov2", "dinov2-base", 768, 12, 346),
    "dinov2_large": Model("dinov2", "dinov2-large", 1024, 24, 1218),
    "dinov2_small_reg": Model(REGISTERS, "dinov2-with-registers-small", 384, 12, 88),
    "dinov2_base_reg": Model(REGISTERS, "dinov2-with-registers-base", 768, 12, 346),
    "dinov2_large_reg": Model(REGISTERS, "dinov2-with-registers-large", 1024, 24, 1218),
    "dinov3_vits16": Model("dinov3_vit", "dinov3-vits16-pretrain-lvd1689m", 384, 12, 86),
    "dinov3_vitb16": Model("dinov3_vit", "dinov3-vitb16-pretrain-lvd1689m", 768, 12, 343),
    "dinov3_vitl16": Model("dinov3_vit", "dinov3-vitl16-pretrain-lvd1689m", 1024, 24, 1212),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
IMAGES = {
    "dinov2": ImageSpec(size=(224, 224), mean=MEAN, std=STD),
    REGISTERS: ImageSpec(size=(224, 224), mean=MEAN, std=STD),
    "dinov3_vit": ImageSpec(size=(256, 256), mean=MEAN, std=STD, interpolation="bilinear"),
}
PATCHES = {"dinov2": 14, REGISTERS: 14, "dinov3_vit": 16}


def specs() -> Iterator[ExpertSpec]:
    """Yield the DINO experts' specs."""
    for name, model in MODELS.items():
        image, patch = IMAGES[model.model_type], PATCHES[model.model_type]
        yield ExpertSpec(
            name=name,
            task="self-supervised",
            factory="tove_experts.dino:DinoExpert",
            tokens=TokenSpec(width=model.width, grid=patch_grid(image.size, patch)),
            image=image,
            weights=_weights(model),
            requires=("transformers>=4.56",) if model.model_type == "dinov3_vit" else (),
            options={"config": _config(model), "layer": -1},
            tiny={"config": _tiny(model, image.size[0])},
            resolve="tove_experts.catalogue.dino:resolve",
            description="Self-distillation without labels; patch tokens of the last block.",
        )


def resolve(
    spec: ExpertSpec,
    weights: Path | None,
    config: Mapping[str, Any],
    layer: int = -1,
    image_size: int | Sequence[int] | None = None,
) -> ExpertSpec:
    """Give the spec of a build with other weights or options; takes what `DinoExpert` takes.

    The size is the option's or the expert's own, not that of the weights' image processor: a
    local copy of the default weights gives the very tokens that the default gives.

    Raises:
        ValueError: Weights of another model type, no such layer, or a size that the patch does not
            divide.
    """
    image = spec.image
    if weights is not None:
        config = read_config(weights, (config["model_type"],))
        image = read_image(weights, image, image.size, image.interpolation)
    num_blocks_read(layer, config["num_hidden_layers"])
    size = as_size(image_size) or image.size
    return replace(
        spec,
        image=replace(image, size=size),
        tokens=TokenSpec(config["hidden_size"], patch_grid(size, config["patch_size"])),
    )


def num_blocks_read(layer: int, num_blocks: int) -> int:
    """Give how many blocks run for `layer`, an index into the model's hidden states.

    Raises:
        ValueError: There is no such hidden state.
    """
    if not -num_blocks - 1 <= layer <= num_blocks:
        raise ValueError(
            f"layer={layer} is not there: the model has {num_blocks} blocks, so layer is 0 (the "
            f"patch embeddings) to {num_blocks} (the last block), or -1 to {-num_blocks - 1} "
            "counted from the end."
        )
    return layer % (num_blocks + 1)


def _config(model: Model) -> dict[str, Any]:
    """Give of the model's config.json what is not the library's default."""
    config = {
        "model_type": model.model_type,
        "hidden_size": model.width,
        "num_hidden_layers": model.num_blocks,
        "num_attention_heads": model.width // 64,
        "patch_size": PATCHES[model.model_type],
    }
    if model.model_type == "dinov3_vit":
        config["intermediate_size"] = 4 * model.width
    return config


def _tiny(model: Model, side: int) -> dict[str, Any]:
    """Tokens as wide as the model's at little cost, for the conformance kit runs many images.

    One block with a small MLP, whose ratio has to be an int; the wide models have no block, for its
    attention alone would cost more than all the rest.
    """
    dinov2 = {"image_size": side, "mlp_ratio": 1}
    return {
        **_config(model),
        "num_hidden_layers": 1 if model.width < 512 else 0,
        **({"intermediate_size": 16} if model.model_type == "dinov3_vit" else dinov2),
        **({} if model.model_type == "dinov2" else {"num_register_tokens": 4}),
    }


def _weights(model: Model) -> Weights:
    three = model.model_type == "dinov3_vit"
    return Weights(
        source=f"hub:facebook/{model.repository}",
        size_mb=model.size_mb,
        licence="DINOv3 License" if three else "Apache-2.0",
        trained_on="LVD-1689M, 1.7 billion web images, distilled from the 7B model"
        if three
        else "LVD-142M, 142 million curated web images, without labels",
        commercial_use=True,
    )
