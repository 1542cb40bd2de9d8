"""The table of docs/experts.md is what the specs say."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tove_plugins import discover

SCRIPT = Path(__file__).parents[3] / "scripts/expert_table.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_the_page_is_up_to_date(tool: dict[str, Any]):
    page = tool["PAGE"].read_text()
    written = page.partition(tool["BEGIN"])[2].partition(tool["END"])[0]
    assert written == tool["table"](), "run `python scripts/expert_table.py`"


def test_a_row_tells_the_spec(tool: dict[str, Any]):
    spec = discover().get("tiny_depth").spec
    weights = replace(spec.weights, licence="CC-BY-NC-4.0", commercial_use=False, size_mb=1234.5)
    changed = replace(spec, weights=weights, requires=("torch>=2", "onedl-mmcv>=2.3", "einops>1"))
    assert tool["row"](changed) == (
        *("`tiny_depth`", "depth", "8 x 8 x 64", "64 x 64", "1,234 MB", "CC-BY-NC-4.0 (nc)"),
        *(spec.weights.trained_on, "torch", "`[mm]`, `einops>1`"),
    )


def test_a_family_that_nobody_told_of_is_named(tool: dict[str, Callable]):
    spec = replace(discover().get("tiny_depth").spec, factory="tove_experts.novel:Expert")
    with pytest.raises(SystemExit, match=r"does not say what tove_experts\.novel builds on"):
        tool["row"](spec)
