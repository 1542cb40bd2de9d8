"""Looking into a forward: what its layers are given. No layer, hook or name of a library is needed.

Every operation passes a dispatch mode, so convolutions and matrix products are seen in plain
functions and compiled modules alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tove_plugins.testing._subject import run_as_core

__all__ = ["first_layer_inputs"]

LAYERS = frozenset(
    """
    convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution
    conv1d conv2d conv3d conv_transpose2d deform_conv2d
    mm addmm bmm baddbmm addbmm mv addmv dot matmul einsum linear mkldnn_linear
    batch_norm layer_norm group_norm instance_norm native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training
    cudnn_batch_norm native_layer_norm native_group_norm _fused_rms_norm
    _transformer_encoder_layer_fwd _native_multi_head_attention _fft_r2c _fft_c2c
    """.split()
)
"""What ends the way of an image as an image; what lies before only moves or rescales pixels.

Under inference_mode a mode sees `conv2d`, otherwise the `convolution` that it is made of.
"""

MAX_LAYERS = 200  # layers that do not depend on the image, position embeddings say


def _name(operation: Any) -> str:  # noqa: ANN401
    return str(operation._schema.name).partition("::")[2]


class _Reached(BaseException):
    """Ends a forward. Not an Exception, so that the expert's own handlers let it pass."""


class _EndAtLayer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """End the forward at its layer number `index`, with what that is given."""

    def __init__(self, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = index
        self.reached: list[Tensor] | None = None

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if _name(func) in LAYERS:
            if self.left == 0:
                given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
                self.reached = [tensor.detach().clone() for tensor in given]
                raise _Reached
            self.left -= 1
        return func(*args, **(kwargs or {}))


def _given_to_layer(expert: nn.Module, images: Tensor, index: int) -> list[Tensor] | None:
    """Give the tensors that layer number `index` of a forward is given; None past the last."""
    mode = _EndAtLayer(index)
    try:
        with mode:
            run_as_core(expert, images)
    except _Reached:
        pass
    except Exception:  # TorchScript's interpreter makes a RuntimeError of every exception
        if mode.reached is None:
            raise
    return mode.reached


def first_layer_inputs(expert: nn.Module, images: Sequence[Tensor]) -> list[Tensor] | None:
    """Give what the first layer that depends on the image receives, for each batch of images.

    Args:
        expert: The expert, in eval mode.
        images: At least two normalised batches [B, 3, H, W] that differ.

    Returns:
        One tensor for each batch; None if no layer depends on the image.
    """
    for index in range(MAX_LAYERS):
        one, other = (_given_to_layer(expert, batch, index) for batch in images[:2])
        if one is None or other is None:
            return None
        for place, (a, b) in enumerate(zip(one, other, strict=False)):
            if a.shape == b.shape and not torch.equal(a, b):
                later = [_given_to_layer(expert, batch, index) for batch in images[2:]]
                return [a, b, *(given[place] for given in later if given is not None)]
    return None
