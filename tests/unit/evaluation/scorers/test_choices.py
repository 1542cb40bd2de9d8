"""POPE, MME, ScienceQA, CV-Bench: scores by hand, and what is handed in."""

import json

import pytest

from tove.errors import ConfigError
from tove.evaluation.scorers.choices import mme_answer, pope_answer
from tove.registry import METRICS


def answered(benchmark, number, target, said, groups, split="test", image="1.jpg", candidates=()):
    return dict(
        task="question",
        benchmark=benchmark,
        split=split,
        image_id=f"/images/{image}",
        image_path=f"/images/{image}",
        question_id=number,
        source_id=f"{split} {number}",
        question="Is it ?",
        candidates=list(candidates),
        prediction=candidates.index(said) if candidates else said,
        target=target,
        references=[],
        groups=groups,
        about={},
    )


def score(benchmark, samples, **options):
    metric = METRICS.build(dict(type="BenchmarkScore", benchmark=benchmark, **options))
    metric.process(None, samples)
    found = metric.evaluate(len(samples))
    return {name.removeprefix(f"{benchmark}/"): value for name, value in found.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("No, there is none.", "no"),
        ("no.", "no"),
        ("NO", "yes"),  # the official words are No, no and not
        ("There is not", "no"),
        ("There isn't", "yes"),
        ("Yes. It is not far", "yes"),  # the first sentence counts
        ("nothing", "yes"),
        ("", "yes"),
        ("n,o", "no"),
    ],
)
def test_popes_reading_of_an_answer(text, expected):
    assert pope_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("No, it is", "no"),
        ("Not", "no"),
        ("I think yes", "other"),
        ("  yes", "other"),
        ("", "other"),
        ("是", "other"),
    ],
)
def test_mmes_reading_of_an_answer(text, expected):
    assert mme_answer(text) == expected


def pope(split):
    pairs = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), ("yes", "yes")]
    return [
        answered("pope", n, target, said, [f"split/{split}"], split)
        for n, (target, said) in enumerate(pairs)
    ]


def test_pope_precision_recall_f1_and_share_of_yes(tmp_path):
    scores = score("pope", pope("random"))
    assert scores["accuracy"] == scores["split/random"] == 0.6
    assert scores["precision"] == scores["recall"] == scores["F1"] == pytest.approx(2 / 3)
    assert scores["yes_ratio"] == 0.6
    wrong = [sample | dict(prediction="no") for sample in pope("adversarial")]
    both = score("pope", [*pope("random"), *wrong], submission=str(tmp_path))
    assert both["num_questions"] == 10
    assert (both["split/adversarial"], both["split/random"]) == (0.4, 0.6)
    assert both["split/adversarial/F1"] == 0  # no yes at all is no error
    assert both["split/random/F1"] == pytest.approx(2 / 3)
    lines = (tmp_path / "coco_pope_random_answers.json").read_text().splitlines()
    assert json.loads(lines[1]) == {"question_id": 1, "question": "Is it ?", "answer": "no"}
    assert (tmp_path / "coco_pope_adversarial_answers.json").exists()


def test_mme_counts_a_point_for_a_question_and_one_for_a_pair(tmp_path):
    def pair(group, image, first, second):
        return [
            answered("mme", f"{group}/{image}/0", "yes", first, [group], image=image),
            answered("mme", f"{group}/{image}/1", "no", second, [group], image=image),
        ]

    samples = pair("perception/count", "1.jpg", "Yes", "No")
    samples += pair("perception/count", "2.jpg", "Yes", "maybe\nso")
    samples += pair("cognition/code_reasoning", "1.jpg", "no", "no")
    scores = score("mme", samples, submission=str(tmp_path))
    assert scores["perception/count"] == scores["perception"] == 75 + 50
    assert scores["cognition"] == 50
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["accuracy_plus"] == pytest.approx(1 / 3)
    lines = (tmp_path / "count.txt").read_text().splitlines()
    assert lines[3] == "2.jpg\tIs it ?\tNo\tmaybe so"
    assert len((tmp_path / "code_reasoning.txt").read_text().splitlines()) == 2


def test_scienceqa_counts_an_image_question_in_all_its_groups(tmp_path):
    groups = ["subject/NAT", "context/IMG", "context/TXT", "grade/G1-6"]
    samples = [
        answered("scienceqa", "11", "b", "b", groups, candidates=("a", "b")),
        answered("scienceqa", "12", "a", "b", groups[:2], candidates=("a", "b")),
    ]
    path = tmp_path / "science.json"
    scores = score("scienceqa", samples, submission=str(path))
    assert (scores["accuracy"], scores["context/TXT"], scores["context/IMG"]) == (0.5, 1, 0.5)
    assert json.loads(path.read_text()) == {"results": {"11": 1, "12": 1}}


def test_cvbench_gives_its_sources_equal_weight():
    def sample(number, source, right):
        split = "3d" if source == "Omni3D" else "2d"
        said = "x" if right else "y"
        groups = [f"source/{source}", f"type/{split.upper()}"]
        return answered("cvbench", f"{split}/{number}", "x", said, groups, split, "i", ("x", "y"))

    samples = [sample(n, "ADE20K", True) for n in range(3)]
    samples += [sample(3, "COCO", False), sample(0, "Omni3D", True), sample(1, "Omni3D", False)]
    scores = score("cvbench", samples)
    assert (scores["2D"], scores["3D"], scores["overall"]) == (0.5, 0.5, 0.5)
    assert scores["accuracy"] == pytest.approx(4 / 6)


def test_a_split_for_the_server_is_written_and_not_scored(tmp_path):
    path = tmp_path / "vizwiz.json"
    sample = answered("vizwiz", "VizWiz_test_0.jpg", "", "a cup", [])
    assert score("vizwiz", [sample], submission=str(path)) == {"num_questions": 1}
    assert json.loads(path.read_text()) == [{"image": "VizWiz_test_0.jpg", "answer": "a cup"}]


def test_an_unknown_benchmark_is_a_sentence():
    with pytest.raises(ConfigError, match="no scorer of 'vqa3'"):
        METRICS.build(dict(type="BenchmarkScore", benchmark="vqa3"))
