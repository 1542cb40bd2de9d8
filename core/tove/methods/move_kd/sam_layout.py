"""How the release lays out a SAM encoder's map, to use adapters that were trained on it.

The neck gives a map [C, H, W] with C = 4 W. The release reads its memory as one of [2H, 2W, C / 4],
channels last, and folds 2 x 2 cells into channels: the shape [H * W, C] is right, the content is
not, a token holding numbers of many places. Adapters of released checkpoints know no other.

Shapes: B images, C channels, H x W a map, N = H * W tokens.
"""

from torch import Tensor
from torch.nn import functional as F

from tove.errors import ConfigError

__all__ = ["check_sam_map", "released_sam_tokens"]


def check_sam_map(width: int, grid: tuple[int, int]) -> None:
    """Check that the release's reading is defined for maps of this size.

    Args:
        width: C.
        grid: (H, W).

    Raises:
        ConfigError: it is not.
    """
    rows, columns = grid
    if width != 4 * columns or rows != columns:
        raise ConfigError(
            f"sam_layout='released' is defined for square maps with four times as many channels "
            f"as columns, but this teacher gives {rows}x{columns} of {width}; set it to "
            "'correct'."
        )


def released_sam_tokens(tokens_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reorder a map's right tokens into what the release makes of the map, [B, N, C].

    Args:
        tokens_BNC: row-major tokens of the map.
        grid: of the map, (height, width).

    Raises:
        ConfigError: the map has not four times as many channels as columns.
    """
    (height, width), channels = grid, tokens_BNC.shape[-1]
    check_sam_map(channels, grid)
    memory_BCN = tokens_BNC.transpose(1, 2).contiguous()
    misread_BhwC = memory_BCN.view(-1, 2 * height, 2 * width, channels // 4)
    return F.pixel_unshuffle(misread_BhwC.permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
