"""GQA's scores (Hudson and Manning, arXiv 1902.09506, section 4.4), over the balanced questions.

consistency   of a right answer: how many of the questions that it entails are answered right
validity      the answer is one that could be given to such a question
plausibility  it is one that something in the world has
distribution  chi-square of the answers of each group against the right ones; lower is better

The last three need what only some splits have; what is missing is left out.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tove.evaluation.scorers.answers import Answer, accuracy_scores, mean

__all__ = ["gqa_answer", "gqa_scores"]

_COMMON = ("color", "material", "shape")  # what two things can have in common


def gqa_answer(text: str) -> str:
    """Return what is handed in: GQA compares letter by letter, and its answers are in small."""
    return text.strip().removesuffix(".").lower()


def gqa_scores(answers: Sequence[Answer]) -> tuple[list[float], dict[str, float]]:
    """Score answers; a question that is not balanced counts towards consistency alone."""
    right = {answer.id: float(gqa_answer(answer.said) == answer.target) for answer in answers}
    balanced = [answer for answer in answers if answer.about["balanced"]]
    scores = accuracy_scores(balanced, [right[answer.id] for answer in balanced])
    entailed = {other for answer in balanced for other in answer.about["entailed"]}
    if entailed and entailed <= right.keys():
        per_question = [
            mean([right[other] for other in answer.about["entailed"]])
            for answer in balanced
            if right[answer.id] and answer.about["entailed"]
        ]
        scores["consistency"] = mean(per_question)
    path = next((answer.about["choices"] for answer in answers), None)
    if path is not None:
        scores |= _fitting(balanced, path)
    if any(answer.about["group"] is not None for answer in balanced):
        scores["distribution"] = _distribution(balanced)
    return [right[answer.id] for answer in answers], scores


def _fitting(answers: Sequence[Answer], path: str) -> dict[str, float]:
    """Return the shares of answers that are among the choices in a file."""
    with open(path, encoding="utf-8") as file:
        choices: Mapping[str, Mapping[str, Any]] = json.load(file)
    found = {}
    for name, key in (("validity", "valid"), ("plausibility", "plausible")):
        fits = [
            gqa_answer(a.said) in (_COMMON if a.about["common"] else choices[a.id][key])
            for a in answers
        ]
        found[name] = mean(fits)
    return found


def _distribution(answers: Sequence[Answer]) -> float:
    """Return the mean over groups of questions, weighed by their number, of chi-square / 100."""
    gold: Counter[tuple[str, str]] = Counter()
    given: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        group = answer.about["group"]
        if group is not None:
            gold[group, answer.target] += 1
            given[group, gqa_answer(answer.said)] += 1
    sizes: dict[str, int] = {}
    sums: dict[str, float] = {}
    for (group, target), expected in gold.items():
        chi_square = (given[group, target] - expected) ** 2 / expected
        sizes[group] = sizes.get(group, 0) + expected
        sums[group] = sums.get(group, 0.0) + chi_square
    total = sum(sizes.values())
    return sum(sums[group] * size for group, size in sizes.items()) / total / 100
