"""The metric of every benchmark of questions: which rules, and which format is handed in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from tove.errors import ConfigError, close_matches
from tove.evaluation.scorers.answers import Answer
from tove.evaluation.scorers.choices import (
    choice_scores,
    cvbench_scores,
    mme_scores,
    pope_scores,
)
from tove.evaluation.scorers.gqa import gqa_scores
from tove.evaluation.scorers.submissions import SUBMISSIONS
from tove.evaluation.scorers.vqa import textvqa_scores, vizwiz_scores, vqa_scores
from tove.registry import METRICS

__all__ = ["SCORERS", "BenchmarkScore"]

SCORERS: dict[str, Callable[[Sequence[Answer]], tuple[list[float], dict[str, float]]]] = {
    "vqav2": vqa_scores,
    "okvqa": vqa_scores,
    "textvqa": textvqa_scores,
    "vizwiz": vizwiz_scores,
    "gqa": gqa_scores,
    "pope": pope_scores,
    "mme": mme_scores,
    "scienceqa": choice_scores,
    "cvbench": cvbench_scores,
}
"""By benchmark: how right each answer is, and the scores by name."""


@METRICS.register_module()
class BenchmarkScore(BaseMetric):
    """The scores of a benchmark, as its official script computes them, accuracy in [0, 1].

    A question that was drawn twice counts once; samples of other benchmarks are left out. Answers
    of a split whose right ones nobody outside has are written, and have no score.

    Attributes:
        item_metric: the score that `item_scores` are the items of.
        item_scores: after `evaluate`, on the main process: how right each answer is by its name.

    Args:
        benchmark: its name, which is also the prefix of its scores.
        submission: file to write the answers to in the format of the benchmark's server; for POPE
            and MME a folder.
        collect_device: mmengine's: "cpu" or "gpu".
        prefix: mmengine's: of the names of the scores.

    Raises:
        ConfigError: there is no such benchmark.
    """

    item_metric = "accuracy"

    def __init__(
        self,
        benchmark: str,
        submission: str | None = None,
        collect_device: Literal["cpu", "gpu"] = "cpu",
        prefix: str | None = None,
    ) -> None:
        if benchmark not in SCORERS:
            raise ConfigError(
                f"There is no scorer of '{benchmark}'. {close_matches(benchmark, SCORERS)}"
            )
        super().__init__(collect_device=collect_device, prefix=prefix or benchmark)
        self.benchmark, self.submission = benchmark, submission
        self.item_scores: dict[str, float] = {}

    def process(self, data_batch: object, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep of each of the benchmark's samples what is scored."""
        for sample in data_samples:
            own = sample.get("benchmark") == self.benchmark and "question_id" in sample
            counts = own and not sample.get("skipped")
            self.results.append(Answer.of(sample) if counts else None)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Write the submission, where one is asked for, and return the scores."""
        answers = [*{answer.name: answer for answer in results if answer is not None}.values()]
        self.item_scores = {}
        if self.submission and answers:
            SUBMISSIONS[self.benchmark](Path(self.submission), answers)
            print_log(f"{len(answers)} answers for the server: {self.submission}", "current")
        known = [answer for answer in answers if answer.target or answer.references]
        if not known:
            return {"num_questions": len(answers)} if answers else {}
        items, scores = SCORERS[self.benchmark](known)
        names = [answer.name for answer in known]
        self.item_scores = dict(zip(names, items, strict=True))
        return scores
