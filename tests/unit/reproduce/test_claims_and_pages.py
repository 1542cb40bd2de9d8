"""Claims as files, their cells, and the pages that are written of them."""

import argparse
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.reproduce.conftest import CLAIM, METRIC
from tove.errors import ConfigError
from tove.reproduce.answers import gather
from tove.reproduce.cells import make_cell
from tove.reproduce.claim import Criterion, find_claims, read_claim
from tove.reproduce.claim_checks import check_claim
from tove.reproduce.command import reproduce
from tove.reproduce.grid import checked_config
from tove.reproduce.index import write_index
from tove.reproduce.page import answer, write_outcome
from tove.reproduce.records import read

REPOSITORY = Path(__file__).parents[3]
CLAIMS = REPOSITORY / "configs/claims"
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@pytest.mark.parametrize("name", find_claims(CLAIMS))
def test_the_claims_of_the_repository_name_arms_that_their_cells_have(name: str, tmp_path: Path):
    claim = read_claim(name, CLAIMS)
    check_claim(
        claim, [make_cell(claim.config, over, 0, tmp_path) for over in claim.cells.values()]
    )
    quick = claim.quickly()
    stages = [stage for cell in quick.cells.values() for stage in cell["stages"]]
    arms = {stage.get("row", stage["name"]) for stage in stages}
    arms |= {f"{s['name']}-{n}" for s in stages if s["type"] == "DetachStage" for n in range(4)}
    assert [c for c in quick.tests if set(c.arms) - quick.lines.keys() <= arms]


@pytest.mark.parametrize("name", find_claims(CLAIMS))
def test_the_cells_of_the_repository_s_claims_are_runs_that_would_start(name: str, tmp_path: Path):
    claim = read_claim(name, CLAIMS)
    for over in claim.cells.values():
        checked_config(make_cell(claim.config, over, 0, tmp_path))


def test_a_claim_that_cannot_be_read_is_said(write_claim):
    path = write_claim()
    with pytest.raises(ConfigError, match=r"no claim 'help'.*Did you mean 'helps'"):
        read_claim("help", path.parent)
    write_claim("raise SystemExit")
    with pytest.raises(ConfigError, match=r"cannot be read \(SystemExit"):
        read_claim("helps", path.parent)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("question =", "asked =", "lacks `question`"),
        ("question =", "questions =", "sets `questions`, .* did you mean `question`"),
        ('"Does it help?"', "7", "question is 7, but it must be a text"),
        ('["vsr/accuracy"]', '"vsr/accuracy"', "metrics is 'vsr/accuracy', .* a list"),
        ('["vsr/accuracy"]', "[]", "at least one cell, test and metric"),
        ("cells = dict(", "cells = {}\nbeside_them = dict(", "at least one cell"),
        ("cells = dict(", "cells = dict(none=None,", "cells.none is None, .* a dict"),
        ("quick =", "seeds = 0\nquick =", "seeds is 0, .*1 or more"),
        ("quick =", "seeds = 'x'\nquick =", "seeds is 'x', .* a whole number"),
        ("seeds=1", "seed=1", "quick.seed is unknown. Did you mean 'seeds'"),
        ("quick =", "figure = dict(x='stepz', lines={})\nquick =", "figure: x is 'stepz'"),
        ("quick =", "figure = dict(lines={})\nquick =", "figure lacks `x`"),
        ("quick =", "figure = ['x']\nquick =", r"figure is \['x'\], .* a dict"),
        ("difference=(", "ratio=(", "ratio is unknown"),
        ('difference=("ours", "plain")', 'difference="op"', "difference is 'op', .* a list of 2"),
        ('difference=("ours", "plain"), ', "", "has nothing to compare; give it difference="),
        ("difference=(", "factor=('a', 'b'), difference=(", "has difference and factor; give"),
        ("says=", "above='x', says=", "above is 'x', .* a number"),
        ("says=", "text=", "text is unknown"),
    ],
)
def test_what_a_claim_says_wrong_is_said_before_any_run(write_claim, old: str, new: str, told: str):
    path = write_claim(CLAIM.replace(old, new, 1))
    with pytest.raises(ConfigError, match=told):
        read_claim("helps", path.parent)


@pytest.fixture
def cells_of(config: Path, tmp_path: Path):
    """Make a claim of cells' settings, and the cells."""

    def make(claim, **cells):
        return replace(claim, cells=cells), [
            make_cell(config, c, 0, tmp_path) for c in cells.values()
        ]

    return make


TRAINED = {"plain": [("plain", {"type": "PlainCLIP"})], "ours": [("ours", {})]}


def stages(*trained: tuple[str, dict]) -> dict:
    return {"stages": [dict(type="TrainStage", name=n, model=model) for n, model in trained]}


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({}, None),
        ({"over": "plan"}, "an arm 'plan', which none of its cells has. Did you mean 'plain'"),
        ({"lines": {"a": ["ours", "our"]}}, "an arm 'our'"),
        ({"tests": [Criterion("", "difference", ("ours", "take"), METRIC)]}, "an arm 'take'"),
        ({"tests": [Criterion("", "difference", ("taken-0", "taken-1"), METRIC)]}, None),
        ({"beside": [Criterion("", "difference", ("taken-0", "taken-9"), METRIC)]}, "'taken-9'"),
        ({"tests": [Criterion("", "factor", ("a", "b"), METRIC)]}, "a line 'a', which"),
        ({"metrics": ["vsr/acuracy"]}, "a metric 'vsr/acuracy', .* Did you mean 'vsr/accuracy'"),
        ({"metrics": ["vsr/accuracy", "vsr/yes"]}, "a metric 'vsr/yes'"),
        ({"metrics": ["vsr/accuracy", "vsr/yes"], "over": None}, None),
        ({"tests": [Criterion("", "difference", ("ours", "plain"), "vs/accuracy")]}, "'vs/acc"),
        ({"tests": [Criterion("", "difference", ("ours", "plain"), "vsr/relation/on")]}, None),
        ({"tests": [Criterion("", "difference", ("ours", "plain"), "cap/relation/on")]}, "'cap/"),
    ],
)
def test_a_name_that_no_cell_will_have_is_said_before_any_run(write_claim, cells_of, entries, told):
    whole = {name: stages(*own) for name, own in TRAINED.items()}
    whole["ours"]["stages"].append(dict(type="DetachStage", name="taken", source="ours"))
    claim, cells = cells_of(read_claim("helps", write_claim().parent), **whole)
    with pytest.raises(ConfigError, match=told) if told else nullcontext():
        check_claim(replace(claim, **entries), cells)


def test_two_cells_of_one_row_are_said_before_any_run(write_claim, cells_of):
    twice = {name: stages(("same", {"expert_dropout": at})) for name, at in (("a", 0.1), ("b", 0))}
    claim, cells = cells_of(read_claim("helps", write_claim().parent), **twice)
    with pytest.raises(ConfigError, match="two rows 'same'; give a stage another `row`"):
        check_claim(claim, cells)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"stages": None}, "stages is None"),
        ({"stages": []}, "`stages` of the config is empty"),
        ({"stages": ["TrainStage"]}, "stages is .* a dict"),
        ({"stages": [{"type": "TrainStage"}]}, "A stage is named None"),
        ({"stages": [{"type": "TrainStag", "name": "a"}]}, "'TrainStag', which is unknown"),
        (
            {"stages": [{"type": "TrainStage", "name": "a", "rows": "b"}]},
            "stages.a.rows is unknown",
        ),
        ({"shedule": {"steps": 3}}, "did you mean `schedule`"),
        ({"model": None}, "model is None"),
        ({"custom_imports": {"imports": ["no.such"]}}, "cannot be imported"),
    ],
)
def test_a_cell_that_would_not_run_is_said(config: Path, tmp_path: Path, over, told: str):
    with pytest.raises(ConfigError, match=told):
        make_cell(config, over, 0, tmp_path)


def test_a_cell_whose_run_would_refuse_it_is_said_before_any_begins(config: Path, tmp_path: Path):
    over = {"schedule": {"steps": 2, "warmup": 30}}
    with pytest.raises(ConfigError, match=r"The cell .* would not run: .* cannot warm up"):
        checked_config(make_cell(config, over, 0, tmp_path))


def test_a_claim_of_another_one_s_name_is_refused(write_claim, tmp_path: Path):
    folder = write_claim().parent
    other = tmp_path / "helps.py"
    other.write_text((folder / "helps.py").read_text())
    given = dict(claims=folder, seeds=None, quick=False, work_dir=tmp_path, results=tmp_path)
    (tmp_path / "base.py").write_text("")
    with pytest.raises(ConfigError, match=r"has the name of .*claims/helps\.py.* rename the file"):
        reproduce(argparse.Namespace(claim=[str(other)], train=None, jobs=1, **given))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told, items: told.pop("rows"),
        lambda told, items: told.update(rows=[7]),
        lambda told, items: told["rows"][0].pop("arm"),
        lambda told, items: told["rows"][0]["scores"][METRIC].pop(),
        lambda told, items: items.clear(),
        lambda told, items: items[METRIC].pop("kind"),
    ],
)
def test_a_record_that_is_not_whole_is_said(config: Path, tmp_path: Path, make_record, spoil):
    cell, record = make_cell(config, {}, 0, tmp_path), make_record(0, {"ours": 0.8})
    told, items = {**record.told, "digest": cell.digest, "items": "abc"}, dict(record.items)
    own = tmp_path / f"{cell.name}.json"

    def write() -> None:
        own.write_text(json.dumps(told))
        (tmp_path / "items-abc.json").write_text(json.dumps(items))

    write()
    assert read(cell, tmp_path).arms.keys() == {"ours"}
    spoil(told, items)
    write()
    with pytest.raises(ConfigError, match="the record of a cell; delete it"):
        read(cell, tmp_path)
    for text in ("[]", own.read_text()[:99]):
        own.write_text(text)
        with pytest.raises(ConfigError, match="the record of a cell; delete it"):
            read(cell, tmp_path)


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
