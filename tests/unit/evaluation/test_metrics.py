import itertools
import json
import shutil
import unicodedata
from pathlib import Path

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


def test_a_benchmark_s_statements_are_scored_by_themselves() -> None:
    near = [{**statement(i, 1, 1), "benchmark": "near"} for i in range(4)]
    far = [{**statement(i, 1, 0), "benchmark": "far"} for i in range(2)]
    parts = [StatementAccuracy(prefix=name, benchmark=name) for name in ("near", "far")]
    scores = Evaluator([*parts, StatementAccuracy()])
    scores.process([*near, *far])
    found = scores.evaluate(6)
    assert (found["near/accuracy"], found["near/num_statements"]) == (1.0, 4)
    assert (found["far/accuracy"], found["far/num_statements"]) == (0.0, 2)
    assert found["vsr/num_statements"] == 4  # the others are the same items again


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
    samples = [sample | dict(candidates=list("abcdef")) for sample in samples]
    samples += [{**statement(9, -1, 0), "task": "question"}, statement(10, 1, 1)]
    scores = evaluate(METRICS.build(dict(type="AnswerAccuracy")), samples)
    assert scores["vqa/accuracy"] == pytest.approx(3 / 5)
    assert scores["vqa/num_questions"] == 5
    assert "vqa/yes_rate" not in scores


def test_a_constant_answer_is_told(log) -> None:
    scores = evaluate(StatementAccuracy(), [statement(i, int(i > 5), 0) for i in range(10)])
    assert (scores["vsr/top_answer_share"], scores["vsr/yes_rate"]) == (1.0, 0.0)
    told = "All 10 statements were answered 'no', so the accuracy of 0.600 is that answer's share"
    assert [r for r in log if r.getMessage().startswith(told)]


def test_answers_that_differ_are_not_called_constant(log) -> None:
    metric = METRICS.build(dict(type="AnswerAccuracy", per_relation=False))
    samples = [{**statement(i, 0, int(i == 3)), "task": "question"} for i in range(4)]
    log.clear()
    assert evaluate(metric, samples)["vqa/top_answer_share"] == 0.75
    assert evaluate(StatementAccuracy(), [statement(0, 0, 0)])["vsr/top_answer_share"] == 1.0
    assert not log  # one answer is no constant one


def test_the_same_answer_in_lists_of_two_orders_is_one_answer() -> None:
    samples = [statement(0, 0, 1), {**statement(1, 0, 0), "candidates": ["yes", "no"]}]
    assert evaluate(StatementAccuracy(), samples)["vsr/top_answer_share"] == 1.0


def test_a_statement_twice_in_a_file_counts_twice_and_a_sampler_s_repeat_once() -> None:
    first = statement(1, 1, 1) | dict(source_id=1)
    again = statement(1, 1, 0) | dict(source_id=7)
    metric = StatementAccuracy()
    scores = evaluate(metric, [first, again, first, statement(2, 1, 1) | dict(source_id=2)])
    assert (scores["vsr/num_statements"], scores["vsr/accuracy"]) == (3, pytest.approx(2 / 3))
    assert len(metric.item_scores) == 3


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


# What pycocoevalcap's Java tokenizer gives for these captions, letters composed.
PENN_TREEBANK = json.loads(Path(__file__).with_name("penn_treebank.json").read_text())


@pytest.mark.parametrize("text", PENN_TREEBANK)
def test_words_are_those_of_the_penn_treebank_tokenizer(text) -> None:
    assert caption_words(text) == PENN_TREEBANK[text]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer needs Java")
def test_the_penn_treebank_tokenizer_itself_says_the_same() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {number: [dict(caption=text)] for number, text in enumerate(PENN_TREEBANK)}
    tokens = PTBTokenizer().tokenize(captions)
    assert [unicodedata.normalize("NFC", words) for (words,) in tokens.values()] == [
        *PENN_TREEBANK.values()
    ]


# What Java leaves out or cuts, we keep: marks that its tables of 2014 do not know.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u0c95\u0ca8\u0ccd\u0ca8\u0ca1 .", "\u0c95\u0ca8\u0ccd\u0ca8\u0ca1"),
        ("\u1001\u103b\u102d\u102f", "\u1001\u103b\u102d\u102f"),
        ("L'e\u0301te\u0301 !", "l'\u00e9t\u00e9"),
    ],
)
def test_combining_marks_belong_to_their_letter(text, words) -> None:
    assert caption_words(text) == words


PERFECT = {
    "french": [
        "Un \u00e9l\u00e8ve \u00e9crit \u00e0 c\u00f4t\u00e9",
        "Une fen\u00eatre o\u00f9 l'\u00e9t\u00e9 br\u00fble d\u00e9j\u00e0",
    ],
    "hindi": [
        "\u090f\u0915 \u0906\u0926\u092e\u0940 \u0918\u094b\u0921\u093c\u0947 \u092a\u0930",
        "\u0926\u094b \u0915\u0941\u0924\u094d\u0924\u0947 \u0926\u094b \u0915\u0947",
    ],
}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("captions", PERFECT.values(), ids=PERFECT)
def test_a_perfect_caption_scores_ten_in_either_form_of_unicode(captions, form) -> None:
    samples = [
        dict(
            task="caption",
            image_id=str(number),
            prediction=text,
            references=[unicodedata.normalize(form, text)],
        )
        for number, text in enumerate(captions)
    ]
    assert evaluate(CaptionScore(), samples)["caption/CIDEr"] == pytest.approx(10.0)


def test_a_single_image_is_told_to_have_no_cider(log) -> None:
    scores = evaluate(CaptionScore(), [caption("1", CAPTIONS["1"][0])])
    assert scores["caption/CIDEr"] == 0
    assert [r for r in log if "CIDEr of a single image is 0" in r.getMessage()]
    log.clear()
    evaluate(CaptionScore(), [caption("1", "a man"), caption("2", "a dog")])
    assert not log


@pytest.mark.parametrize(("match", "right"), [("exact", 2), ("contains", 3)])
def test_answers_in_words_are_compared_by_their_words_and_told_by_kind(match, right) -> None:
    said = [("Two.", "two"), ("the Red ball", "red ball"), ("It is red, I think", "red"), ("", "3")]
    said.append(("reddish", "red"))
    samples = [
        dict(
            task="conversation",
            image_id="a",
            source_id=number,
            relation="colour" if number else "count",
            conversations=[
                {"from": "human", "value": "What?"},
                {"from": "gpt", "value": reference},
            ],
            prediction=answer,
        )
        for number, (answer, reference) in enumerate(said)
    ]
    metric = METRICS.build(dict(type="ConversationAccuracy", match=match))
    scores = evaluate(metric, [*samples, statement(1, 1, 1)])
    assert scores["chat/accuracy"] == right / 5
    assert scores["chat/num_conversations"] == 5
    assert scores["chat/relation/count"] == 1
    assert scores["chat/relation/colour"] == (right - 1) / 4
    assert scores["chat/accuracy_low"] < scores["chat/accuracy"] < scores["chat/accuracy_high"]
    assert list(metric.item_scores) == [f"a | What? | {number}" for number in range(5)]
