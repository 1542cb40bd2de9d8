"""Training from tokens on disk, as a user does it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tove.config.loading import load_config
from tove.engine.cache_tools import verify

pytestmark = pytest.mark.slow


def run_tool(name: str, config: Path, *arguments: str) -> int:
    import runpy

    from tove import cli

    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / f"{name}.py"))
    return getattr(cli, name)(tool["parse_args"]([str(config), *arguments]))


@pytest.fixture
def only_transfer(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The miniature run's one stage with experts, its tokens on disk in fp32."""
    settings["stages"] = [dict(type="TrainStage", name="transfer", row="tove")]
    # With their weights: random ones are others in each process, and nothing of them is found.
    settings["model"]["experts"] = {s: dict(type=f"tiny_{s}") for s in ("depth", "dino")}
    settings["model"]["token_cache"] = dict(dir=str(tmp_path / "cache"), codec="fp32")
    return settings


def losses(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "transfer/loss.jsonl").read_text().splitlines()]


def row_of(work: Path) -> dict[str, Any]:
    return json.loads((work / "results.json").read_text())[0]


def test_the_losses_of_cached_training_are_those_of_live_training_to_the_bit(
    only_transfer: dict[str, Any],
    write_config: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    from tove.backbones.clip.encoder import TransformersCLIP
    from tove.backbones.experts.hub import ExpertHub
    from tove.data import known_views

    cached = write_config(only_transfer, "cached.py")
    only_transfer["model"]["token_cache"] = None
    live = write_config(only_transfer, "live.py")
    assert run_tool("train", live, "--work-dir", str(tmp_path / "live")) == 0
    assert run_tool("cache", cached) == 0

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a cached step runs no frozen network and decodes no image")

    trained = []
    from mmengine.runner import Runner

    whole_training = Runner.train

    def train(self: Runner) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(ExpertHub, "run", refuse)
            patch.setattr(TransformersCLIP, "forward", refuse)
            patch.setattr(known_views, "shared_view", refuse)
            trained.append(True)
            return whole_training(self)

    monkeypatch.setattr(Runner, "train", train)
    options = ("--cfg-options", "model.token_cache.mode=read")
    assert run_tool("train", cached, "--work-dir", str(tmp_path / "cached"), *options) == 0
    assert trained
    assert losses(tmp_path / "cached") == losses(tmp_path / "live")
    first, second = (row_of(tmp_path / name) for name in ("live", "cached"))
    assert first["metrics"] == second["metrics"]
    assert first["training_images"] == second["training_images"]
    for key in ("flops", "total_parameters", "trainable_parameters"):
        assert first[key] == second[key]
    assert load_config(str(cached)).model.token_cache.codec == "fp32"


def test_a_second_extraction_decodes_nothing_and_damage_is_found(
    only_transfer: dict[str, Any],
    write_config: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    from tove.data.image_dataset import ImageDataset

    config = write_config(only_transfer, "cached.py")
    assert run_tool("cache", config, "--verify") == 2
    assert "has no tokens to verify" in " ".join(capsys.readouterr().err.split())
    assert run_tool("cache", config) == 0

    def refuse(*_: Any) -> Any:
        raise AssertionError("an image whose tokens are all there is not decoded")

    with monkeypatch.context() as patch:
        patch.setattr(ImageDataset, "image_views", refuse)
        assert run_tool("cache", config) == 0
    assert "0 entries written" in " ".join(capsys.readouterr().out.split())
    assert run_tool("cache", config, "--verify") == 0
    tables = ("TransformersCLIP", "tiny_depth", "tiny_dino", "views")
    told = capsys.readouterr().out
    assert all(table in told for table in tables)
    assert ": 0 entries" not in told
    shard = next((tmp_path / "cache").glob("tiny_depth-*/*-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert run_tool("cache", config, "--verify") == 2
    told = capsys.readouterr()
    assert shard.name in "".join(told.out.split())
    assert shard.name in "".join(told.err.split())
    assert "Remove the files that are named" in " ".join(told.err.split())
    shard.unlink()
    assert run_tool("cache", config) == 0
    assert run_tool("cache", config, "--verify") == 0


def test_the_size_can_be_had_before_the_data_is_there(
    only_transfer: dict[str, Any],
    write_config: Callable,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    only_transfer["data_root"] = str(tmp_path / "later")
    config = write_config(only_transfer, "later.py")
    assert run_tool("cache", config, "--dry-run") == 2
    assert "Before the data is there: --images N." in capsys.readouterr().err
    assert run_tool("cache", config, "--dry-run", "--images", "1000") == 0
    assert "Tokens of 1,000 images" in capsys.readouterr().out


def test_two_processes_fill_a_cache_and_train_from_it_as_they_do_live(
    only_transfer: dict[str, Any],
    write_config: Callable,
    launch: Callable,
    tmp_path: Path,
):
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")

    def run(tool: str, config: Path, *arguments: object) -> None:
        done = launch(*two, f"tools/{tool}.py", config, *arguments, "--launcher", "pytorch")
        assert done.returncode == 0, done.stderr[-3000:]

    only_transfer["schedule"].update(steps=4)
    augmented = only_transfer["train_dataloader"]["dataset"]["datasets"][1]
    augmented["augment"] = dict(views=2, flip=0.5, scale=(0.5, 1.0))
    only_transfer["model"]["token_cache"]["experts"] = dict(dino=dict(codec="pca4+fp32"))
    run("cache", write_config(only_transfer, "whole.py"))
    folders = {path.name.rpartition("-")[0]: path for path in (tmp_path / "cache").glob("*-*")}
    # Captions' 12 photos have two views each, 10 are unlabelled; other splits' are the same.
    for name in ("TransformersCLIP", "tiny_depth", "tiny_dino"):
        shards = sorted(folders[name].glob("*-*.safetensors"))
        assert len({path.name.split("-")[0] for path in shards}) == 2  # both have written
        keys = [key.tobytes() for path in shards for key in load_file(path)["keys"]]
        assert len(keys) == len(set(keys)) == 34

    del only_transfer["model"]["experts"]["dino"]
    del only_transfer["model"]["token_cache"]["experts"]
    only_transfer["model"]["token_cache"]["mode"] = "read"
    cached = write_config(only_transfer, "cached.py")
    only_transfer["model"]["token_cache"] = None
    live = write_config(only_transfer, "live.py")
    kept = dict(dir=str(tmp_path / "through"), codec="fp32", mode="read-through")
    only_transfer["model"]["token_cache"] = kept
    through = write_config(only_transfer, "through.py")
    for name, config in (("live", live), ("cached", cached), ("read-through", through)):
        run("train", config, "--work-dir", tmp_path / name)
        assert losses(tmp_path / name) == losses(tmp_path / "live")
        assert row_of(tmp_path / name)["metrics"] == row_of(tmp_path / "live")["metrics"]
    whole = list(verify(tmp_path / "through"))
    assert len(whole) == 2  # the encoder and one expert
    assert all(sound and not damaged for _, sound, damaged in whole)
