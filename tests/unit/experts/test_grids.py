"""Boxes, masks and maps lie in the cells where the image shows them: held against plain loops."""

import pytest
import torch

from tove_experts.grids import boxes_to_grid, map_to_grid, maps_to_grid, masks_to_grid

GRID = (3, 4)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def objects(batch=2, queries=5, classes=3, width=6):
    return noise(batch, queries, classes, seed=1), noise(batch, queries, width, seed=2) - 0.5


def mixture(shares_BQN, scores, features):
    """The equation of the module, one cell and one object at a time."""
    batch, queries, cells = shares_BQN.shape
    tokens = torch.zeros(batch, cells, features.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for n in range(cells):
            total = 0.0
            for q in range(queries):
                amount = float(shares_BQN[b, q, n]) * float(scores[b, q].max())
                tokens[b, n] += amount * features[b, q]
                total += amount
            tokens[b, n] /= max(1.0, total)
    return tokens


def cell_shares(x0, y0, x1, y1, grid):
    rows, columns = grid
    shares = []
    for i in range(rows):
        for j in range(columns):
            height = min(y1, (i + 1) / rows) - max(y0, i / rows)
            width = min(x1, (j + 1) / columns) - max(x0, j / columns)
            shares.append(max(height, 0) * max(width, 0) * rows * columns)
    return torch.tensor(shares, dtype=torch.float64)


@pytest.mark.parametrize("form", ["cxcywh", "xyxy"])
def test_boxes_are_spread_by_the_share_of_each_cell_that_they_cover(form):
    boxes = noise(2, 5, 4)
    boxes[0, 0] = torch.tensor([0.9, 0.9, 0.6, 0.6])  # reaches over the edge, or ends too early
    scores, features = objects()
    shares = torch.zeros(2, 5, 12, dtype=torch.float64)
    for b in range(2):
        for q in range(5):
            one, two, three, four = boxes[b, q].tolist()
            if form == "cxcywh":
                corners = (one - three / 2, two - four / 2, one + three / 2, two + four / 2)
            else:
                corners = (one, two, three, four)
            shares[b, q] = cell_shares(*corners, GRID)
    tokens = boxes_to_grid(boxes, scores, features, GRID, form)
    torch.testing.assert_close(tokens, mixture(shares, scores, features))


def test_a_sure_box_gives_its_feature_and_an_empty_cell_is_zero():
    box = torch.tensor([[[0.0, 0.0, 0.5, 1 / 3]]])  # two cells of the first row
    feature = torch.tensor([[[1.0, -2.0]]])
    tokens = boxes_to_grid(box, torch.ones(1, 1, 1), feature, GRID, "xyxy").view(3, 4, 2)
    torch.testing.assert_close(tokens[0, :2], feature[0].expand(2, 2))
    assert tokens[0, 2:].abs().max() < 1e-6
    assert not tokens[1:].any()


def test_many_unsure_boxes_do_not_pass_for_a_sure_one():
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 10, 4)
    tokens = boxes_to_grid(boxes, torch.full((1, 10, 1), 0.01), torch.ones(1, 10, 2), GRID, "xyxy")
    torch.testing.assert_close(tokens, torch.full((1, 12, 2), 0.1))


def test_padding_boxes_of_score_zero_change_nothing():
    boxes, (scores, features) = noise(2, 5, 4), objects()
    padded = boxes_to_grid(
        torch.cat([boxes, noise(2, 2, 4, seed=3)], dim=1),
        torch.cat([scores, torch.zeros(2, 2, 3)], dim=1),
        torch.cat([features, noise(2, 2, 6, seed=4)], dim=1),
        GRID,
    )
    torch.testing.assert_close(padded, boxes_to_grid(boxes, scores, features, GRID))


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (3, 4)])
def test_masks_are_spread_by_the_area_of_each_cell_that_they_cover(size):
    height, width = size
    masks, (scores, features) = noise(2, 5, height, width), objects()
    shares = torch.zeros(2, 5, 12, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            pixel = (column / width, row / height, (column + 1) / width, (row + 1) / height)
            shares += masks[:, :, row, column, None] * cell_shares(*pixel, GRID)
    tokens = masks_to_grid(masks, scores, features, GRID)
    torch.testing.assert_close(tokens, mixture(shares, scores, features))


def test_a_map_is_flattened_row_by_row_with_its_channels_last():
    image = noise(2, 5, 3, 4)
    tokens = map_to_grid(image, GRID)
    for i in range(3):
        for j in range(4):
            assert torch.equal(tokens[:, i * 4 + j], image[:, :, i, j])


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (4, 4)])
def test_a_finer_map_is_averaged_over_each_cell(size):
    image = noise(2, 5, *size)
    expected = torch.zeros(2, 12, 5, dtype=torch.float64)
    for row in range(size[0]):
        for column in range(size[1]):
            pixel = (column / size[1], row / size[0], (column + 1) / size[1], (row + 1) / size[0])
            expected += cell_shares(*pixel, GRID)[None, :, None] * image[:, None, :, row, column]
    torch.testing.assert_close(map_to_grid(image, GRID), expected)


def test_a_coarser_map_is_interpolated_and_mixed_sizes_are_both():
    ramp = torch.arange(2, dtype=torch.float64).view(1, 1, 2, 1).expand(1, 1, 2, 8)
    tokens = map_to_grid(ramp, (4, 4)).view(4, 4)
    torch.testing.assert_close(tokens[:, 0], torch.tensor([0, 0.25, 0.75, 1], dtype=torch.float64))
    torch.testing.assert_close(tokens, tokens[:, :1].expand(4, 4))


def test_levels_of_a_pyramid_are_joined_in_order():
    levels = [noise(2, 5, 6, 8), noise(2, 3, 3, 4, seed=1)]
    tokens = maps_to_grid(levels, GRID)
    assert tokens.shape == (2, 12, 8)
    assert torch.equal(tokens[..., 5:], map_to_grid(levels[1], GRID))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_follow_the_features_device_and_dtype(device, dtype):
    boxes, masks, image = noise(2, 5, 4), noise(2, 5, 7, 9), noise(2, 6, 7, 9)
    scores, features = objects()
    boxes, masks, image, scores, features = (
        tensor.to(device, dtype) for tensor in (boxes, masks, image, scores, features)
    )
    for tokens in (
        boxes_to_grid(boxes, scores, features, GRID),
        masks_to_grid(masks, scores, features, GRID),
        map_to_grid(image, GRID),
        map_to_grid(image, (14, 9)),
    ):
        assert (tokens.device.type, tokens.dtype) == (device, dtype)
