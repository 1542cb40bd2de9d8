import itertools

import pytest
from mmengine.evaluator import Evaluator

from tove.evaluation import (
    CaptionScore,
    StatementAccuracy,
    bootstrap_interval,
    caption_words,
    paired_interval,
    wilson_interval,
)
from tove.registry import METRICS

CAPTIONS = {
    "1": ["a man riding a horse on the beach", "A person on a horse near the ocean."],
    "2": ["two dogs playing in the park", "A pair of dogs play with a ball."],
    "3": ["a plate of food with broccoli", "Some food on a white plate."],
}


def statement(number: int, label: int, prediction: int, relation: str = "left of") -> dict:
    return dict(
        task="statement",
        image_id=f"image {number}",
        prompt=f"statement {number}",
        relation=relation,
        label=label,
        prediction=prediction,
        candidates=["no", "yes"],
    )


def caption(image_id: str, prediction: str) -> dict:
    references = CAPTIONS[image_id]
    return dict(task="caption", image_id=image_id, prediction=prediction, references=references)


def evaluate(metric, samples: list[dict]) -> dict:
    for i in range(0, len(samples), 2):
        metric.process(None, samples[i : i + 2])
    return metric.evaluate(len(samples))


def test_accuracy_with_interval_and_relations() -> None:
    samples = [statement(i, i % 2, 1, "left of" if i < 4 else "behind") for i in range(10)]
    samples[0]["prediction"] = 0
    metric = METRICS.build(dict(type="StatementAccuracy"))
    scores = evaluate(metric, samples)
    assert scores["vsr/accuracy"] == pytest.approx(0.6)
    assert scores["vsr/accuracy_low"] < 0.6 < scores["vsr/accuracy_high"]
    assert scores["vsr/num_statements"] == 10
    assert scores["vsr/yes_rate"] == pytest.approx(0.9)
    assert scores["vsr/relation/left of"] == pytest.approx(0.75)
    assert scores["vsr/relation/behind"] == pytest.approx(0.5)
    assert sum(metric.item_scores.values()) == 6


def test_statements_of_one_image_count_together_in_the_interval() -> None:
    """Four statements an image, right or wrong together: the interval is that of 30 images."""
    samples = [
        statement(i, 1, int(i % 3 > 0)) | dict(prompt=f"statement {i} {j}")
        for i in range(30)
        for j in range(4)
    ]
    scores = evaluate(StatementAccuracy(), samples)
    by_image = wilson_interval(20, 30)
    found = scores["vsr/accuracy_low"], scores["vsr/accuracy_high"]
    assert found == pytest.approx((by_image.low, by_image.high))
    assert scores["vsr/num_statements"] == 120


def test_answers_are_scored_by_place_in_the_list() -> None:
    samples = [{**statement(i, 3, 3 if i else 5), "task": "question"} for i in range(4)]
    samples += [{**statement(9, -1, 0), "task": "question"}, statement(10, 1, 1)]
    scores = evaluate(METRICS.build(dict(type="AnswerAccuracy")), samples)
    assert scores["vqa/accuracy"] == pytest.approx(3 / 5)
    assert scores["vqa/num_questions"] == 5
    assert "vqa/yes_rate" not in scores


def test_one_evaluation_loop_can_hold_both_metrics() -> None:
    samples = [statement(0, 1, 1), caption("1", "a man on a horse"), statement(1, 0, 1)]
    samples += [caption("2", "two dogs"), dict(task="image", image_id="x", prediction=None)]
    evaluator = Evaluator([StatementAccuracy(per_relation=False), CaptionScore()])
    evaluator.process(samples)
    scores = evaluator.evaluate(len(samples))
    assert scores["vsr/num_statements"] == 2
    assert scores["caption/num_images"] == 2
    assert scores["vsr/accuracy"] == 0.5


def test_a_metric_without_samples_of_its_task_reports_nothing() -> None:
    assert evaluate(StatementAccuracy(), [caption("1", "a man")]) == {}
    assert evaluate(CaptionScore(), [statement(0, 1, 1)]) == {}


def test_skipped_and_repeated_samples_do_not_count() -> None:
    samples = [statement(0, 1, 1), statement(1, 1, 0), statement(1, 1, 0)]
    samples.append(statement(2, 1, 0) | dict(skipped=True))
    scores = evaluate(StatementAccuracy(), samples)
    assert (scores["vsr/accuracy"], scores["vsr/num_statements"]) == (0.5, 2)
    captions = [caption("1", "a man"), caption("1", "a man"), caption("2", "x") | {"skipped": True}]
    assert evaluate(CaptionScore(), captions)["caption/num_images"] == 1


@pytest.mark.parametrize(
    ("metric_type", "name", "count"),
    [(StatementAccuracy, "num_statements", 4), (CaptionScore, "num_images", 3)],
)
def test_uneven_tasks_over_processes_lose_no_item(metric_type, name, count) -> None:
    """As mmengine merges: one result of each process in turn, then cut to the data set's size."""
    samples = [statement(i, 1, 1) for i in range(4)] + [caption(k, "a man") for k in "123"]
    ranks = [metric_type(), metric_type()]
    padded = [*samples, samples[0]]
    for rank, metric in enumerate(ranks):
        metric.process(None, padded[rank::2])
    merged = list(itertools.chain(*zip(*(m.results for m in ranks), strict=True)))[: len(samples)]
    assert ranks[0].compute_metrics(merged)[name] == count


def test_caption_scores_are_those_of_the_coco_scorers(capsys) -> None:
    perfect = [caption(key, texts[0].upper() + " !") for key, texts in CAPTIONS.items()]
    best = evaluate(CaptionScore(), perfect)
    poor = [caption(key, "a dog on a plate") for key in CAPTIONS]
    metric = CaptionScore()
    worst = evaluate(metric, poor)
    assert best["caption/BLEU_4"] == pytest.approx(1.0)
    assert best["caption/CIDEr"] > 4 > 1 > worst["caption/CIDEr"] >= 0
    assert worst["caption/CIDEr_low"] <= worst["caption/CIDEr"] <= worst["caption/CIDEr_high"]
    assert worst["caption/BLEU_1"] > worst["caption/BLEU_4"]
    mean = sum(metric.item_scores.values()) / 3
    assert mean == pytest.approx(worst["caption/CIDEr"])
    assert capsys.readouterr().out == ""


def test_the_bootstrap_of_captions_is_that_of_the_config() -> None:
    captions = [caption(key, texts[0]) for key, texts in CAPTIONS.items()]
    captions[0]["prediction"] = "a man on a horse"
    metric = CaptionScore(num_resamples=50, seed=3)
    scores = evaluate(metric, captions)
    values = list(metric.item_scores.values())
    expected = bootstrap_interval(values, 50, 3)
    assert (scores["caption/CIDEr_low"], scores["caption/CIDEr_high"]) == (
        expected.low,
        expected.high,
    )
    assert expected != bootstrap_interval(values, 50, 0)
    assert expected != bootstrap_interval(values, 2000, 3)


def test_items_of_two_arms_can_be_paired() -> None:
    ours, baseline = CaptionScore(), CaptionScore()
    evaluate(ours, [caption(key, texts[0]) for key, texts in CAPTIONS.items()])
    evaluate(baseline, [caption(key, "a dog") for key in CAPTIONS])
    assert paired_interval(ours.item_scores, baseline.item_scores).low > 0


def test_an_empty_prediction_scores_zero() -> None:
    scores = evaluate(CaptionScore(), [caption("1", ""), caption("2", "...")])
    assert scores["caption/CIDEr"] == 0


# What pycocoevalcap's Java tokenizer gives for the same captions.
PENN_TREEBANK = {
    "A man's dog doesn't like the cat.": "a man 's dog does n't like the cat",
    "A black-and-white photo of a t-shirt!": "a black-and-white photo of a t-shirt",
    "Two people (a man & a woman) at 10:30, $5.00 each; 50% off": (
        "two people -lrb- a man & a woman -rrb- at 10:30 $ 5.00 each 50 % off"
    ),
    "it's o'clock -- 3 o'clock...": "it 's o'clock 3 o'clock",
    "The U.S. flag, Mr. Smith's house.": "the u.s. flag mr. smith 's house",
    "I can't, won't, cannot gonna wanna": "i ca n't wo n't can not gon na wan na",
    "a \"quoted\" sign that says 'stop'": "a quoted sign that says stop",
    "the ball/box is left-of the box?": "the ball/box is left-of the box",
    "A café in São Paulo": "a café in são paulo",
    "3D printer 2-story mid-air 1/2": "3d printer 2-story mid-air 1/2",
    "a man,and a dog.The end": "a man and a dog.the end",
    "two- story ,, - \u2013  \u2014 \u2026": "two story",
    "it\u2019s \u201cnice\u201d": "it 's nice",
}


@pytest.mark.parametrize("text", PENN_TREEBANK)
def test_words_are_those_of_the_penn_treebank_tokenizer(text) -> None:
    assert caption_words(text) == PENN_TREEBANK[text]
