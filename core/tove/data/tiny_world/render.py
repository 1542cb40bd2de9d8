"""A batched ray caster for the tiny world: image, exact depth, instance masks.

Rays are (x, y, 1) in the camera's frame, so a ray's parameter at the hit IS the depth z.
Shape legend: B scenes, O object slots, S image side, P = S*S rays, M objects of one shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tove.data.tiny_world.scene import BAND, MAX_OBJECTS, Scenes, horizontal_axes

MISS = 1e4
RING_SHADE = 0.5
GROUND, SKY = MAX_OBJECTS, MAX_OBJECTS + 1
"""Values of the instance map where no object is seen."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the camera sees.

    Attributes:
        image: [B, 3, S, S] RGB, 0..1.
        depth: [B, S, S] z in metres, MISS in the sky.
        instance: [B, S, S] slot of the object seen, or GROUND or SKY.
        visible: [B, O] number of pixels that show the object.
        covered: [B, O] number of pixels it would show if nothing stood before it.
    """

    image: Tensor
    depth: Tensor
    instance: Tensor
    visible: Tensor
    covered: Tensor


def render(scenes: Scenes, side: int = 64, chunk: int = 32) -> Rendered:
    """Renders scenes on their device.

    Args:
        scenes: What to render.
        side: Image side S in pixels.
        chunk: Scenes at a time; bounds memory.
    """
    parts = [_render(scenes[i : i + chunk], side) for i in range(0, len(scenes), chunk)]
    return Rendered(
        *(
            torch.cat([getattr(p, name) for p in parts])
            for name in ("image", "depth", "instance", "visible", "covered")
        )
    )


def _render(scenes: Scenes, side: int) -> Rendered:
    batch, device = len(scenes), scenes.fov.device
    ticks = (torch.arange(side, device=device) + 0.5) / side * 2 - 1
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1).reshape(-1, 2)
    rays = torch.cat(
        [grid[None] * scenes.fov[:, None, None], torch.ones(batch, len(grid), 1, device=device)],
        dim=-1,
    )  # [B, P, 3]
    axes = _object_axes(scenes)
    depth_BOP, normal_BOP3 = _cast(scenes, axes, torch.zeros_like(rays[:, :1]), rays, True)
    drop = (rays * scenes.down[:, None]).sum(-1)
    ground_BP = torch.where(drop > 1e-4, scenes.height[:, None] / drop, MISS).clamp(max=MISS)
    nearest, slot = depth_BOP.min(dim=1)
    seen_object = (nearest < ground_BP) & (nearest < MISS)
    seen_ground = ~seen_object & (ground_BP < MISS)
    instance = torch.where(seen_object, slot, torch.where(seen_ground, GROUND, SKY))
    depth = torch.where(seen_object, nearest, ground_BP)
    covered = ((depth_BOP < MISS) & (depth_BOP < ground_BP[:, None])).sum(-1)
    slots = torch.arange(MAX_OBJECTS, device=device)
    visible = (instance[:, None] == slots[None, :, None]).sum(-1)
    image = _shade(scenes, axes, rays, depth, instance, normal_BOP3)
    return Rendered(
        image=image.transpose(1, 2).reshape(batch, 3, side, side),
        depth=depth.reshape(batch, side, side),
        instance=instance.reshape(batch, side, side),
        visible=visible,
        covered=covered,
    )


def _object_axes(scenes: Scenes) -> Tensor:
    """[B, O, 3, 3], rows: the object's two horizontal axes and its vertical one."""
    side, ahead = horizontal_axes(scenes.down.cpu())
    side, ahead = side.to(scenes.down.device)[:, None], ahead.to(scenes.down.device)[:, None]
    cos, sin = scenes.yaw.cos()[..., None], scenes.yaw.sin()[..., None]
    up = (-scenes.down)[:, None].expand(-1, MAX_OBJECTS, -1)
    return torch.stack([side * cos + ahead * sin, ahead * cos - side * sin, up], dim=2)


def _cast(
    scenes: Scenes, axes: Tensor, origin_BP3: Tensor, ray_BP3: Tensor, with_normals: bool
) -> tuple[Tensor, Tensor]:
    """First hit of each ray with each object.

    Returns:
        distance [B, O, P] along the ray, MISS where nothing is hit, and normals [B, O, P, 3].
    """
    batch, rays = len(scenes), max(ray_BP3.shape[1], origin_BP3.shape[1])
    distance = torch.full((batch * MAX_OBJECTS, rays), MISS, device=ray_BP3.device)
    normals = torch.zeros(
        (batch * MAX_OBJECTS, rays if with_normals else 0, 3), device=ray_BP3.device
    )
    for kind, hit in enumerate((_hit_ball, _hit_box, _hit_cylinder)):
        chosen = (scenes.exists & (scenes.shape == kind)).reshape(-1).nonzero()[:, 0]
        scene, slot = chosen // MAX_OBJECTS, chosen % MAX_OBJECTS
        frame = axes[scene, slot].transpose(1, 2)  # [M, 3, 3]
        size = scenes.size[scene, slot][:, None, None]
        # In the object's own frame and unit of size: one ball, one box, one cylinder.
        origin = (origin_BP3[scene] - scenes.centre[scene, slot][:, None]) @ frame / size
        ray = ray_BP3[scene] @ frame / size
        distance[chosen], local = hit(origin, ray)
        if with_normals:
            normals[chosen] = local @ frame.transpose(1, 2)
    shape = (batch, MAX_OBJECTS)
    return distance.reshape(*shape, -1), normals.reshape(*shape, -1, 3)


def _hit_ball(origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (ray * ray).sum(-1), (origin * ray).sum(-1)
    root = b * b - a * ((origin * origin).sum(-1) - 1.0)
    t = (-b - root.clamp(min=0).sqrt()) / a
    t = torch.where((root > 0) & (t > 1e-3), t, MISS)
    return t, origin + t[..., None] * ray


def _hit_box(origin: Tensor, ray: Tensor, half: float = 0.8) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / torch.where(ray.abs() < 1e-6, torch.full_like(ray, 1e-6), ray)
    low, high = (-half - origin) * inverse, (half - origin) * inverse
    enter, axis = torch.minimum(low, high).max(dim=-1)
    leave = torch.maximum(low, high).min(dim=-1).values
    t = torch.where((enter < leave) & (enter > 1e-3), enter, MISS)
    normal = torch.nn.functional.one_hot(axis, 3).to(ray.dtype) * -ray.sign()
    return t, normal.expand(*t.shape, 3)


def _hit_cylinder(
    origin: Tensor, ray: Tensor, radius: float = 0.75, half: float = 0.95
) -> tuple[Tensor, Tensor]:
    flat_o, flat_r = origin[..., :2], ray[..., :2]
    a = (flat_r * flat_r).sum(-1).clamp(min=1e-9)
    b = (flat_o * flat_r).sum(-1)
    root = b * b - a * ((flat_o * flat_o).sum(-1) - radius * radius)
    wall = (-b - root.clamp(min=0).sqrt()) / a
    at = origin[..., 2] + wall * ray[..., 2]
    wall = torch.where((root > 0) & (wall > 1e-3) & (at.abs() < half), wall, MISS)
    steep = torch.where(ray[..., 2].abs() < 1e-6, torch.full_like(a, 1e-6), ray[..., 2])
    cap = (-half * steep.sign() - origin[..., 2]) / steep
    hit = flat_o + cap[..., None] * flat_r
    cap = torch.where(((hit * hit).sum(-1) < radius * radius) & (cap > 1e-3), cap, MISS)
    t = torch.minimum(wall, cap)
    side = (origin + t[..., None] * ray) / radius
    side = torch.cat([side[..., :2], torch.zeros_like(side[..., :1])], dim=-1)
    lid = torch.zeros_like(side)
    lid[..., 2] = -steep.sign()
    return t, torch.where((wall < cap)[..., None], side, lid)


def _shade(
    scenes: Scenes,
    axes: Tensor,
    rays: Tensor,
    depth: Tensor,
    instance: Tensor,
    normal_BOP3: Tensor,
) -> Tensor:
    """Colours [B, P, 3]: Lambert, shadows on the ground, fog in the sky's colour."""
    point = rays * depth.clamp(max=60.0)[..., None]
    slot = instance.clamp(max=MAX_OBJECTS - 1)
    normal = normal_BOP3.gather(1, slot[:, None, :, None].expand(-1, 1, -1, 3))[:, 0]
    albedo = scenes.albedo.gather(1, slot[..., None].expand(-1, -1, 3))
    on_ground = instance == GROUND
    normal = torch.where(on_ground[..., None], -scenes.down[:, None], normal)
    centre = scenes.centre.gather(1, slot[..., None].expand(-1, -1, 3))
    rise = ((centre - point) * scenes.down[:, None]).sum(-1)
    dark = torch.floor(rise / BAND + 0.5).long() % 2 == 1
    albedo = torch.where(dark[..., None], RING_SHADE * albedo, albedo)
    albedo = torch.where(on_ground[..., None], _chequer(scenes, point), albedo)
    shadow, _ = _cast(scenes, axes, point, scenes.light[:, None], False)
    lit = ~((shadow < MISS).any(1) & on_ground)
    lambert = (normal * scenes.light[:, None]).sum(-1).clamp(min=0) * lit
    strength = scenes.ambient[:, None] + (1.05 - scenes.ambient[:, None]) * lambert
    colour = albedo * strength[..., None]
    clear = torch.exp(-scenes.fog[:, None] * depth.clamp(max=60.0))
    clear = torch.where(instance == SKY, torch.zeros_like(clear), clear)[..., None]
    return (colour * clear + scenes.sky[:, None] * (1 - clear)).clamp(0, 1)


def _chequer(scenes: Scenes, point: Tensor) -> Tensor:
    side, ahead = horizontal_axes(scenes.down.cpu())
    axes = torch.stack([side, ahead], dim=-1).to(point.device)  # [B, 3, 2]
    tile = torch.floor(point @ axes / scenes.tile[:, None, None]).sum(-1).long() % 2
    return scenes.ground.gather(1, tile[..., None].expand(-1, -1, 3))
