"""What was asked and answered in an evaluation, item by item, for people to look at."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mmengine.evaluator import BaseMetric

from tove.evaluation.intervals import item_name
from tove.protocols import Sample
from tove.registry import METRICS

__all__ = ["AnswerLog", "answer_of"]


@METRICS.register_module()
class AnswerLog(BaseMetric):
    """Keeps every answer, and scores none.

    Attributes:
        answers: after `evaluate`, on the main process: see `answer_of`, each item once.

    Args:
        collect_device: mmengine's: "cpu" or "gpu".
        prefix: mmengine's.
    """

    default_prefix = "answers"

    def __init__(
        self, collect_device: Literal["cpu", "gpu"] = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.answers: list[dict[str, Any]] = []

    def process(self, data_batch: object, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep of each sample what `answer_of` returns."""
        for sample in data_samples:
            answered = sample.get("prediction") is not None and not sample.get("skipped")
            self.results.append(answer_of(sample) if answered else None)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return no score."""
        self.answers = [*{answer["item"]: answer for answer in results if answer}.values()]
        return {}

    def scored(self, items: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
        """Return the answers, each with the `scores` that metrics gave it.

        Args:
            items: scores by metric and item.
        """
        return [
            one
            | {"scores": {m: own[one["item"]] for m, own in items.items() if one["item"] in own}}
            for one in self.answers
        ]


def answer_of(sample: Sample) -> dict[str, Any]:
    """Return of an answered sample its item's name, image, question, answer and right answers.

    The name is that by which metrics have their `item_scores`; `parts` are what it counts in.
    """
    asked, right = _asked(sample)
    image, said = sample["image_id"], sample["prediction"]
    about = item_name(image, asked, sample.get("source_id"))
    return dict(
        item=image if sample["task"] == "caption" else about,
        image_path=sample.get("image_path", image),
        view=sample.get("view", "crop"),
        asked=sample.get("statement") or sample.get("question") or asked,
        said=str(sample["candidates"][said] if isinstance(said, int) else said),
        right=right,
        parts=list(sample.get("groups") or filter(None, [sample.get("relation")])),
    )


def _asked(sample: Sample) -> tuple[str, list[str]]:
    """Return a sample's question and its right answers."""
    if "conversations" in sample:
        *_, question, answer = sample["conversations"]
        return question["value"], [answer["value"]]
    right = sample.get("references") or [text for text in [sample.get("target")] if text]
    return sample["question" if "question_id" in sample else "prompt"], list(right)
