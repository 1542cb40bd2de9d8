"""ToVE base at its full size: as shapes, and on the benchmarks' own files in miniature."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from tests.benchmark_files import WRITERS, shards
from tests.integration.test_full_size import META
from tove.config.loading import load_config
from tove.data.look_over import look_over
from tove.data.prepare import prepare_data
from tove.engine.pipeline import StagedRunner
from tove.engine.plan.options import context_of, training_stages
from tove.engine.plan.plan import counts_by_part, shapes_of
from tove.engine.preflight import check_config

pytestmark = pytest.mark.slow

SLOTS = ("depth", "normals", "edges", "dino", "eva")
CONFIGS = {
    path.stem.removeprefix("tove-").removeprefix("base_"): path
    for path in (Path(__file__).parents[2] / "configs/tove").glob("tove-*.py")
}
# Where each finds its files, as the configs' heads lay them out.
FILES = {
    "pretrain": ["karpathy", "visual_genome", "nocaps"],
    "karpathy": "karpathy",
    "gqa": "gqa",
    "okvqa": "okvqa",
    "textvqa": "textvqa",
    "vizwiz": "vizwiz",
    "vqav2": "vqav2",
    "vsr-random": "vsr",
    "vsr-zeroshot": "vsr",
}
FILES |= {f"lite_{name}": files for name, files in FILES.items() if name != "pretrain"}


def load(name: str) -> Config:
    return load_config(str(CONFIGS[name]))


def write(name: str, root: Path) -> None:
    files = FILES[name]
    if isinstance(files, str):
        WRITERS[files](root)
        return
    for benchmark in files:
        WRITERS[benchmark](root / benchmark)
    for folder in ("cc3m", "sbu"):
        shards(root / folder, [3, 2])


def test_every_task_of_the_paper_has_a_config():
    assert CONFIGS.keys() == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_files_in_the_official_layout_pass_preflight(name: str, tmp_path: Path):
    write(name, tmp_path)
    cfg = load(name)
    cfg.data_root = str(tmp_path)
    for expert in cfg.model.experts.values():
        expert["tiny"] = True
    check_config(cfg)
    prepare_data(cfg)
    assert look_over(cfg).problems == []


def test_all_that_trains_is_built_as_shapes():
    cfg = load("pretrain")
    check_config(cfg, without=cfg.model.experts)
    init_default_scope("tove")
    found = {}
    for stage in training_stages(cfg, None):
        planned, problems = shapes_of(context_of(cfg, META), stage)
        assert not problems
        assert {p.device for p in planned.model.parameters()} == {META}
        counts = counts_by_part(planned.model)
        found[stage.name] = {part: (own[0], own[1]) for part, own in counts.items()}
    tove = found["pretrain"]
    assert tove["encoder"] == (85_799_424, 0)
    assert all(tove[f"experts.{slot}"][1] == 0 < tove[f"experts.{slot}"][0] for slot in SLOTS)
    trained = {part: own[1] for part, own in tove.items() if own[1]}
    assert trained.pop("language") < tove["language"][0] / 5  # adapters and cross-attention
    assert trained == {
        "projector": 4_684_032,  # the stems of the two maps included
        "gate": 5 * 769,
        "transfer": 2 * 769 * 768 + 1,  # and lambda
    }
    sums = [sum(own[1] for own in found[name].values()) for name in ("baseline", "pretrain")]
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)
    assert found["merge"]["student"][1] > 85_700_000


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"pretrain"}))
def test_what_is_fine_tuned_is_what_was_pre_trained(name: str):
    ours, before = load(name).model, load("pretrain").model
    assert {**ours, "generation": 0} == {**before, "generation": 0}
    (stage,) = load(name).stages
    small = name.removeprefix("lite_") in ("okvqa", "textvqa", "vizwiz")  # begin behind VQAv2
    first = {"": "pretrain", "lite_": "merged"}, {"": "vqav2", "lite_": "vqav2_lite"}
    assert stage["source"] == first[small]["lite_" * name.startswith("lite")]


def small(name: str, root: Path, miniature: Path, work: Path) -> Config:
    """Return a config with small random weights, two steps, and its files written."""
    write(name, root / name)
    cfg = load(name)
    cfg.data_root, cfg.work_dir = str(root / name), str(work)
    cfg.image_size, cfg.batch_size = 32, 2
    for expert in cfg.model.experts.values():
        expert["tiny"] = True
    cfg.model.encoder.pretrained = str(miniature / "clip")
    cfg.model.language.update(
        pretrained=str(miniature / "lm"), adapters=dict(type="bottleneck", width=4)
    )
    cfg.model.generation = dict(num_beams=1, min_new_tokens=1, max_new_tokens=2)
    for loader in ("train", "val", "test", "unlabelled"):
        cfg.get(f"{loader}_dataloader", {}).update(num_workers=0, persistent_workers=False)
    cfg.schedule.update(steps=2, warmup=1, val_interval=0)
    check_config(cfg)
    return cfg


@pytest.mark.heavy
def test_fine_tunings_go_on_from_the_pre_training_and_from_its_merged_encoder(
    miniature: Path, tmp_path: Path
):
    work = tmp_path / "work"
    cfg = small("pretrain", tmp_path, miniature, work)
    cfg.stages = [entry for entry in cfg.stages if entry["name"] in ("pretrain", "merge", "merged")]
    cfg.merging.schedule.update(steps=2, warmup=1)
    rows = {row["name"]: row for row in StagedRunner(cfg).run()}
    assert rows["tove"]["training_images"] >= 2
    assert "caption/relation/out-domain" in rows["tove"]["metrics"]
    for name, experts in (("vqav2", list(SLOTS)), ("lite_vqav2", [])):
        cfg = small(name, tmp_path, miniature, work)
        if not experts:
            cfg.stages[0].model.encoder.pretrained = str(work / "export")
        tuned = next(row for row in StagedRunner(cfg).run() if row["stage"] == cfg.stages[0].name)
        assert tuned["experts"] == experts
        assert tuned["steps"] > 2
        assert 0 <= tuned["metrics"]["vqav2/accuracy"]["value"] <= 1
