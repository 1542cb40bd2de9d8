"""Accuracy of answers: true and false, as VSR is scored (arXiv 2205.00363), of a list, in words."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from tove.evaluation.intervals import image_of, item_name, share_interval
from tove.protocols import Sample
from tove.registry import METRICS

__all__ = ["AnswerAccuracy", "ConversationAccuracy", "StatementAccuracy", "words_of"]

Item = tuple[str, str, Any, Any, str]
"""An item's name, its relation, the right answer, the model's, and that in words."""


@METRICS.register_module()
class StatementAccuracy(BaseMetric):
    """Share of statements answered right, in [0, 1], with Wilson's 95 % interval.

    The interval allows for statements that share an image, see `tove.evaluation.intervals`.

    A model that gives one answer to everything is told of: its accuracy is that answer's share of
    the labels, and no difference between two such models says anything. A statement that occurs
    twice in the file counts twice; one that a sampler drew twice counts once.

    Samples of other tasks are left out. Every sample leaves one entry behind, empty ones included:
    mmengine merges the processes' results item by item.

    Attributes:
        item_metric: the score that `item_scores` are the items of.
        item_scores: after `evaluate`, on the main process: 0.0 or 1.0 for each statement by
            its `item_name`, for `paired_interval`.

    Args:
        per_relation: report the accuracy of each relation too.
        benchmark: the name of the samples that count; None counts those of any name, or none.
        collect_device: mmengine's: "cpu" or "gpu".
        prefix: mmengine's: of the names of the scores.
    """

    default_prefix = "vsr"
    task = "statement"
    item_metric = "accuracy"

    def __init__(
        self,
        per_relation: bool = True,
        collect_device: Literal["cpu", "gpu"] = "cpu",
        prefix: str | None = None,
        benchmark: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.per_relation, self.benchmark = per_relation, benchmark
        self.item_scores: dict[str, float] = {}

    def process(self, data_batch: object, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep of each sample its id, relation, label and answer."""
        for sample in data_samples:
            counts = sample["task"] == self.task and not sample.get("skipped")
            counts &= self.benchmark in (None, sample.get("benchmark"))
            self.results.append(self.item(sample) if counts else None)

    def item(self, sample: Sample) -> Item:
        """Return what is kept of an answered sample."""
        key = item_name(sample["image_id"], sample["prompt"], sample.get("source_id"))
        answer = int(sample["prediction"])
        return key, sample["relation"], sample["label"], answer, str(sample["candidates"][answer])

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return accuracy, its interval, num_TASKs, top_answer_share, per relation; also yes_rate.

        `top_answer_share` is the share of the answer that is given most: 1 for a constant one.
        """
        items = {item[0]: item[1:] for item in results if item is not None}
        self.item_scores = {key: float(item[1] == item[2]) for key, item in items.items()}
        if not items:
            return {}
        right = [(relation, label == answer) for relation, label, answer, _ in items.values()]
        overall = share_interval([ok for _, ok in right], [image_of(key) for key in items])
        scores: dict[str, float] = dict(
            accuracy=overall.value,
            accuracy_low=overall.low,
            accuracy_high=overall.high,
        )
        scores[f"num_{self.task}s"] = overall.n
        if self.task == "statement":
            scores["yes_rate"] = sum(item[2] for item in items.values()) / len(items)
        given = Counter(item[3] for item in items.values())
        scores["top_answer_share"] = max(given.values()) / len(items)
        if len(given) == 1 < len(items):
            print_log(
                f"All {len(items)} {self.task}s were answered {next(iter(given))!r}, so the "
                f"accuracy of {overall.value:.3f} is that answer's share of the right ones and "
                "tells nothing about what the model sees.",
                logger="current",
                level=logging.WARNING,
            )
        if self.per_relation:
            for name in sorted({relation for relation, _ in right}):
                part = [ok for relation, ok in right if relation == name]
                scores[f"relation/{name}"] = sum(part) / len(part)
        return scores


@METRICS.register_module()
class AnswerAccuracy(StatementAccuracy):
    """Share of questions whose right answer ranked first; otherwise as `StatementAccuracy`."""

    default_prefix = "vqa"
    task = "question"


@METRICS.register_module()
class ConversationAccuracy(StatementAccuracy):
    """Share of conversations whose last answer is the right one; else as `StatementAccuracy`.

    Case, punctuation and the articles a, an and the make no difference. Kinds of questions, a
    record's `relation`, are reported one by one.

    Args:
        match: "exact" asks for the same words; "contains" for the right answer's words among the
            model's, one behind the other, as fits models that answer in sentences.
        **options: those of `StatementAccuracy`.
    """

    default_prefix = "chat"
    task = "conversation"

    def __init__(self, match: Literal["exact", "contains"] = "exact", **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self.match = match

    def item(self, sample: Sample) -> Item:
        """Return what is kept of an answered sample; a right answer is kept as the reference."""
        question, reference = (turn["value"] for turn in sample["conversations"][-2:])
        right, said = words_of(reference), words_of(sample["prediction"])
        if self.match == "contains" and f" {right} " in f" {said} ":
            said = right
        key = item_name(sample["image_id"], question, sample.get("source_id"))
        return key, sample["relation"], right, said, said


def words_of(text: str) -> str:
    """Return the words that count of an answer."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(word for word in words if word not in ("a", "an", "the"))
