"""Conversations about the tiny world: answers that the scene gives, and that the text does not."""

import json
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from tove.data.tiny_world.dialogue import (
    IMAGE_KINDS,
    KINDS,
    NUMBER_WORDS,
    ask,
    conversations_about,
    words_conversation,
)
from tove.data.tiny_world.render import render
from tove.data.tiny_world.rendered import make_pool, seeded
from tove.data.tiny_world.scene import COLOURS, SHAPES, sample_scenes
from tove.data.tiny_world.text import PLURALS, Thing, things_of
from tove.data.tiny_world.write import stream_of, write_scenes

CHANCE = {"count": 1 / 3, "colour": 1 / 7, "place": 1 / 2, "depth": 1 / 2}


@pytest.fixture(scope="module")
def things():
    scenes = sample_scenes(9, 0, 500)
    return things_of(scenes, render(scenes))


@pytest.fixture(scope="module")
def asked(things):
    """Questions of each kind, four a scene, each with its scene: [(things, question), ...]."""
    found = defaultdict(list)
    for kind in IMAGE_KINDS:
        for number, row in enumerate(things):
            questions = [ask(row, kind, seeded(1, number, salt)) for salt in range(4)]
            found[kind] += [(row, question) for question in questions if question]
    return found


def named_in(text: str, row: list[Thing]) -> list[Thing]:
    """Things named in a text, in the order of the text."""
    places = {text.find(t.name): t for t in row if t.name in text}
    return [places[at] for at in sorted(places)]


def count_in(text: str, row: list[Thing]) -> str:
    category = text.removeprefix("how many ").removesuffix(" are there?")
    if category.endswith(" things"):
        return NUMBER_WORDS[sum(f"{t.colour} things" == category for t in row)]
    return NUMBER_WORDS[sum(PLURALS[t.shape] == category for t in row)]


def colour_in(text: str, row: list[Thing]) -> str:
    name = text.removeprefix("what colour is the ").removesuffix("?")
    if name in SHAPES:
        (only,) = [t for t in row if t.shape == name]
        return only.colour
    ends = {"leftmost": (min, "x"), "rightmost": (max, "x")}
    ends |= {"highest": (min, "y"), "lowest": (max, "y")}
    pick, axis = ends[name.removesuffix(" thing")]
    return pick(row, key=lambda t: getattr(t, axis)).colour


def place_in(text: str, row: list[Thing]) -> str:
    found = named_in(text, row)
    if text.startswith("in which half"):
        at = found[0].x if "left or right" in text else found[0].y
        words = ("left", "right") if "left or right" in text else ("upper", "lower")
        return words[at > 0.5]
    a, b = found
    return (
        ("left", "right")[a.x > b.x] if "left or right" in text else ("above", "below")[a.y > b.y]
    )


def depth_in(text: str, row: list[Thing]) -> str:
    a, b = named_in(text, row)
    if text.startswith("which is closer"):
        return f"the {a.name if a.depth < b.depth else b.name}"
    words = ("closer", "farther") if "closer or farther" in text else ("in front", "behind")
    return words[a.depth > b.depth]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("count", count_in), ("colour", colour_in), ("place", place_in), ("depth", depth_in)],
)
def test_answers_are_what_the_scene_says(asked, kind, answer):
    assert len(asked[kind]) > 300
    for row, question in asked[kind]:
        assert question.relation == kind
        assert question.answer == answer(question.text, row), question


@pytest.mark.parametrize("kind", ["place", "depth"])
def test_names_in_a_question_fit_one_thing(asked, kind):
    for row, question in asked[kind]:
        for thing in named_in(question.text, row):
            assert thing.clear
            assert [t.name for t in row].count(thing.name) == 1, question


def test_questions_tell_nothing_of_their_answers(asked):
    """A constant answer is at chance, and so is one for each form of question."""
    for kind, chance in CHANCE.items():
        answers = defaultdict(Counter)
        for row, question in asked[kind]:
            text, answer = question.text, question.answer
            for place, thing in enumerate(named_in(text, row)):
                text, answer = (s.replace(thing.name, f"#{place}") for s in (text, answer))
            for word in (*COLOURS, *PLURALS.values(), *SHAPES):
                text = text.replace(word, "~")
            answers[text][answer] += 1
        for text, counts in answers.items():
            total = sum(counts.values())
            # Questions about one scene hang together, four at most.
            spread = 4 * (4 * chance * (1 - chance) / total) ** 0.5
            assert max(counts.values()) / total < chance + spread, (text, counts)


def test_place_and_extent_in_the_image_do_not_tell_depth(asked):
    """What is lower, or larger in the image, is as often the farther of the two."""
    lower, larger = [], []
    for row, question in asked["depth"]:
        near, far = sorted(named_in(question.text, row), key=lambda t: t.depth)
        assert near.depth * 1.15 < far.depth
        lower.append(near.y > far.y)
        larger.append(area(near) > area(far))
    spread = 4 * (4 * 0.25 / len(lower)) ** 0.5
    assert abs(sum(lower) / len(lower) - 0.5) < spread
    assert abs(sum(larger) / len(larger) - 0.5) < spread
    pairs = [pair for row, _ in asked["place"] for pair in named_pairs(row)]
    told = sum(near.y > far.y for near, far in pairs) / len(pairs)
    assert told > 0.6, "without the rule the lower one is closer, or the rule is for nothing"


def named_pairs(row: list[Thing]) -> list[tuple[Thing, Thing]]:
    """Pairs in view, the nearer first."""
    return list(combinations(sorted(row, key=lambda t: t.depth), 2))


def area(thing: Thing) -> float:
    left, top, right, bottom = thing.box
    return (right - left) * (bottom - top)


def test_a_scene_without_an_answer_is_not_asked():
    assert [ask([], kind, seeded(0)) for kind in IMAGE_KINDS] == [None] * 4


def test_records_end_with_every_kind_and_mostly_ask_something_else_before(things):
    turns, ends = Counter(), Counter()
    for number, row in enumerate(things[:300]):
        records = conversations_about(row, "images/a.png", "a", seeded(2, number))
        assert len({record["id"] for record in records}) == len(records)
        can = {kind for kind in IMAGE_KINDS if ask(row, kind, seeded(0))}
        assert {record["kinds"][-1] for record in records} == can
        for record in records:
            kinds, said = record["kinds"], record["conversations"]
            assert record["relation"] == kinds[-1]
            assert len(set(kinds)) == len(kinds) == len(said) / 2
            assert [turn["value"].count("<image>") for turn in said] == [1] + [0] * (len(said) - 1)
            turns[len(kinds)] += 1
            ends[kinds[-1]] += 1
    assert set(turns) == {1, 2}
    assert turns[2] > 2 * turns[1]
    assert min(ends.values()) > 100


def test_words_need_no_image():
    sums = {}
    for number in range(300):
        record = words_conversation("w", seeded(3, number))
        assert "image" not in record
        assert record["kinds"] == ["words", "words"]
        questions = [turn["value"] for turn in record["conversations"][::2]]
        assert questions[0] != questions[1]
        for question, answer in zip(questions, record["conversations"][1::2], strict=True):
            assert sums.setdefault(question, answer["value"]) == answer["value"]
    value = {word: i for i, word in enumerate(NUMBER_WORDS)}
    checked = 0
    for question, answer in sums.items():
        words = question.removesuffix("?").replace(",", "").split()
        if "plus" in words:
            assert value[answer] == value[words[2]] + value[words[4]]
        elif "minus" in words:
            assert value[answer] == value[words[2]] - value[words[4]]
        elif "more" in words:
            assert value[answer] == max(value[words[3]], value[words[5]])
        elif "or" in words:
            assert answer == ("a colour" if words[1] in COLOURS else "a shape")
        else:
            continue
        checked += 1
    assert checked > 50
    assert sums["what is the opposite of left?"] == "right"


def test_written_conversations_are_what_the_data_set_reads(tmp_path: Path):
    from tove.data import LlavaConversations

    root = tmp_path / "world"
    write_scenes(root, train=9, unlabelled=4, val=2, test=3, seed=1)
    options = dict(data_root=str(root), img_dir="", image_size=64)
    captions = LlavaConversations(ann_file="annotations/conversations_pretrain.json", **options)
    said = [captions.get_data_info(i)["conversations"][0]["value"] for i in range(len(captions))]
    assert said == ["<image>"] * 4
    training = LlavaConversations(ann_file="annotations/conversations_train.json", **options)
    pool = make_pool(stream_of("train", 1), 0, 9)
    without = 0
    for place in range(len(training)):
        item = training[place]
        name, _, part = item["sample"]["source_id"].partition("-")
        assert (part == "words") == (len(item["images"]) == 0)
        without += part == "words"
        if len(item["images"]):
            assert (item["images"][0] == pool.images[int(name.removeprefix("train_"))]).all()
    assert without == 3
    relations = {training.get_data_info(i)["relation"] for i in range(len(training))}
    assert relations == set(KINDS)


def test_a_scene_s_conversations_do_not_depend_on_how_many_scenes_there_are(tmp_path: Path):
    for count in (1, 3):
        write_scenes(tmp_path / str(count), train=count, unlabelled=1, val=1, test=1)
    one, three = (
        json.loads((tmp_path / str(count) / "annotations/conversations_train.json").read_text())
        for count in (1, 3)
    )
    assert one == three[: len(one)]
