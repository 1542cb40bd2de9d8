"""The readings: presets hold the switches, contradictions are sentences."""

import re
from pathlib import Path

import pytest

from tove.errors import ConfigError
from tove.methods.move_kd.presets import PRESETS, Switches, read_switches


def test_paper_is_the_default():
    assert PRESETS["paper"] == Switches() == read_switches()


def test_released_is_what_the_public_code_does():
    moved = {
        name: value
        for name, value in PRESETS["released"].options().items()
        if value != getattr(PRESETS["paper"], name)
    }
    assert moved == {
        "token_weight": "released",
        "teacher_weight": "released",
        "mole_layers": "all",
        "sam_layout": "released",
        "text_only": "distilled",
        "geometry": "released",
    }


def test_fixed_mends_every_fault():
    fixed = PRESETS["fixed"]
    assert fixed.token_weight == fixed.teacher_weight == "paper"
    assert fixed.router_gradient != "none"
    assert (fixed.init, fixed.mole_layers, fixed.sam_layout) == ("zero", "used", "correct")
    assert fixed.text_only == fixed.padding == "masked"
    assert (fixed.geometry, fixed.any_resolution, fixed.adapter) == ("shared", "views", "resample")


def test_switches_move_a_preset():
    moved = read_switches("released", {"token_weight": "paper", "clip_share": 0.5})
    assert (moved.token_weight, moved.clip_share, moved.mole_layers) == ("paper", 0.5, "all")


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        ("papre", {}, "'papre'. Did you mean 'paper'"),
        ("paper", {"token_weigth": "paper"}, "token_weigth is unknown.*'token_weight'"),
        ("paper", {"token_weight": "twice"}, "must be one of 'paper', 'as_is'"),
        ("paper", {"kd_weight": "much"}, "kd_weight is 'much', but it must be a number"),
        ("paper", {"clip_share": 1.5}, "clip_share is 1.5"),
        ("paper", {"adapter": "student_head"}, "teacher_weight='uniform'"),
        ("paper", {"any_resolution": "views"}, "adapter='resample'"),
    ],
)
def test_what_cannot_be_is_a_sentence(preset, changes, words):
    with pytest.raises(ConfigError, match=words):
        read_switches(preset, changes)


def test_student_heads_take_uniform_teachers():
    moved = read_switches("fixed", {"adapter": "student_head", "teacher_weight": "uniform"})
    assert moved.adapter == "student_head"


def test_the_pages_table_is_the_code():
    page = (Path(__file__).resolve().parents[4] / "docs/move-kd.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \| `(.+?)` \|", page, re.M)
    assert [name for name, *_ in rows] == [*Switches().options()]
    for name, *values in rows:
        presets = (PRESETS[preset] for preset in ("paper", "released", "fixed"))
        assert values == [str(getattr(preset, name)) for preset in presets], name
