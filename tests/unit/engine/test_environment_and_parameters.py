from collections.abc import Callable
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import nn

from tove.config.environment import check_environment, doubled_installs, versions
from tove.errors import ConfigError
from tove.evaluation.profile.parameters import count_parameters, median_ms


def installed(**packages: str) -> Callable[[str], str]:
    known = {name.replace("_", "-"): version for name, version in packages.items()}

    def lookup(name: str) -> str:
        if name not in known:
            raise PackageNotFoundError(name)
        return known[name]

    return lookup


def test_a_fork_beside_its_upstream_is_told_with_the_mending_command():
    found = doubled_installs(installed(mmdet="3.3.0", onedl_mmdetection="3.5.1"))
    assert len(found) == 1
    assert "pip uninstall -y mmdet onedl-mmdetection" in found[0]


def test_upstream_mmengine_alone_is_refused():
    with pytest.raises(ConfigError, match="cannot resume on torch"):
        check_environment(installed(mmengine="0.10.7"))


def test_this_environment_passes_and_tells_its_versions():
    check_environment()
    assert "torch" in versions()


def test_shared_parameters_count_once_and_left_out_ones_not():
    shared = nn.Linear(2, 2, bias=False)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Linear(2, 3).requires_grad_(False)})
    assert count_parameters(model) == (4, 13)
    assert count_parameters(model, excluded=[model["c"]]) == (4, 4)


def test_the_latency_is_a_median_after_warm_up():
    calls = []
    assert median_ms(lambda: calls.append(1), torch.device("cpu"), runs=5, warm_up=2) >= 0
    assert len(calls) == 7


def test_a_slow_call_is_timed_less_often(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    calls = []
    assert median_ms(lambda: calls.append(1), torch.device("cpu"), runs=9, warm_up=1) == 1000.0
    assert len(calls) == 1 + 4  # four of a second each are past three seconds
