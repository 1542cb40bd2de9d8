"""The encoder that learns: a copy of CLIP, trained in full or by LoRA, and folded back to one."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from typing import Any

from torch import nn

from tove.config.validation import check_known
from tove.errors import ConfigError

__all__ = ["check_student", "fold_lora", "make_student"]


def check_student(choice: str | Mapping[str, Any], where: str) -> None:
    """Check what a config says of the student, without an encoder to copy.

    Raises:
        ConfigError: neither "full" nor "lora", or an option that LoRA does not take.
    """
    options = _lora_options(choice)
    if options:
        from peft import LoraConfig

        check_known(options, [entry.name for entry in fields(LoraConfig)], where)


def _lora_options(choice: str | Mapping[str, Any]) -> dict[str, Any] | None:
    """Give LoRA's arguments; None where the student trains in full."""
    if not isinstance(choice, str) and "trainable" in choice:
        choice = choice["trainable"]
    options = {"type": choice} if isinstance(choice, str) else dict(choice)
    trainable = options.pop("type", "full")
    if trainable == "lora":
        return options
    if trainable == "full" and not options:
        return None
    raise ConfigError(
        f"model.student is {choice!r}, but it must be 'full', 'lora', or "
        "dict(type='lora', r=..., ...)."
    )


def _inject_lora(encoder: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
    """Put LoRA layers into the blocks that run, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = tuple(options.pop("target_modules", encoder.lora_targets))
    names = [
        f"{block}.{name}"
        for block, module in encoder.blocks()
        for name, _ in module.named_modules()
        if name.rpartition(".")[2] in targets
    ]
    if not names:
        raise ConfigError(
            f"model.student.target_modules is {list(targets)}, but no block of the encoder has a "
            f"layer of such a name; choose among {', '.join(encoder.lora_targets)}."
        )
    try:
        config = LoraConfig(target_modules=names, **options)
    except TypeError as error:
        raise ConfigError(
            f"model.student has an option that LoRA does not take ({error}); "
            "see the arguments of peft.LoraConfig."
        ) from error
    inject_adapter_in_model(config, encoder)


def fold_lora(encoder: nn.Module) -> nn.Module:
    """Add every LoRA update to the weight it belongs to and take the LoRA layers out, in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(n, m) for n, m in encoder.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, layer.get_base_layer())
    return encoder


def make_student(encoder: nn.Module, choice: str | Mapping[str, Any]) -> nn.Module:
    """Copy an encoder and unfreeze what its tokens depend on.

    Blocks above the encoder's `layer` and its post-layernorm reach no loss: they stay as they are,
    for those who use the exported checkpoint's other outputs.

    Args:
        encoder: frozen.
        choice: "full", or "lora" with its options.
    """
    options = _lora_options(choice)
    student: Any = deepcopy(encoder).requires_grad_(False)
    if options is not None:
        _inject_lora(student, options)
    else:
        for _, parameter in student.used_parameters():
            parameter.requires_grad_(True)
    return student
