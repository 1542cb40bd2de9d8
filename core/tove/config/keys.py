"""The top-level settings of a config that something reads, and what each must be.

Any other top-level name is a variable of the config file's own.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

from tove.config.validation import Range, check_value
from tove.errors import ConfigError

__all__ = [
    "RUNNER_SETTINGS",
    "SETTINGS",
    "TRAINING_SETTINGS",
    "check_misspelt",
    "check_names",
    "check_settings",
    "is_setting",
]

RUNNER_SETTINGS = frozenset(
    {
        "auto_scale_lr",
        "custom_hooks",
        "default_hooks",
        "env_cfg",
        "log_level",
        "log_processor",
        "model_wrapper_cfg",
        "optim_wrapper",
        "param_scheduler",
        "train_cfg",
        "visualizer",
    }
)
"""mmengine's vocabulary: a stage's Runner reads these, see `tove.engine.run_plan`."""

TRAINING_SETTINGS = (
    "auto_scale_lr",
    "custom_hooks",
    "model_wrapper_cfg",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
)
"""Those of them that change what comes out of a training."""

_KINDS: dict[str, Any] = {
    "auto_scale_lr": dict,
    "batch_size": Annotated[int, Range(1)],
    "custom_hooks": list[Any],
    "custom_imports": dict | None,
    "data_root": str | None,
    "default_hooks": dict,
    "env_cfg": dict,
    "hub": dict,
    "image_size": Annotated[int, Range(1, 8192)],
    "log_level": Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    "log_processor": dict,
    "merging": dict,
    "model": dict,
    "model_wrapper_cfg": dict,
    "optim_wrapper": dict,
    "param_scheduler": dict | list[dict],
    "report": dict,
    "scenes": dict | None,
    "schedule": dict,
    "seed": Annotated[int, Range(0, 2**32 - 1)],
    "stages": list[dict],
    "table_metrics": list[str],
    "test_dataloader": dict,
    "test_evaluator": dict | list[dict],
    "train_cfg": dict,
    "train_dataloader": dict,
    "unlabelled_dataloader": dict,
    "val_dataloader": dict,
    "visualizer": dict,
    "work_dir": str | None,
}

SETTINGS = frozenset(_KINDS)

# Names that mmengine's Runner reads and a staged run does not, with what to write.
_ELSEWHERE = {
    "activation_checkpointing": "set model.language.checkpointing of a model that talks",
    "compile": "leave it out: a stage trains its model as it is",
    "efficient_conv_bn_eval": "leave it out: frozen networks run as they are",
    "find_unused_parameters": "put it into model_wrapper_cfg=dict(find_unused_parameters=True)",
    "launcher": "pass --launcher on the command line",
    "load_from": "pass --stage NAME --checkpoint FILE on the command line",
    "randomness": "set `seed`",
    "resume": "pass --resume on the command line",
    "runner_type": "leave it out: each stage has a Runner of its own",
    "strategy": "set model_wrapper_cfg=dict(type='FullyShard') to shard the model",
    "sync_bn": "leave it out: batch norms stay as the model has them",
    "test_cfg": "leave it out: every stage is tested once, on test_dataloader",
    "val_cfg": "set schedule.val_interval",
    "val_evaluator": "set test_evaluator, which validation uses as well",
    "vis_backends": "put them into visualizer=dict(vis_backends=[...])",
}
_NEAR = 0.88  # of difflib's ratio: a letter wrong or missing


def is_setting(name: str) -> bool:
    """Tell whether something reads a top-level name; stages may use loaders of any name."""
    return name in SETTINGS or name.endswith("_dataloader")


def check_names(names: Iterable[str]) -> None:
    """Refuse top-level names that look like settings and are read by nothing.

    Raises:
        ConfigError: mmengine's name of what is said elsewhere here, or a misspelt setting.
    """
    for name in names:
        if name in _ELSEWHERE:
            raise ConfigError(
                f"The config sets `{name}`, which no stage reads; {_ELSEWHERE[name]}."
            )
        if not is_setting(name):
            check_misspelt([name], SETTINGS, "The config")


def check_misspelt(names: Iterable[str], known: Collection[str], where: str) -> None:
    """Refuse names in a file that are those of nothing, and nearly one that is read.

    Args:
        names: in the file, its own variables among them.
        known: that are read.
        where: the file, for the message.

    Raises:
        ConfigError: there is one.
    """
    for name in names:
        near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
        if near and name not in known:
            raise ConfigError(
                f"{where} sets `{name}`, which nothing reads; did you mean `{near[0]}`? A "
                "variable of your own needs a name less like it."
            )


def check_settings(cfg: Mapping[str, Any], place: str = "") -> None:
    """Refuse top-level settings of a wrong kind; that they are there is for others to check.

    Args:
        cfg: the config, or what a stage lays over some of its settings.
        place: of the stage's, with a dot at its end.

    Raises:
        ConfigError: one is, such as `model = None` or `stages = "transfer"`.
    """
    for key, hint in _KINDS.items():
        if key in cfg:
            check_value(cfg[key], hint, f"{place}{key}")
