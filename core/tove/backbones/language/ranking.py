"""Ranking: the log-likelihood of every candidate as the continuation of its prompt.

    s(c) = log p(c_1 | prompt) + sum_{t > 1} log p(c_t | prompt, c_<t)

One pass over the prompts gives the first term of every candidate, which is all there is to one of a
single token (yes/no). The rest takes a row for each candidate, which reads the keys and values of
its prompt and image from a cache. Of a long list only the candidates with the likeliest first
tokens get one, as in ALBEF (arXiv 2107.07651) and BLIP (arXiv 2201.12086); the others get -inf.

Shapes: B samples, S of them in one pass, R rows (candidates), N vision tokens, D language width,
L prompt tokens, T candidate tokens, V vocabulary, C candidates.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from tove.backbones.language.tokenization import PromptTokenizer, check_room, pad_rows
from tove.modules.device import on_device

__all__ = ["Ranker"]

Ids = tuple[int, ...]

_ROWS_PER_PASS = 128


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
        firsts = self._first_tokens(memory_BND, starts, answers)
        scores = [
            [first if len(ids) == 1 else -math.inf for first, ids in zip(*both, strict=True)]
            for both in zip(firsts, answers, strict=True)
        ]
        open_rows = [
            (i, c)
            for i, line in enumerate(firsts)
            for c in self._likeliest(line)
            if len(answers[i][c]) > 1
        ]
        for begin in range(0, len(open_rows), _ROWS_PER_PASS):
            part = open_rows[begin : begin + _ROWS_PER_PASS]
            rests = self._rests(memory_BND, starts, [(i, answers[i][c]) for i, c in part])
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
        self, memory_BND: Tensor, starts: Sequence[Ids], answers: Sequence[Sequence[Ids]]
    ) -> list[list[float]]:
        """Give log p(c_1 | prompt) of every candidate of every sample."""
        ids_BL, mask_BL = pad_rows(starts, self.text.pad, memory_BND.device, self.limit)
        logits_BLV = self.logits(memory_BND, ids_BL, mask_BL, None)
        last_B = mask_BL.sum(1) - 1
        last_BV = logits_BLV[torch.arange(len(starts), device=last_B.device), last_B]
        options = [[ids[0] for ids in row] for row in answers]
        chosen_BC, _ = pad_rows(options, 0, memory_BND.device)
        lines = last_BV.float().log_softmax(-1).gather(1, chosen_BC).tolist()
        return [line[: len(row)] for line, row in zip(lines, options, strict=True)]

    def _likeliest(self, line: Sequence[float]) -> Sequence[int]:
        if len(line) <= self.shortlist:
            return range(len(line))
        return heapq.nlargest(self.shortlist, range(len(line)), key=line.__getitem__)

    def _rests(
        self, memory_BND: Tensor, starts: Sequence[Ids], part: Sequence[tuple[int, Ids]]
    ) -> list[float]:
        """Give sum_{t > 1} log p(c_t | prompt, c_<t) of (sample, candidate) pairs, in one pass."""
        device = memory_BND.device
        for i, ids in part:
            check_room(len(starts[i]) + len(ids), self.limit)
        samples = list(dict.fromkeys(i for i, _ in part))
        memory_SND = memory_BND[on_device(samples, device)]
        owner_R = on_device([samples.index(i) for i, _ in part], device)
        cache = self.new_cache()
        if cache is None:
            rows, skipped = (
                [(*starts[i], *ids) for i, ids in part],
                [len(starts[i]) for i, _ in part],
            )
        else:
            rows, skipped = [ids for _, ids in part], [0] * len(part)
        ids_RT, own_mask_RT = pad_rows(rows, self.text.pad, device)
        mask_RT = own_mask_RT[:, :-1]
        if cache is not None:
            prompts_SL, mask_SL = pad_rows([starts[i] for i in samples], self.text.pad, device)
            self.logits(memory_SND, prompts_SL, mask_SL, cache)
            cache.batch_select_indices(owner_R)
            mask_RT = torch.cat([mask_SL[owner_R], mask_RT], 1)
        logits_RTV = self.logits(memory_SND[owner_R], ids_RT[:, :-1], mask_RT, cache)
        lines_RT = logits_RTV.float().log_softmax(-1).gather(2, ids_RT[:, 1:, None])[..., 0]
        place_T = torch.arange(lines_RT.shape[1], device=device)
        counts_RT = own_mask_RT[:, 1:].bool() & (place_T >= on_device(skipped, device)[:, None])
        return lines_RT.masked_fill(~counts_RT, 0.0).sum(1).tolist()
