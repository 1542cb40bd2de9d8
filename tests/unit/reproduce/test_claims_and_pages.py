"""Claims as files, their cells, and the pages that are written of them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config
from tove.errors import ConfigError
from tove.reproduce.answers import gather
from tove.reproduce.cells import make_cell
from tove.reproduce.claim import find_claims, read_claim
from tove.reproduce.index import write_index
from tove.reproduce.page import answer, write_outcome

REPOSITORY = Path(__file__).parents[3]
CLAIMS = REPOSITORY / "configs/claims"
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@pytest.mark.parametrize("name", find_claims(CLAIMS))
def test_the_claims_of_the_repository_name_arms_that_their_cells_have(name: str):
    for claim in (read_claim(name, CLAIMS), read_claim(name, CLAIMS).quickly()):
        stages = [stage for cell in claim.cells.values() for stage in cell["stages"]]
        arms = {stage.get("row", stage["name"]) for stage in stages if "Merge" not in stage["type"]}
        arms |= {f"{s['name']}-{n}" for s in stages if s["type"] == "DetachStage" for n in range(4)}
        lines = {arm for own in claim.lines.values() for arm in own}
        of_criteria = {a for one in (*claim.tests, *claim.beside) for a in one.arms}
        whole = claim.cells.keys() == read_claim(name, CLAIMS).cells.keys()
        assert not whole or lines | of_criteria - claim.lines.keys() <= arms
        assert [c for c in claim.tests if set(c.arms) - claim.lines.keys() <= arms]


@pytest.mark.parametrize("name", find_claims(CLAIMS))
def test_the_cells_of_the_repository_s_claims_are_runs_that_would_start(name: str, tmp_path: Path):
    claim = read_claim(name, CLAIMS)
    for over in claim.cells.values():
        cfg = Config(dict(make_cell(claim.config, over, 0, tmp_path).cfg))
        cfg.work_dir = str(tmp_path / "run")
        check_config(cfg)
        runner = StagedRunner(cfg)
        for entry in runner.entries:
            runner._build(entry)  # checks what the stage is going to read


def test_a_claim_that_cannot_be_read_is_said(write_claim):
    path = write_claim()
    with pytest.raises(ConfigError, match=r"no claim 'help'.*Did you mean 'helps'"):
        read_claim("help", path.parent)
    write_claim(path.read_text().replace("difference=(", "ratio=("))
    with pytest.raises(ConfigError, match="give it difference="):
        read_claim("helps", path.parent)
    write_claim("question = 'Why?'")
    with pytest.raises(ConfigError, match=r"cannot be read.*config"):
        read_claim("helps", path.parent)


def test_a_first_look_is_smaller(write_claim):
    claim = read_claim("helps", write_claim().parent)
    quick = claim.quickly()
    assert (claim.seeds, quick.seeds) == (3, 1)
    assert {cell["schedule"]["steps"] for cell in quick.cells.values()} == {1}
    assert "schedule" not in claim.cells["ours"]


@pytest.fixture
def config(tmp_path: Path, settings, write_config) -> Path:
    return write_config(settings)


def test_a_cell_is_what_its_results_depend_on(config: Path, tmp_path: Path):
    def digest(seed: int = 0, work: str = "work", **over) -> str:
        return make_cell(config, over, seed, tmp_path / work).digest

    assert digest() == digest(work="elsewhere")
    assert digest() == digest(data_root="elsewhere", work_dir="elsewhere")
    assert digest() == digest(model={"token_cache": {"max_gb": 3.0}})
    merging = {"schedule": {"steps": 7}}
    one = [{"type": "TrainStage", "name": "only"}]
    assert digest(stages=one) == digest(stages=one, merging=merging)  # which no stage reads
    assert digest() != digest(merging=merging)
    assert digest() != digest(seed=1)
    assert digest() != digest(schedule={"steps": 7})
    assert digest() != digest(model={"experts": {"dino": {"type": "tiny_depth"}}})


def test_cells_of_a_seed_share_tokens_and_scenes(tmp_path: Path):
    config = REPOSITORY / "configs/tiny/tove-tiny_scenes.py"
    made = [make_cell(config, {"schedule": {"steps": s}}, 1, tmp_path) for s in (1, 2)]
    assert made[0].folder != made[1].folder
    for key in ("data_root", "scenes"):
        assert made[0].cfg[key] == made[1].cfg[key]
    assert made[0].cfg["scenes"]["seed"] == made[0].cfg["seed"] == 1
    cache = made[0].cfg["model"]["token_cache"]
    assert cache == {"max_gb": 2.0, "mode": "read-through", "dir": str(tmp_path / "tokens/seed-1")}


@pytest.fixture
def outcome(write_claim, make_record):
    claim = read_claim("helps", write_claim().parent)
    records = {
        cell: {seed: make_record(seed, {cell: share}) for seed in range(3)}
        for cell, share in (("plain", 0.7), ("ours", 0.8))
    }
    kept = [record for own in records.values() for record in own.values()]
    return answer(claim, gather(records, {}), kept)


def test_a_page_says_answer_numbers_commit_and_command(outcome, tmp_path: Path):
    page = write_outcome(outcome, tmp_path / "results").read_text()
    assert page.startswith("# Does it help?\n\n**Yes.**\n")
    assert "at commit abc (version 0.1)" in page
    assert "mim run tove_plugins reproduce --claim helps --seeds 3\n" in page
    assert re.search(
        r"\| ours is above plain \| \+0\.\d+ \| \+0\.\d+ to \+0\.\d+ \| > \+0.000", page
    )
    assert "## By kind: statement accuracy" in page
    for match in LINK.finditer(page):
        target = tmp_path / "results" / match["target"]
        assert target.exists() or target.name == "cells"
    assert Image.open(tmp_path / "results/helps.png").size[0] > 500


def test_a_search_with_many_tests_has_no_table_by_kind(outcome, tmp_path: Path):
    many = replace(outcome, tests=list(outcome.tests) * 7)
    assert "## By kind" not in write_outcome(many, tmp_path / "results").read_text()


def test_a_first_look_at_curves_has_the_points_that_were_run(make_record, tmp_path: Path):
    claim = read_claim("data_efficiency", CLAIMS).quickly()
    sizes = {name: 125 if name.endswith("_125") else 800 for name in claim.cells}
    shares = {n: 0.6 + 0.03 * n.startswith("tove") + size / 2e4 for n, size in sizes.items()}
    claim = replace(claim, metrics=claim.metrics[:1], beside=[])
    record = make_record(0, shares, sizes)
    found = answer(claim, gather({"all": {0: record}}, claim.lines, True), [record], quick=True)
    assert (found.answer, found.tests[0].interval.n) == ("undecided", 1)
    assert "A first look" in write_outcome(found, tmp_path).read_text()
    with pytest.raises(ConfigError, match="leaves out arms of all its tests"):
        answer(claim, gather({}, claim.lines, True), [], quick=True)


def test_the_numbers_are_there_as_data(outcome, tmp_path: Path):
    write_outcome(outcome, tmp_path)
    told = json.loads((tmp_path / "helps.json").read_text())
    assert (told["answer"], told["seeds"], told["commit"]) == ("yes", 3, "abc")
    assert told["tests"][0]["interval"]["low"] > 0
    assert len(told["scores"]["ours"]["vsr/accuracy"]) == 3


def test_the_index_tells_what_was_measured_and_what_was_not(outcome, write_claim, tmp_path: Path):
    path = write_claim(write_claim().read_text().replace("it help", "it hurt"), "hurts")
    write_outcome(outcome, tmp_path)
    (path.parent / "base.py").rename(path.parent / "_base.py")
    for file in path.parent.glob("h*.py"):
        file.write_text(file.read_text().replace("base.py", "_base.py"))
    write_index(path.parent, tmp_path)
    index = (tmp_path / "README.md").read_text()
    assert "| [helps](helps.md) | Does it help? | yes | 3 | abc |" in index
    assert "| hurts | Does it hurt? | not measured |  |  |" in index
