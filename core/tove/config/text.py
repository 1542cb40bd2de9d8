"""A config as Python text, formatted once.

mmengine formats a config anew whenever it is asked for its text: for each checkpoint and for each
backend of the visualiser. That takes tenths of a second for a config of some hundred lines.
"""

from mmengine.config import Config

__all__ = ["FormattedOnce", "text_of"]

_MOST = 8
_formatted: dict[str, str] = {}  # by the text before it is formatted


def text_of(cfg: Config) -> str:
    """Return `cfg.pretty_text`; of a config that has not changed since, without formatting it."""
    plain = Config(cfg.to_dict(), format_python_code=False).pretty_text
    if plain not in _formatted:
        if len(_formatted) >= _MOST:
            del _formatted[next(iter(_formatted))]
        _formatted[plain] = Config(cfg.to_dict()).pretty_text
    return _formatted[plain]


class FormattedOnce(Config):
    """A Config for mmengine's Runner, which asks for its text again and again."""

    @property
    def pretty_text(self) -> str:
        """The config as Python."""
        return text_of(self)
