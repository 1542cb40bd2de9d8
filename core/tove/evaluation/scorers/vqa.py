"""Accuracy of open answers that several people gave too (Antol et al., arXiv 1505.00468).

    accuracy(a) = mean over the n people of min(1, [others of them who said a] / 3)

With m people who said a, m of the n leave out one of these:
    (m min(1, (m - 1) / 3) + (n - m) min(1, m / 3)) / n

Texts are compared as the script of the VQA challenge does (GT-Vision-Lab/VQA since 2021), its
oddities included: letter by letter where people are unanimous; else both sides are mended. A sign
that touches a space (or any sign, in a text with a comma between digits) vanishes and others become
a space; a full stop stays before a digit only; articles go, numerals become digits, contractions
get their apostrophe. TextVQA mends both sides always, after its own splitting of words; VizWiz the
model's alone, by VQA's rules.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from tove.evaluation.scorers.answers import Answer, accuracy_scores

__all__ = [
    "agreement",
    "textvqa_answer",
    "textvqa_scores",
    "vizwiz_scores",
    "vqa_answer",
    "vqa_scores",
]

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_STOP = re.compile(r"\.(?!\d)")
_MOST_STOPS = 32  # the official code passes re.UNICODE where the number of replacements belongs
_THOUSANDS = re.compile(r"\d,\d")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMERALS = dict(none="0", zero="0", one="1", two="2", three="3", four="4", five="5", six="6")
_NUMERALS |= dict(seven="7", eight="8", nine="9", ten="10")
_WHOLE = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# Each is known by its forms that lack one apostrophe; the last entry is the official list's own.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _WHOLE.split()
    for place, sign in enumerate(word)
    if sign == "'"
} | {"somebody'd": "somebodyd"}


@lru_cache(maxsize=1 << 16)
def _without_signs(text: str) -> str:
    thousands = _THOUSANDS.search(text) is not None
    out = text
    for sign in _SIGNS:
        vanishes = thousands or f"{sign} " in text or f" {sign}" in text
        out = out.replace(sign, "" if vanishes else " ")
    return _STOP.sub("", out, count=_MOST_STOPS)


def _mended(text: str) -> str:
    words = [_NUMERALS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1 << 16)
def vqa_answer(text: str) -> str:
    """Return an answer as VQA compares it, anyone's, where people are not unanimous."""
    return _mended(_without_signs(_in_a_line(text)))


def _in_a_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def textvqa_answer(text: str) -> str:
    """Return an answer, anyone's, as TextVQA compares it."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return vqa_answer(words)


def agreement(said: str, references: Sequence[str]) -> float:
    """Return the accuracy of an answer, in [0, 1], texts as they are.

    Args:
        said: the model's.
        references: of n people.
    """
    n, m = len(references), list(references).count(said)
    return (m * min(1.0, (m - 1) / 3) + (n - m) * min(1.0, m / 3)) / n if m else 0.0


def vqa_scores(answers: Sequence[Answer]) -> tuple[list[float], dict[str, float]]:
    """Score answers to VQAv2 or OK-VQA."""

    def right(answer: Answer) -> float:
        said, people = _in_a_line(answer.said), [*map(_in_a_line, answer.references)]
        if len(set(people)) > 1:
            said, people = vqa_answer(said), [*map(vqa_answer, people)]
        return agreement(said, people)

    return _scored(answers, right)


def vizwiz_scores(answers: Sequence[Answer]) -> tuple[list[float], dict[str, float]]:
    """Score answers to VizWiz."""
    return _scored(answers, lambda answer: agreement(vqa_answer(answer.said), answer.references))


def textvqa_scores(answers: Sequence[Answer]) -> tuple[list[float], dict[str, float]]:
    """Score answers to TextVQA."""
    return _scored(
        answers,
        lambda answer: agreement(
            textvqa_answer(answer.said), [textvqa_answer(text) for text in answer.references]
        ),
    )


def _scored(
    answers: Sequence[Answer], right: Callable[[Answer], float]
) -> tuple[list[float], dict[str, float]]:
    items = [right(answer) for answer in answers]
    return items, accuracy_scores(answers, items)
