"""The hub: frozen, checked, placed as the config says."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tove.backbones.experts.frozen_expert import FrozenExpert
from tove.backbones.experts.hub import ExpertHub
from tove.errors import ConfigError
from tove_plugins import ExpertNotAvailable, ImageSpec

IMAGES = torch.rand(2, 3, 20, 20)


def test_gives_native_tokens_of_the_attached(experts):
    hub = ExpertHub(experts)
    assert {slot: t.shape for slot, t in hub(IMAGES).items()} == {
        "coarse": (2, 9, 6),
        "fine": (2, 64, 10),
    }
    assert hub.widths == {"coarse": 6, "fine": 10}
    assert hub.grids == {"coarse": (3, 3), "fine": (8, 8)}
    hub.detach("fine")
    assert (hub.attached, hub.detached) == (("coarse",), ("fine",))
    assert set(hub(IMAGES)) == {"coarse"}
    hub.attach("fine")
    assert set(hub(IMAGES, skip=["coarse"])) == {"fine"}
    assert hub.forward_counts == {"coarse": 2, "fine": 2}


def test_is_frozen_and_stays_in_eval(experts):
    hub = ExpertHub(experts).train()
    assert not any(p.requires_grad for p in hub.parameters())
    assert not any(m.training for m in hub.experts.coarse.modules())
    images = IMAGES.clone().requires_grad_()
    assert not any(tokens.requires_grad for tokens in hub(images).values())


def test_normalises_by_the_spec(experts):
    hub = ExpertHub(experts)
    expert = hub.experts["fine"]
    images = torch.rand(2, 3, 32, 32)
    expected = expert.expert((images - 0.5) / 0.25)
    torch.testing.assert_close(hub.run("fine", images), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizes_and_scales_as_the_spec_says(expert_types, interpolation):
    spec = expert_types["coarse"].spec
    image = ImageSpec((12, 12), (10.0,) * 3, (50.0,) * 3, (-100.0, 100.0), interpolation)
    frozen = FrozenExpert("depth", replace(spec, image=image), expert_types["coarse"]())
    resized = F.interpolate(IMAGES, size=(12, 12), mode=interpolation, antialias=True).clamp(0, 1)
    torch.testing.assert_close(frozen(IMAGES), frozen.expert((resized * 200 - 100 - 10) / 50))


def test_dtype_and_device_of_the_config_outlive_the_models_moves(expert_types):
    hub = ExpertHub(
        {
            "low": {"type": expert_types["coarse"], "dtype": "bfloat16"},
            "high": {"type": expert_types["coarse"], "dtype": "float32"},
            "placed": {"type": expert_types["coarse"], "device": "cpu"},
            "free": {"type": expert_types["coarse"]},
        }
    )
    before = hub.experts["high"].expert.conv.weight.clone()
    for cast in (hub.float, hub.double, hub.bfloat16):
        cast()
        dtypes = {s: next(hub.experts[s].parameters()).dtype for s in hub.slots}
        assert dtypes["low"] == torch.bfloat16
        assert dtypes["high"] == dtypes["placed"] == torch.float32
        assert {slot: t.dtype for slot, t in hub(IMAGES).items()} == dtypes
    assert torch.equal(hub.experts["high"].expert.conv.weight, before)
    hub.to("meta")
    assert next(hub.experts["placed"].parameters()).device.type == "cpu"
    assert next(hub.experts["free"].parameters()).is_meta


class BufferConvolution(torch.nn.Module):
    """An expert of the width and the grid of `coarse` whose weights are a buffer, or none."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("weight", weight)

    def forward(self, images):
        maps = images if self.weight is None else torch.conv2d(images, self.weight)
        maps = torch.nn.functional.adaptive_avg_pool2d(maps[:, [0] * 6], 3)
        return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("weight", [torch.ones(1, 3, 2, 2), None])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
def test_an_expert_without_parameters_gets_images_of_its_dtype(expert_types, weight, dtype):
    expert = BufferConvolution(weight)
    frozen = FrozenExpert("depth", expert_types["coarse"].spec, expert, dtype=dtype)
    wanted = torch.float32 if dtype is None else getattr(torch, dtype)
    assert frozen(IMAGES).dtype == wanted


class CopiesToCpu(TorchDispatchMode):
    """Stands in for copies of an accelerator's tensors, here "meta", and notes who would not wait.

    torch gives an unwaited copy pinned memory, so that it really runs behind the CPU's back.
    """

    def __init__(self):
        super().__init__()
        self.waited_for = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            self.waited_for.append(not kwargs.get("non_blocking", False))
            return torch.zeros(args[0].shape)
        return func(*args, **kwargs)


def test_a_dtype_of_the_config_holds_under_autocast(expert_types):
    cfgs = {
        "settled": {"type": expert_types["coarse"], "dtype": "float32"},
        "open": {"type": expert_types["coarse"]},
    }
    hub = ExpertHub(cfgs)
    plain = hub(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = hub(IMAGES)
    assert torch.equal(mixed["settled"], plain["settled"])
    assert not torch.equal(mixed["open"].float(), plain["open"])


def test_an_expert_on_the_cpu_waits_for_the_images(expert_types):
    hub = ExpertHub({"placed": {"type": expert_types["coarse"], "device": "cpu"}})
    with CopiesToCpu() as copies:
        tokens = hub.run("placed", IMAGES.to("meta"))
    assert tokens.is_meta
    assert copies.waited_for == [True]


def test_detached_from_the_start_is_not_looked_up_or_built(experts):
    hub = ExpertHub({**experts, "gone": {"type": "not_installed"}}, detached=["gone"])
    assert set(hub.provenance()) == set(experts) == set(hub(IMAGES))
    with pytest.raises(ConfigError, match="take it out of"):
        hub.attach("gone")


def test_options_reach_the_factory_and_placement_does_not(expert_types):
    hub = ExpertHub({"a": {"type": expert_types["coarse"], "scale": 3.0, "dtype": "float32"}})
    assert hub.experts["a"].expert.scale == 3.0


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda images: torch.zeros(len(images), 6, 9), r"shape \[2, 6, 9\]"),
        (lambda images: torch.zeros(len(images), 9, 6, dtype=torch.long), "int64"),
        (lambda images: [images], "a list"),
    ],
)
def test_wrong_output_is_named_at_the_first_forward(expert_types, output, words):
    class Wrong(torch.nn.Module):
        def forward(self, images):
            return output(images)

    frozen = FrozenExpert("depth", expert_types["coarse"].spec, Wrong())
    with pytest.raises(ConfigError, match=words) as error:
        frozen(IMAGES)
    assert "slot 'depth'" in str(error.value)
    assert "[2, 9, 6]" in str(error.value)


def test_provenance_says_where_an_expert_is_from(experts):
    assert ExpertHub(experts).provenance()["fine"]["name"] == "fine"


@pytest.mark.parametrize("slot", ["clip", "a.b", "pop", "", "3d"])
def test_slot_names_that_cannot_be_are_refused(slot, experts):
    with pytest.raises(ConfigError, match="slot"):
        ExpertHub({slot: experts["fine"]})


def test_unknown_expert_is_a_sentence():
    with pytest.raises(ExpertNotAvailable, match="no_such_expert"):
        ExpertHub({"a": {"type": "no_such_expert"}})


class Acting(torch.nn.Module):
    """An expert whose forward changes what is not its own."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        return torch.zeros(len(images_BCHW), 9, 6, dtype=torch.float32)


def test_a_forward_pass_changes_nothing_for_the_run(expert_types):
    frozen = FrozenExpert("depth", expert_types["coarse"].spec, Acting())
    drawn = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert not frozen(IMAGES).requires_grad
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 2  # a seed of the expert's own would give the same number at every step
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()


class Drawing(torch.nn.Module):
    """An expert that draws random numbers from its second forward on."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.draws, self.calls = draws, 0

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        for _ in range(self.draws * (self.calls > 0)):
            torch.rand(1), np.random.random(), random.random()  # noqa: NPY002
        self.calls += 1
        return torch.zeros(len(images_BCHW), 9, 6)


@pytest.mark.parametrize("whole", [True, False])
def test_a_run_draws_the_same_whatever_an_expert_draws_later(expert_types, whole):
    drawn = set()
    for draws in (1, 1000):

        class Kind(expert_types["coarse"]):
            def __new__(cls, draws=draws):
                return Drawing(draws)

        hub = ExpertHub({"first": {"type": Kind}, "second": {"type": expert_types["fine"]}})
        for _ in range(2):
            torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
            hub(IMAGES) if whole else hub.run("first", IMAGES)
        drawn.add((torch.rand(()).item(), np.random.random(), random.random()))  # noqa: NPY002
    assert len(drawn) == 1


def test_settings_of_a_whole_pass_are_the_run_s_again(expert_types):
    class Kind(expert_types["coarse"]):
        def __new__(cls):
            return Acting()

    hub = ExpertHub({"first": {"type": Kind}, "second": {"type": Kind}})
    for _ in range(2):
        hub(IMAGES)
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_pass_in_which_no_expert_runs_reads_no_state(experts, monkeypatch):
    hub = ExpertHub(experts)
    with monkeypatch.context() as patch, hub.one_pass():
        patch.setattr("tove.backbones.experts.hub.kept_global_state", None)
    assert hub.forward_counts == {}


def test_gradients_stay_on_where_an_expert_ran_without(experts):
    hub = ExpertHub(experts)
    with hub.one_pass():
        with torch.no_grad():
            hub.run("fine", IMAGES)
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_an_error_within_a_pass_ends_it(experts):
    hub = ExpertHub(experts)

    def fail() -> None:
        with hub.one_pass():
            hub.run("fine", IMAGES)
            torch.set_default_dtype(torch.float64)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_default_dtype() == torch.float32
    assert set(hub(IMAGES)) == {"coarse", "fine"}


def test_an_expert_cast_after_its_first_forward_gets_images_of_its_new_dtype(experts):
    hub = ExpertHub(experts)
    hub(IMAGES)
    assert {t.dtype for t in hub.double()(IMAGES).values()} == {torch.float64}
    hub.experts["fine"].expert.bfloat16()
    assert hub(IMAGES)["fine"].dtype == torch.bfloat16
