"""The table of codecs: scores of several seeds, each beside fp32's of the same seed."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts/codec_scores.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_gains_are_over_fp32_of_the_same_seed(tool: dict[str, Any]):
    def run(seed: int, codec: str, accuracy: float) -> dict[str, Any]:
        told = {"bytes": 2500, "fitted": 1e-3, "held_out": 2e-3, "caption/CIDEr": 4.0}
        return {"seed": seed, "codec": codec, "vsr/accuracy": accuracy, **told}

    scores = [(1, "fp32", 0.8), (2, "fp32", 0.7), (1, "int8", 0.79), (2, "int8", 0.71)]
    *_, fp32, int8 = tool["table"]([run(*one) for one in scores]).splitlines()
    cells = [cell.strip() for cell in int8.split("|")[1:-1]]
    assert cells[:4] == ["`int8`", "2.5", "1.0e-03", "2.0e-03"]
    assert cells[4:] == ["0.750 ± 0.057", "0.000 ± 0.014", "4.00 ± 0.00"]
    assert "| 0.000 ± 0.000 |" in fp32


def test_what_a_codec_takes_and_loses_is_the_card_s(tool: dict[str, Any], tmp_path: Path):
    def table(name: str, width: int, codec: str, held_out: float) -> dict[str, Any]:
        tokens = {"width": width, "grid": [8, 8], "kind": "features"}
        errors = {"fitted": 0.1, "held_out": held_out}
        source = {"name": name, "spec": {"tokens": tokens}}
        return dict(source=source, codec=codec, stored={"grid": [8, 8]}, errors=errors)

    tables = [
        table("clip", 96, "bf16", 0.2),
        table("depth", 64, "bf16", 0.4),
        table("depth", 64, "fp32", 0.0),
    ]
    card = {"tables": dict(enumerate(tables)), "data": []}
    (tmp_path / "card.json").write_text(json.dumps(card))
    found = tool["kept"](tmp_path, "bf16")
    assert found == {"bytes": 64 * 160 * 2, "fitted": 0.1, "held_out": pytest.approx(0.3)}


def test_scores_are_those_of_a_row_of_results(tool: dict[str, Any]):
    scores = {"vsr/accuracy": 0.7, "caption/CIDEr": 4.1}
    metrics = {name: {"value": score, "low": 0.0, "n": 8} for name, score in scores.items()}
    assert tool["scores"]({"metrics": {**metrics, "caption/BLEU_4": {"value": 0.1}}}) == scores
