"""The memory that a call needs: what it computes with, and the most that is alive at one time.

    peak = bytes of the modules' parameters and buffers + the most bytes of tensors made by the call
           that are alive at the same time

On CUDA the second term is the allocator's own account, kernels' workspace included. Elsewhere no
allocator keeps one: every tensor that an operator returns is followed from its birth to its death,
which leaves a kernel's private workspace and sparse tensors out.
"""

import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveTensors", "module_bytes", "peak_bytes"]


def module_bytes(modules: Iterable[nn.Module]) -> int:
    """Sum the bytes of parameters and buffers, a shared one once."""
    tensors = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def peak_bytes(step: Callable[[], Any], modules: Iterable[nn.Module]) -> int:
    """Run a call once and give the memory that it needs, in bytes.

    Args:
        step: the call; run it before, so that what is allocated once and for all is there.
        modules: what it computes with, on one device or several.
    """
    modules = list(modules)
    devices = {t.device for m in modules for t in (*m.parameters(), *m.buffers())}
    on_cuda = [device for device in devices if device.type == "cuda"]
    made = _cuda_peak(step, on_cuda) if on_cuda else _live_peak(step)
    return module_bytes(modules) + made


def _cuda_peak(step: Callable[[], Any], devices: Iterable[torch.device]) -> int:
    """Give the rise of the allocator's high-water mark, summed over devices."""
    before = {}
    for device in devices:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before[device] = torch.cuda.memory_allocated(device)
    step()
    for device in before:
        torch.cuda.synchronize(device)
    return sum(torch.cuda.max_memory_allocated(device) - held for device, held in before.items())


def _live_peak(step: Callable[[], Any]) -> int:
    with LiveTensors() as tensors:
        step()
    return tensors.peak


class LiveTensors(TorchDispatchMode):
    """Follows the storages of tensors that are made while it is on.

    Attributes:
        live: bytes alive now.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operator gives
        """Run an operator and follow what it returns."""
        kwargs = kwargs or {}
        # What comes from outside is not the call's own: weights, the image.
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._follow(tensor, counts=False)
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor, counts=True)
        self.peak = max(self.peak, self.live)
        return out

    def _follow(self, tensor: Tensor, counts: bool) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse and opaque tensors have none that can be told
            return
        if storage._cdata in self._known:
            return
        num_bytes = storage.nbytes() if counts else 0
        self._known.add(storage._cdata)
        self.live += num_bytes
        weakref.finalize(storage, self._forget, storage._cdata, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live -= num_bytes
