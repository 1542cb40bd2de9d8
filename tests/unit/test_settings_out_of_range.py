"""A number or word that no training can use is told from its annotation, before building."""

import math

import pytest

from tove.backbones.language.causal_lm import CausalLanguageModel
from tove.backbones.language.chat import ChatLanguageModel
from tove.config.validation import check_model
from tove.errors import ConfigError
from tove.methods.baselines.uniform_average import UniformAverage
from tove.methods.move_kd.model import MoVEKD
from tove.methods.move_kd.presets import read_switches
from tove.methods.tove.merging import Merge
from tove.methods.tove.model import ToVE

SHARE = "a number (0 or more and below 1)"
PARTS = dict(encoder={}, experts={}, language={})
WRONG = [
    (ToVE, PARTS, "expert_dropout", 1, SHARE),
    (ToVE, PARTS, "expert_dropout", 1.5, SHARE),
    (ToVE, PARTS, "expert_dropout", -0.5, SHARE),
    (ToVE, PARTS, "expert_dropout", math.nan, SHARE),
    (ToVE, PARTS, "balance_weight", -0.01, "a number (0 or more)"),
    (ToVE, PARTS, "balance_weight", math.inf, "a number (0 or more)"),
    (ToVE, PARTS, "gate.top_k", 0, "a whole number (1 or more) or None"),
    (ToVE, PARTS, "gate.temperature", 0, "a number (above 0)"),
    (ToVE, PARTS, "gate.noise", -1, "a number (0 or more)"),
    (ToVE, PARTS, "transfer.scale", "learnt", "one of 'learned' or a number"),
    (ToVE, PARTS, "transfer.hidden", 0, "a whole number (1 or more) or None"),
    (ToVE, PARTS, "projector.hidden", 0, "a whole number (1 or more)"),
    (ToVE, PARTS, "merging.weight", -1, "a number (0 or more)"),
    (UniformAverage, PARTS, "expert_dropout", 1.0, SHARE),
    (Merge, {}, "loss", "mae", "one of 'mse', 'cosine', 'smooth_l1', 'readout', 'fisher'"),
    (Merge, {}, "keep", -1.0, "a number (0 or more)"),
    (Merge, {}, "lm_weight", -1.0, "a number (0 or more)"),
    (MoVEKD, PARTS, "mole.num_experts", 0, "a whole number (1 or more)"),
    (MoVEKD, PARTS, "mole.rank", 0, "a whole number (1 or more)"),
    (MoVEKD, PARTS, "mole.dropout", 1.0, SHARE),
    (CausalLanguageModel, {"pretrained": "p"}, "fusion", "cross", "'cross_attention', 'prefix'"),
    (CausalLanguageModel, {"pretrained": "p"}, "loss_mean", "batch", "'tokens', 'samples'"),
    (CausalLanguageModel, {"pretrained": "p"}, "label_smoothing", 1.0, SHARE),
    (CausalLanguageModel, {"pretrained": "p"}, "rank_shortlist", 0, "a whole number (1 or more)"),
    (CausalLanguageModel, {"pretrained": "p"}, "max_text_tokens", 1, "a whole number (2 or more)"),
    (ChatLanguageModel, {"pretrained": "p"}, "tuning", "half", "'full', 'lora', 'frozen'"),
    (ChatLanguageModel, {"pretrained": "p"}, "loss_mean", "median", "'tokens', 'samples'"),
]


@pytest.mark.parametrize(("kind", "needed", "key", "value", "instead"), WRONG)
def test_it_is_told(kind: type, needed: dict, key: str, value: object, instead: str):
    section, _, name = key.rpartition(".")
    own = {section: {name: value}} if section else {name: value}
    with pytest.raises(ConfigError) as caught:
        check_model(kind, {**needed, **own}, "model")
    assert f"model.{key} is {value!r}, but it must be " in str(caught.value)
    assert instead in str(caught.value)


@pytest.mark.parametrize("switch", ["clip_share", "teacher_dropping"])
def test_switches_of_move_kd(switch: str):
    with pytest.raises(ConfigError, match=rf"{switch} is 1\.5, but it must be a number"):
        read_switches("paper", {switch: 1.5})
