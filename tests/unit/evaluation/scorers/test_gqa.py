"""GQA's scores on a handful of questions, by hand."""

import json

import pytest

from tove.evaluation.scorers.gqa import gqa_answer
from tove.registry import METRICS


def answered(number, target, said, *, entailed=(), balanced=True, group=None, choices=None, **more):
    return dict(
        task="open_question",
        benchmark="gqa",
        split="val_all",
        image_id="/images/1.jpg",
        image_path="/images/1.jpg",
        question_id=number,
        source_id=f"val_all {number}",
        question=f"question {number}",
        prediction=said,
        target=target,
        references=[],
        groups=["form/open", "structural/query", "semantic/attr"],
        about=dict(
            balanced=balanced,
            entailed=list(entailed),
            group=group,
            common=more.get("common", False),
            choices=choices,
        ),
    )


def score(*samples, **options):
    metric = METRICS.build(dict(type="BenchmarkScore", benchmark="gqa", **options))
    metric.process(None, list(samples))
    return metric.evaluate(len(samples))


def test_answers_are_compared_letter_by_letter():
    assert [gqa_answer(text) for text in ("Red.", " red ", "the red", "")] == [
        "red",
        "red",
        "the red",
        "",
    ]
    scores = score(answered("1", "red", "Red."), answered("2", "red", "the red"))
    assert scores["gqa/accuracy"] == 0.5
    assert scores["gqa/form/open"] == 0.5
    assert not {"gqa/consistency", "gqa/validity", "gqa/distribution"} & scores.keys()


def test_consistency_is_of_what_right_answers_entail():
    samples = [
        answered("1", "red", "red", entailed=["2", "3"]),  # right: half of these are
        answered("2", "yes", "yes", balanced=False),
        answered("3", "no", "yes", balanced=False),
        answered("4", "big", "small", entailed=["3"]),  # wrong: entails nothing
        answered("5", "big", "big"),
    ]
    scores = score(*samples)
    assert scores["gqa/accuracy"] == pytest.approx(2 / 3)  # of the balanced ones
    assert scores["gqa/num_questions"] == 3
    assert scores["gqa/consistency"] == 0.5
    assert "gqa/consistency" not in score(*samples[:2])  # question 3 was not asked


def test_validity_and_plausibility_go_by_the_file_of_choices(tmp_path):
    path = tmp_path / "val_choices.json"
    both = {"valid": ["red", "blue"], "plausible": ["red"]}
    path.write_text(json.dumps({number: both for number in "123"}))
    scores = score(
        answered("1", "red", "blue", choices=str(path)),
        answered("2", "red", "dog", choices=str(path)),
        answered("3", "shape", "shape", choices=str(path), common=True),
    )
    assert scores["gqa/validity"] == pytest.approx(2 / 3)
    assert scores["gqa/plausibility"] == pytest.approx(1 / 3)


def test_distribution_is_chi_square_by_group():
    samples = [answered(str(n), "red", "red" if n else "blue", group="colour") for n in range(4)]
    samples.append(answered("9", "cat", "cat", group="animal"))
    # colour: (3 - 4)^2 / 4, weighed by 4 of 5 questions; animal 0
    assert score(*samples)["gqa/distribution"] == pytest.approx(0.25 * 4 / 5 / 100)


# What GQA's public evaluation, as openvqa keeps it, says of these: number, right answer, balanced,
# entailed, group, whether two things have it in common, said.
ASKED = [
    ("1", "red", True, "123", "colour", False, "red"),
    ("2", "yes", False, "", None, False, "Yes."),
    ("3", "no", True, "2", "truth", False, "yes"),
    ("4", "material", True, "3", "common", True, "shape"),
    ("5", "left", True, "12", "side", False, "left"),
    ("6", "red", True, "5", "colour", False, "the red"),
    ("7", "blue", True, "", "colour", False, "caf\u00e9"),
    ("8", "no", True, "76", "truth", False, " NO "),
]


def test_scores_are_those_of_the_public_evaluation(tmp_path):
    path = tmp_path / "choices.json"
    both = dict(valid=["red", "blue", "yes", "no", "left"], plausible=["red", "no", "yes"])
    path.write_text(json.dumps({number: both for number, *_ in ASKED}))
    samples = [
        answered(
            number,
            target,
            said,
            balanced=balanced,
            entailed=[other for other in entailed if other != number],
            group=group,
            common=common,
            choices=str(path),
        )
        for number, target, balanced, entailed, group, common, said in ASKED
    ]
    found = score(*samples)
    expected = dict(accuracy=3 / 7, consistency=0.5, validity=5 / 7, plausibility=4 / 7)
    expected["distribution"] = 0.009285714285714286
    assert {name: found[f"gqa/{name}"] for name in expected} == pytest.approx(expected)


def test_what_is_handed_in_is_what_is_compared(tmp_path):
    score(answered("1", "red", "Red."), submission=str(tmp_path / "gqa.json"))
    rows = json.loads((tmp_path / "gqa.json").read_text())
    assert rows == [{"questionId": "1", "prediction": "red"}]
