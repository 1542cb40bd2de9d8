"""Tokens of one grid on another: places stay, and what shrinks is averaged."""

import pytest
import torch

from tove.modules.resample import resample_tokens


def rows(values, columns):
    """Tokens [1, rows * columns, 1] that say their row's value."""
    return torch.as_tensor(values, dtype=torch.float32).repeat_interleave(columns)[None, :, None]


def test_the_same_grid_gives_the_tokens_themselves():
    tokens = torch.randn(1, 6, 2)
    assert resample_tokens(tokens, (2, 3), [2, 3]) is tokens


def test_a_finer_grid_interpolates_between_the_centres_of_the_cells():
    up = resample_tokens(rows([0, 1, 2, 3], 4), (4, 4), (8, 2)).view(8, 2)
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(up, expected[:, None].expand(8, 2))


def test_a_coarser_grid_is_at_the_middle_of_the_cells_it_replaces():
    down = resample_tokens(rows(range(16), 8), (16, 8), (4, 8)).view(4, 8)
    torch.testing.assert_close(down[1:3, 0], torch.tensor([5.5, 9.5]))
    assert torch.equal(down, down[:, :1].expand(4, 8))


@pytest.mark.parametrize("grid_out", [(4, 4), (4, 16), (4, 20)])
def test_nothing_between_the_cells_of_a_coarser_grid_is_lost(grid_out):
    """Every fourth row is bright: whichever grid, a quarter of the light arrives."""
    striped = rows([float(row % 4 == 0) for row in range(16)], 16)
    down = resample_tokens(striped, (16, 16), grid_out).view(grid_out)
    torch.testing.assert_close(down[1:3], torch.full_like(down[1:3], 0.25), atol=1e-6, rtol=0)


def test_a_constant_stays_whatever_the_grids_and_the_dtype():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = resample_tokens(torch.full((1, 15, 2), 3.0, dtype=dtype), (3, 5), (4, 4))
        torch.testing.assert_close(found, torch.full((1, 16, 2), 3.0, dtype=dtype))


def test_double_precision_is_kept_where_the_grid_shrinks():
    fine = 1 + 1e-12 * rows(range(16), 2).double()
    down = resample_tokens(fine, (16, 2), (4, 2)).view(4, 2) - 1
    torch.testing.assert_close(
        down[1:3, 0] / 1e-12, torch.tensor([5.5, 9.5]).double(), rtol=1e-3, atol=0
    )
