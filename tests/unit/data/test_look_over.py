"""What a run is going to read is opened before it trains."""

import io
import json

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from rich.console import Console

from tove.config.data_sets import fill_in
from tove.data import CocoCaptions
from tove.data import coco_captions as coco_module
from tove.data.look_over import look_over

CAPTIONS = dict(type="CocoCaptions", ann_file="captions.json")
STATEMENTS = dict(type="VSRStatements", ann_file="statements.jsonl")


@pytest.fixture
def config(tmp_path):
    init_default_scope("tove")
    for folder, first in (("images", 0), ("other", 5)):
        (tmp_path / folder).mkdir()
        for number in range(5):
            image = Image.new("RGB", (20, 20), (20 * (first + number), 0, 0))
            image.save(tmp_path / folder / f"{number}.png")
    names = [f"{number}.png" for number in range(5)]
    images = [dict(id=name, file_name=name) for name in names]
    captions = [dict(image_id=name, caption=f"number {name}") for name in names]
    content = dict(images=images, annotations=captions)
    (tmp_path / "captions.json").write_text(json.dumps(content))
    rows = [dict(image=name, caption="It is red.", label=1) for name in names]
    (tmp_path / "statements.jsonl").write_text("\n".join(map(json.dumps, rows)))
    both = dict(type="ConcatDataset", datasets=[CAPTIONS, STATEMENTS])
    cfg = Config(
        dict(
            data_root=str(tmp_path),
            image_size=16,
            train_dataloader=dict(dataset=both),
            val_dataloader=dict(dataset=dict(img_dir="other", **STATEMENTS)),
            test_dataloader=dict(dataset=dict(img_dir="other", test_mode=True, **CAPTIONS)),
            unlabelled_dataloader=dict(dataset=dict(type="UnlabelledImages")),
            test_evaluator=[dict(type="CaptionScore"), dict(type="StatementAccuracy")],
        )
    )
    fill_in(cfg)
    return cfg


def test_sound_data_has_no_problems(config):
    assert look_over(config) == ([], [])


def test_every_loader_is_opened_and_all_problems_told(config, tmp_path):
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "empty").mkdir()
    config.train_dataloader.dataset.datasets[1].ann_file = "broken.jsonl"
    config.val_dataloader.dataset.ann_file = "missing.jsonl"
    config.test_dataloader.dataset.max_samples = -1
    config.unlabelled_dataloader.dataset.img_dir = "empty"
    config.test_evaluator = [dict(type="CaptionScore", prefix="x"), dict(type="NoMetric")]
    problems, remarks = look_over(config)
    told = sorted(problem.partition(":")[0] for problem in problems)
    assert told == [
        "test_dataloader",
        "test_evaluator",
        "train_dataloader",
        "unlabelled_dataloader",
        "val_dataloader",
    ]
    assert not remarks


def test_images_that_cannot_be_read_are_told(config, tmp_path):
    (tmp_path / "other" / "0.png").write_bytes(b"no image")
    problems, remarks = look_over(config)
    assert not problems
    assert [r.partition(".")[0] for r in remarks] == [
        "val_dataloader: 1 of 5 images looked at cannot be read",
        "test_dataloader: 1 of 5 images looked at cannot be read",
    ]
    for number in range(5):
        (tmp_path / "other" / f"{number}.png").write_bytes(b"no image")
    problems, _ = look_over(config)
    assert len([p for p in problems if "None of the 5 images looked at can be read" in p]) == 2


def test_a_split_that_is_trained_on_is_remarked(config):
    config.test_dataloader.dataset.img_dir = "images"
    (remark,) = look_over(config).remarks
    assert remark.startswith("5 of the 5 images of the test split are trained on as well")


def test_a_loader_that_a_stage_names_is_held_against_what_is_trained_on(config):
    config.stages = [dict(name="a", data=dict(test="more_dataloader"))]
    config.more_dataloader = dict(dataset=dict(test_mode=True, **CAPTIONS))
    fill_in(config)
    (remark,) = look_over(config).remarks
    assert remark.startswith("5 of the 5 images of the more split are trained on as well")
    config.stages[0].data = dict(train="more_dataloader")
    assert look_over(config) == ([], [])
    config.val_dataloader.dataset.img_dir = "images"
    config.train_dataloader.dataset = dict(img_dir="other", **STATEMENTS)
    fill_in(config)
    assert len(look_over(config).remarks) == 2


def test_annotations_are_parsed_once_for_look_and_stages(config, monkeypatch):
    parsed = []
    real = coco_module.read_json
    told = lambda *args: parsed.append(args) or real(*args)  # noqa: E731
    monkeypatch.setattr(coco_module, "read_json", told)
    look_over(config)
    for _ in range(3):
        CocoCaptions(data_root=config.data_root, ann_file="captions.json")
    assert len(parsed) == 1


def test_progress_is_shown_on_the_console_given(config):
    out = io.StringIO()
    look_over(config, Console(file=out, force_terminal=True, width=100))
    assert "looking over train_dataloader: statements.jsonl" in out.getvalue()
    assert "5/5" in out.getvalue()


def test_images_of_conversations_are_looked_for(config, tmp_path):
    asked = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    records = [dict(id=i, image=f"{i}.png", conversations=asked) for i in range(3)]
    records += [dict(id="w", conversations=[{**asked[0], "value": "Who?"}, asked[1]])]
    (tmp_path / "talks.json").write_text(json.dumps(records))
    talks = dict(type="LlavaConversations", ann_file="talks.json")
    config.train_dataloader.dataset = Config(dict(d=talks)).d
    fill_in(config)
    assert look_over(config) == ([], [])
    (tmp_path / "images/1.png").rename(tmp_path / "images/1.gif")
    (tmp_path / "images/2.png").unlink()
    config.test_dataloader.dataset = Config(dict(d=talks)).d
    fill_in(config)
    problems, remarks = look_over(config)
    assert not problems
    assert [remark for remark in remarks if "missing, first" in remark] == remarks[:1]  # told once
    assert "1 under another suffix" in remarks[0]
    config.train_dataloader.dataset.corrupt_limit = 0
    (problem,) = look_over(config).problems
    assert problem.startswith("train_dataloader")
    assert "more than corrupt_limit=0" in problem
    assert "2.png" in problem
