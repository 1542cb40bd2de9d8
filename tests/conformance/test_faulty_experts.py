"""The kit names each fault by the right check, and gives no false alarm on a right expert."""

import contextlib
import itertools
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec
from tove_plugins.testing import ExpertCheckError, all_checks, check_expert

WIDTH, GRID = 32, (6, 8)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TOKENS, IMAGE = TokenSpec(WIDTH, GRID), ImageSpec((48, 64), (0.5,) * 3, (0.25,) * 3)


def make_spec(
    factory: str = "nowhere:Nothing", image: ImageSpec = IMAGE, tokens: TokenSpec = TOKENS
) -> ExpertSpec:
    return ExpertSpec("fixture", "test", factory, tokens, image)


class Right(nn.Module):
    """Patch embedding and some mixing: right in every respect."""

    def __init__(self, spec: ExpertSpec | None = None, weights: object = None) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 8, 8)
        self.mix = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True)

    def grid(self, images: Tensor) -> Tensor:
        return self.patch(images)  # [B, D, h, w]

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(self.grid(images).flatten(2).transpose(1, 2))


class StridedConvolutions(nn.Module):
    """Half a cell off, as every ResNet is: right too."""

    def __init__(self) -> None:
        super().__init__()
        sides = (3, 16, 16, WIDTH)
        self.layers = nn.Sequential(
            *(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(sides))
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).flatten(2).transpose(1, 2)


class ClassTokenKept(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


class ClassTokenAsPatch(ClassTokenKept):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :-1]


class ChannelsFirstReshaped(Right):
    def forward(self, images: Tensor) -> Tensor:
        return self.grid(images).reshape(len(images), -1, WIDTH)


class Transposed(Right):
    def forward(self, images: Tensor) -> Tensor:
        return self.grid(images).transpose(2, 3).flatten(2).transpose(1, 2)


class TellsLeftFromRight(Right):
    """Its kernels are not symmetric, and its spec says that it mirrors."""

    tokens = replace(TOKENS, mirrors=True)


class UpsideDown(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flip(2))


class Mirrored(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.flip(3))


class OffByOne(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).roll(-1, dims=1)


class RegistersAsPatches(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return torch.cat([tokens.mean(1, keepdim=True).expand(-1, 3, -1), tokens], 1)[:, :-3]


class OneRowLate(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).roll(GRID[1], dims=1)


class OnMaps(Right):
    """Its tokens are changed as a map."""

    def map(self, images: Tensor) -> Tensor:
        return Right.forward(self, images).transpose(1, 2).unflatten(2, GRID)


class OneColumnLate(OnMaps):
    def forward(self, images: Tensor) -> Tensor:
        return self.map(images).roll(1, 3).flatten(2).transpose(1, 2)


class Turned(OnMaps):
    def forward(self, images: Tensor) -> Tensor:
        return self.map(images).rot90(1, (2, 3)).flatten(2).transpose(1, 2)


class LastRowLost(OnMaps):
    """Its attention sees the last row all the same."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.map(images)
        return torch.cat([tokens[:, :, :-1], tokens[:, :, -2:-1]], 2).flatten(2).transpose(1, 2)


class LastColumnLost(OnMaps):
    def forward(self, images: Tensor) -> Tensor:
        tokens = nn.functional.interpolate(self.map(images)[..., :-1], GRID, mode="bilinear")
        return tokens.flatten(2).transpose(1, 2)


class RegistersAtTheEnd(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return torch.cat([tokens, tokens.mean(1, keepdim=True).expand(-1, 4, -1)], 1)[:, 4:]


class Pooled(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return tokens.mean(1, keepdim=True).expand_as(tokens).clone()


class CropsTheCentre(Right):
    """As evaluation pipelines do: resized to 8/7 and cut."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        middle = images[..., height // 16 : -height // 16, width // 16 : -width // 16]
        return super().forward(nn.functional.interpolate(middle, (height, width), mode="bilinear"))


class ShiftedAlongRows(Right):
    """By three quarters of a cell and to one side only: no stride does that."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.roll(6, dims=3))


class CropsOneSide(Right):
    def forward(self, images: Tensor) -> Tensor:
        kept = images[..., :-8, :]
        resized = nn.functional.interpolate(kept, images.shape[2:], mode="bilinear")
        return super().forward(resized)


class Blind(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.zeros_like(images))


class MapNotFlattened(Right):
    def forward(self, images: Tensor) -> Tensor:
        return self.grid(images)


class WrongWidth(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[..., 1:]


class GivesTuple(Right):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (super().forward(images),)


class NormalisesAgain(Right):
    def forward(self, images: Tensor) -> Tensor:
        mean, std = images.new_tensor(IMAGENET).view(2, 3, 1, 1)
        return super().forward((images - mean) / std)


class TakesTheMeanAgain(Right):
    """Not the spread: the image only lies elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 0.5)


class DividesBy255(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / 255)


class UndoesNormalisation(Right):
    """Its network knows images in [0, 1]; the spec should have said mean 0 and std 1."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 0.25 + 0.5)


class Clips(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.clamp(0, 1))


class StandardisesEach(Right):
    def forward(self, images: Tensor) -> Tensor:
        mean, std = images.mean((1, 2, 3), True), images.std((1, 2, 3), keepdim=True)
        return super().forward((images - mean) / (std + 1e-6))


class NormalisesByItself(Right):
    """Right where the spec leaves it to the expert, with images in [0, 1]."""

    image = ImageSpec(IMAGE.size, (0.0,) * 3, (1.0,) * 3)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - 0.5) / 0.25)


class ExpectsUnitRange(NormalisesByItself):
    """Its spec says (0, 255), mean 0 and std 1."""

    image = ImageSpec(IMAGE.size, (0.0,) * 3, (1.0,) * 3, (0.0, 255.0))


class ExpectsBytes(NormalisesByItself):
    """Its spec says (0, 1), mean 0 and std 1."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / 255)


class OthersStatistics(Right):
    """A network of timm under another network's mean and std."""

    def __init__(self) -> None:
        super().__init__()
        self.patch.pretrained_cfg = {"mean": IMAGENET[0], "std": IMAGENET[1]}


class StatisticsInBGR(OthersStatistics):
    image = ImageSpec(IMAGE.size, IMAGENET[0][::-1], IMAGENET[1][::-1])


class DropoutAlways(Right):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images), 0.1)


class BatchStatistics(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return (tokens - tokens.mean(0)) / (tokens.std(0, unbiased=False) + 1)


class InputBatchMax(Right):
    """Images of noise all have the same extremes, photographs do not."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / images.abs().max() * 2)


class TokensBatchSpread(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return torch.tanh(tokens / tokens.std())


class HalvesBatch(Right):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 1:
            return super().forward(images)
        halves = images.view(2, len(images) // 2, *images.shape[1:])
        return torch.cat([super(HalvesBatch, self).forward(half) for half in halves])


class RunningState(Right):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.count += 1
        return super().forward(images)


class DeafToEval(Right):
    def eval(self) -> nn.Module:
        return self


class EnablesGrad(Right):
    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            return super().forward(images)


class InferenceMode(Right):
    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)


class LooseConstant(Right):
    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.full((WIDTH,), 0.1)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) - self.shift.to(images.dtype)


class AlwaysFloat32(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).float()


class Float64AsFloat32(Right):
    """As libraries do that know mixed precision only."""

    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        return tokens.float() if tokens.dtype == torch.float64 else tokens


class DividesByContrast(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images / images.std(dim=(1, 2, 3), keepdim=True))


class InPlace(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        images.zero_()  # "no longer needed"
        return tokens


class ReadsMemory(Right):
    def forward(self, images: Tensor) -> Tensor:
        flat = torch.as_strided(images, images.shape, (3 * 48 * 64, 48 * 64, 64, 1))
        return super().forward(flat)


class KeptBuffer(Right):
    def forward(self, images: Tensor) -> Tensor:
        tokens = super().forward(images)
        kept = getattr(self, "kept", None)
        if kept is None or kept.shape != tokens.shape or kept.dtype != tokens.dtype:
            self.kept = torch.empty_like(tokens)
        return self.kept.copy_(tokens)


class LazyLayer(Right):
    def forward(self, images: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = nn.LayerNorm(WIDTH).to(images)
        return self.late(super().forward(images))


class Phones(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        socket.getaddrinfo("example.invalid", 443)


class PhonesLater(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        socket.getaddrinfo("example.invalid", 443)
        return super().forward(images)


class PhonesInSecret(Right):
    """Goes on without an answer: on a machine with a network it is another expert."""

    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        with contextlib.suppress(BaseException):
            socket.create_connection(("192.0.2.1", 80), 0.1)


class SendsDatagram(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("192.0.2.1", 9))


class FetchesByCommand(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        with contextlib.suppress(OSError):
            subprocess.run(["curl", "-s", "-m", "1", "example.invalid"], check=False)


class SeedsForward(Right):
    """The run's dropout draws the same numbers at every step."""

    def forward(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().forward(images)


class SeedsBuild(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        torch.manual_seed(0)
        super().__init__()


class SetsDefaultDtype(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)


class TurnsGradOff(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        torch.set_grad_enabled(False)


class NumpyWeights(Right):
    def __init__(self, spec: ExpertSpec, weights: object = None) -> None:
        super().__init__()
        noise = np.random.default_rng().normal(size=self.patch.weight.shape)
        self.patch.weight.data = torch.tensor(noise, dtype=torch.float32)


class Zeros(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).relu() * 0


FAULTS: list[tuple[type[nn.Module], str, str]] = [
    (ClassTokenKept, "shape_and_grid", "class or register tokens"),
    (MapNotFlattened, "shape_and_grid", "Flatten the map"),
    (WrongWidth, "shape_and_grid", "declares (2, 48, 32)"),
    (GivesTuple, "shape_and_grid", "tuple"),
    (ClassTokenAsPatch, "spatial_order", "class token is counted"),
    (ChannelsFirstReshaped, "spatial_order", "channels-first"),
    (Transposed, "spatial_order", "transposed"),
    (UpsideDown, "spatial_order", "rows are flipped"),
    (Mirrored, "spatial_order", "columns are flipped"),
    (OffByOne, "spatial_order", "one early"),
    (RegistersAsPatches, "spatial_order", "3 late: class and register tokens"),
    (OneRowLate, "spatial_order", "one row late"),
    (OneColumnLate, "spatial_order", "one column late"),
    (Turned, "spatial_order", "turned by 90 degrees, counterclockwise"),
    (LastRowLost, "spatial_order", "rows of tokens at the bottom are always equal"),
    (LastColumnLost, "spatial_order", "No token lies at the right of the image"),
    (RegistersAtTheEnd, "spatial_order", "4 early: the first 4 patches were dropped"),
    (Pooled, "spatial_order", "All tokens move alike"),
    (CropsTheCentre, "spatial_order", "sees the top and bottom and left and right of the image"),
    (ShiftedAlongRows, "spatial_order", "rows and columns off"),
    (CropsOneSide, "spatial_order", "sees the bottom of the image: it is cropped"),
    (Blind, "spatial_order", "do not see the image"),
    (Zeros, "token_scale", "All tokens of all images are the same (RMS 0)"),
    (NormalisesAgain, "normalisation", "normalises again, with ImageNet's"),
    (TakesTheMeanAgain, "normalisation", "plus (-0.5, -0.5, -0.5)"),
    (DividesBy255, "normalisation", "divides by 255"),
    (UndoesNormalisation, "normalisation", "The core has normalised it already"),
    (Clips, "normalisation", "clips"),
    (StandardisesEach, "normalisation", "standardises every image"),
    (ExpectsUnitRange, "normalisation", "value_range"),
    (ExpectsBytes, "normalisation", "value_range"),
    (OthersStatistics, "library_normalisation", "pretrained_cfg says mean (0.485, 0.456, 0.406)"),
    (StatisticsInBGR, "library_normalisation", "in the order BGR"),
    (TellsLeftFromRight, "mirrors", "the spec must not say `mirrors`"),
    (DropoutAlways, "deterministic", "randomness"),
    (BatchStatistics, "batch_independence", "across the batch"),
    (InputBatchMax, "batch_independence", "extremes of the whole batch"),
    (TokensBatchSpread, "batch_independence", "across the batch"),
    (RunningState, "eval_behaviour", "count"),
    (DeafToEval, "eval_behaviour", "does not follow .eval()"),
    (EnablesGrad, "no_grad", "require grad"),
    (InferenceMode, "no_grad", "inference tensors"),
    (LooseConstant, "device_follows", "register_buffer"),
    (AlwaysFloat32, "dtype_follows", "bfloat16"),
    (Float64AsFloat32, "dtype_follows", "Cast to torch.float64"),
    (DividesByContrast, "finite", "image"),
    (InPlace, "input_layout", "in place"),
    (ReadsMemory, "input_layout", "channels-last"),
    (KeptBuffer, "output_not_reused", "overwrites"),
    (LazyLayer, "state_dict_stable", "adds or removes"),
    (Phones, "offline_build", "network"),
    (PhonesLater, "offline_build", "network"),
    (PhonesInSecret, "offline_build", "the address of 192.0.2.1"),
    (SendsDatagram, "offline_build", "a connection to 192.0.2.1:9"),
    (FetchesByCommand, "offline_build", "the command 'curl"),
    (NumpyWeights, "deterministic", "one seed"),
    (SeedsForward, "global_state", "Calling it changes the seed of torch's random numbers"),
    (SeedsBuild, "global_state", "Building it changes the seed of torch's random numbers"),
    (SetsDefaultDtype, "global_state", "the default dtype from torch.float32 to torch.float64"),
    (TurnsGradOff, "global_state", "the grad mode from True to False"),
]
ALSO = {Blind: {"token_scale"}, Zeros: {"spatial_order"}}  # tokens that never change lie nowhere
BUILT = (NumpyWeights, SeedsBuild, SetsDefaultDtype, TurnsGradOff)  # the fault is in building


RANDOM = (DropoutAlways, DeafToEval)  # chance differs wherever two results are compared


@pytest.mark.parametrize(("fault", "check", "words"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_each_fault_is_named_by_the_right_check(
    fault: type[nn.Module], check: str, words: str
) -> None:
    torch.manual_seed(0)
    if check == "offline_build" or fault in BUILT:
        results = check_expert(
            make_spec(f"{__name__}:{fault.__name__}"), checks=[check], raise_on_failure=False
        )
    else:
        image, tokens = getattr(fault, "image", IMAGE), getattr(fault, "tokens", TOKENS)
        spec = make_spec(image=image, tokens=tokens)
        results = check_expert(fault().eval(), spec, raise_on_failure=False)
    failed = {result.name: result.message for result in results if result.outcome == "failed"}
    assert words in failed.get(check, ""), failed
    if fault not in RANDOM:
        assert set(failed) == {check} | ALSO.get(fault, set())


class Loud(Right):
    """As some backbones: a few channels far larger than all others, and a scale of hundreds."""

    def forward(self, images: Tensor) -> Tensor:
        factors = torch.full((WIDTH,), 60.0)
        factors[[3, 17]] = 6e3
        return super().forward(images) * factors.to(images)


def test_scale_and_outlier_channels_are_told() -> None:
    torch.manual_seed(0)
    checks = ["token_scale"]
    (loud,) = check_expert(Loud().eval(), make_spec(), checks=checks)
    assert loud.outcome == "passed"
    assert "of 32 channels 2 (3, 17) have an RMS above 10 times" in loud.message
    torch.manual_seed(0)
    expert = Right().eval()
    (plain,) = check_expert(expert, make_spec(), checks=checks)
    assert plain.message.endswith("; no outlier channel.")
    scaled = Scaled(expert, 1e6)
    (large,) = check_expert(scaled, make_spec(), checks=checks)
    told = [r.message.split("mean token norm ")[1].split(";")[0] for r in (plain, large)]
    assert float(told[1]) == pytest.approx(1e6 * float(told[0]), rel=1e-2)


class Scaled(nn.Module):
    def __init__(self, expert: nn.Module, factor: float) -> None:
        super().__init__()
        self.expert, self.factor = expert, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.expert(images)


def test_an_odd_batch_is_tried() -> None:
    checks = ["shape_and_grid", "batch_independence"]
    results = check_expert(HalvesBatch(), make_spec(), checks=checks, raise_on_failure=False)
    assert [result.outcome for result in results] == ["passed", "failed"]
    assert "invalid for input" in results[1].message


class HardCodedCuda(Right):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.cuda())


class Exits(Right):
    def forward(self, images: Tensor) -> Tensor:
        sys.exit(3)


class Interrupted(Right):
    def forward(self, images: Tensor) -> Tensor:
        raise KeyboardInterrupt


@pytest.mark.skipif(torch.cuda.is_available(), reason="There is a GPU.")
@pytest.mark.parametrize("error", [None, AssertionError("Torch not compiled with CUDA enabled")])
def test_a_gpu_that_is_asked_for_is_told_as_a_fault_of_the_device(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    if error is not None:
        monkeypatch.setattr(Tensor, "cuda", Mock(side_effect=error))
    results = check_expert(HardCodedCuda(), make_spec(), raise_on_failure=False)
    told = {result.name: result.message for result in results}
    assert told["shape_and_grid"].startswith("It raised")
    assert "a fault of device_follows" in told["shape_and_grid"]
    assert told["spatial_order"] == "It raised before it gave tokens; see shape_and_grid."


def test_an_expert_that_exits_fails_and_an_interrupt_is_the_users() -> None:
    check = ["shape_and_grid"]
    (result,) = check_expert(Exits(), make_spec(), checks=check, raise_on_failure=False)
    assert (result.outcome, result.message) == ("failed", "It raised SystemExit: 3")
    with pytest.raises(KeyboardInterrupt):
        check_expert(Interrupted(), make_spec(), checks=check)


def test_the_network_is_refused_only_while_the_check_runs() -> None:
    check_expert(make_spec(f"{__name__}:Phones"), checks=["offline_build"], raise_on_failure=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 1).close()


def test_settings_changed_by_an_import_are_seen_however_often_it_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = "def build(spec, weights): return torch.nn.Identity()"
    (tmp_path / "turns_grad_off.py").write_text(
        f"import torch\n{build}\ntorch.set_grad_enabled(False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        (result,) = check_expert(
            make_spec("turns_grad_off:build"), checks=["global_state"], raise_on_failure=False
        )
        assert "Importing its module changes the grad mode" in result.message
        assert torch.is_grad_enabled()


def test_a_fault_in_settings_does_not_reach_the_tests_around_it() -> None:
    for fault in ("SetsDefaultDtype", "TurnsGradOff"):
        check_expert(make_spec(f"{__name__}:{fault}"), raise_on_failure=False)
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32


def test_every_check_of_the_built_expert_has_a_fault_that_it_names() -> None:
    built = {check.name for check in all_checks() if check.stage == "built"}
    assert {check for _, check, _ in FAULTS} == built


def test_the_error_names_every_failed_check() -> None:
    class TwoFaults(DropoutAlways, AlwaysFloat32):
        pass

    with pytest.raises(ExpertCheckError, match="'fixture'") as caught:
        check_expert(TwoFaults(), make_spec())
    assert "- deterministic: " in str(caught.value)
    assert "- dtype_follows: " in str(caught.value)


def test_checks_are_named_and_say_what_they_protect() -> None:
    for check in all_checks():
        told = (check.protects, check.does, check.mend)
        assert all(sentence.endswith(".") for sentence in told), check.name
    with pytest.raises(ValueError, match="No check is called 'spatial'"):
        check_expert(Right(), make_spec(), checks=["spatial"])
    with pytest.raises(TypeError, match="together with its spec"):
        check_expert(Right())
