"""The short forms of the scripts beside this file."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))


def test_no_fault_gives_a_wrong_token_or_goes_unnamed(script, tmp_path):
    counts: Counter = script("cache_faults")["run"](tmp_path, faults=30)
    assert counts["wrong"] == counts["not named"] == 0
    assert counts["flip"] > 5


@pytest.mark.slow
def test_killed_extractions_leave_what_is_sound(script, tmp_path):
    shards, _ = script("cache_kills")["kill_and_check"](tmp_path, kills=2, images=100)
    assert shards > 2
