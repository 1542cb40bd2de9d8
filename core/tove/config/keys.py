"""The top-level settings of a config that something reads, and what each must be."""

from collections.abc import Mapping
from typing import Annotated, Any

from tove.config.validation import Range, check_value

__all__ = ["SETTINGS", "check_settings"]

_KINDS: dict[str, Any] = {
    "batch_size": Annotated[int, Range(1)],
    "custom_imports": dict | None,
    "data_root": str | None,
    "hub": dict | None,
    "image_size": Annotated[int, Range(1, 8192)],
    "merging": dict,
    "model": dict,
    "report": dict | None,
    "scenes": dict | None,
    "schedule": dict,
    "seed": Annotated[int, Range(0, 2**32 - 1)],
    "stages": list[dict],
    "table_metrics": list[str],
    "test_dataloader": dict,
    "test_evaluator": dict | list[dict],
    "train_dataloader": dict,
    "unlabelled_dataloader": dict,
    "val_dataloader": dict,
    "work_dir": str | None,
}

# The top-level settings that are read.
SETTINGS = frozenset(_KINDS)


def check_settings(cfg: Mapping[str, Any]) -> None:
    """Refuse top-level settings of a wrong kind; that they are there is for others to check.

    Raises:
        ConfigError: one is, such as `model = None` or `stages = "transfer"`.
    """
    for key, hint in _KINDS.items():
        if key in cfg:
            check_value(cfg[key], hint, key)
