"""The configs of benchmarks, over files in their releases' own format and a model of a run."""

import argparse
import json
import runpy
from html import escape
from pathlib import Path

import pytest
from mmengine.config import Config

from tests.benchmark_files import WRITERS
from tove import cli
from tove.config.loading import load_config
from tove.data.look_over import look_over
from tove.engine.benchmark_config import with_model_of
from tove.engine.checkpoint import save_checkpoint
from tove.engine.preflight import check_config
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate import evaluate_checkpoint
from tove.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[3] / "configs/benchmarks").glob("*.py"))
# By config: a score that it has, and how many answers the files in small are asked for.
ANSWERED = {
    "cvbench": ("cvbench/3D", 4),
    "gqa": ("gqa/form/open", 2),
    "karpathy": ("caption/CIDEr", 2),
    "mme": ("mme/cognition", 10),
    "nocaps": ("caption/relation/in-domain", 6),
    "okvqa": ("okvqa/kind/Vehicles and Transportation", 3),
    "pope": ("pope/F1", 12),
    "scienceqa": ("scienceqa/subject/NAT", 3),
    "textvqa": ("textvqa/accuracy", 3),
    "vizwiz": ("vizwiz/answer_type/other", 3),
    "vqav2": ("vqav2/accuracy", 3),
    "vsr_random": ("vsr/relation/left of", 2),
    "vsr_zeroshot": ("vsr/accuracy", 2),
}


@pytest.fixture(scope="module")
def checkpoint(make_settings, tmp_path_factory) -> Path:
    """What a run leaves, nothing trained."""
    folder = tmp_path_factory.mktemp("run")
    cfg = Config(make_settings())
    check_config(cfg)
    context = StageContext(cfg=cfg, work_dir=folder)
    over = dict(type="PlainCLIP")
    meta = context.meta(context.build_model(over), "plain_clip", settings=over)
    save_checkpoint(folder / "model.pth", context.build_model(over), meta)
    return folder / "model.pth"


@pytest.fixture
def data(tmp_path):
    """Write the files that a config reads."""

    def write(name: str) -> Path:
        WRITERS["vsr" if name.startswith("vsr") else name](tmp_path)
        return tmp_path

    return write


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_a_benchmark_is_ready_for_any_checkpoint(config, checkpoint, data):
    root = data(config.stem)
    options = [f"data_root={root}", "test_dataloader.num_workers=0"]
    cfg = with_model_of(load_config(str(config), options), checkpoint)
    assert cfg.model.type == "ToVE"
    assert cfg.model.encoder.pretrained  # the run's
    assert not {"train_dataloader", "val_dataloader"} & set(cfg)
    check_config(cfg, checkpoint=checkpoint)
    assert look_over(cfg).problems == []


@pytest.mark.parametrize("name", ANSWERED)
def test_a_checkpoint_is_scored_on_a_benchmark_and_its_answers_can_be_browsed(
    name, checkpoint, data, tmp_path, capsys
):
    score, number = ANSWERED[name]
    root = data(name)
    (config,) = [path for path in CONFIGS if path.stem == name]
    options = [
        f"data_root={root}",
        "test_dataloader.num_workers=0",
        "model.generation.num_beams=1",
        "model.generation.min_new_tokens=1",
        "model.generation.max_new_tokens=2",
    ]
    if not name.startswith("vsr"):
        options.append(f"test_evaluator.0.submission={tmp_path / 'handed_in'}")
    args = argparse.Namespace(
        config=str(config),
        cfg_options=options,
        work_dir=str(tmp_path / "work"),
        launcher="none",
        local_rank=0,
        checkpoint=str(checkpoint),
        split="test",
    )
    assert cli.test(args) == 0, capsys.readouterr().err
    (row,) = json.loads((tmp_path / "work/test-test/rows.json").read_text())
    assert score in row["metrics"]
    assert (tmp_path / "handed_in").exists() != name.startswith("vsr")
    lines = (tmp_path / "work/test-test/answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert len(answers) == number
    assert all(len(answer["scores"]) == 1 for answer in answers)
    page = (tmp_path / "work/test-test/report.html").read_text()
    assert page.count('class="card"') == page.count("data:image/png") == number
    assert all(escape(answer["asked"].split("\n")[0]) in page for answer in answers)


def test_a_checkpoint_that_does_not_say_its_config_is_a_sentence(checkpoint, tmp_path):
    import torch

    path = tmp_path / "old.pth"
    torch.save({"state_dict": {}, "meta": {}}, path)
    cfg = load_config(str(CONFIGS[0]))
    with pytest.raises(ConfigError, match="does not say what it was trained with"):
        with_model_of(cfg, path)


@pytest.mark.parametrize("tool", ["train", "plan", "cache"])
def test_a_benchmark_s_config_alone_is_no_run(tool: str, capsys: pytest.CaptureFixture):
    (config,) = [path for path in CONFIGS if path.stem == "pope"]
    parse = runpy.run_path(str(CONFIGS[0].parents[2] / f"tools/{tool}.py"))["parse_args"]
    assert getattr(cli, tool)(parse([str(config)])) == 2
    assert "pope.py lacks the setting" in capsys.readouterr().err


def test_a_model_that_is_no_dict_is_a_sentence(checkpoint):
    with pytest.raises(ConfigError, match="model is 7, but it must be a dict"):
        with_model_of(load_config(str(CONFIGS[0]), ["model=7"]), checkpoint)


@pytest.mark.parametrize(
    ("work", "split", "told"),
    [
        ("file", "test", "Writing .*file/test-test/rows.json failed"),
        ("work", "val", "pope.py has no `val_dataloader`, so there is nothing to evaluate"),
    ],
)
def test_an_evaluation_that_would_come_to_nothing_is_said_first(
    checkpoint, tmp_path, work, split, told
):
    (tmp_path / "file").touch()
    (config,) = [path for path in CONFIGS if path.stem == "pope"]
    cfg = with_model_of(load_config(str(config), work_dir=str(tmp_path / work)), checkpoint)
    with pytest.raises(ConfigError, match=told):
        evaluate_checkpoint(cfg, checkpoint, split)
