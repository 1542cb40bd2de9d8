"""Many rendered scenes with their ground truth, for training the tiny weights and for probes.

Ground truth lies on a 16x16 grid of cells, four to a CLIP token. Shape legend: B scenes,
O object slots, C = 16 cells a side.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tove.data.tiny_world.render import GROUND, SKY, render
from tove.data.tiny_world.scene import MAX_OBJECTS, WORLD, World, sample_scenes
from tove.data.tiny_world.text import Thing, things_of, visible_boxes

CELLS = 16
TRAIN_SEED = 0
"""The shipped weights have seen scenes of this seed only; the demo's splits use others."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Rendered scenes and what is true of them.

    Attributes:
        images: [B, 3, S, S] uint8, S = 64 unless another was asked for.
        depth: [B, C, C] log of the mean depth in metres; sky counts as 60 m.
        instance: [B, C, C] uint8, the slot (or GROUND, SKY) that fills most of a cell.
        boxes: [B, O, 4] visible boxes, 0..1.
        shape: [B, O] index of the object's shape.
        colour: [B, O] index of the object's colour.
        centre_depth: [B, O] metres.
        size: [B, O] metres.
        things: For each scene what can be spoken about.
    """

    images: Tensor
    depth: Tensor
    instance: Tensor
    boxes: Tensor
    shape: Tensor
    colour: Tensor
    centre_depth: Tensor
    size: Tensor
    things: list[list[Thing]]

    def __len__(self) -> int:
        return len(self.images)


def make_pool(
    seed: int,
    start: int,
    count: int,
    progress: Callable[[int], None] = lambda done: None,
    side: int = 64,
    world: World = WORLD,
) -> Pool:
    """Renders `count` scenes of a seed with their ground truth.

    Args:
        seed: Names the stream of scenes.
        start: Number of the first scene.
        count: How many.
        progress: Called with the number of scenes done.
        side: Of the images in pixels, a multiple of C.
        world: What scenes are drawn from.
    """
    columns: list[list[Tensor]] = [[] for _ in range(8)]
    things: list[list[Thing]] = []
    for first in range(start, start + count, 256):
        scenes = sample_scenes(seed, first, min(256, start + count - first), world)
        rendered = render(scenes, side)
        kinds = torch.arange(SKY + 1)
        share = (rendered.instance[:, None] == kinds[None, :, None, None]).float()
        share = torch.nn.functional.adaptive_avg_pool2d(share, CELLS)
        depth = torch.nn.functional.adaptive_avg_pool2d(rendered.depth.clamp(max=60.0), CELLS)
        values = (
            (rendered.image * 255).round().to(torch.uint8),
            depth.log(),
            share.argmax(1).to(torch.uint8),
            visible_boxes(rendered),
            scenes.shape,
            scenes.colour,
            scenes.centre[..., 2],
            scenes.size,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        things += things_of(scenes, rendered)
        progress(first - start + len(scenes))
    parts: list[Any] = [*(torch.cat(column) for column in columns), things]
    return Pool(*parts)


def batches(size: int, batch: int, steps: int, seed: int) -> list[Tensor]:
    """Indices of `steps` shuffled batches over a pool of `size` scenes."""
    rng = torch.Generator().manual_seed(seed)
    order: list[Tensor] = []
    while sum(len(o) for o in order) < steps * batch:
        order.append(torch.randperm(size, generator=rng))
    return list(torch.cat(order)[: steps * batch].reshape(steps, batch))


def object_of_cells(pool: Pool, rows: Tensor, values: Tensor) -> Tensor:
    """Looks a per-object value up for every cell.

    Args:
        pool: The scenes.
        rows: [B] which of them.
        values: [len(pool), O, ...] a value per object.

    Returns:
        [B, C*C, ...] the value of the object that fills the cell; of slot 0 where there is none.
    """
    slot = pool.instance[rows].long().flatten(1)
    slot = slot.masked_fill(slot >= MAX_OBJECTS, 0)
    return values[rows].gather(
        1, slot.reshape(*slot.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    )


def shape_classes(pool: Pool, rows: Tensor) -> Tensor:
    """[B, C*C] class of each cell: 0..2 the shapes, 3 ground, 4 sky."""
    cell = pool.instance[rows].long().flatten(1)
    shape = object_of_cells(pool, rows, pool.shape)
    return torch.where(cell == GROUND, 3, torch.where(cell == SKY, 4, shape))


def seeded(seed: int, *names: int) -> random.Random:
    """A random.Random of its own for a seed and an item."""
    return random.Random(f"{seed}-{'-'.join(map(str, names))}")
