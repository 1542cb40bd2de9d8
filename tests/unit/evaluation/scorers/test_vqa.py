"""VQA's accuracy: the rules of its server, spelt out on texts that tell them apart."""

import pytest

from tove.evaluation.scorers.vqa import agreement, textvqa_answer, vqa_answer
from tove.registry import METRICS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog", "dog"),
        ("a", ""),  # an article alone leaves nothing
        ("", ""),
        (" \n", ""),
        ("one man\tand two dogs", "1 man and 2 dogs"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("shouldntve", "shouldntve"),  # two apostrophes short: not on the list
        ("shouldn'tve", "shouldn't've"),
        ("somebody'd", "somebodyd"),  # the official list has it the wrong way round
        ("it's", "it's"),
        ("red/blue", "red blue"),  # a sign within words becomes a space
        ("red / blue", "red blue"),
        ("t-shirt", "t shirt"),
        ("t- shirt t-shirt", "t shirt tshirt"),  # touches a space once, vanishes everywhere
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),  # a comma between digits: all signs vanish
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        ("u.s.a.", "usa"),
        ("a.m", "am"),  # the stop goes before articles are looked for
        ("." * 33 + "x", ".x"),  # no more than 32 stops
        ("what?!", "what"),
        ("it\u2019s", "it\u2019s"),  # the typographer's apostrophe is no sign
        ("café", "café"),
        ("½ 犬", "½ 犬"),
        ("'twas", "'twas"),
        ("twas", "'twas"),
        ('"stop"', "stop"),
    ],
)
def test_an_answer_is_compared_as_the_server_does(text, expected):
    assert vqa_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("levi's", "levi 's"),
        ("1,000", "1000"),
        ("red,blue", "redblue"),  # commas go before anything else
        ("What?", "what"),
        ("The 2nd", "2nd"),
        ("nine", "9"),
    ],
)
def test_textvqa_splits_words_first(text, expected):
    assert textvqa_answer(text) == expected


@pytest.mark.parametrize("number", range(11))
def test_an_answer_is_held_against_every_nine_of_ten_people(number):
    people = ["yes"] * number + ["no"] * (10 - number)
    nines = [people[:i] + people[i + 1 :] for i in range(10)]
    expected = sum(min(1, nine.count("yes") / 3) for nine in nines) / 10
    assert agreement("yes", people) == pytest.approx(expected)


def test_known_shares_of_ten():
    assert [round(agreement("x", ["x"] * n + ["y"] * (10 - n)), 2) for n in range(5)] == [
        0.0,
        0.3,
        0.6,
        0.9,
        1.0,
    ]


def answered(benchmark, said, references, number=0):
    return dict(
        task="open_question",
        benchmark=benchmark,
        split="val",
        image_id=f"/images/{number}.jpg",
        image_path=f"/images/{number}.jpg",
        question_id=number,
        source_id=f"val {number}",
        question="what ?",
        prediction=said,
        target=references[0] if references else "",
        references=references,
        groups=["answer_type/other"] if number else ["answer_type/number"],
        about={},
    )


def score(benchmark, *samples, **options):
    metric = METRICS.build(dict(type="BenchmarkScore", benchmark=benchmark, **options))
    metric.process(None, list(samples))
    return metric, metric.evaluate(len(samples))


# What the public scripts say of these: GT-Vision-Lab/VQA's at a013f00, mmf's for TextVQA, VizWiz'.
OFFICIAL = [
    ("Two", ["two"] * 10, 0.0, 1.0, 0.0),  # people are unanimous: letter by letter
    ("two", ["two"] * 9 + ["2"], 1.0, 1.0, 0.3),
    ("t shirt", ["t-shirt"] * 10, 0.0, 1.0, 0.0),
    ("t shirt", ["t-shirt"] * 9 + ["shirt"], 1.0, 1.0, 0.0),
    ("yes\n", ["yes"] * 10, 1.0, 1.0, 1.0),
    ("", [""] * 10, 1.0, 1.0, 1.0),
    ("", ["a"] * 2 + ["dog"] * 8, 0.6, 0.6, 0.0),  # an article alone leaves nothing
    ("the dog", ["a dog"] * 2 + ["dog"] + ["cat"] * 7, 0.9, 0.9, 0.3),
    ("don't know", ["don't know", "dont know"] + ["no idea"] * 8, 0.6, 0.6, 0.3),
    ("none", ["0"] * 2 + ["zero"] + ["no"] * 7, 0.9, 0.9, 0.6),
    ("1,000", ["1000", "1,000"] + ["many"] * 8, 0.6, 0.6, 0.3),
    ("3.50", ["3.50."] * 2 + ["3,50"] * 8, 0.6, 0.6, 0.0),
    ("red/blue", ["red blue", "red, blue"] + ["blue"] * 8, 0.6, 0.6, 0.3),
    ("red,blue", ["red blue", "red, blue"] + ["blue"] * 8, 0.6, 0.0, 0.3),
    ("caf\u00e9", ["caf\u00e9"] + ["cafe\u0301"] * 9, 0.3, 0.3, 0.3),
    ("levis", ["levi's", "levis"] + ["x"] * 8, 0.3, 0.3, 0.3),
]


@pytest.mark.parametrize(("said", "people", "vqa", "textvqa", "vizwiz"), OFFICIAL)
def test_scores_are_those_of_the_official_scripts(said, people, vqa, textvqa, vizwiz):
    expected = dict(vqav2=vqa, okvqa=vqa, textvqa=textvqa, vizwiz=vizwiz)
    for benchmark, accuracy in expected.items():
        _, scores = score(benchmark, answered(benchmark, said, people))
        assert scores[f"{benchmark}/accuracy"] == pytest.approx(accuracy)


def test_scores_by_type_with_an_interval_and_items():
    samples = [answered("okvqa", "red", ["red"] * 2 + ["blue"] * 8, n) for n in range(1, 20)]
    samples.append(answered("okvqa", "3", ["3"] * 10))
    samples.append(samples[-1])  # drawn twice, counts once
    samples.append(answered("okvqa", "x", ["x"] * 10, 30) | dict(skipped=True))
    samples.append(answered("vqav2", "x", ["x"] * 10, 31))  # of another benchmark
    metric, scores = score("okvqa", *samples)
    assert scores["okvqa/accuracy"] == pytest.approx((19 * 0.6 + 1) / 20)
    assert scores["okvqa/accuracy_low"] < scores["okvqa/accuracy"] < scores["okvqa/accuracy_high"]
    assert scores["okvqa/num_questions"] == 20 == len(metric.item_scores)
    assert scores["okvqa/answer_type/number"] == 1
    assert scores["okvqa/answer_type/other"] == pytest.approx(0.6)
