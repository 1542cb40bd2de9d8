"""Make the weights, and print what the plugin says of them.

Here they are computed: Sobel's kernel, turned to eight directions. Yours are trained; keep the
script that trained them in their place.
"""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tove_plugins import sha256_of

from tove_my_expert.expert import NUM_DIRECTIONS

FILE = Path(__file__).parents[1] / "src/tove_my_expert/weights/my_expert.safetensors"


def turned_kernels() -> Tensor:
    """Give kernels [K, 1, 3, 3], the first for what gets brighter to the right."""
    sobel_33 = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    angles_K = torch.arange(NUM_DIRECTIONS)[:, None, None, None] * (2 * math.pi / NUM_DIRECTIONS)
    return angles_K.cos() * sobel_33 + angles_K.sin() * sobel_33.T


if __name__ == "__main__":
    save_file({"edges.weight": turned_kernels()}, FILE)
    print(f'sha256="{sha256_of(FILE)}", size_mb={FILE.stat().st_size / 1e6:.4f}')
