"""Small trained parts inside a frozen language model.

Bottleneck adapter (Houlsby et al., arXiv 1902.00751), after the MLP of every layer:
    h <- h + W_up . GELU(W_down h + b_down) + b_up        W_up = b_up = 0 at the start
LoRA (Hu et al., arXiv 2106.09685) comes from the package peft.
Both train in float32, whatever dtype the frozen weights have; their input is cast on the way in and
their correction on the way out.

Shapes: B samples, L tokens, D model width.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tove.config.validation import Range, check_arguments
from tove.errors import ConfigError

__all__ = ["BottleneckAdapter", "attach_adapters", "set_adapter_mode"]

# Where the families of transformers keep the last module of a layer's MLP, before the residual sum:
# GPT-2, Llama, OPT, BERT and RoBERTa, T5-like.
_MLP_OUTPUTS = ("mlp", "fc2", "output.dense", "feed_forward", "ffn")


_WHERE = "model.language.adapters"


class BottleneckAdapter(nn.Module):
    """The identity at the start, a two-layer residual map once trained.

    Args:
        width: width D of the hidden states.
        bottleneck: width of the layer in between.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        """Return hidden_BLD plus the adapter's correction, in the dtype of the input."""
        inner = F.gelu(self.down(hidden_BLD.to(self.down.weight.dtype)))
        return hidden_BLD + self.up(inner).to(hidden_BLD.dtype)

    def after(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook. A bound method, so that a deep copy of the model uses copied adapters."""
        return self(output)


def attach_adapters(
    model: Any,  # noqa: ANN401
    options: Mapping[str, Any] | None,
    trained_in_full: str | None = None,
) -> nn.ModuleList | None:
    """Give a causal language model of transformers its adapters.

    Args:
        model: the language model, its parameters already frozen.
        options: None; dict(type="bottleneck", width=...) with the inner width; or
            dict(type="lora", ...) with arguments of peft's LoraConfig, which takes its own choice
            of `target_modules` for the model's type where none is given.
        trained_in_full: regular expression of module names that LoRA leaves alone.

    Returns:
        Bottleneck adapters in the order of the layers, which the caller owns and the model only
        hooks; None for LoRA, which lives inside the model.

    Raises:
        ConfigError: unknown type, no list of layers with a known kind of MLP was found, or LoRA's
            options would train weights of the model in less than float32.
    """
    if not options:
        return None
    arguments = dict(options)
    kind = arguments.pop("type", None)
    if kind == "bottleneck":
        check_arguments(_add_bottlenecks, arguments, _WHERE, filled=("model",))
        return _add_bottlenecks(model, **arguments)
    if kind == "lora":
        _inject_lora(model, arguments, trained_in_full)
        return None
    raise ConfigError(f"language.adapters.type is {kind!r}, but it must be 'bottleneck' or 'lora'.")


def _add_bottlenecks(model: Any, width: Annotated[int, Range(1)]) -> nn.ModuleList:  # noqa: ANN401
    adapters = nn.ModuleList()
    for output in _mlp_outputs(model, model.config.num_hidden_layers):
        adapter = BottleneckAdapter(model.config.hidden_size, width)
        output.register_forward_hook(adapter.after)
        adapters.append(adapter)
    return adapters


def set_adapter_mode(model: nn.Module, mode: bool) -> None:
    """Set the mode of LoRA's own modules, its dropout above all, and of nothing else in the model.

    Args:
        model: a language model, in which LoRA may live.
        mode: True to train.
    """
    for module in model.modules():
        if not hasattr(module, "lora_dropout"):
            continue
        module.training = mode  # DoRA and other variants look at the layer's own flag
        for name, child in module.named_children():
            if name != "base_layer":
                child.train(mode)


def _inject_lora(model: nn.Module, arguments: dict[str, Any], trained_in_full: str | None) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    check_arguments(LoraConfig, arguments, _WHERE)
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2
    defaults = dict(exclude_modules=trained_in_full, fan_in_fan_out=transposed)
    inject_adapter_in_model(LoraConfig(**{**defaults, **arguments}), model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.dtype.itemsize >= 4:
            continue
        if "lora_" not in name:
            raise ConfigError(
                f"language.adapters would train {name} in {parameter.dtype}, its small steps lost "
                "to rounding; leave out the options of LoRA that train more than its own matrices "
                "(bias, modules_to_save), or leave language.dtype out."
            )
        parameter.data = parameter.data.float()  # peft made it in the dtype of the frozen weight


def _mlp_outputs(model: nn.Module, num_layers: int) -> list[nn.Module]:
    for candidates in model.modules():
        if not isinstance(candidates, nn.ModuleList) or len(candidates) != num_layers:
            continue
        found = [_mlp_output(layer) for layer in candidates]
        if all(module is not None for module in found):
            return [module for module in found if module is not None]
    raise ConfigError(
        f"No list of {num_layers} layers with one of the modules {', '.join(_MLP_OUTPUTS)} was "
        f"found in {type(model).__name__}, so bottleneck adapters have no place to go; "
        "use adapters=dict(type='lora', target_modules=[...]) with this language model."
    )


def _mlp_output(layer: nn.Module) -> nn.Module | None:
    names = dict(layer.named_modules())
    return next((names[name] for name in _MLP_OUTPUTS if name in names), None)
