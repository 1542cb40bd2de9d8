"""Text to token ids: one sequence `[BOS] prompt target [EOS]` for every sample.

A target is encoded as the continuation of a prompt, so that the tokenizer sees the space between
them: `tokens("? " + target)` without the leading `tokens("?")`. Which prompt it is makes no
difference, only whether there is one: a list of candidates is encoded once for all questions.
Encoded strings are kept: training meets the same prompts, answers and captions in every epoch.

Shapes: B samples, L text tokens.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tove.errors import ConfigError
from tove.modules.device import on_device

__all__ = ["PromptTokenizer", "check_room", "pad_rows"]

_MAX_KEPT = 500_000
_PROMPT = "?"  # stands for any prompt; tokenizers split behind it


def pad_rows(
    rows: Sequence[Sequence[int]],
    pad: int,
    device: torch.device,
    limit: int | None = None,
    side: str = "right",
) -> tuple[Tensor, Tensor]:
    """Stack rows of different lengths.

    Args:
        rows: token ids of each sample.
        pad: id that fills the gaps.
        device: where the tensors go.
        limit: the longest row that the language model has positions for.
        side: "right", or "left" for generation.

    Returns:
        ids_BL and mask_BL, int64; the mask is 1 on tokens and 0 on padding.

    Raises:
        ConfigError: a row is longer than `limit`.
    """
    length = max(len(row) for row in rows)
    if limit is not None:
        check_room(length, limit)
    ids, mask = [], []
    for row in rows:
        gap = length - len(row)
        ids.append([*row, *[pad] * gap] if side == "right" else [*[pad] * gap, *row])
        mask.append([1] * len(row) + [0] * gap if side == "right" else [0] * gap + [1] * len(row))
    ids_BL, mask_BL = on_device([ids, mask], device)
    return ids_BL, mask_BL


def check_room(length: int, limit: int) -> None:
    """Refuse a row of `length` tokens where the language model has positions for `limit`.

    Raises:
        ConfigError: it is longer.
    """
    if length > limit:
        raise ConfigError(
            f"A prompt with its answer has {length} tokens, but the language model has room for "
            f"{limit}; shorten the prompt, or use a model with more positions."
        )


class PromptTokenizer:
    """A tokenizer with known special tokens, and a memory of what it has encoded.

    Args:
        tokenizer: any tokenizer of transformers. One without a beginning-of-sequence token uses its
            class token, else its end token; one without padding uses its end token (padding is
            always masked).

    Raises:
        ConfigError: the tokenizer has no token that could end a sequence.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.eos = _first_known(tokenizer.eos_token_id, tokenizer.sep_token_id)
        self.bos = _first_known(tokenizer.bos_token_id, tokenizer.cls_token_id, self.eos)
        self.pad = _first_known(tokenizer.pad_token_id, self.eos)
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._targets: dict[tuple[bool, str], tuple[int, ...]] = {}
        self._left_out: dict[str, tuple[int, ...]] = {}

    def prompt(self, text: str) -> tuple[int, ...]:
        """Encode a prompt as `[BOS] tokens`; an empty prompt is `[BOS]` alone."""
        ids = self._prompts.get(text)
        if ids is None:
            ids = (self.bos, *self._encode(text.rstrip()))
            _keep(self._prompts, text, ids)
        return ids

    def target(self, prompt: str, text: str) -> tuple[int, ...]:
        """Encode what follows `prompt`, without special tokens.

        Raises:
            ConfigError: the text holds no token at all.
        """
        ids = self._target(prompt, text)
        if not ids:
            raise ConfigError(
                f"The candidate {text!r} after the prompt {prompt!r} has no token in this "
                "tokenizer, so it has no likelihood; give every candidate at least one word that "
                "the tokenizer knows."
            )
        return ids

    def sample(self, prompt: str, target: str | None, limit: int) -> tuple[tuple[int, ...], int]:
        """Lay out one training sample as `[BOS] prompt target [EOS]`, cut to `limit` tokens.

        A target that leaves nothing to learn, because it has no token or its prompt leaves no room
        for one, is left out with a warning: one such caption among millions ends no training.
        One that is None is left out as its caller wants.

        Returns:
            The row, and the place in it where the target begins; its end where nothing is to be
            learned.
        """
        start = self.prompt(prompt)
        if target is not None:
            ids = self._target(prompt, target)
            if ids and len(start) < limit:
                return (*start, *ids, self.eos)[:limit], len(start)
            self._leave_out(
                target,
                f"finds no room after its prompt {prompt!r}, which has {len(start)} of at most "
                f"{limit} tokens (language.max_text_tokens, or what the model has positions for)"
                if ids
                else "has no token in this tokenizer",
            )
        start = start[:limit]
        return start, len(start)

    def decode(self, ids_BL: Tensor) -> list[str]:
        """Turn generated ids_BL into one string per row, without special tokens."""
        texts = self.tokenizer.batch_decode(ids_BL.tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _target(self, prompt: str, text: str) -> tuple[int, ...]:
        key = (bool(prompt.strip()), text)
        ids = self._targets.get(key)
        if ids is None:
            ids = self._continuation(*key)
            _keep(self._targets, key, ids)
        return ids

    def _leave_out(self, target: str, reason: str) -> None:
        if target not in self._left_out:
            _keep(self._left_out, target, ())
            remark = f"The target {target!r} {reason}; it is left out of the loss."
            print_log(remark, logger="current", level=logging.WARNING)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def _continuation(self, spaced: bool, text: str) -> tuple[int, ...]:
        text = text.strip()
        if not spaced:
            return tuple(self._encode(text))
        # A tokenizer may split " word" alone otherwise than behind a word, SentencePiece's kin do.
        before, both = self._encode(_PROMPT), self._encode(f"{_PROMPT} {text}")
        if both[: len(before)] == before:
            return tuple(both[len(before) :])
        return tuple(self._encode(f" {text}"))


def _first_known(*ids: int | None) -> int:
    for candidate in ids:
        if candidate is not None:
            return candidate
    raise ConfigError(
        "The tokenizer has neither an end-of-sequence nor a separator token, so no text could end; "
        "set `eos_token` in its tokenizer_config.json."
    )


def _keep(store: dict[Any, tuple[int, ...]], key: object, ids: tuple[int, ...]) -> None:
    if len(store) >= _MAX_KEPT:
        store.clear()
    store[key] = ids
