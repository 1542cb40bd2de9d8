"""One frozen expert: what it is shown, where it runs, what its tokens have to be.

    t_k = norm_k(expert_k(normalise_k(resize_k(image))))  no_grad, eval, on the expert's device

Shapes: B batch, C = 3 channels, H x W the shared view, M = h * w tokens on the expert's own grid,
D its width.
"""

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from tove.backbones.preprocess import Preprocess, Resize, keep_dtype
from tove.errors import ConfigError
from tove.modules.token_norm import TokenNorm, make_token_norm
from tove_plugins import ExpertSpec, kept_global_state

__all__ = ["FrozenExpert"]


class FrozenExpert(nn.Module):
    """One expert with its preprocessing and its place: frozen, in eval, without gradients.

    Args:
        slot: its name in the config, for messages.
        spec: what the plugin says about it.
        expert: the built network; None for one that `place` brings when it first runs.
        device: where it stays whatever the model does; None follows the model.
        dtype: of its weights, which stays as well, under autocast too; None is float32, or what
            autocast makes of it.
        token_norm: what is done to the tokens' scale.
        resize: numbers that the view is resized in, see `tove.backbones.preprocess.Resize`.

    Attributes:
        norm: the module that does it, on the device of what reads the tokens.
    """

    def __init__(
        self,
        slot: str,
        spec: ExpertSpec,
        expert: nn.Module | None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        token_norm: TokenNorm = "none",
        resize: Resize = "float32",
    ) -> None:
        super().__init__()
        self.slot, self.spec, self.checked = slot, spec, False
        self.device = None if device is None else torch.device(device)
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self.expert: nn.Module | None = None
        self._first_weight: tuple[nn.Parameter] | None = None
        image = spec.image
        self.preprocess = Preprocess(
            image.size, image.mean, image.std, image.value_range, image.interpolation, resize
        ).to(self.device)
        self.norm = make_token_norm(token_norm, spec.tokens.width)
        if expert is not None:
            self.place(expert)
        self.eval()

    def place(self, expert: nn.Module, device: torch.device | None = None) -> None:
        """Take the built network in, frozen and in eval, where the config or `device` says."""
        expert = expert.to(device=self.device or device, dtype=self.dtype)
        self.expert = expert.requires_grad_(False).eval()
        self._first_weight = None

    def train(self, mode: bool = True) -> "FrozenExpert":
        """Stay in eval: mmengine's loop sets the whole model to training every epoch."""
        return super().train(False)

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenExpert":  # noqa: ANN401
        """Follow the model's `.to(...)` except in what the config has settled."""
        self._first_weight = None
        if self.device is not None:
            self.norm._apply(fn, recurse)
            return self
        return super()._apply(fn if self.dtype is None else keep_dtype(fn), recurse)

    @property
    def _network(self) -> nn.Module:
        return cast(nn.Module, self.expert)

    def _input_dtype(self) -> torch.dtype | None:
        """The dtype that the input must have: that of the parameters, or else of the buffers."""
        if self._first_weight is None:
            weights = chain(self._network.parameters(), self._network.buffers())
            found = next((w for w in weights if w.is_floating_point()), None)
            if not isinstance(found, nn.Parameter):
                return self.dtype if found is None else found.dtype
            self._first_weight = (found,)  # in a tuple, lest it becomes a parameter here as well
        return self._first_weight[0].dtype

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give normalised tokens [B, M, D], on the images' device, of images in [0, 1]."""
        with kept_global_state():
            tokens_BMD: Tensor = self.norm(self.raw(images_BCHW))
        return tokens_BMD

    @torch.no_grad()
    def raw(self, images_BCHW: Tensor) -> Tensor:
        """Give tokens [B, M, D] as the expert itself does, of images in [0, 1].

        What its code does to the process is for the caller to put back.
        """
        home = images_BCHW.device
        pixels_BCHW = self.preprocess(_moved(images_BCHW, self.device or home))
        settled = nullcontext() if self.dtype is None else _no_autocast(pixels_BCHW.device)
        with settled:
            tokens_BMD = self._network(pixels_BCHW.to(self._input_dtype()))
        if not self.checked:
            self._check(tokens_BMD, len(images_BCHW))
        return _moved(tokens_BMD, home)

    def _check(self, tokens: Any, num_images: int) -> None:  # noqa: ANN401
        """Hold the first output against the spec; a wrong layout would train on without a word."""
        expected = (num_images, self.spec.tokens.num_tokens, self.spec.tokens.width)
        if not isinstance(tokens, Tensor):
            found = f"a {type(tokens).__name__}"
        elif tuple(tokens.shape) != expected:
            found = f"a tensor of shape {list(tokens.shape)}"
        elif not tokens.is_floating_point():
            found = f"tokens of {tokens.dtype}"
        else:
            self.checked = True
            return
        raise ConfigError(
            f"Expert '{self.spec.name}' in slot '{self.slot}' gave {found}, but its spec promises "
            f"floating tokens of shape {list(expected)} (batch, {self.spec.tokens.grid[0]} x "
            f"{self.spec.tokens.grid[1]} grid, width); its factory {self.spec.factory} or its spec "
            "is wrong. Report it to its author, or detach the slot."
        )


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device.type):  # the meta device has none
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; a copy to the CPU is waited for, or it would be read before it is there."""
    return x.to(device, non_blocking=device.type != "cpu")
