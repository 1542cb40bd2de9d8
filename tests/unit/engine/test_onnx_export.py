"""An ONNX file gives the tokens of the export, and a lacking library is a sentence."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tove.backbones.clip.encoder import TransformersCLIP
from tove.engine.onnx_export import _read, export_onnx
from tove.errors import ConfigError


def test_the_file_gives_the_encoders_tokens(miniature: Path, tmp_path: Path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript")
    encoder = TransformersCLIP(str(miniature / "clip"), layer=-2)
    folder = encoder.export(tmp_path / "export")
    difference = export_onnx(folder, tmp_path / "encoder.onnx")
    assert difference < 1e-4
    images = torch.rand(3, 3, 32, 32)  # another batch than it was traced with
    session = runtime.InferenceSession(str(tmp_path / "encoder.onnx"))
    pixels = encoder.preprocess(images).numpy()
    (tokens,) = session.run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(tokens, encoder(images).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("model.safetensors", lambda b: b[: len(b) // 2], "model.safetensors is cut off"),
        ("model.safetensors", None, "could not be loaded; FOLDER takes"),
        ("model.safetensors", lambda b: b.replace(b"pre_layrnorm", b"pre_layrn0rm"), "not a whole"),
        ("config.json", lambda b: b"{}", "could not be loaded; FOLDER takes"),
        ("export.json", lambda b: b"{", "is not what an export says of itself"),
        ("export.json", lambda b: b'{"layer": 1}', r"export\.json: grid is None, .* a list of 2"),
    ],
)
def test_an_export_that_is_damaged_is_told(miniature: Path, tmp_path: Path, file, damage, told):
    folder = TransformersCLIP(str(miniature / "clip"), layer=-2).export(tmp_path / "export")
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if damage is not None:
        (folder / file).write_bytes(damage(content))
    with pytest.raises(ConfigError, match=told):
        _read(folder)


def test_what_is_no_export_is_told(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match="is no export"):
        export_onnx(tmp_path, tmp_path / "x.onnx")


def test_a_lacking_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime; run: pip install"):
        export_onnx(tmp_path, tmp_path / "x.onnx")
