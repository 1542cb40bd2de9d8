"""What of a model is its own: the trained parameters, which alone enter a checkpoint.

A frozen weight is named by its source (an encoder's folder, an expert's spec) and is not stored
again. What belongs to a model is settled when it is built, so that freezing a trained part later
(a teacher, a stage that trains less) does not drop it from checkpoints. A stage that trains more
adds what it trains, and whoever loads its checkpoint has that too: by name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tove.data.annotations import read_json
from tove.errors import CheckpointError, ConfigError, close_matches
from tove_plugins import resolve_resource, sha256_of

__all__ = [
    "choose_trained",
    "keep_frozen_weights_out",
    "load_initial",
    "load_trainable",
    "put_back_trained",
    "slot_of",
]


def slot_of(name: str, slot_parts: Iterable[str]) -> str | None:
    """Name the expert slot that a parameter belongs to; None if it is everyone's.

    Args:
        name: of the parameter, within the model or within one around it.
        slot_parts: paths of the model's module dicts that are keyed by slot; CLIP's own entry in
            one belongs to no expert.
    """
    for part in slot_parts:
        _, found, rest = f".{name}".partition(f".{part}.")
        slot = rest.partition(".")[0]
        if found and slot and slot != "clip":
            return slot
    return None


def _trained_names(model: nn.Module) -> set[str]:
    """Names of parameters that require grad, and of buffers beside them (running statistics)."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        own = {f"{dot}{n}" for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        names |= own
        if own:
            names |= {f"{dot}{name}" for name, _ in module.named_buffers(recurse=False)}
    return names


def keep_frozen_weights_out(model: Any, also: Iterable[str] = ()) -> None:  # noqa: ANN401
    """Make `model.state_dict()` hold what trains now, and loading not miss the rest.

    Both are hooks rather than overrides: mmengine's checkpoint code walks the modules by itself,
    but calls these. Call it once, at the end of a model's construction.

    Args:
        model: the top model, with `requires_grad` as it will train.
        also: further names to keep.
    """
    kept = _trained_names(model) | set(also)
    model.kept_names = kept  # grows in place with what is trained or loaded: the hooks hold it

    def drop(module: nn.Module, state_dict: dict, prefix: str, local_metadata: Any) -> None:  # noqa: ANN401
        for name in [name for name in state_dict if name.startswith(prefix)]:
            if name.removeprefix(prefix) not in kept:
                del state_dict[name]

    def forgive(module: nn.Module, incompatible: Any) -> None:  # noqa: ANN401
        frozen = tuple(f".{name}" for name in _tensors(module) if name not in kept)
        # Seen from a parent, the names have a prefix that a hook is not told.
        missing = incompatible.missing_keys
        missing[:] = [name for name in missing if not f".{name}".endswith(frozen)]

    model._register_state_dict_hook(drop)
    model.register_load_state_dict_post_hook(forgive)


def choose_trained(model: Any, patterns: Collection[str], where: str) -> None:  # noqa: ANN401
    """Let the parameters train that a pattern names, frozen ones too, and no others.

    What has been trained before stays in the model's checkpoints. What an encoder has above the
    tokens stays frozen: no loss depends on it.

    Args:
        model: with frozen weights kept out of its state.
        patterns: paths of modules or parameters ("projector", "language.lm"), or such with
            wildcards ("encoder.*.layers.1?.*", "language.*lora_*").
        where: the setting, as messages name it.

    Raises:
        ConfigError: a pattern names nothing, or weights that are held in less than float32.
    """
    parameters = dict(model.named_parameters())
    chosen: set[str] = set()
    for pattern in patterns:
        found = {n for n in parameters if n.startswith(f"{pattern}.") or fnmatchcase(n, pattern)}
        if not found:
            roots = {".".join(name.split(".")[:depth]) for name in parameters for depth in (1, 2)}
            raise ConfigError(
                f"{where} names '{pattern}', which is no part of {type(model).__name__}. "
                f"{close_matches(pattern, roots)}"
            )
        chosen |= found
    chosen -= _above_the_tokens(model)
    for name, parameter in parameters.items():
        if name in chosen and parameter.dtype.itemsize < 4:
            raise ConfigError(
                f"{where} would train {name} in {parameter.dtype}, its small steps lost to "
                "rounding; leave the dtype of that part out and train with --amp."
            )
        parameter.requires_grad_(name in chosen)
    model.kept_names.update(_trained_names(model))


@contextmanager
def put_back_trained(model: Any) -> Iterator[None]:  # noqa: ANN401
    """Let what trains be chosen for a while; afterwards trains what did, and is kept what was."""
    kept = set(model.kept_names)
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    yield
    model.kept_names.intersection_update(kept)
    for parameter, trains in trained:
        parameter.requires_grad_(trains)


def _above_the_tokens(model: Any) -> set[str]:  # noqa: ANN401
    """Name the parameters of the encoder that its tokens do not depend on, if it can tell."""
    encoder: Any = getattr(model, "encoder", None)
    if not hasattr(encoder, "used_parameters"):
        return set()
    every = {f"encoder.{name}" for name, _ in encoder.named_parameters()}
    return every - {f"encoder.{name}" for name, _ in encoder.used_parameters()}


def load_trainable(model: Any, state_dict: Mapping[str, Tensor]) -> None:  # noqa: ANN401
    """Load trained parameters, strictly but for what belongs to an expert slot.

    A slot that the checkpoint does not know keeps its initial weights; one that the model does not
    have is left out. What is frozen in this model and was trained by the checkpoint's is loaded,
    and belongs to this model's state from now on.

    Raises:
        CheckpointError: keys are missing or unexpected, or shapes differ.
    """
    own, parts = model.state_dict(), getattr(model, "slot_parts", ())
    every = {name: t for name, t in _tensors(model).items() if name in state_dict or name in own}
    problems = [
        (
            "lacks the trained parameters",
            [n for n in own if n not in state_dict and not slot_of(n, parts)],
        ),
        ("has parameters that this model does not have", _foreign(every, state_dict, parts)),
        ("has parameters of another shape", _misshapen(every, state_dict)),
    ]
    found = [f"it {what}: {_listing(names)}" for what, names in problems if names]
    if found:
        raise CheckpointError(
            f"The checkpoint does not belong to this model: {'; '.join(found)}. "
            "Use the config that it was trained with."
        )
    taken = {n: t for n, t in state_dict.items() if n in every}
    if hasattr(model, "kept_names"):
        model.kept_names.update(taken)
    model.load_state_dict(taken, strict=False)


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
    initial, own = _read_initial(path), model.state_dict()
    parts = getattr(model, "slot_parts", ())
    wrong = _foreign(own, initial, parts) or _misshapen(own, initial)
    if wrong:
        raise ConfigError(
            f"{path} (model.init_from) does not fit this model: {_listing(wrong)} do not train in "
            "it or have another shape; use the encoder, language model and projector.hidden that "
            "the file was made with."
        )
    model.load_state_dict({n: t for n, t in initial.items() if n in own}, strict=False)


def _read_initial(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, which has no checksum: the card beside it may tell its digest."""
    card = path.with_suffix(".json")
    told = read_json(str(card), "a card that tells of weights") if card.is_file() else {}
    try:
        if told.get("sha256") not in (None, sha256_of(path)):
            raise SafetensorError(f"its digest is not the one that {card} tells")
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError(
            f"{path} (model.init_from) is no safetensors file, or a damaged or another one "
            f"({error}); put it back, or write its tensors by safetensors.torch.save_file."
        ) from error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; a tied weight has two names."""
    parameters = model.named_parameters(remove_duplicate=False)
    return dict([*parameters, *model.named_buffers(remove_duplicate=False)])


def _foreign(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], parts: Iterable[str]
) -> list[str]:
    return [name for name in given if name not in own and not slot_of(name, parts)]


def _misshapen(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    return [name for name, t in given.items() if name in own and own[name].shape != t.shape]


def _listing(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
