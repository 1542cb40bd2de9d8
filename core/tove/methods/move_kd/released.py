"""The files of the public MoVE-KD code: their keys read into this project's modules, and written.

    stage 1   mm_projector.bin, mole_encoder.bin, encoder_adapter.bin
    stage 2   a whole folder: model.safetensors or pytorch_model.bin, in one piece or in shards

    released key                                                 here
    ...vision_tower.vision_model.encoder.layers.N.mlp.           vision_model.encoder.layers.N.mlp.
        original_module.fc1.weight                                   ffn.fc1.weight
        moe_down.e.lora_A.weight  [R, I]                             down.A       [E, R, I]
        moe_down.e.lora_A.bias    [R]                                down.A_bias  [E, R]
        moe_down.e.lora_B.weight  [O, R]                             down.B       [E, R, O]
        moe_down.e.lora_B.bias    [O]                                down.B_bias  [E, O]
        moe_up.e...                                                  up...
        router.weight                                                router.weight
    ...mm_projector.0.weight                                     0.weight
    NAME_adapter_1.weight, NAME_adapter_2.weight                 channel.weight, token.weight

`vision` of what is read is a state dict of transformers' CLIPVisionModel with MoLE in its blocks.
"""

import json
import pickle
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tove.atomic_io import atomic_writer
from tove.errors import CheckpointError

__all__ = ["Released", "read_released", "write_stage_one"]

State = dict[str, Tensor]

_VISION = re.compile(r"(?:.*\.)?vision_tower\.(vision_model\..+)")
_PROJECTOR = re.compile(r"(?:.*\.)?mm_projector\.(.+)")
_ADAPTER = re.compile(r"(?:.*\.)?(\w+)_adapter_([12])\.(weight|bias)")
_PAIR = re.compile(r"(.+\.mlp)\.moe_(down|up)\.(\d+)\.lora_([AB])\.(weight|bias)")
_STACK = re.compile(r"(.+\.mlp)\.(down|up)\.([AB])(_bias)?")
_ADAPTER_LAYERS = {"1": "channel", "2": "token"}
_STAGE_ONE = ("mm_projector.bin", "mole_encoder.bin", "encoder_adapter.bin")


@dataclass(frozen=True, slots=True)
class Released:
    """What a released checkpoint says of the vision side.

    Attributes:
        vision: of CLIPVisionModel with MoLE in its blocks; of MoLE alone after stage 1.
        projector: of an nn.Sequential(Linear, GELU, Linear).
        adapters: of a `ChannelThenToken`, by the teacher's name.
    """

    vision: State = field(default_factory=dict)
    projector: State = field(default_factory=dict)
    adapters: dict[str, State] = field(default_factory=dict)

    @classmethod
    def from_keys(cls, state: Mapping[str, Tensor]) -> "Released":
        """Sort a state dict with released keys; the language model's are left out.

        Raises:
            CheckpointError: a layer's experts are not numbered 0 to E - 1.
        """
        pairs: dict[str, dict[int, Tensor]] = defaultdict(dict)
        found = cls()
        for key, value in state.items():
            if match := _ADAPTER.fullmatch(key):
                name, layer, kind = match.groups()
                adapter = found.adapters.setdefault(name, {})
                adapter[f"{_ADAPTER_LAYERS[layer]}.{kind}"] = value
            elif match := _PROJECTOR.fullmatch(key):
                found.projector[match[1]] = value
            elif match := _VISION.fullmatch(key):
                if pair := _PAIR.fullmatch(match[1]):
                    mlp, side, expert, factor, kind = pair.groups()
                    name = f"{mlp}.{side}.{factor}" + ("_bias" if kind == "bias" else "")
                    transposed = factor == "B" and kind == "weight"
                    pairs[name][int(expert)] = value.T if transposed else value
                else:
                    found.vision[match[1].replace(".original_module.", ".ffn.")] = value
        for name, experts in pairs.items():
            if sorted(experts) != [*range(len(experts))]:
                raise CheckpointError(
                    f"The checkpoint's {name} has the experts {sorted(experts)}, but they must be "
                    f"numbered 0 to {len(experts) - 1}; the file is not whole."
                )
            found.vision[name] = torch.stack([experts[e] for e in range(len(experts))])
        return found

    def to_keys(self) -> State:
        """Return one state dict with released keys, the inverse of `from_keys`.

        Raises:
            CheckpointError: MoLE is placed around the FFN, which the release does not know.
        """
        state: State = {}
        for key, value in self.vision.items():
            if ".mlp.around." in key:
                raise CheckpointError(
                    "MoLE around the FFN has no place in a released checkpoint, whose experts lie "
                    "inside it; write this project's own checkpoint, or train placement='inside'."
                )
            name = f"model.vision_tower.vision_tower.{key}"
            if not (match := _STACK.fullmatch(name)):
                state[name.replace(".mlp.ffn.", ".mlp.original_module.")] = value
                continue
            mlp, side, factor, bias = match.groups()
            for expert, own in enumerate(value):
                pair = f"{mlp}.moe_{side}.{expert}.lora_{factor}"
                if bias:
                    state[f"{pair}.bias"] = own.contiguous()
                else:
                    state[f"{pair}.weight"] = (own.T if factor == "B" else own).contiguous()
        state |= {f"model.mm_projector.{key}": value for key, value in self.projector.items()}
        numbers = {layer: number for number, layer in _ADAPTER_LAYERS.items()}
        for name, adapter in self.adapters.items():
            for key, value in adapter.items():
                layer, kind = key.split(".")
                state[f"{name}_adapter_{numbers[layer]}.{kind}"] = value
        return state


def read_released(path: Path) -> Released:
    """Read a file or a folder of the public code; the language model's tensors are not loaded.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it has nothing of MoVE-KD.
    """
    state: State = {}
    for file in _files(path):
        state |= _read_file(file)
    found = Released.from_keys(state)
    if not (found.vision or found.projector or found.adapters):
        raise CheckpointError(
            f"{path} has no key of MoVE-KD's vision tower, projector or adapters; point at a "
            f"folder with {', '.join(_STAGE_ONE)}, or at a whole model's."
        )
    return found


def write_stage_one(released: Released, folder: Path) -> None:
    """Write the three files that the public code's first stage leaves and its second one reads.

    Raises:
        CheckpointError: a file cannot be written.
    """
    state = released.to_keys()
    moe = ("moe_down", "moe_up", ".router.")
    parts = (
        {key: value for key, value in state.items() if "mm_projector" in key},
        {key: value for key, value in state.items() if any(word in key for word in moe)},
        {key: value for key, value in state.items() if _ADAPTER.fullmatch(key)},
    )
    for name, part in zip(_STAGE_ONE, parts, strict=True):
        with atomic_writer(folder / name) as file:
            torch.save({key: value.detach().cpu().clone() for key, value in part.items()}, file)


def _files(path: Path) -> list[Path]:
    """Return the files with weights: a file itself, a folder's shards, one file, or parts."""
    if path.is_file():
        return [path]
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (path / index).is_file():
            shards = json.loads((path / index).read_text())["weight_map"]
            wanted = {shard for key, shard in shards.items() if _is_vision_side(key)}
            return [path / shard for shard in sorted(wanted)]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return [path / name]
    files = [path / name for name in _STAGE_ONE if (path / name).is_file()]
    if not files:
        raise CheckpointError(
            f"{path} has neither {', '.join(_STAGE_ONE)} nor a whole model's weights; point at a "
            "folder that the public MoVE-KD code has written."
        )
    return files


def _is_vision_side(key: str) -> bool:
    return any(pattern.fullmatch(key) for pattern in (_VISION, _PROJECTOR, _ADAPTER))


def _read_file(file: Path) -> State:
    try:
        return {key: value for key, value in _tensors(file) if _is_vision_side(key)}
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{file} could not be read ({str(error).splitlines()[0]}); copy it again."
        ) from error


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as tensors:
            yield from ((k, tensors.get_tensor(k)) for k in tensors.keys() if _is_vision_side(k))
    else:
        # Mapped, so that what is not asked for is not read: the language model is most of a file.
        yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()
