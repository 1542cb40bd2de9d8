"""Tokenizers on disk, for transformers 4 and 5."""

import json
from pathlib import Path
from typing import Any

__all__ = ["write_tokenizer"]


def write_tokenizer(tokenizer: Any, folder: Path, **settings: Any) -> None:  # noqa: ANN401
    """Write a tokenizer of transformers so that both versions read it.

    Args:
        tokenizer: with `save_pretrained`.
        folder: where to.
        settings: over those of its `tokenizer_config.json`.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    if written.get("tokenizer_class") == "TokenizersBackend":  # known to transformers 5 alone
        written["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(written.get("extra_special_tokens"), list):  # 5's word for it
        written["additional_special_tokens"] = written.pop("extra_special_tokens")
    file.write_text(json.dumps(written | settings, indent=2) + "\n", encoding="utf-8")
