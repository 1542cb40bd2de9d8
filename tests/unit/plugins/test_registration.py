"""EXPERTS: discovered experts as lazy factories, research code beside them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from tove.backbones.experts.provenance import expert_provenance
from tove.backbones.experts.registration import expert_spec, register_experts
from tove.registry import EXPERTS
from tove_plugins import (
    ExpertNotAvailable,
    ExpertSpec,
    ExpertSpecError,
    ImageSpec,
    TokenSpec,
    discover,
)

SPEC = ExpertSpec(
    "mine", "test", "nowhere:Mine", TokenSpec(4, (2, 2)), ImageSpec((8, 8), (0,) * 3, (1,) * 3)
)


class Mine(nn.Module):
    spec = SPEC

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(EXPERTS.module_dict)
    yield
    EXPERTS.module_dict.clear()
    EXPERTS.module_dict.update(before)


@pytest.mark.parametrize("kind", ["tiny_depth", "tove.tiny_depth"])
def test_a_config_builds_an_expert(kind: str) -> None:
    expert = EXPERTS.build({"type": kind, "tiny": True, "depth": 1})
    assert expert(torch.zeros(2, 3, 64, 64)).shape == (2, 64, 64)


def test_another_default_scope_does_not_matter() -> None:
    with DefaultScope.overwrite_default_scope("mmengine"):
        assert isinstance(EXPERTS.build({"type": "tiny_dino", "tiny": True}), nn.Module)


def test_widths_and_grids_come_without_building(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tove_experts.tiny", raising=False)
    entry = expert_spec({"type": "tiny_depth", "device": "cpu"})
    assert (entry.spec.tokens.width, entry.spec.tokens.grid) == (64, (8, 8))
    assert entry == discover().get("tiny_depth")
    assert "tove_experts.tiny" not in sys.modules


@pytest.mark.parametrize("function", [EXPERTS.build, expert_spec])
@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"type": "tiny_dpeth"}, "Did you mean 'tiny_depth'"),
        ({"type": "tove.tiny_dpeth"}, "Did you mean 'tiny_depth'"),
        ({"type": "elsewhere.Model"}, "None of the .* comes close"),
        ({"tpye": "tiny_depth"}, "add type='NAME'"),
    ],
)
def test_an_unknown_type_is_one_clear_sentence(
    function: object, cfg: dict[str, str], words: str
) -> None:
    with pytest.raises(ExpertNotAvailable, match=words):
        function(cfg)


def test_research_code_needs_no_plugin(registered: None) -> None:
    EXPERTS.register_module(name="mine", module=Mine)
    cfg = {"type": "mine", "scale": 3.0}
    assert EXPERTS.build(cfg).scale == 3.0
    assert cfg == {"type": "mine", "scale": 3.0}
    entry = expert_spec(cfg)
    assert entry.spec is SPEC
    assert entry.distribution == "research code"
    with pytest.raises(ExpertNotAvailable, match="Did you mean 'mine'"):
        expert_spec({"type": "mien"})


def test_research_code_without_a_spec_is_told(registered: None) -> None:
    EXPERTS.register_module(name="bare", module=nn.Identity)
    with pytest.raises(ExpertSpecError, match="attribute `spec = ExpertSpec"):
        expert_spec({"type": "bare"})


def test_research_code_under_a_plugins_name_is_a_conflict(registered: None) -> None:
    EXPERTS.register_module(name="tiny_depth", module=Mine, force=True)
    register_experts()
    with pytest.raises(ExpertNotAvailable, match=r"plugin 'builtin'.*another name"):
        EXPERTS.build({"type": "tiny_depth"})


def test_provenance_follows_the_weights_that_are_used(tmp_path: Path) -> None:
    card = expert_provenance({"type": "tiny_depth"})
    assert card["name"] == "tiny_depth"
    assert card["distribution"] == "tove_plugins"
    assert expert_provenance({"type": "tiny_depth", "tiny": True})["sha256"] is None
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"own")
    digest = expert_provenance({"type": "tiny_depth", "weights": str(own)})["sha256"]
    assert digest is not None
    assert digest != card["sha256"]


def test_provenance_keeps_the_options_that_change_tokens_and_not_where_it_runs() -> None:
    cfg = {"type": "tiny_depth", "tiny": True, "depth": 2, "device": "cpu", "dtype": "bfloat16"}
    stated = {"licence": {"name": "MIT", "commercial_use": True}}
    assert expert_provenance(cfg | stated)["options"] == {"tiny": True, "depth": 2}
