"""The spec of timm's models: one name for all of them.

The static numbers are those of its default, which a bare `dict(type="timm")` builds; of any other
model, `tove_experts.timm_backbone.resolve` tells them.
"""

from collections.abc import Iterator

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]


def specs() -> Iterator[ExpertSpec]:
    """Yield the spec of `timm`."""
    yield ExpertSpec(
        name="timm",
        task="any",
        factory="tove_experts.timm_backbone:TimmBackbone",
        resolve="tove_experts.timm_backbone:resolve",
        tokens=TokenSpec(width=768, grid=(14, 14)),
        image=ImageSpec(size=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        weights=Weights(
            source="hub:timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/model.safetensors",
            size_mb=346,
            licence="Apache-2.0",
            trained_on="ImageNet-21k, then ImageNet-1k",
            commercial_use=True,
        ),
        requires=("timm>=1.0.17",),
        tiny={"tower": {"depth": 1, "mlp_ratio": 0.25}},
        description="Any backbone of timm by `model`; patch tokens or the last stage's map.",
    )
