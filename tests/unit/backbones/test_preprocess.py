"""What a network is given: x = (resize(image) * (high - low) + low - mean) / std."""

import pytest
import torch
from torch.nn import functional as F

from tove.backbones.preprocess import Preprocess, keep_dtype, to_unit_range
from tove.errors import ConfigError

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)


@pytest.mark.parametrize(
    ("value_range", "grey"), [((0.0, 1.0), 0.25), ((-1.0, 1.0), -0.5), ((0.0, 255.0), 63.75)]
)
def test_black_white_and_grey_arrive_in_the_range_that_the_network_knows(value_range, grey):
    preprocess = Preprocess((4, 6), MEAN, STD, value_range)
    low, high = value_range
    for level, value in ((0.0, low), (1.0, high), (0.25, grey)):
        pixels = preprocess(torch.full((2, 3, 4, 6), level))
        for channel in range(3):
            expected = torch.full((2, 4, 6), (value - MEAN[channel]) / STD[channel])
            torch.testing.assert_close(pixels[:, channel], expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(5, 8), (24, 20)])
def test_another_size_is_resized_antialiased_by_the_interpolation_asked_for(interpolation, size):
    images = torch.rand(2, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    found = Preprocess(size, (0.0,) * 3, (1.0,) * 3, interpolation=interpolation)(images)
    resized = F.interpolate(images, size=size, mode=interpolation, antialias=True)
    torch.testing.assert_close(found, resized.clamp(0, 1))


def test_what_a_cubic_kernel_overshoots_is_cut_off():
    edge = torch.cat([torch.zeros(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], -1)
    found = Preprocess((16, 16), (0.0,) * 3, (1.0,) * 3)(edge)
    assert (found.amin(), found.amax()) == (0, 1)


def test_the_statistics_stay_exact_in_a_model_of_half_precision():
    preprocess = Preprocess((4, 4), MEAN, STD).bfloat16()
    assert preprocess.mean.flatten().tolist() == pytest.approx(MEAN, abs=1e-7)
    assert preprocess(torch.rand(1, 3, 4, 4)).dtype == torch.float32
    assert preprocess(torch.rand(1, 3, 4, 4).bfloat16()).dtype == torch.bfloat16
    assert preprocess.to("meta").mean.is_meta


def test_bytes_become_the_unit_range_and_floats_stay_as_they_are():
    found = to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert found.tolist() == pytest.approx([0.0, 0.2, 1.0])
    floats = torch.tensor([0.5, 2.0])
    assert to_unit_range(floats) is floats


def test_what_changes_the_dtype_alone_leaves_a_kept_tensor_alone():
    tensor = torch.rand(3)
    assert keep_dtype(lambda t: t.double())(tensor).dtype == torch.float32
    assert keep_dtype(lambda t: t.to("meta").double())(tensor).is_meta


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_in_8_bits_is_off_by_what_is_rounded(interpolation):
    def resized(resize):
        return Preprocess((24, 20), MEAN, STD, (-1.0, 1.0), interpolation, resize)(images)

    # Greys of which no cubic kernel makes less than black: that is cut off between the passes.
    pixels = torch.randint(80, 176, (2, 3, 16, 12), generator=torch.Generator().manual_seed(0))
    images = pixels.float() / 255
    difference = (resized("uint8") - resized("float32")).abs().amax((0, 2, 3))
    steps = difference * torch.tensor(STD) / 2 * 255  # of 256 levels
    assert (steps > 0.4).all()
    assert (steps < 2.5).all()
    same = Preprocess((16, 12), MEAN, STD, resize="uint8")(images)
    assert torch.equal(same, Preprocess((16, 12), MEAN, STD)(images))  # nothing is resized


def test_resizing_in_8_bits_is_the_cpu_s_alone():
    preprocess = Preprocess((24, 20), MEAN, STD, resize="uint8").to("meta")
    with pytest.raises(ConfigError, match="for the CPU alone, and its images are on meta"):
        preprocess(torch.empty(2, 3, 16, 12, device="meta"))
