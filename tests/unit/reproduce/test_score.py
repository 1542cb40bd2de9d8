"""The score card: which runs it takes, what it says of an expert whose worth was made up."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tove.cli import score
from tove.reproduce import score_card
from tove.reproduce.answers import gather
from tove.reproduce.cells import make_cell
from tove.reproduce.claim import read_claim
from tove.reproduce.records import Record
from tove.reproduce.score_picture import write_picture
from tove_plugins import discover

REPOSITORY = Path(__file__).parents[3]
CONFIG = REPOSITORY / "configs/tiny/tove-tiny_scenes.py"
BUILT_IN = {s: {"type": f"tiny_{s}"} for s in ("depth", "segmentation", "detection", "dino")}
METRICS = score_card.METRICS
NEW = {"mine": {"type": "tiny_dino", "width": 32}}


def test_an_expert_is_alone_last_and_left_out():
    cells = score_card.cells_of({**BUILT_IN, **NEW}, {}, set(BUILT_IN))
    assert len(cells) == 2 + 2 * 5
    added = {name: cell.get("model", {}).get("experts", {}) for name, cell in cells.items()}
    assert added["all"] == added["alone mine"] == added["without depth"] == NEW
    assert added["plain"] == added["alone depth"] == added["without mine"] == {}
    assert cells["without depth"]["stages"][0]["model"] == {"detached": ["depth"]}
    assert cells["without mine"]["stages"][0]["model"] == {}


def test_built_in_experts_alone_are_cells_of_the_claim(tmp_path: Path):
    cells = score_card.cells_of(BUILT_IN, {}, set(BUILT_IN))
    gain = read_claim("gain", REPOSITORY / "configs/claims")
    for ours, theirs in (("alone dino", "dino"), ("plain", "plain_clip"), ("all", "tove")):
        pair = (
            make_cell(CONFIG, cells[ours], 0, tmp_path),
            make_cell(gain.config, gain.cells[theirs], 0, tmp_path),
        )
        assert pair[0].digest == pair[1].digest


def with_captions(record: Record) -> Record:
    """Add a second metric, whose items are the images, and what an expert costs."""
    record.items[METRICS[1]] = {"images": list(range(150)), "kinds": [""], "kind": [0] * 150}
    cost = {"flops": 4.6e7, "forward_ms": 0.5, "peak_memory_mb": 3.0, "total_parameters": 229_000}
    for row in record.told["rows"]:
        share = row["metrics"][METRICS[0]]
        row["scores"][METRICS[1]] = np.full(150, share).tolist()
        row["metrics"][METRICS[1]] = share
        row["cost"] = {"experts": dict.fromkeys(("mine", *BUILT_IN), cost)}
    return record


@pytest.fixture
def cards(make_record) -> list[score_card.Card]:
    shares = {"plain_clip": 0.7, "mine": 0.8, "dino": 0.72, "tove": 0.85}
    shares |= {"without_mine": 0.83, "without_dino": 0.85}
    records = {s: with_captions(make_record(s, shares)) for s in range(3)}
    measured = gather({"cell": records}, {})
    spec = discover().get("tiny_dino").spec
    return [score_card._card(measured, slot, slot, spec) for slot in ("mine", "dino")]


def test_a_card_tells_what_is_added_with_costs_and_licence(cards):
    mine, dino = cards
    assert mine.adds["alone"]["vsr/accuracy"].value == pytest.approx(0.1, abs=0.03)
    assert mine.adds["last"]["vsr/accuracy"].value == pytest.approx(0.02, abs=0.02)
    assert dino.adds["last"]["vsr/accuracy"].value == 0
    assert {"vsr/relation/far", "vsr/relation/near", "caption/CIDEr"} <= mine.adds["alone"].keys()
    assert mine.costs["flops"] == 4.6e7
    assert mine.licence == "Apache-2.0"


def test_the_picture_is_svg_or_png_and_the_same_each_time(cards, tmp_path: Path):
    for name in ("card.svg", "again.svg", "card.png"):
        write_picture(tmp_path / name, cards, METRICS[0], 3)
    drawn = (tmp_path / "card.svg").read_text()
    assert drawn == (tmp_path / "again.svg").read_text()
    assert "<svg" in drawn
    assert Image.open(tmp_path / "card.png").size[0] > 600


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record):
    """Run `score` with arguments, its cells' runs made up."""

    def run(grid, cells):
        def share(row: str) -> float:
            return {"plain_clip": 0.7, "depth": 0.85, "without_depth": 0.8}.get(row, 0.84)

        return {
            cell.name: with_captions(
                make_record(
                    cell.seed,
                    {s.get("row", s["name"]): share(s["name"]) for s in cell.cfg["stages"]},
                )
            )
            for cell in cells
        }

    monkeypatch.setattr(score_card.Grid, "run", run)
    monkeypatch.chdir(tmp_path)
    parse = runpy.run_path(str(REPOSITORY / "tools/score.py"))["parse_args"]
    return lambda *arguments: score(parse([*arguments, "--work-dir", str(tmp_path / "work")]))


def test_the_command_prints_writes_and_draws(command, tmp_path: Path, capsys):
    assert command("tiny_depth", "--json", "card.json") == 0
    said = capsys.readouterr().out
    assert "tiny_depth, by kind of question" in said
    assert said.index("tiny_depth") < said.index("tiny_dino")
    told = json.loads((tmp_path / "card.json").read_text())
    assert (told["seeds"], told["cards"][0]["expert"]) == (3, "tiny_depth")
    assert told["cards"][0]["adds"]["alone"]["vsr/accuracy"]["low"] > 0.1
    assert (tmp_path / "tiny_depth.svg").is_file()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--json", "file/card.json"], "Writing file/card.json failed (File exists)"),
        (["--picture", "folder.svg"], "Writing folder.svg failed (Is a directory)"),
        (["--options", f"sha256={'a' * 64}"], "have sha256"),
        (["--options", "spacing"], "--options takes KEY=VALUE, but got 'spacing'"),
    ],
)
def test_what_would_fail_at_the_end_is_said_before_any_run(
    command, given: list[str], told: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(score_card.Grid, "run", lambda grid, cells: pytest.fail("cells were run"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.svg").mkdir()
    assert command("tiny_depth", *given) == 2
    assert told in capsys.readouterr().err


def test_an_unknown_expert_is_said(command, capsys):
    assert command("tiny_dept") == 2
    assert "Did you mean" in capsys.readouterr().err
