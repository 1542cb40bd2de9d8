"""SegFormer, Mask2Former and SAM's encoder expose what transformers computes, as a dense grid."""

from functools import cache

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from tove_plugins import ExpertBuildError, build_expert, resolve_expert

SEGFORMER, MASK2FORMER, SAM = "segformer_b0", "mask2former_swin_tiny_coco_panoptic", "sam_vit_b"
EXPOSED = {
    SEGFORMER: ("decoder", "backbone", "map"),
    MASK2FORMER: ("pixel_decoder", "backbone", "queries", "map"),
    SAM: ("neck", "backbone"),
}
EVERY = [(name, features) for name, exposed in EXPOSED.items() for features in exposed]
HEIGHT, WIDTH = 64, 96
SAM_SIDE = 64
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 3,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def segformer():
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 12, 16, 20],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=24,
        num_labels=5,
    )
    return transformers.SegformerForSemanticSegmentation(config)


def mask2former():
    config = transformers.Mask2FormerConfig(
        backbone_config=dict(SWIN),  # the library takes entries out
        feature_size=32,
        mask_feature_size=12,
        hidden_dim=32,
        num_attention_heads=2,
        encoder_layers=1,
        encoder_feedforward_dim=16,
        decoder_layers=3,
        dim_feedforward=16,
        num_queries=6,
        num_labels=5,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def sam():
    vision = transformers.SamVisionConfig(
        hidden_size=16,
        output_channels=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=16,
        image_size=SAM_SIDE,
        patch_size=16,
        window_size=3,
        global_attn_indexes=[1],
    )
    prompts = {"hidden_size": 12, "image_size": SAM_SIDE, "patch_size": 16}
    decoder = {"hidden_size": 12, "mlp_dim": 12, "num_attention_heads": 2, "iou_head_hidden_dim": 8}
    return transformers.SamModel(
        transformers.SamConfig(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
        )
    )


MODELS = {SEGFORMER: segformer, MASK2FORMER: mask2former, SAM: sam}


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """Save a random model once, as transformers does; give it and its folder."""

    @cache
    def write(name):
        torch.manual_seed(0)
        model = MODELS[name]().eval()
        for parameter in model.parameters():  # none at a start that hides its part
            nn.init.normal_(parameter, std=0.2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        processor = transformers.SegformerImageProcessor(
            size={"height": HEIGHT, "width": WIDTH}, image_mean=[0.1] * 3, image_std=[0.2] * 3
        )
        processor.save_pretrained(folder)
        return model, folder

    return write


def pixels(name):
    size = (SAM_SIDE, SAM_SIDE) if name == SAM else (HEIGHT, WIDTH)
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def library_maps(name, model, features, images):
    """Give by the stock library the maps that are exposed, as it lays them out, [B, D, h, w]."""
    if name == SAM:
        if features == "neck":
            return [model.get_image_embeddings(images)]
        read = []
        neck = model.vision_encoder.neck.register_forward_pre_hook(lambda _, got: read.append(got))
        model.vision_encoder(images)
        neck.remove()
        return [torch.einsum("bhwd->bdhw", read[0][0])]
    if features == "backbone":
        found = model(images, output_hidden_states=True)
        if name == SEGFORMER:
            return found.hidden_states
        return model.model.pixel_level_module.encoder(images).feature_maps
    if name == MASK2FORMER:
        found = model(images)
        if features == "pixel_decoder":
            return [found.pixel_decoder_last_hidden_state]
        masks = found.masks_queries_logits.sigmoid()
        scores = found.class_queries_logits.softmax(dim=-1)[..., :-1]
        if features == "map":  # as its image processor's post_process_semantic_segmentation has it
            return [torch.einsum("bqc,bqhw->bchw", scores, masks)]
        return [masks, scores, found.transformer_decoder_last_hidden_state]
    if features == "map":
        return [model(images).logits.softmax(dim=1)]
    read = []
    head = model.decode_head.classifier.register_forward_pre_hook(lambda _, got: read.append(got))
    model(images)
    head.remove()
    return [read[0][0]]


def resample(map_BDhw, grid):
    """Average over cells where the grid is coarser, interpolate where it is finer."""
    if map_BDhw.shape[-2] < grid[0]:
        return F.interpolate(map_BDhw, size=grid, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(map_BDhw, grid)


def expected_tokens(name, model, features, images, grid):
    maps = library_maps(name, model, features, images)
    if features == "queries":
        masks, scores, queries = maps
        amount = resample(masks, grid).flatten(2) * scores.amax(dim=-1)[..., None]
        total = amount.sum(dim=1).clamp(min=1)
        return torch.einsum("bqn,bqd->bnd", amount, queries) / total[..., None]
    rows = [resample(map_BDhw, grid).flatten(2).transpose(1, 2) for map_BDhw in maps]
    return torch.cat(rows, dim=-1)


@torch.no_grad()
@pytest.mark.parametrize("stride", [4, 16, 32])
@pytest.mark.parametrize(("name", "features"), EVERY)
def test_tokens_are_the_librarys_resampled_to_the_stride(save, name, features, stride):
    model, folder = save(name)
    images = pixels(name)
    config = {"weights": folder, "features": features, "stride": stride}
    spec = resolve_expert(name, **config)
    grid = tuple(side // stride for side in images.shape[2:])
    assert spec.tokens.grid == grid
    assert spec.image.size == images.shape[2:]
    assert spec.tokens.kind == ("map" if features == "map" else "features")
    tokens = build_expert(name, **config)(images)
    assert tokens.shape == (2, spec.tokens.num_tokens, spec.tokens.width)
    expected = expected_tokens(name, model, features, images, grid)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "features"), EVERY)
def test_tokens_follow_the_experts_dtype(save, name, features):
    _, folder = save(name)
    expert = build_expert(name, weights=folder, features=features).to(torch.bfloat16)
    tokens = expert(pixels(name).bfloat16())
    assert tokens.dtype == torch.bfloat16
    assert tokens.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", [SEGFORMER, MASK2FORMER])
def test_another_image_size_is_taken(save, name):
    model, folder = save(name)
    config = {"weights": folder, "image_size": (96, 64)}
    assert resolve_expert(name, **config).tokens.grid == (6, 4)
    images = pixels(name).transpose(2, 3)
    tokens = build_expert(name, **config)(images)
    expected = expected_tokens(name, model, EXPOSED[name][0], images, (6, 4))
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [SEGFORMER, MASK2FORMER])
def test_the_folder_says_how_images_are_normalised(save, name):
    _, folder = save(name)
    image = resolve_expert(name, weights=folder).image
    assert (image.mean, image.std, image.size) == ((0.1,) * 3, (0.2,) * 3, (HEIGHT, WIDTH))
    assert image.interpolation == "bilinear"


@torch.no_grad()
def test_sams_encoder_is_read_from_the_whole_sam_and_from_the_encoder_alone(save, tmp_path):
    model, folder = save(SAM)
    vision = transformers.SamVisionModel(model.config.vision_config)
    vision.vision_encoder.load_state_dict(model.vision_encoder.state_dict())
    vision.save_pretrained(tmp_path / "alone")
    transformers.SamImageProcessor().save_pretrained(tmp_path / "alone")
    whole, alone = (build_expert(SAM, weights=path) for path in (folder, tmp_path / "alone"))
    assert torch.equal(whole(pixels(SAM)), alone(pixels(SAM)))
    assert not [key for key in whole.state_dict() if "mask_decoder" in key or "prompt" in key]


@pytest.mark.parametrize(
    ("name", "features", "gone"),
    [
        (SEGFORMER, "decoder", "classifier"),
        (SEGFORMER, "backbone", "decode_head"),
        (MASK2FORMER, "pixel_decoder", "transformer_module"),
        (MASK2FORMER, "backbone", "decoder"),
        (SAM, "backbone", "neck"),
    ],
)
def test_parts_that_are_not_needed_are_not_kept(save, name, features, gone):
    model, folder = save(name)
    kept = build_expert(name, weights=folder, features=features).state_dict()
    assert [key for key in model.state_dict() if gone in key]
    assert not [key for key in kept if gone in key]


@pytest.mark.parametrize(
    ("name", "features", "width"),
    [
        ("segformer_b5", "decoder", 768),
        ("segformer_b5", "backbone", 1024),
        ("segformer_b0", "map", 150),
        ("mask2former_swin_large_coco_panoptic", "backbone", 2880),
        ("mask2former_swin_base_coco_panoptic", "map", 133),
        ("sam_vit_h", "backbone", 1280),
    ],
)
def test_features_of_published_weights_are_planned_without_them(name, features, width):
    assert resolve_expert(name, features=features).tokens.width == width


@pytest.mark.parametrize("name", EXPOSED)
def test_the_static_spec_is_that_of_its_own_options(name):
    static = resolve_expert(name)
    found = resolve_expert(name, features=EXPOSED[name][0], stride=16)
    assert (found.tokens, found.image) == (static.tokens, static.image)


@pytest.mark.parametrize("name", EXPOSED)
def test_wrong_options_are_sentences(name):
    for config, sentence in (
        ({"features": "head"}, f"features is 'head'; '{name}' exposes '{EXPOSED[name][0]}'"),
        ({"stride": 0}, "stride is 0; give a whole number of pixels"),
        ({"stride": 100}, "does not divide into tokens of stride 100; change stride or image_size"),
        ({"layer": 2}, "layer"),
    ):
        with pytest.raises(ExpertBuildError, match=sentence):
            resolve_expert(name, **config)


@pytest.mark.parametrize("name", EXPOSED)
def test_other_weights_are_refused(save, tmp_path, name):
    other = SAM if name == SEGFORMER else SEGFORMER
    _, folder = save(other)
    (tmp_path / "empty").mkdir()
    for ask in (resolve_expert, build_expert):
        with pytest.raises(ExpertBuildError, match=r"is of model_type .*, and this expert takes"):
            ask(name, weights=folder)
        with pytest.raises(ExpertBuildError, match=r"holds no config\.json"):
            ask(name, weights=tmp_path / "empty")
        with pytest.raises(ExpertBuildError, match="nowhere"):
            ask(name, weights=tmp_path / "nowhere")


def test_a_mask2former_of_another_backbone_is_refused(tmp_path):
    resnet = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    transformers.Mask2FormerConfig(backbone_config=resnet).save_pretrained(tmp_path)
    with pytest.raises(ExpertBuildError, match="model_type 'resnet', and the expert reads Swin's"):
        resolve_expert(MASK2FORMER, weights=tmp_path)
