"""Checks of what a config says in mmengine's own vocabulary, before any stage begins.

mmengine looks a hook or a scheduler up when a stage's Runner is built, which for the last stage is
hours later, as it does the library of a visualizer's backend, and takes a negative norm for one to
clip at.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Annotated, Any

from mmengine.config import Config
from mmengine.registry import Registry

from tove import registry
from tove.config.keys import RUNNER_SETTINGS, check_settings
from tove.config.validation import Range, check_known, check_value, look_up
from tove.errors import ConfigError

__all__ = ["check_runner"]

# Where a `type` may stand, and what knows it; a list's entries and the hooks by name each have one.
_TYPES: Mapping[tuple[str, ...], Registry] = {
    ("custom_hooks",): registry.HOOKS,
    ("default_hooks",): registry.HOOKS,
    ("log_processor",): registry.LOG_PROCESSORS,
    ("optim_wrapper",): registry.OPTIM_WRAPPERS,
    ("optim_wrapper", "optimizer"): registry.OPTIMIZERS,
    ("param_scheduler",): registry.PARAM_SCHEDULERS,
    ("train_cfg",): registry.LOOPS,
    ("visualizer",): registry.VISUALIZERS,
    ("visualizer", "vis_backends"): registry.VISBACKENDS,
}
# The library that a backend of mmengine's imports as it logs for the first time.
_TRACKERS = {
    "AimVisBackend": "aim",
    "ClearMLVisBackend": "clearml",
    "DVCLiveVisBackend": "dvclive",
    "MLflowVisBackend": "mlflow",
    "NeptuneVisBackend": "neptune",
    "WandbVisBackend": "wandb",
}
_NUMBERS: Mapping[tuple[str, ...], Any] = {
    ("optim_wrapper", "clip_grad", "max_norm"): Annotated[float, Range(0, above=True)] | None,
    ("optim_wrapper", "accumulative_counts"): Annotated[int, Range(1)] | None,
}


def check_runner(cfg: Config) -> None:
    """Check the config's settings in mmengine's vocabulary, and those of its stages.

    Raises:
        ConfigError: a stage's setting or a type that is unknown, one of a wrong kind, a number out
            of its range, or a tracker whose library is not installed.
    """
    places = {entry["name"]: entry.get("runner") for entry in cfg.stages}
    own = {f"stages.{name}.runner.": settings for name, settings in places.items() if settings}
    for prefix, settings in own.items():
        check_known(settings, RUNNER_SETTINGS, prefix.rstrip("."))
        check_settings(settings, prefix)
    for prefix, settings in {"": cfg, **own}.items():
        for path, kind in _TYPES.items():
            for place, entry in _entries(_at(settings, path), ".".join(path)):
                if "type" in entry:
                    look_up(kind, entry["type"], f"{prefix}{place}")
                    _check_tracker(entry["type"], f"{prefix}{place}")
        for path, hint in _NUMBERS.items():
            check_value(_at(settings, path), hint, f"{prefix}{'.'.join(path)}")


def _check_tracker(kind: Any, where: str) -> None:  # noqa: ANN401 - a type is a name or a class
    library = _TRACKERS.get(kind) if isinstance(kind, str) else None
    if library is not None and find_spec(library) is None:
        raise ConfigError(
            f"{where}.type is '{kind}', whose library is not installed; do so by "
            f"`pip install {library}`, or leave this backend out."
        )


def _at(settings: Any, path: tuple[str, ...]) -> Any:  # noqa: ANN401
    for part in path:
        settings = settings.get(part) if hasattr(settings, "get") else None
    return settings


def _entries(value: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ANN401
    """Yield the dicts that have a type, with their places: one, a list's, or hooks by name."""
    if isinstance(value, Mapping) and place != "default_hooks":
        yield place, value
        return
    listed = enumerate(value) if isinstance(value, list | tuple) else ()
    inside = value.items() if isinstance(value, Mapping) else listed
    yield from ((f"{place}.{key}", e) for key, e in inside if isinstance(e, Mapping))
