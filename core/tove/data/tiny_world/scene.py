"""The tiny world: what a scene holds, drawn at random and reproducible from (seed, index).

Two to five objects (ball, box, cylinder; seven colours) hang or stand over a chequered ground.
Image position, extent in the image and depth are drawn independently, and the camera's height,
pitch, roll and field of view vary, so that no two-dimensional shortcut ("lower in the image",
"larger in the image" is closer) gives depth order away. Fog is thin and objects differ in
paleness, so colour gives little away either. Every object wears rings one BAND of height apart:
how dense they look tells its distance, as texture does for people. Reading it takes an eye for
spatial frequency, which naming colours and shapes never trains.

Everything lives in the camera's frame: x right, y down, z forward, metres. Shape legend:
B scenes, O object slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from tove.errors import ConfigError

COLOURS: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.15, 0.65, 0.20),
    "blue": (0.15, 0.25, 0.85),
    "yellow": (0.92, 0.85, 0.15),
    "purple": (0.60, 0.18, 0.70),
    "cyan": (0.15, 0.78, 0.82),
    "orange": (0.95, 0.50, 0.10),
}
SHAPES: Final = ("ball", "box", "cylinder")
MAX_OBJECTS: Final = 5
NEAR, FAR = 3.0, 8.0
"""Range of object depths in metres."""
BAND: Final = 0.25
"""Height of a ring, light or dark, in metres."""
_CANDIDATES: Final = 10
_INDEX_BITS: Final = 22
_NUMBERS_PER_SCENE: Final = 32 + MAX_OBJECTS * (8 + 4 * _CANDIDATES)


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        index: [B] the scene's number within its seed.
        fov: [B] tangent of half the field of view.
        down: [B, 3] unit vector of gravity in the camera's frame.
        height: [B] the camera's height over the ground, metres.
        light: [B, 3] unit vector towards the light.
        ambient: [B] ambient light, 0..1.
        fog: [B] extinction per metre.
        sky: [B, 3] colour of sky and fog, 0..1.
        ground: [B, 2, 3] the two colours of the chequered ground.
        tile: [B] side of a ground tile, metres.
        exists: [B, O] whether the slot holds an object.
        shape: [B, O] index into SHAPES.
        colour: [B, O] index into COLOURS.
        albedo: [B, O, 3] the object's own colour, jittered, 0..1.
        centre: [B, O, 3] position, metres.
        size: [B, O] radius-like extent, metres.
        yaw: [B, O] rotation about the vertical, radians.
    """

    index: Tensor
    fov: Tensor
    down: Tensor
    height: Tensor
    light: Tensor
    ambient: Tensor
    fog: Tensor
    sky: Tensor
    ground: Tensor
    tile: Tensor
    exists: Tensor
    shape: Tensor
    colour: Tensor
    albedo: Tensor
    centre: Tensor
    size: Tensor
    yaw: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | Tensor) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device | str) -> Scenes:
        """Moves every tensor to a device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, slots=True)
class World:
    """What scenes are drawn from; the defaults are those of the shipped weights.

    Scene `i` of a seed has the same random numbers in all worlds, so two of them differ in what
    their ranges make of these numbers.

    Attributes:
        objects: The least and the largest number of objects, within 1 and MAX_OBJECTS.
        colours: Words of COLOURS.
        shapes: Words of SHAPES.
        pitch: Range of the camera's pitch, radians; larger looks down more steeply.
        fov: Range of the tangent of half the field of view.
        height: Range of the camera's height over the ground, metres.
    """

    objects: tuple[int, int] = (2, 5)
    colours: Sequence[str] = tuple(COLOURS)
    shapes: Sequence[str] = SHAPES
    pitch: tuple[float, float] = (0.15, 0.55)
    fov: tuple[float, float] = (0.40, 0.58)
    height: tuple[float, float] = (1.8, 4.0)

    def __post_init__(self) -> None:
        known = COLOURS.keys() >= {*self.colours} and {*SHAPES} >= {*self.shapes}
        least, most = self.objects
        if not (known and self.colours and self.shapes and 1 <= least <= most <= MAX_OBJECTS):
            raise ConfigError(
                f"A world has 1 to {MAX_OBJECTS} objects, colours of {', '.join(COLOURS)}, and "
                f"shapes of {', '.join(SHAPES)}; {self} is none."
            )


WORLD: Final = World()
"""That of the shipped weights."""


def sample_scenes(seed: int, start: int, count: int, world: World = WORLD) -> Scenes:
    """Draws scenes `start .. start + count - 1` of a seed.

    Scene `i` of seed `s` is the same whatever batch it is drawn in.

    Args:
        seed: Names the stream of scenes, 0..1023.
        start: Number of the first scene.
        count: How many; a stream has 2^22 scenes.
        world: What they are drawn from.

    Returns:
        `count` scenes on the CPU.

    Raises:
        ValueError: The seed or the numbers are out of range.
    """
    if not 0 <= seed < 1 << 10 or not 0 <= start <= start + count <= 1 << _INDEX_BITS:
        raise ValueError(
            f"Scenes {start} to {start + count} of seed {seed} were asked for, but seeds go from "
            f"0 to 1023 and scenes from 0 to {(1 << _INDEX_BITS) - 1}."
        )
    generator = torch.Generator()
    rows = []
    for index in range(start, start + count):
        # torch's CPU generator takes 32 bits of a seed and drops the rest without a word.
        generator.manual_seed((seed << _INDEX_BITS) + index)
        rows.append(torch.rand(_NUMBERS_PER_SCENE, generator=generator))
    numbers = torch.stack(rows) if rows else torch.zeros(0, _NUMBERS_PER_SCENE)
    return _scenes_from_numbers(torch.arange(start, start + count), numbers, world)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + u * (high - low)


def _one_of(u: Tensor, words: Sequence[str], known: Sequence[str]) -> Tensor:
    """Turns uniform numbers into indices of `known`, words of `words` alike."""
    places = torch.tensor([known.index(word) for word in words])
    return places[(u * len(words)).long()]


def _scenes_from_numbers(index: Tensor, u: Tensor, world: World) -> Scenes:
    """Turns uniform numbers [B, _NUMBERS_PER_SCENE] into scenes."""
    pitch, roll = _between(u[:, 0], *world.pitch), _between(u[:, 1], -0.15, 0.15)
    down = torch.stack([roll.sin() * pitch.cos(), roll.cos() * pitch.cos(), pitch.sin()], dim=-1)
    fov, height = _between(u[:, 2], *world.fov), _between(u[:, 3], *world.height)
    azimuth, elevation = _between(u[:, 4], 0.0, 6.2832), _between(u[:, 5], 0.7, 1.3)
    side, ahead = horizontal_axes(down)
    light = (
        side * (azimuth.cos() * elevation.cos())[:, None]
        + ahead * (azimuth.sin() * elevation.cos())[:, None]
        - down * elevation.sin()[:, None]
    )
    grey = _between(u[:, 6:7], 0.35, 0.6)
    contrast = _between(u[:, 7:8], 0.08, 0.2)
    tint = _between(u[:, 8:11], -0.05, 0.05)
    ground = torch.stack([grey + contrast + tint, grey - contrast + tint], dim=1)
    sky = _between(u[:, 11:14], 0.72, 0.92)
    objects = u[:, 32:].reshape(len(u), MAX_OBJECTS, -1)
    least, most = world.objects
    number = least + (u[:, 14] * (most - least + 1)).long().clamp(max=most - least)
    colour = _one_of(objects[..., 0], world.colours, [*COLOURS])
    palette = torch.tensor(list(COLOURS.values()))
    albedo = palette[colour] * _between(objects[..., 4:7], 0.85, 1.1)
    paleness = 0.4 * objects[..., 7:8]
    centre, size, placed = _place(objects, fov, down, height)
    wanted = torch.arange(MAX_OBJECTS)[None] < number[:, None]
    return Scenes(
        index=index,
        fov=fov,
        down=down,
        height=height,
        light=light,
        ambient=_between(u[:, 15], 0.35, 0.5),
        fog=_between(u[:, 16], 0.03, 0.07),
        sky=sky,
        ground=ground,
        tile=_between(u[:, 17], 0.7, 1.4),
        exists=placed & wanted,
        shape=_one_of(objects[..., 1], world.shapes, SHAPES),
        colour=colour,
        albedo=(albedo + paleness * (0.8 - albedo)).clamp(0.03, 1.0),
        centre=centre,
        size=size,
        yaw=objects[..., 3] * 1.5708,
    )


def horizontal_axes(down: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors spanning the ground, for `down` [B, 3]."""
    forward = torch.tensor([0.0, 0.0, 1.0]).expand_as(down)
    ahead = forward - (forward * down).sum(-1, keepdim=True) * down
    ahead = ahead / ahead.norm(dim=-1, keepdim=True)
    return torch.linalg.cross(down, ahead), ahead


def _place(
    objects: Tensor, fov: Tensor, down: Tensor, height: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Puts each object at its first candidate place that is over the ground and hides no other.

    Returns:
        centres [B, O, 3], sizes [B, O] in metres, and whether a place was found [B, O].
    """
    batch = len(objects)
    tries = objects[..., 8:].reshape(batch, MAX_OBJECTS, _CANDIDATES, 4)
    across, updown = _between(tries[..., 0], -0.85, 0.85), _between(tries[..., 1], -0.75, 0.85)
    depth = NEAR * (FAR / NEAR) ** tries[..., 2]
    wide = fov[:, None, None] * depth  # metres in half an image width
    radius = 0.17 * 2.4 ** objects[..., 2:3]  # in half image widths
    places = torch.stack([across * wide, updown * wide, depth], dim=-1)
    sizes = radius * wide
    over_ground = height[:, None, None] - (places * down[:, None, None]).sum(-1)
    valid = over_ground > 0.9 * sizes
    centre, size = torch.zeros(batch, MAX_OBJECTS, 3), torch.zeros(batch, MAX_OBJECTS)
    spot = torch.full((batch, MAX_OBJECTS, 3), 1e3)  # image x, y and radius of those placed
    placed = torch.zeros(batch, MAX_OBJECTS, dtype=torch.bool)
    rows = torch.arange(batch)
    for slot in range(MAX_OBJECTS):
        gap = torch.hypot(
            across[:, slot, :, None] - spot[:, None, :, 0],
            updown[:, slot, :, None] - spot[:, None, :, 1],
        )
        far = gap > 0.62 * (radius[:, slot, :, None] + spot[:, None, :, 2].clamp(max=1.0))
        solid = (places[:, slot, :, None] - centre[:, None]).norm(dim=-1)
        far &= (solid > 1.5 * (sizes[:, slot, :, None] + size[:, None])) | ~placed[:, None]
        good = valid[:, slot] & far.all(-1)
        choice = good.float().argmax(dim=-1)
        placed[:, slot] = good.any(dim=-1)
        centre[:, slot] = places[rows, slot, choice]
        size[:, slot] = sizes[rows, slot, choice]
        wide_as = radius[:, slot].expand(-1, _CANDIDATES)
        chosen = torch.stack([across[:, slot], updown[:, slot], wide_as], dim=-1)
        here = placed[:, slot, None]
        spot[:, slot] = torch.where(here, chosen[rows, choice], 1e3)
    return centre, size, placed
