"""What is no fault passes the kit, or is skipped with a reason; the faults: test_faulty_experts."""

import contextlib
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.conformance.test_faulty_experts import (
    GRID,
    IMAGE,
    WIDTH,
    NormalisesByItself,
    Right,
    StridedConvolutions,
    make_spec,
)
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec
from tove_plugins.testing import ExpertCheckError, check_expert


class TakesGrey(Right):
    """A network for grey images: the mean of the channels is no fault."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.mean(1, keepdim=True).expand_as(images))


class TakesBGR(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flip(1))


class StretchesContrast(Right):
    """As depth maps are scaled, by each image's own extremes."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        low, high = tokens.amin((1, 2), keepdim=True), tokens.amax((1, 2), keepdim=True)
        return (tokens - low) / (high - low + 1e-6)


class ResizesAgain(Right):
    """Its network wants another size."""

    def forward(self, images: Tensor) -> Tensor:
        larger = nn.functional.interpolate(images, scale_factor=2.0, mode="bicubic")
        return super().forward(nn.functional.avg_pool2d(larger, 2))


class Repeats(Right):
    """A coarser map, each of whose tokens is repeated: equal neighbours everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 16, 16)

    def grid(self, images: Tensor) -> Tensor:
        return nn.functional.interpolate(self.patch(images), GRID)


RIGHT = (
    Repeats,
    Right,
    StridedConvolutions,
    NormalisesByItself,
    TakesGrey,
    TakesBGR,
    StretchesContrast,
    ResizesAgain,
)


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("seed", range(3))
def test_no_false_alarm_on_a_right_expert(right: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    check_expert(right().eval(), make_spec(image=getattr(right, "image", IMAGE)))


class Pads(Right):
    """Padded to a square above and below, as for a network that takes squares alone."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        padded = nn.functional.pad(images, (0, 0, height // 2, height // 2))
        resized = nn.functional.interpolate(padded, (height, width), mode="bilinear")
        return super().forward(resized)


@pytest.mark.parametrize("grid", [(5, 5), (5, 12), (12, 5), (8, 4)])
def test_padding_is_seen_along_short_and_long_axes(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = ImageSpec((8 * grid[0], 8 * grid[1]), (0.5,) * 3, (0.25,) * 3)
    spec = ExpertSpec("fixture", "test", "nowhere:Nothing", TokenSpec(WIDTH, grid), image)
    check_expert(Right().eval(), spec, checks=["spatial_order"])
    with pytest.raises(ExpertCheckError, match="halves differ in that by"):
        check_expert(Pads().eval(), spec, checks=["spatial_order"])


class Dilated(nn.Module):
    """Its receptive field is the whole image, and without residuals nothing stays in place."""

    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 8, 8)]
        for by in (1, 2, 4, 8, 4, 2, 1):
            convolution = nn.Conv2d(WIDTH, WIDTH, 3, padding=by, dilation=by)
            layers += [convolution, nn.BatchNorm2d(WIDTH), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


class LargeKernel(Dilated):
    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Conv2d(16, WIDTH, 31, padding=15))


class UpsampledFourfold(Dilated):
    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        up = nn.Upsample(scale_factor=4, mode="bilinear")
        self.layers = nn.Sequential(nn.Conv2d(3, WIDTH, 32, 32), up)


class RepeatedThreefold(Dilated):
    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, WIDTH, 24, 24), nn.Upsample(scale_factor=3))


@pytest.mark.parametrize(
    ("right", "side"),
    [
        (RepeatedThreefold, 12),
        (Dilated, 8),
        (Dilated, 16),
        (LargeKernel, 16),
        (UpsampledFourfold, 16),
    ],
)
def test_a_network_that_mixes_too_strongly_is_skipped(right: type[nn.Module], side: int) -> None:
    torch.manual_seed(0)
    image = ImageSpec((8 * side, 8 * side), (0.5,) * 3, (0.25,) * 3)
    for expert in (right().eval(), None):
        factory = f"{__name__}:{right.__name__}"
        spec = ExpertSpec("fixture", "test", factory, TokenSpec(WIDTH, (side, side)), image)
        given = (spec,) if expert is None else (expert, spec)
        (result,) = check_expert(*given, checks=["spatial_order"])
        assert result.outcome == "skipped"
        assert "mixes too strongly to tell" in result.message
    assert "use --real" in result.message


class DilatedLostRow(Dilated):
    def forward(self, images: Tensor) -> Tensor:
        tokens = self.layers(images)
        return torch.cat([tokens[:, :, :-1], tokens[:, :, -2:-1]], 2).flatten(2).transpose(1, 2)


def test_a_doubled_row_is_seen_behind_any_mixing() -> None:
    torch.manual_seed(0)
    with pytest.raises(ExpertCheckError, match="rows of tokens at the bottom are always equal"):
        check_expert(DilatedLostRow().eval(), make_spec(), checks=["spatial_order"])


class Scripted(Right):
    """Its first layer is TorchScript, which cannot be moved to the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.jit.script(self.patch)


class ScriptedNormalisesAgain(Scripted):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - 0.5) / 0.25)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_no_fault_and_its_input_is_seen() -> None:
    results = {result.name: result for result in check_expert(Scripted().eval(), make_spec())}
    if not torch.cuda.is_available():
        assert "TorchScript" in results["device_follows"].message
    assert results["normalisation"].outcome == "passed"
    with pytest.raises(ExpertCheckError, match="The core has normalised it already"):
        check_expert(ScriptedNormalisesAgain().eval(), make_spec(), checks=["normalisation"])


class KeepsByClosure(Right):
    """Its features are collected by a hook that a copy would share with the original."""

    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.patch.register_forward_hook(lambda *given: self.kept.__setitem__("map", given[2]))

    def grid(self, images: Tensor) -> Tensor:
        self.patch(images)
        return self.kept["map"]


class WeightNorm(Right):
    """Its weight is computed, and has a graph."""

    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        self.patch = nn.utils.weight_norm(self.patch)


class HoldsLock(Right):
    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def grid(self, images: Tensor) -> Tensor:
        with self.lock:
            return super().grid(images)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("right", "reason"),
    [(KeepsByClosure, "hooks reach"), (WeightNorm, "be copied"), (HoldsLock, "be copied")],
)
def test_what_cannot_be_copied_is_built_anew_or_skipped(
    right: type[nn.Module], reason: str
) -> None:
    results = check_expert(make_spec(f"{__name__}:{right.__name__}"))
    skipped = {result.name for result in results if result.outcome == "skipped"}
    assert skipped == {"light_listing", "library_normalisation"}

    results = check_expert(right().eval(), make_spec())
    told = {result.name: result.message for result in results if result.outcome == "skipped"}
    assert reason in told["shape_and_grid"]
    assert "installed name" in told["spatial_order"]


class StaysLocal(Right):
    """Right: a child process and a socket of this machine are no network."""

    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        subprocess.run([sys.executable, "-c", ""], check=True)
        with socket.socket(socket.AF_UNIX) as local, contextlib.suppress(FileNotFoundError):
            local.connect("/no/such/socket")


class SeedsWithinFork(Right):
    """Right: the seed is gone when the build is done."""

    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__()
        self.patch.reset_parameters()


def test_what_stays_on_the_machine_is_no_network() -> None:
    (result,) = check_expert(make_spec(f"{__name__}:StaysLocal"), checks=["offline_build"])
    assert result.outcome == "passed"


def test_random_weights_may_be_drawn_and_seeded_within_a_fork() -> None:
    for right in ("Right", "SeedsWithinFork"):
        (result,) = check_expert(make_spec(f"{__name__}:{right}"), checks=["global_state"])
        assert result.outcome == "passed"


class Symmetric(Right):
    """Symmetric kernels, and attention without positions: it does not tell left from right."""

    def __init__(self) -> None:
        super().__init__()
        self.patch.weight.data += self.patch.weight.data.flip(3)


def test_an_expert_that_mirrors_may_say_so() -> None:
    torch.manual_seed(0)
    spec = make_spec()
    spec = replace(spec, tokens=replace(spec.tokens, mirrors=True))
    (told,) = check_expert(Symmetric().eval(), spec, checks=["mirrors"])
    assert told.outcome == "passed"
