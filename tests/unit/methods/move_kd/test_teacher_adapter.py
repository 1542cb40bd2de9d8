"""Adapters: grids and widths, the saving in the resampling form, what is logged."""

import pytest
import torch

from tove.errors import ConfigError
from tove.methods.move_kd.teacher_adapter import make_adapter, output_variance
from tove.modules.resample import resample_tokens


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [(3, 3), (8, 8), (2, 9)])
def test_resampling_adapter_is_its_equation_on_any_grid(grid):
    adapter = make_adapter("resample", (5, (4, 4)), (7, (4, 4)), hidden=6).double()
    x = torch.randn(2, grid[0] * grid[1], 5).double()
    expected = adapter.outer(
        torch.nn.functional.gelu(adapter.inner(resample_tokens(x, grid, (4, 4))))
    )
    torch.testing.assert_close(adapter(x, grid, (4, 4)), expected, atol=1e-12, rtol=0)
    assert expected.shape == (2, 16, 7)


def test_channel_token_adapter_refuses_another_grid():
    adapter = make_adapter("channel_token", (5, (3, 3)), (7, (4, 4)))
    assert adapter(torch.randn(2, 9, 5)).shape == (2, 16, 7)
    with pytest.raises(ConfigError, match=r"gave 16 tokens.* made for 9; .*'resample'"):
        adapter(torch.randn(2, 16, 5))


@pytest.mark.parametrize(("hidden", "count"), [(None, 7 * 5 + 5), (6, 7 * 6 + 6 + 6 * 5 + 5)])
def test_student_head_says_the_teachers_width(hidden, count):
    head = make_adapter("student_head", (5, (3, 3)), (7, (4, 4)), hidden)
    assert head(torch.randn(2, 16, 7)).shape == (2, 16, 5)
    assert sum(p.numel() for p in head.parameters()) == count


def test_half_precision_teachers_enter_wide_adapters():
    for kind, grids in (("channel_token", ()), ("resample", ((3, 3), (4, 4)))):
        adapter = make_adapter(kind, (5, (3, 3)), (7, (4, 4)))
        assert adapter(torch.randn(2, 9, 5).bfloat16(), *grids).dtype == torch.float32


def test_output_variance():
    x = torch.randn(3, 5, 4)
    expected = x.flatten(0, 1).var(0, correction=0).mean()
    torch.testing.assert_close(output_variance(x), expected)
    assert output_variance(torch.ones(3, 5, 4)) == 0
    valid = torch.ones(3, 5, dtype=torch.bool)
    valid[0] = False
    torch.testing.assert_close(output_variance(x, valid), output_variance(x[1:]))
    assert output_variance(x.bfloat16().requires_grad_()).dtype == torch.float32
