"""A config of a benchmark says what is asked; who answers is said by the checkpoint.

A checkpoint notes the config that it was trained with, so that one file for each benchmark serves
every model.
"""

from pathlib import Path

from mmengine.config import Config

from tove.config.keys import check_settings
from tove.config.overlay import merged_settings, plain_settings
from tove.engine.checkpoint import read_checkpoint
from tove.errors import ConfigError

__all__ = ["with_model_of"]

_NOT_TAKEN = ("scenes", "table_metrics", "test_evaluator", "work_dir")


def with_model_of(cfg: Config, checkpoint: Path) -> Config:
    """Complete a config without stages by that of a checkpoint's run.

    Args:
        cfg: one that has stages is returned as it is; the `model` of another lies over the run's,
            and all its other settings win.
        checkpoint: any that a stage wrote.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: it does not say what it was trained with, or a setting is of a wrong kind.
    """
    if "stages" in cfg:
        return cfg
    check_settings(cfg)
    text = read_checkpoint(checkpoint)["meta"].get("cfg")
    if not text:
        raise ConfigError(
            f"{cfg.filename} has no model of its own, and {checkpoint} does not say what it was "
            "trained with; write a config that has both, with the run's config as its _base_."
        )
    run = plain_settings(dict(Config.fromstring(text, ".py")))
    own = plain_settings(dict(cfg))
    taken = {
        key: value
        for key, value in run.items()
        if not key.endswith("_dataloader") and key not in _NOT_TAKEN
    }
    model = merged_settings(run["model"], own.get("model", {}))
    return Config({**taken, **own, "model": model}, filename=cfg.filename)
