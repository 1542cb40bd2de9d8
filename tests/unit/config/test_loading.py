"""Config files that cannot be read."""

import pytest

from tove.config.loading import load_config
from tove.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1 / 0", "ZeroDivisionError"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("x = (", "SyntaxError"),
        ("x = open('/no/such/file')", "FileNotFoundError"),
        ("_base_ = ['missing.py']", "missing"),
        ("with read_base():\n    from .base import *", r"read_base\(\)"),
        (b"x = '\xe4'", "UnicodeDecodeError"),
        ("assert False", "AssertionError"),
    ],
)
def test_a_config_that_raises_is_a_sentence(tmp_path, text, reason):
    path = tmp_path / "config.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=rf"(?s)config\.py cannot be read .*{reason}"):
        load_config(str(path))
