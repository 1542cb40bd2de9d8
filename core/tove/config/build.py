"""Parts from their configs."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.registry import Registry
from torch import nn

from tove.errors import ConfigError
from tove.registry import SCOPE

__all__ = ["build_part", "or_told"]


def build_part(part: Mapping[str, Any] | nn.Module, registry: Registry) -> Any:  # noqa: ANN401
    """Build a part from its config, whatever mmengine's default scope is; modules pass through."""
    return part if isinstance(part, nn.Module) else registry.build({**part, "_scope_": SCOPE})


def or_told(make: Callable[[], Any], where: str, check: Callable[[], object] | None = None) -> Any:  # noqa: ANN401
    """Make what a library builds of settings, or say which settings they are.

    Args:
        make: builds it.
        where: the settings' place in the config.
        check: called where it cannot be built; may say better what is wrong than the library does.

    Raises:
        ConfigError: it cannot be built; the library's words are part of it.
    """
    try:
        return make()
    except ConfigError:
        raise
    except Exception as error:  # a library's may be of any kind
        if check is not None:
            check()
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{where} cannot be built ({type(error).__name__}: {said}); correct its settings."
        ) from error
