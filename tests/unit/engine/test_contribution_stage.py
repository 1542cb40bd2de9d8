"""The contribution stage over a real run in miniature, and the rules that go by its measures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from tove.config.data_sets import fill_in
from tove.engine.pipeline import StagedRunner
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner
from tove.errors import ConfigError
from tove.evaluation.contribution import subsets
from tove.evaluation.profile.model import measure_cost
from tove.registry import RANKINGS

Found = dict[str, Any]
STAGE = dict(type="ContributionStage", name="contribution", source="transfer")
ACCURACY = "vsr/accuracy"


def config(settings: dict[str, Any], work_dir: Path) -> Config:
    cfg = Config({**settings, "work_dir": str(work_dir)})
    fill_in(cfg)
    return cfg


@pytest.fixture(scope="module")
def run(make_settings, tmp_path_factory) -> tuple[Config, Found]:
    """ToVE with two experts, hardly trained, and what they contribute on the test split."""
    settings = make_settings()
    settings["schedule"]["steps"] = 3
    loader = dict(loader="test_dataloader")
    settings["stages"] = [
        dict(type="TrainStage", name="transfer", row="tove"),
        STAGE | loader,
        dict(type="ReportStage", name="report", num_images=2, num_maps=1, num_examples=1),
    ]
    cfg = config(settings, tmp_path_factory.mktemp("contribution") / "work")
    StagedRunner(cfg).run()
    text = (Path(cfg.work_dir) / "contribution/contribution.json").read_text()
    return cfg, json.loads(text)


@pytest.fixture(scope="module")
def loaded(run) -> tuple[StageContext, Any]:
    cfg, _ = run
    context = StageContext(cfg=cfg, work_dir=Path(cfg.work_dir))
    return context, context.load_model(context.model_path("transfer"))[0]


def test_every_set_has_the_scores_and_flops_of_a_model_built_with_it(run):
    cfg, found = run
    context = StageContext(cfg=cfg, work_dir=Path(cfg.work_dir))
    assert [set(s["experts"]) for s in found["sets"]] == [
        set(s) for s in subsets(["depth", "dino"])
    ]
    for entry in found["sets"]:
        path = context.model_path("transfer")
        model, _ = context.load_model(path, slots=entry["experts"])
        scores = evaluation_runner(context, "built", model).test()
        for metric in (ACCURACY, "caption/CIDEr", "vsr/relation/left"):
            assert entry["metrics"][metric]["value"] == pytest.approx(scores[metric], abs=1e-6)
        assert entry["flops"] == measure_cost(model, context.image_size, context.device)["flops"]


@pytest.mark.parametrize("metric", [ACCURACY, "caption/CIDEr", "vsr/relation/left"])
def test_measures_are_those_of_the_sets_scores(run, metric: str):
    _, found = run
    none, depth, dino, both = (entry["metrics"][metric]["value"] for entry in found["sets"])
    by = {
        name: {s: e["value"] for s, e in m[metric].items()} for name, m in found["measures"].items()
    }
    assert by["add_one_in"] == pytest.approx({"depth": depth - none, "dino": dino - none})
    assert by["leave_one_out"] == pytest.approx({"depth": both - dino, "dino": both - depth})
    mean = {
        slot: (by["add_one_in"][slot] + by["leave_one_out"][slot]) / 2 for slot in by["shapley"]
    }
    assert by["shapley"] == pytest.approx(mean)


def test_intervals_are_there_where_items_are_scored_and_hold_the_value(run):
    _, found = run
    for measure in found["measures"].values():
        for metric in (ACCURACY, "caption/CIDEr"):
            for entry in measure[metric].values():
                assert entry["low"] - 1e-9 <= entry["value"] <= entry["high"] + 1e-9
                assert entry["low"] < entry["high"] or entry["value"] == entry["low"]
        assert "low" not in measure["vsr/relation/left"]["depth"]


def test_gate_and_costs_are_told(run):
    _, found = run
    assert sum(found["gate"].values()) == pytest.approx(1)
    for slot in found["experts"]:
        assert found["costs"][slot]["flops"] > 0
    front = found["fronts"]["flops"][ACCURACY]
    assert front[0] == 0, "no set is cheaper than none"


@pytest.mark.parametrize("rule", ["leave_one_out", "add_one_in", "shapley"])
def test_a_rule_ranks_by_its_measure_and_leaves_the_model_as_it_was(loaded, rule: str):
    context, model = loaded
    scores = RANKINGS.get(rule)(context, model, None)
    assert set(scores) == {"depth", "dino"}
    assert model.hub.attached == ("depth", "dino")
    runner = evaluation_runner(context, "by_hand", model, "val_dataloader")

    def score(*detached: str) -> float:
        for slot in detached:
            model.hub.detach(slot)
        value = runner.test()[ACCURACY]
        for slot in detached:
            model.hub.attach(slot)
        return value

    both, dino, depth, none = score(), score("depth"), score("dino"), score("depth", "dino")
    last = {"depth": both - dino, "dino": both - depth}
    first = {"depth": depth - none, "dino": dino - none}
    mean = {slot: (last[slot] + first[slot]) / 2 for slot in last}
    wanted = {"leave_one_out": last, "add_one_in": first, "shapley": mean}[rule]
    assert scores == pytest.approx(wanted, abs=1e-6)


def test_no_expert_runs_twice_on_an_image(loaded):
    context, model = loaded
    model.cache = None
    model.hub.forward_counts.clear()
    RANKINGS.get("shapley")(context, model, None)
    batches = len(context.evaluation_loader("val_dataloader"))
    assert max(model.hub.forward_counts.values()) <= batches


def test_the_report_shows_what_each_expert_adds(run):
    cfg, _ = run
    html = (Path(cfg.work_dir) / "report.html").read_text()
    for words in ("What each expert adds", "Shapley value", "by kind", "Every set of experts"):
        assert words in html
    pictures = {path.name for path in (Path(cfg.work_dir) / "report").glob("*.png")}
    assert {"contribution.png", "contribution_front.png"} <= pictures


def test_it_is_kept_on_resume_and_begins_again_for_another_loader(run, tmp_path: Path):
    cfg, _ = run
    work = tmp_path / "work"
    shutil.copytree(cfg.work_dir, work)
    again = config({**cfg.to_dict()}, work)
    before = (work / "contribution/done.json").stat().st_mtime_ns
    StagedRunner(again, resume=True).run()
    assert (work / "contribution/done.json").stat().st_mtime_ns == before
    (work / "contribution/contribution.json").unlink()
    with pytest.raises(ConfigError, match=r"contribution\.json"):
        StagedRunner(again, resume=True).run()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(permutations=1), "permutations is 1, but it must be a whole number"),
        (dict(source="transfers"), "none of that name comes before it"),
        (dict(loader="other_dataloader"), "needs the setting `other_dataloader`"),
        (dict(source="plain_clip"), "nothing to detach"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_trains(
    settings, tmp_path: Path, changes: dict[str, Any], words: str
):
    settings["stages"] = [*settings["stages"][:3], STAGE | changes]
    runner = StagedRunner(config(settings, tmp_path))
    with pytest.raises(ConfigError, match=words):
        runner._build(runner.entries[-1])
