"""What an expert's library says of the images that its network knows, held against the spec.

timm writes mean and std into `pretrained_cfg`, open_clip into `image_mean` and `image_std` of the
visual tower, OpenMMLab into the buffers of a data preprocessor, transformers into the file of an
image processor beside the weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tove_plugins._resources import find_weights
from tove_plugins.image_processor import read_image_processor
from tove_plugins.specs import ImageSpec
from tove_plugins.testing._known_normalisations import Triple, close
from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import Subject

__all__: list[str] = []

SLACK = 2e-3  # of pixels in [0, 1]: libraries round, 123.68 is not 0.485 * 255 to the last digit
BYTE = 255.0


@dataclass(frozen=True, slots=True)
class Statement:
    """Mean and std per channel, for pixels in [0, 1], and who says so."""

    source: str
    mean: Triple
    std: Triple


@expert_check("built")
def check_library_normalisation(subject: Subject) -> None:
    """Images normalised with another network's mean and std make good weights look bad.

    Where the expert's library tells mean and std (timm's `pretrained_cfg`, open_clip's
    `image_mean`, an OpenMMLab data preprocessor, a preprocessor_config.json beside the weights),
    the spec's must be the same. The small random build may be another architecture and is not
    looked at, nor is an expert that normalises by itself.

    Mend: Copy mean, std and range from the library to the spec, in the order red, green, blue.
    """
    image = subject.spec.image
    if subject.rebuild is not None and not subject.real:
        raise SkipCheck("The small build need not have the statistics of the trained weights.")
    if image.mean == (0, 0, 0) and image.std == (1, 1, 1):
        raise SkipCheck("The spec leaves the normalisation to the expert.")
    statements = _statements(subject)
    if not statements:
        raise SkipCheck("Its library tells no mean and std.")
    mean, std = _for_unit_range(image)
    if any(close(mean, said.mean, SLACK) and close(std, said.std, SLACK) for said in statements):
        return
    said = statements[0]
    turned = close(mean, said.mean[::-1], SLACK) and close(std, said.std[::-1], SLACK)
    fail(
        f"For pixels in (0, 1), its {said.source} says mean {_told(said.mean)} and std "
        f"{_told(said.std)}; the spec says mean {_told(mean)} and std {_told(std)}."
        + (" The spec's are in the order BGR." if turned else "")
    )


def _statements(subject: Subject) -> list[Statement]:
    """Give what the outermost library says: a wrapper knows better than the network within."""
    modules = list(subject.fresh().modules())
    for find in (_of_preprocessor, _of_tower, _of_timm):
        found = [said for module in modules for said in find(module)]
        if found:
            return found
    return list(_of_folder(subject))


def _of_preprocessor(module: nn.Module) -> Iterator[Statement]:
    """Read mmengine's ImgDataPreprocessor, or mmpretrain's."""
    mean, std = (getattr(module, part, None) for part in ("mean", "std"))
    if not getattr(module, "_enable_normalize", False) or not isinstance(mean, Tensor):
        return
    sides = [(side.flatten() / BYTE).tolist() for side in (mean, std) if isinstance(side, Tensor)]
    knows_rgb = getattr(module, "_channel_conversion", False) or getattr(module, "to_rgb", False)
    if not knows_rgb:  # its images are read as BGR, and the network is given them so
        sides = [side[::-1] for side in sides]
    yield from _statement("data preprocessor", *sides)


def _of_tower(module: nn.Module) -> Iterator[Statement]:
    """Read open_clip's visual tower."""
    told = getattr(module, "preprocess_cfg", None)
    if isinstance(told, Mapping):
        yield from _statement("preprocess_cfg", told.get("mean"), told.get("std"))
    else:
        sides = (getattr(module, f"image_{part}", None) for part in ("mean", "std"))
        yield from _statement("image_mean", *sides)


def _of_timm(module: nn.Module) -> Iterator[Statement]:
    """Read a network of timm."""
    told = getattr(module, "pretrained_cfg", None)
    if isinstance(told, Mapping):
        yield from _statement("pretrained_cfg", told.get("mean"), told.get("std"))


def _of_folder(subject: Subject) -> Iterator[Statement]:
    """Read what lies beside the weights, in the form of transformers."""
    weights = subject.spec.weights
    if weights is None or not subject.real:
        return
    found = find_weights(weights.source)
    told = read_image_processor(found if found.is_dir() else found.parent)
    if told is not None and told.normalises:
        yield from _statement(told.file.name, told.mean, told.std)


def _statement(source: str, mean: Any, std: Any) -> Iterator[Statement]:  # noqa: ANN401
    """Give a statement if mean and std are three numbers each."""
    sides = [tuple(side) if isinstance(side, list | tuple) else () for side in (mean, std)]
    if all(len(side) == 3 and all(isinstance(v, int | float) for v in side) for side in sides):
        yield Statement(source, *sides)


def _for_unit_range(image: ImageSpec) -> tuple[Triple, Triple]:
    """Give the spec's mean and std for pixels in [0, 1]."""
    low, high = image.value_range
    mean, std = torch.tensor(image.mean), torch.tensor(image.std)
    unit = [((mean - low) / (high - low)).tolist(), (std / (high - low)).tolist()]
    return tuple(unit[0]), tuple(unit[1])


def _told(triple: Triple) -> str:
    return "({})".format(", ".join(f"{value:.4g}" for value in triple))
