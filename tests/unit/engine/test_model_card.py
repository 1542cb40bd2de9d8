"""An export's model card is read by the hub's own library, and its code runs."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch.nn.functional import normalize

from tove.backbones.clip.encoder import TransformersCLIP
from tove.backbones.clip.retrieval import zero_shot
from tove.backbones.experts.licences import Terms
from tove.engine.digests import digests_of
from tove.engine.stages.model_card import write_model_card

ROW = {
    "name": "merged",
    "role": "merged",
    "experts": [],
    "metrics": {
        "vsr/accuracy": {"value": 0.7604, "low": 0.74, "high": 0.78, "n": 90},
        "vsr/relation/left of": {"value": 0.7},
    },
    "training_images": 3800,
    "steps": 1500,
    "seed": 3,
    "retrieval": {
        "source": {"image_to_text": 0.5, "text_to_image": 0.25, "chance": 1 / 256},
        "transformers": {"image_to_text": 0.41, "text_to_image": 0.2, "chance": 1 / 256},
        "images": 256,
    },
}
PLAIN = ROW | {"name": "plain_clip", "role": "plain", "experts": [], "metrics": {}}
TERMS = [
    Terms("depth", "dpt", "MIT", True, "many scenes"),
    Terms("segmentation", "segformer", "NVIDIA", False, "ADE20K"),
]


@pytest.fixture
def export(miniature: Path, tmp_path: Path) -> Path:
    encoder = TransformersCLIP(str(miniature / "clip"), layer=-2)
    folder = encoder.export(tmp_path / "export")
    write_model_card(folder, ROW, [PLAIN], TERMS, {"type": "ToVE", "tove_plugins": "0.1.0"})
    return folder


def test_the_hub_reads_its_metadata(export: Path):
    data = ModelCard.load(export / "README.md").data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-feature-extraction"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("vsr/accuracy", 0.7604)


def test_it_tells_what_the_weights_do_not(export: Path):
    text = (export / "README.md").read_text()
    assert "`hidden_states[-2]`" in text
    assert "`vision_feature_layer=-2`" in text
    assert "| merged | 0 | 0.760 [0.74, 0.78] |" in text
    assert "| plain_clip | 0 | - |" in text
    assert "| segmentation | segformer | NVIDIA | no | ADE20K |" in text
    assert "non-commercial because of segmentation (segformer)" in text
    assert "among 256 images and their captions, R@1:" in text
    assert "| source | 0.500 | 0.250 | 0.004 |" in text
    assert "| transformers | 0.410 | 0.200 | 0.004 |" in text
    assert "left of" not in text  # kinds of questions stay in results.json
    assert "- Made by ToVE, tove_plugins 0.1.0, torch " in text
    assert "Zero-shot, by" not in text  # there is no text tower


def test_a_format_that_was_not_written_is_not_told(miniature: Path, tmp_path: Path, export: Path):
    assert "In open_clip" in (export / "README.md").read_text()
    folder = TransformersCLIP(str(miniature / "clip")).export(tmp_path / "one", ["transformers"])
    write_model_card(folder, ROW, [PLAIN], TERMS, {"type": "ToVE"})
    assert "In open_clip" not in (folder / "README.md").read_text()


def test_its_code_gives_the_tokens(export: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (40, 32), "red").save(export / "photo.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(), re.DOTALL)
    found: dict = {}
    monkeypatch.chdir(export)
    exec(code.replace("FOLDER", str(export)), found)
    encoder = TransformersCLIP(str(export), layer=-2)
    with torch.no_grad():
        # A square of one colour is the same pixels by any way of resizing.
        expected = encoder(torch.tensor([254, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255)
    torch.testing.assert_close(found["tokens"], expected, atol=1e-4, rtol=1e-4)


def test_its_zero_shot_code_is_what_was_measured(
    miniature: Path, clip_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = shutil.copytree(clip_folder, tmp_path / "source")
    for file in (miniature / "lm").glob("*token*"):
        shutil.copy(file, source)
    folder = TransformersCLIP(str(source)).export(tmp_path / "export")
    write_model_card(folder, ROW, [PLAIN], TERMS, {})
    Image.new("RGB", (32, 32), "red").save(folder / "photo.jpg", quality=100)
    found: dict = {}
    monkeypatch.chdir(folder)
    for code in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        exec(code.replace("FOLDER", str(folder)).replace("a red ball", "a red square"), found)
    towers = zero_shot(folder)
    assert towers is not None
    red = torch.tensor(np.array(Image.open(folder / "photo.jpg"))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        image, texts = towers.images(red), towers.texts(["a red square", "a blue box"])
        scale = found["model"].logit_scale.exp()
        expected = scale * normalize(image) @ normalize(texts).T
    torch.testing.assert_close(found["likeness"], expected, atol=1e-3, rtol=1e-3)


def test_a_publisher_may_edit_it(export: Path):
    before = digests_of(export, [export])
    (export / "README.md").write_text("mine")
    assert digests_of(export, [export]) == before
