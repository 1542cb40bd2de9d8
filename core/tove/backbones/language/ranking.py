"""Ranking: the log-likelihood of every candidate as the continuation of its prompt.

    s(c) = log p(c_1 | prompt) + sum_{t > 1} log p(c_t | prompt, c_<t)

One pass over the prompts gives the first term of every candidate, which is all there is to one of a
single token (yes/no), and the keys and values that the rest reads. That takes a row for each
beginning c_<T that is no part of a longer one: "red ball" and "red box" share one. Of a long list
only the candidates with the likeliest first tokens take part, as in ALBEF (arXiv 2107.07651) and
BLIP (arXiv 2201.12086); the others get -inf.

Shapes: B samples, R rows (beginnings), P candidates with a place in a row, N vision tokens, D
language width, L prompt tokens, T candidate tokens, V vocabulary, C candidates of a sample.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from tove.backbones.language.tokenization import PromptTokenizer, check_room, pad_rows
from tove.modules.device import on_device

__all__ = ["Ranker"]

Ids = tuple[int, ...]

_LEAST_ROWS = 128  # of a pass
_POSITIONS = 2**14  # of vision and prompt, a copy for each row, that a pass has where rows are more


@dataclass(frozen=True, slots=True)
class Ranker:
    """How candidates are ranked.

    Attributes:
        text: the tokenizer.
        logits: of (memory, ids, mask, cache): logits at the ids' positions, for right-padded text;
            see `CausalLanguageModel`.
        new_cache: makes an empty cache; None from a model whose cache cannot be taken apart, which
            then reads every prompt anew.
        limit: how many text tokens the model has positions for.
        shortlist: how many candidates of a sample are scored in full.
    """

    text: PromptTokenizer
    logits: Callable[[Tensor, Tensor, Tensor, Cache | None], Tensor]
    new_cache: Callable[[], Cache | None]
    limit: int
    shortlist: int

    def rank(
        self,
        memory_BND: Tensor,
        prompts: Sequence[str],
        candidates: Sequence[Sequence[str]],
        length_normalised: bool,
    ) -> list[list[float]]:
        """Give one list of log-likelihoods per sample, in the order of its candidates."""
        starts = [self.text.prompt(prompt) for prompt in prompts]
        answers = self._encode(prompts, candidates)
        several = any(len(ids) > 1 for row in answers for ids in row)
        cache = self.new_cache() if several else None
        firsts, mask_BL = self._first_tokens(memory_BND, starts, answers, cache)
        read = _Read(memory_BND, starts, mask_BL, cache)
        scores = [
            [first if len(ids) == 1 else -math.inf for first, ids in zip(*both, strict=True)]
            for both in zip(firsts, answers, strict=True)
        ]
        open_ones = [
            (i, c)
            for i, line in enumerate(firsts)
            for c in self._likeliest(line)
            if len(answers[i][c]) > 1
        ]
        rows, place = _shared_rows([(i, answers[i][c][:-1]) for i, c in open_ones])

        def number(pair: tuple[int, int]) -> int:
            i, c = pair
            return place[i, answers[i][c][:-1]]

        open_ones.sort(key=number)
        many = max(_LEAST_ROWS, _POSITIONS // (memory_BND.shape[1] + mask_BL.shape[1]))
        for turn, group in groupby(open_ones, lambda pair: number(pair) // many):
            part, begin = list(group), turn * many
            own = [(number((i, c)) - begin, answers[i][c]) for i, c in part]
            rests = self._rests(read, rows[begin : begin + many], own)
            for (i, c), rest in zip(part, rests, strict=True):
                total = firsts[i][c] + rest
                scores[i][c] = total / len(answers[i][c]) if length_normalised else total
        return scores

    def _encode(
        self, prompts: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> list[list[Ids]]:
        """Encode the candidates; samples that share a long list share its encoding."""
        known: dict[tuple[bool, tuple[str, ...]], list[Ids]] = {}
        answers = []
        for prompt, options in zip(prompts, candidates, strict=True):
            key = (bool(prompt.strip()), tuple(options))
            if key not in known:
                known[key] = [self.text.target(prompt, option) for option in options]
            answers.append(known[key])
        return answers

    def _first_tokens(
        self,
        memory_BND: Tensor,
        starts: Sequence[Ids],
        answers: Sequence[Sequence[Ids]],
        cache: Cache | None,
    ) -> tuple[list[list[float]], Tensor]:
        """Give log p(c_1 | prompt) of every candidate of every sample, and the prompts' mask."""
        ids_BL, mask_BL = pad_rows(starts, self.text.pad, memory_BND.device, self.limit)
        logits_BLV = self.logits(memory_BND, ids_BL, mask_BL, cache)
        last_B = mask_BL.sum(1) - 1
        last_BV = logits_BLV[torch.arange(len(starts), device=last_B.device), last_B]
        options = [[ids[0] for ids in row] for row in answers]
        chosen_BC, _ = pad_rows(options, 0, memory_BND.device)
        lines = last_BV.float().log_softmax(-1).gather(1, chosen_BC).tolist()
        cut = [line[: len(row)] for line, row in zip(lines, options, strict=True)]
        return cut, mask_BL

    def _likeliest(self, line: Sequence[float]) -> Sequence[int]:
        if len(line) <= self.shortlist:
            return range(len(line))
        return heapq.nlargest(self.shortlist, range(len(line)), key=line.__getitem__)

    def _rests(
        self, read: "_Read", rows: Sequence[tuple[int, Ids]], candidates: Sequence[tuple[int, Ids]]
    ) -> list[float]:
        """Give sum_{t > 1} log p(c_t | prompt, c_<t) of candidates, in one pass.

        Args:
            read: what the prompts' pass has left.
            rows: (sample, tokens of the row) each.
            candidates: (row, tokens of the candidate) each.
        """
        device, starts = read.memory_BND.device, read.starts
        for row, ids in candidates:
            check_room(len(starts[rows[row][0]]) + len(ids), self.limit)
        owner_R = on_device([i for i, _ in rows], device)
        cache = read.cache_of(owner_R)
        before = [0 if cache is not None else len(starts[i]) for i, _ in rows]
        fed = [ids if cache is not None else (*starts[i], *ids) for i, ids in rows]
        ids_RT, mask_RT = pad_rows(fed, self.text.pad, device)
        if cache is not None:
            mask_RT = torch.cat([read.mask_BL[owner_R], mask_RT], 1)
        logits_RTV = self.logits(read.memory_BND[owner_R], ids_RT, mask_RT, cache)
        lines_RTV = logits_RTV.float().log_softmax(-1)
        ids_PT, mask_PT = pad_rows([ids[1:] for _, ids in candidates], 0, device)
        row_P, first_P = on_device([(row, before[row]) for row, _ in candidates], device).T
        place_PT = first_P[:, None] + torch.arange(ids_PT.shape[1], device=device)
        place_PT = place_PT.clamp(max=lines_RTV.shape[1] - 1)  # padding of the shorter ones
        lines_PT = lines_RTV[row_P[:, None], place_PT, ids_PT]
        return lines_PT.masked_fill(mask_PT == 0, 0.0).sum(1).tolist()


@dataclass(frozen=True, slots=True)
class _Read:
    """What the pass over the prompts has left.

    Attributes:
        memory_BND: the vision tokens.
        starts: the prompts.
        mask_BL: of the prompts.
        cache: their keys and values; None from a model whose cache cannot be taken apart.
    """

    memory_BND: Tensor
    starts: Sequence[Ids]
    mask_BL: Tensor
    cache: Cache | None

    def cache_of(self, owner_R: Tensor) -> Cache | None:
        """Return a cache for rows, each with its sample's keys and values; this one stays."""
        if self.cache is None:
            return None
        # Selecting puts new tensors into the copy, so the old ones need no copies of their own.
        copied = deepcopy(self.cache, {id(x): x for x in _tensors(self.cache)})
        copied.batch_select_indices(owner_R)
        return copied


def _tensors(part: Any) -> Iterator[Tensor]:  # noqa: ANN401 - a cache or a part of one
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, dict):
        yield from (x for value in part.values() for x in _tensors(value))
    elif isinstance(part, list | tuple):
        yield from (x for value in part for x in _tensors(value))
    elif hasattr(part, "__dict__"):
        yield from _tensors(vars(part))


def _shared_rows(
    beginnings: Sequence[tuple[int, Ids]],
) -> tuple[list[tuple[int, Ids]], dict[tuple[int, Ids], int]]:
    """Return the beginnings that are no part of a longer one, and each one's place among them."""
    rows: list[tuple[int, Ids]] = []
    place = {}
    # Sorted, a beginning comes right before what it begins.
    for i, ids in sorted(set(beginnings), reverse=True):
        if not rows or rows[-1][0] != i or rows[-1][1][: len(ids)] != ids:
            rows.append((i, ids))
        place[i, ids] = len(rows) - 1
    return rows, place
