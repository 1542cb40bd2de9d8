"""Language about scenes: captions, statements that are true or false, questions with answers.

Every statement type can come out true or false in the scene it is drawn for, and a coin decides
which; so the text alone carries no information and a blind model scores .50.

Relations and what they need:
    left of / right of, above / below          place in the image
    in front of / behind, closer than / farther than     depth
    bigger than / smaller than                 real size: extent in the image times depth
    on the same side as                        place relative to the image's middle
    overlaps                                   extents of two objects in the image
    wider than / narrower than                 extents in the image
    count                                      how many objects of a colour or a shape are seen
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch

from tove.data.tiny_world.render import Rendered
from tove.data.tiny_world.scene import COLOURS, MAX_OBJECTS, SHAPES, Scenes

NUMBERS = ("no", "one", "two", "three", "four", "five")
PLURALS = {"ball": "balls", "box": "boxes", "cylinder": "cylinders"}
DEPTH_RELATIONS = ("in front of", "behind", "closer than", "farther than")
SIZE_RELATIONS = ("bigger than", "smaller than")
IMAGE_RELATIONS = ("left of", "right of", "above", "below", "on the same side as", "overlaps")
EXTENT_RELATIONS = ("wider than", "narrower than")
RELATIONS = (*DEPTH_RELATIONS, *SIZE_RELATIONS, *EXTENT_RELATIONS, *IMAGE_RELATIONS, "count")
PHRASES = {
    "left of": "is left of",
    "right of": "is right of",
    "above": "is above",
    "below": "is below",
    "in front of": "is in front of",
    "behind": "is behind",
    "closer than": "is closer than",
    "farther than": "is farther than",
    "bigger than": "is bigger than",
    "smaller than": "is smaller than",
    "wider than": "is wider than",
    "narrower than": "is narrower than",
    "on the same side as": "is on the same side as",
    "overlaps": "overlaps",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object as it is seen.

    Attributes:
        slot: Its slot in the scene.
        colour: Colour word.
        shape: Shape word.
        x: Column of the middle of its visible pixels, 0 (left) .. 1.
        y: Row of it, 0 (top) .. 1.
        depth: Depth of its centre, metres.
        size: Its real extent, metres.
        box: Left, top, right, bottom of its visible pixels, 0..1.
        clear: Seen well enough to speak about.
    """

    slot: int
    colour: str
    shape: str
    x: float
    y: float
    depth: float
    size: float
    box: tuple[float, float, float, float]
    clear: bool

    @property
    def width(self) -> float:
        """Columns of its visible pixels, as a share of the image's."""
        return self.box[2] - self.box[0]

    @property
    def name(self) -> str:
        """Colour and shape, as in "red ball"."""
        return f"{self.colour} {self.shape}"

    @property
    def with_article(self) -> str:
        """As in "a red ball", "an orange box"."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.name}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence and whether it is true of the scene."""

    text: str
    label: bool
    relation: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one right answer."""

    text: str
    answer: str
    relation: str


def visible_boxes(rendered: Rendered) -> torch.Tensor:
    """[B, O, 4] left, top, right, bottom of each object's visible pixels, 0..1; 0 if unseen."""
    instance = rendered.instance
    side = instance.shape[-1]
    slots = torch.arange(MAX_OBJECTS, device=instance.device)
    mask = instance[:, None] == slots[None, :, None, None]  # [B, O, S, S]
    columns, rows = mask.any(2), mask.any(3)
    first = torch.stack([columns.float().argmax(-1), rows.float().argmax(-1)], -1)
    flipped = [columns.flip(-1).float().argmax(-1), rows.flip(-1).float().argmax(-1)]
    last = side - torch.stack(flipped, -1)
    return torch.cat([first, last], -1) / side * mask.flatten(2).any(-1, keepdim=True)


def things_of(scenes: Scenes, rendered: Rendered) -> list[list[Thing]]:
    """What can be seen in each scene, as plain data.

    Args:
        scenes: B scenes.
        rendered: Their rendering.
    """
    boxes = visible_boxes(rendered).tolist()
    visible, covered = rendered.visible.tolist(), rendered.covered.tolist()
    colours, shapes = scenes.colour.tolist(), scenes.shape.tolist()
    centres, sizes = scenes.centre.tolist(), scenes.size.tolist()
    minimum = 0.010 * rendered.instance.shape[-1] ** 2
    words = list(COLOURS)
    result = []
    for b in range(len(scenes)):
        things = []
        for o in range(MAX_OBJECTS):
            if visible[b][o] < 0.25 * minimum:
                continue
            left, top, right, bottom = boxes[b][o]
            things.append(
                Thing(
                    slot=o,
                    colour=words[colours[b][o]],
                    shape=SHAPES[shapes[b][o]],
                    x=(left + right) / 2,
                    y=(top + bottom) / 2,
                    depth=centres[b][o][2],
                    size=sizes[b][o],
                    box=(left, top, right, bottom),
                    clear=visible[b][o] >= minimum and visible[b][o] >= 0.45 * covered[b][o],
                )
            )
        result.append(things)
    return result


def bag_caption(things: list[Thing], rng: random.Random) -> str:
    """Colours and shapes in random order, nothing about place: what the tiny CLIP learns from."""
    names = [t.with_article for t in things]
    rng.shuffle(names)
    return _join(names)


def ordered_caption(things: list[Thing]) -> str:
    """What is seen, from left to right: the caption of the data set."""
    return _join([t.with_article for t in sorted(things, key=lambda t: t.x)])


def relation_caption(things: list[Thing], rng: random.Random) -> str | None:
    """One true relation between two things, or None where no relation can be told."""
    options = [r for r in (*DEPTH_RELATIONS[:2], "left of", "right of") if _pairs(things, r)]
    if not options:
        return None
    relation = rng.choice(options)
    a, b = rng.choice(_pairs(things, relation))
    return f"{a.with_article} {relation} {b.with_article}"


def _join(names: list[str]) -> str:
    if not names:
        return "an empty plain"
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def named(things: list[Thing]) -> list[Thing]:
    """Those seen clearly whose name fits no other thing in view."""
    names = [t.name for t in things]
    return [t for t in things if t.clear and names.count(t.name) == 1]


def _overlap(a: Thing, b: Thing) -> float:
    """Overlap of two boxes in the image, in units of 1; negative: the gap between them."""
    across = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    updown = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    return min(across, updown)


_ORDER: dict[str, Callable[[Thing, Thing], bool]] = {
    "left of": lambda a, b: a.x + 0.10 < b.x,
    "right of": lambda a, b: a.x > b.x + 0.10,
    "above": lambda a, b: a.y + 0.10 < b.y,
    "below": lambda a, b: a.y > b.y + 0.10,
    "in front of": lambda a, b: a.depth * 1.15 < b.depth,
    "behind": lambda a, b: a.depth > b.depth * 1.15,
    "closer than": lambda a, b: a.depth * 1.15 < b.depth,
    "farther than": lambda a, b: a.depth > b.depth * 1.15,
    "bigger than": lambda a, b: a.size > b.size * 1.2,
    "smaller than": lambda a, b: a.size * 1.2 < b.size,
    "wider than": lambda a, b: a.width > b.width * 1.25,
    "narrower than": lambda a, b: a.width * 1.25 < b.width,
}


def _same_side(a: Thing, b: Thing) -> bool | None:
    if min(abs(a.x - 0.5), abs(b.x - 0.5)) < 0.06:
        return None
    return (a.x < 0.5) == (b.x < 0.5)


def _overlaps(a: Thing, b: Thing) -> bool | None:
    overlap = _overlap(a, b)
    return None if -0.06 < overlap < 0.04 else overlap > 0


_SYMMETRIC = {"on the same side as": _same_side, "overlaps": _overlaps}


def _pairs(things: list[Thing], relation: str, label: bool = True) -> list[tuple[Thing, Thing]]:
    """Ordered pairs for which the relation holds (or clearly does not)."""
    pairs = permutations(named(things), 2)
    if relation in _ORDER:
        holds = _ORDER[relation]
        return [(a, b) for a, b in pairs if (holds(a, b) if label else holds(b, a))]
    return [(a, b) for a, b in pairs if _SYMMETRIC[relation](a, b) is label]


def _count_claim(things: list[Thing], rng: random.Random) -> tuple[str, int, bool] | None:
    """A category, a number, and whether the category is seen that many times.

    Two categories a, b of one family (colours or shapes), seen n_a and n_b times: "n_a a" is true,
    "n_b a" is false. Categories of a family are alike to the world, so the words tell nothing.
    """
    if any(not t.clear for t in things):
        return None
    colours = {f"{c} things": sum(t.colour == c for t in things) for c in COLOURS}
    shapes = {PLURALS[s]: sum(t.shape == s for t in things) for s in SHAPES}
    options = [
        (a, counts[a], counts[b])
        for counts in (colours, shapes)
        for a, b in permutations(counts, 2)
        if counts[a] != counts[b] and min(counts[a], counts[b]) > 0
    ]
    if not options:
        return None
    category, right, wrong = rng.choice(options)
    label = rng.random() < 0.5
    return category, right if label else wrong, label


def statement_of(things: list[Thing], relation: str, rng: random.Random) -> Statement | None:
    """One statement of the given relation, or None if the scene cannot make it true AND false."""
    if relation == "count":
        claim = _count_claim(things, rng)
        if claim is None:
            return None
        category, number, label = claim
        return Statement(f"there are {NUMBERS[number]} {category}", label, relation)
    true, false = _pairs(things, relation, True), _pairs(things, relation, False)
    if not true or not false:
        return None
    label = rng.random() < 0.5
    a, b = rng.choice(true if label else false)
    return Statement(f"the {a.name} {PHRASES[relation]} the {b.name}", label, relation)


def statements_of(
    things: list[Thing], number: int, rng: random.Random, relations: tuple[str, ...] = RELATIONS
) -> list[Statement]:
    """Up to `number` statements of different relations, drawn in random order."""
    result: list[Statement] = []
    for relation in rng.sample(relations, len(relations)):
        if len(result) == number:
            break
        statement = statement_of(things, relation, rng)
        if statement is not None:
            result.append(statement)
    return result


def questions_of(things: list[Thing], number: int, rng: random.Random) -> list[Question]:
    """Up to `number` questions: how many of a kind are there, what stands in a relation to what.

    A relation is asked for only where exactly one other thing has it.
    """
    questions = []
    if things and all(t.clear for t in things):
        for shape in SHAPES:
            count = sum(t.shape == shape for t in things)
            text = f"how many {PLURALS[shape]} are there ?"
            questions.append(Question(text, NUMBERS[count], "count"))
    for relation in _ORDER:
        pairs = _pairs(things, relation)
        for b in named(things):
            answers = [a for a, other in pairs if other is b]
            if len(answers) == 1 and len(things) == len(named(things)):
                text = f"what {PHRASES[relation]} the {b.name} ?"
                questions.append(Question(text, f"the {answers[0].name}", relation))
    return rng.sample(questions, min(number, len(questions)))


def vocabulary() -> list[str]:
    """Every word the tiny world's language uses; the tiny tokenizer is made of it."""
    words = {"a", "an", "empty", "plain", "picture", "of", "the", "and", ",", "?", "yes", "no"}
    words |= {"there", "are", "things", "this", "true", "false", "or", "in", "scene", "half"}
    words |= {"half:", "is", "question", "answer", ":", "what", "how", "many", "where"}
    words |= set(COLOURS) | set(SHAPES) | set(PLURALS.values()) | set(NUMBERS)
    for phrase in PHRASES.values():
        words |= set(phrase.split())
    return sorted(words)
