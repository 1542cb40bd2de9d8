"""A config file with the command line's settings laid over it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from tove.config.keys import SETTINGS, is_setting
from tove.config.options import parse_options, values_on_the_way
from tove.errors import ConfigError, close_matches

__all__ = ["load_config"]


def load_config(path: str, options: list[str] | None = None, work_dir: str | None = None) -> Config:
    """Read a config, lay the command line's settings over it, and fill in what follows from it.

    Args:
        path: of the file.
        options: "KEY=VALUE" strings.
        work_dir: overrides the config's; without both it is work_dirs/<config's name>.

    Raises:
        ConfigError: no such file, or an option that cannot be read.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"There is no config file {path}; give a path from here, or the name of one that "
            "`mim search tove_plugins` lists."
        )
    try:
        cfg = Config.fromfile(path, import_custom_modules=False)
    except (Exception, SystemExit) as error:  # a config is a program, and may raise anything
        raise ConfigError(
            f"The config {path} cannot be read ({type(error).__name__}: {error}). Configs here are "
            "of mmengine's text style, without read_base(); where one changes a setting of its "
            "_base_ from a value to a dict, add _delete_=True to that dict."
        ) from error
    kinds = [text for text in options or () if text.partition("=")[0].endswith(".type")]
    others = [text for text in options or () if text not in kinds]
    for some in (kinds, others):  # what an option wants depends on whose it is
        given = parse_options(some, cfg)
        _check_options(given, cfg)
        _lay_over(cfg, given)
    if work_dir:
        cfg.work_dir = work_dir
    elif not cfg.get("work_dir"):
        cfg.work_dir = f"work_dirs/{Path(path).stem}"
    return cfg


def _lay_over(cfg: Config, given: dict) -> None:
    """Merge the command line's settings; a dict takes the place of a plain value whole."""
    replaced = {f"{path}._delete_": True for key in given for path in _plain_on_the_way(cfg, key)}
    try:
        cfg.merge_from_dict({**replaced, **given})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"--cfg-options {', '.join(given)} cannot be laid over the config: "
            f"{str(error).strip(chr(34))}. Give keys that the config has."
        ) from error


def _plain_on_the_way(cfg: Config, key: str) -> Iterator[str]:
    """Yield the path at which a key goes on below a value that holds nothing, if there is one.

    `merging.model.student.r=8` where `student` is "full", for example.
    """
    way: list[str] = []
    for part, value in values_on_the_way(cfg, key):
        if way and not isinstance(value, Mapping | list | tuple):
            yield ".".join(way)
            return
        way.append(part)


def _check_options(options: dict, cfg: Config) -> None:
    """Refuse settings that would be laid down and never read."""
    for option in options:
        key = option.partition(".")[0]
        if not is_setting(key):
            what = "only a variable inside the config file" if key in cfg else "unknown"
            raise ConfigError(
                f"--cfg-options {option}: '{key}' is {what}, so setting it would change nothing; "
                f"set what is read. {close_matches(key, SETTINGS)}"
            )
