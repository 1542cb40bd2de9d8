"""Segmentation experts through transformers: SegFormer, Mask2Former, SAM's image encoder.

`config` tells of the default weights what is not the library's default, so that `features="map"`
resolves, and a plan is made, without their files; weights of a run's own bring their config.json.
"""

from collections.abc import Iterator

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRIDE = 16
NVIDIA = "NVIDIA Source Code License for SegFormer"
ADE20K = "ImageNet-1k, then ADE20K (150 classes)"
COCO = "COCO 2017 panoptic (133 classes)"

# Blocks of each stage of a SegFormer's encoder.
DEPTHS = {
    "segformer_b0": (2, 2, 2, 2),
    "segformer_b1": (2, 2, 2, 2),
    "segformer_b2": (3, 4, 6, 3),
    "segformer_b3": (3, 4, 18, 3),
    "segformer_b4": (3, 8, 27, 3),
    "segformer_b5": (3, 6, 40, 3),
}
# name: (repository, image side, width of the decoder, stages of the encoder, MB)
SEGFORMER = {
    "segformer_b0": ("segformer-b0-finetuned-ade-512-512", 512, 256, (32, 64, 160, 256), 15),
    "segformer_b1": ("segformer-b1-finetuned-ade-512-512", 512, 256, (64, 128, 320, 512), 55),
    "segformer_b2": ("segformer-b2-finetuned-ade-512-512", 512, 768, (64, 128, 320, 512), 110),
    "segformer_b3": ("segformer-b3-finetuned-ade-512-512", 512, 768, (64, 128, 320, 512), 189),
    "segformer_b4": ("segformer-b4-finetuned-ade-512-512", 512, 768, (64, 128, 320, 512), 256),
    "segformer_b5": ("segformer-b5-finetuned-ade-640-640", 640, 768, (64, 128, 320, 512), 339),
}
# Swin's size: (width of its first stage, blocks of its third, window, queries, ImageNet, MB)
MASK2FORMER = {
    "tiny": (96, 6, 7, 100, "1k", 190),
    "base": (128, 18, 12, 100, "21k", 432),
    "large": (192, 18, 12, 200, "21k", 866),
}
# name: (repository, width of the transformer, blocks, heads, blocks that see the whole image, MB)
SAM = {
    "sam_vit_b": ("sam-vit-base", 768, 12, 12, (2, 5, 8, 11), 375),
    "sam_vit_l": ("sam-vit-large", 1024, 24, 16, (5, 11, 17, 23), 1250),
    "sam_vit_h": ("sam-vit-huge", 1280, 32, 16, (7, 15, 23, 31), 2564),
}


def specs() -> Iterator[ExpertSpec]:
    """Yield the segmentation experts' specs."""
    yield from (_segformer(name) for name in SEGFORMER)
    yield from (_mask2former(size) for size in MASK2FORMER)
    yield from (_sam(name) for name in SAM)


def _image(side: int) -> ImageSpec:
    return ImageSpec(size=(side, side), mean=MEAN, std=STD, interpolation="bilinear")


def _tokens(width: int, side: int) -> TokenSpec:
    return TokenSpec(width=width, grid=(side // STRIDE, side // STRIDE))


def _segformer(name: str) -> ExpertSpec:
    repository, side, width, stages, size_mb = SEGFORMER[name]
    config = {"model_type": "segformer", "decoder_hidden_size": width, "num_labels": 150}
    tiny = config | {
        "num_encoder_blocks": 1,
        "hidden_sizes": [8],
        "depths": [1],
        "num_attention_heads": [1],
        "sr_ratios": [2],
        "patch_sizes": [15],
        "strides": [16],
        "mlp_ratios": [1],
    }
    return ExpertSpec(
        name=name,
        task="segmentation",
        factory="tove_experts.segmentation:SegformerExpert",
        resolve="tove_experts.segmentation:resolve_segformer",
        tokens=_tokens(width, side),
        image=_image(side),
        weights=Weights(f"hub:nvidia/{repository}", None, size_mb, NVIDIA, ADE20K),
        options={
            "features": "decoder",
            "stride": STRIDE,
            "config": config | {"hidden_sizes": list(stages), "depths": list(DEPTHS[name])},
        },
        tiny={"config": tiny},
        description="SegFormer: the fused stages that its classifier reads.",
    )


def _mask2former(size: str) -> ExpertSpec:
    first, third, window, queries, imagenet, size_mb = MASK2FORMER[size]
    config = {"model_type": "mask2former", "num_labels": 133}
    swin = {"model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    own_swin = {
        "embed_dim": first,
        "depths": [2, 2, third, 2],
        "num_heads": [first // 32 * 2**stage for stage in range(4)],
        "window_size": window,
    }
    tiny_swin = {
        "patch_size": 8,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 6,
        "mlp_ratio": 1.0,
    }
    tiny = config | {
        "backbone_config": swin | tiny_swin,
        "num_queries": 4,
        "feature_size": 32,
        "hidden_dim": 32,
        "num_attention_heads": 2,
        "encoder_layers": 1,
        "encoder_feedforward_dim": 32,
        "decoder_layers": 2,
        "dim_feedforward": 32,
    }
    return ExpertSpec(
        name=f"mask2former_swin_{size}_coco_panoptic",
        task="segmentation",
        factory="tove_experts.segmentation:Mask2FormerExpert",
        resolve="tove_experts.segmentation:resolve_mask2former",
        tokens=_tokens(256, 384),
        image=_image(384),
        weights=Weights(
            f"hub:facebook/mask2former-swin-{size}-coco-panoptic",
            size_mb=size_mb,
            licence="CC-BY-NC-4.0",  # what the authors' model zoo says of the weights
            trained_on=f"ImageNet-{imagenet}, then {COCO}",
        ),
        # The loss, which the library builds with the model, needs scipy.
        requires=("scipy",),
        options={
            "features": "pixel_decoder",
            "stride": STRIDE,
            "config": config | {"backbone_config": swin | own_swin, "num_queries": queries},
        },
        tiny={"config": tiny},
        description="Mask2Former: its pixel decoder's embedding, things and stuff alike.",
    )


def _sam(name: str) -> ExpertSpec:
    repository, width, blocks, heads, whole, size_mb = SAM[name]
    config = {"model_type": "sam_vision_model", "image_size": 1024, "output_channels": 256}
    own = {
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "global_attn_indexes": list(whole),
    }
    tiny = config | {
        "patch_size": 32,  # a quarter of the tokens for the neck, whose width must be the true one
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "mlp_dim": 16,
        "window_size": 8,
        "global_attn_indexes": [],
    }
    return ExpertSpec(
        name=name,
        task="segmentation",
        factory="tove_experts.segmentation:SamExpert",
        resolve="tove_experts.segmentation:resolve_sam",
        tokens=_tokens(256, 1024),
        image=_image(1024),
        weights=Weights(
            f"hub:facebook/{repository}",
            size_mb=size_mb,
            licence="Apache-2.0",
            trained_on="SA-1B (1.1 billion masks without classes)",
            commercial_use=True,
        ),
        options={"features": "neck", "stride": STRIDE, "config": config | own},
        tiny={"config": tiny},
        description="SAM's image encoder: what its mask decoder reads.",
    )
