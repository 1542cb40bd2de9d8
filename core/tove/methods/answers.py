"""How a sample of each task is answered: a table by the sample's `task`.

A task of one's own registers a function in TASKS:

    answer(language, vision, samples, generation) -> one dict of new entries for each sample
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tove.errors import ConfigError, close_matches
from tove.methods.batch import read_by
from tove.protocols import Sample, VisionTokens
from tove.registry import TASKS

__all__ = ["answer"]

Answers = Sequence[Mapping[str, Any]]


@torch.no_grad()
def answer(
    language: Any,  # noqa: ANN401 - a language model
    vision: VisionTokens,
    data_samples: Sequence[Sample],
    generation: Mapping[str, Any],
) -> list[Sample]:
    """Return copies of the samples with `prediction`.

    Args:
        language: reads the tokens.
        vision: tokens of the samples' images.
        data_samples: of any tasks, mixed.
        generation: options of the language model's `generate`.

    Raises:
        ConfigError: a task that nothing answers.
    """
    answered = [dict(sample) for sample in data_samples]
    for task in dict.fromkeys(sample["task"] for sample in answered):
        rows = [row for row, sample in enumerate(answered) if sample["task"] == task]
        own = read_by(vision, answered, rows)
        how = TASKS.get(task)
        if how is None:
            raise ConfigError(
                f"Nothing answers samples of the task '{task}'. "
                f"{close_matches(task, TASKS.module_dict)} A task of your own registers a function "
                "in TASKS."
            )
        given = how(language, own, [answered[row] for row in rows], generation)
        for row, entries in zip(rows, given, strict=True):
            answered[row].update(entries)
    return answered


@TASKS.register_module(name=["caption", "conversation", "open_question"])
def _generated(
    language: Any,  # noqa: ANN401
    vision: VisionTokens,
    samples: Sequence[Sample],
    generation: Mapping[str, Any],
) -> Answers:
    """Answer by text."""
    texts = language.generate(vision, samples, **generation)
    return [{"prediction": text} for text in texts]


@TASKS.register_module(name=["statement", "question"])
def _ranked(
    language: Any,  # noqa: ANN401
    vision: VisionTokens,
    samples: Sequence[Sample],
    generation: Mapping[str, Any],
) -> Answers:
    """Answer by the index of the likeliest candidate."""
    all_scores = language.rank(vision, samples)
    for sample, scores in zip(samples, all_scores, strict=True):
        if any(math.isnan(score) for score in scores):
            raise ConfigError(
                f"The model gives {sample['image_id']} no likelihood (NaN), so its answers "
                "mean nothing; use a checkpoint of a training that did not diverge."
            )
    return [{"scores": s, "prediction": s.index(max(s))} for s in all_scores]
