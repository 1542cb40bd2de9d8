"""Floating-point operations of a call, counted at the operators that run.

    matrix product [m, k] x [k, n]   2 m k n            a multiply and an add are two operations
    convolution                      2 |output| (C_in / groups) k_h k_w
    attention                        2 B H L S (D_qk + D_v)

Counted are matrix products, convolutions and attention, which are nearly all of a vision network;
element-wise operations, norms, softmax and resampling are not. Papers that give MACs (multiply-
accumulates) give half of these numbers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

__all__ = ["count_flops", "flop_counter"]


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401
    return sdpa_flop_count(query, key, value)


def _deformable(image: Any, weight: Any, *args: Any, out_shape: Any, **kwargs: Any) -> int:  # noqa: ANN401
    batch, _, height, width = out_shape
    channels_out, channels_in, kernel_h, kernel_w = weight  # channels_in is that of one group
    return 2 * batch * height * width * channels_out * channels_in * kernel_h * kernel_w


def _more_formulas() -> dict[Any, Callable[..., int]]:
    """Give what torch's counter lacks: attention as CPUs run it, deformable convolution."""
    formulas: dict[Any, Callable[..., int]] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention
    }
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # there once torchvision is imported
        formulas[torch.ops.torchvision.deform_conv2d] = _deformable
    return formulas


@contextmanager
def flop_counter() -> Iterator[FlopCounterMode]:
    """Count operations while it is on, custom kernels left out."""
    # In eval torch runs nn.MultiheadAttention and nn.TransformerEncoderLayer as one operator each,
    # which no counter sees into.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=_more_formulas()) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def count_flops(step: Callable[[], Any]) -> int:
    """Run a call once and count its operations, a backward pass's too; not custom kernels'."""
    with flop_counter() as counter:
        step()
    return counter.get_total_flops()
