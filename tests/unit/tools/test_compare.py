"""tools/compare.py: one table over several runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools/compare.py"


def run(folder: Path, scores: dict[str, float]) -> Path:
    """Writes the results of a run."""
    folder.mkdir()
    rows = [
        {
            "name": name,
            "metrics": {"vsr/accuracy": {"value": value}},
            "trainable_parameters": 10,
            "total_parameters": 20,
            "forward_ms": 1.5,
        }
        for name, value in scores.items()
    ]
    (folder / "results.json").write_text(json.dumps(rows))
    return folder


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the tool."""
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_gains_are_differences_within_a_run(tmp_path: Path):
    first = run(tmp_path / "a", {"baseline": 0.6, "tove": 0.8})
    second = run(tmp_path / "b", {"baseline": 0.7, "tove": 0.9})
    out = tmp_path / "table.json"
    done = compare(first, second, "--json", out)
    assert done.returncode == 0, done.stderr
    table = {row["name"]: row for row in json.loads(out.read_text())}
    assert table["tove"]["gain"] == pytest.approx(0.2)
    assert table["tove"]["gain_sd"] == pytest.approx(0.0, abs=1e-9)
    assert table["tove"]["sd"] == pytest.approx(0.0707, abs=1e-4)
    assert "+0.2000" in done.stdout


def test_one_run_has_no_spread(tmp_path: Path):
    out = tmp_path / "table.json"
    compare(run(tmp_path / "a", {"tove": 0.8}), "--json", out)
    row = json.loads(out.read_text())[0]
    assert row["sd"] is None
    assert row["gain"] is None


@pytest.mark.parametrize("arguments", [["nowhere"], ["a", "--metric", "vsr/recall"]])
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: list[str]):
    run(tmp_path / "a", {"tove": 0.8})
    done = compare(tmp_path / arguments[0], *arguments[1:])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
