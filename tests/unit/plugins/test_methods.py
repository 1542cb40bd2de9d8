"""Packages with methods: the same machinery as for experts, and what is their own."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tove_plugins import (
    METHOD_API_VERSION,
    MethodImportError,
    MethodNotAvailable,
    MethodSpec,
    MethodSpecError,
    discover,
    discover_methods,
    import_method,
)
from tove_plugins._cli import main

HOOK = "@hookimpl\ndef tove_methods():\n    {body}"
GOOD = HOOK.format(body='yield method("good", "MODELS.Good", "STAGES.GoodStage")')


@pytest.fixture
def install_method(install: Callable[..., str]) -> Callable[..., str]:
    return partial(install, group="tove.methods")


# --- the spec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "My Method"}, "MethodSpec.name is 'My Method'"),
        ({"module": "not a module"}, "give 'package.module'"),
        ({"module": "package.module:Class"}, "give 'package.module'"),
        ({"types": ()}, "give a tuple of what a config"),
        ({"types": "MODELS.A"}, "give a tuple of what a config"),
        ({"types": ("MyMethod",)}, "write a registry and a name"),
        ({"types": ("models.MyMethod",)}, "write a registry and a name"),
        ({"types": ("MODELS.A", "MODELS.A")}, "names one twice"),
        ({"licence": " "}, "give 'unknown' where it is not known"),
        ({"paper": None}, "MethodSpec.paper of 'mine' is None"),
        ({"requires": ("not a == requirement",)}, "not a requirement that pip can read"),
        ({"tiny": [1]}, "give a mapping of settings"),
        ({"api": 0}, "give a positive integer"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_in_a_sentence(change: dict[str, Any], told: str) -> None:
    given = {"name": "mine", "module": "tove_mine.method", "types": ("MODELS.Mine",)}
    MethodSpec(**given)
    with pytest.raises(MethodSpecError, match="MethodSpec") as caught:
        MethodSpec(**{**given, **change})
    assert told in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_spec_cannot_be_changed_and_gives_plain_data() -> None:
    tiny = {"gate": {"width": 3}}
    spec = MethodSpec("mine", "tove_mine", ("MODELS.Mine",), tiny=tiny)
    tiny["gate"]["width"] = 4
    assert spec.tiny["gate"]["width"] == 3
    with pytest.raises(TypeError, match="cannot be changed"):
        spec.tiny["gate"]["width"] = 5  # type: ignore[index]
    assert json.loads(json.dumps(spec.as_dict()))["types"] == ["MODELS.Mine"]


# --- discovery ------------------------------------------------------------------------------------


def test_a_method_is_found_with_its_distribution_and_no_expert_is(
    install_method: Callable[..., str],
) -> None:
    install_method("acme-methods", GOOD, plugin="acme", version="2.1")
    entry = discover_methods().get("good")
    assert (entry.distribution, entry.version, entry.plugin) == ("acme-methods", "2.1", "acme")
    (record,) = discover_methods().plugins
    assert (record.status, record.names, record.kind) == ("active", ("good",), "method")
    assert "acme" not in {plugin.name for plugin in discover().plugins}


BROKEN = {
    "raises": ("raise ValueError('no luck')", "error", "ValueError: no luck"),
    "exits": ("import sys\nsys.exit(3)", "error", "sys.exit(3)"),
    "no_hook": ("x = 1", "error", "no function tove_methods()"),
    "other_hook": ("@hookimpl\ndef tove_experts():\n    return []", "error", "tove_methods()"),
    "an_expert": (HOOK.format(body="yield spec('a')"), "error", "instead of a MethodSpec"),
    "signature": ("@hookimpl\ndef tove_methods(x):\n    return []", "error", "tove_methods():"),
    "twice": (
        HOOK.format(body="yield method('a', 'MODELS.A'); yield method('b', 'MODELS.A')"),
        "error",
        "'MODELS.A' twice",
    ),
    "newer": (HOOK.format(body="yield method('a', api=9)"), "incompatible", "API 9"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_and_the_others_work(
    install_method: Callable[..., str], kind: str
) -> None:
    code, status, words = BROKEN[kind]
    install_method("broken-thing", code, version="0.3")
    install_method("zz-good", GOOD)
    catalog = discover_methods()
    broken = next(p for p in catalog.plugins if p.distribution == "broken-thing")
    assert (broken.status, broken.names) == (status, ())
    assert words in broken.reason
    assert set(catalog.methods) == {"good"}
    with pytest.raises(MethodNotAvailable, match=r"of broken-thing 0\.3, which did not load"):
        catalog.get("goood")


def test_a_hanging_plugin_is_stopped(
    install_method: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_method("hanging", "import time\ntime.sleep(60)")
    monkeypatch.setenv("TOVE_PLUGIN_TIMEOUT", "0.3")
    assert "0.3 s" in discover_methods().plugins[0].reason


def test_two_that_claim_one_type_are_both_set_aside_until_one_is_blocked(
    install_method: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_method("acme", GOOD)
    install_method("rival", HOOK.format(body='yield method("rival", "STAGES.GoodStage")'))
    catalog = discover_methods()
    assert not catalog.methods
    assert {plugin.status for plugin in catalog.plugins} == {"conflict"}
    with pytest.raises(MethodNotAvailable, match=r"'STAGES.GoodStage' is claimed by .*acme.*rival"):
        catalog.get("rival")
    monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "acme")
    assert set(discover_methods().methods) == {"rival"}


def test_a_block_list_that_names_a_plugin_of_the_other_kind_is_no_mistake(
    install: Callable[..., str],
    install_method: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("an-expert", "@hookimpl\ndef tove_experts():\n    yield spec('e')")
    install_method("a-method", GOOD)
    monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "an-expert,a-method,nobody")
    for catalog in (discover(), discover_methods()):
        assert ["'nobody'" in note for note in catalog.notes] == [True]
    assert discover_methods().plugins[0].status == "blocked"


def test_discovery_imports_no_framework(install_method: Callable[..., str]) -> None:
    install_method("zz-good", GOOD)
    path = [entry for entry in sys.path if entry]
    code = (
        f"import json, sys; sys.path[:0] = {path!r}\n"
        "from tove_plugins import discover_methods\n"
        "found = sorted(discover_methods().methods)\n"
        "print(json.dumps([found, sorted({'torch', 'numpy', 'tove'} & set(sys.modules))]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["good"], []]


# --- importing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("requires=('not-there-at-all>=2',)", r"needs not-there-at-all>=2 .*pip install 'not-"),
        ("module='no_such_module'", r"no_such_module of method 'bad'.*pip install -U acme"),
    ],
)
def test_what_cannot_be_imported_is_told_with_the_command_that_mends_it(
    install_method: Callable[..., str], more: str, told: str
) -> None:
    install_method("acme", HOOK.format(body=f"yield method('bad', {more})"))
    with pytest.raises(MethodImportError, match=told):
        import_method("bad")


def test_importing_changes_no_default_of_torch(
    install: Callable[..., str], install_method: Callable[..., str]
) -> None:
    import torch

    rude = install("rude", "import torch\ntorch.set_grad_enabled(False)")
    install_method("acme", HOOK.format(body=f"yield method('rude', module={rude!r})"))
    import_method("rude")
    assert torch.is_grad_enabled()


# --- commands -------------------------------------------------------------------------------------


def test_list_has_a_row_per_method_under_the_experts(
    install_method: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    body = 'yield method("good", summary="Gates things.", paper="arXiv:1", licence="MIT")'
    install_method("acme", HOOK.format(body=body))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("METHOD"))
    assert lines[0].startswith("NAME")
    assert lines[place - 1] == ""
    row = ["good", "MODELS.Good", "arXiv:1", "MIT", "acme", "1.0", "active"]
    assert lines[place + 1].split() == row
    assert main(["list", "gates"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("METHOD")
    assert main(["list", "--task", "depth"]) == 0
    assert "METHOD" not in capsys.readouterr().out


def test_json_has_methods_and_the_kind_of_each_plugin(
    install_method: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install_method("acme", GOOD)
    install_method("rival", HOOK.format(body='yield method("rival", "MODELS.Good")'))
    assert main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["method_api"] == METHOD_API_VERSION
    states = [(method["name"], method["status"]) for method in listing["methods"]]
    assert states == [("good", "conflict"), ("rival", "conflict")]
    kinds = {plugin["name"]: plugin["kind"] for plugin in listing["plugins"]}
    assert (kinds["builtin"], kinds["acme"]) == ("expert", "method")


def test_show_tells_a_method_and_an_expert_of_the_same_name(
    install: Callable[..., str],
    install_method: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_method("acme", GOOD)
    assert main(["show", "good"]) == 0
    told = capsys.readouterr().out
    assert "MODELS.Good, STAGES.GoodStage" in told
    assert "plugin 'acme' of acme 1.0" in told
    assert 'model=dict(type="Good", ...)' in told
    install("other", "@hookimpl\ndef tove_experts():\n    yield spec('good')")
    assert main(["show", "good"]) == 0
    told = capsys.readouterr().out
    assert "torch.nn:Identity" in told
    assert "MODELS.Good" in told


def test_an_unknown_name_tells_of_methods_too(
    install_method: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install_method("acme", GOOD)
    assert main(["show", "goood"]) == 2
    told = capsys.readouterr().err
    assert "No expert is called 'goood'" in told
    assert "Nor does a package bring such a method; there are: good." in told


def test_without_the_engine_check_says_so(
    install_method: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_method("acme", GOOD)
    monkeypatch.setattr("tove_plugins._commands._check.METHOD_KIT", "no_engine.testing")
    assert main(["check", "good"]) == 2
    assert "there is no module 'no_engine' here" in capsys.readouterr().err
