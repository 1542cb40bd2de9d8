"""Where a detector's features are taken: four places, each a list of maps from fine to coarse.

    backbone        what ImageNet training gave, tuned on boxes or masks
    neck            every level in one width, mixed across scales
    encoder         of a DETR: the neck's maps after attention among all places of all levels
    pixel_decoder   of Mask2Former: the same; its finest map is the one that masks are read from

A tap takes a library's model, drops what it does not need, and runs the library's own methods.

Shapes: B batch, C = 3 channels, H x W the image, D width, h x w a map, N places of all maps.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from tove_experts.openmmlab.building import keep_only

__all__ = ["TAPS", "MapShape", "Tap", "deepest_tap"]

MapShape = tuple[int, int, int]
"""Width, rows and columns of a map."""


class Tap(Protocol):
    """One place where features are taken."""

    model: Any
    """The library's model, reduced; checkpoints are loaded into it."""

    def outline(self, images_BCHW: Tensor) -> list[MapShape]:
        """Tell the maps' shapes; the images and the tap are on the "meta" device."""

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Give the maps [B, D, h, w], fine to coarse."""


class Backbone(nn.Module):
    """The backbone's stages."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        keep_only(model, "backbone")
        self.model = model

    @staticmethod
    def fits(model: Any) -> bool:  # noqa: ANN401
        """Tell whether the model has this place."""
        return hasattr(model, "backbone")

    def outline(self, images_BCHW: Tensor) -> list[MapShape]:
        """Tell the maps' shapes."""
        return _shapes(self(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Give the stages' maps."""
        return list(self.model.backbone(images_BCHW))


class Neck(nn.Module):
    """The neck's levels."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        keep_only(model, "backbone", "neck")
        self.model = model

    @staticmethod
    def fits(model: Any) -> bool:  # noqa: ANN401
        """Tell whether the model has this place."""
        return bool(getattr(model, "with_neck", False))

    def outline(self, images_BCHW: Tensor) -> list[MapShape]:
        """Tell the maps' shapes."""
        return _shapes(self(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Give the levels' maps."""
        return list(self.model.extract_feat(images_BCHW))


class Encoder(nn.Module):
    """The memory of a DETR's encoder, cut into its levels."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        keep_only(model, "backbone", "neck", "encoder", "positional_encoding")
        self.model = model

    @staticmethod
    def fits(model: Any) -> bool:  # noqa: ANN401
        """Tell whether the model has this place."""
        from mmdet.models.detectors import DetectionTransformer

        return isinstance(model, DetectionTransformer)

    def outline(self, images_BCHW: Tensor) -> list[MapShape]:
        """Tell the maps' shapes, which attention leaves as they are."""
        return _shapes(self.model.extract_feat(images_BCHW))

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Give the levels' maps."""
        from mmdet.structures import DetDataSample

        size = tuple(images_BCHW.shape[-2:])
        whole = DetDataSample(metainfo={"batch_input_shape": size, "img_shape": size})
        maps = self.model.extract_feat(images_BCHW)
        inputs, _ = self.model.pre_transformer(maps, [whole] * len(images_BCHW))
        memory_BDN = self.model.forward_encoder(**inputs)["memory"].transpose(1, 2)
        levels = memory_BDN.split([map_.shape[-2:].numel() for map_ in maps], dim=-1)
        return [level.unflatten(-1, m.shape[-2:]) for level, m in zip(levels, maps, strict=True)]


class PixelDecoder(nn.Module):
    """Mask2Former's mask features, then its multi-scale features."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        super().__init__()
        keep_only(model, "backbone", "neck", "panoptic_head")
        keep_only(model.panoptic_head, "pixel_decoder")
        for name in list(model.panoptic_head._parameters):
            delattr(model.panoptic_head, name)
        self.model = model

    @staticmethod
    def fits(model: Any) -> bool:  # noqa: ANN401
        """Tell whether the model has this place."""
        from mmdet.models.layers import MSDeformAttnPixelDecoder

        head = getattr(model, "panoptic_head", None)
        return isinstance(getattr(head, "pixel_decoder", None), MSDeformAttnPixelDecoder)

    def outline(self, images_BCHW: Tensor) -> list[MapShape]:
        """Tell the maps' shapes, which are those of the stages that it reads."""
        decoder = self.model.panoptic_head.pixel_decoder
        finest, *_ = stages = _shapes(self.model.extract_feat(images_BCHW))
        width = decoder.level_encoding.embedding_dim
        scales = [(width, *stage[1:]) for stage in stages[-decoder.num_outs :]]
        return [(decoder.mask_feature.out_channels, *finest[1:]), *scales]

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Give the maps, the masks' own first."""
        maps = self.model.extract_feat(images_BCHW)
        finest, coarse_to_fine = self.model.panoptic_head.pixel_decoder(maps)
        return [finest, *reversed(coarse_to_fine)]


TAPS: dict[str, Any] = {
    "backbone": Backbone,
    "neck": Neck,
    "encoder": Encoder,
    "pixel_decoder": PixelDecoder,
}


def deepest_tap(model: object) -> str:
    """Give the last of the places that the model has: the nearest to its task before the heads."""
    return [name for name, tap in TAPS.items() if tap.fits(model)][-1]


def _shapes(maps: list[Tensor]) -> list[MapShape]:
    return [tuple(map_.shape[1:]) for map_ in maps]  # type: ignore[misc]
