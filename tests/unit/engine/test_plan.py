"""A plan is what the model that is built afterwards measures."""

import argparse
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.nn.attention import SDPBackend, sdpa_kernel

from tove import cli
from tove.backbones.experts.hub import ExpertHub
from tove.backbones.shapes import shapes_alone
from tove.engine.parts import REST
from tove.engine.plan.options import PlanOptions, context_of, training_stages
from tove.engine.plan.plan import _parts, make_plan
from tove.engine.plan.results import Plan, StagePlan
from tove.engine.plan.shape_step import made_up_batch, place_experts, step_of
from tove.engine.preflight import check_config
from tove.errors import ConfigError
from tove.evaluation.profile.flops import flop_counter
from tove.evaluation.profile.memory import LiveTensors
from tove.evaluation.profile.model import measure_cost
from tove.report.plan.figure import write_picture
from tove.report.plan.tables import cache_table, part_table, remarks, run_table

WORDS = 8


def checked(settings: dict[str, Any], work_dir: Path) -> Config:
    cfg = Config({**settings, "work_dir": str(work_dir)})
    check_config(cfg, without=cfg.model.experts)
    return cfg


@pytest.fixture(scope="module")
def cfg(make_settings, tmp_path_factory) -> Config:
    settings = make_settings()
    settings["stages"] = [s for s in settings["stages"] if s["name"] in ("transfer", "merge")]
    return checked(settings, tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def plan(cfg: Config) -> Plan:
    return make_plan(cfg, PlanOptions(words=WORDS, gpus=2, tflops=0.001, price=3.0, images=100))


@pytest.fixture(scope="module")
def built(cfg: Config) -> Any:
    """The transfer stage's model, with weights."""
    init_default_scope("tove")
    return training_stages(cfg, "transfer")[0].planned(context_of(cfg)).model


def by_name(stage: StagePlan) -> dict[str, Any]:
    return {part.name: part for part in stage.parts}


def test_parameters_and_operations_are_those_of_the_built_model(
    plan: Plan, built: Any, cfg: Config
):
    stage = plan.stages[0]
    row = measure_cost(built, cfg.image_size, torch.device("cpu"))
    assert (stage.trainable, stage.parameters) == (
        row["trainable_parameters"],
        row["total_parameters"],
    )
    parts, cost = by_name(stage), row["cost"]
    for name, measured in {
        "encoder": cost["encoder"],
        **{f"experts.{slot}": part for slot, part in cost["experts"].items()},
    }.items():
        assert parts[name].parameters == measured["total_parameters"]
        assert parts[name].flops == measured["flops"]
    joins = sum(
        part.flops
        for name, part in parts.items()
        if name not in ("encoder", "language") and "experts." not in name
    )
    assert joins == cost["fusion"]["flops"]


def test_what_is_in_no_part_comes_last():
    counts = {"encoder": [2, 0, 8], REST: [1, 1, 4], "language": [3, 3, 12]}
    parts = _parts(counts, None, 1, {"depth": "has no weights"})
    assert [part.name for part in parts] == ["encoder", "language", "experts.depth", REST]
    assert [part.parameters for part in parts] == [2, 3, 0, 1]


def test_a_step_is_one_that_runs(plan: Plan, built: Any, cfg: Config):
    """Attention runs as plain products: a fused kernel's backward pass computes them once more."""
    stage = plan.stages[0]
    images, samples = made_up_batch(stage.batch_size, cfg.image_size, WORDS, torch.device("cpu"))
    forward, backward = step_of(built, images, samples)
    with sdpa_kernel(SDPBackend.MATH):
        backward(forward())  # what is made once and for all
        built.zero_grad()
        with flop_counter() as counter:
            backward(forward())
        built.zero_grad()
        with LiveTensors() as tensors:
            backward(forward())
    assert stage.step_flops == counter.get_total_flops() // stage.batch_size
    gradients = sum(p.grad.numel() * 4 for p in built.parameters() if p.grad is not None)
    built.zero_grad()
    assert stage.memory is not None
    assert stage.memory.gradients == gradients
    assert stage.memory.optimizer == 2 * 4 * stage.trainable
    made = stage.memory.activations + stage.memory.gradients
    assert made == pytest.approx(tensors.peak, rel=0.03)


def test_known_tokens_spare_the_frozen_networks(plan: Plan):
    stage, parts = plan.stages[0], by_name(plan.stages[0])
    frozen = sum(parts[name].flops for name in ("encoder", "experts.depth", "experts.dino"))
    assert stage.cached_step_flops == stage.step_flops - frozen
    assert plan.stages[1].cached_step_flops is None, "a merge's student looks at the image"


def test_images_hours_and_price(plan: Plan, cfg: Config):
    transfer, merge = plan.stages
    assert (transfer.steps, transfer.images) == (6, 6 * cfg.batch_size * 2)
    assert merge.steps == 4
    seconds = sum(s.steps * s.batch_size * s.step_flops / 1e9 for s in plan.stages)
    assert plan.gpu_hours == pytest.approx(2 * seconds / 3600)
    assert plan.price == pytest.approx(3 * plan.gpu_hours)


def test_a_cache_holds_every_view_of_an_image(cfg: Config, plan: Plan):
    several = deepcopy(cfg)
    several.train_dataloader.dataset.datasets[0].augment = dict(views=4, flip=0.5)
    made = make_plan(several, PlanOptions(stage="transfer", words=WORDS, images=100))
    assert (made.images, plan.images) == (400, 100)
    assert made.caches[0].total_bytes == 4 * plan.caches[0].total_bytes


def test_sizes_of_a_cache(plan: Plan, built: Any):
    sizes = {cache.codec: cache for cache in plan.caches}
    for slot, source in built.sources.items():
        raw = 4 * source.grid[0] * source.grid[1] * source.width
        assert sizes["fp32"].entry_bytes[slot] == raw
        assert sizes["bf16"].entry_bytes[slot] == raw // 2
    assert sizes["fp32"].total_bytes == 100 * sum(sizes["fp32"].entry_bytes.values())


def test_it_is_shown(plan: Plan, tmp_path: Path):
    for table in (part_table(plan.stages[0]), run_table(plan), cache_table(plan)):
        assert table.row_count
    told = "\n".join(remarks(plan))
    assert "device-hours, which cost" in told
    write_picture(tmp_path / "plan.png", plan)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_an_expert_that_needs_its_weights_says_so_and_the_rest_is_known(
    settings: dict[str, Any], tmp_path: Path
):
    settings["stages"] = settings["stages"][2:3]
    settings["model"]["experts"]["depth"] = dict(type="tiny_depth", weights="hub:someone/else")
    plan = make_plan(checked(settings, tmp_path), PlanOptions())
    depth = by_name(plan.stages[0])["experts.depth"]
    assert depth.flops is None
    assert "architecture of their own" in depth.problem
    assert by_name(plan.stages[0])["experts.dino"].flops > 0
    assert plan.stages[0].memory is not None
    told = list(remarks(plan))
    assert any("experts.depth cannot be built without weights" in line for line in told)
    assert any("No time is told" in line for line in told)


def test_experts_whose_code_looks_at_numbers(expert_types: dict[str, Any]):
    coarse = expert_types["coarse"]

    class Builds(coarse):
        def __init__(self) -> None:
            super().__init__()
            self.scale = float(self.conv.weight.abs().max())

    class Runs(coarse):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * float(images.max())

    kinds = {"builds": Builds, "runs": Runs}
    with shapes_alone():
        hub = ExpertHub({slot: {"type": kind} for slot, kind in kinds.items()}, unbuilt=[*kinds])
    problems = place_experts(hub, 12)
    assert list(problems) == ["runs"]
    assert problems["runs"].startswith("cannot be followed without numbers")
    for slot in kinds:  # 6 x 3 x 4 x 4 and 6
        assert sum(p.numel() for p in hub.experts[slot].parameters()) == 294
        tokens = hub.run(slot, torch.empty(2, 3, 12, 12, device="meta"))
        assert tokens.shape == (2, 9, 6)


def test_a_model_of_the_hub_that_nobody_knows(settings: dict[str, Any], tmp_path: Path):
    settings["model"]["encoder"]["pretrained"] = "someone/encoder"
    with pytest.raises(ConfigError, match=r"`hf download someone/encoder config\.json`"):
        make_plan(checked(settings, tmp_path), PlanOptions())


def test_mixed_precision_keeps_weights_gradients_and_states_as_they_are(plan: Plan, cfg: Config):
    half = make_plan(cfg, PlanOptions(words=WORDS, amp=True, stage="transfer")).stages[0]
    whole = plan.stages[0]
    assert half.memory is not None
    assert whole.memory is not None
    for kind in ("weights", "gradients", "optimizer"):
        assert getattr(half.memory, kind) == getattr(whole.memory, kind)
    assert half.memory.activations != whole.memory.activations
    assert half.parts == whole.parts


def test_the_config_keeps_its_places(cfg: Config):
    placed = deepcopy(cfg)
    placed.model.init_from = "first.pth"
    placed.model.experts.depth.device = "cuda:7"
    make_plan(placed, PlanOptions(words=WORDS, stage="transfer"))
    assert placed.model.init_from == "first.pth"
    assert placed.model.experts.depth.device == "cuda:7"


def test_a_probe_runs_the_step_here(cfg: Config):
    stage = make_plan(cfg, PlanOptions(words=WORDS, probe=True, stage="transfer")).stages[0]
    assert stage.seconds is not None
    assert stage.seconds > 0
    assert "a step, here on cpu" in stage.timed_by


def command_line(config: Path, **options: Any) -> argparse.Namespace:
    asked = dict(stage=None, images=None, words=4, gpus=1, amp=False, tflops=None, probe=False)
    asked |= dict(price=None, json=None, plot=None, cfg_options=None)
    return argparse.Namespace(config=str(config), **{**asked, **options})


def test_the_command(settings: dict[str, Any], write_config, tmp_path: Path, capsys):
    path = write_config(settings)
    target = tmp_path / "plan.json"
    assert cli.plan(command_line(path, json=target, stage="transfer")) == 0
    told = json.loads(target.read_text())
    assert told["stages"][0]["parameters"] == sum(
        part["parameters"] for part in told["stages"][0]["parts"]
    )
    assert "GFLOPs an image" in capsys.readouterr().out
    assert cli.plan(command_line(path, stage="transfers")) == 2
    assert "No stage is called 'transfers'" in capsys.readouterr().err
    settings["model"]["gate"] = dict(temperatur=1.0)
    assert cli.plan(command_line(write_config(settings, "wrong.py"))) == 2
    assert "model.gate.temperatur is unknown" in capsys.readouterr().err
