"""An exported encoder as an ONNX file, for runtimes without torch.

    pixel_values [B, 3, S, S], as the folder's image processor gives them -> tokens [B, N, D]

The tokens are those of the layer that was trained, the patch grid's alone; blocks above it are left
out. What is written is run by onnxruntime and held against the folder.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove.atomic_io import atomic_writer
from tove.backbones.export_folder import MARK
from tove.backbones.vit import load_whole, tower_of
from tove.config.validation import check_value
from tove.data.annotations import read_json
from tove.errors import ConfigError
from tove_plugins import weights_problem

__all__ = ["export_onnx"]

_TOLERANCE = 1e-3  # of the tokens' standard deviation
_OPSET = 18


class _Tokens(nn.Module):
    """A tower of transformers as its patch tokens."""

    def __init__(self, tower: nn.Module, layer: int, num_tokens: int) -> None:
        super().__init__()
        self.tower, self.layer, self.num_tokens = tower, layer, num_tokens

    def forward(self, pixel_values: Tensor) -> Tensor:
        states = self.tower(pixel_values=pixel_values, output_hidden_states=True).hidden_states
        tokens: Tensor = states[self.layer][:, -self.num_tokens :]  # behind the prefix
        return tokens


def export_onnx(folder: Path, file: Path) -> float:
    """Write an export's encoder as one ONNX file.

    Args:
        folder: an export in the format of transformers.
        file: where to.

    Returns:
        The largest difference between the file's tokens and the folder's, in standard deviations
        of the tokens.

    Raises:
        ConfigError: the folder is no export or is damaged, onnxruntime or onnxscript is missing, or
            the tokens differ; nothing is written then.
        CheckpointError: the file cannot be written.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ConfigError(
            f"An ONNX file needs {error.name}; run: pip install 'tove_plugins[onnx]'."
        ) from error
    model, side = _read(folder)
    pixels_BCHW = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected_BND = model(pixels_BCHW)
        program: Any = torch.onnx.export(
            model,
            (pixels_BCHW,),
            input_names=["pixel_values"],
            output_names=["tokens"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    # One image: the batch of the file is not the batch that it was traced with.
    (found_BND,) = session.run(["tokens"], {"pixel_values": pixels_BCHW[:1].numpy()})
    difference = (torch.from_numpy(found_BND) - expected_BND[:1]).abs().max() / expected_BND.std()
    if not difference < _TOLERANCE:
        raise ConfigError(
            f"The ONNX file of {folder} gives other tokens than the folder (by {difference:.1e} of "
            "their standard deviation), so nothing was written; please report it with the "
            "encoder's name and the versions of torch and onnxscript."
        )
    with atomic_writer(file) as stream:
        stream.write(content)
    return float(difference)


def _read(folder: Path) -> tuple[nn.Module, int]:
    """Read an export: its tokens' model, and the side of its images."""
    from transformers import AutoModel

    if not (folder / MARK).is_file() or not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} is no export in the format of transformers: it lacks {MARK} or config.json. "
            "Give the folder that a stage ExportStage wrote, WORK_DIR/export say."
        )
    about = read_json(str(folder / MARK), "what an export says of itself", hint=dict)
    check_value(about.get("grid"), tuple[int, int], f"{folder / MARK}: grid")
    for key in ("layer", "image_size"):
        check_value(about.get(key), int, f"{folder / MARK}: {key}")
    if problem := weights_problem(folder):
        raise ConfigError(problem)
    whole = load_whole(AutoModel, str(folder), str(folder), "FOLDER").eval()
    rows, columns = about["grid"]
    tower = tower_of(whole)
    model = _Tokens(tower, about["layer"], rows * columns).eval()
    return model, about["image_size"]
