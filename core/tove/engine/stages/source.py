"""Which stage another one takes its model from, or is held against."""

from tove.engine.planning import left_overlay
from tove.engine.stages.context import StageContext
from tove.errors import ConfigError, close_matches

__all__ = ["check_detachable", "check_reference", "check_source"]


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
            f"before it, and {context.model_path(source)} is not there. Where another config "
            f"trains it, run that first, with the same --work-dir. {close_matches(source, earlier)}"
        )


def check_reference(context: StageContext, stage: str, reference: str | None) -> None:
    """Check that a stage before gives the row that another's gain is over.

    Args:
        context: the run.
        stage: whose row has the gain.
        reference: the name of the other row; None leaves it to the roles.

    Raises:
        ConfigError: no stage before it gives a row of that name: the gain would be missing.
    """
    names = [entry["name"] for entry in context.cfg.stages]
    earlier = context.cfg.stages[: names.index(stage)]
    rows = [entry.get("row") or entry["name"] for entry in earlier]
    # A detachment's rows have the name of what they are of, and the slot that went.
    if reference is None or any(f"{reference}-".startswith(f"{row}-") for row in rows):
        return
    raise ConfigError(
        f"stages.{stage}.reference is '{reference}', but no stage before it gives a row of that "
        f"name. {close_matches(reference, rows)}"
    )


def check_detachable(context: StageContext, stage: str, source: str) -> list[str] | None:
    """Check that the source's model has experts, and can lose them.

    Returns:
        Their slots; None where a checkpoint of the user's has its own.

    Raises:
        ConfigError: it has none, or cannot do without them.
    """
    if context.checkpoint:
        return None
    names = [entry["name"] for entry in context.cfg.stages]
    over = left_overlay(context.cfg, source) if source in names else {}
    kind = context.kind_of(over)
    slots = list(kind.experts_of(context.model_settings(over)))
    if not (slots and kind.detachable):
        raise ConfigError(
            f"Stage '{stage}' has nothing to detach: stage '{source}' trains a {kind.__name__} "
            f"with {len(slots)} experts. Take the stage out, or name as its source a stage whose "
            "model can lose experts, such as ToVE."
        )
    return slots
