"""MoLE in the encoders of both libraries: where it goes, what it leaves as it was."""

import pytest
import torch
from transformers import CLIPModel

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.errors import ConfigError
from tove.methods.move_kd.mole import record_routing
from tove.methods.move_kd.mole_injection import inject_mole, mole_layers


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def open_clip_folder(clip_folder, tmp_path):
    from tove.backbones.clip.export import export_encoder

    export_encoder(TransformersCLIP(clip_folder), tmp_path / "both", ("open_clip",))
    return str(tmp_path / "both/open_clip")


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_used_layers_with_zero_B_leave_the_tokens_as_they_were(
    library, clip_folder, tmp_path, images
):
    if library == "transformers":
        encoder = TransformersCLIP(clip_folder, layer=-2)
    else:
        encoder = OpenCLIP(open_clip_folder(clip_folder, tmp_path), layer=-2)
    before = encoder(images)
    layers = inject_mole(encoder, rank=4, init="zero")
    assert len(layers) == encoder.num_blocks == 2
    assert layers == mole_layers(encoder)
    assert not any(layer.training for layer in layers)
    torch.testing.assert_close(encoder(images), before)
    with record_routing(encoder) as routing:
        encoder(images).square().sum().backward()
    assert [p.shape for p in routing] == [(2, 17, 3)] * 2
    # All that was added is reached: no layer lies above the tokens.
    assert all(layer.up.B.grad.abs().max() > 0 for layer in layers)


def test_all_layers_includes_the_one_above_the_tokens(clip_folder, images):
    encoder = TransformersCLIP(clip_folder, layer=-2)
    layers = inject_mole(encoder, "all", rank=4)
    assert len(layers) == 3
    encoder(images).square().sum().backward()
    assert layers[-1].down.A.grad is None
    assert layers[0].down.A.grad.abs().max() > 0


def test_a_checkpoint_of_it_loads_exactly(clip_folder, images):
    first, second = (TransformersCLIP(clip_folder, layer=-2) for _ in range(2))
    for encoder in (first, second):
        inject_mole(encoder, rank=4)
    assert not torch.equal(first(images), second(images))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images), second(images))


def test_what_has_no_place_is_a_sentence(clip_folder):
    encoder = TransformersCLIP(clip_folder)
    inject_mole(encoder, rank=4)
    with pytest.raises(ConfigError, match="has it already"):
        inject_mole(encoder, rank=4)
    text = CLIPModel.from_pretrained(clip_folder).text_projection
    text.blocks = lambda: iter(())
    with pytest.raises(ConfigError, match="No block of the Linear"):
        inject_mole(text)
