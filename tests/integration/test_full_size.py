"""Configs around a 7B language model, built on the meta device: what trains, how many numbers."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from transformers import CLIPVisionConfig

from tove.engine.preflight import check_config

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted(
    path
    for folder in ("llava", "move_kd")
    for path in (REPOSITORY / "configs" / folder).glob("*-7b_*.py")
)


def config(name: str, folder: str = "move_kd") -> Config:
    return Config.fromfile(REPOSITORY / "configs" / folder / f"{name}.py")


@pytest.fixture(scope="module")
def full_size() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(REPOSITORY / "scripts/full_size.py")))


def test_every_setting_of_them_is_known(tmp_path: Path):
    assert len(CONFIGS) == 16
    weights = tmp_path / "open_clip_pytorch_model.bin"
    weights.touch()
    for path in CONFIGS:
        cfg = Config.fromfile(path)
        for slot, expert in cfg.model.get("experts", {}).items():
            expert |= dict(weights=str(weights)) if slot == "convnext" else dict(tiny=True)
        check_config(cfg)


def sizes(full_size: SimpleNamespace, cfg: Config) -> dict[str, tuple[int, int]]:
    """Return (all, trained) parameters by part, of the first stage of a config."""
    parts = full_size.parts_of(full_size.build(cfg, cfg.stages[0]))
    assert {p.device.type for own in parts.values() for p in own} == {"meta"}
    counts: dict[str, Any] = {}
    for part, own in parts.items():
        numbers = [(p.numel(), p.numel() * p.requires_grad) for p in own]
        counts[part] = tuple(map(sum, zip(*numbers, strict=True)))
    return counts


def test_v1_1_has_the_release_s_counts_and_trains_all_but_its_teachers(
    full_size: SimpleNamespace,
):
    cfg = config("move_kd-v1.1-llava-v1.5-7b_finetune")
    cfg.model.preset = "released"
    found = sizes(full_size, cfg)
    released = {
        "encoder: MoLE": 24_040_008,
        "adapter eva": 3_409_472,
        "adapter convnext": 3_737_152,
        "adapter sam": 2_623_040,
    }
    assert {part: found[part][0] for part in released} == released
    # Vicuna-7B, and mlp2x_gelu from 1,024 to 4,096.
    assert found["language"] == (6_738_415_616, 6_738_415_616)
    assert found["projector"] == (20_979_712, 20_979_712)
    teachers = {part for part in found if part.startswith("teacher")}
    assert teachers == {"teacher CLIP", "teacher eva", "teacher convnext", "teacher sam"}
    assert not any(found[part][1] for part in teachers)
    block = 12_596_224  # of ViT-L: the last one is above the tokens, and so is the last norm
    assert found["encoder"] == (303_507_456, 303_507_456 - block - 2 * 1024)


def test_v1_0_trains_what_is_new_in_its_first_stage(full_size: SimpleNamespace):
    found = sizes(full_size, config("move_kd-v1.0-llava-v1.5-7b_pretrain"))
    trained = {part: count for part, (_, count) in found.items() if count}
    assert trained == {
        "encoder: MoLE": 24_040_008 // 24 * 23,  # "paper" has none above the tokens
        "projector": 20_979_712,
        "adapter eva": 3_409_472,
        "adapter convnext": 3_737_152,
    }


def test_llava_next_trains_clip_along_and_its_newline_in_its_second_stage(
    full_size: SimpleNamespace,
):
    found = sizes(full_size, config("llava-next-vicuna-7b_finetune", "llava"))
    assert {part: count for part, (_, count) in found.items()} == {
        "encoder": 303_507_456 - 12_596_224 - 2 * 1024,  # the block and norm above the tokens
        "language": 6_738_415_616 + 4096,
        "projector": 20_979_712,
    }
    first = sizes(full_size, config("llava-next-vicuna-7b_pretrain", "llava"))
    assert {part for part, (_, count) in first.items() if count} == {"projector"}


def test_merged_clip_is_read_from_an_export(full_size: SimpleNamespace, tmp_path: Path):
    cfg = config("merged-llava-v1.5-7b_finetune", "llava")
    CLIPVisionConfig(patch_size=16).save_pretrained(tmp_path)  # CLIP-B/16's, as that run's export
    cfg.model.encoder.pretrained = str(tmp_path)
    found = sizes(full_size, cfg)
    assert found["encoder"] == (85_799_424, 0)
    assert found["projector"] == ((768 + 1) * 4096 + 4097 * 4096,) * 2


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_tove_trains_what_fuses_and_vicuna_in_its_second_stage(
    full_size: SimpleNamespace, stage: str
):
    found = sizes(full_size, config(f"tove-llava-v1.5-7b_{stage}", "llava"))
    trained = {part: count for part, (_, count) in found.items() if count}
    widths = (1024, 256, 1024, 1024, 256)  # CLIP, DPT, DINOv2, EVA-02, SAM
    fuses = {
        "projector": sum((width + 1) * 4096 for width in widths) + 4097 * 4096,
        "gate": 4 * 1025,
        "transfer": 2 * 4097 * 4096 + 1,  # and lambda
    }
    assert trained == fuses | ({"language": 6_738_415_616} if stage == "finetune" else {})
