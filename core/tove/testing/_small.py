"""Small parts to try a method on: the shipped tiny encoder and language model, two toy experts.

Shapes: B batch, 3 x S x S the images, h x w an expert's grid, D its width.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn import functional as F

from tove.config.overlay import merged_settings
from tove.config.validation import accepted_arguments
from tove.protocols import Sample
from tove.registry import MODELS, SCOPE
from tove_plugins import ExpertSpec, ImageSpec, MethodSpec, TokenSpec, discover_methods
from tove_plugins import import_method as import_installed

__all__ = ["IMAGE_SIZE", "small_batch", "small_model", "small_settings"]

IMAGE_SIZE = 64
_SIDE = 24  # of the image that the toy experts take


class _ToyExpert(nn.Module):
    """Colours of every cell, mixed by a fixed matrix: the same weights in every build."""

    spec: ExpertSpec

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(self.spec.tokens.width)
        self.mix_3D = nn.Parameter(torch.randn(3, self.spec.tokens.width, generator=generator))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return tokens [B, h * w, D]."""
        cells_Bhw3 = F.adaptive_avg_pool2d(images_BCHW, self.spec.tokens.grid).flatten(2).mT
        return (cells_Bhw3 @ self.mix_3D).tanh()


def _toy_spec(name: str, width: int, side: int) -> ExpertSpec:
    return ExpertSpec(
        name=name,
        task="testing",
        factory="tove.testing._small:_ToyExpert",
        tokens=TokenSpec(width, (side, side)),
        image=ImageSpec((_SIDE, _SIDE), (0.5,) * 3, (0.25,) * 3),
    )


class _Coarse(_ToyExpert):
    """Fewer tokens than the encoder."""

    spec = _toy_spec("coarse", 12, 4)


class _Fine(_ToyExpert):
    """More tokens than the encoder."""

    spec = _toy_spec("fine", 5, 12)


def small_settings(spec: MethodSpec, kind: str) -> dict[str, Any]:
    """Return the settings of a small model of one of a method's types.

    Args:
        spec: whose `tiny` lies over them.
        kind: a name in MODELS, registered already.
    """
    settings = {
        "type": kind,
        "encoder": {"type": "TransformersCLIP", "pretrained": "pkg:tove/assets/tiny_clip"},
        "experts": {"coarse": {"type": _Coarse}, "fine": {"type": _Fine}},
        "language": {
            "type": "CausalLanguageModel",
            "pretrained": "pkg:tove/assets/tiny_lm",
            "adapters": {"type": "bottleneck", "width": 4},
        },
        "generation": {"num_beams": 1, "max_new_tokens": 3},
    }
    known = accepted_arguments(MODELS.get(kind))
    taken = {key: value for key, value in settings.items() if known is None or key in known}
    return merged_settings(taken, spec.as_dict()["tiny"])


def small_model(
    name: str, kind: str | None = None, seed: int = 0, **over: Mapping[str, Any] | object
) -> Any:  # noqa: ANN401 - a method's model
    """Build a small model of an installed method: two toy experts, the shipped tiny parts.

    Args:
        name: the method's.
        kind: which of its types in MODELS; the first if None.
        seed: of its initial weights.
        over: settings laid over the small ones.
    """
    import_installed(name)
    spec = discover_methods().get(name).spec
    kind = kind or next(t.partition(".")[2] for t in spec.types if t.startswith("MODELS."))
    return build_small(merged_settings(small_settings(spec, kind), over), seed)


def build_small(settings: Mapping[str, Any], seed: int = 0) -> Any:  # noqa: ANN401
    """Build a model of whole settings; the caller's random numbers stay as they were."""
    init_default_scope(SCOPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS.build(dict(settings))


def small_batch(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return a batch: uint8 images [4, 3, 64, 64] and their samples, statements and captions."""
    generator = torch.Generator().manual_seed(1)
    shape = (4, 3, IMAGE_SIZE, IMAGE_SIZE)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    statements = [
        {"task": "statement", "prompt": "the red ball is left of the blue box ?", "target": answer}
        for answer in ("yes", "no")
    ]
    captions = [{"task": "caption", "prompt": "", "target": "a red ball"} for _ in range(2)]
    samples: list[Sample] = [
        {**sample, "image_id": f"image {index}", "candidates": ["no", "yes"]}
        for index, sample in enumerate([*statements, *captions])
    ]
    return {"images": images, "data_samples": samples}
