"""Questions about scenes for conversations, each with its one right answer.

kind     asks                                                 right by chance
count    how many of a colour or a shape, zero to two         1/3
colour   of the thing furthest to a side, or of a shape       1/7
place    left, right, above, below; which half of the image   1/2
depth    what is closer                                       1/2
words    sums and meanings, without an image                  none is needed

What is asked tells nothing of the answer: where it has two answers or three, the scene holds things
for each of them, and all are as likely. In most pairs of things the lower one is the closer (the
ground sees to that), so a pair is asked about only where another one of its scene is the other way
round. So the image plane does not tell depth.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from typing import Any

from tove.data.tiny_world.scene import COLOURS, SHAPES
from tove.data.tiny_world.text import PLURALS, Question, Thing, named

__all__ = [
    "IMAGE_KINDS",
    "KINDS",
    "NUMBER_WORDS",
    "ask",
    "caption_conversation",
    "conversations_about",
    "dialogue_words",
    "words_conversation",
]

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five")
_ENDS: dict[str, Callable[[Thing], float]] = {
    "leftmost": lambda t: t.x,
    "rightmost": lambda t: -t.x,
    "highest": lambda t: t.y,
    "lowest": lambda t: -t.y,
}
_OPPOSITES = (
    ("left", "right"), ("above", "below"), ("upper", "lower"), ("in front", "behind"),
    ("closer", "farther"), ("leftmost", "rightmost"), ("highest", "lowest"),
)  # fmt: skip
_APART = 0.10
_FROM_MIDDLE = 0.06
_DEPTH_RATIO = 1.15
_TWO_TURNS = 0.75  # share of the records


def ask(things: list[Thing], kind: str, rng: random.Random) -> Question | None:
    """Draw a question of a kind; None where the scene has none.

    Args:
        things: of the scene.
        kind: one of KINDS.
        rng: draws.
    """
    return QUESTIONS[kind](things, rng)


def conversations_about(
    things: list[Thing], image: str, name: str, rng: random.Random
) -> list[dict[str, Any]]:
    """Write records of LLaVA's JSON about a scene: for each kind one that ends with it.

    Most have a turn of another kind before. Few scenes can be asked about depth, so those are asked
    as often about it as about all the rest.

    Args:
        things: of the scene.
        image: its file's name.
        name: what ids begin with.
        rng: draws.

    Returns:
        Dicts of `id`, `image`, `conversations`, `kinds`, one for each question, and `relation`, the
        last one's, by which answers are scored. LLaVA's readers pass over both.
    """
    kinds = [kind for kind in IMAGE_KINDS if ask(things, kind, rng)]
    rng.shuffle(kinds)
    if "depth" in kinds and len(kinds) > 1:
        kinds.remove("depth")
        kinds = [kind for other in kinds for kind in (other, "depth")]
    records = []
    for i, kind in enumerate(kinds):
        before = kinds[i - 1]
        asked = [before, kind] if before != kind and rng.random() < _TWO_TURNS else [kind]
        questions = [question for kind in asked if (question := ask(things, kind, rng))]
        records.append(_record(f"{name}-{i}", questions, image))
    return records


def words_conversation(name: str, rng: random.Random) -> dict[str, Any]:
    """Write a record without an image, of two questions."""
    first = second = _words([], rng)
    while second.text == first.text:
        second = _words([], rng)
    return _record(name, [first, second])


def caption_conversation(caption: str, image: str, name: str) -> dict[str, Any]:
    """Write a record of an image and its caption, as LLaVA's first stage reads them."""
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}]
    return {"id": name, "image": image, "conversations": turns, "relation": "caption"}


def _record(name: str, questions: list[Question], image: str | None = None) -> dict[str, Any]:
    turns = []
    for i, question in enumerate(questions):
        text = f"<image>\n{question.text}" if image and i == 0 else question.text
        turns += [{"from": "human", "value": text}, {"from": "gpt", "value": question.answer}]
    about = {"id": name, "image": image} if image else {"id": name}
    kinds = [question.relation for question in questions]
    return {**about, "conversations": turns, "kinds": kinds, "relation": kinds[-1]}


def _count(things: list[Thing], rng: random.Random) -> Question | None:
    """Ask for a number among colours, or among shapes, of which some occur 0, 1 and 2 times."""
    if not all(t.clear for t in things):
        return None
    numbers = (
        {f"{colour} things": sum(t.colour == colour for t in things) for colour in COLOURS},
        {PLURALS[shape]: sum(t.shape == shape for t in things) for shape in SHAPES},
    )
    families = [family for family in numbers if {0, 1, 2} <= set(family.values())]
    if not families:
        return None
    family, number = rng.choice(families), rng.randrange(3)
    category = rng.choice([name for name, found in family.items() if found == number])
    return Question(f"how many {category} are there?", NUMBER_WORDS[number], "count")


def _colour(things: list[Thing], rng: random.Random) -> Question | None:
    if len(things) < 2 or not all(t.clear for t in things):
        return None
    shapes = [t.shape for t in things]
    asked = {f"the {t.shape}": t for t in things if shapes.count(t.shape) == 1}
    for end, place in _ENDS.items():
        first, second = sorted(things, key=place)[:2]
        if place(second) - place(first) > _APART:
            asked[f"the {end} thing"] = first
    if not asked:
        return None
    name = rng.choice(list(asked))
    return Question(f"what colour is {name}?", asked[name].colour, "colour")


def _place(things: list[Thing], rng: random.Random) -> Question | None:
    form = rng.choice((_beside, _half))
    return form(things, rng) or (_beside if form is _half else _half)(things, rng)


def _beside(things: list[Thing], rng: random.Random) -> Question | None:
    """Ask which side of another a thing is on; a coin decides which of the two is asked for."""
    options = [
        (words, *pair)
        for words, place in ((("left", "right of"), _x), (("above", "below"), _y))
        for pair in combinations(sorted(named(things), key=place), 2)
        if place(pair[1]) - place(pair[0]) > _APART
    ]
    if not options:
        return None
    words, first, second = rng.choice(options)
    turned = rng.random() < 0.5
    a, b = (second, first) if turned else (first, second)
    answer = words[turned].removesuffix(" of")
    return Question(f"is the {a.name} {' or '.join(words)} the {b.name}?", answer, "place")


def _half(things: list[Thing], rng: random.Random) -> Question | None:
    """Ask for the half of the image that a thing is in, where each half has one to ask for."""
    options = []
    for words, place in ((("left", "right"), _x), (("upper", "lower"), _y)):
        far = [t for t in named(things) if abs(place(t) - 0.5) > _FROM_MIDDLE]
        halves = [[t for t in far if (place(t) > 0.5) == second] for second in (False, True)]
        if all(halves):
            options.append((words, halves))
    if not options:
        return None
    words, halves = rng.choice(options)
    number = rng.randrange(2)
    name = rng.choice(halves[number]).name
    text = f"in which half is the {name}, {' or '.join(words)}?"
    return Question(text, words[number], "place")


def _depth(things: list[Thing], rng: random.Random) -> Question | None:
    """Ask for the order in depth of a pair that has a twin, with which it tosses a coin."""
    looks: dict[bool, list[tuple[Thing, Thing]]] = {}
    for near, far in combinations(sorted(named(things), key=lambda t: t.depth), 2):
        if near.depth * _DEPTH_RATIO < far.depth:
            looks.setdefault(near.y > far.y, []).append((near, far))
    if len(looks) < 2:
        return None
    near, far = rng.choice(looks[rng.random() < 0.5])
    turned = rng.random() < 0.5
    a, b = (far, near) if turned else (near, far)
    form = rng.randrange(3)
    if form == 0:
        text = f"which is closer, the {a.name} or the {b.name}?"
        return Question(text, f"the {near.name}", "depth")
    if form == 1:
        text = f"is the {a.name} closer or farther than the {b.name}?"
        return Question(text, "farther" if turned else "closer", "depth")
    text = f"is the {a.name} in front of or behind the {b.name}?"
    return Question(text, "behind" if turned else "in front", "depth")


def _words(things: list[Thing], rng: random.Random) -> Question:
    """Ask for a sum, a difference, the larger number, an opposite or a word's meaning."""
    form = rng.randrange(5)
    small, large = sorted(rng.sample(range(6), 2))
    if form == 0:
        text = f"what is {NUMBER_WORDS[large - small]} plus {NUMBER_WORDS[small]}?"
        answer = NUMBER_WORDS[large]
    elif form == 1:
        text = f"what is {NUMBER_WORDS[large]} minus {NUMBER_WORDS[small]}?"
        answer = NUMBER_WORDS[large - small]
    elif form == 2:
        pair = rng.sample((small, large), 2)
        text = f"which is more, {NUMBER_WORDS[pair[0]]} or {NUMBER_WORDS[pair[1]]}?"
        answer = NUMBER_WORDS[large]
    elif form == 3:
        word, answer = rng.sample(rng.choice(_OPPOSITES), 2)
        text = f"what is the opposite of {word}?"
    else:
        answer = rng.choice(("colour", "shape"))
        word = rng.choice(tuple(COLOURS) if answer == "colour" else SHAPES)
        text, answer = f"is {word} a colour or a shape?", f"a {answer}"
    return Question(text, answer, "words")


QUESTIONS: dict[str, Callable[[list[Thing], random.Random], Question | None]] = {
    "count": _count,
    "colour": _colour,
    "place": _place,
    "depth": _depth,
    "words": _words,
}
KINDS = tuple(QUESTIONS)
IMAGE_KINDS = tuple(kind for kind in KINDS if kind != "words")


def dialogue_words() -> list[str]:
    """Return every word of questions and answers besides those of `text.vocabulary`."""
    words = {*NUMBER_WORDS, *_ENDS, *" ".join(sum(_OPPOSITES, ())).split(), "colour", "shape"}
    words |= set("how many what which half thing plus minus more opposite than or , ?".split())
    return sorted(words)


def _x(thing: Thing) -> float:
    return thing.x


def _y(thing: Thing) -> float:
    return thing.y
