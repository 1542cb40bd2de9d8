"""Networks of shapes alone: as large as the real ones, without a weight or a connection."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, LlamaConfig

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.shapes import running_shapes, shapes_alone
from tove.errors import ConfigError
from tove.registry import ENCODERS, LANGUAGE_MODELS


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch):
    """Whoever opens a connection fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def encoder_of(**settings: Any) -> nn.Module:
    with shapes_alone():
        return ENCODERS.get(settings.pop("type"))(**settings)


def tokens_of(encoder: nn.Module, side: int) -> torch.Size:
    with torch.no_grad(), running_shapes():
        return encoder(torch.empty(2, 3, side, side, device="meta")).shape


@pytest.mark.parametrize(
    ("settings", "parameters", "width"),
    [
        (dict(type="TransformersCLIP", pretrained="openai/clip-vit-base-patch16"), 85.8e6, 768),
        (dict(type="OpenCLIP", model="ViT-B-16", pretrained="laion2b_s34b_b88k"), 86.2e6, 768),
    ],
)
def test_encoders_of_the_hub(offline, settings: dict[str, Any], parameters: float, width: int):
    encoder = encoder_of(**settings)
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(parameters, rel=0.001)
    assert tokens_of(encoder, 224) == (2, 14 * 14, width)


def test_a_folder_needs_its_config_alone(offline, tmp_path: Path):
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    Dinov2Config(**sizes, image_size=28, patch_size=14).save_pretrained(tmp_path)
    encoder = encoder_of(type="TransformersViT", pretrained=str(tmp_path))
    assert tokens_of(encoder, 28) == (2, 4, 32)


def test_a_language_model_without_a_tokenizer_reads_words(offline, tmp_path: Path):
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    LlamaConfig(**sizes, vocab_size=50, intermediate_size=16).save_pretrained(tmp_path)
    with shapes_alone():
        language = LANGUAGE_MODELS.get("ChatLanguageModel")(str(tmp_path), "v1", "full")
    assert all(parameter.is_meta for parameter in language.parameters())
    sample = {"image_id": "i", "prompt": "one two", "target": "three"}
    assert language.num_tokens({**sample, "candidates": ["three"]}) >= 3


def test_what_is_not_known_is_said(offline):
    with pytest.raises(ConfigError, match="`hf download someone/clip config"):
        encoder_of(type="TransformersCLIP", pretrained="someone/clip")
    with pytest.raises(ConfigError, match="would have to be fetched"):
        encoder_of(type="OpenCLIP", pretrained="hf-hub:someone/clip")


def test_experts_are_built_one_by_one_and_only_where_shapes_are(offline):
    with shapes_alone():
        hub = ExpertHub({"sam": {"type": "sam_vit_b"}}, unbuilt=["sam"])
        network = hub.network("sam")
    assert all(parameter.is_meta for parameter in network.parameters())
    with running_shapes():
        tokens = hub.run("sam", torch.empty(1, 3, 64, 64, device="meta"))
    assert tokens.shape == (1, 64 * 64, 256)


def test_only_whether_something_holds_is_answered():
    numbers = torch.empty(3, device="meta")
    with running_shapes():
        assert bool((numbers > 0).all())
        with pytest.raises(RuntimeError, match="meta"):
            numbers.sum().item()
    assert torch.autocast.__module__ == "torch.amp.autocast_mode"
