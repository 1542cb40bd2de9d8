"""Transfer the knowledge of a hub of frozen vision experts into one vision encoder.

`tove.load(WORK_DIR)` gives a trained model to use. `tove.methods.tove.model` composes the parts of
the method; `tove.registry` holds the names that config files use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tove.engine.load_trained import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tove.engine.load_trained import load  # on demand: it imports torch and the engine

    return load
