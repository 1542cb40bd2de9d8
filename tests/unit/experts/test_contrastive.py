"""Contrastive experts give the tokens that open_clip's and timm's towers pool, from their files."""

from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_for_hf
from timm.models import save_for_hf as save_timm
from torch import nn

from tove_plugins import ExpertBuildError, build_expert, discover, resolve_expert

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
OWN = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 48}
TIMM = {"timm_model_pretrained": False, "image_size": 160}
TOWERS = {
    "vit": OWN,
    "vit, average": OWN | {"pool_type": "avg"},
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64},
    "timm vit": TIMM | {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": None},
    "timm convnext": TIMM | {"timm_model_name": "test_convnext", "timm_proj": "linear"},
}
STATISTICS = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}
TIMM_EXPERTS = [n for n, e in discover().experts.items() if e.spec.task == "contrastive"]
TIMM_EXPERTS = [n for n in TIMM_EXPERTS if "timm" in discover().get(n).spec.factory]
OPEN_CLIP_EXPERTS = {
    "clip_convnext_base": "laion2b_s13b_b82k_augreg",
    "clip_convnext_large": "laion2b_s29b_b131k_ft_soup",
    "open_clip": "laion2b_s34b_b88k",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def save(tmp_path):
    """Save a random model as open_clip's hub has them; give what open_clip loads, and the folder.

    Every parameter is drawn: one at its start, a norm's say, would hide that it is not used.
    """

    def write(vision, **config):
        torch.manual_seed(0)
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **config}
        model = open_clip.CLIP(**config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        set_model_preprocess_cfg(model, {"size": vision["image_size"], **STATISTICS})
        tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
        save_for_hf(model, tokenizer, config, str(tmp_path / "model"))
        loaded = open_clip.create_model(f"local-dir:{tmp_path / 'model'}").eval()
        return loaded.visual, tmp_path / "model"

    return write


def pixels(height, width=None):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, height, width or height, generator=generator)


@torch.no_grad()
def pooled_tokens(visual, images):
    """What the stock tower computes before it pools, by its own forward pass."""
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        visual.output_tokens = True
        return visual(images)[1]
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        taken = []
        with visual.layer4.register_forward_hook(lambda *call: taken.append(call[-1])):
            visual(images)
        return taken[0].flatten(2).transpose(1, 2)
    features = visual.trunk.forward_features(images)
    if features.ndim == 3:
        return features[:, visual.trunk.num_prefix_tokens :]
    return features.flatten(2).transpose(1, 2)


@torch.no_grad()
def tokens_of(name, images, **config):
    """Build the expert and hold its tokens against the spec that a run plans with."""
    spec = resolve_expert(name, **config)
    tokens = build_expert(name, **config)(images)
    assert tokens.shape == (len(images), spec.tokens.num_tokens, spec.tokens.width)
    assert spec.image.size == tuple(images.shape[2:])
    return tokens


@pytest.mark.parametrize("tower", TOWERS)
def test_a_folder_of_open_clips_gives_what_its_tower_pools(save, tower):
    visual, folder = save(TOWERS[tower])
    images = pixels(TOWERS[tower]["image_size"])
    tokens = tokens_of("open_clip", images, weights=folder)
    torch.testing.assert_close(tokens, pooled_tokens(visual, images))
    image = resolve_expert("open_clip", weights=folder).image
    assert (image.mean, image.std) == (STATISTICS["mean"], STATISTICS["std"])
    assert image.interpolation == "bilinear"


def test_the_approximate_gelu_comes_with_the_folder(save):
    visual, folder = save(OWN, quick_gelu=True)
    tokens = tokens_of("open_clip", pixels(48), weights=folder)
    torch.testing.assert_close(tokens, pooled_tokens(visual, pixels(48)))


def test_tokens_that_coca_attends_to_are_taken_before_its_pooler(save):
    pooler = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}
    visual, folder = save(OWN | pooler)
    taken = []
    with torch.no_grad(), visual.transformer.register_forward_hook(lambda *c: taken.append(c[-1])):
        visual(pixels(48))
    torch.testing.assert_close(tokens_of("open_clip", pixels(48), weights=folder), taken[0][:, 1:])


@torch.no_grad()
def test_an_earlier_block_is_taken_before_the_norm_and_nothing_above_it_is_kept(save):
    visual, folder = save(OWN)
    found = visual.forward_intermediates(pixels(48), indices=[1], output_fmt="NLC")
    tokens = tokens_of("open_clip", pixels(48), weights=folder, layer=1)
    torch.testing.assert_close(tokens, found["image_intermediates"][0])
    kept = build_expert("open_clip", weights=folder, layer=-2).state_dict()
    assert any("resblocks.1." in name for name in kept)
    assert not any(
        part in name for name in kept for part in ("resblocks.2", "visual.proj", "ln_post")
    )


def test_another_image_size_interpolates_positions_as_open_clip_does(save):
    _, folder = save(OWN)
    visual = open_clip.create_model(f"local-dir:{folder}", force_image_size=(64, 32)).visual.eval()
    tokens = tokens_of("open_clip", pixels(64, 32), weights=folder, image_size=(64, 32))
    torch.testing.assert_close(tokens, pooled_tokens(visual, pixels(64, 32)))


@torch.no_grad()
@pytest.mark.parametrize("name", TIMM_EXPERTS)
def test_timms_towers_load_from_timms_folders(name, tmp_path):
    model = discover().get(name).spec.options["model"]
    shape = {"embed_dim": 32, "num_heads": 2, "depth": 2}
    torch.manual_seed(0)
    net = timm.create_model(model, **shape).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    save_timm(net, str(tmp_path / "net"), model_args=shape, safe_serialization=True)
    images = pixels(discover().get(name).spec.image.size[0])
    expected = net.forward_features(images)[:, net.num_prefix_tokens :]
    torch.testing.assert_close(tokens_of(name, images, weights=tmp_path / "net"), expected)


@pytest.mark.parametrize("name", TIMM_EXPERTS)
def test_timms_registry_says_what_the_catalogue_says(name):
    static = discover().get(name).spec
    cfg = timm.get_pretrained_cfg(static.options["model"])
    assert static.weights.source == f"hub:{cfg.hf_hub_id}/model.safetensors"
    assert static.weights.licence.lower() == cfg.license
    assert (static.image.mean, static.image.std) == (cfg.mean, cfg.std)
    assert (static.image.size, static.image.interpolation) == (cfg.input_size[1:], "bicubic")


@pytest.mark.parametrize("name", OPEN_CLIP_EXPERTS)
def test_open_clips_list_says_what_the_catalogue_says(name):
    static = discover().get(name).spec
    model = static.options.get("model", "ViT-B-16")
    found = resolve_expert("open_clip", model=model, tag=OPEN_CLIP_EXPERTS[name])
    assert (found.tokens, found.image) == (static.tokens, static.image)
    assert found.weights.source == static.weights.source


def test_a_weights_file_needs_its_models_name(tmp_path):
    torch.manual_seed(0)
    visual = open_clip.create_model("ViT-S-32-alt").visual.eval()  # the smallest that is listed
    file = tmp_path / "epoch_1.pt"
    state = {f"module.visual.{name}": tensor for name, tensor in visual.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, file)
    tokens = tokens_of("open_clip", pixels(224), weights=file, model="ViT-S-32-alt")
    torch.testing.assert_close(tokens, pooled_tokens(visual, pixels(224)))
    with pytest.raises(ExpertBuildError, match="give `model` beside"):
        resolve_expert("open_clip", weights=file)
    with pytest.raises(ExpertBuildError, match="does not hold the vision tower of ViT-S-16-alt"):
        build_expert("open_clip", weights=file, model="ViT-S-16-alt")


def test_published_weights_trained_with_the_approximate_gelu_get_it():
    """open_clip itself only warns of the mismatch, and computes something else."""
    from tove_experts.open_clip_models import read_architecture

    assert not read_architecture("ViT-B-32", "laion2b_s34b_b79k", None).quick_gelu
    assert read_architecture("ViT-B-32", "openai", None).quick_gelu


def test_the_activation_of_a_file_is_not_guessed(tmp_path):
    from tove_experts.open_clip_models import read_architecture

    file = tmp_path / "weights.pt"
    file.touch()
    with pytest.raises(ValueError, match=r"with GELU and, openai, .* model='ViT-B-32-quickgelu'"):
        read_architecture("ViT-B-32", None, file)
    assert read_architecture("ViT-B-32-quickgelu", None, file).quick_gelu
    assert read_architecture("ViT-B-32", "openai", file).quick_gelu
    assert not read_architecture("ViT-B-32", "laion2b_s34b_b79k", file).quick_gelu
    assert not read_architecture("ViT-S-32-alt", None, file).quick_gelu  # nothing was published


def test_any_published_model_is_planned_without_its_weights():
    spec = resolve_expert("open_clip", model="ViT-SO400M-14-SigLIP-384")  # it has one tag
    assert (spec.tokens.width, spec.tokens.grid) == (1152, (27, 27))
    assert (spec.image.size, spec.image.mean) == ((384, 384), (0.5, 0.5, 0.5))
    assert spec.weights.source == "hub:timm/ViT-SO400M-14-SigLIP-384"
    file = resolve_expert("open_clip", model="ViTamin-S", tag="datacomp1b").weights.source
    assert file == "hub:jienengchen/ViTamin-S/pytorch_model.bin"
    resnet = resolve_expert("open_clip", model="RN50", tag="openai", layer=-2, image_size=320)
    assert (resnet.tokens.width, resnet.tokens.grid) == (1024, (20, 20))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model": "ViT-B16"}, r"no model 'ViT-B16'.*ViT-B-16"),
        ({"model": "ViT-H-14"}, "Which weights of ViT-H-14.*laion2b_s32b_b79k"),
        ({"model": "ViT-H-14", "tag": "x"}, "knows no weights 'x' of ViT-H-14"),
        ({"model": "ViT-B-16", "tag": "openai", "layer": 12}, "layer is 12.*from -12 to 11"),
        ({"tower": {"depht": 1}}, "cannot build the vision tower of ViT-B-16.*depht"),
    ],
)
def test_wrong_options_are_sentences(config, sentence):
    with pytest.raises(ExpertBuildError, match=sentence):
        resolve_expert("open_clip", **config)


def test_folders_of_another_kind_are_refused(save, tmp_path):
    _, folder = save(OWN)
    with pytest.raises(ExpertBuildError, match="holds a tower with timm_model_name=None"):
        resolve_expert("clip_convnext_base", weights=folder)
    with pytest.raises(ExpertBuildError, match="tells no architecture"):
        resolve_expert("open_clip", weights=tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(ExpertBuildError, match=r"holds none of open_clip_model\.safetensors"):
        build_expert("open_clip", weights=folder)
