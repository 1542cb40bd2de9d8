"""Networks as shapes alone, without a number in them: what a plan is made of before all downloads.

Inside `shapes_alone()` encoders, language models and experts are built on the meta device from
their configs. A config is read from a folder or from the cache of the hub's client; those of some
models of the hub are known here (assets/architectures.json). Nothing is downloaded.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tove.backbones.experts.registration import expert_options, expert_spec
from tove.errors import ConfigError
from tove.registry import EXPERTS, SCOPE
from tove_plugins import build_from_spec, discover

__all__ = [
    "architecture",
    "building_shapes",
    "running_shapes",
    "shapes_alone",
    "untrained_expert",
    "word_tokenizer",
]

_SHAPES = ContextVar("_SHAPES", default=False)


@contextmanager
def shapes_alone(device: str = "meta") -> Iterator[None]:
    """Build networks without weights.

    Args:
        device: where; "cpu" is for those whose code looks at their numbers while it builds them.
    """
    token = _SHAPES.set(True)
    try:
        with torch.device(device):
            yield
    finally:
        _SHAPES.reset(token)


class _Yes(TorchDispatchMode):
    """Answers yes where a library asks a tensor of shapes alone whether something holds.

    What is asked so is whether a mask masks nothing and needs not be made: it does not here. Other
    numbers are not made up; who asks for one fails.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operator gives
        asks = func is torch.ops.aten._local_scalar_dense.default
        if asks and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


class _Autocast(torch.autocast):
    """torch's, that takes the meta device for a CPU, whose mixed precision leaves it alone."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


@contextmanager
def running_shapes() -> Iterator[None]:
    """Run networks of shapes alone: libraries ask for what the meta device does not have."""
    autocast = torch.autocast
    torch.autocast = _Autocast  # type: ignore[misc]
    try:
        with _Yes():
            yield
    finally:
        torch.autocast = autocast  # type: ignore[misc]


def building_shapes() -> bool:
    """Tell whether networks are to be built without weights."""
    return _SHAPES.get()


@cache
def _known() -> Mapping[str, Mapping[str, Any]]:
    text = resources.files("tove").joinpath("assets/architectures.json").read_text("utf-8")
    known: Mapping[str, Mapping[str, Any]] = json.loads(text)
    return known


def architecture(source: str, where: str) -> Any:  # noqa: ANN401 - a config of transformers
    """Return the config of a model of transformers; nothing is downloaded.

    Args:
        source: a folder or hub id.
        where: the setting that names it.

    Raises:
        ConfigError: its config is not at hand.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError) as error:
        if source in _known():
            return AutoConfig.for_model(**_known()[source])
        raise ConfigError(
            f"The config.json of {where}={source!r} is not at hand, so its size is not known; "
            f"fetch that one file: `hf download {source} config.json`."
        ) from error


def word_tokenizer(source: str) -> Any:  # noqa: ANN401 - a tokenizer of transformers
    """Return a source's tokenizer, or where that is not at hand one that makes a word a token."""
    from transformers import AutoTokenizer

    if any(Path(source).glob("tokenizer*")) or any(Path(source).glob("vocab*")):
        return AutoTokenizer.from_pretrained(source)
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ends = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    words = {word: number for number, word in enumerate(ends.values())}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, **ends)


def untrained_expert(cfg: Mapping[str, Any]) -> nn.Module:
    """Build an expert from its spec alone, with whatever numbers its factory draws.

    Args:
        cfg: of its slot.

    Raises:
        ConfigError: the config gives it other weights, whose architecture is their own.
        ExpertBuildError: it cannot be built without its weights.
    """
    options = expert_options(cfg)
    if cfg["type"] not in discover().experts:  # research code
        expert: nn.Module = EXPERTS.build({"type": cfg["type"], **options, "_scope_": SCOPE})
        return expert
    tiny = bool(options.pop("tiny", False))
    if options.pop("weights", None) is not None and not tiny:
        raise ConfigError("the weights that the config gives it have an architecture of their own")
    options.pop("sha256", None)
    entry = expert_spec({"type": cfg["type"], "tiny": tiny, **options})
    spec = replace(entry.spec, weights=None, resolve="")  # it is resolved
    return build_from_spec(spec, tiny=tiny, options=options, origin=entry.origin)
