"""One reader of an image processor's file, whoever wrote it and whatever it leaves out."""

import json

import pytest

from tove_plugins.image_processor import read_image_processor

HALF, UNIT = (0.5, 0.5, 0.5), (0.0, 1.0)


@pytest.fixture
def read(tmp_path):
    def write_and_read(name="preprocessor_config.json", **entries):
        (tmp_path / name).write_text(json.dumps(entries))
        return read_image_processor(tmp_path)

    return write_and_read


def test_a_folder_without_the_file_says_nothing(tmp_path):
    assert read_image_processor(tmp_path) is None


def test_the_nested_file_of_transformers_5_is_read_and_goes_first(read):
    assert read("processor_config.json", processor_class="CLIPProcessor") is None  # transformers 4
    assert read(image_mean=HALF).mean == HALF
    nested = {"image_mean": [0.1, 0.2, 0.3], "image_std": 0.25, "size": {"shortest_edge": 64}}
    found = read("processor_config.json", image_processor=nested)
    assert (found.file.name, found.mean) == ("processor_config.json", (0.1, 0.2, 0.3))
    assert (found.std, found.size) == ((0.25,) * 3, (64, 64))


def test_what_is_left_out_or_null_is_none(read):
    found = read(image_mean=None, image_std=None, size=None, resample=None, do_normalize=None)
    said = (found.mean, found.std, found.size, found.interpolation)
    assert said == (None,) * 4
    assert (found.value_range, found.normalises) == (UNIT, True)


def test_without_normalisation_mean_is_0_and_std_1(read):
    found = read(do_normalize=False, image_mean=HALF, image_std=HALF)
    assert (found.mean, found.std, found.normalises) == ((0, 0, 0), (1, 1, 1), False)


@pytest.mark.parametrize(
    ("entries", "white"),
    [({}, 1), ({"do_rescale": False}, 255), ({"rescale_factor": 1 / 127.5}, 2)],
)
def test_rescaling_tells_what_white_is(read, entries, white):
    assert read(**entries).value_range == (0, white)


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"height": 30, "width": 40}}, (30, 40)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, (224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224}, (256, 256)),
        ({"size": {"longest_edge": 800}}, None),
    ],
)
def test_the_size_is_what_the_network_is_handed(read, entries, size):
    assert read(**entries).size == size


def test_pillows_number_becomes_a_name(read):
    names = [read(resample=number).interpolation for number in (2, 3, 0)]
    assert names == ["bilinear", "bicubic", None]


@pytest.mark.parametrize("text", ["{", "[1]", '{"image_mean": [1, 2]}', '{"size": "big"}'])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json .* again"):
        read_image_processor(tmp_path)
