"""The answers of an evaluation as a file and as a page."""

import json
from html.parser import HTMLParser

import pytest
from mmengine.config import Config
from PIL import Image

from tests.unit.evaluation.test_metrics import caption, statement
from tove.evaluation import AnswerLog
from tove.evaluation.accuracy import ConversationAccuracy, StatementAccuracy
from tove.evaluation.caption import CaptionScore
from tove.report.answers_page import write_answers_page


class Cards(HTMLParser):
    """Words of the cards by section, with the class of each answer."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.verdicts: list[str] = []
        self._section = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "section":
            self._section = given["id"]
        if given.get("class") in ("right", "wrong"):
            self.verdicts.append(given["class"])

    def handle_data(self, data):
        if data.strip():
            self.found.setdefault(self._section, []).append(data.strip())


@pytest.fixture
def write(tmp_path):
    def make(answers, metrics=None, **settings):
        (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
        row = dict(metrics=metrics or {}, stage="transfer", model="ToVE")
        (tmp_path / "vsr_random.py").touch()
        given = dict(table_metrics=["vsr/accuracy"], **settings)
        cfg = Config(given, filename=str(tmp_path / "vsr_random.py"))
        page = write_answers_page(cfg, row, tmp_path).read_text()
        return page, Cards(page)

    return make


def answer(number, score, said="cat", **more):
    scores = {} if score is None else {"vsr/accuracy": score}
    base = dict(item=str(number), image_path="gone.jpg", view="crop", asked=f"What is {number}?")
    return (
        base
        | dict(said=said, right=["cat"] * 7 + ["dog"], parts=["kind/pet"], scores=scores)
        | more
    )


def test_errors_and_right_answers_are_apart_with_their_images(write, tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "1.png")
    answers = [answer(0, 1.0), answer(1, 0.0, "<dog>", image_path=str(tmp_path / "1.png"))]
    answers += [answer(2, 0.3, ""), answer(3, 0.6)]
    metrics = {"vsr/accuracy": dict(value=0.475, low=0.1, high=0.9)}
    metrics["vsr/relation/left of"] = dict(value=0.25)
    page, cards = write(answers, metrics)
    errors, right = " ".join(cards.found["errors"]), " ".join(cards.found["right"])
    assert "What is 1?" in errors
    assert "(nothing)" in errors
    assert "What is 3?" in right
    assert "7 x cat / dog [pet]" in right
    assert cards.verdicts == ["wrong", "wrong", "right", "right"]
    assert {"accuracy", "relation left of", "0.250"} <= set(cards.found["scores"])
    assert page.count("data:image/png") == 1  # another image has moved
    assert "&lt;dog&gt;" in page
    assert "vsr/accuracy 0.475 [0.10, 0.90]" in page


def test_some_are_shown_of_many_and_none_is_picked(write):
    page, cards = write([answer(n, 0.0) for n in range(500)], report=dict(num_examples=10))
    shown = [text for text in cards.found["errors"] if text.startswith("What")]
    assert shown == [f"What is {n}?" for n in range(0, 500, 50)]
    assert "10 of 500" in page


def test_captions_have_halves_and_a_server_s_split_no_verdict(write):
    _, cards = write([answer(n, None, scores={"caption/CIDEr": n / 2}) for n in range(5)])
    assert sum(text.startswith("What") for text in cards.found["lower"]) == 2
    assert not cards.verdicts
    _, cards = write([answer(n, None, right=[]) for n in range(2)])
    assert "not known [pet]" in cards.found["answers"]


def test_the_log_finds_the_scores_that_metrics_gave():
    said = dict(
        task="conversation",
        image_id="a",
        source_id=1,
        relation="count",
        conversations=[dict(value="How many?"), dict(value="two")],
        prediction="Two.",
    )
    samples = [
        statement(1, 1, 1) | dict(statement="The cat is left.", target="yes", source_id=4),
        statement(2, 1, 0) | dict(skipped=True),
        caption("1", "a man riding a horse") | dict(prompt="a picture of"),
        caption("2", "x") | dict(prompt="a picture of"),
        said,
        said,
        dict(task="image", image_id="b", prediction=None),
    ]
    log = AnswerLog()
    items = {}
    for metric in (log, StatementAccuracy(), CaptionScore(), ConversationAccuracy()):
        metric.process(None, samples)
        metric.evaluate(len(samples))
        if metric is not log:
            items[f"{metric.prefix}/{metric.item_metric}"] = metric.item_scores
    one, two, three, four = log.scored(items)
    assert (one["asked"], one["said"], one["right"]) == ("The cat is left.", "yes", ["yes"])
    assert one["scores"] == {"vsr/accuracy": 1.0}
    assert one["parts"] == ["left of"]
    assert len(two["right"]) == 2
    assert two["scores"]["caption/CIDEr"] > 0 == three["scores"]["caption/CIDEr"]
    assert (four["asked"], four["right"]) == ("How many?", ["two"])
    assert four["scores"] == {"chat/accuracy": 1.0}
