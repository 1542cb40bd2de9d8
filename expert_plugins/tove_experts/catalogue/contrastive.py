"""The contrastive experts: EVA-02, SigLIP and SigLIP 2 through timm, ConvNeXt through open_clip.

An expert needs no text tower. Where timm publishes the vision tower by itself that file is taken:
it is half of open_clip's or less, and the tokens are the same. Of each ViT it is the one whose
14 x 14 or 16 x 16 tokens are CLIP's own grid; the finer ones come by name:

    dict(type="timm", model="vit_so400m_patch16_siglip_384.v2_webli")

`open_clip` takes any other model of open_clip's list, folders and files.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]


class Vit(NamedTuple):
    """A vision tower that timm publishes: its name there, width, patch, side in pixels, size."""

    model: str
    width: int
    patch: int
    side: int
    size_mb: float


class ConvNext(NamedTuple):
    """A model of open_clip's: its name and weights, last stage's width, side in pixels, size."""

    model: str
    repository: str
    width: int
    side: int
    size_mb: float


EVA02 = {
    "eva02_clip_base": Vit("eva02_base_patch16_clip_224.merged2b", 768, 16, 224, 345),
    "eva02_clip_large": Vit("eva02_large_patch14_clip_224.merged2b", 1024, 14, 224, 1216),
}
SIGLIP = {
    "siglip_base": Vit("vit_base_patch16_siglip_224.webli", 768, 16, 224, 372),
    "siglip_so400m": Vit("vit_so400m_patch14_siglip_224.webli", 1152, 14, 224, 1711),
    "siglip2_base": Vit("vit_base_patch16_siglip_224.v2_webli", 768, 16, 224, 372),
    "siglip2_large": Vit("vit_large_patch16_siglip_256.v2_webli", 1024, 16, 256, 1264),
    "siglip2_so400m": Vit("vit_so400m_patch16_siglip_256.v2_webli", 1152, 16, 256, 1712),
}
CONVNEXT = {
    "clip_convnext_base": ConvNext(
        "convnext_base_w", "CLIP-convnext_base_w-laion2B-s13B-b82K-augreg", 1024, 256, 718
    ),
    "clip_convnext_large": ConvNext(
        "convnext_large_d_320",
        "CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup",
        1536,
        320,
        1407,
    ),
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
TIMM, OPEN_CLIP = "timm>=1.0.17", "open_clip_torch>=3.1"


def specs() -> Iterator[ExpertSpec]:
    """Yield the contrastive experts' specs."""
    for name, eva02 in EVA02.items():
        image = ImageSpec((eva02.side, eva02.side), CLIP_MEAN, CLIP_STD)
        data = "Merged-2B: 1.6 billion pairs of LAION-2B, 0.4 billion of COYO-700M"
        yield _vit(name, eva02, image, "MIT", data, "EVA-02 as a CLIP; final patch tokens.")
    for name, siglip in SIGLIP.items():
        image = ImageSpec((siglip.side, siglip.side), HALF, HALF)
        title = "SigLIP 2" if "v2" in siglip.model else "SigLIP"
        data = "WebLI, web images with texts in many languages"
        yield _vit(name, siglip, image, "Apache-2.0", data, f"{title}; final patch tokens.")
    for name, convnext in CONVNEXT.items():
        yield _convnext(name, convnext)
    yield _any_model()


def _vit(
    name: str, vit: Vit, image: ImageSpec, licence: str, trained_on: str, description: str
) -> ExpertSpec:
    cells = vit.side // vit.patch
    return ExpertSpec(
        name=name,
        task="contrastive",
        factory="tove_experts.timm_backbone:TimmBackbone",
        resolve="tove_experts.timm_backbone:resolve",
        tokens=TokenSpec(vit.width, (cells, cells)),
        image=image,
        weights=Weights(
            source=f"hub:timm/{vit.model}/model.safetensors",
            size_mb=vit.size_mb,
            licence=licence,
            trained_on=trained_on,
            commercial_use=True,
        ),
        requires=(TIMM,),
        options={"model": vit.model},
        tiny={"tower": {"depth": 1, "mlp_ratio": 0.02}},
        description=description,
    )


def _convnext(name: str, convnext: ConvNext) -> ExpertSpec:
    return ExpertSpec(
        name=name,
        task="contrastive",
        factory="tove_experts.contrastive:ContrastiveTower",
        resolve="tove_experts.contrastive:resolve",
        tokens=TokenSpec(convnext.width, (convnext.side // 32, convnext.side // 32)),
        image=ImageSpec((convnext.side, convnext.side), CLIP_MEAN, CLIP_STD),
        weights=Weights(
            source=f"hub:laion/{convnext.repository}",
            size_mb=convnext.size_mb,
            licence="MIT",
            trained_on="LAION-2B, 2 billion web images with English texts",
            commercial_use=True,
        ),
        requires=(OPEN_CLIP, TIMM),
        options={"model": convnext.model},
        tiny={"tower": {"depths": [0, 0, 0, 0], "dims": [32, 32, 32, convnext.width]}},
        description="ConvNeXt as a CLIP; the last stage's map, of stride 32.",
    )


def _any_model() -> ExpertSpec:
    repository = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
    return ExpertSpec(
        name="open_clip",
        task="contrastive",
        factory="tove_experts.contrastive:ContrastiveTower",
        resolve="tove_experts.contrastive:resolve",
        tokens=TokenSpec(768, (14, 14)),
        image=ImageSpec((224, 224), CLIP_MEAN, CLIP_STD),
        weights=Weights(
            source=f"hub:{repository}",
            size_mb=599,
            licence="MIT",
            trained_on="LAION-2B, 2 billion web images with English texts",
            commercial_use=True,
        ),
        requires=(OPEN_CLIP, TIMM),
        tiny={"tower": {"layers": 1, "mlp_ratio": 0.02}},
        description="Any vision tower of open_clip by `model` and `tag`; final patch tokens.",
    )
