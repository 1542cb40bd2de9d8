"""A student with MoLE as a folder of its own: read by transformers, and as an encoder."""

import json

import pytest
import torch
from transformers import AutoModel

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.vit import tower_of
from tove.engine.stages.models import exported_encoder
from tove.errors import ConfigError
from tove.methods.move_kd import MoLE, MoLECLIP, inject_mole
from tove.registry import ENCODERS

OPTIONS = {"num_experts": 2, "rank": 4, "alpha": 2.0, "dropout": 0.1}


@pytest.mark.parametrize("how", [{}, {"placement": "around", "router_gradient": "gate_scale"}])
def test_the_folder_gives_the_same_tokens_exactly(clip_folder, tmp_path, how):
    torch.manual_seed(0)
    student = TransformersCLIP(clip_folder, image_size=48, layer=-2)
    inject_mole(student, **OPTIONS, **how)
    for layer in student.modules():
        if isinstance(layer, MoLE):
            torch.nn.init.normal_(layer.router.bias)
    folder = MoLECLIP.around(student).export(tmp_path / "mole")
    images = torch.rand(2, 3, 48, 48)

    again = MoLECLIP(str(folder), layer=-2)
    assert torch.equal(again(images), student(images))
    stock = AutoModel.from_pretrained(folder).eval()
    layers = tower_of(stock).encoder.layers
    assert [isinstance(block.mlp, MoLE) for block in layers] == [True, True, False]
    assert layers[0].mlp.options.items() >= {**OPTIONS, **how}.items()
    states = stock(again.preprocess(images), output_hidden_states=True).hidden_states
    assert torch.equal(states[-2][:, 1:], student(images))

    settings = exported_encoder({"type": "TransformersCLIP", "pretrained": clip_folder}, folder)
    assert settings["type"] == "MoLECLIP"
    assert torch.equal(ENCODERS.build({**settings, "layer": -2})(images), student(images))
    assert json.loads((folder / "export.json").read_text())["layer"] == -2
    # An export of what was read is the same again.
    twice = again.export(tmp_path / "twice")
    assert torch.equal(MoLECLIP(str(twice), layer=-2)(images), student(images))


def test_stock_clip_does_not_take_the_folder_for_its_own(clip_folder, tmp_path):
    student = TransformersCLIP(clip_folder, layer=-2)
    inject_mole(student, **OPTIONS)
    folder = MoLECLIP.around(student).export(tmp_path / "mole")
    with pytest.raises(ConfigError, match=r"not a whole CLIPVisionModel|could not be loaded"):
        TransformersCLIP(str(folder))


def test_a_student_of_another_library_is_refused_by_a_sentence():
    with pytest.raises(ConfigError, match=r"A Linear with MoLE.*MergeStage"):
        MoLECLIP.around(torch.nn.Linear(2, 2))
