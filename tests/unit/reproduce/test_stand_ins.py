"""The truth and the placebo, on scenes as they are written to disk."""

import pytest
import torch

from tove.data.tiny_world.rendered import make_pool
from tove.data.tiny_world.write import stream_of
from tove.errors import ConfigError
from tove.reproduce.stand_ins import OtherImage, SceneTruth


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images.float() / 255 - 0.5) / 0.5


def test_the_truth_of_an_image_is_found_by_its_pixels():
    pool = make_pool(stream_of("test", 3), 2, 4)
    tokens = SceneTruth(seed=3, scenes={"train": 5, "test": 8})(normalised(pool.images))
    assert tokens.shape == (4, 64, 44)
    cells = tokens.view(4, 8, 8, 11, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(4, 11, 16, 16)
    torch.testing.assert_close(cells[:, 0], pool.depth)
    assert (cells[:, 1:6].sum(1) == 1).all()
    is_object = pool.instance < pool.boxes.shape[1]
    assert (cells[:, 10][~is_object] == 0).all()
    assert (cells[:, 10][is_object] > 0).all()


def test_images_of_other_scenes_are_refused_but_for_a_few():
    truth = SceneTruth(seed=0, scenes={"train": 2})
    strange = normalised(make_pool(stream_of("train", 1), 0, 12).images)
    assert (truth(strange[:1]) == 0).all()
    with pytest.raises(ConfigError, match="none of its scenes"):
        truth(strange)


def test_the_placebo_is_an_experts_look_at_another_scene():
    placebo = OtherImage("tiny_depth")
    images = normalised(make_pool(stream_of("test", 0), 0, 6).images)
    with torch.no_grad():
        tokens, again, own = placebo(images), placebo(images[3:]), placebo.expert(images)
    torch.testing.assert_close(tokens[3:], again)
    assert len({round(float(t.sum()), 3) for t in tokens}) > 1
    assert not torch.allclose(tokens, own, atol=0.1)


def test_the_placebo_stands_in_for_the_tiny_world_s_experts_only():
    with pytest.raises(ConfigError, match="stands in for experts of the tiny world"):
        OtherImage("dinov2_small")
