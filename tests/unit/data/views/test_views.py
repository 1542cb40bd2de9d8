"""Views, held to stock transformers' processors of LLaVA-1.5 and LLaVA-NeXT."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tove.data.views import build_view, content_mask
from tove.errors import ConfigError
from tove.modules.tiles import uncut

GRIDS = ((1, 2), (2, 1), (2, 2))
SIZES = [(30, 30), (20, 60), (70, 20), (50, 35), (20, 20), (7, 64), (41, 40), (113, 37), (200, 300)]
STILL = dict(do_rescale=False, do_normalize=False)


def stock_processor(name, **options):
    """Transformers' image processor that resizes as Pillow does; 5 has others too."""
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return kind(
        size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}, **STILL, **options
    )


def picture(size) -> Image.Image:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
def test_padding_to_a_square_is_llavas(size) -> None:
    image = picture(size)
    mean = [122.5 / 255, 116.5 / 255, 104.5 / 255]  # the colour of the padding
    stock = stock_processor("LlavaImageProcessor", do_pad=True, image_mean=mean)
    theirs = stock(image, return_tensors="pt")["pixel_values"][0].numpy()
    ours = build_view("pad", 20)(image)
    assert np.array_equal(ours.pixels_V3SS[0].numpy(), theirs)
    assert ours.size == size


@pytest.mark.parametrize("size", SIZES)
def test_the_central_square_is_clips(size) -> None:
    image = picture(size)
    stock = stock_processor("CLIPImageProcessor")
    theirs = stock(image, return_tensors="pt")["pixel_values"][0].numpy()
    assert np.array_equal(build_view("crop", 20)(image).pixels_V3SS[0].numpy(), theirs)


def test_what_a_padded_view_shows_is_known_by_token() -> None:
    views = build_view("pad", 20)(Image.new("RGB", (60, 20), "white"))
    left, top, right, bottom = views.content_V4[0].tolist()
    assert (left, top, right, bottom) == (0, 6, 20, 14)
    assert views.pixels_V3SS[0, 0, 8:12].min() == 255
    mask = content_mask(views.content_V4, 20, (5, 5)).view(5, 5)
    assert mask.all(1).tolist() == [False, True, True, True, False]  # rows of 4 pixels: 4 to 16
    assert mask.any(1).tolist() == mask.all(1).tolist()
    assert content_mask(torch.tensor([[0, 8, 20, 12]]), 20, (5, 5)).sum() == 5
    assert build_view("crop", 20)(picture((30, 50))).content_V4.tolist() == [[0, 0, 20, 20]]
    assert content_mask(torch.empty(0, 4).long(), 20, (3, 4)).shape == (0, 12)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_are_those_of_llava_next(size) -> None:
    image = picture(size)
    pinpoints = [[20 * r, 20 * c] for r, c in GRIDS]
    stock = stock_processor("LlavaNextImageProcessor", image_grid_pinpoints=pinpoints)
    theirs = stock(image, return_tensors="pt")
    ours = build_view({"type": "anyres", "grids": GRIDS}, 20)(image)
    assert np.array_equal(ours.pixels_V3SS.numpy(), theirs["pixel_values"][0].numpy())
    assert tuple(theirs["image_sizes"][0].tolist()) == ours.size


def test_padding_of_tiles_is_known_by_token_and_no_token_full_of_image_is_cut() -> None:
    view = build_view({"type": "anyres", "grids": GRIDS}, 20)
    for size in SIZES:
        views = view(Image.new("RGB", size[::-1], "white"))
        rows, columns = views.tiles
        mask = content_mask(views.content_V4, 20, (5, 5))
        assert mask[0].all()  # the base view has no padding
        cells = views.pixels_V3SS[1:, 0].unflatten(2, (5, 4)).unflatten(1, (5, 4)) > 0
        assert torch.equal(mask[1:].view(-1, 5, 5), cells.any(4).any(2))
        full = cells.all(4).all(2).unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3)
        kept = torch.zeros(rows * 5, columns * 5, dtype=torch.bool)
        kept[uncut(size, (rows * 5, columns * 5))] = True
        assert (kept | ~full.flatten(0, 1)).all()  # the release cuts tokens that show a sliver


def test_views_of_a_config_that_cannot_be(tmp_path) -> None:
    with pytest.raises(ConfigError, match="rows and columns"):
        build_view({"type": "anyres", "grids": [(0, 2)]}, 20)
    with pytest.raises(ConfigError, match="unexpected keyword"):
        build_view({"type": "pad", "color": 3}, 20)
    assert build_view("anyres", 336).max_views == 5
