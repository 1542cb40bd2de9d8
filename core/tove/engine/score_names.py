"""Which scores an evaluation is going to give, before there is a model to evaluate.

One sample of each kind is answered by a language model that knows nothing, and the answers are
scored: names are the metrics' own, each relation's and group's included.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.evaluator import Evaluator

from tove.data.wrappers import inner_data_sets
from tove.engine.quiet import errors_only
from tove.errors import ConfigError, close_matches
from tove.protocols import Sample
from tove.registry import TASKS

__all__ = ["check_score", "score_names"]


class _KnowsNothing:
    """What of a language model a task asks for; every answer is the same."""

    def rank(self, vision: object, samples: Sequence[Sample]) -> list[list[float]]:
        return [[0.0] * len(sample["candidates"]) for sample in samples]

    def generate(self, vision: object, samples: Sequence[Sample], **options: object) -> list[str]:
        return ["nothing"] * len(samples)


def score_names(dataset: Any, evaluator: Sequence[Mapping[str, Any]]) -> set[str] | None:  # noqa: ANN401
    """Return the names of the scores that metrics give on a data set.

    Args:
        dataset: any, within mmengine's wrappers.
        evaluator: the metrics' configs.

    Returns:
        The names; None where research code asks for more than an answer.
    """
    # Nobody is told of these answers, nor do they take the place of real ones in a file.
    metrics = [{k: v for k, v in entry.items() if k != "submission"} for entry in evaluator]
    try:
        samples = [_answered(sample) for sample in _one_of_each(dataset)]
        with errors_only():
            scorer = Evaluator(metrics)
            scorer.process(data_samples=samples)
            return set(scorer.evaluate(len(samples)))
    except Exception:  # whatever it is, the real answers may be others
        return None


def check_score(
    name: str,
    dataset: Any,  # noqa: ANN401
    evaluator: Sequence[Mapping[str, Any]],
    where: str,
) -> None:
    """Refuse the name of a score that an evaluation is not going to give.

    Raises:
        ConfigError: with the names that are near.
    """
    known = score_names(dataset, evaluator)
    if known is not None and name not in known:
        raise ConfigError(
            f"{where} is '{name}', which is not measured in validation. "
            f"{close_matches(name, known)}"
        )


def _one_of_each(dataset: Any) -> Iterator[Sample]:  # noqa: ANN401
    """Yield the first sample of each task, benchmark, relation and set of groups."""
    seen = set()
    for part in inner_data_sets(dataset):
        for index in range(len(part)):
            sample = part.get_data_info(index)
            own = (sample.get(key) for key in ("benchmark", "relation", "groups"))
            kind = repr((sample["task"], *own))
            if kind not in seen:
                seen.add(kind)
                yield sample


def _answered(sample: Sample) -> Sample:
    (given,) = TASKS.get(sample["task"])(_KnowsNothing(), None, [sample], {})
    return {**sample, **given}
