"""The terms of a run's experts, and what a run that must be commercial refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from tove.backbones.experts import licences
from tove.backbones.experts.licences import Terms, check_licences, compose, expert_terms
from tove.backbones.experts.registration import expert_spec
from tove.engine.pipeline import StagedRunner
from tove.engine.planning import run_experts
from tove.engine.rows import make_console
from tove.errors import ConfigError
from tove_plugins import ExpertSpecError, Weights, find_weights

Settings = dict[str, Any]
FREE = Terms("dino", "tiny_dino", "Apache-2.0", True)
NON_COMMERCIAL = Terms("depth", "depth_anything_v2_large", "CC-BY-NC-4.0", False)
OWN = Terms("detection", "detr", "not known: your own file", None)


@pytest.fixture
def licensed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give an installed expert other weights in its spec."""

    def licence(name: str, **weights: Any) -> None:
        def look(cfg: Settings) -> Any:
            entry = expert_spec(cfg)
            if entry.spec.name != name:
                return entry
            changed = replace(entry.spec.weights, **weights)
            return replace(entry, spec=replace(entry.spec, weights=changed))

        monkeypatch.setattr(licences, "expert_spec", look)

    return licence


@pytest.fixture
def real(settings: Settings) -> Settings:
    """The miniature run with the shipped weights."""
    for expert in settings["model"]["experts"].values():
        del expert["tiny"]
    return settings


def test_the_strictest_licence_holds_and_names_its_expert():
    assert compose([FREE]) == "hub: Apache-2.0 → commercial use allowed"
    assert compose([FREE, NON_COMMERCIAL, OWN]) == (
        "hub: Apache-2.0, CC-BY-NC-4.0, not known: your own file → non-commercial because of "
        "depth (depth_anything_v2_large)"
    )
    assert compose([FREE, OWN]).endswith("commercial use not known because of detection (detr)")
    assert compose([]) == "hub: no expert runs"


def test_an_expert_has_its_spec_s_terms():
    terms = expert_terms("depth", {"type": "tiny_depth"})
    assert (terms.licence, terms.commercial_use) == ("Apache-2.0", True)
    assert "tiny world" in terms.trained_on


def test_random_weights_have_no_licence_to_break():
    terms = expert_terms("depth", {"type": "tiny_depth", "tiny": True})
    assert terms.commercial_use is True
    assert terms.licence == "none: random weights"


def test_weights_of_one_s_own_are_not_known_unless_they_are_the_spec_s(tmp_path: Path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"mine")
    terms = expert_terms("depth", {"type": "tiny_depth", "weights": str(own)})
    assert (terms.licence, terms.commercial_use) == ("not known: your own file", None)
    spec = expert_spec({"type": "tiny_depth"}).spec
    assert isinstance(spec.weights, Weights)
    shutil.copy(find_weights(spec.weights.source), own)
    for same in (own, spec.weights.source):
        terms = expert_terms("depth", {"type": "tiny_depth", "weights": str(same)})
        assert (terms.licence, terms.commercial_use) == ("Apache-2.0", True)


@pytest.mark.parametrize(
    ("source", "own", "same"),
    [
        ("hub:org/name", "hub:org/name@v2", True),
        ("hub:org/name/net.pth", "hub:org/name@v2/net.pth", True),
        ("hub:org/name@v1", "hub:org/name@v2", False),
        ("hub:org/name/net.pth", "hub:org/name@v2/other.pth", False),
        ("hub:org/name", "hub:org/other@v2", False),
    ],
)
def test_a_revision_that_the_config_pins_has_the_repository_s_terms(
    licensed: Callable, source: str, own: str, same: bool
):
    licensed("tiny_depth", source=source, sha256=None)
    terms = expert_terms("depth", {"type": "tiny_depth", "weights": own})
    assert terms.commercial_use is (True if same else None)


def test_a_resolved_spec_s_folder_does_not_hide_whose_weights_they_are(
    monkeypatch: pytest.MonkeyPatch,
):
    def resolved(cfg: Settings) -> Any:
        entry = expert_spec({"type": cfg["type"]})
        source = "/cache/snapshots/v2" if "weights" in cfg else "hub:org/name"
        weights = Weights(source, licence="MIT", commercial_use="weights" not in cfg)
        return replace(entry, spec=replace(entry.spec, weights=weights))

    monkeypatch.setattr(licences, "expert_spec", resolved)
    terms = expert_terms("depth", {"type": "tiny_depth", "weights": "hub:org/name@v2"})
    assert (terms.licence, terms.commercial_use) == ("MIT", True)
    terms = expert_terms("depth", {"type": "tiny_depth", "weights": "hub:org/another"})
    assert terms.commercial_use is None


def test_stated_terms_hold():
    cfg = {"type": "tiny_depth", "weights": "/own.safetensors", "licence": "MIT"}
    assert expert_terms("depth", cfg) == Terms("depth", "tiny_depth", "MIT", None, "not known")
    cfg["licence"] = {"name": "MIT", "commercial_use": True, "trained_on": "photographs"}
    assert expert_terms("depth", cfg) == Terms("depth", "tiny_depth", "MIT", True, "photographs")


@pytest.mark.parametrize(
    ("licence", "message"),
    [
        (3, r"model\.experts\.depth\.licence is 3"),
        ({"name": "MIT", "comercial_use": True}, "Did you mean 'commercial_use'"),
        ({"name": "MIT", "commercial_use": "perhaps"}, "give True or False"),
        ({"name": "MIT", "commercial_use": 1}, "commercial_use is 1; give True or False"),
        ({"name": "MIT", "trained_on": 3}, r"licence\.trained_on is 3; name the data"),
    ],
)
def test_terms_that_cannot_be_read_are_told(licence: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        expert_terms("depth", {"type": "tiny_depth", "licence": licence})


def test_a_commercial_run_refuses_what_is_not_and_names_it(real: Settings, licensed: Callable):
    cfg = Config({**real, "hub": {"allow_noncommercial": False}})
    assert len(check_licences(cfg, run_experts(cfg))) == 2
    licensed("tiny_dino", licence="CC-BY-NC-4.0", commercial_use=False)
    message = r"model\.experts\.dino is expert 'tiny_dino'.*CC-BY-NC-4\.0.*does not allow"
    with pytest.raises(ConfigError, match=message):
        check_licences(cfg, run_experts(cfg))
    cfg.hub.allow_noncommercial = True
    terms = check_licences(cfg, run_experts(cfg))
    assert compose(terms).endswith("non-commercial because of dino (tiny_dino)")


def test_no_word_passes_for_a_licence_that_allows_commercial_use():
    """A plugin that writes "no" would have been taken for one that says yes."""
    spec = expert_spec({"type": "tiny_dino"}).spec
    with pytest.raises(ExpertSpecError, match="commercial_use is 'no'; give True or False"):
        replace(spec.weights, commercial_use="no")


def test_a_commercial_run_asks_for_what_is_not_known(real: Settings, licensed: Callable):
    licensed("tiny_depth", licence="unknown", commercial_use=False)
    cfg = Config({**real, "hub": {"allow_noncommercial": False}})
    with pytest.raises(ConfigError, match=r"not known whether .* model\.experts\.depth\.licence="):
        check_licences(cfg, run_experts(cfg))
    cfg.model.experts.depth.licence = {"name": "bought", "commercial_use": True}
    assert check_licences(cfg, run_experts(cfg))[0].licence == "bought"


@pytest.mark.parametrize("over", [False, True])
def test_a_commercial_run_refuses_an_encoder_that_such_an_expert_has_taught(
    over: bool, real: Settings, tmp_path: Path
):
    told = dict(slot="d", expert="nc_depth", licence="CC-BY-NC-4.0", commercial_use=False)
    (tmp_path / "export.json").write_text(json.dumps({"teachers": [told]}))
    encoder = {**real["model"]["encoder"], "pretrained": str(tmp_path)}
    cfg = Config({**real, "hub": {"allow_noncommercial": False}, "work_dir": str(tmp_path)})
    if over:
        cfg.stages = [dict(type="TrainStage", name="a", model=dict(encoder=encoder))]
    else:
        cfg.model.encoder = encoder
    message = rf"The encoder {tmp_path} has learned from expert 'nc_depth'.*CC-BY-NC-4\.0.*does not"
    with pytest.raises(ConfigError, match=message):
        StagedRunner(cfg)
    cfg.hub.allow_noncommercial = True
    StagedRunner(cfg)


@pytest.mark.parametrize(
    ("hub", "message"),
    [
        ({"allow_noncomercial": False}, "Did you mean 'allow_noncommercial'"),
        ({"allow_noncommercial": "no"}, "give True or False"),
    ],
)
def test_a_policy_that_cannot_be_read_is_told(hub: Settings, message: str, settings: Settings):
    with pytest.raises(ConfigError, match=message):
        check_licences(Config({**settings, "hub": hub}), [])


def slots(settings: Settings, only: str | None = None) -> list[str]:
    return [slot for slot, _ in run_experts(Config(settings), only)]


def test_only_experts_that_run_count(settings: Settings):
    assert slots(settings) == ["depth", "dino"]
    assert slots(settings, only="baseline") == []
    assert slots(settings, only="merge") == ["depth", "dino"]
    settings["model"]["detached"] = ["dino"]
    assert slots(settings) == ["depth"]
    settings["stages"] = settings["stages"][:2]  # plain CLIP and the baseline
    assert slots(settings) == []


def test_a_stage_s_own_expert_counts_beside_the_config_s(settings: Settings):
    own = {"experts": {"depth": {"type": "tiny_segmentation"}}}
    settings["stages"].append({"type": "TrainStage", "name": "other", "model": own})
    found = [(slot, cfg["type"]) for slot, cfg in run_experts(Config(settings))]
    assert found == [
        ("depth", "tiny_depth"),
        ("dino", "tiny_dino"),
        ("depth", "tiny_segmentation"),
    ]


def test_the_table_shows_terms_and_what_follows():
    console = make_console()
    with console.capture() as capture:
        console.print(licences.licence_table([FREE, NON_COMMERCIAL, OWN]))
    text = " ".join(capture.get().split())
    for part in ("depth_anything_v2_large", "CC-BY-NC-4.0", "no", "not known", "non-commercial"):
        assert part in text
