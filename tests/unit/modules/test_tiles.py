"""Tiles, held to stock transformers' LlavaNext."""

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)
from transformers.image_processing_utils import select_best_resolution

from tove.modules.tiles import best_grid, num_packed_tokens, pack_views

PINPOINTS = [[20, 40], [40, 20], [40, 40]]


def tiles_of(size):
    height, width = best_grid(size, PINPOINTS)
    return height // 20, width // 20


@pytest.fixture(scope="module")
def stock_model() -> LlavaNextForConditionalGeneration:
    tower = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=20, patch_size=4, **tower),
        text_config=LlamaConfig(vocab_size=20, **tower),
        image_grid_pinpoints=PINPOINTS,
    )
    return LlavaNextForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("width", "height", "num_views", "num_tokens"),
    [(30, 30, 5, 135), (60, 20, 3, 58), (20, 70, 3, 65), (35, 50, 5, 115)],
)
def test_the_token_counts_measured_on_llava_next(width, height, num_views, num_tokens) -> None:
    size = (height, width)
    rows, columns = tiles = tiles_of(size)
    assert 1 + rows * columns == num_views
    assert num_packed_tokens(size, tiles, (5, 5)) == num_tokens
    tokens = torch.randn(num_views, 25, 16)
    assert len(pack_views(tokens, torch.zeros(16), size, tiles, (5, 5))) == num_tokens


@pytest.mark.parametrize("newline", [True, False])
def test_packing_is_that_of_llava_next(stock_model, newline) -> None:
    line = torch.randn(16) if newline else None
    chance = np.random.default_rng(0)
    for _ in range(100):
        size = tuple(chance.integers(5, 400, 2).tolist())
        tiles = tiles_of(size)
        tokens = torch.randn(1 + tiles[0] * tiles[1], 25, 16)
        (theirs,), counts = stock_model.model.pack_image_features(
            [tokens], torch.tensor([size]), "default", image_newline=line
        )
        ours = pack_views(tokens, line, size, tiles, (5, 5))
        assert torch.equal(ours, theirs)
        if newline:
            assert num_packed_tokens(size, tiles, (5, 5)) == counts.item()


def test_the_grid_is_llava_nexts_choice() -> None:
    pinpoints = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
    chance = np.random.default_rng(0)
    for _ in range(500):
        size = tuple(chance.integers(5, 3000, 2).tolist())
        assert best_grid(size, pinpoints) == select_best_resolution(size, pinpoints)
