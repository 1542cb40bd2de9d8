"""Checkpoints with the public code's keys: read, written, refused."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from tove.backbones.vit import tower_of
from tove.errors import CheckpointError, ConfigError
from tove.methods.move_kd.mole_injection import inject_mole
from tove.methods.move_kd.released import Released, read_released, write_stage_one
from tove.methods.move_kd.sam_layout import released_sam_tokens
from tove.methods.move_kd.teacher_adapter import ChannelThenToken


class Student(nn.Module):
    def __init__(self, **mole):
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=8,
            intermediate_size=12,
            num_attention_heads=2,
            num_hidden_layers=2,
            image_size=8,
            patch_size=4,
        )
        whole = CLIPVisionModel(config)
        self.model = nn.ModuleDict({"vision_model": tower_of(whole)})
        inject_mole(self, "all", rank=3, **mole)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)

    def blocks(self):
        yield from enumerate(self.model.vision_model.encoder.layers)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    adapters = {name: ChannelThenToken(5, 9, 8, 4).state_dict() for name in ("eva", "convnext")}
    projector = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 6)).state_dict()
    return Released(Student().model.state_dict(), projector, adapters)


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(found[key], expected[key]) for key in expected)


def test_stage_one_is_written_with_the_released_keys_and_read_back(parts, tmp_path):
    write_stage_one(parts, tmp_path)
    files = {path.name: torch.load(path, weights_only=True) for path in tmp_path.iterdir()}
    mlp = "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp."
    assert set(files["mm_projector.bin"]) == {
        f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")
    }
    assert files["mole_encoder.bin"][f"{mlp}moe_up.2.lora_B.weight"].shape == (8, 3)
    assert files["mole_encoder.bin"][f"{mlp}moe_down.0.lora_A.weight"].shape == (3, 8)
    assert len(files["mole_encoder.bin"]) == 2 * (2 * 3 * 4 + 2)
    assert files["encoder_adapter.bin"]["eva_adapter_2.weight"].shape == (4, 9)
    found = read_released(tmp_path)
    mole = {
        key: value
        for key, value in parts.vision.items()
        if any(word in key for word in (".down.", ".up.", ".router."))
    }
    assert same(found.vision, mole)
    assert same(found.projector, parts.projector)
    assert all(same(found.adapters[name], parts.adapters[name]) for name in parts.adapters)


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards", "bin shards"])
def test_a_whole_folder_is_read_into_the_student(parts, tmp_path, form):
    state = parts.to_keys() | {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2)}
    vision = {key: value for key, value in state.items() if "vision_tower" in key}
    rest = {key: value for key, value in state.items() if "vision_tower" not in key}
    if form == "safetensors":
        save_file(state, tmp_path / "model.safetensors")
    elif form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        suffix = "bin" if "bin" in form else "safetensors"
        stem = "pytorch_model" if suffix == "bin" else "model"
        write = torch.save if suffix == "bin" else save_file
        index = {}
        for number, part in enumerate((vision, rest)):
            write(part, tmp_path / f"{number}.{suffix}")
            index |= {key: f"{number}.{suffix}" for key in part}
        index["lm_head.weight"] = "of_the_language_model_alone_and_never_opened"
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": index}))
    found = read_released(tmp_path)
    student = Student()
    student.model.load_state_dict(found.vision)
    assert same(student.model.state_dict(), parts.vision)
    assert same(found.adapters["convnext"], parts.adapters["convnext"])
    assert same(found.projector, parts.projector)


def test_what_cannot_be_read_or_written_is_a_sentence(parts, tmp_path):
    with pytest.raises(CheckpointError, match=r"neither mm_projector\.bin"):
        read_released(tmp_path)
    (tmp_path / "mm_projector.bin").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"mm_projector\.bin could not be read"):
        read_released(tmp_path)
    torch.save({"model.layers.0.weight": torch.zeros(1)}, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="no key of MoVE-KD"):
        read_released(tmp_path)
    key = "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.moe_up.{}.lora_A.bias"
    with pytest.raises(CheckpointError, match=r"experts \[0, 2\].* 0 to 1"):
        Released.from_keys({key.format(e): torch.zeros(3) for e in (0, 2)})
    with pytest.raises(CheckpointError, match="around"):
        Released(Student(placement="around").model.state_dict()).to_keys()


def test_sam_layout_of_another_shape_is_a_sentence():
    tokens = torch.arange(64.0 * 64 * 256).view(1, 256, 4096).transpose(1, 2)
    scrambled = released_sam_tokens(tokens, (64, 64))
    assert scrambled.shape == tokens.shape
    assert sorted(scrambled[0, 0].tolist()) != tokens[0, 0].tolist()
    with pytest.raises(ConfigError, match="64x64 of 128"):
        released_sam_tokens(tokens[..., :128], (64, 64))
