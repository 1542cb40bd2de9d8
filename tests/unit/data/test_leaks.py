"""Images that are trained on as well as tested on."""

import shutil

import pytest
from mmengine.dataset import ConcatDataset, RepeatDataset

from tove.data.leaks import image_ids, leaks


def rows(*numbers: int) -> list[dict]:
    return [dict(image=f"{number}.png", caption="It is red.", label=1) for number in numbers]


@pytest.fixture
def splits(photos):
    def make(**numbers):
        return {name: photos(rows(*some), "VSRStatements") for name, some in numbers.items()}

    return make


def test_an_image_in_two_splits_is_counted(splits):
    built = splits(train=(0, 1, 2), val=(3,), test=(2, 3, 1, 1))
    (told,) = leaks({name: image_ids(data) for name, data in built.items()})
    assert told.startswith("2 of the 3 images of the test split are trained on as well, first ")
    assert "1.png;" in told


def test_a_copy_under_another_name_is_the_same_image(splits, tmp_path):
    shutil.copy(tmp_path / "images/0.png", tmp_path / "images/3.png")
    built = splits(train=(0, 1), test=(2, 3))
    ids = {name: image_ids(data) for name, data in built.items()}
    (told,) = leaks(ids)
    assert told.startswith("1 of the 2 images of the test split")
    assert told.index("3.png") < told.index("0.png in training")
    assert leaks(ids, files=3) == []


def test_splits_apart_say_nothing(splits):
    built = splits(train=(0, 1), val=(2,), test=(3,))
    assert leaks({name: image_ids(data) for name, data in built.items()}) == []
    assert leaks({"test": ["a"]}) == []


def test_wrapped_data_sets_are_looked_into(splits):
    built = splits(train=(0, 1), val=(2,))
    assert len(image_ids(ConcatDataset([built["train"], built["val"]]))) == 3
    assert image_ids(RepeatDataset(built["train"], times=2)) == image_ids(built["train"])
