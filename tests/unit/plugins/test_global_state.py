"""An expert's code changes nothing for the process that builds it."""

import logging
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tove_plugins import build_expert, discover, kept_global_state, resolve_expert
from tove_plugins.testing._settings import kept_settings

FACTORY = """
import random
import numpy as np
import torch
{at_import}

class Factory(torch.nn.Module):
    def __init__(self, spec, weights=None, width=0):
        super().__init__()
        {in_factory}
        self.layer = torch.nn.Linear(4, 4)

def resolve(spec, weights=None, width=0):
    {in_resolve}
    return spec
"""
PLUGIN = """
@hookimpl
def tove_experts():
    yield spec("e", factory="acting_expert:Factory", resolve="acting_expert:resolve")
"""
MODES = {
    "grad": "torch.set_grad_enabled(False)",
    "dtype": "torch.set_default_dtype(torch.float64)",
}
SETTINGS = {
    "threads": ("torch.set_num_threads(3)", torch.get_num_threads),
    "deterministic": (
        "torch.use_deterministic_algorithms(True)",
        torch.are_deterministic_algorithms_enabled,
    ),
    "precision": (
        "torch.set_float32_matmul_precision('medium')",
        torch.get_float32_matmul_precision,
    ),
    "cudnn": ("torch.backends.cudnn.benchmark = True", lambda: torch.backends.cudnn.benchmark),
    "tf32": ("torch.backends.cudnn.allow_tf32 = False", lambda: torch.backends.cudnn.allow_tf32),
    "logging": (
        "import logging; logging.disable(logging.CRITICAL)",
        lambda: logging.root.manager.disable,
    ),
    "device": ("torch.set_default_device('meta')", torch.get_default_device),
    "variable": ("import os; os.environ['HOME'] = '/elsewhere'", lambda: os.environ["HOME"]),
    "no variable": ("import os; del os.environ['HOME']", lambda: os.environ["HOME"]),
    "warnings": (
        "import warnings; warnings.simplefilter('ignore')",
        lambda: ("ignore", None, Warning, None, 0) in warnings.filters,
    ),
}
SEEDS = {
    "torch": "torch.manual_seed(0)",
    "numpy": "np.random.seed(0)",
    "python": "random.seed(0)",
}
PLACES = ("at_import", "in_factory", "in_resolve")


@pytest.fixture
def expert(
    install: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Give a function that installs expert "e", whose code does what it is told somewhere."""

    def make(**code: str) -> None:
        places = {place: code.get(place, "pass") for place in PLACES}
        (tmp_path / "site/acting_expert.py").write_text(FACTORY.format(**places))
        monkeypatch.delitem(sys.modules, "acting_expert", raising=False)
        install("somebodys-expert", PLUGIN)

    yield make
    sys.modules.pop("acting_expert", None)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)


def build() -> nn.Module:
    resolve_expert("e", width=1)
    return build_expert("e", width=1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_are_the_caller_s_again(
    expert: Callable[..., None], place: str, mode: str
) -> None:
    expert(**{place: MODES[mode]})
    build()
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    with torch.no_grad():
        build()
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_caller_s_again(
    expert: Callable[..., None], place: str, name: str
) -> None:
    change, read = SETTINGS[name]
    before = read()
    with warnings.catch_warnings(), kept_settings():
        warnings.simplefilter("error")
        expert(**{place: change})
        build()
        assert read() == before


def test_filters_of_a_library_s_own_warnings_and_its_variables_stay(
    expert: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OF_A_LIBRARY", raising=False)
    expert(
        at_import="import os, warnings; warnings.filterwarnings('ignore', 'old name'); "
        "os.environ['OF_A_LIBRARY'] = '1'"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        build()
        warnings.warn("old name", stacklevel=1)
        warnings.warn("another", stacklevel=1)
    assert [str(warning.message) for warning in told] == ["another"]
    assert os.environ["OF_A_LIBRARY"] == "1"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_plugin_s_own_import_changes_nothing(install: Callable[..., str], name: str) -> None:
    change, read = SETTINGS[name]
    before = read()
    with warnings.catch_warnings(), kept_settings():
        warnings.simplefilter("error")
        install("acting", f"import torch; {change}\n{PLUGIN}")
        assert "e" in discover().experts
        assert read() == before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("library", SEEDS)
def test_seeds_are_the_caller_s_again(
    expert: Callable[..., None], place: str, library: str
) -> None:
    expert(**{place: SEEDS[library]})
    drawn = set()
    for seed in (1, 2):
        sys.modules.pop("acting_expert", None)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        build()
        drawn |= {torch.rand(()).item(), np.random.random(), random.random()}  # noqa: NPY002
    assert len(drawn) == 6  # a seed of the expert's own would give the same numbers twice


def test_a_run_draws_the_same_whatever_an_expert_draws(expert: Callable[..., None]) -> None:
    expert(in_factory="torch.rand(width + 1)")
    drawn = set()
    for width in (0, 1000):
        torch.manual_seed(3)
        build_expert("e", width=width)
        drawn.add(torch.rand(()).item())
    assert len(drawn) == 1


def test_two_random_experts_differ_and_a_seed_gives_each_again(
    expert: Callable[..., None],
) -> None:
    expert()
    torch.manual_seed(3)
    first, second = build().layer.weight, build().layer.weight
    torch.manual_seed(3)
    assert not torch.equal(first, second)
    assert torch.equal(build().layer.weight, first)


def test_torch_s_first_import_by_an_expert_leaves_its_defaults(
    expert: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    expert(at_import="; ".join(MODES.values()))
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    code = (
        "import sys; from tove_plugins import build_expert; assert 'torch' not in sys.modules\n"
        "build_expert('e')\nimport torch\n"
        "print(torch.is_grad_enabled(), torch.get_default_dtype())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "torch.float32"]


DRAWS = {
    "one number": random.random,
    "as many as a twister has words": lambda: [random.getrandbits(32) for _ in range(624)],
    "half of a normal pair": lambda: random.gauss(0, 1),
    "python's seed": lambda: random.seed(7),
    "numpy's number": np.random.random,
    "as many of numpy's words": lambda: np.random.bytes(4 * 624),  # noqa: NPY002
    "the other half of numpy's pair": np.random.normal,
    "numpy's seed": lambda: np.random.seed(7),  # noqa: NPY002
    "torch's number": lambda: torch.rand(1),
    "torch's seed": lambda: torch.manual_seed(7),
}


@pytest.mark.parametrize("name", DRAWS)
def test_each_way_of_drawing_is_noticed_and_leaves_the_generator_one_number_on(name: str) -> None:
    def numbers(body: Callable[[], object]) -> tuple[float, ...]:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        np.random.normal()  # noqa: NPY002 - numpy keeps the pair's other half
        with kept_global_state():
            body()
        drawn = random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002
        return *drawn, np.random.normal()  # noqa: NPY002

    untouched = numbers(lambda: None)
    generator = 1 if "numpy" in name else 2 if "torch" in name else 0
    found = numbers(DRAWS[name])
    assert [a != b for a, b in zip(found, untouched, strict=True)] == [
        number == generator for number in range(4)
    ]
    one_on = (random.random, np.random.random, lambda: torch.rand(1))
    if generator != 2:  # torch's is an integer of 64 bits
        assert found == numbers(one_on[generator])
