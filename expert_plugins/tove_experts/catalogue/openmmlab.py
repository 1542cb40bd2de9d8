"""Experts of OpenMMLab: any detector or segmenter of mmdet, any classifier of mmpretrain.

The detectors run at 640 px, at which RTMDet was trained; the others saw COCO's images at 800 px
and more, and `image_size` takes them there. Their tokens are those of stride 16, 40 x 40: the
coarsest level that is finer than CLIP's 24 x 24.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = ["specs"]

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
MMDET = ("onedl-mmcv>=2.3", "onedl-mmdetection>=3.5")
MMPRETRAIN = ("onedl-mmcv>=2.3", "onedl-mmpretrain>=1.3")
DETECTORS = "https://download.openmmlab.com/mmdetection/"
CLASSIFIERS = "https://mmassets.onedl.ai/mmclassification/v0/"
RESNET = "resnet50_8xb32_in1k_20210831-ea4938fc.pth"
COCO_BOXES = "COCO 2017 boxes, from an ImageNet-1k backbone"


class Model(NamedTuple):
    """A published model of mmdet: its config, the tap and level of its tokens, its file."""

    task: str
    config: str
    features: str
    level: int
    width: int
    file: str
    size_mb: float
    trained_on: str
    tiny: dict[str, Any]
    description: str


def _rtmdet_tiny_build() -> dict[str, Any]:
    narrow = {
        "backbone.deepen_factor": 0.1,
        "backbone.widen_factor": 0.0625,
        "neck.in_channels": [16, 32, 64],
        "neck.num_csp_blocks": 1,
        "bbox_head.stacked_convs": 1,
    }
    return {"overrides": narrow}


def _faster_rcnn_tiny_build() -> dict[str, Any]:
    narrow = {
        "backbone.depth": 18,
        "backbone.base_channels": 8,
        "neck.in_channels": [8, 16, 32, 64],
        "neck.start_level": 2,  # its finer levels take most of the time, and are not used
        "neck.num_outs": 2,
        "roi_head.bbox_head.fc_out_channels": 8,
    }
    return {"level": 0, "overrides": narrow}


def _dino_tiny_build() -> dict[str, Any]:
    narrow = {
        "backbone.depth": 18,
        "backbone.base_channels": 8,
        "backbone.out_indices": [2, 3],
        "neck.in_channels": [32, 64],
        "neck.num_outs": 2,
        "num_feature_levels": 2,
        "num_queries": 10,
        "encoder.num_layers": 1,
        "encoder.layer_cfg.self_attn_cfg.num_levels": 2,
        "encoder.layer_cfg.ffn_cfg.feedforward_channels": 16,
        "decoder.num_layers": 1,
        "decoder.layer_cfg.cross_attn_cfg.num_levels": 2,
        "decoder.layer_cfg.ffn_cfg.feedforward_channels": 16,
    }
    return {"level": 0, "overrides": narrow}


def _mask2former_tiny_build() -> dict[str, Any]:
    encoder = "panoptic_head.pixel_decoder.encoder"
    narrow = {
        "backbone.embed_dims": 8,
        "backbone.depths": [1, 1, 1, 1],
        "backbone.num_heads": [1, 1, 1, 1],
        "backbone.out_indices": [2, 3],
        "panoptic_head.in_channels": [32, 64],
        "panoptic_head.strides": [16, 32],
        "panoptic_head.num_transformer_feat_level": 2,
        "panoptic_head.pixel_decoder.num_outs": 2,
        f"{encoder}.num_layers": 1,
        f"{encoder}.layer_cfg.self_attn_cfg.num_levels": 2,
        f"{encoder}.layer_cfg.ffn_cfg.feedforward_channels": 16,
        "panoptic_head.transformer_decoder.num_layers": 1,
        "panoptic_head.transformer_decoder.layer_cfg.ffn_cfg.feedforward_channels": 16,
    }
    return {"level": 1, "overrides": narrow}


MODELS = {
    "mmdet_rtmdet_tiny": Model(
        task="detection",
        config="rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
        features="neck",
        level=1,
        width=96,
        file="v3.0/rtmdet/rtmdet_tiny_8xb32-300e_coco/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth",
        size_mb=20,
        trained_on=COCO_BOXES,
        tiny=_rtmdet_tiny_build(),
        description="RTMDet-tiny: the neck's map of stride 16.",
    ),
    "mmdet_rtmdet_l": Model(
        task="detection",
        config="rtmdet/rtmdet_l_8xb32-300e_coco.py",
        features="neck",
        level=1,
        width=256,
        file="v3.0/rtmdet/rtmdet_l_8xb32-300e_coco/rtmdet_l_8xb32-300e_coco_20220719_112030-5a0be7c4.pth",
        size_mb=209,
        trained_on=COCO_BOXES,
        tiny=_rtmdet_tiny_build(),
        description="RTMDet-l: the neck's map of stride 16.",
    ),
    "mmdet_faster_rcnn_r50": Model(
        task="detection",
        config="faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        features="neck",
        level=2,
        width=256,
        file="v2.0/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
        size_mb=167,
        trained_on=COCO_BOXES,
        tiny=_faster_rcnn_tiny_build(),
        description="Faster R-CNN, ResNet-50: the feature pyramid's map of stride 16.",
    ),
    "mmdet_dino_r50": Model(
        task="detection",
        config="dino/dino-4scale_r50_8xb2-12e_coco.py",
        features="encoder",
        level=1,
        width=256,
        file="v3.0/dino/dino-4scale_r50_8xb2-12e_coco/dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth",
        size_mb=191,
        trained_on=COCO_BOXES,
        tiny=_dino_tiny_build(),
        description="DINO-DETR, ResNet-50: the encoder's memory of stride 16.",
    ),
    "mmdet_mask2former_swin_t": Model(
        task="segmentation",
        config="mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py",
        features="pixel_decoder",
        level=2,
        width=256,
        file="v3.0/mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic/"
        "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic_20220326_224553-3ec9e0ae.pth",
        size_mb=190,
        trained_on="COCO 2017 panoptic masks, from an ImageNet-1k backbone",
        tiny=_mask2former_tiny_build(),
        description="Mask2Former panoptic, Swin-T: the pixel decoder's map of stride 16.",
    ),
}


def specs() -> Iterator[ExpertSpec]:
    """Yield the OpenMMLab experts' specs."""
    for name, model in MODELS.items():
        chosen = {"features": model.features, "level": model.level}
        yield _detector(name, model, chosen, model.description)
    yield _detector(
        "mmdet",
        MODELS["mmdet_rtmdet_tiny"],
        {},  # each model's own deepest features
        "Any detector or segmenter of mmdet, by `config`; RTMDet-tiny unless told otherwise.",
    )
    yield _mmpretrain()


def _detector(name: str, model: Model, chosen: dict[str, Any], description: str) -> ExpertSpec:
    mean, std = IMAGENET["mean"], IMAGENET["std"]
    return ExpertSpec(
        name=name,
        task=model.task,
        factory="tove_experts.openmmlab.detectors:Detector",
        tokens=TokenSpec(width=model.width, grid=(40, 40)),
        image=ImageSpec((640, 640), mean, std, (0.0, 255.0), "bilinear"),
        weights=_weights(DETECTORS + model.file, model.size_mb, model.trained_on),
        requires=MMDET,
        options={"config": model.config, **chosen},
        tiny=model.tiny,
        resolve="tove_experts.openmmlab.detectors:resolve",
        description=description,
    )


def _mmpretrain() -> ExpertSpec:
    """ResNet-50 by default; its tiny build has bottlenecks of 2 to 16 channels."""
    narrow = {"backbone.base_channels": 2, "backbone.expansion": 128, "backbone.stem_channels": 8}
    mean, std = IMAGENET["mean"], IMAGENET["std"]
    return ExpertSpec(
        name="mmpretrain",
        task="classification",
        factory="tove_experts.openmmlab.backbones:PretrainedBackbone",
        tokens=TokenSpec(width=2048, grid=(7, 7)),
        image=ImageSpec((224, 224), mean, std, (0.0, 255.0), "bilinear"),
        weights=_weights(f"{CLASSIFIERS}resnet/{RESNET}", 103, "ImageNet-1k"),
        requires=MMPRETRAIN,
        options={"arch": "resnet50_8xb32_in1k", "stage": -1},
        tiny={"overrides": narrow},
        resolve="tove_experts.openmmlab.backbones:resolve",
        description="Any classifier of mmpretrain, by `arch`; ResNet-50 unless told otherwise.",
    )


def _weights(url: str, size_mb: float, trained_on: str) -> Weights:
    """Describe a file of OpenMMLab's own training, which it publishes under Apache-2.0."""
    return Weights(
        source=url,
        size_mb=size_mb,
        licence="Apache-2.0",
        trained_on=trained_on,
        commercial_use=True,
    )
