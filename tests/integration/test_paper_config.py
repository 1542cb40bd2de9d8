"""The config at the paper's size, on COCO's and VSR's own layout, with small random weights."""

import json
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from tove import cli
from tove.engine.preflight import check_config
from tove_plugins import resolve_expert

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs/tove/tove_clip-b16_coco-vsr.py"
SLOTS = ("depth", "normals", "edges", "dino", "eva")


def write_photo(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (60, 44) if index % 2 else (36, 52)
    Image.new("RGB", size, (index * 37 % 256, 80, 160)).save(path)


def write_captions(root: Path, split: str, count: int) -> None:
    """Write captions_SPLIT.json as COCO has it, with keys that nobody reads."""
    images, annotations = [], []
    for index in range(count):
        name = f"{index:012d}.jpg"
        write_photo(root / split / name, index)
        images.append({"license": 3, "file_name": name, "height": 44, "width": 60, "id": index})
        for number in range(2):
            text = "a red square on the left side"
            ids = {"image_id": index, "id": 2 * index + number}
            annotations.append({**ids, "caption": text})
    file = root / f"annotations/captions_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))


def write_statements(root: Path, split: str, first: int, count: int) -> None:
    """Write a split of VSR, with the columns of its release."""
    lines = []
    for index in range(first, first + count):
        name = f"{index:012d}.jpg"
        write_photo(root / "vsr/images" / name, index)
        row = {
            "image": name,
            "image_link": f"http://images.cocodataset.org/train2017/{name}",
            "caption": "The square is on the left side.",
            "label": index % 2,
            "relation": "on the left side of",
            "annotator_id": 31,
            "vote_true_validator_id": [2, 6],
            "vote_false_validator_id": [],
        }
        lines.append(json.dumps(row))
    file = root / f"vsr/zeroshot/{split}.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO 2017 and VSR in small."""
    root = tmp_path_factory.mktemp("coco_vsr")
    write_captions(root, "train2017", 6)
    write_captions(root, "val2017", 4)
    for index in range(6):
        write_photo(root / "unlabeled2017" / f"{index:012d}.jpg", index + 50)
    for split, first, count in (("train", 100, 4), ("dev", 200, 4), ("test", 300, 4)):
        write_statements(root, split, first, count)
    return root


def test_every_setting_and_every_expert_of_it_is_known():
    cfg = Config.fromfile(CONFIG)
    assert tuple(cfg.model.experts) == SLOTS
    for expert in cfg.model.experts.values():
        assert resolve_expert(expert["type"]).weights is not None
        expert["tiny"] = True
    check_config(cfg)
    wrapped = cfg.train_dataloader.dataset.datasets[1]
    assert "data_root" not in wrapped
    assert (wrapped.dataset.data_root, wrapped.dataset.image_size) == (cfg.data_root, 224)


def test_it_runs_through_all_its_stages(
    data: Path, miniature: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    options = {
        "data_root": data,
        "image_size": 32,
        "batch_size": 4,
        "model.encoder.pretrained": miniature / "clip",
        "model.language.pretrained": miniature / "lm",
        "model.language.adapters.width": 4,
        "model.projector.hidden": 16,
        "model.generation.min_new_tokens": 1,
        "model.generation.max_new_tokens": 4,
        "model.token_cache.max_gb": 0.1,
        "schedule.steps": 4,
        "schedule.warmup": 1,
        "schedule.val_interval": 4,
        "merging.schedule.steps": 2,
        "merging.schedule.warmup": 1,
        **{f"model.experts.{slot}.tiny": True for slot in SLOTS},
        **{
            f"{loader}_dataloader.{key}": value
            for loader in ("train", "val", "test", "unlabelled")
            for key, value in (("num_workers", 0), ("persistent_workers", False))
        },
    }
    parse = runpy.run_path(str(REPOSITORY / "tools/train.py"))["parse_args"]
    given = [f"{key}={value}" for key, value in options.items()]
    args = parse([str(CONFIG), "--work-dir", str(tmp_path), "--cfg-options", *given])
    assert cli.train(args) == 0, capsys.readouterr().err
    rows = {row["name"]: row for row in json.loads((tmp_path / "results.json").read_text())}
    assert {"plain_clip", "baseline", "tove", "merged"} < rows.keys()
    assert rows["tove"]["experts"] == list(SLOTS)
    assert rows["tove"]["metrics"].keys() >= {"vsr/accuracy", "caption/CIDEr"}
    assert (tmp_path / "export/model.safetensors").exists()
    assert (tmp_path / "report.html").exists()
