"""A config's text: mmengine's, formatted once."""

import copy

import pytest
from mmengine.config import Config
from yapf.yapflib import yapf_api

from tove.config.text import FormattedOnce, text_of

SETTINGS = dict(model=dict(type="ToVE", experts=dict(depth="tiny_depth")), stages=[dict(a=1)] * 3)


@pytest.fixture
def formattings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was formatted."""
    asked: list[str] = []
    real = yapf_api.FormatCode
    told = lambda text, **kept: asked.append(text) or real(text, **kept)  # noqa: E731
    monkeypatch.setattr(yapf_api, "FormatCode", told)
    monkeypatch.setattr("tove.config.text._formatted", {})
    return asked


def test_it_is_the_text_of_mmengine(formattings: list[str]):
    assert text_of(Config(SETTINGS)) == Config(SETTINGS).pretty_text
    assert FormattedOnce(SETTINGS).pretty_text == Config(SETTINGS).pretty_text


def test_the_same_config_is_formatted_once(formattings: list[str]):
    cfg = FormattedOnce(SETTINGS)
    texts = {text_of(Config(SETTINGS)), cfg.pretty_text, copy.deepcopy(cfg).pretty_text}
    assert len(texts) == len(formattings) == 1


def test_a_change_is_in_the_text(formattings: list[str]):
    cfg = FormattedOnce(copy.deepcopy(SETTINGS))
    before = cfg.pretty_text
    cfg.model.experts.depth = "other"
    assert cfg.pretty_text == before.replace("tiny_depth", "other")
    assert len(formattings) == 2


def test_few_are_kept(formattings: list[str]):
    for number in range(20):
        text_of(Config(dict(a=number)))
    assert text_of(Config(dict(a=19))) == "a = 19\n"
    assert len(formattings) == 20
    text_of(Config(dict(a=0)))
    assert len(formattings) == 21
