"""Crops and mirrored images whose tokens can be kept: each view comes again, to the bit."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from tove.data import load_image
from tove.data.augmentation import Augmentation
from tove.data.image_io import Crop, decoded_side, shared_view
from tove.data.known_views import KnownViews, file_views, view_key
from tove.errors import ConfigError
from tove.modules.view_key import view_digest
from tove.registry import DATASETS

SETTINGS = dict(views=4, scale=(0.3, 0.8), flip=0.5)


@pytest.fixture
def root(tmp_path):
    """A folder with five photos."""
    folder = tmp_path / "photos" / "images"
    (folder / "inner").mkdir(parents=True)
    for number in range(5):
        noise = np.random.default_rng(number).integers(0, 256, (60, 80 + number, 3))
        name = f"inner/{number}.png" if number % 2 else f"{number}.png"
        Image.fromarray(noise.astype(np.uint8)).save(folder / name)
    return tmp_path / "photos"


def build(root, augment=None, **options):
    own = dict(type="UnlabelledImages", data_root=str(root), image_size=16, augment=augment)
    return DATASETS.build({**own, **options})


def test_each_view_is_a_sample_and_the_first_is_the_plain_one(root) -> None:
    plain, data = build(root), build(root, SETTINGS)
    assert (len(plain), len(data), data.num_images) == (5, 20, 5)
    for index in range(5):
        views = torch.stack([data[index + 5 * number]["image"] for number in range(4)])
        assert views[0].equal(plain[index]["image"])
        assert views[1].equal(data.image_views(index)[1][1])
        assert len({view_digest(view) for view in views}) == 4
        ids = {data[index + 5 * number]["sample"]["image_id"] for number in range(4)}
        assert ids == {plain[index]["sample"]["image_id"]}


def test_views_are_those_of_any_process_folder_and_order(root, tmp_path) -> None:
    first = build(root, SETTINGS)
    views = [first[index]["image"] for index in range(len(first))]
    moved = root.rename(tmp_path / "elsewhere")
    again = build(moved, {**SETTINGS, "views": 6}, keep_decoded_gb=0.01)
    for index in reversed(range(20)):
        assert torch.equal(again[index]["image"], views[index])
        assert torch.equal(again[index]["image"], views[index])  # kept in memory, too
    other = build(moved, {**SETTINGS, "seed": 1})
    same = [torch.equal(other[index]["image"], views[index]) for index in range(20)]
    assert same == [True] * 5 + [False] * 15


def test_evaluation_sees_the_plain_view_alone(root) -> None:
    data = build(root, SETTINGS, test_mode=True)
    assert len(data) == 5
    assert torch.equal(data[3]["image"], build(root)[3]["image"])


def test_draws_keep_to_their_ranges_and_fill_them() -> None:
    augmentation = Augmentation(views=2, scale=(0.2, 0.6), ratio=(0.5, 2.0), flip=0.25)
    crops = [augmentation.crop(str(number), 1) for number in range(2000)]
    for name, low, high in (("area", 0.2, 0.6), ("ratio", 0.5, 2.0), ("x", 0, 1), ("y", 0, 1)):
        values = [getattr(crop, name) for crop in crops]
        span = high - low
        assert low <= min(values) < low + 0.01 * span
        assert high - 0.02 * span < max(values) <= high
    assert np.mean([crop.mirrored for crop in crops]) == pytest.approx(0.25, abs=0.03)
    assert np.mean([crop.ratio > 1 for crop in crops]) == pytest.approx(0.5, abs=0.04)


def test_a_crop_is_the_part_that_it_says() -> None:
    ramp = np.linspace(0, 255, 120)[None].repeat(90, 0).astype(np.uint8)
    image = Image.fromarray(np.stack([ramp, ramp.T[:90, :1].repeat(120, 1), 0 * ramp], 2))
    crop = Crop(area=0.25, ratio=1.0, x=1.0, y=0.5)
    left, top, right, bottom = crop.box(120, 90)
    assert (right, right - left) == (120, pytest.approx(bottom - top))
    assert (bottom - top) ** 2 == pytest.approx(0.25 * 120 * 90)
    view = shared_view(image, 8, crop)
    expected = np.asarray(image)[int(top) : int(bottom), int(left) : int(right)]
    assert view.float().mean((1, 2)).numpy() == pytest.approx(expected.mean((0, 1)), abs=3)
    mirrored = shared_view(image, 8, Crop(0.25, 1.0, 1.0, 0.5, mirrored=True))
    assert torch.equal(mirrored, view.flip(-1))
    assert Crop(1.0, 4.0, 0.3, 0.7).box(50, 50) == pytest.approx((0, 17.5, 50, 42.5))


def test_a_small_part_of_a_photo_is_decoded_in_full_detail(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg", quality=95)
    crop = Crop(0.01, 1.0, 0.5, 0.5)
    assert decoded_side(64, crop) == 640
    assert load_image(tmp_path / "photo.jpg", decoded_side(64, crop)).size == (1024, 1024)
    assert load_image(tmp_path / "photo.jpg", decoded_side(64, "crop")).size == (128, 128)


def test_a_mirrored_file_is_known_when_both_digests_are(root) -> None:
    path, crop = str(root / "images" / "0.png"), Crop(0.5, 1.0, 0.1, 0.9, mirrored=True)
    from tove.data.known_views import load_view

    load = partial(load_view, path, 16, crop)
    key = view_key(load(), 16, crop, load)
    assert torch.equal(key.load(), load_view(path, 16, crop))
    assert key.mirror_of == view_digest(load_view(path, 16, Crop(0.5, 1.0, 0.1, 0.9)))
    files = dict(file_views(key, path, 16, crop))
    assert sorted(files.values()) == sorted([str(key), key.mirror_of])
    found = KnownViews(files.get, lambda _: True).find(path, 16, crop)
    assert (str(found), found.mirror_of) == (str(key), key.mirror_of)
    for lost in files:
        rest = {name: digest for name, digest in files.items() if name != lost}
        assert KnownViews(rest.get, lambda _: True).find(path, 16, crop) is None


def test_a_range_may_come_as_a_list(root) -> None:
    listed = build(root, dict(views=2, scale=[0.5, 1.0], ratio=[1, 1])).augment
    assert listed == build(root, dict(views=2, scale=(0.5, 1.0), ratio=(1, 1))).augment
    assert len({listed}) == 1  # hashed where the images of several data sets are counted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(views=0), "augment.views is 0"),
        (dict(view=2), "augment.view is unknown"),
        (dict(views=2, flip=1.5), "augment.flip is 1.5"),
        (dict(views=2, scale=(0.9, 0.5)), "smaller one first"),
        (dict(views=2, scale=(0.0, 0.5)), "augment.scale"),
    ],
)
def test_wrong_settings_are_named(settings, message, root) -> None:
    with pytest.raises(ConfigError, match=message):
        build(root, settings)
