"""DexiNed: the edges that people draw, as a map, through kornia.

    t_n = mean over the pixels of cell n of sigmoid(fused(x))

DexiNed (Soria et al., WACV 2020, arXiv 1909.01955) joins the edge maps of six scales into one. A
token is the share of its cell that edges cover, in [0, 1]: a map, which a trained stem of the core
turns into features. Cells are small, for an edge's place and direction are all that it says.

Shapes: B batch, H x W the image, h x w the tokens' grid, N = h * w.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tove_experts.exposed import centre_kernels
from tove_experts.grids import map_to_grid
from tove_plugins import ExpertSpec

__all__ = ["EdgeExpert"]


class EdgeExpert(nn.Module):
    """Normalised images [B, 3, H, W] -> the share of edges in each cell [B, h*w, 1].

    Args:
        spec: What this build takes and gives, as `catalogue.maps.resolve_edges` says.
        weights: A file of DexiNed's weights as its authors or kornia publish them; None for random
            ones.
        stride: Pixels of the image that a token stands for.
        image_size: One side or (height, width) in pixels; stride and size stand in the spec.
        narrow: Divides every width inside the network, for the tiny build.

    Raises:
        ValueError: The file holds the weights of another model.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None,
        stride: int = 4,
        image_size: int | Sequence[int] | None = None,
        narrow: int = 1,
    ) -> None:
        super().__init__()
        from kornia.filters.dexined import DexiNed  # the path of all its versions

        with torch.device("meta"):  # random numbers for all its weights would take a second
            model = DexiNed(pretrained=False)
        if narrow > 1:
            _narrow(model, narrow)
        self.model: nn.Module = model.to_empty(device="cpu").eval()
        self.grid = spec.tokens.grid
        if weights is None:
            _initialise(self.model)
        else:
            _load(self.model, weights)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the tokens [B, N, 1]."""
        logits_B1HW = self.model(images_BCHW.flip(1))  # it was trained on images that OpenCV read
        return map_to_grid(logits_B1HW.sigmoid(), self.grid)


def _initialise(model: nn.Module) -> None:
    from kornia.filters.dexined import weight_init

    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    model.apply(weight_init)
    centre_kernels(model)


def _load(model: nn.Module, file: Path) -> None:
    state = torch.load(file, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{file} does not hold DexiNed's weights; point `weights` at DexiNed_BIPED_10.pth, or "
            f"at a state_dict() of kornia's DexiNed. The cause: {error}"
        ) from error


def _narrow(model: nn.Module, divisor: int) -> None:
    """Keep the first of every layer's channels; images, maps and their fusion stay whole."""

    def kept(channels: int) -> int:
        return channels // divisor if channels % divisor == 0 else channels

    for layer in model.modules():
        for _, tensor in [
            *layer.named_parameters(recurse=False),
            *layer.named_buffers(recurse=False),
        ]:
            sides = tuple(slice(kept(side)) for side in tensor.shape[:2])
            if tensor.ndim:
                tensor.data = tensor.data[sides]
        if isinstance(layer, nn.BatchNorm2d):
            layer.num_features = kept(layer.num_features)
