"""Detection experts through transformers: DETR and RT-DETR.

`config` tells of the default weights what is not the library's default, so that
`features="queries"` resolves, and a plan is made, without their files; weights of a run's own bring
their config.json.
"""

from collections.abc import Iterator
from typing import Any

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]

COCO = "COCO 2017 detection (80 classes)"
# Layers of its ResNet: MB
DETR = {50: 167, 101: 243}
# name, which is the repository's: (model type, widths of the backbone's stages, data, MB)
RTDETR = {
    "rtdetr_r18vd": ("rt_detr", (128, 256, 512), COCO, 81),
    "rtdetr_r50vd": ("rt_detr", (512, 1024, 2048), COCO, 172),
    "rtdetr_r50vd_coco_o365": ("rt_detr", (512, 1024, 2048), f"Objects365, then {COCO}", 172),
    "rtdetr_v2_r18vd": ("rt_detr_v2", (128, 256, 512), COCO, 81),
    "rtdetr_v2_r50vd": ("rt_detr_v2", (512, 1024, 2048), COCO, 172),
}


def specs() -> Iterator[ExpertSpec]:
    """Yield the detection experts' specs."""
    yield from (_detr(layers) for layers in DETR)
    yield from (_rtdetr(name) for name in RTDETR)


def _detr(layers: int) -> ExpertSpec:
    tiny = {
        "model_type": "detr",
        "d_model": 256,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone_config": _tiny_backbone(patch=32, stages=1),
        "num_queries": 4,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
    }
    return ExpertSpec(
        name=f"detr_resnet_{layers}",
        task="detection",
        factory="tove_experts.detection:DetrExpert",
        resolve="tove_experts.detection:resolve_detr",
        tokens=TokenSpec(width=256, grid=(25, 25)),
        image=ImageSpec(
            size=(800, 800),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            interpolation="bilinear",
        ),
        weights=Weights(
            f"hub:facebook/detr-resnet-{layers}",
            size_mb=DETR[layers],
            licence="Apache-2.0",
            trained_on=f"ImageNet-1k, then {COCO}",
            commercial_use=True,
        ),
        # The backbone in this checkpoint is timm's.
        requires=("timm",),
        options={
            "features": "encoder",
            "stride": 32,
            "config": {
                "model_type": "detr",
                "d_model": 256,
                "backbone": f"resnet{layers}",
                "use_pretrained_backbone": False,  # of random weights
            },
        },
        tiny={"config": tiny},
        description="DETR: its encoder's last layer, which the object queries attend to.",
    )


def _rtdetr(name: str) -> ExpertSpec:
    model_type, stages, data, size_mb = RTDETR[name]
    config = {"model_type": model_type, "encoder_hidden_dim": 256, "d_model": 256}
    tiny = config | {
        "backbone_config": _tiny_backbone(patch=16, stages=2),
        # Two levels, the finest of stride 16, and thin blocks: the width must be the true one.
        "encoder_in_channels": [8, 8],
        "feat_strides": [16, 32],
        "encode_proj_layers": [1],
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "hidden_expansion": 0.0625,
        "num_queries": 4,
        "num_feature_levels": 2,
        "decoder_n_levels": 2,  # what the second version calls the same
        "decoder_in_channels": [256, 256],
        "decoder_layers": 2,  # transformers 5 ties the heads of those after the first
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
        "num_denoising": 0,
    }
    return ExpertSpec(
        name=name,
        task="detection",
        factory="tove_experts.detection:RTDetrExpert",
        resolve="tove_experts.detection:resolve_rtdetr",
        tokens=TokenSpec(width=256, grid=(40, 40)),
        # Its image processor scales pixels to [0, 1] and leaves them so.
        image=ImageSpec(
            size=(640, 640),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="bilinear",
        ),
        weights=Weights(
            f"hub:PekingU/{name}",
            size_mb=size_mb,
            licence="Apache-2.0",
            trained_on=f"ImageNet-1k, then {data}",
            commercial_use=True,
        ),
        options={
            "features": "encoder",
            "stride": 16,
            "config": config | {"encoder_in_channels": list(stages), **_own(stages)},
        },
        tiny={"config": tiny},
        description="RT-DETR: the finest level of its hybrid encoder.",
    )


def _own(stages: tuple[int, ...]) -> dict[str, Any]:
    """Give what the smallest RT-DETR has of its own; the others have the library's defaults."""
    if stages[0] > 128:
        return {}
    backbone = {
        "model_type": "rt_detr_resnet",
        "layer_type": "basic",
        "depths": [2, 2, 2, 2],
        "hidden_sizes": [64, *stages],
        "out_features": ["stage2", "stage3", "stage4"],
    }
    return {"backbone_config": backbone, "hidden_expansion": 0.5, "decoder_layers": 3}


def _tiny_backbone(patch: int, stages: int) -> dict[str, Any]:
    """Cells that do not overlap, from the first stage on: a token is of its own place.

    A random ResNet's tokens would lie to a side, wherever its kernels happen to lean.
    """
    return {
        "model_type": "convnext",
        "patch_size": patch,
        "num_stages": stages,
        "hidden_sizes": [8] * stages,
        "depths": [1] * stages,
        "out_features": [f"stage{stage}" for stage in range(1, stages + 1)],
    }
