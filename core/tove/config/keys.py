"""The top-level settings of a config that something reads.

Any other top-level name is a variable of the config file's own.
"""

import difflib
from collections.abc import Iterable

from tove.errors import ConfigError

__all__ = ["RUNNER_SETTINGS", "SETTINGS", "TRAINING_SETTINGS", "check_names", "is_setting"]

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
"""mmengine's vocabulary: a stage's Runner reads these, see `tove.engine.loop`."""

TRAINING_SETTINGS = (
    "auto_scale_lr",
    "custom_hooks",
    "model_wrapper_cfg",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
)
"""Those of them that change what comes out of a training."""

SETTINGS = RUNNER_SETTINGS | {
    "batch_size",
    "custom_imports",
    "data_root",
    "hub",
    "image_size",
    "merging",
    "model",
    "report",
    "scenes",
    "schedule",
    "seed",
    "stages",
    "table_metrics",
    "test_dataloader",
    "test_evaluator",
    "train_dataloader",
    "unlabelled_dataloader",
    "val_dataloader",
    "work_dir",
}

# Names that mmengine's Runner reads and a staged run does not, with what to write.
_ELSEWHERE = {
    "launcher": "pass --launcher on the command line",
    "load_from": "pass --stage NAME --checkpoint FILE on the command line",
    "randomness": "set `seed`",
    "resume": "pass --resume on the command line",
    "runner_type": "leave it out: each stage has a Runner of its own",
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
        near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=_NEAR)
        if near and not is_setting(name):
            raise ConfigError(
                f"The config sets `{name}`, which nothing reads; did you mean `{near[0]}`? A "
                "variable of your own needs a name less like it."
            )
