"""Global state: what an expert does to the process besides giving tokens."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from tove_plugins._building import import_named
from tove_plugins._frozen import thaw
from tove_plugins._resources import find_weights
from tove_plugins.testing._registry import expert_check, fail
from tove_plugins.testing._settings import changed, kept_settings, settings
from tove_plugins.testing._subject import SEED, Subject, run_as_core

__all__: list[str] = []

T = TypeVar("T")

_IMPORTING = """
import importlib, sys
from tove_plugins.testing._settings import changed, settings
before = settings()
importlib.import_module(sys.argv[1])
print()
print(changed(before))
"""


@expert_check("built")
def check_global_state(subject: Subject) -> None:
    """An expert that seeds torch or turns gradients off changes the whole run around it.

    The factory's module is imported in a fresh interpreter, the expert built and called; torch's
    seed, grad mode, default dtype and device, number of threads, deterministic algorithms, cuDNN's
    switches and the precision of products must be as before. Drawing random numbers is allowed.

    Mend: Use what ends by itself: `with torch.no_grad():` rather than `set_grad_enabled`,
    `dtype=` and `device=` rather than defaults, `with torch.random.fork_rng():` around a seed.
    """
    if subject.rebuild is None:
        expert = subject.fresh()
    else:
        found = _changed_by_import(
            subject.spec.factory.partition(":")[0],
            os.pathsep.join(path for path in sys.path if path),
        )
        if found:
            fail(f"Importing its module changes {found}.")
        subject.build()  # imports what it needs, and says what cannot be built
        expert = _watched("Building it", lambda: _call_factory(subject))
    images = subject.images(1)
    expert = expert.to(subject.device).eval()
    _watched("Calling it", lambda: run_as_core(expert, images))


def _watched(what: str, function: Callable[[], T]) -> T:
    """Call a function; fail if it changes a setting, and put it back."""
    with kept_settings():
        torch.manual_seed(SEED)
        before = settings()
        result = function()
        found = changed(before)
    if found:
        fail(f"{what} changes {found}.")
    return result


def _call_factory(subject: Subject) -> nn.Module:
    """Call the factory itself: the builder around it puts settings back."""
    spec = subject.spec
    factory = import_named(spec.factory, f"factory {spec.factory}")
    options = {**thaw(spec.options), **({} if subject.real else thaw(spec.tiny))}
    has_weights = subject.real and spec.weights is not None
    weights = find_weights(spec.weights.source) if has_weights else None  # type: ignore[union-attr]
    expert: nn.Module = factory(spec=spec, weights=weights, **options)
    return expert


@functools.cache
def _changed_by_import(module: str, path: str) -> str:
    """Tell what importing a module changes; here it may be imported already, so a new process."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING, module],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    # One that fails, a module of a test say, is told by the build.
    return done.stdout.splitlines()[-1] if done.returncode == 0 else ""
