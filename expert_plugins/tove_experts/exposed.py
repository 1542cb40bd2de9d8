"""What an expert built on transformers exposes: a choice of features, as tokens of a stride.

Experts that segment or detect hold several things that are worth having: a backbone's maps, the map
that the heads read, what each object query found. Their option `features` names one, `stride` says
how many pixels of the image's height and width a token stands for. The functions here turn both
into the spec of that very build, so that a run is planned from what it will get.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tove_experts.hf import as_size, load_model, random_model, read_config, read_image
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec
from tove_plugins.specs import Kind

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_model", "centre_kernels", "expose", "library_config", "taken_image"]

MAP = "map"
"""The features that are a prediction rather than a representation."""


def library_config(
    weights: Path | None, config: Mapping[str, Any], model_types: Collection[str]
) -> Any:  # noqa: ANN401
    """Give the library's config object, with its defaults filled in.

    Args:
        weights: The folder of a config's own weights, whose config.json counts; None if none.
        config: What config.json holds of the default weights or of the tiny build.
        model_types: The `model_type`s that the expert takes.

    Raises:
        ValueError: The folder holds no config.json, or one of another model type.
    """
    from transformers import AutoConfig

    fields = config if weights is None else read_config(weights, model_types)
    # Config classes of transformers take entries out of the nested dictionaries that they get.
    return AutoConfig.for_model(**deepcopy(dict(fields)))


def taken_image(
    spec: ExpertSpec, weights: Path | None, image_size: int | Collection[int] | None
) -> ImageSpec:
    """Give the image that a build takes: as the weights' folder says, else as the spec does.

    Args:
        spec: The expert's spec.
        weights: The folder of a config's own weights; None if none.
        image_size: One side or (height, width) in place of the model's own.

    Raises:
        ValueError: The size is none, or the folder does not tell mean and std.
    """
    size = as_size(image_size)  # type: ignore[arg-type]
    if weights is not None:
        return read_image(weights, size=size, interpolation=spec.image.interpolation)
    return replace(spec.image, size=size or spec.image.size)


def expose(
    spec: ExpertSpec, image: ImageSpec, features: str, stride: int, widths: Mapping[str, int]
) -> ExpertSpec:
    """Give the spec of a build that exposes one of its features.

    Args:
        spec: The expert's spec.
        image: The image that the build takes.
        features: What it exposes.
        stride: Height and width in pixels that a token stands for.
        widths: Token width of everything that it could expose, by name.

    Raises:
        ValueError: There are no such features, or the stride does not divide the image.
    """
    if features not in widths:
        raise ValueError(
            f"features is {features!r}; '{spec.name}' exposes {', '.join(map(repr, widths))}."
        )
    if type(stride) is not int or stride < 1:
        raise ValueError(f"stride is {stride!r}; give a whole number of pixels, 16 for example.")
    height, width = image.size
    if height % stride or width % stride:
        raise ValueError(
            f"An image of {height} x {width} pixels does not divide into tokens of stride "
            f"{stride}; change stride or image_size."
        )
    grid = (height // stride, width // stride)
    kind: Kind = "map" if features == MAP else "features"
    return replace(spec, tokens=TokenSpec(widths[features], grid, kind), image=image)


def build_model(
    class_name: str,
    weights: Path | None,
    config: Mapping[str, Any],
    *,
    may_miss: str | None = None,
    **settings: object,
) -> nn.Module:
    """Load a model of transformers, or make one of random weights where there are none.

    Args:
        class_name: A class of transformers, or one of its Auto classes.
        weights: A folder that `save_pretrained` wrote, or None.
        config: The architecture of a build without weights, as config.json would hold it.
        may_miss: What the names of weights hold that the file need not have, as `load_model` takes.
        settings: Entries of the weights' config to override.
    """
    if weights is None:
        return random_model(class_name, deepcopy(dict(config)))
    return load_model(class_name, weights, may_miss=may_miss, **settings)


def centre_kernels(model: nn.Module) -> None:
    """Leave of every random 3x3 kernel the middle alone: no tap of an untrained one leads."""
    import torch
    from torch import nn

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            middle = torch.zeros_like(layer.weight)
            middle[:, :, 1, 1] = 3  # so that sums keep their variance
            layer.weight.data *= middle
