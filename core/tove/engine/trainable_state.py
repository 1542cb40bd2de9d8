"""What of a model is its own: the trained parameters, which alone enter a checkpoint.

A frozen weight is named by its source (an encoder's folder, an expert's spec) and is not stored
again. What belongs to a model is settled when it is built, so that freezing a trained part later
(a teacher, a stage that trains less) does not drop it from checkpoints.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from tove.errors import CheckpointError, ConfigError
from tove_plugins import resolve_resource

__all__ = ["keep_frozen_weights_out", "load_initial", "load_trainable", "slot_of"]

_SLOT = re.compile(
    r"(?:.*\.)?(?:hub\.experts|projector\.first|gate\.heads|gate\.noise_heads)\.([^.]+)\..+"
)


def slot_of(name: str) -> str | None:
    """Name the expert slot that a parameter of this name belongs to; None if it is everyone's."""
    match = _SLOT.fullmatch(name)
    return match[1] if match and match[1] != "clip" else None


def _trained_names(model: nn.Module) -> frozenset[str]:
    """Names of parameters that require grad, and of buffers beside them (running statistics)."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        own = {f"{dot}{n}" for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        names |= own
        if own:
            names |= {f"{dot}{name}" for name, _ in module.named_buffers(recurse=False)}
    return frozenset(names)


def keep_frozen_weights_out(model: nn.Module, also: Iterable[str] = ()) -> None:
    """Make `model.state_dict()` hold what trains now, and loading not miss the rest.

    Both are hooks rather than overrides: mmengine's checkpoint code walks the modules by itself,
    but calls these. Call it once, at the end of a model's construction.

    Args:
        model: the top model, with `requires_grad` as it will train.
        also: further names to keep.
    """
    kept = _trained_names(model) | frozenset(also)

    def drop(module: nn.Module, state_dict: dict, prefix: str, local_metadata: Any) -> None:  # noqa: ANN401
        for name in [name for name in state_dict if name.startswith(prefix)]:
            if name.removeprefix(prefix) not in kept:
                del state_dict[name]

    def forgive(module: nn.Module, incompatible: Any) -> None:  # noqa: ANN401
        # A tied weight has two names.
        parameters = module.named_parameters(remove_duplicate=False)
        buffers = module.named_buffers(remove_duplicate=False)
        names = [name for name, _ in (*parameters, *buffers)]
        frozen = tuple(f".{name}" for name in names if name not in kept)
        # Seen from a parent, the names have a prefix that a hook is not told.
        missing = incompatible.missing_keys
        missing[:] = [name for name in missing if not f".{name}".endswith(frozen)]

    model._register_state_dict_hook(drop)
    model.register_load_state_dict_post_hook(forgive)


def load_trainable(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load trained parameters, strictly but for what belongs to an expert slot.

    A slot that the checkpoint does not know keeps its initial weights; one that the model does not
    have is left out.

    Raises:
        CheckpointError: keys are missing or unexpected, or shapes differ.
    """
    own = model.state_dict()
    problems = [
        (
            "lacks the trained parameters",
            [n for n in own if n not in state_dict and not slot_of(n)],
        ),
        ("has parameters that do not train in this model", _foreign(own, state_dict)),
        ("has parameters of another shape", _misshapen(own, state_dict)),
    ]
    found = [f"it {what}: {_listing(names)}" for what, names in problems if names]
    if found:
        raise CheckpointError(
            f"The checkpoint does not belong to this model: {'; '.join(found)}. "
            "Use the config that it was trained with."
        )
    model.load_state_dict({n: t for n, t in state_dict.items() if n in own}, strict=False)


def load_initial(model: nn.Module, source: str) -> None:
    """Start from a safetensors file that holds some of the trained parameters.

    Args:
        model: with frozen weights kept out of its state.
        source: a path or "pkg:PACKAGE/FILE"; the config's `init_from`.

    Raises:
        ConfigError: there is no such file, or it holds something that does not fit.
    """
    path = resolve_resource(source)
    if not path.is_file():
        raise ConfigError(
            f"model.init_from names {source!r}, but there is no file {path}; correct the path, or "
            "set model.init_from=None to start from scratch."
        )
    initial, own = load_file(path), model.state_dict()
    wrong = _foreign(own, initial) or _misshapen(own, initial)
    if wrong:
        raise ConfigError(
            f"{path} (model.init_from) does not fit this model: {_listing(wrong)} do not train in "
            "it or have another shape; use the encoder, language model and projector.hidden that "
            "the file was made with."
        )
    model.load_state_dict({n: t for n, t in initial.items() if n in own}, strict=False)


def _foreign(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    return [name for name in given if name not in own and not slot_of(name)]


def _misshapen(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    return [name for name, t in given.items() if name in own and own[name].shape != t.shape]


def _listing(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
