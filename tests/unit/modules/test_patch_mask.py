"""Patches of a padded image."""

import torch

from tove.modules.patch_mask import patches_with_content


def test_borders_are_no_content():
    boxes = torch.tensor(
        [
            [0.0, 0.0, 1.0, 1.0],
            [0.25, 0.0, 0.75, 1.0],  # padded above and below
            [0.0, 0.2, 1.0, 0.8],  # left and right; the centres of the outer patches are padding
        ]
    )
    whole, wide, tall = patches_with_content(boxes, (4, 3)).view(3, 4, 3)
    assert whole.all()
    assert wide.int().tolist() == [[0] * 3, [1] * 3, [1] * 3, [0] * 3]
    assert tall.int().tolist() == [[0, 1, 0]] * 4


def test_any_device_and_dtype():
    boxes = torch.zeros(2, 4, device="meta", dtype=torch.bfloat16)
    assert patches_with_content(boxes, (4, 3)).shape == (2, 12)
