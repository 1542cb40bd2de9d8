"""mmdet's and mmpretrain's models give the tokens that the libraries compute, from their files."""

import os
from copy import deepcopy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torch import nn

from tove_experts.openmmlab.configs import find_config
from tove_experts.openmmlab.fallback import serve_mmcv_ops
from tove_experts.openmmlab.published import published_weights
from tove_plugins import ExpertBuildError, build_expert, discover, resolve_expert, sha256_of

serve_mmcv_ops()
mmdet = pytest.importorskip("mmdet", reason="mmdet is missing: pip install 'tove_plugins[mm]'")
mmpretrain = pytest.importorskip(
    "mmpretrain", reason="mmpretrain is missing: pip install 'tove_plugins[mm]'"
)

SIZE = (96, 160)

RESNET = {"backbone.depth": 18, "backbone.base_channels": 8}
PYRAMID = RESNET | {"neck.in_channels": [8, 16, 32, 64]}
ROIS = PYRAMID | {"roi_head.bbox_head.fc_out_channels": 8}
LAST = RESNET | {"neck.in_channels": [64]}
DEFORMABLE = RESNET | {"neck.in_channels": [16, 32, 64]}
SHALLOW = {"encoder.num_layers": 1, "decoder.num_layers": 2}
MASK = "panoptic_head.transformer_decoder"
MASK2FORMER = {
    "backbone.embed_dims": 8,
    "backbone.depths": [1, 1, 1, 1],
    "backbone.num_heads": [1, 1, 1, 1],
    "panoptic_head.in_channels": [8, 16, 32, 64],
    "panoptic_head.pixel_decoder.encoder.num_layers": 1,
    f"{MASK}.num_layers": 1,
}
RTMDET = {
    "backbone.deepen_factor": 0.1,
    "backbone.widen_factor": 0.125,
    "neck.in_channels": [32, 64, 128],
    "neck.num_csp_blocks": 1,
    "neck.out_channels": 16,
    "bbox_head.in_channels": 16,
    "bbox_head.feat_channels": 16,
}

MODELS = {
    "rtmdet": ("rtmdet/rtmdet_tiny_8xb32-300e_coco.py", RTMDET),
    "faster_rcnn": ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", ROIS),
    "retinanet": ("retinanet/retinanet_r50-caffe_fpn_1x_coco.py", PYRAMID),
    "atss": ("atss/atss_r50_fpn_1x_coco.py", PYRAMID),
    "detr": ("detr/detr_r50_8xb2-150e_coco.py", LAST | SHALLOW),
    "deformable_detr": (
        "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
        DEFORMABLE | SHALLOW,
    ),
    "dino": ("dino/dino-4scale_r50_8xb2-12e_coco.py", DEFORMABLE | SHALLOW | {"num_queries": 20}),
    "dcn": (
        "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py",
        ROIS | {"backbone.depth": 50, "neck.in_channels": [32, 64, 128, 256]},
    ),
    "mask_rcnn": ("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", ROIS),
    "panoptic_fpn": ("panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", ROIS),
    "mask2former": (
        "mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py",
        MASK2FORMER,
    ),
}
"""mmdet's own configs by name, and what makes them narrow."""


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path / "cache"))


def shipped(library, name):
    return Path(library.__file__).parent / ".mim" / "configs" / name


def unlike_new(model):
    """Move what begins as the identity: whether it is run at all could not be told."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, parameter in model.named_parameters():
        if "offset" in name:  # of deformable convolutions and attention
            nn.init.normal_(parameter, std=0.1)


def save(model, path):
    """Save as a Runner does, with the log of losses that makes plain `weights_only` fail."""
    log = HistoryBuffer([1.0, 0.5], [1, 1])
    content = {
        "meta": {"epoch": 1, "dataset_meta": {"classes": ("cat",)}},
        "state_dict": model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": log}, "lr": np.float64(0.1)},
    }
    save_checkpoint(content, str(path))
    return path


def library_detector(config, narrow):
    """Build a detector by mmdet's own API, with random weights."""
    from mmdet.apis import init_detector

    torch.manual_seed(0)
    cfg = Config.fromfile(shipped(mmdet, config))
    cfg.merge_from_dict({f"model.{key}": value for key, value in narrow.items()})
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = init_detector(cfg, None, palette="random", device="cpu")
        model.init_weights()  # or some parameters are what the memory held
    unlike_new(model)
    return model


def photograph(size=SIZE):
    """Give pixels [3, H, W] of 0 to 255 in RGB order."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def what_passes(model, part, image):
    """Run mmdet's whole test step on an image as OpenCV reads it; give what a part gave."""
    from mmdet.structures import DetDataSample

    size, seen = tuple(image.shape[1:]), []
    handle = part.register_forward_hook(lambda module, given, found: seen.append(found))
    sample = DetDataSample(
        metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "img_id": 0}
    )
    results = model.test_step({"inputs": [image.flip(0)], "data_samples": [sample]})
    handle.remove()
    return seen[0], results[0]


def normalised(spec, image):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.image.mean, spec.image.std))
    assert spec.image.value_range == (0.0, 255.0)
    return ((image.float() - mean) / std)[None]


@torch.no_grad()
def tokens_of(name, image, **config):
    """Build an expert and hold its tokens against the spec that a run plans with."""
    spec = resolve_expert(name, **config)
    tokens = build_expert(name, **config)(normalised(spec, image))
    assert tokens.shape == (1, spec.tokens.num_tokens, spec.tokens.width)
    assert spec.image.size == tuple(image.shape[1:])
    return tokens


def as_tokens(map_BDhw):
    return map_BDhw.flatten(2).transpose(1, 2)


def assert_same(tokens, expected):
    scale = float(expected.std())
    assert scale > 0
    torch.testing.assert_close(tokens / scale, expected / scale, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_what_passes_in_mmdets_own_detection(name, tmp_path):
    config, narrow = MODELS[name]
    model = library_detector(config, narrow)
    weights, image = save(model, tmp_path / "weights.pth"), photograph()
    if name == "mask2former":
        found, results = what_passes(model, model.panoptic_head.pixel_decoder, image)
        levels, features = [found[0], *reversed(found[1])], "pixel_decoder"
    elif name in ("detr", "deformable_detr", "dino"):
        shapes = [m.shape[2:] for m in model.extract_feat(torch.zeros(1, 3, *SIZE))]
        memory, results = what_passes(model, model.encoder, image)
        parts = memory.transpose(1, 2).split([h * w for h, w in shapes], dim=2)
        levels = [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
        features = "encoder"
    else:
        levels, results = what_passes(model, model.neck, image)
        features = "neck"
    assert "pred_instances" in results or "pred_panoptic_seg" in results
    config = {"config": config, "overrides": narrow, "weights": weights, "image_size": SIZE}
    assert_same(tokens_of("mmdet", image, level=0, **config), as_tokens(levels[0]))
    last = len(levels) - 1
    tokens = tokens_of("mmdet", image, level=last, features=features, **config)
    assert_same(tokens, as_tokens(levels[last]))


def test_any_stage_of_the_backbone_is_exposed(tmp_path):
    config, narrow = MODELS["retinanet"]
    model = library_detector(config, narrow)
    weights, image = save(model, tmp_path / "weights.pth"), photograph()
    stages, _ = what_passes(model, model.backbone, image)
    config = {"config": config, "overrides": narrow, "weights": weights, "image_size": SIZE}
    for level in (0, 3):
        tokens = tokens_of("mmdet", image, features="backbone", level=level, **config)
        assert_same(tokens, as_tokens(stages[level]))
    expert = build_expert("mmdet", features="backbone", **config)
    assert [child for child, _ in expert.tap.model.named_children()] == ["backbone"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_shipped_configs_build_as_they_are(name):
    config = {"config": MODELS[name][0], "overrides": {}, "image_size": 224, "tiny": True}
    spec = resolve_expert("mmdet", **config)
    expert = build_expert("mmdet", **config)
    with torch.no_grad():
        tokens = expert.eval()(torch.randn(1, 3, 224, 224))
    assert tokens.shape == (1, spec.tokens.num_tokens, spec.tokens.width)
    assert spec.tokens.width >= 96
    assert tokens.isfinite().all()
    assert tokens.std(dim=1).mean() > 0
    # torch's DDP refuses a model on the CPU that holds any of it, frozen or not
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in expert.modules())


def test_a_model_that_reads_opencvs_channels_has_its_mean_told_in_rgb():
    image = resolve_expert("mmdet", config=MODELS["retinanet"][0]).image
    assert image.mean == (123.675, 116.28, 103.53)  # the config has it in blue, green, red
    assert image.std == (1.0, 1.0, 1.0)


CLASSIFIERS = {
    "resnet50_8xb32_in1k": {"base_channels": 8},
    "resnet/resnet50_8xb32_in1k.py": {"base_channels": 8, "out_indices": [1]},
    "deit-tiny_4xb256_in1k": {
        "arch": {
            "_delete_": True,
            "embed_dims": 32,
            "num_layers": 2,
            "num_heads": 2,
            "feedforward_channels": 64,
        },
        "out_type": "featmap",
    },
    "swin-tiny_16xb64_in1k": {
        "arch": {
            "_delete_": True,
            "embed_dims": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 1, 2, 2],
        }
    },
    "convnext-tiny_32xb128_in1k": {
        "arch": {"_delete_": True, "depths": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
        "gap_before_final_norm": False,
    },
}
"""Names of mmpretrain with what makes their backbones narrow and give maps."""


@pytest.mark.parametrize("arch", CLASSIFIERS)
def test_tokens_are_what_mmpretrain_extracts(arch, tmp_path):
    changes = CLASSIFIERS[arch]
    torch.manual_seed(0)
    model = mmpretrain.get_model(find_config("mmpretrain", arch), backbone=deepcopy(changes))
    unlike_new(model)
    weights, image = save(model, tmp_path / "weights.pth"), photograph((224, 224))
    with torch.no_grad():
        pixels = model.data_preprocessor({"inputs": image.flip(0)[None]})["inputs"]
        expected = model.extract_feat(pixels, stage="backbone")[-1]
    stage = changes.get("out_indices", [-1])[0]
    own = {f"backbone.{key}": value for key, value in changes.items() if key != "out_indices"}
    tokens = tokens_of("mmpretrain", image, arch=arch, stage=stage, overrides=own, weights=weights)
    assert_same(tokens, as_tokens(expected))


def test_a_published_file_in_the_cache_is_used(tmp_path, monkeypatch):
    """As after `TOVE_CACHE` was filled by hand, and with the whole model of the catalogue."""
    # The name tells the digest of the published weights, which random ones cannot have.
    monkeypatch.setattr("tove_plugins._resources._check_name", lambda *_: None)
    spec = discover().get("mmdet_rtmdet_tiny").spec
    model = library_detector(spec.options["config"], {})
    folder = tmp_path / "cache" / "weights"
    with pytest.raises(ExpertBuildError, match=f"put it at {folder}"):
        build_expert("mmdet_rtmdet_tiny")
    folder.mkdir(parents=True)
    save(model, folder / spec.weights.source.rpartition("/")[2])
    image = photograph(spec.image.size)
    levels, _ = what_passes(model, model.neck, image)
    assert_same(tokens_of("mmdet_rtmdet_tiny", image), as_tokens(levels[1]))
    assert_same(tokens_of("mmdet", image), as_tokens(levels[1]))


@pytest.fixture(scope="module")
def narrow_weights(tmp_path_factory):
    """Give a narrow RTMDet's options, with its checkpoint."""
    config, narrow = MODELS["rtmdet"]
    model = library_detector(config, narrow)
    path = save(model, tmp_path_factory.mktemp("rtmdet") / "weights.pth")
    return {"config": config, "overrides": narrow, "image_size": SIZE, "weights": path}


def test_weights_come_as_safetensors_and_as_a_bare_state(narrow_weights, tmp_path):
    image, path = photograph(), narrow_weights["weights"]
    expected = tokens_of("mmdet", image, **narrow_weights)
    state = torch.load(path, weights_only=False)["state_dict"]
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    for file in ("a.safetensors", "b.pth"):
        config = narrow_weights | {"weights": tmp_path / file}
        assert torch.equal(tokens_of("mmdet", image, **config), expected)
    digest = sha256_of(path)
    build_expert("mmdet", **narrow_weights, sha256=digest)
    with pytest.raises(ExpertBuildError, match=f"have sha256 {digest}"):
        build_expert("mmdet", **narrow_weights, sha256="0" * 64)


class Harmful:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_checkpoint_that_would_run_code_is_not_loaded(narrow_weights, tmp_path):
    harm = tmp_path / "harm"
    torch.save({"state_dict": {}, "meta": Harmful(str(harm))}, tmp_path / "bad.pth")
    with pytest.raises(ExpertBuildError, match=r"a pickle that would run \w+\.mkdir"):
        build_expert("mmdet", **narrow_weights | {"weights": tmp_path / "bad.pth"})
    assert not harm.exists()


def test_a_checkpoint_of_objects_that_run_nothing_known_is_not_loaded(narrow_weights, tmp_path):
    torch.save({"state_dict": {}, "meta": Fraction(1, 2)}, tmp_path / "bad.pth")
    with pytest.raises(ExpertBuildError, match=r"not plain data \(fractions\.Fraction\)"):
        build_expert("mmdet", **narrow_weights | {"weights": tmp_path / "bad.pth"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {}}, r"lacks \d+ weights of the model \(backbone"),
        ([1, 2], "is no checkpoint"),
        ({"epoch": 1}, "is no checkpoint"),
    ],
)
def test_a_wrong_checkpoint_is_a_sentence(narrow_weights, tmp_path, content, sentence):
    torch.save(content, tmp_path / "wrong.pth")
    with pytest.raises(ExpertBuildError, match=sentence):
        build_expert("mmdet", **narrow_weights | {"weights": tmp_path / "wrong.pth"})


OURS = [*sorted(n for n in discover().experts if n.startswith("mmdet_")), "mmpretrain"]


@pytest.mark.parametrize("name", OURS)
def test_the_catalogue_is_what_the_libraries_say(name):
    """Written down, so that listing imports no library; held to what resolving finds."""
    spec = discover().get(name).spec
    found = resolve_expert(name, overrides={})
    assert (found.tokens, found.image) == (spec.tokens, spec.image)
    library, key = ("mmpretrain", "arch") if name == "mmpretrain" else ("mmdet", "config")
    published = published_weights(find_config(library, spec.options[key]))
    assert spec.weights.source == published.source


def test_any_model_of_the_index_is_planned_without_its_weights():
    spec = resolve_expert("mmdet", config="atss_r50_fpn_1x_coco")
    assert (spec.tokens.width, spec.tokens.grid) == (256, (40, 40))
    assert spec.weights.source.endswith("/atss_r50_fpn_1x_coco_20200209-985f7bd0.pth")
    assert not spec.weights.commercial_use  # the index tells no licence
    spec = resolve_expert("mmpretrain", arch="deit-tiny_4xb256_in1k")
    assert (spec.tokens.width, spec.tokens.grid) == (192, (14, 14))
    assert spec.image.interpolation == "bicubic"
    assert spec.weights.source.startswith("https://")


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        ("mmdet", {"config": "rtmdet_tny"}, "ships none of that name.*rtmdet"),
        ("mmdet", {"features": "pixel_decoder"}, "a RTMDet has 'backbone', 'neck'"),
        ("mmdet", {"config": MODELS["atss"][0], "image_size": 100}, "does not divide by 32"),
        ("mmdet", {"level": 3}, "level=3 is not there: the maps are 0 to 2"),
        ("mmdet", {"image_size": 100}, "cannot take images of 100 x 100 pixels"),
        ("mmpretrain", {"arch": "resnet_50"}, r"ships none of that name.*list_models"),
        ("mmpretrain", {"arch": "blip/blip-base_8xb32_caption.py"}, "takes image classifiers"),
        ("mmpretrain", {"stage": -2}, "stage=-2 is not there"),
        ("mmpretrain", {"arch": "deit-small_4xb256_in1k", "image_size": "big"}, "image_size"),
    ],
)
def test_wrong_options_are_sentences(name, config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(name, **config)


def test_building_leaves_the_runs_scope_alone(narrow_weights):
    with DefaultScope.overwrite_default_scope("tove"):
        build_expert("mmdet", **narrow_weights)
        assert DefaultScope.get_current_instance().scope_name == "tove"
