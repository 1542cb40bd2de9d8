"""Questions with a list of answers."""

import json

import pytest
from PIL import Image

from tove.errors import ConfigError
from tove.registry import DATASETS

ROWS = [
    {"image": "a.png", "question": "how many\n balls ?", "answer": "two", "relation": "count"},
    {"image": "a.png", "question": "what is left ?", "answer": "the  ball"},
    {"image": "b.png", "question": "how many boxes ?", "answer": "two"},
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / "images" / name)
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.jsonl", [{**ROWS[2], "answer": "nine"}, ROWS[0]])
    return tmp_path


def write(path, rows) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")


def build(root, **options):
    settings = dict(type="Questions", data_root=str(root), ann_file="train.jsonl", image_size=16)
    return DATASETS.build({**settings, **options})


def samples(data) -> list[dict]:
    return [data[index]["sample"] for index in range(len(data))]


def test_answers_are_ranked_over_the_files_own_most_frequent_first(root):
    first, second, third = samples(build(root))
    assert (first["task"], first["prompt"], first["target"]) == (
        "question",
        "how many balls ?",
        "two",
    )
    assert first["candidates"] == ["two", "the ball"]
    assert [first["label"], second["label"], third["label"]] == [0, 1, 0]
    assert [first["relation"], second["relation"]] == ["count", "unknown"]


def test_the_training_splits_answers_serve_another_split(root):
    data = build(
        root, ann_file="test.jsonl", answers="train.jsonl", prompt="q {question} a", test_mode=True
    )
    unseen, seen = samples(data)
    assert unseen["candidates"] == ["two", "the ball"]
    assert unseen["label"] == -1  # can only be answered wrong
    assert (seen["label"], seen["prompt"]) == (0, "q how many balls ? a")
    assert samples(build(root, answers=["red", "two"]))[0]["label"] == 1
    assert samples(build(root, max_answers=1))[1]["label"] == -1


def test_mistakes_are_sentences(root):
    with pytest.raises(ConfigError, match="lacks the field"):
        build(root, prompt="?")
    with pytest.raises(ConfigError, match="is empty"):
        build(root, answers=[])
    with pytest.raises(ConfigError, match=r"no annotation file '.*missing\.jsonl'"):
        build(root, answers="missing.jsonl")
    write(root / "train.jsonl", [*ROWS, {"image": "a.png", "question": "who ?"}])
    with pytest.raises(ConfigError, match=r"Line 4 .* is not a question: .*'answer'"):
        build(root)


def test_a_long_list_of_answers_is_kept_once_whatever_the_number_of_questions(root):
    answers = [f"answer number {number}" for number in range(3000)]
    write(root / "many.jsonl", [ROWS[0]] * 100)
    data = build(root, ann_file="many.jsonl", answers=answers)
    assert data.data_bytes.nbytes < 100 * 1000  # VQAv2's 200,000 would take gigabytes a process
    assert data[99]["sample"]["candidates"] == answers
