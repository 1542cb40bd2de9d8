"""Annotation files: what would change the data without a word is refused, or counted."""

import json
import logging
import pickle

import pytest

from tove.data.annotations import Texts
from tove.errors import ConfigError


def coco(images, captions) -> dict:
    """Image ids and file names; image ids and captions."""
    return dict(
        images=[dict(id=identity, file_name=name) for identity, name in images],
        annotations=[dict(image_id=identity, caption=text) for identity, text in captions],
    )


def samples(data) -> list[dict]:
    return [data.get_data_info(index) for index in range(len(data))]


def captions_of(data) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample in samples(data):
        found.setdefault(sample["image_path"][-5:], []).append(sample["target"])
    return found


def said(log) -> list[str]:
    warnings = [record for record in log if record.levelno == logging.WARNING]
    return [record.getMessage().partition(": ")[2] for record in warnings]


def test_ids_that_restart_where_files_were_put_together_are_refused(photos):
    images = [(1, "0.png"), (2, "1.png"), (1, "2.png"), (2, "3.png")]
    with pytest.raises(ConfigError, match=r"2 of the 4 images .* the id of another .*, 1, 2; give"):
        photos(coco(images, [(1, "a"), (2, "b"), (1, "c"), (2, "d")]))


def test_a_photo_under_two_ids_or_named_again_is_one_photo(photos, log):
    images = [(1, "0.png"), (2, "0.png"), (3, "1.png"), (3, "1.png"), (4, "./1.png")]
    content = coco(images, [(3, "x"), (1, "a"), (2, "b"), (4, "y")])
    assert captions_of(photos(content)) == {"0.png": ["a", "b"], "1.png": ["x", "y"]}
    told = "3 images are listed again and taken as one with the first, '0.png', '1.png', './1.png'."
    assert told in said(log)
    tested = samples(photos(content, test_mode=True))
    assert [sample["references"] for sample in tested] == [["a", "b"], ["x", "y"]]


def test_ids_of_two_kinds_are_refused(photos):
    images = [(1, "0.png"), ("2", "1.png")]
    with pytest.raises(ConfigError, match=r"1 of 2 images and 1 of 3 annotations have a text"):
        photos(coco(images, [(1, "a"), ("2", "b"), (2, "c")]))
    with pytest.raises(ConfigError, match=r"0 of 1 images and 1 of 1 annotations have a text"):
        photos(coco(images[:1], [("1", "a")]))
    assert captions_of(photos(coco([("x", "0.png")], [("x", "a")]))) == {"0.png": ["a"]}


def test_annotations_and_images_that_are_left_over_are_counted(photos, log):
    images = [(1, "0.png"), (2, "1.png"), (3, "2.png")]
    content = coco(images, [(9, "lost"), (2, "b"), (8, "lost"), (2, "  "), (2, "c")])
    assert captions_of(photos(content)) == {"1.png": ["b", "c"]}
    assert said(log) == [
        "2 annotations belong to no image and are left out, 9, 8.",
        "1 captions are empty and are left out.",
        "2 images have no caption of their own and are left out.",
    ]
    with pytest.raises(ConfigError, match=r"None of the 2 annotations .* its 3 images"):
        photos(coco(images, [(9, "a"), (8, "b")]))


@pytest.mark.parametrize(
    ("image", "caption"),
    [
        ((1, None), (1, "a")),
        ((1, 7), (1, "a")),
        ((1, "\udce9.png"), (1, "a")),
        ((True, "0.png"), (1, "a")),
        ((1.0, "0.png"), (1, "a")),
        ((None, "0.png"), (1, "a")),
        ((1, "0.png"), (None, "a")),
        ((1, "0.png"), (1, None)),
        ((1, "0.png"), (1, "half a letter \ud83d")),
        ((1, "0.png"), (1, ["a"])),
    ],
)
def test_an_entry_of_a_wrong_kind_is_refused_with_its_number(photos, image, caption):
    content = coco([(5, "1.png"), image], [(5, "b"), caption])
    with pytest.raises(ConfigError, match=r"1 of its 2 (images|annotations) lack .* number 2, "):
        photos(content)


def test_deep_nesting_is_a_sentence(photos):
    with pytest.raises(ConfigError, match="nested too deeply"):
        photos("[" * 100_000)
    with pytest.raises(ConfigError, match=r"Line 1 .*nested too deeply"):
        photos("[" * 100_000, "VSRStatements")


def test_captions_come_in_the_order_of_the_images_and_then_of_the_file(photos):
    content = coco([(2, "1.png"), (1, "0.png")], [(1, "c"), (2, "a"), (1, "d"), (2, "b")])
    assert captions_of(photos(content)) == {"1.png": ["a", "b"], "0.png": ["c", "d"]}
    first = photos(content, max_samples=3)
    assert (len(first), first.num_images) == (3, 2)
    assert first[2]["sample"]["references"] == ["c", "d"]
    with pytest.raises(IndexError):
        first.data_list[3]


def test_a_changed_file_is_read_again(photos):
    assert captions_of(photos(coco([(1, "0.png")], [(1, "a")]))) == {"0.png": ["a"]}
    assert captions_of(photos(coco([(1, "0.png")], [(1, "bb")]))) == {"0.png": ["bb"]}


def statement(label, image="0.png", caption="It is red.") -> dict:
    return dict(image=image, caption=caption, label=label)


@pytest.mark.parametrize("label", [0.3, 0.9, 1.7, -0.5, 2, -1, float("nan"), "yes", None, [1]])
def test_a_label_that_is_neither_0_nor_1_is_refused(photos, label):
    with pytest.raises(ConfigError, match=r"Line 2 of .* is not a VSR statement"):
        photos([statement(1), statement(label)], "VSRStatements")


def test_labels_are_read_in_every_spelling_of_0_and_1(photos):
    rows = [statement(label, caption=str(label)) for label in (0, 1, False, True, 0.0, 1.0, "1")]
    data = photos(rows, "VSRStatements")
    assert [sample["label"] for sample in samples(data)] == [0, 1, 0, 1, 0, 1, 1]


@pytest.mark.parametrize("image", [None, 7, "\udce9.png", ["0.png"]])
@pytest.mark.parametrize("kind", ["VSRStatements", "Questions"])
def test_an_image_that_is_no_file_name_is_refused(photos, kind, image):
    row = {**statement(1, image), "question": "what ?", "answer": "ball"}
    with pytest.raises(ConfigError, match=r"Line 1 of .*image is .*, but must be a text"):
        photos([row], kind)


def test_statements_that_occur_again_are_counted(photos, log):
    rows = [statement(1), statement(1), statement(0), statement(1, "1.png")]
    assert len(photos(rows, "VSRStatements")) == 4
    assert said(log) == [
        "2 statements occur again about the same image; each counts.",
        "1 statements are labelled true as well as false; both count.",
    ]


def test_texts_keep_every_letter():
    letters = ["", "a b", "\u00e9\u0301", "\U0001f600", "\udce9.png", "last"]
    for texts in (Texts(letters), pickle.loads(pickle.dumps(Texts(letters)))):
        assert [*texts] == letters
        assert (texts[-1], texts[1:3]) == ("last", letters[1:3])
    with pytest.raises(IndexError):
        Texts([])[0]


def test_a_mark_of_byte_order_is_no_fault(photos):
    text = json.dumps(coco([(1, "0.png")], [(1, "a")]))
    assert len(photos("\ufeff" + text)) == 1


PHOTO = '"images": [{"id": 1, "file_name": "0.png"}]'


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("CocoCaptions", "{" + PHOTO + "}"),
        ("CocoCaptions", "{" + PHOTO + ', "annotations": {"1": "a"}}'),
        ("CocoCaptions", "{" + PHOTO + ', "annotations": [null]}'),
        ("CocoCaptions", "{" + PHOTO + ', "annotations": [{"image_id": 1, "bbox": [1, 2]}]}'),
        ("CocoCaptions", "{" + PHOTO + ', "annotations": [{"image_id": [1], "caption": "a"}]}'),
        ("CocoCaptions", "{" + PHOTO + ', "annotations": [{"image_id": NaN, "caption": "a"}]}'),
        ("CocoCaptions", '{"images": [{"id": %s}], "annotations": []}' % ("1" * 5000)),
        ("CocoCaptions", '{"images": {"1": "0.png"}, "annotations": []}'),
        ("VSRStatements", '[{"image": "0.png", "caption": "a", "label": 1}]'),
        ("VSRStatements", '{"image": "0.png", "caption": " . ", "label": 1}'),
        ("VSRStatements", '{"image": "0.png", "caption": "a", "label": {}}'),
        ("VSRStatements", '{"image": "a\\u0000.png", "caption": "a", "label": 1}'),
        ("VSRStatements", '{"image": "", "caption": "a", "label": 1}'),
        ("Questions", '{"image": "0.png", "question": "a ?", "answer": " "}'),
        ("Questions", '{"image": "0.png", "question": "a ?", "answer": 2}'),
        (
            "Questions",
            '{"image": "0.png", "question": "a ?", "answer": "b", "n": %s}' % ("1" * 5000),
        ),
    ],
)
def test_a_file_of_another_shape_is_a_sentence(photos, kind, text):
    with pytest.raises(ConfigError, match=r"annotations\.json' is not a "):
        photos(text, kind)


@pytest.mark.parametrize("name", ["", ".", "a" * 5000, "../images"])
def test_names_that_can_be_no_file_count_as_missing(photos, name):
    with pytest.raises(ConfigError, match=r"1 of the 1 images .* are not in"):
        photos(coco([(1, name)], [(1, "a")]), corrupt_limit=0)


def test_captions_go_to_worker_processes_of_any_kind(photos):
    data = photos(coco([(1, "0.png"), (2, "1.png")], [(2, "b"), (1, "a"), (2, "c")]))
    assert samples(pickle.loads(pickle.dumps(data))) == samples(data)


def test_no_caption_is_kept_twice(photos):
    text = "a long caption " * 200
    content = coco([(1, "0.png")], [(1, f"{text} {number}") for number in range(50)])
    data = photos(content)
    assert data[7]["sample"]["references"][49] == f"{text}49"
    assert len(pickle.dumps(data)) < 2 * len(json.dumps(content))  # not 50 times
