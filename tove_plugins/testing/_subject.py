"""The expert under test: built afresh for each check, and run as the core runs it.

Shapes: B batch, 3 x H x W the spec's image, N = h * w tokens, D the width.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType

import torch
from torch import Tensor, nn

from tove_plugins._building import build_expert, build_from_spec
from tove_plugins._discovery import discover
from tove_plugins.specs import ExpertSpec
from tove_plugins.testing._settings import kept_settings

__all__ = ["SkipCheck", "Subject", "run_as_core"]

SEED = 20_240


class SkipCheck(Exception):
    """The check cannot be made here; its text says why."""


class Subject:
    """An expert under test.

    Args:
        expert: The name of an installed expert, a spec to build from, or a built module.
        spec: The spec of a built module.
        real: Build with the trained weights instead of the small random form.
        device: Where the built checks run.

    Raises:
        TypeError: A module came without its spec.
        ExpertNotAvailable: No plugin offers the name.
    """

    def __init__(
        self,
        expert: str | ExpertSpec | nn.Module,
        spec: ExpertSpec | None = None,
        *,
        real: bool = False,
        device: str = "cpu",
    ) -> None:
        self.device, self.real = torch.device(device), real
        self.plugin: str | None = None
        self.rebuild: Callable[[], nn.Module] | None = None
        self._given: nn.Module = nn.Identity()  # a built module, where that is what was given
        self._references: dict[int, Tensor] = {}
        if isinstance(expert, str):
            entry = discover().get(expert)
            self.spec, self.plugin = entry.spec, entry.plugin
            self.rebuild = lambda: build_expert(expert, tiny=not real)
        elif isinstance(expert, ExpertSpec):
            self.spec = expert
            self.rebuild = lambda: build_from_spec(self.spec, tiny=not real)
        elif isinstance(expert, nn.Module) and spec is not None:
            self.spec, self._given = spec, expert
        else:
            raise TypeError(
                "check_expert takes the name of an installed expert, an ExpertSpec, or a built "
                "torch.nn.Module together with its spec: check_expert(module, spec)."
            )

    @property
    def name(self) -> str:
        """The expert's name."""
        return self.spec.name

    def build(self) -> nn.Module:
        """Build it from the same seed as every time; random state and settings stay as they are.

        Raises:
            SkipCheck: A module was given, and a copy would not be the same.
        """
        if self.rebuild is None:
            return _copied(self._given)
        with kept_settings():
            torch.manual_seed(SEED)
            return self.rebuild()

    def fresh(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Give an expert that the check may change, in eval mode on the device.

        It is built anew rather than copied where that can be: hooks that keep features in a
        closure, locks and weights with a graph do not survive a copy, and an expert may have them.
        """
        return self.build().to(self.device, dtype).eval()

    def images(self, batch: int, seed: int = 0) -> Tensor:
        """Give noise images as the core hands them over: normalised [B, 3, H, W], float32."""
        generator = torch.Generator().manual_seed(SEED + seed)
        return self.normalise(torch.rand(batch, 3, *self.spec.image.size, generator=generator))

    def unlike_images(self) -> Tensor:
        """Give four images as the core hands them over: full noise, a bright, a dark, a flat one.

        None is without any contrast: an expert that divides by it would give rounding for tokens.
        """
        generator = torch.Generator().manual_seed(SEED)
        noise = torch.rand(4, 3, *self.spec.image.size, generator=generator)
        low, span = torch.tensor([(0.0, 1.0), (0.6, 0.3), (0.01, 0.05), (0.45, 0.1)]).T
        return self.normalise(low.view(4, 1, 1, 1) + span.view(4, 1, 1, 1) * noise)

    def tokens(self, batch: int) -> Tensor:
        """Give what a fresh copy makes of `images(batch)`; made once, so leave it as it is."""
        if batch not in self._references:
            self._references[batch] = run_as_core(self.fresh(), self.images(batch))
        return self._references[batch]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn pixels [B, 3, H, W] in [0, 1] into what the spec asks for."""
        image = self.spec.image
        low, high = image.value_range
        mean = torch.tensor(image.mean).view(1, 3, 1, 1)
        std = torch.tensor(image.std).view(1, 3, 1, 1)
        return ((pixels * (high - low) + low - mean) / std).to(self.device)


def _copied(module: nn.Module) -> nn.Module:
    """Copy a built module, if its copy is sure to work as it does."""
    mend = "Give its spec or its installed name instead, from which it is built anew."
    if any(_holds_on(hook) for part in module.modules() for hook in _hooks(part)):
        raise SkipCheck(f"Its hooks reach the module that was given, not a copy of it. {mend}")
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever its parts raise
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SkipCheck(f"The module that was given cannot be copied ({told}). {mend}") from error


def _hooks(part: nn.Module) -> Iterator[object]:
    yield from part._forward_hooks.values()
    yield from part._forward_pre_hooks.values()


def _holds_on(hook: object) -> bool:
    """Tell whether a hook is a function that keeps a module or a container of the original."""
    if not isinstance(hook, FunctionType):  # objects, methods and partials are copied with theirs
        return False
    kept = inspect.getclosurevars(hook).nonlocals.values()
    return any(isinstance(one, nn.Module | dict | list | set) for one in kept)


def run_as_core(expert: nn.Module, images: Tensor, *, copied: bool = True) -> Tensor:
    """Call an expert as the hub does, in eval mode under no_grad; give tokens [B, N, D].

    Args:
        expert: The expert.
        images: Normalised images [B, 3, H, W].
        copied: Hand over and give back copies, so that an expert that writes to its input or
            reuses its output fails only the check that looks for it.
    """
    expert.eval()
    with torch.no_grad():
        tokens: Tensor = expert(images.clone() if copied else images)
    return tokens.clone() if copied and isinstance(tokens, Tensor) else tokens
