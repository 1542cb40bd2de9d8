"""Build models of mmdet and mmpretrain inside a run of another scope.

Both libraries register their classes in an mmengine scope of their own and look names up in the
run's default scope. That of a tove run is `tove`, which holds none of them, so it is changed for
the moment of building and put back.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from tove_experts.openmmlab.fallback import serve_mmcv_ops

if TYPE_CHECKING:
    from mmengine.config import ConfigDict

__all__ = ["build_model", "keep_only", "mixed_precision"]


def build_model(
    scope: Literal["mmdet", "mmpretrain"], cfg: ConfigDict, *, initialise: bool
) -> nn.Module:
    """Build a model from its config, in eval mode.

    SyncBatchNorm becomes BatchNorm, the same with running statistics: torch's DDP refuses a model
    on the CPU that holds any of it, a frozen expert included.

    Args:
        scope: The library.
        cfg: The model's part of a config, with nothing in it that would be fetched.
        initialise: Draw random weights as the library does for training; without it some
            parameters are whatever the memory held, until a checkpoint fills them.
    """
    serve_mmcv_ops()
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    registry = importlib.import_module(f"{scope}.registry").MODELS
    importlib.import_module("mmcv.ops")  # here, so that a fallback is told in the log
    with DefaultScope.overwrite_default_scope(scope):
        with _quiet(), redirect_stdout(sys.stderr):
            registry.import_from_location()  # which tells what else could be compiled
        model: nn.Module = registry.build(cfg)
        if initialise:
            with _quiet():
                model.init_weights()  # type: ignore[operator]
    plain: nn.Module = revert_sync_batchnorm(model)
    return plain.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the log what modules lack and how each single parameter was drawn."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def keep_only(module: nn.Module, *names: str) -> None:
    """Drop every child but these: a frozen expert has no use for heads that it does not run."""
    for name in [name for name, _ in module.named_children() if name not in names]:
        delattr(module, name)


def mixed_precision(images_BCHW: Tensor) -> AbstractContextManager[object]:
    """Give the context in which the libraries' models run on images of half precision.

    Their forwards make float32 tensors (attention masks, positions, reference points) that meet
    weights cast to bfloat16 and raise; under autocast, for which they are written, these agree.
    """
    if images_BCHW.dtype in (torch.bfloat16, torch.float16):
        return torch.autocast(images_BCHW.device.type, images_BCHW.dtype)
    return nullcontext()
