"""Candidates as answers of a conversation, each scored by its log-likelihood.

    s(c) = sum_t log p(c_t | conversation, images, c_<t)        without what ends an answer

Shapes: R rows (candidates), K places whose next token counts in any of them, V vocabulary.
"""

from collections.abc import Sequence

from torch import Tensor

from tove.backbones.language.chat_tokens import (
    ChatTokenizer,
    Row,
    TokenKind,
    answered,
    num_images_of,
    turns_of,
)
from tove.backbones.language.text_loss import IGNORED
from tove.protocols import Sample

__all__ = ["candidate_rows", "log_likelihoods"]


def candidate_rows(
    text: ChatTokenizer, samples: Sequence[Sample]
) -> tuple[list[tuple[Row, slice]], list[int]]:
    """Encode each candidate as the last answer of its sample, the only thing that counts.

    Returns:
        A row for each candidate with the slice of its images among all, and its sample's number.
    """
    rows, owners, first = [], [], 0
    for i, sample in enumerate(samples):
        number, turns = num_images_of(sample), turns_of(sample)
        own = slice(first, first + number)
        for candidate in sample["candidates"]:
            row = text.sample(answered(turns, candidate), number)
            rows.append((_last_answer(row), own))
            owners.append(i)
        first += number
    return rows, owners


def log_likelihoods(logits_RKV: Tensor, labels_RK: Tensor, length_normalised: bool) -> list[float]:
    """Sum the log-likelihoods of each row's labels, or average them."""
    lines_RKV = logits_RKV.float().log_softmax(-1)
    lines_RK = lines_RKV.gather(2, labels_RK.clamp(min=0)[..., None])[..., 0]
    counts_RK = labels_RK != IGNORED
    total_R = lines_RK.masked_fill(~counts_RK, 0.0).sum(1)
    if length_normalised:
        total_R = total_R / counts_RK.sum(1).clamp(min=1)
    return total_R.tolist()


def _last_answer(row: Row) -> Row:
    """Count the tokens of the last answer alone, without what ends it."""
    kinds = list(row.kinds)
    end = max(i for i, kind in enumerate(kinds) if kind == TokenKind.ANSWER) + 1
    begin = end
    while begin and kinds[begin - 1] == TokenKind.ANSWER:
        begin -= 1
    return Row(row.ids, [int(begin <= i < end) * TokenKind.ANSWER for i in range(len(kinds))])
