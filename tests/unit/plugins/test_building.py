"""Building checks requirements, weights and options first, and says what to do about each."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tove_plugins import (
    ExpertBuildError,
    ExpertNotAvailable,
    ExpertSpec,
    ImageSpec,
    TokenSpec,
    Weights,
    build_expert,
    build_from_spec,
)


class Recorder(nn.Module):
    def __init__(self, spec: ExpertSpec, weights: Path | None, width: int = 1, mode: str = "a"):
        super().__init__()
        self.arguments = (spec.name, weights, width, mode)


class SpecKeeper(nn.Module):
    def __init__(self, spec: ExpertSpec, weights: Path | None, width: int = 1, mode: str = "a"):
        super().__init__()
        self.spec = spec


def not_a_module(spec: ExpertSpec, weights: Path | None) -> int:
    return 3


def exits(spec: ExpertSpec, weights: Path | None) -> nn.Module:
    raise SystemExit("giving up")


number = 3


def make(factory: str = "Recorder", **more: object) -> ExpertSpec:
    tokens, image = TokenSpec(8, (2, 2)), ImageSpec((8, 8), (0, 0, 0), (1, 1, 1))
    name = factory if ":" in factory else f"{__name__}:{factory}"
    return ExpertSpec("mine", "test", name, tokens, image, **more)


def test_options_go_spec_then_tiny_then_caller() -> None:
    spec = make(options={"width": 2, "mode": "b"}, tiny={"width": 3})
    assert build_from_spec(spec).arguments == ("mine", None, 2, "b")
    assert build_from_spec(spec, tiny=True).arguments == ("mine", None, 3, "b")
    assert build_from_spec(spec, tiny=True, options={"width": 4}).arguments[2] == 4


def greedy(spec: ExpertSpec, weights: Path | None, config: dict) -> nn.Module:
    assert type(config) is dict
    config["sizes"].append(config.pop("size"))
    return nn.Identity()


def greedy_resolve(spec: ExpertSpec, weights: Path | None, config: dict) -> ExpertSpec:
    greedy(spec, weights, config)
    return spec


def test_a_factory_may_change_its_options_and_the_spec_keeps_them() -> None:
    given = {"config": {"size": 3, "sizes": []}}
    for options, tiny in ((given, {}), ({}, given)):
        spec = make("greedy", options=options, tiny=tiny, resolve=f"{__name__}:greedy_resolve")
        for _ in range(2):
            build_from_spec(spec, tiny=True)
        assert (spec.options, spec.tiny) == (options, tiny)


def picky(spec: ExpertSpec, weights: Path | None, model: str = "a", depth: int = 9) -> nn.Module:
    if (model, depth) == ("b", 1):
        raise TypeError("b has no depth")
    return nn.Identity()


@pytest.mark.parametrize("digest", ["", 0, "e3b0c4"])
def test_what_is_no_digest_is_not_taken_for_none(tmp_path: Path, digest: object) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"x")
    with pytest.raises(ExpertBuildError, match="is no digest; give 64"):
        build_from_spec(make(), weights=file, sha256=digest)  # type: ignore[arg-type]


def test_a_tiny_build_of_another_model_says_what_tiny_brought() -> None:
    spec = make("picky", tiny={"depth": 1})
    with pytest.raises(ExpertBuildError, match=r"b has no depth \(tiny=True adds depth=1, made"):
        build_from_spec(spec, tiny=True, options={"model": "b"})
    build_from_spec(spec, tiny=True, options={"model": "b", "depth": 2})


def test_weights_are_verified_before_use(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"numbers")
    digest = hashlib.sha256(b"numbers").hexdigest()
    assert build_from_spec(make(weights=Weights(str(file), digest))).arguments[1] == file
    damaged = make(weights=Weights(str(file), "0" * 64))
    with pytest.raises(ExpertBuildError, match="damaged or another version") as caught:
        build_from_spec(damaged)
    assert str(file) in str(caught.value)
    assert build_from_spec(damaged, tiny=True).arguments[1] is None
    assert build_from_spec(damaged, weights=file).arguments[1] == file


def test_missing_weights_tell_the_place(tmp_path: Path) -> None:
    spec = make(weights=Weights(str(tmp_path / "gone.safetensors")))
    with pytest.raises(ExpertBuildError, match=r"gone\.safetensors; put them there"):
        build_from_spec(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (make(requires=("surely-not-installed>=2",)), "pip install 'surely-not-installed>=2'"),
        (make(requires=("torch>=999",)), "version "),
        (make("no_such_module_here:X"), "no module 'no_such_module_here'"),
        (make("Missing"), "AttributeError"),
        (make("number"), "cannot be called"),
        (make("not_a_module"), "gave a int"),
        (make("exits"), "SystemExit: giving up"),
        (make(options={"widht": 3}), "takes: width, mode"),
    ],
)
def test_each_failure_is_a_sentence_that_names_the_expert(spec: ExpertSpec, words: str) -> None:
    with pytest.raises(ExpertBuildError) as caught:
        build_from_spec(spec)
    assert words in str(caught.value)
    assert "'mine'" in str(caught.value)


def test_requirements_for_another_platform_do_not_count() -> None:
    spec = make(requires=("surely-not-installed; sys_platform == 'amiga'", "torch>=1"))
    assert build_from_spec(spec).arguments[0] == "mine"


def test_an_unknown_expert_is_refused() -> None:
    with pytest.raises(ExpertNotAvailable, match="Did you mean 'tiny_depth'"):
        build_expert("tiny_dept")


def test_building_names_plugin_and_distribution(install: Callable[..., str]) -> None:
    install("acme-vision", "@hookimpl\ndef tove_experts():\n    yield spec('e', 'gone_mod:X')")
    with pytest.raises(ExpertBuildError, match=r"plugin 'acme_vision' of acme-vision 1\.0"):
        build_expert("e")


def test_building_leaves_mode_and_gradients_as_the_factory_made_them() -> None:
    expert = build_expert("tiny_depth", tiny=True)
    assert expert.training
    assert all(parameter.requires_grad for parameter in expert.parameters())
    assert next(expert.parameters()).dtype == torch.float32


def resolve_width(spec: ExpertSpec, weights: Path | None, width: int = 1, mode: str = "a"):
    if width % 2:
        raise ValueError(f"width is {width}; give an even number.")
    return replace(spec, tokens=TokenSpec(width, spec.tokens.grid))


def test_a_resolved_spec_reaches_the_factory() -> None:
    spec = make("SpecKeeper", options={"width": 8}, resolve=f"{__name__}:resolve_width")
    assert build_from_spec(spec).spec is spec  # nothing changed: nothing is resolved
    assert build_from_spec(spec, tiny=True).spec is spec
    assert build_from_spec(spec, options={"width": 4}).spec.tokens.width == 4
    with pytest.raises(ExpertBuildError, match=r"with these options: width is 3; give an even"):
        build_from_spec(spec, options={"width": 3})
    with pytest.raises(ExpertBuildError, match="resolve_width takes: width, mode"):
        build_from_spec(spec, options={"wdth": 4})


def resolve_badly(spec: ExpertSpec, weights: Path | None, **options: object):
    return {}["hidden_size"]


def test_a_resolve_function_that_fails_is_named_as_a_factory_is() -> None:
    spec = make(resolve=f"{__name__}:resolve_badly")
    with pytest.raises(ExpertBuildError, match=r"resolve_badly of expert 'mine'.*KeyError"):
        build_from_spec(spec, options={"width": 3})


def test_a_digest_of_the_config_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "own.bin"
    file.write_bytes(b"numbers")
    digest = hashlib.sha256(b"numbers").hexdigest()
    assert build_from_spec(make(), weights=file, sha256=digest).arguments[1] == file
    with pytest.raises(ExpertBuildError, match="as was declared"):
        build_from_spec(make(), weights=file, sha256="0" * 64)
