"""A config's arguments are held against what takes them, and against nothing more."""

from typing import Literal

import pytest
from torch import nn

from tove.config.validation import check_arguments
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
    ) -> None:
        pass


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        (dict(width="abc"), "a whole number"),
        (dict(width=0.5), "a whole number"),
        (dict(width=True), "a whole number"),
        (dict(scale="big"), "one of 'learned'"),
        (dict(scale=None), "a number or 'learned'"),
        (dict(hidden=[3]), "a whole number or None"),
        (dict(zero_init=1), "True or False"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told(setting: dict, instead: str):
    (key,) = setting
    with pytest.raises(ConfigError, match=rf"model\.{key} is .*, but it must be {instead}\."):
        check_arguments(Switches, {"width": 3, **setting}, "model")


def test_values_of_the_right_kind_pass():
    for setting in (
        dict(scale=1),
        dict(scale="learned", hidden=None),
        dict(weights=3, sides=[1, 2]),  # annotations that hold others are not looked into
    ):
        check_arguments(Switches, {"width": 3, **setting}, "model")
