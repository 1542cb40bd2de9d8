"""One expert for every backbone that transformers' AutoBackbone loads.

Without weights of the run's own it is Swin-T. Any other comes by its folder or hub id, and the spec
of that build is read from it:

    dict(type="transformers_backbone", weights="hub:microsoft/resnet-50")
"""

from collections.abc import Iterator

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]

SWIN_TINY = {
    "model_type": "swin",
    "image_size": 224,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
}


def specs() -> Iterator[ExpertSpec]:
    """Yield the expert's spec."""
    yield ExpertSpec(
        name="transformers_backbone",
        task="any backbone",
        factory="tove_experts.transformers_backbone:TransformersBackbone",
        tokens=TokenSpec(width=768, grid=(7, 7)),
        image=ImageSpec((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        weights=Weights(
            "hub:microsoft/swin-tiny-patch4-window7-224",
            size_mb=113,
            licence="Apache-2.0",
            trained_on="ImageNet-1k classification",
            commercial_use=True,
        ),
        options={"config": SWIN_TINY, "stage": -1},
        tiny={"config": SWIN_TINY | {"depths": [1, 1, 1, 1], "mlp_ratio": 0.1}},
        resolve="tove_experts.transformers_backbone:resolve",
        description="Any backbone of transformers, Swin-T at first; one stage's feature map.",
    )
