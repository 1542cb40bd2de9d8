"""Normalisation: what reaches the first layer must be the image as the spec normalises it.

A plain-coloured image stays plain through crops, resizing, padding, patches and turned channels, so
what a layer receives for a few colours tells the arithmetic on the way exactly:

    received = sum_c A_c * given_c + b      one row (A, b) for each entry, by least squares

An untouched channel has one A_c = 1 and b = 0, padding has A = 0.
Shapes: K colours, P entries of what the layer receives, 3 channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tove_plugins.specs import ImageSpec
from tove_plugins.testing._known_normalisations import name_affine
from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import SEED, Subject
from tove_plugins.testing._tracing import first_layer_inputs

__all__: list[str] = []

COLOURS = (
    (0.2, 0.2, 0.2),
    (0.8, 0.5, 0.3),
    (0.5, 0.2, 0.8),
    (0.3, 0.8, 0.5),
    (0.7, 0.7, 0.2),
    (0.4, 0.6, 0.7),
    (0.6, 0.3, 0.6),
)
MAX_ENTRIES = 20_000  # that are looked at, drawn at random
MIN_GAIN = 1e-6  # below, an entry does not depend on the colour: padding, coordinates
MIN_SHARE = 0.5  # of the entries that depend on the colour
SCALE_SLACK = 0.02  # of the scale, and of the image's contrast for the offset
MAX_RESIDUAL = 1e-3  # of the contrast; more is no affine map
CONTRAST_RANGE = (0.1, 300.0)  # from black to white at the first layer, in any network we know of
MAX_CENTRE = 2.0  # distance of grey from 0, in units of that contrast


@dataclass(frozen=True, slots=True)
class Affine:
    """What becomes of each channel of the given image on its way: times `scale` plus `offset`."""

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    def __str__(self) -> str:
        """Give it in words."""
        scale, offset = (", ".join(f"{v:.4g}" for v in side) for side in (self.scale, self.offset))
        return f"times ({scale}) plus ({offset})"


@expert_check("built")
def check_normalisation(subject: Subject) -> None:
    """The weights know images of one range and one mean; normalised twice, they see noise.

    Plain-coloured images are given, and what the first convolution, matrix product or norm receives
    is compared with them. Patches, padding, resizing, grey and turned channels pass. A scale or an
    offset does not, unless the spec leaves normalising to the expert with mean 0 and std 1: then
    black and white must arrive at a usual distance.

    Mend: Take the normalisation out of `forward`, the core has done it from the spec. If the
    library's own code cannot be kept from it, declare what that code expects: mean (0, 0, 0),
    std (1, 1, 1) and its `value_range`.
    """
    image = subject.spec.image
    pixels = [torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, *image.size) for c in COLOURS]
    given = [subject.normalise(pixel) for pixel in pixels]
    received_KP = _received(subject, given)
    found = _affine(received_KP, image)
    left_to_expert = image.mean == (0, 0, 0) and image.std == (1, 1, 1)
    if found is None:
        if not left_to_expert:
            _check_clipping(received_KP, torch.stack([one[0, :, 0, 0] for one in given]))
            _check_own_statistics(subject)
        raise SkipCheck("What its first layer receives is no longer an image.")
    if left_to_expert:
        _check_range(found, image)
    elif not _is_identity(found, image):
        fail(
            f"What its first layer receives is the given image {found}, per channel: "
            f"{name_affine(found.scale, found.offset)}. The core has normalised it already."
        )


def _received(subject: Subject, given: list[Tensor]) -> Tensor:
    """Give some of what the first layer receives for each image, [K, P], float64 on the CPU."""
    received = first_layer_inputs(subject.fresh(), given)
    if received is None:
        raise SkipCheck("The image reaches no convolution, matrix product or norm.")
    if len(received) < len(given) or len({tensor.shape for tensor in received}) > 1:
        raise SkipCheck("What its first layer receives changes its shape with the image.")
    chance = torch.Generator().manual_seed(SEED)
    chosen_P = torch.randint(received[0].numel(), (MAX_ENTRIES,), generator=chance)
    chosen_P = chosen_P.to(received[0].device)
    return torch.stack([tensor.flatten()[chosen_P] for tensor in received]).double().cpu()


def _contrast(image: ImageSpec) -> Tensor:
    """Give the distance from black to white per channel, as the core normalises."""
    low, high = image.value_range
    return (high - low) / torch.tensor(image.std, dtype=torch.float64)


def _affine(received_KP: Tensor, image: ImageSpec) -> Affine | None:
    """Fit the map from the given image to what arrives; None where that is no image."""
    pixels_K4 = torch.tensor([(*colour, 1.0) for colour in COLOURS], dtype=torch.float64)
    fitted_4P = torch.linalg.pinv(pixels_K4) @ received_KP
    residual_P = (pixels_K4 @ fitted_4P - received_KP).abs().amax(0)
    return _summary(fitted_4P, residual_P, image)


def _summary(fitted_4P: Tensor, residual_P: Tensor, image: ImageSpec) -> Affine | None:
    """Give the usual map of each channel over all entries, in terms of the given image."""
    low, high = image.value_range
    std_3, mean_3 = (torch.tensor(side, dtype=torch.float64) for side in (image.std, image.mean))
    # From pixels in [0, 1] to the image that was given: pixel = (x std + mean - low) / span
    gain_3P = fitted_4P[:3] * (std_3 / (high - low))[:, None]
    shift_P = fitted_4P[3] + ((mean_3 - low) / (high - low)) @ fitted_4P[:3]
    size_P = gain_3P.abs().amax(0)
    depends_P = size_P > MIN_GAIN
    is_pixel_P = depends_P & (residual_P < MAX_RESIDUAL * fitted_4P[:3].abs().amax(0))
    one_channel_P = is_pixel_P & ((gain_3P.abs() > SCALE_SLACK * size_P).sum(0) == 1)
    if float(one_channel_P.sum()) < MIN_SHARE * float(depends_P.sum()) or not depends_P.any():
        grey_P = is_pixel_P & (gain_3P.amin(0) >= 0)
        if float(grey_P.sum()) < MIN_SHARE * float(depends_P.sum()) or not grey_P.any():
            return None  # mixed by a layer that was not seen as one
        total, shift = float(gain_3P.sum(0)[grey_P].median()), float(shift_P[grey_P].median())
        return Affine((total,) * 3, (shift,) * 3)
    scale, offset = [1.0] * 3, [0.0] * 3  # of a channel that is not used
    for channel in range(3):
        mine_P = one_channel_P & (gain_3P.abs().argmax(0) == channel)
        if mine_P.any():
            scale[channel] = float(gain_3P[channel, mine_P].median())
            offset[channel] = float(shift_P[mine_P].median())
    return Affine((scale[0], scale[1], scale[2]), (offset[0], offset[1], offset[2]))


def _is_identity(found: Affine, image: ImageSpec) -> bool:
    scale, offset = torch.tensor(found.scale), torch.tensor(found.offset)
    slack = SCALE_SLACK * _contrast(image)
    return bool(((scale - 1).abs() < SCALE_SLACK).all() and (offset.abs() < slack).all())


def _check_range(found: Affine, image: ImageSpec) -> None:
    """Where the expert normalises by itself, black and white must arrive as networks know them."""
    low, high = image.value_range
    scale, offset = torch.tensor(found.scale), torch.tensor(found.offset)
    contrast = scale.abs() * (high - low)
    centre = scale * (high + low) / 2 + offset
    usual = (contrast > CONTRAST_RANGE[0]) & (contrast < CONTRAST_RANGE[1])
    if bool((usual & (centre.abs() < MAX_CENTRE * contrast)).all()):
        return
    black, white = (float((scale * end + offset)[0]) for end in (low, high))
    fail(
        f"Black arrives at its first layer as {black:.4g} and white as {white:.4g}: it turns "
        f"images in ({low:g}, {high:g}) into {found}, per channel, which looks like another "
        "value_range than the spec's."
    )


def _check_clipping(received_KP: Tensor, given_K3: Tensor) -> None:
    """A normalised image has values below 0 and above 1; clipping them takes half of it away."""
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        clipped_K3 = given_K3.double().cpu().clamp(low, high)
        distance_P3 = (received_KP[:, :, None] - clipped_K3[:, None]).abs().amax(0)
        if float((distance_P3.amin(1) < 1e-5 * high).double().mean()) > 0.5:
            fail(f"It clips the normalised image to ({low}, {high}) before its first layer.")


def _check_own_statistics(subject: Subject) -> None:
    """Faint and dark images that all arrive with mean 0 and spread 1 were standardised each."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.rand(2, 1, 3, *subject.spec.image.size, generator=generator)
    given = [
        subject.normalise(low + 0.2 * image) for low, image in zip((0.1, 0.6), noise, strict=True)
    ]
    received_KP = _received(subject, given)
    centred = received_KP.mean(1).abs().max() < 0.1
    spread = (received_KP.std(1) - 1).abs().max() < 0.1
    if bool(centred & spread):
        fail(
            "It standardises every image by the image's own mean and spread; the core has "
            "normalised it already."
        )
