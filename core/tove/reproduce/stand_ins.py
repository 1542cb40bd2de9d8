"""Experts that bound what experts can be worth on the tiny world: the truth, and another's tokens.

    SceneTruth     what is true of the image: the ceiling. No network; it renders the run's scenes
                   anew and knows an image by its pixels.
    OtherImage     an expert's tokens of another scene, always the same one for an image: the floor,
                   for tokens that look alike and tell nothing of the image.

In a config, with custom_imports=dict(imports=["tove.reproduce.stand_ins"]). Both take the experts'
image of the tiny world as they do, 64 x 64, and give tokens on its 8 x 8 grid.

Shapes: B images, 64 x 64 pixels, 16 x 16 cells of truth, of which 2 x 2 are a token.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.data.tiny_world.rendered import Pool, make_pool, object_of_cells, shape_classes
from tove.data.tiny_world.write import stream_of
from tove.errors import ConfigError
from tove.modules.view_key import view_digest
from tove.registry import EXPERTS
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, build_expert, resolve_expert

__all__ = ["OtherImage", "SceneTruth"]

_CHUNK = 256
_CLASSES = 5  # three shapes, ground, sky
_NUMBERS = 1 + _CLASSES + 4 + 1  # of a cell: depth, class, the object's box and size
_IMAGE = ImageSpec(size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_OTHERS_STREAM = 9  # below those of the splits, and not that of the shipped weights
_OTHERS = 64
_NOISE = 8  # images of noise, which costs are measured on
_NO_MORE = object()


@EXPERTS.register_module()
class SceneTruth(nn.Module):
    """Depth, class, box and size of what fills each cell, of the scenes of a run.

    Args:
        seed: of the run's scenes.
        scenes: how many there are, by split.
    """

    spec = ExpertSpec(
        "scene_truth",
        "truth",
        "tove.reproduce.stand_ins:SceneTruth",
        TokenSpec(4 * _NUMBERS, (8, 8)),
        _IMAGE,
    )

    def __init__(self, seed: int, scenes: Mapping[str, int]) -> None:
        super().__init__()
        self._known: dict[str, Tensor] = {}
        self._unknown: set[str] = set()
        self._rest = self._render(seed, scenes)

    def _render(self, seed: int, scenes: Mapping[str, int]) -> Iterator[None]:
        """Take up the truth of one chunk of scenes after another."""
        for split, count in scenes.items():
            for first in range(0, count, _CHUNK):
                pool = make_pool(stream_of(split, seed), first, min(_CHUNK, count - first))
                tokens_BND = truth_of(pool)
                names = (view_digest(image) for image in pool.images)
                self._known |= dict(zip(names, tokens_BND, strict=True))
                yield

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the truth [B, 64, 44]; zero for an image that is no scene.

        Raises:
            ConfigError: more than a few images are of none of the scenes.
        """
        return torch.stack([self._of(image) for image in _pixels(images_BCHW)]).to(images_BCHW)

    def _of(self, image: Tensor) -> Tensor:
        name = view_digest(image)
        while name not in self._known and next(self._rest, _NO_MORE) is not _NO_MORE:
            pass
        if name in self._known:
            return self._known[name]
        self._unknown.add(name)
        if len(self._unknown) > _NOISE:
            raise ConfigError(
                f"SceneTruth was given {len(self._unknown)} images that are none of its scenes; "
                "give it the `seed` and `scenes` of the run, and images of 64 pixels."
            )
        return torch.zeros(self.spec.tokens.num_tokens, self.spec.tokens.width)


def truth_of(pool: Pool) -> Tensor:
    """Return the truth of scenes as tokens [B, 64, 44]; cells of a token follow row by row."""
    rows = torch.arange(len(pool))
    classes_BC = shape_classes(pool, rows)
    is_object_BC1 = (classes_BC < _CLASSES - 2)[..., None]
    values = [
        pool.depth.flatten(1)[..., None],
        F.one_hot(classes_BC, _CLASSES).float(),
        object_of_cells(pool, rows, pool.boxes) * is_object_BC1,
        object_of_cells(pool, rows, pool.size)[..., None] * is_object_BC1,
    ]
    cells_BDHW = torch.cat(values, -1).unflatten(1, (16, 16)).permute(0, 3, 1, 2)
    return F.pixel_unshuffle(cells_BDHW, 2).flatten(2).transpose(1, 2).contiguous()


@EXPERTS.register_module()
class OtherImage(nn.Module):
    """An expert of the tiny world, looking at another scene.

    Args:
        of: the name of the expert.
    """

    spec = ExpertSpec(
        "other_image",
        "placebo",
        "tove.reproduce.stand_ins:OtherImage",
        TokenSpec(64, (8, 8)),
        _IMAGE,
    )

    others_OCHW: Tensor

    def __init__(self, of: str) -> None:
        super().__init__()
        spec = resolve_expert(of)
        if (spec.tokens, spec.image) != (self.spec.tokens, self.spec.image):
            raise ConfigError(
                f"OtherImage stands in for experts of the tiny world; the tokens or the image of "
                f"'{of}' are others."
            )
        self.expert = build_expert(of)
        others = make_pool(_OTHERS_STREAM, 0, _OTHERS).images.float() / 255
        self.register_buffer("others_OCHW", (others - 0.5) / 0.5)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return tokens [B, 64, 64]."""
        chosen = [int(view_digest(image)[:8], 16) % _OTHERS for image in _pixels(images_BCHW)]
        tokens: Tensor = self.expert(self.others_OCHW[chosen].to(images_BCHW))
        return tokens


def _pixels(images_BCHW: Tensor) -> Tensor:
    """Return the pixels [B, 3, 64, 64] of normalised images, uint8 on the CPU."""
    return ((images_BCHW.float().cpu() * 0.5 + 0.5) * 255).round().to(torch.uint8)
