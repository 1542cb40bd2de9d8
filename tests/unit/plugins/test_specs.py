"""Specs are checked when they are made, with a sentence for the author."""

import copy
import dataclasses
import json
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
        ({"options": {"a-b": 1}}, ["ExpertSpec.options", "'a-b'", "parameter"]),
        ({"tiny": {(0, 1): 2}}, ["ExpertSpec.tiny", "(0, 1)", "parameter"]),
        ({"api": 0}, ["ExpertSpec.api"]),
        ({"api": "1"}, ["ExpertSpec.api"]),
        ({"task": 3}, ["ExpertSpec.task"]),
        ({"description": None}, ["ExpertSpec.description", "'x'", "a string"]),
        ({"resolve": None}, ["ExpertSpec.resolve"]),
        ({"requires": ("timm", 3)}, ["ExpertSpec.requires", "strings"]),
        ({"requires": ("not a req!!",)}, ["ExpertSpec.requires", "'not a req!!'", "pip can read"]),
        ({"requires": ("timm>=1.0>2",)}, ["ExpertSpec.requires", "pip can read"]),
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
        lambda: Weights("hub:a/b", sha256=5),
    ],
)
def test_parts_refuse_nonsense(build: object) -> None:
    with pytest.raises(ExpertSpecError):
        build()


INFINITE, NO_NUMBER = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (TOKENS, "width", True),
        (TOKENS, "kind", ["map"]),
        (IMAGE, "mean", (NO_NUMBER,) * 3),
        (IMAGE, "mean", (True,) * 3),
        (IMAGE, "mean", ("0.5",) * 3),
        (IMAGE, "mean", (10**400,) * 3),
        (IMAGE, "std", (INFINITE,) * 3),
        (IMAGE, "std", (NO_NUMBER,) * 3),
        (IMAGE, "value_range", ("a", "b")),
        (IMAGE, "value_range", (0, "b")),
        (IMAGE, "value_range", (None, 1)),
        (IMAGE, "value_range", (0, INFINITE)),
        (IMAGE, "value_range", (False, True)),
        (IMAGE, "interpolation", ["bicubic"]),
        (Weights("p"), "size_mb", "big"),
        (Weights("p"), "size_mb", -3),
        (Weights("p"), "size_mb", True),
        (Weights("p"), "size_mb", None),
        (Weights("p"), "licence", None),
        (Weights("p"), "trained_on", 3),
        (Weights("p"), "commercial_use", "no"),
        (Weights("p"), "commercial_use", 1),
        (Weights("p"), "commercial_use", None),
    ],
)
def test_a_value_of_another_type_is_named(part: object, field: str, value: object) -> None:
    with pytest.raises(ExpertSpecError, match=f"{type(part).__name__}.{field} is ") as caught:
        dataclasses.replace(part, **{field: value})
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "requirement",
    [
        "timm",
        "onedl-mmcv>=2.3",
        "open_clip_torch>=3.0,<4",
        "timm[extra]>=1",
        "transformers ~= 4.56",
        "acme @ https://acme.example/acme-1.0.whl",
        "scipy>=1.9rc1; python_version >= '3.11'",
    ],
)
def test_what_pip_reads_is_a_requirement(requirement: str) -> None:
    assert make(requires=(requirement,)).requires == (requirement,)


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


CONFIG = {"config": {"depths": [2, 2], "sizes": ([7], 3), "norm": {"eps": 1e-6}}}
CHANGES = {
    "key": lambda options: options.__setitem__("c", 1),
    "update": lambda options: options.update(c=1),
    "removal": lambda options: options.pop("config"),
    "nested": lambda options: options["config"]["norm"].__setitem__("eps", 1.0),
    "list": lambda options: options["config"]["depths"].append(2),
    "list_in_tuple": lambda options: options["config"]["sizes"][0].sort(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("part", ["options", "tiny"])
def test_nobody_changes_the_options_of_a_spec(part: str, change: str) -> None:
    given = copy.deepcopy(CONFIG)
    spec = make(**{part: given})
    for own in (spec, copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        with pytest.raises(TypeError, match=r"dataclasses\.replace"):
            CHANGES[change](getattr(own, part))
        assert getattr(own, part) == CONFIG
    CHANGES[change](given)  # what the plugin keeps is its own
    assert getattr(spec, part) == CONFIG


def test_options_are_dicts_and_lists_to_all_that_read_them() -> None:
    spec = make(options=CONFIG)
    assert json.loads(json.dumps(spec.options))["config"]["depths"] == [2, 2]
    assert dataclasses.replace(spec, task="edges").options == CONFIG
    assert dataclasses.replace(spec, options={**spec.options, "c": 1}).options["c"] == 1
    told = spec.as_dict()
    told["options"]["config"]["depths"].append(3)
    assert spec.options == CONFIG
    assert told["tokens"] == {"width": 8, "grid": (2, 3), "kind": "features", "mirrors": False}
    assert told["name"] == "x"


def test_a_newer_contract_may_hold_what_this_one_forbids() -> None:
    assert make(api=2, factory="something:new in API 2").api == 2
