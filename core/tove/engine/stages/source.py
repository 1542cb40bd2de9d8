"""Which stage another one takes its model from."""

from tove.engine.stages.context import StageContext
from tove.errors import ConfigError, close_matches

__all__ = ["check_source"]


def check_source(context: StageContext, stage: str, source: str) -> None:
    """Check that there is, or will be, a model for a stage to start from.

    Args:
        context: the run.
        stage: the stage's name.
        source: the stage that it takes the model of.

    Raises:
        ConfigError: no stage before it has that name, and none has left a model in the folder.
    """
    if context.checkpoint or context.model_path(source).exists():
        return
    names = [entry["name"] for entry in context.cfg.stages]
    earlier = names[: names.index(stage)]
    if source not in earlier:
        raise ConfigError(
            f"Stage '{stage}' takes the model of stage '{source}', but none of that name comes "
            f"before it. {close_matches(source, earlier)}"
        )
