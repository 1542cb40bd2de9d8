"""Specs are checked when they are made, with a sentence for the author."""

import copy
import dataclasses
import pickle

import pytest

from tove_plugins import ExpertSpec, ExpertSpecError, ImageSpec, TokenSpec, Weights

TOKENS = TokenSpec(8, (2, 3))
IMAGE = ImageSpec((16, 24), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def make(**changes: object) -> ExpertSpec:
    fields = dict(name="x", task="depth", factory="a.b:C", tokens=TOKENS, image=IMAGE) | changes
    return ExpertSpec(**fields)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Has-Dash"}, ["ExpertSpec.name", "lower case"]),
        ({"name": 3}, ["ExpertSpec.name"]),
        ({"task": " "}, ["ExpertSpec.task", "'x'"]),
        ({"factory": "a.b.C"}, ["ExpertSpec.factory", "package.module:Class"]),
        ({"tokens": (8, 8)}, ["ExpertSpec.tokens", "TokenSpec"]),
        ({"image": None}, ["ExpertSpec.image", "ImageSpec"]),
        ({"weights": "hub:a/b"}, ["ExpertSpec.weights", "Weights(...)"]),
        ({"requires": "timm"}, ["ExpertSpec.requires", "tuple"]),
        ({"options": [1]}, ["ExpertSpec.options", "mapping"]),
        ({"options": {"weights": 1}}, ["ExpertSpec.options", "weights"]),
        ({"api": 0}, ["ExpertSpec.api"]),
    ],
)
def test_a_wrong_field_is_named_with_what_it_should_be(
    changes: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ExpertSpecError) as caught:
        make(**changes)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "build",
    [
        lambda: TokenSpec(0, (2, 2)),
        lambda: TokenSpec(8, (2, 0)),
        lambda: TokenSpec(8, 4),
        lambda: TokenSpec(8, (2, 2), "tokens"),
        lambda: ImageSpec((0, 4), (0, 0, 0), (1, 1, 1)),
        lambda: ImageSpec((4, 4), (0, 0), (1, 1, 1)),
        lambda: ImageSpec((4, 4), (0, 0, 0), (1, 0, 1)),
        lambda: ImageSpec((4, 4), (0, 0, 0), (1, 1, 1), value_range=(1, 0)),
        lambda: ImageSpec((4, 4), (0, 0, 0), (1, 1, 1), interpolation="cubic"),
        lambda: Weights(""),
        lambda: Weights("hub:a/b", sha256="ABC"),
    ],
)
def test_parts_refuse_nonsense(build: object) -> None:
    with pytest.raises(ExpertSpecError):
        build()


def test_specs_are_frozen_and_survive_copies() -> None:
    given = {"depth": 2}
    spec = make(options=given, weights=Weights("hub:a/b"))
    given["depth"] = 9
    assert spec.options["depth"] == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "y"
    assert copy.deepcopy(spec) == pickle.loads(pickle.dumps(spec)) == spec
    assert isinstance(hash(spec), int)
    assert spec.tokens.num_tokens == 6


def test_a_newer_contract_may_hold_what_this_one_forbids() -> None:
    assert make(api=2, factory="something:new in API 2").api == 2
