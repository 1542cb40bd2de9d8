"""The text side of an exported CLIP: a tokenizer that marks where a text ends.

CLIP's text tower is read at the end token. A tokenizer that adds none has it read at whatever has
the highest id, or at the start: nearly all captions then have one vector, and nothing says so.
"""

import json
import logging
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tove.backbones.tokenizer_files import write_tokenizer

__all__ = ["find_tokenizer", "mark_ends", "save_tokenizer", "write_openai_tokenizer"]

_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")


def find_tokenizer(source: str) -> Any:  # noqa: ANN401 - tokenizers share no static type
    """Load the tokenizer of a folder or hub id; None where it has none."""
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in _FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError):
        return None


def mark_ends(tokenizer: Any, eos_id: int | None) -> Any:  # noqa: ANN401
    """Let a tokenizer put start and end tokens around a text, where it does not already.

    Args:
        tokenizer: is changed in place and returned.
        eos_id: the token that the text tower is read at; None for the highest id of a text.
    """
    eos_id = tokenizer.eos_token_id if eos_id is None else eos_id
    if eos_id is not None and eos_id in tokenizer("a").input_ids:
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if eos_id is None or backend is None:
        print_log(
            "The source's tokenizer puts no end token behind a text, where CLIP's text tower is "
            "read, and it names none that could be put there; texts will hardly differ. Set "
            "eos_token in its tokenizer_config.json.",
            logger="current",
            level=logging.WARNING,
        )
        return tokenizer
    bos, eos = tokenizer.bos_token, tokenizer.convert_ids_to_tokens(eos_id)
    ids = {eos: eos_id} if bos is None else {bos: tokenizer.bos_token_id, eos: eos_id}
    text = f"$A {eos}" if bos is None else f"{bos} $A {eos}"
    backend.post_processor = TemplateProcessing(single=text, special_tokens=list(ids.items()))
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, context_length: int) -> None:  # noqa: ANN401
    """Write a tokenizer for a text tower of some positions."""
    tokenizer.model_max_length = min(tokenizer.model_max_length, context_length)
    # The text tower takes no token types.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    write_tokenizer(tokenizer, folder, model_input_names=tokenizer.model_input_names)


def write_openai_tokenizer(folder: Path, context_length: int) -> None:
    """Write open_clip's own tokenizer, OpenAI's, as transformers' CLIPTokenizer."""
    from open_clip.tokenizer import SimpleTokenizer

    simple = SimpleTokenizer()
    start, end = "<|startoftext|>", "<|endoftext|>"  # as the released weights call them
    names = {simple.sot_token_id: start, simple.eot_token_id: end}
    vocabulary = {names.get(index, token): index for token, index in simple.encoder.items()}
    merges = "\n".join(" ".join(pair) for pair in simple.bpe_ranks)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": start,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
        "model_max_length": context_length,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
