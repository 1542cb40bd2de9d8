"""Each mistake in a config is one clear sentence, before anything is built."""

import re
from collections.abc import Callable
from contextlib import suppress
from inspect import getsource
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISBACKENDS

from tove.config.loading import load_config
from tove.data.prepare import prepare_data
from tove.engine import preflight
from tove.engine.preflight import check_config
from tove.engine.runner_checks import _TRACKERS
from tove.errors import ConfigError
from tove_plugins import ExpertBuildError, ExpertNotAvailable

Settings = dict[str, Any]


def swap(**over: Any) -> Callable[[Settings], None]:
    return lambda settings: settings["model"].update(over)


def set_expert(**expert: Any) -> Callable[[Settings], None]:
    return lambda settings: settings["model"]["experts"].update(depth=expert)


def lay_over(**over: Any) -> Callable[[Settings], None]:
    """Give settings to the model of the stage `transfer`, which is ToVE's."""
    return lambda settings: settings["stages"][2].update(model=over)


def set_stage(**stage: Any) -> Callable[[Settings], None]:
    return lambda settings: settings["stages"].append(stage)


MISTAKES = {
    "model type": (swap(type="TOVE"), ConfigError, r"model\.type is 'TOVE'.*Did you mean 'ToVE'"),
    "encoder type": (
        swap(encoder={"type": "TransformerCLIP"}),
        ConfigError,
        r"model\.encoder\.type is 'TransformerCLIP'.*Did you mean 'TransformersCLIP'",
    ),
    "no type": (swap(encoder={}), ConfigError, r"model\.encoder of the config has no 'type'"),
    "metric": (
        lambda s: s.update(test_evaluator=[{"type": "StatementAcuracy"}]),
        ConfigError,
        "Did you mean 'StatementAccuracy'",
    ),
    "stage": (
        set_stage(type="DetatchStage", name="x"),
        ConfigError,
        "Did you mean 'DetachStage'",
    ),
    "two stages of a name": (
        set_stage(type="DetachStage", name="detach"),
        ConfigError,
        "needs a name of its own",
    ),
    "missing setting": (lambda s: s.pop("seed"), ConfigError, "lacks the setting 'seed'"),
    "unknown expert": (set_expert(type="tiny_dept"), ExpertNotAvailable, "Did you mean"),
    "expert's weights": (
        set_expert(type="tiny_depth", weights="/nowhere/x.safetensors"),
        ExpertBuildError,
        r"model\.experts\.depth.*/nowhere/x\.safetensors",
    ),
    "encoder's weights": (
        swap(encoder={"type": "TransformersCLIP", "pretrained": "/nowhere/clip"}),
        ConfigError,
        r"model\.encoder\.pretrained is '/nowhere/clip', but there is nothing",
    ),
    "gate's switch": (
        swap(gate={"topk": 2}),
        ConfigError,
        r"model\.gate\.topk is unknown. Did you mean 'top_k'",
    ),
    "model's switch": (swap(balance_wieght=1), ConfigError, r"Did you mean 'balance_weight'"),
    "projector": (swap(projector={"hiden": 1}), ConfigError, r"model\.projector\.hiden is unknown"),
    "expert's option": (
        set_expert(type="tiny_depth", dept=3),
        ExpertBuildError,
        r"model\.experts\.depth: .*'dept'",
    ),
    "expert's dtype": (
        set_expert(type="tiny_depth", dtype="float13"),
        ConfigError,
        r"model\.experts\.depth\.dtype is 'float13'; give float32",
    ),
    "expert's device": (
        set_expert(type="tiny_depth", device="cuda:99"),
        ConfigError,
        r"model\.experts\.depth\.device is 'cuda:99', which cannot be used here: ",
    ),
    "a slot of the cache": (
        swap(token_cache={"dir": "tokens", "experts": {"deth": {"mode": "off"}}}),
        ConfigError,
        r"model\.token_cache\.experts\.deth is unknown. Did you mean 'depth'",
    ),
    "token_norm": (
        swap(token_norm="standardize"),
        ConfigError,
        r"model\.token_norm is 'standardize', but it must be one of 'none', 'standardise'",
    ),
    "expert's token_norm": (
        set_expert(type="tiny_depth", token_norm="layernorm"),
        ConfigError,
        r"model\.experts\.depth\.token_norm is 'layernorm'",
    ),
    "a token_norm that its width does not allow": (
        set_expert(type="edge_dexined", tiny=True, token_norm="layer_norm"),
        ConfigError,
        r"model\.experts\.depth: token_norm='layer_norm' makes zeros of tokens of width 1",
    ),
    "a licence that is refused, before its weights are looked for": (
        lambda s: (
            set_expert(type="depth_anything_v2_base")(s),
            s.update(hub={"allow_noncommercial": False}),
        ),
        ConfigError,
        r"model\.experts\.depth is .* under CC-BY-NC-4\.0, which does not allow",
    ),
    "a stage's type": (
        lay_over(type="PlainClip"),
        ConfigError,
        r"stages\.transfer\.model\.type is 'PlainClip', which is unknown",
    ),
    "what a stage's model does not take": (
        lay_over(type="PlainCLIP", gate={"top_k": 1}),
        ConfigError,
        r"stages\.transfer\.model\.gate is unknown",
    ),
    "a stage's encoder": (
        lay_over(encoder={"layer": "last"}),
        ConfigError,
        r"stages\.transfer\.model\.encoder\.layer is 'last', but it must be a whole number",
    ),
    "a stage's encoder's weights": (
        lay_over(encoder={"pretrained": "/nowhere/clip"}),
        ConfigError,
        r"stages\.transfer\.model\.encoder\.pretrained is '/nowhere/clip', but there is nothing",
    ),
    "a stage's language model": (
        lay_over(language={"fusion": "cros_attention"}),
        ConfigError,
        r"stages\.transfer\.model\.language\.fusion is 'cros_attention'",
    ),
    "a stage's generation": (
        lay_over(generation={"num_beams": 0}),
        ConfigError,
        r"stages\.transfer\.model\.generation\.num_beams is 0",
    ),
    "a stage's expert": (
        lay_over(experts={"depth": {"dtype": "float13"}}),
        ConfigError,
        r"stages\.transfer\.model\.experts\.depth\.dtype is 'float13'; give float32",
    ),
    "a stage's experts": (
        lay_over(experts=["depth"]),
        ConfigError,
        r"stages\.transfer\.model\.experts is \['depth'\], but it must be a dict",
    ),
    "an encoder's image size": (
        lambda s: s["model"]["encoder"].update(image_size=0),
        ConfigError,
        r"model\.encoder\.image_size is 0, but it must be a whole number \(1 or more\)",
    ),
    "a hook": (
        lambda s: s.update(custom_hooks=[{"type": "EMAHok"}]),
        ConfigError,
        r"custom_hooks\.0\.type is 'EMAHok', which is unknown\. Did you mean 'EMAHook'",
    ),
    "a default hook": (
        lambda s: s.update(default_hooks={"logger": None, "timer": {"type": "Timer"}}),
        ConfigError,
        r"default_hooks\.timer\.type is 'Timer', which is unknown",
    ),
    "a place to log to": (
        lambda s: s.update(visualizer={"vis_backends": [{"type": "WandbBackend"}]}),
        ConfigError,
        r"visualizer\.vis_backends\.0\.type is 'WandbBackend', which is unknown",
    ),
    "a stage's optimiser": (
        lambda s: s["stages"][2].update(runner={"optim_wrapper": {"optimizer": {"type": "Adamw"}}}),
        ConfigError,
        r"stages\.transfer\.runner\.optim_wrapper\.optimizer\.type is 'Adamw', which is unknown",
    ),
    "a stage's word of mmengine's": (
        lambda s: s["stages"][2].update(runner={"optim_wraper": {}}),
        ConfigError,
        r"stages\.transfer\.runner\.optim_wraper is unknown\. Did you mean 'optim_wrapper'",
    ),
    "its kind in a stage": (
        lambda s: s["stages"][2].update(runner={"custom_hooks": {"type": "EMAHook"}}),
        ConfigError,
        r"stages\.transfer\.runner\.custom_hooks is .*, but it must be a list\.",
    ),
    "a stage's scheduler": (
        lambda s: s["stages"][2].update(runner={"param_scheduler": {"type": "CosineLR"}}),
        ConfigError,
        r"stages\.transfer\.runner\.param_scheduler\.type is 'CosineLR', which is unknown",
    ),
    "a norm that turns gradients round": (
        lambda s: s.update(optim_wrapper={"clip_grad": {"max_norm": -1}}),
        ConfigError,
        r"optim_wrapper\.clip_grad\.max_norm is -1, but it must be a number \(above 0\)",
    ),
    "a level of logs": (
        lambda s: s.update(log_level="info"),
        ConfigError,
        r"log_level is 'info', but it must be one of 'DEBUG', 'INFO'",
    ),
    "a loader of nothing": (
        lambda s: s["val_dataloader"].pop("dataset"),
        ConfigError,
        r"val_dataloader of the config has no 'dataset'",
    ),
    "a sampler": (
        lambda s: s["unlabelled_dataloader"]["sampler"].update(type="Infinit"),
        ConfigError,
        r"unlabelled_dataloader\.sampler\.type is 'Infinit', which is unknown",
    ),
    "a sampler's option": (
        lambda s: s["train_dataloader"]["sampler"].update(shufle=True),
        ConfigError,
        r"train_dataloader\.sampler\.shufle is unknown\. Did you mean 'shuffle'",
    ),
    "what puts batches together": (
        lambda s: s["test_dataloader"].update(collate_fn={"type": "tove_colate"}),
        ConfigError,
        r"test_dataloader\.collate_fn\.type is 'tove_colate', which is unknown",
    ),
    "a loader's number": (
        lambda s: s["train_dataloader"].update(batch_size="abc"),
        ConfigError,
        r"train_dataloader\.batch_size is 'abc', but it must be a whole number \(1 or more\)",
    ),
    "generation": (
        lambda s: s["model"].update(generation={"num_beamz": 3}),
        ConfigError,
        r"model\.generation\.num_beamz is unknown\. Did you mean 'num_beams'",
    ),
    "a number of beams": (
        lambda s: s["model"].update(generation={"num_beams": 0}),
        ConfigError,
        r"model\.generation\.num_beams is 0, but it must be a whole number \(1 or more\)",
    ),
    "a number": (
        lambda s: s["model"].update(projector={"hidden": "abc"}),
        ConfigError,
        r"model\.projector\.hidden is 'abc', but it must be a whole number",
    ),
    "an expert's device that computes nothing": (
        set_expert(type="tiny_depth", device="meta"),
        ConfigError,
        r"model\.experts\.depth\.device is 'meta', which computes nothing",
    ),
    "seed": (
        lambda s: s.update(seed=1.5),
        ConfigError,
        r"seed is 1\.5, but .* a whole",
    ),
    "merging's switch": (
        lambda s: s["merging"].update(schedul={}),
        ConfigError,
        r"merging\.schedul is unknown. Did you mean 'schedule'",
    ),
    "merging's loss": (
        lambda s: s["merging"]["model"].update(loss="mae"),
        ConfigError,
        r"merging\.model\.loss is 'mae', but it must be one of 'mse'",
    ),
    "merging model's switch": (
        lambda s: s["merging"]["model"].update(lm_wieght=1),
        ConfigError,
        r"Did you mean 'lm_weight'",
    ),
    "data set's option": (
        lambda s: s["test_dataloader"]["dataset"]["datasets"][0].update(max_sample=3),
        ConfigError,
        r"test_dataloader\.dataset\.max_sample is unknown. Did you mean 'max_samples'",
    ),
    "metric's option": (
        lambda s: s.update(test_evaluator=[{"type": "CaptionScore", "num_resample": 3}]),
        ConfigError,
        "Did you mean 'num_resamples'",
    ),
    "loader's option": (
        lambda s: s["test_dataloader"].update(num_worker=2),
        ConfigError,
        r"test_dataloader\.num_worker is unknown. Did you mean 'num_workers'",
    ),
    "image size": (
        lambda s: s.update(image_size=0),
        ConfigError,
        "image_size is 0, but .* a whole",
    ),
    "resource of no package": (
        swap(init_from="pkg:no_such_package/x.safetensors"),
        ConfigError,
        r"model\.init_from: .*'no_such_package', which is not installed",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(mistake: str, settings: Settings):
    change, error, message = MISTAKES[mistake]
    change(settings)
    with pytest.raises(error, match=message) as raised:
        check_config(Config(settings))
    assert "\n" not in str(raised.value)


def test_a_tracker_without_its_library_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tove.engine.runner_checks.find_spec", lambda name: None)
    settings["visualizer"] = {"vis_backends": [{"type": "WandbVisBackend"}]}
    words = r"visualizer\.vis_backends\.0\.type is 'WandbVisBackend', .*`pip install wandb`"
    with pytest.raises(ConfigError, match=words):
        check_config(Config(settings))


def test_the_libraries_of_mmengine_s_trackers_are_known():
    ours = {"LocalVisBackend", "TensorboardVisBackend"}
    trackers = {n: c for n, c in VISBACKENDS.module_dict.items() if n not in ours}
    imported = {
        n: set(re.findall(r"(?:import|from) (\w+)", getsource(c._init_env)))
        for n, c in trackers.items()
        if c.__module__.startswith("mmengine.")
    }
    assert imported.keys() == _TRACKERS.keys()
    assert all(_TRACKERS[name] in found for name, found in imported.items())


def test_what_mmengine_s_vocabulary_holds_passes(settings: Settings):
    settings["custom_hooks"] = [{"type": "EMAHook", "priority": 49}]
    settings["default_hooks"] = {"logger": {"interval": 5}, "checkpoint": None}
    settings["visualizer"] = {"vis_backends": [{"type": "TensorboardVisBackend"}]}
    settings["param_scheduler"] = [{"type": "LinearLR", "start_factor": 0.1, "end": 2}]
    settings["optim_wrapper"] = {"optimizer": {"type": "SGD"}, "clip_grad": {"max_norm": 1}}
    settings["stages"][0]["runner"] = {"train_cfg": {"type": "IterBasedTrainLoop"}}
    check_config(Config(settings))


def test_a_stage_of_another_model_takes_of_the_settings_what_that_knows(settings: Settings):
    settings["model"]["gate"] = {"top_k": 1}  # PlainCLIP has no gate
    check_config(Config(settings))
    # Nor has the transfer of others heads.
    settings["model"] |= {"type": "ToVECrossAttention", "transfer": {"num_heads": 2}}
    settings["stages"].append(
        {"type": "TrainStage", "name": "concat", "model": {"type": "ToVEConcat"}}
    )
    check_config(Config(settings))
    settings["stages"][-1]["model"]["transfer"] = {"num_heads": 2}
    with pytest.raises(ConfigError, match=r"concat\.model\.transfer\.num_heads is unknown"):
        check_config(Config(settings))


def test_what_a_stage_lays_over_the_model_is_none_of_an_evaluation_s(settings: Settings, tmp_path):
    lay_over(experts={"depth": {"type": "not_installed"}})(settings)
    checkpoint = tmp_path / "plain.pth"
    torch.save({"state_dict": {}, "meta": {"attached": []}}, checkpoint)
    check_config(Config(settings), checkpoint=checkpoint)


def test_an_image_size_that_patches_do_not_tile_is_told_with_the_nearest(settings: Settings):
    settings["model"]["encoder"]["image_size"] = 30
    with pytest.raises(ConfigError, match=r"image_size is 30, .* patch size 8 .* such as 32"):
        check_config(Config(settings))


def test_a_data_set_inside_a_concatenation_is_checked_too(settings: Settings):
    settings["train_dataloader"]["dataset"]["datasets"][1]["type"] = "CocoCaption"
    with pytest.raises(ConfigError, match="Did you mean 'CocoCaptions'"):
        check_config(Config(settings))


def test_top_level_settings_reach_data_sets_and_loaders_that_name_none(settings: Settings):
    settings["val_dataloader"]["batch_size"] = 7
    cfg = Config(settings)
    check_config(cfg)
    assert cfg.val_dataloader.batch_size == 7
    assert cfg.test_dataloader.batch_size == 4
    for dataset in cfg.train_dataloader.dataset.datasets:
        assert (dataset.data_root, dataset.image_size) == (settings["data_root"], 32)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (".", r"data root '.*' \(train_dataloader\) is not a folder; pass .* data_root=DIR"),
        ("unlabelled", r"image folder .*unlabelled \(unlabelled_dataloader\) is missing"),
        ("annotations/captions_test.json", r"annotation file .*captions_test\.json .* missing"),
    ],
)
def test_missing_data_is_told_before_training(
    remove: str, message: str, settings: Settings, miniature: Path, tmp_path: Path
):
    root = tmp_path / "data"
    if remove != ".":
        root.mkdir()
        for path in (miniature / "data").rglob("*"):
            inside = path.relative_to(miniature / "data")
            if path.is_dir() and str(inside) != remove:
                (root / inside).mkdir()
            elif path.suffix in (".json", ".jsonl") and str(inside) != remove:
                (root / inside).write_text(path.read_text())
    settings["data_root"] = str(root)
    cfg = Config(settings)
    check_config(cfg)
    with pytest.raises(ConfigError, match=message):
        prepare_data(cfg)


def test_the_tiny_world_is_written_once_and_only_where_it_belongs(
    settings: Settings, tmp_path: Path, miniature: Path
):
    calls = []

    def write(root: Path, **counts: int) -> None:
        calls.append((root, counts))
        (tmp_path / "scenes").symlink_to(miniature / "data")

    settings["scenes"] = {"data_root": str(tmp_path / "scenes"), "train": 3}
    settings["data_root"] = str(tmp_path / "scenes")
    for _ in range(2):
        cfg = Config(settings)
        check_config(cfg)
        prepare_data(cfg, write)
    assert calls == [(tmp_path / "scenes", {"train": 3})]

    settings["data_root"] = str(tmp_path / "own_photos")
    cfg = Config(settings)
    check_config(cfg)
    with pytest.raises(ConfigError, match="own_photos"):
        prepare_data(cfg, write)
    assert len(calls) == 1


def test_a_world_of_other_settings_is_not_taken_for_the_one_asked_for(
    settings: Settings, tmp_path: Path
):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "scenes.json").write_text('{"train": 3, "seed": 0}')
    settings["scenes"] = {"data_root": str(tmp_path), "train": 5, "seed": 0}
    settings["data_root"] = str(tmp_path)
    with pytest.raises(ConfigError, match=r"written with train=3, but scenes\.train is now 5"):
        prepare_data(Config(settings))


def test_options_override_the_file(settings: Settings, write_config: Callable[..., Path]):
    path = write_config(settings)
    cfg = load_config(str(path), ["schedule.steps=9", "stages.0.name=first"], None)
    assert cfg.schedule.steps == 9
    assert cfg.stages[0].name == "first"
    assert cfg.work_dir == "work_dirs/mini"
    assert load_config(str(path), None, "elsewhere").work_dir == "elsewhere"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("steps", "takes KEY=VALUE, but got 'steps'"),
        ("shedule.steps=3", r"'shedule' is unknown.* Did you mean 'schedule'"),
        ("images.img_dir=x", "'images' is only a variable inside the config file"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    option: str, message: str, settings: Settings, write_config: Callable[..., Path]
):
    settings["images"] = {"img_dir": "images"}
    with pytest.raises(ConfigError, match=message):
        load_config(str(write_config(settings)), [option])


def test_a_missing_config_file_is_told():
    with pytest.raises(ConfigError, match=r"no config file nowhere\.py"):
        load_config("nowhere.py")


def test_experts_that_are_detached_need_not_be_known(settings, write_config):
    settings["model"]["experts"]["depth"] = dict(type="not_installed")
    settings["model"]["detached"] = ["depth"]
    check_config(load_config(str(write_config(settings))))


def test_a_stage_on_a_slim_checkpoint_needs_what_that_has(settings, write_config, tmp_path):
    settings["model"]["experts"]["depth"] = dict(type="not_installed")
    slim = tmp_path / "slim_1.pth"
    torch.save({"state_dict": {}, "meta": {"attached": ["dino"]}}, slim)
    cfg = load_config(str(write_config(settings)))
    check_config(cfg, checkpoint=slim, only="merge")
    with pytest.raises(ExpertNotAvailable, match="not_installed"):
        check_config(cfg, checkpoint=slim, only="transfer")  # it trains the config's experts
    with pytest.raises(ExpertNotAvailable, match="not_installed"):
        check_config(cfg, only="merge")


def test_an_expert_that_a_checkpoint_had_is_asked_for_by_its_package(
    settings, write_config, tmp_path
):
    settings["model"]["experts"]["depth"] = dict(type="not_installed")
    slim = tmp_path / "slim_1.pth"
    gone = dict(name="not_installed", distribution="tove-gone", version="0.3")
    there = dict(name="tiny_dino", distribution="tove_plugins", version="0.1")
    meta = {"attached": ["depth", "dino"], "experts": {"depth": gone, "dino": there}}
    torch.save({"state_dict": {}, "meta": meta}, slim)
    cfg = load_config(str(write_config(settings)))
    with pytest.raises(ExpertNotAvailable, match=r"pip install tove-gone==0\.3$"):
        check_config(cfg, checkpoint=slim)


def test_the_command_line_may_put_a_dict_in_a_word_s_place(settings, write_config):
    settings["merging"]["model"]["student"] = "full"
    options = ["merging.model.student.type=lora", "merging.model.student.r=4"]
    cfg = load_config(str(write_config(settings)), options)
    assert cfg.merging.model.student == dict(type="lora", r=4)
    with pytest.raises(ConfigError, match=r"stages\.99\.name cannot be laid over the config"):
        load_config(str(write_config(settings)), ["stages.99.name=x"])


def test_the_world_s_settings_are_checked(settings, tmp_path):
    cfg = Config({**settings, "scenes": dict(data_root=str(tmp_path), trian=3)})
    with pytest.raises(ConfigError, match=r"scenes\.trian is unknown"):
        prepare_data(cfg)


@pytest.mark.parametrize(("mode", "asked"), [("read", True), ("read-through", False)])
def test_experts_whose_tokens_alone_are_read_are_those_of_the_folder(
    mode: str, asked: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders: list[Path] = []
    monkeypatch.setattr(preflight, "register_card", folders.append)
    settings["model"]["token_cache"] = dict(dir=str(tmp_path), mode=mode)
    with suppress(ConfigError):  # nothing is kept there
        check_config(Config(settings))
    assert folders == [tmp_path] * asked
