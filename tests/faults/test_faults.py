"""The fault scripts in their short form; docs/reliability.md has the long one."""

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# How many of each; crash_points has its own short form, tests/unit/engine/test_kept_files.py.
SHORT = {
    "kills": dict(num=1, stages=("transfer",)),
    "flips": dict(num=10),
    "full_disk": dict(num=1, stages=("transfer",)),
    "two_runs": dict(num=1),
    "late": dict(num=4),
    "ids": dict(num=6),
    "settings": dict(num=4),
    "surroundings": dict(num=1, kinds=3),  # the C locale is a test of the tools
    "bad_inputs": dict(num=20, tables=["configs", "annotations", "images", "weights"]),
}


@pytest.mark.parametrize("script", SHORT)
def test_what_was_tried_held(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    result = importlib.import_module(script).measure(tmp_path, seed=1, **SHORT[script])
    assert result.tried >= SHORT[script]["num"]
    assert not result.failures
