"""An answered question as scorers take it, and what all of them report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tove.evaluation.intervals import bootstrap_interval, image_of, item_name, share_interval
from tove.protocols import Sample

__all__ = ["Answer", "accuracy_scores", "mean"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A question with what a model said.

    Attributes:
        name: of the item, see `item_name`.
        id: the benchmark's own, which a submission names.
        split: of the benchmark.
        image: the image's file name.
        question: as the benchmark asks it.
        said: the model's answer.
        place: its place among the candidates; None where there were none.
        target: the right answer; "" where nobody outside knows.
        references: what each of several people answered.
        groups: parts of the benchmark that it counts in, "KIND/NAME" each.
        about: what the benchmark's scorer alone reads.
    """

    name: str
    id: Any
    split: str
    image: str
    question: str
    said: str
    place: int | None
    target: str
    references: Sequence[str]
    groups: Sequence[str]
    about: Mapping[str, Any]

    @classmethod
    def of(cls, sample: Sample) -> "Answer":
        """Return what is kept of an answered sample of `BenchmarkQuestions`."""
        given = sample["prediction"]
        ranked = isinstance(given, int)
        return cls(
            name=item_name(sample["image_id"], sample["question"], sample["source_id"]),
            id=sample["question_id"],
            split=sample["split"],
            image=sample["image_path"].rpartition("/")[2],
            question=sample["question"],
            said=sample["candidates"][given] if ranked else given,
            place=given if ranked else None,
            target=sample["target"],
            references=sample["references"],
            groups=sample["groups"],
            about=sample["about"],
        )


def accuracy_scores(answers: Sequence[Answer], right: Sequence[float]) -> dict[str, float]:
    """Return the accuracy with its 95 % interval, the number, and the accuracy of each group.

    Args:
        answers: all.
        right: how right each is, in [0, 1]. Where all are 0 or 1 the interval is Wilson's, else a
            bootstrap's; both allow for questions that share an image.
    """
    images = [image_of(answer.name) for answer in answers]
    if set(right) <= {0, 1}:
        overall = share_interval([value == 1 for value in right], images)
    else:
        overall = bootstrap_interval(right, images=images)
    parts: dict[str, list[float]] = {}
    for answer, value in zip(answers, right, strict=True):
        for group in answer.groups:
            parts.setdefault(group, []).append(value)
    scores: dict[str, float] = dict(
        accuracy=overall.value, accuracy_low=overall.low, accuracy_high=overall.high
    )
    scores["num_questions"] = overall.n
    return scores | {group: mean(parts[group]) for group in sorted(parts)}


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 of nothing, as the official scorers have it."""
    return sum(values) / len(values) if values else 0.0
