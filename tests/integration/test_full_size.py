"""Configs around a 7B language model, planned without a weight: what trains, how many numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from transformers import CLIPVisionConfig

from tove.config.loading import load_config
from tove.engine.plan.options import PlanOptions, context_of, training_stages
from tove.engine.plan.plan import counts_by_part, make_plan, shapes_of
from tove.engine.preflight import check_config
from tove.registry import STAGES

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for folder in ("llava", "move_kd")
    for path in (REPOSITORY / "configs" / folder).glob("*-7b_*.py")
)
META = torch.device("meta")


def config(name: str, folder: str = "move_kd", **encoder: str) -> Config:
    cfg = load_config(str(REPOSITORY / "configs" / folder / f"{name}.py"))
    cfg.model.encoder.update(encoder)
    check_config(cfg, without=cfg.model.get("experts", ()))
    return cfg


def check_stages(cfg: Config) -> None:
    """Check what each stage reads, in a folder where another config's stages have run."""
    context = context_of(cfg)
    for entry in cfg.stages:
        if entry.get("source"):
            context.model_path(entry["source"]).parent.mkdir(parents=True, exist_ok=True)
            context.model_path(entry["source"]).touch()
        STAGES.build(dict(entry)).check(context)


def test_every_setting_of_them_is_known_and_no_stage_lacks_one(tmp_path: Path):
    assert len(CONFIGS) == 16
    weights = tmp_path / "open_clip_pytorch_model.bin"
    weights.write_bytes(b"\x80")  # the first byte of torch's old format: no more is looked at
    for path in CONFIGS:
        cfg = Config.fromfile(path)
        for slot, expert in cfg.model.get("experts", {}).items():
            expert |= dict(weights=str(weights)) if slot == "convnext" else dict(tiny=True)
        check_config(cfg)
        cfg.work_dir = str(tmp_path / path.stem)
        check_stages(cfg)


def sizes(cfg: Config) -> dict[str, tuple[int, int]]:
    """Return (all, trained) parameters by part, of the first stage of a config."""
    init_default_scope("tove")
    stage = training_stages(cfg, cfg.stages[0]["name"])[0]
    planned, problems = shapes_of(context_of(cfg, META), stage)
    assert not problems
    assert {p.device for p in planned.model.parameters()} == {META}
    counts: dict[str, Any] = counts_by_part(planned.model)
    return {part: (own[0], own[1]) for part, own in counts.items()}


RELEASED = {
    "encoder.mole": 24_040_008,
    "adapters.eva": 3_409_472,
    "adapters.convnext": 3_737_152,
    "adapters.sam": 2_623_040,
}


def test_v1_1_has_the_release_s_counts_and_trains_all_but_its_teachers():
    cfg = config("move_kd-v1.1-llava-v1.5-7b_finetune")
    cfg.model.preset = "released"
    plan = make_plan(cfg, PlanOptions(gpus=8, amp=True, tflops=300.0, price=2.0))
    (stage,) = plan.stages
    found = {part.name: (part.parameters, part.trainable) for part in stage.parts}
    assert {part: found[part][0] for part in RELEASED} == RELEASED
    # Vicuna-7B, and mlp2x_gelu from 1,024 to 4,096.
    assert found["language"] == (6_738_415_616, 6_738_415_616)
    assert found["projector"] == (20_979_712, 20_979_712)
    teachers = {"clip", "experts.eva", "experts.convnext", "experts.sam"}
    assert not any(found[part][1] for part in teachers)
    assert all(found[part][0] > 300_000_000 for part in teachers)
    block = 12_596_224  # of ViT-L: the last one is above the tokens, and so is the last norm
    assert found["encoder"] == (303_507_456, 303_507_456 - block - 2 * 1024)
    # 665k conversations, and in float32 a gradient and two moments of all that trains
    assert stage.images == 5198 * 16 * 8
    memory = stage.memory
    assert memory is not None
    assert memory.gradients == pytest.approx(4 * stage.trainable, rel=0.01)  # "all" has unused LoRA
    assert memory.optimizer == 8 * stage.trainable
    assert memory.activations > 10e9
    # 2 operations a parameter and token, 4 more backwards, and the forward pass once more
    tokens = stage.vision_tokens + stage.text_tokens
    language = next(part for part in stage.parts if part.name == "language")
    assert language.flops == pytest.approx(2 * 6.6e9 * tokens, rel=0.1)
    assert stage.step_flops > 3 * language.flops
    assert plan.gpu_hours is not None
    assert plan.price == pytest.approx(2 * plan.gpu_hours)
    raw = plan.caches[0].total_bytes / plan.images
    assert raw == 4 * (1024 * (24**2 + 64**2) + 3072 * 32**2 + 256 * 64**2)


def test_v1_0_trains_what_is_new_in_its_first_stage():
    found = sizes(config("move_kd-v1.0-llava-v1.5-7b_pretrain"))
    trained = {part: count for part, (_, count) in found.items() if count}
    assert trained == {
        "encoder.mole": 24_040_008 // 24 * 23,  # "paper" has none above the tokens
        "projector": 20_979_712,
        "adapters.eva": 3_409_472,
        "adapters.convnext": 3_737_152,
    }


def test_llava_next_trains_clip_along_and_its_newline_in_its_second_stage():
    found = sizes(config("llava-next-vicuna-7b_finetune", "llava"))
    assert {part: count for part, (_, count) in found.items()} == {
        "encoder": 303_507_456 - 12_596_224 - 2 * 1024,  # the block and norm above the tokens
        "language": 6_738_415_616 + 4096,
        "projector": 20_979_712,
    }
    first = sizes(config("llava-next-vicuna-7b_pretrain", "llava"))
    assert {part for part, (_, count) in first.items() if count} == {"projector"}


def test_merged_clip_is_read_from_an_export(tmp_path: Path):
    CLIPVisionConfig(patch_size=16).save_pretrained(tmp_path)  # CLIP-B/16's, as that run's export
    cfg = config("merged-llava-v1.5-7b_finetune", "llava", pretrained=str(tmp_path))
    found = sizes(cfg)
    assert found["encoder"] == (85_799_424, 0)
    assert found["projector"] == ((768 + 1) * 4096 + 4097 * 4096,) * 2


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_tove_trains_what_fuses_and_vicuna_in_its_second_stage(stage: str):
    found = sizes(config(f"tove-llava-v1.5-7b_{stage}", "llava"))
    trained = {part: count for part, (_, count) in found.items() if count}
    widths = (1024, 256, 1024, 1024, 256)  # CLIP, DPT, DINOv2, EVA-02, SAM
    fuses = {
        "projector": sum((width + 1) * 4096 for width in widths) + 4097 * 4096,
        "gate": 4 * 1025,
        "transfer": 2 * 4097 * 4096 + 1,  # and lambda
    }
    assert trained == fuses | ({"language": 6_738_415_616} if stage == "finetune" else {})
