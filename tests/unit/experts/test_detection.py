"""DETR, RT-DETR, RT-DETRv2 and D-FINE expose what transformers computes, as a dense grid."""

from functools import cache

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

DETR, RTDETR = "detr_resnet_50", "rtdetr_r18vd"
EXPERTS = {
    "detr": DETR,
    "detr_timm": DETR,
    "rt_detr": RTDETR,
    "rt_detr_v2": RTDETR,
    "d_fine": RTDETR,
}
KINDS = list(EXPERTS)
FEATURES = ("encoder", "backbone", "queries")
HEIGHT, WIDTH = 64, 96


def detr(**backbone):
    config = transformers.DetrConfig(
        d_model=16,
        use_pretrained_backbone=False,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        num_queries=7,
        num_labels=5,
        **backbone,
    )
    return transformers.DetrForObjectDetection(config)


def rtdetr(kind):
    resnet = {
        "model_type": "rt_detr_resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3", "stage4"],
    }
    hgnet = {
        "model_type": "hgnet_v2",
        "embedding_size": 8,
        "hidden_sizes": [16, 12, 16, 20],
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 12, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 12, 16, 20],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
    }
    config = transformers.AutoConfig.for_model(
        kind,
        backbone_config=hgnet if kind == "d_fine" else resnet,
        encoder_in_channels=[12, 16, 20],
        encoder_hidden_dim=16,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        d_model=16,
        decoder_in_channels=[16, 16, 16],
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        num_queries=7,
        num_denoising=0,
        num_labels=5,
    )
    return transformers.AutoModelForObjectDetection.from_config(config)


def random_model(kind):
    if kind == "detr":
        resnet = {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 12, 16, 20],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage4"],
        }
        return detr(use_timm_backbone=False, backbone_config=resnet)
    if kind == "detr_timm":
        return detr(use_timm_backbone=True, backbone="test_resnet")
    return rtdetr(kind)


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """Save a random model once, as transformers does; give it and its folder."""

    @cache
    def write(kind):
        torch.manual_seed(0)
        model = random_model(kind).eval()
        for name, parameter in model.named_parameters():  # none at a start that hides its part
            if "backbone" not in name:
                nn.init.normal_(parameter, std=0.2)
        for name, buffer in model.named_buffers():  # frozen norms' too
            if name.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 2)
            elif name.endswith("running_mean"):
                nn.init.normal_(buffer, std=0.1)
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        processor = transformers.RTDetrImageProcessor(size={"height": HEIGHT, "width": WIDTH})
        if EXPERTS[kind] == DETR:
            processor = transformers.DetrImageProcessor(
                size={"shortest_edge": HEIGHT, "longest_edge": WIDTH},
                image_mean=[0.1] * 3,
                image_std=[0.2] * 3,
            )
        processor.save_pretrained(folder)
        return model, folder

    return write


def pixels():
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def library_maps(kind, model, features, images):
    """Give by the stock library the maps that are exposed, [B, D, h, w]."""
    if features == "backbone":
        levels = model.model.backbone(images, torch.ones(2, HEIGHT, WIDTH))
        if EXPERTS[kind] == DETR:
            levels = levels[0] if isinstance(levels, tuple) else levels  # transformers 4 and 5
            levels = levels[-1:]
        return [level for level, _ in levels]
    found = model(images)
    if EXPERTS[kind] == DETR:
        last = found.encoder_last_hidden_state  # [B, h * w, D]
        return [last.transpose(1, 2).unflatten(2, (HEIGHT // 32, WIDTH // 32))]
    return [found.encoder_last_hidden_state[0]]


def resample(map_BDhw, grid):
    """Average over cells where the grid is coarser, interpolate where it is finer."""
    if map_BDhw.shape[-2] < grid[0]:
        return F.interpolate(map_BDhw, size=grid, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(map_BDhw, grid)


def boxes_on_grid(boxes, scores, features, grid):
    """Spread queries over their boxes one box and one cell at a time."""
    rows, columns = grid
    tokens = torch.zeros(len(boxes), rows, columns, features.shape[-1])
    for b in range(len(boxes)):
        for i in range(rows):
            for j in range(columns):
                total = 0.0
                for (x, y, w, h), score, feature in zip(
                    boxes[b].tolist(), scores[b].tolist(), features[b], strict=True
                ):
                    across = min(x + w / 2, (j + 1) / columns) - max(x - w / 2, j / columns)
                    down = min(y + h / 2, (i + 1) / rows) - max(y - h / 2, i / rows)
                    amount = max(across, 0) * columns * max(down, 0) * rows * max(score)
                    tokens[b, i, j] += amount * feature
                    total += amount
                tokens[b, i, j] /= max(1, total)
    return tokens.flatten(1, 2)


@torch.no_grad()
def expected_tokens(kind, model, features, images, grid):
    if features == "queries":
        found = model(images)
        if EXPERTS[kind] == DETR:
            scores = found.logits.softmax(dim=-1)[..., :-1]
        else:
            scores = found.logits.sigmoid()
        return boxes_on_grid(found.pred_boxes, scores, found.last_hidden_state, grid)
    maps = library_maps(kind, model, features, images)
    rows = [resample(map_BDhw, grid).flatten(2).transpose(1, 2) for map_BDhw in maps]
    return torch.cat(rows, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 32])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_librarys_resampled_to_the_stride(save, kind, features, stride):
    model, folder = save(kind)
    config = {"weights": folder, "features": features, "stride": stride}
    spec = resolve_expert(EXPERTS[kind], **config, image_size=(HEIGHT, WIDTH))
    expert = build_expert(EXPERTS[kind], **config, image_size=(HEIGHT, WIDTH))
    grid = (HEIGHT // stride, WIDTH // stride)
    assert (spec.tokens.grid, spec.tokens.kind) == (grid, "features")
    tokens = expert(pixels())
    assert tokens.shape == (2, spec.tokens.num_tokens, spec.tokens.width)
    expected = expected_tokens(kind, model, features, pixels(), grid)
    assert expected.std() > 1e-3
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_follow_the_experts_dtype(save, kind, features):
    _, folder = save(kind)
    expert = build_expert(EXPERTS[kind], weights=folder, features=features, stride=32)
    tokens = expert.to(torch.bfloat16)(pixels().bfloat16())
    assert tokens.dtype == torch.bfloat16
    assert tokens.isfinite().all()


def test_the_folder_says_how_images_are_normalised(save):
    _, folder = save("detr")
    image = resolve_expert(DETR, weights=folder).image
    assert (image.mean, image.std, image.size) == ((0.1,) * 3, (0.2,) * 3, (HEIGHT, HEIGHT))
    _, folder = save("rt_detr")
    image = resolve_expert(RTDETR, weights=folder).image
    assert (image.mean, image.std, image.size) == ((0.0,) * 3, (1.0,) * 3, (HEIGHT, WIDTH))
    assert image.value_range == (0, 1)
    assert image.interpolation == "bilinear"


@pytest.mark.parametrize(
    ("kind", "features", "gone"),
    [
        ("detr", "encoder", "decoder"),
        ("detr", "backbone", "layers"),
        ("rt_detr", "encoder", "decoder"),
        ("rt_detr", "backbone", "encoder."),
    ],
)
def test_parts_that_are_not_needed_are_not_kept(save, kind, features, gone):
    model, folder = save(kind)
    expert = build_expert(EXPERTS[kind], weights=folder, features=features, stride=32)
    own = {key for key in expert.state_dict() if "backbone" not in key}
    assert [key for key in model.state_dict() if gone in key]
    assert not [key for key in own if gone in key]


@pytest.mark.parametrize(
    ("name", "features", "width"),
    [
        ("detr_resnet_50", "backbone", 2048),
        ("detr_resnet_101", "queries", 256),
        ("rtdetr_r18vd", "backbone", 128 + 256 + 512),
        ("rtdetr_v2_r50vd", "backbone", 512 + 1024 + 2048),
        ("rtdetr_r50vd_coco_o365", "queries", 256),
    ],
)
def test_features_of_published_weights_are_planned_without_them(name, features, width):
    assert resolve_expert(name, features=features).tokens.width == width


@pytest.mark.parametrize(("name", "stride"), [(DETR, 32), (RTDETR, 16)])
def test_the_static_spec_is_that_of_its_own_options(name, stride):
    static = resolve_expert(name)
    found = resolve_expert(name, features="encoder", stride=stride)
    assert (found.tokens, found.image) == (static.tokens, static.image)


@pytest.mark.parametrize(
    ("name", "config", "sentence"),
    [
        (DETR, {"features": "boxes"}, "features is 'boxes'; .* exposes 'encoder', 'backbone'"),
        (DETR, {"stride": 24}, "800 x 800 pixels does not divide into tokens of stride 24"),
        (RTDETR, {"features": "map"}, "features is 'map'"),
        (
            RTDETR,
            {"image_size": (640, 656)},
            "640 x 656 .* levels are of stride 8, 16, 32; .* divides by 32",
        ),
        (RTDETR, {"layer": 2}, "layer"),
    ],
)
def test_wrong_options_are_sentences(name, config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert(name, **config)


@pytest.mark.parametrize(("kind", "name"), [("rt_detr", DETR), ("detr", RTDETR)])
def test_other_weights_are_refused(save, tmp_path, kind, name):
    _, folder = save(kind)
    (tmp_path / "empty").mkdir()
    for ask in (resolve_expert, build_expert):
        with pytest.raises(ExpertBuildError, match=f"is of model_type '{kind}', and this expert"):
            ask(name, weights=folder)
        with pytest.raises(ExpertBuildError, match=r"holds no config\.json"):
            ask(name, weights=tmp_path / "empty")
        with pytest.raises(ExpertBuildError, match="nowhere"):
            ask(name, weights=tmp_path / "nowhere")
