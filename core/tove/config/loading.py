"""A config file with the command line's settings laid over it."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from tove.config.keys import SETTINGS, is_setting
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
        cfg = Config.fromfile(path)
    except (KeyError, TypeError, SyntaxError, NameError, ImportError, OSError) as error:
        raise ConfigError(
            f"The config {path} cannot be read ({type(error).__name__}: {error}); where it changes "
            "a setting of its _base_ from a value to a dict, add _delete_=True to that dict."
        ) from error
    if options:
        given = _parse_options(options)
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
    value: Any = cfg
    *way, _ = key.split(".")
    for depth, part in enumerate(way, start=1):
        if isinstance(value, Mapping | Config):
            value = value.get(part, {})
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return
        if not isinstance(value, Mapping | list | tuple):
            yield ".".join(way[:depth])
            return


def _parse_options(options: list[str]) -> dict:
    bad = [option for option in options if "=" not in option]
    if bad:
        raise ConfigError(
            f"--cfg-options takes KEY=VALUE, but got '{bad[0]}'; write for example "
            "data_root=DIR schedule.steps=300."
        )
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *options]).cfg_options


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
