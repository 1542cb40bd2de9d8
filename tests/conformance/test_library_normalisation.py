"""The spec's mean and std are held against what each library says, in that library's own form."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights
from tove_plugins.testing import check_expert

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BYTE_MEAN, BYTE_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class Expert(nn.Module):
    """Patches, with a part of some library."""

    def __init__(self, spec: ExpertSpec, weights: Path | None = None, part: object = None) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        if isinstance(part, nn.Module):
            self.part = part

    def forward(self, images: Tensor) -> Tensor:
        return self.patch(images).flatten(2).transpose(1, 2)


def make_spec(
    mean: tuple[float, ...], std: tuple[float, ...], weights: Weights | None = None
) -> ExpertSpec:
    top = 255.0 if mean[0] > 1 else 1.0
    image = ImageSpec((32, 32), mean, std, (0.0, top))
    factory = f"{__name__}:Expert"
    return ExpertSpec("e", "test", factory, TokenSpec(8, (4, 4)), image, weights=weights)


def timm_network() -> nn.Module:
    import timm

    return timm.create_model("resnet10t", pretrained=False)


def open_clip_tower() -> nn.Module:
    import open_clip
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg

    small = {"layers": 1, "width": 64, "head_width": 32, "image_size": 32, "patch_size": 8}
    text = {"layers": 1, "width": 64, "heads": 2, "vocab_size": 100}
    model = open_clip.CLIP(embed_dim=32, vision_cfg=small, text_cfg=text)
    set_model_preprocess_cfg(model, vars(PreprocessCfg(mean=MEAN, std=STD)))
    # Its mean and std are the tower's, whatever a trunk of timm inside says.
    model.visual.trunk = timm_network()
    model.visual.trunk.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model


def mmengine_rgb() -> nn.Module:
    from mmengine.model import ImgDataPreprocessor

    return ImgDataPreprocessor(BYTE_MEAN, BYTE_STD, bgr_to_rgb=True)


def mmengine_bgr() -> nn.Module:
    from mmengine.model import ImgDataPreprocessor

    return ImgDataPreprocessor(BYTE_MEAN[::-1], BYTE_STD[::-1])


@pytest.mark.parametrize("part", [timm_network, open_clip_tower, mmengine_rgb, mmengine_bgr])
def test_each_library_is_read(part: Callable[[], nn.Module]) -> None:
    for right in (make_spec(MEAN, STD), make_spec(BYTE_MEAN, BYTE_STD)):
        expert = Expert(right, part=part())
        (result,) = check_expert(expert, right, checks=["library_normalisation"])
        assert result.outcome == "passed"
    wrong = make_spec(MEAN[::-1], STD[::-1])
    with pytest.raises(AssertionError, match="are in the order BGR"):
        check_expert(expert, wrong, checks=["library_normalisation"])


def test_what_lies_beside_the_weights_is_read(tmp_path: Path) -> None:
    from transformers import ViTImageProcessor

    ViTImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(tmp_path)
    weights = Weights(str(tmp_path), licence="MIT", trained_on="nothing")
    check = ["library_normalisation"]
    (result,) = check_expert(make_spec(MEAN, STD, weights), checks=check, real=True)
    assert result.outcome == "passed"
    with pytest.raises(AssertionError, match=r"preprocessor_config\.json says mean"):
        check_expert(make_spec((0.5,) * 3, (0.5,) * 3, weights), checks=check, real=True)
    (result,) = check_expert(make_spec((0.5,) * 3, (0.5,) * 3, weights), checks=check)
    assert result.outcome == "skipped"
