"""Scores of POPE, MME, ScienceQA and CV-Bench: yes or no, and one of several choices."""

from collections.abc import Sequence

from tove.evaluation.scorers.answers import Answer, accuracy_scores, mean

__all__ = [
    "choice_scores",
    "cvbench_scores",
    "mme_answer",
    "mme_scores",
    "pope_answer",
    "pope_scores",
]

Scored = tuple[list[float], dict[str, float]]
_MME_BEGINNING = 4  # letters in which MME looks for yes or no


def pope_answer(text: str) -> str:
    """Return "no" where the first sentence has no, No or not among its words, else "yes"."""
    words = text.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def pope_scores(answers: Sequence[Answer]) -> Scored:
    """Score POPE (arXiv 2305.10355): of all splits there are, and of each; yes is the positive."""
    right = [float(pope_answer(a.said) == a.target) for a in answers]
    scores = accuracy_scores(answers, right) | _retrieval(answers)
    splits = sorted({answer.split for answer in answers})
    for split in splits if len(splits) > 1 else ():
        part = _retrieval([answer for answer in answers if answer.split == split])
        scores |= {f"split/{split}/{name}": value for name, value in part.items()}
    return right, scores


def _retrieval(answers: Sequence[Answer]) -> dict[str, float]:
    said = [pope_answer(answer.said) == "yes" for answer in answers]
    true = [answer.target == "yes" for answer in answers]
    hits = sum(s and t for s, t in zip(said, true, strict=True))
    precision = hits / sum(said) if any(said) else 0.0
    recall = hits / sum(true) if any(true) else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return dict(precision=precision, recall=recall, F1=f1, yes_ratio=mean(said))


def mme_answer(text: str) -> str:
    """Return "yes" or "no" where one is in the first four letters, else "other"."""
    start = text.lower()[:_MME_BEGINNING]
    return next((answer for answer in ("yes", "no") if answer in start), "other")


def mme_scores(answers: Sequence[Answer]) -> Scored:
    """Score MME (arXiv 2306.13394): the sum over subtasks of accuracy and accuracy+, in percent.

    accuracy+ is the share of images of which both questions are answered right. Perception has ten
    subtasks and 2,000 points at most, cognition four and 800.
    """
    right = [float(mme_answer(a.said) == a.target) for a in answers]
    scores = accuracy_scores(answers, right)
    pairs: dict[tuple[str, str], list[float]] = {}
    for answer, value in zip(answers, right, strict=True):
        pairs.setdefault((answer.groups[0], answer.image), []).append(value)
    sums = dict.fromkeys(("perception", "cognition"), 0.0)
    for group in sorted({group for group, _ in pairs}):
        both = [float(all(pair)) for (own, _), pair in pairs.items() if own == group]
        points = 100 * (scores.pop(group) + mean(both))
        scores[group] = points
        sums[group.partition("/")[0]] += points
    plus = mean([float(all(pair)) for pair in pairs.values()])
    return right, dict(**sums, accuracy_plus=plus) | scores


def choice_scores(answers: Sequence[Answer]) -> Scored:
    """Score the share of right choices, of all and of each group."""
    right = [float(answer.said == answer.target) for answer in answers]
    return right, accuracy_scores(answers, right)


def cvbench_scores(answers: Sequence[Answer]) -> Scored:
    """Score CV-Bench (arXiv 2406.16860): the mean of 2D (of ADE20K and COCO alike) and 3D."""
    right, scores = choice_scores(answers)
    flat = [scores[key] for key in ("source/ADE20K", "source/COCO") if key in scores]
    parts = {"2D": mean(flat)} if flat else {}
    if "source/Omni3D" in scores:
        parts["3D"] = scores["source/Omni3D"]
    return right, scores | parts | {"overall": mean([*parts.values()])}
