"""Parts of a model from their configs."""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry
from torch import nn

from tove.registry import SCOPE

__all__ = ["build_part"]


def build_part(part: Mapping[str, Any] | nn.Module, registry: Registry) -> Any:  # noqa: ANN401
    """Build a part from its config, whatever mmengine's default scope is; modules pass through."""
    return part if isinstance(part, nn.Module) else registry.build({**part, "_scope_": SCOPE})
