"""The depth experts: Depth Anything V2 and DPT (MiDaS 3.0), through transformers.

Each takes the image that its weights were trained on, 518 px in patches of 14 and 384 px in
patches of 16. `config` tells of the default weights what is not the library's default; weights of a
run's own bring their config.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tove_experts.exposed import expose
from tove_experts.hf import as_size, patch_grid, read_config, read_image
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["resolve", "specs", "tiny_depth_anything"]

SYNTHETIC = "595 thousand synthetic images with depth, 62 million real ones with pseudo labels"
MIX6 = "MIX 6, ten depth data sets with 1.4 million images, from ImageNet weights"
NONCOMMERCIAL = "CC-BY-NC-4.0"

# name: (size on the hub, width of the backbone, width of the decoder, licence, MB)
DEPTH_ANYTHING = {
    "depth_anything_v2_small": ("Small", 384, 64, "Apache-2.0", 99),
    "depth_anything_v2_base": ("Base", 768, 128, NONCOMMERCIAL, 390),
    "depth_anything_v2_large": ("Large", 1024, 256, NONCOMMERCIAL, 1341),
}
# By the width of a Depth Anything's backbone: its blocks, those that are read, widths of the neck.
BACKBONES = {
    384: (12, (3, 6, 9, 12), (48, 96, 192, 384)),
    768: (12, (3, 6, 9, 12), (96, 192, 384, 768)),
    1024: (24, (5, 12, 18, 24), (256, 512, 1024, 1024)),
}
# name: (repository, width of the backbone, MB, what else is not the library's default)
DPT: Mapping[str, tuple[str, int, int, Mapping[str, Any]]] = {
    "dpt_hybrid_midas": (
        "Intel/dpt-hybrid-midas",
        768,
        490,
        {"is_hybrid": True, "neck_hidden_sizes": [256, 512, 768, 768]},
    ),
    "dpt_large": (
        "Intel/dpt-large",
        1024,
        1368,
        {
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "backbone_out_indices": [5, 11, 17, 23],
            "neck_hidden_sizes": [256, 512, 1024, 1024],
        },
    ),
}
# Patches of the backbones that a DPT may have in place of its own: the library's defaults, for a
# nested config does not write them out. Swin's maps form a pyramid, which the decoder reads
# otherwise.
BACKBONE_PATCHES = {"dinov2": 14, "beit": 16}


def specs() -> Iterator[ExpertSpec]:
    """Yield the depth experts' specs."""
    for name, (size, width, fused, licence, size_mb) in DEPTH_ANYTHING.items():
        weights = Weights(
            f"hub:depth-anything/Depth-Anything-V2-{size}-hf",
            size_mb=size_mb,
            licence=licence,
            trained_on=SYNTHETIC,
            commercial_use=licence != NONCOMMERCIAL,
        )
        image = ImageSpec((518, 518), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        config = {
            "model_type": "depth_anything",
            "reassemble_hidden_size": width,
            "fusion_hidden_size": fused,
            "patch_size": 14,
            "neck_hidden_sizes": list(BACKBONES[width][2]),
            "backbone_config": _dinov2(width),
        }
        yield _spec(name, image, weights, config, tiny_depth_anything(fused))
    for name, (repository, width, size_mb, own) in DPT.items():
        weights = Weights(
            f"hub:{repository}",
            size_mb=size_mb,
            licence="Apache-2.0",
            trained_on=MIX6,
            commercial_use=True,
        )
        image = ImageSpec((384, 384), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        config = {
            "model_type": "dpt",
            "hidden_size": width,
            "fusion_hidden_size": 256,
            "patch_size": 16,
            **own,
        }
        yield _spec(name, image, weights, config, _tiny_dpt())


def resolve(
    spec: ExpertSpec,
    weights: Path | None,
    config: Mapping[str, Any],
    features: str = "decoder",
    stride: int | None = None,
    image_size: int | Sequence[int] | None = None,
) -> ExpertSpec:
    """Give the spec of a build with other weights or options; takes what `DepthExpert` takes.

    Raises:
        ValueError: Weights of another model, no such features, or a size or stride that does not
            divide.
    """
    image = spec.image
    if weights is not None:
        config = read_config(weights, (config["model_type"],))
        image = read_image(weights, image, interpolation=image.interpolation)
    image = replace(image, size=as_size(image_size) or image.size)
    patch, widths = _patch_and_widths(config)
    patch_grid(image.size, patch)
    if config["model_type"] == "dpt" and not _has_backbone(config) and len({*image.size}) > 1:
        raise ValueError(
            f"image_size is {image.size}, and this DPT takes square images only; give one side."
        )
    return expose(spec, image, features, patch if stride is None else stride, widths)


def _patch_and_widths(config: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """Give the patch in pixels and the token width of everything that can be exposed."""
    patch, width = config["patch_size"], config.get("reassemble_hidden_size")
    if config["model_type"] == "dpt":
        width = config["hidden_size"]
    if config["model_type"] == "dpt" and _has_backbone(config):
        backbone = config["backbone_config"]
        kind = backbone.get("model_type")
        if kind not in BACKBONE_PATCHES:
            raise ValueError(
                f"This DPT has a backbone of model_type {kind!r}, and the expert reads those of "
                f"{' and '.join(BACKBONE_PATCHES)} and DPT's own; choose other weights."
            )
        patch = backbone.get("patch_size", BACKBONE_PATCHES[kind])
        width = backbone.get("hidden_size", 768)  # the default of both
    return patch, {"decoder": config["fusion_hidden_size"], "backbone": width, "map": 1}


def _has_backbone(config: Mapping[str, Any]) -> bool:
    """Tell whether a DPT's trunk is another model than its own ViT or its hybrid."""
    return config.get("backbone_config") is not None and not config.get("is_hybrid", False)


def _spec(
    name: str, image: ImageSpec, weights: Weights, config: dict[str, Any], tiny: dict[str, Any]
) -> ExpertSpec:
    return ExpertSpec(
        name=name,
        task="depth",
        factory="tove_experts.depth:DepthExpert",
        tokens=TokenSpec(
            config["fusion_hidden_size"], patch_grid(image.size, config["patch_size"])
        ),
        image=image,
        weights=weights,
        options={"config": config, "features": "decoder"},
        tiny={"config": tiny},
        resolve="tove_experts.catalogue.depth:resolve",
        description="Relative depth of every pixel; the fused features that its head reads.",
    )


def _dinov2(width: int) -> dict[str, Any]:
    """Give the config of a Depth Anything's backbone."""
    num_blocks, read, _ = BACKBONES[width]
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": width // 64,
        "image_size": 518,
        "patch_size": 14,
        "out_indices": list(read),
        "reshape_hidden_states": False,
    }


def tiny_depth_anything(fused: int) -> dict[str, Any]:
    """One narrow block and one level of the decoder of the real width."""
    return {
        "model_type": "depth_anything",
        "reassemble_hidden_size": 32,
        "reassemble_factors": [1],
        "neck_hidden_sizes": [16],
        "fusion_hidden_size": fused,
        "head_hidden_size": 8,
        "patch_size": 14,
        "backbone_config": {
            "model_type": "dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "mlp_ratio": 1,
            "image_size": 518,
            "patch_size": 14,
            "out_indices": [1],
            "reshape_hidden_states": False,
        },
    }


def _tiny_dpt() -> dict[str, Any]:
    """The same of DPT; the hybrid's convolutions would make three wide levels of it."""
    return {
        "model_type": "dpt",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 32,
        "backbone_out_indices": [0],
        "reassemble_factors": [1],
        "neck_hidden_sizes": [16],
        "fusion_hidden_size": 256,
        "image_size": 384,
        "patch_size": 16,
    }
