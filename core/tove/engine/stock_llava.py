"""A Llava folder as whoever downloads it uses it: transformers alone, no part of the engine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tove.data.annotations import read_json
from tove.data.image_io import load_image
from tove.engine.model_checks import check_placement
from tove.errors import ConfigError
from tove_plugins import weights_problem

__all__ = ["StockLlava", "is_llava_folder"]


def is_llava_folder(folder: Path) -> bool:
    """Tell whether a folder holds a Llava or LlavaNext model of transformers."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    told = read_json(str(config), "a model's config; fetch it again", hint=dict)
    return str(told.get("model_type")).startswith("llava")


class StockLlava:
    """A model that transformers loads, asked as its own documentation does.

    Args:
        folder: of the model.
        device: None is an accelerator, if there is one.
        dtype: of the weights by name; None is as they were written.

    Raises:
        ConfigError: the folder is damaged, or there is no such device or dtype.

    Attributes:
        stage: the folder's name.
        experts: none.
    """

    experts: tuple[str, ...] = ()

    def __init__(self, folder: Path, device: str | None = None, dtype: str | None = None) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        check_placement("chat", {"device": device, "dtype": dtype})
        if problem := weights_problem(folder):
            raise ConfigError(problem)
        self.stage = folder.name
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype or "auto")
        self.model = loaded.to(device).eval()
        # Pillow's pixels, which training saw; version 5 would take torchvision's.
        self.processor: Any = AutoProcessor.from_pretrained(folder, backend="pil")

    def __repr__(self) -> str:
        return f"<{type(self.model).__name__} of {self.stage}, on {self.model.device}>"

    @torch.no_grad()
    def chat(self, image: str, question: str, earlier: Sequence[Mapping[str, str]] = ()) -> str:
        """Answer a question about an image file; see `TrainedModel.chat`."""
        roles = {"human": "user", "gpt": "assistant"}
        turns: list[dict[str, Any]] = [
            {
                "role": roles[turn["from"]],
                "content": [{"type": "text", "text": turn["value"]}],
            }
            for turn in (*earlier, {"from": "human", "value": question})
        ]
        turns[0]["content"].insert(0, {"type": "image"})
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        inputs = self.processor(images=load_image(image), text=text, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        ids_1T = self.model.generate(**inputs, max_new_tokens=128)
        new = ids_1T[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.decode(new, skip_special_tokens=True)).strip()
