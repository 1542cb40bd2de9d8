"""A config's arguments are held against what takes them, and against nothing more."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import pytest
from torch import nn

from tove import registry
from tove.config.validation import Range, check_arguments, check_stage_names, hints_of, look_up
from tove.errors import ConfigError


class Backbone(nn.Module):
    def __init__(self, name: str, **options: object) -> None:
        """Options are those of a library's own factory."""
        super().__init__()


class Base:
    def __init__(self, width: int = 3) -> None:
        self.width = width


class Child(Base):
    def __init__(self, depth: int, **options: int) -> None:
        super().__init__(**options)


class Narrow(Base):
    def __init__(self, width: Annotated[int, Range(3)] = 3, **options: int) -> None:
        super().__init__(width, **options)


class Handed(Base):
    def __init__(self, *args: int, **options: int) -> None:
        super().__init__(*args, **options)


class Bare(nn.Module):
    pass


def test_options_that_no_base_takes_may_be_any():
    check_arguments(Backbone, {"type": "Backbone", "name": "vit", "img_size": 336}, "model.encoder")
    with pytest.raises(ConfigError, match="lacks 'name'"):
        check_arguments(Backbone, {"img_size": 336}, "model.encoder")


def test_options_that_a_base_takes_are_its_arguments():
    check_arguments(Child, {"depth": 1, "width": 2}, "model")
    with pytest.raises(ConfigError, match=r"model\.widht is unknown. Did you mean 'width'"):
        check_arguments(Child, {"depth": 1, "widht": 2}, "model")
    check_arguments(Handed, {"width": 2}, "model")
    with pytest.raises(ConfigError, match=r"model\.args is unknown"):
        check_arguments(Handed, {"args": 2}, "model")


@pytest.mark.parametrize("target", [Base, Child])
def test_what_options_hand_on_is_held_to_the_bases_annotations(target):
    settings = {"depth": 1} if target is Child else {}
    with pytest.raises(ConfigError, match=r"model\.width is 'x', but it must be a whole number"):
        check_arguments(target, {**settings, "width": "x"}, "model")


def test_a_class_annotation_comes_before_its_bases():
    check_arguments(Base, {"width": 2}, "model")
    with pytest.raises(ConfigError, match=r"a whole number \(3 or more\)"):
        check_arguments(Narrow, {"width": 2}, "model")


@pytest.mark.parametrize(
    "name", ["../x", "", "/abs", "./a", "..", ".a", "a/b", "a b", "x\n", None, 7]
)
def test_a_stage_is_named_as_a_folder_of_its_own_can_be(name):
    with pytest.raises(ConfigError, match="also that of its folder"):
        check_stage_names(["transfer", name])


def test_stages_have_names_of_their_own():
    check_stage_names(["transfer", "transfer_2", "2.b-c+d", "\u00e9tape"])
    with pytest.raises(ConfigError, match="a name of its own"):
        check_stage_names(["transfer", "Transfer"])
    with pytest.raises(ConfigError, match="is empty"):
        check_stage_names([])


def test_a_class_without_arguments_takes_none():
    with pytest.raises(ConfigError, match=r"model\.depth is unknown"):
        check_arguments(Bare, {"depth": 1}, "model")


class Switches:
    def __init__(
        self,
        width: int,
        scale: Literal["learned"] | float = "learned",
        hidden: int | None = None,
        zero_init: bool = True,
        weights: dict | nn.Module | None = None,
        sides: tuple[int, int] = (1, 1),
        names: Sequence[str] | None = None,
        rate: Annotated[float, Range(0, 1, below=True)] = 0.0,
        times: Annotated[int, Range(1)] | None = None,
        wide: Annotated[float, Range(0, above=True)] = 1.0,
        by_name: Mapping[str, dict] | None = None,
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        (dict(width="abc"), "a whole number"),
        (dict(width=0.5), "a whole number"),
        (dict(width=True), "a whole number"),
        (dict(scale="big"), "one of 'learned' or a number"),
        (dict(scale=None), "one of 'learned' or a number"),
        (dict(scale=float("nan")), "one of 'learned' or a number"),
        (dict(scale=float("-inf")), "one of 'learned' or a number"),
        (dict(wide=float("inf")), "a number (above 0)"),
        (dict(scale=True), "one of 'learned' or a number"),
        (dict(hidden=[3]), "a whole number or None"),
        (dict(zero_init=1), "True or False"),
        (dict(sides=[1]), "a list of 2: a whole number, a whole number"),
        (dict(sides=[1, 2.5]), "a list of 2: a whole number, a whole number"),
        (dict(names="abc"), "a list, each entry a text or None"),
        (dict(names=["a", 3]), "a list, each entry a text or None"),
        (dict(rate=1), "a number (0 or more and below 1)"),
        (dict(rate=-0.1), "a number (0 or more and below 1)"),
        (dict(rate=float("nan")), "a number (0 or more and below 1)"),
        (dict(times=0), "a whole number (1 or more) or None"),
        (dict(times=True), "a whole number (1 or more) or None"),
        (dict(wide=0), "a number (above 0)"),
        (dict(weights=3), "a dict or a module or None"),
        (dict(by_name=[3]), "a dict, each entry a dict or None"),
        (dict(by_name={"a": 3}), "a dict, each entry a dict or None"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told(setting: dict, instead: str):
    (key,) = setting
    with pytest.raises(
        ConfigError, match=rf"model\.{key} is .*, but it must be {re.escape(instead)}\."
    ):
        check_arguments(Switches, {"width": 3, **setting}, "model")


def test_values_of_the_right_kind_pass():
    for setting in (
        dict(scale=1),
        dict(scale="learned", hidden=None),
        dict(weights=nn.Identity(), sides=[1, 2]),
        dict(names=["a"], rate=0, times=1, wide=1e300),
        dict(names=(), rate=0.99, times=None, wide=1e-9),
    ):
        check_arguments(Switches, {"width": 3, **setting}, "model")


def test_a_module_of_a_type_s_name_is_no_type():
    with pytest.raises(ConfigError, match=r"model\.type is 'timm', which is unknown"):
        look_up(registry.MODELS, "timm", "model")


def test_an_annotation_that_does_not_resolve_leaves_the_others():
    def build(net: "NotImported", steps: "Annotated[int, Range(1)]" = 1) -> "Module": ...  # noqa: F821

    assert hints_of(build) == {"steps": Annotated[int, Range(1)]}
    with pytest.raises(ConfigError, match=r"it\.steps is 0"):
        check_arguments(build, {"net": 3, "steps": 0}, "it")
