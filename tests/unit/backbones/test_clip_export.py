"""An export is an ordinary checkpoint: stock libraries load it and give the same tokens."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CLIPModel, CLIPVisionModel, PreTrainedTokenizerFast

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.backbones.clip.export import export_encoder
from tove.backbones.export_folder import teachers_of
from tove.errors import CheckpointError, ConfigError

READ_WITH_STOCK_LIBRARIES = """
import sys, torch, open_clip
from transformers import CLIPImageProcessor, CLIPVisionModel
found = []
for folder, pixels, layer in torch.load(sys.argv[1]):
    vision = CLIPVisionModel.from_pretrained(folder).eval()
    hidden = vision(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    clip = open_clip.create_model(f"local-dir:{folder}/open_clip").eval()
    index = layer % (len(clip.visual.transformer.resblocks) + 1) - 1
    options = dict(indices=[index], output_fmt="NLC", intermediates_only=True)
    inner = clip.visual.forward_intermediates(pixels, **options)["image_intermediates"][0]
    assert CLIPImageProcessor.from_pretrained(folder).crop_size["height"] == pixels.shape[-1]
    found.append([hidden, inner])
assert not any(name.split(".")[0] in ("tove", "tove_plugins") for name in sys.modules)
torch.save(found, sys.argv[2])
"""


def _trained(encoder):
    """Move every weight, as training would."""
    torch.manual_seed(3)
    for parameter in encoder.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return encoder.requires_grad_(False)


@pytest.fixture
def make_open_clip(tmp_path):
    """Write an open_clip checkpoint that transformers never saw."""
    return partial(_write_open_clip, tmp_path / "source")


@pytest.fixture
def open_clip_folder(make_open_clip):
    return make_open_clip()


def _write_open_clip(folder, **vision):
    tower = {"width": 32, "layers": 2, "heads": 4}
    model_cfg = {
        "embed_dim": 24,
        "quick_gelu": False,
        "vision_cfg": {
            "width": 32,
            "layers": 3,
            "head_width": 8,
            "patch_size": 8,
            "image_size": 32,
            **vision,
        },
        "text_cfg": {"context_length": 12, "vocab_size": 99, **tower},
    }
    torch.manual_seed(0)
    state = open_clip.CLIP(**model_cfg).state_dict()
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)


def test_stock_libraries_give_the_same_tokens(clip_folder, open_clip_folder, tmp_path):
    encoders = [
        TransformersCLIP(clip_folder),
        TransformersCLIP(clip_folder, image_size=48, layer=-2),
        OpenCLIP(open_clip_folder, image_size=40, layer=-2),
    ]
    asked, expected = [], []
    for index, encoder in enumerate(map(_trained, encoders)):
        images = torch.rand(2, 3, encoder.image_size, encoder.image_size)
        folder = export_encoder(encoder, tmp_path / str(index))
        asked.append([str(folder), encoder.preprocess(images), encoder.layer])
        expected.append(encoder(images))
    torch.save(asked, tmp_path / "asked.pt")
    command = [sys.executable, "-c", READ_WITH_STOCK_LIBRARIES, "asked.pt", "found.pt"]
    subprocess.run(command, check=True, cwd=tmp_path)
    for pair, tokens in zip(torch.load(tmp_path / "found.pt"), expected, strict=True):
        for found in pair:
            torch.testing.assert_close(found, tokens, atol=1e-5, rtol=1e-5)
    assert CLIPVisionModel.from_pretrained(tmp_path / "2").config.hidden_act == "gelu"


def test_an_export_compiles_whole(clip_folder, tmp_path):
    folder = export_encoder(_trained(TransformersCLIP(clip_folder)), tmp_path / "out")
    encoder = CLIPVisionModel.from_pretrained(folder).eval()
    pixels = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():  # transformers 5 sets itself up in the first call, behind a lock
        expected, found = (m(pixels, output_hidden_states=True) for m in (encoder, compiled))
    assert torch.equal(found.hidden_states[-1], expected.hidden_states[-1])


def test_an_open_clip_encoder_of_another_epsilon_keeps_it_in_transformers(make_open_clip, tmp_path):
    encoder = OpenCLIP(make_open_clip(norm_kwargs={"eps": 1e-2}))
    folder = export_encoder(encoder, tmp_path / "out")
    vision = CLIPVisionModel.from_pretrained(folder).eval()
    assert vision.config.layer_norm_eps == 1e-2
    images = torch.rand(1, 3, 32, 32)
    hidden = vision(encoder.preprocess(images)).last_hidden_state[:, 1:]
    torch.testing.assert_close(hidden, encoder(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("resample", "name"), [(2, "bilinear"), (3, "bicubic")])
def test_the_exported_processor_does_what_the_source_s_did(clip_folder, tmp_path, resample, name):
    source = tmp_path / "source"
    shutil.copytree(clip_folder, source)
    seen = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": resample}
    (source / "preprocessor_config.json").write_text(json.dumps(seen))
    out = export_encoder(TransformersCLIP(str(source), image_size=40), tmp_path / "out")
    written = json.loads((out / "preprocessor_config.json").read_text())
    assert written["resample"] == resample
    assert written["image_mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert written["image_std"] == pytest.approx([0.4, 0.5, 0.6])
    assert written["size"] == {"shortest_edge": 40}
    assert written["crop_size"] == {"height": 40, "width": 40}
    theirs = json.loads((out / "open_clip/open_clip_config.json").read_text())["preprocess_cfg"]
    assert (theirs["interpolation"], theirs["resize_mode"]) == (name, "shortest")
    assert theirs["mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert theirs["std"] == pytest.approx([0.4, 0.5, 0.6])


def test_export_json_says_what_the_tokens_are(clip_folder, tmp_path):
    out = export_encoder(TransformersCLIP(clip_folder, image_size=48, layer=-2), tmp_path / "out")
    assert json.loads((out / "export.json").read_text()) == {
        "source": Path(clip_folder).name,  # whoever gets the folder has not this machine's paths
        "layer": -2,
        "text_tower": "source",
        "zero_shot": ["transformers", "open_clip"],
        "image_size": 48,
        "grid": [6, 6],
        "width": 32,
        "teachers": [],
    }
    alone = export_encoder(TransformersCLIP(clip_folder), tmp_path / "alone", ["transformers"])
    assert json.loads((alone / "export.json").read_text())["zero_shot"] == ["transformers"]
    assert not (alone / "open_clip").exists()


def test_the_teachers_terms_go_from_export_to_export(clip_folder, tmp_path):
    encoder = TransformersCLIP(clip_folder)
    assert encoder.teachers == []
    encoder.teachers = [{"slot": "dino", "licence": "Apache-2.0"}]
    out = export_encoder(encoder, tmp_path / "out")
    for pretrained in (out, out / "open_clip"):
        assert teachers_of(str(pretrained)) == encoder.teachers
    again = export_encoder(TransformersCLIP(str(out)), tmp_path / "again", ["transformers"])
    assert TransformersCLIP(str(again)).teachers == encoder.teachers


@pytest.mark.parametrize("formats", [["transformers"], ["open_clip"]])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_exported(clip_folder, tmp_path, formats, value):
    encoder = TransformersCLIP(clip_folder)
    encoder.model.vision_model.encoder.layers[1].mlp.fc1.weight.data[0, 0] = value
    with pytest.raises(ConfigError, match="gives other tokens"):
        export_encoder(encoder, tmp_path / "out", formats)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"hidden_act": "gelu"}, {"layer_norm_eps": 1e-4}])
def test_text_tower_and_similarities_survive_in_open_clip(make_clip, tmp_path, options):
    if "hidden_act" in options:
        source = CLIPModel.from_pretrained(make_clip(**options))
        source.config.text_config.hidden_act = "gelu"
        source.save_pretrained(tmp_path / "source")
        folder = str(tmp_path / "source")
    else:
        folder = make_clip(**options)
    reference = CLIPModel.from_pretrained(folder).eval()
    encoder = TransformersCLIP(folder)
    out = export_encoder(encoder, tmp_path / "out")
    ours = open_clip.create_model(f"local-dir:{out}/open_clip").eval()
    ids = torch.tensor([[5, 9, 98, 0], [7, 98, 0, 0]])  # the highest id ends a text
    pixels = torch.rand(2, 3, 32, 32)
    padded = torch.nn.functional.pad(ids, (0, 8))
    image, text, scale = ours(pixels, padded)
    expected = reference(input_ids=padded, pixel_values=pixels).logits_per_image
    torch.testing.assert_close(scale * image @ text.T, expected, atol=1e-5, rtol=1e-5)


def test_vision_only_source_gets_a_placeholder_text_tower(clip_folder, tmp_path):
    CLIPVisionModel.from_pretrained(clip_folder).save_pretrained(tmp_path / "vision")
    encoder = TransformersCLIP(str(tmp_path / "vision"))
    out = export_encoder(encoder, tmp_path / "out")
    assert json.loads((out / "export.json").read_text())["text_tower"] == "placeholder"
    clip = open_clip.create_model(f"local-dir:{out}/open_clip").eval()
    pixels = torch.rand(1, 3, 32, 32)
    pooled = CLIPVisionModel.from_pretrained(out)(pixels).pooler_output
    torch.testing.assert_close(clip.encode_image(pixels), pooled, atol=1e-5, rtol=1e-5)


def test_tokenizer_goes_with_the_text_tower(clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "source")
    words = {"<pad>": 0, "cube": 1, "red": 2, "</s>": 3}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    fast.save_pretrained(tmp_path / "source")
    out = export_encoder(TransformersCLIP(str(tmp_path / "source")), tmp_path / "out")
    ids = open_clip.get_tokenizer(f"local-dir:{out}/open_clip")("red cube")
    assert ids.tolist() == [[2, 1] + [0] * 10]


def test_export_is_whole_or_absent(clip_folder, tmp_path, monkeypatch):
    encoder = TransformersCLIP(clip_folder)
    out = export_encoder(encoder, tmp_path / "out")
    before = load_file(out / "model.safetensors")

    def disk_full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("tove.backbones.clip.export.save_file", disk_full)
    with pytest.raises(CheckpointError, match=r"out failed .*No space left.*untouched"):
        export_encoder(_trained(encoder), out)
    monkeypatch.undo()
    after = load_file(out / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    export_encoder(encoder, out)
    changed = load_file(out / "model.safetensors")
    assert any(not torch.equal(changed[name], tensor) for name, tensor in before.items())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_exported_is_said(clip_folder, make_clip, open_clip_folder, tmp_path):
    with pytest.raises(ConfigError, match="gelu_new"):
        export_encoder(TransformersCLIP(make_clip(hidden_act="gelu_new")), tmp_path / "out")
    encoder = OpenCLIP(open_clip_folder)
    config = json.loads((tmp_path / "source/open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["ls_init_value"] = 0.1
    (tmp_path / "source/open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="ls_init_value"):
        export_encoder(encoder, tmp_path / "out")
    with pytest.raises(ConfigError, match="cannot be exported"):
        export_encoder(torch.nn.Identity(), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("do not delete")
    with pytest.raises(ConfigError, match="name another folder"):
        export_encoder(TransformersCLIP(clip_folder), tmp_path / "mine")
    assert not (tmp_path / "out").exists()


def test_an_export_can_be_read_by_others_and_tells_no_private_path(clip_folder, tmp_path) -> None:
    encoder = TransformersCLIP("pkg:tove/assets/tiny_clip")
    folder = export_encoder(encoder, tmp_path / "export")
    umask = os.umask(0o022)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask
    assert json.loads((folder / "export.json").read_text())["source"] == "pkg:tove/assets/tiny_clip"
    own = export_encoder(TransformersCLIP(clip_folder), tmp_path / "own")
    for file in own.rglob("*.json"):
        assert os.path.dirname(clip_folder) not in file.read_text(), file
    assert json.loads((own / "export.json").read_text())["source"] == os.path.basename(clip_folder)
