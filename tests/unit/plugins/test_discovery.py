"""Each plugin is contained: whatever one does, the others work and it is named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tove_plugins import Catalog, ExpertNotAvailable, PluginRecord, discover

Install = Callable[..., str]

GOOD = """
@hookimpl
def tove_experts():
    yield spec("good_one")
"""

BUILTIN = {"tiny_depth", "tiny_segmentation", "tiny_detection", "tiny_dino"}


def record(catalog: Catalog, distribution: str) -> PluginRecord:
    return next(r for r in catalog.plugins if r.distribution == distribution)


def test_builtin_experts_are_there_once_and_first() -> None:
    catalog = discover(refresh=True)
    assert set(catalog.experts) >= BUILTIN
    assert catalog.plugins[0].name == "builtin"
    assert [r.module for r in catalog.plugins].count("tove_experts.plugin") == 1


def test_installed_plugin_is_found_with_its_distribution(install: Install) -> None:
    install("acme-vision", GOOD, plugin="acme", version="2.1")
    entry = discover().get("good_one")
    assert (entry.distribution, entry.version, entry.plugin) == ("acme-vision", "2.1", "acme")


BROKEN = {
    "raises": ("raise ValueError('no licence file')", "error", "ValueError: no licence file"),
    "imports": ("import a_module_that_is_not_there", "error", "a_module_that_is_not_there"),
    "syntax": ("def f(:\n    pass", "error", "SyntaxError"),
    "exits": ("import sys\nsys.exit(3)", "error", "sys.exit(3)"),
    "exits_in_hook": (
        "@hookimpl\ndef tove_experts():\n    raise SystemExit('bye')\n    yield",
        "error",
        "sys.exit(bye)",
    ),
    "no_hook": ("x = 1", "error", "no function tove_experts()"),
    "unmarked": ("def tove_experts():\n    return []", "error", "@tove_plugins.hookimpl"),
    "signature": (
        "@hookimpl\ndef tove_experts(config):\n    return []",
        "error",
        "without arguments",
    ),
    "misspelt": ("@hookimpl\ndef tove_expert():\n    return []", "error", "tove_expert"),
    "none": ("@hookimpl\ndef tove_experts():\n    pass", "error", "returned None"),
    "number": ("@hookimpl\ndef tove_experts():\n    return 3", "error", "a int instead"),
    "single": ("@hookimpl\ndef tove_experts():\n    return spec('a')", "error", "ExpertSpec"),
    "garbage": (
        "@hookimpl\ndef tove_experts():\n    yield spec('a')\n    yield {'name': 'b'}",
        "error",
        "item 2",
    ),
    "twice": (
        "@hookimpl\ndef tove_experts():\n    yield spec('a')\n    yield spec('a')",
        "error",
        "'a' twice",
    ),
    "invalid": ("@hookimpl\ndef tove_experts():\n    yield spec('A B')", "error", "lower case"),
    "endless": (
        "@hookimpl\ndef tove_experts():\n    i = 0\n    while True:\n        i += 1\n"
        "        yield spec(f'e{i}')",
        "error",
        "more than",
    ),
    "newer": (
        "@hookimpl\ndef tove_experts():\n    yield spec('a', api=7)",
        "incompatible",
        "API 7",
    ),
    "bad_text": (
        "class E(Exception):\n    def __str__(self):\n        raise OSError\nraise E",
        "error",
        "raised E",
    ),
    "interpreter": ("raise BaseException('deep')", "error", "deep"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_and_the_others_work(install: Install, kind: str) -> None:
    code, status, words = BROKEN[kind]
    install("broken-thing", code, version="0.3")
    install("zz-good", GOOD)
    catalog = discover()
    broken = record(catalog, "broken-thing")
    assert (broken.status, broken.version, broken.names) == (status, "0.3", ())
    assert words in broken.reason
    assert broken.reason.endswith(".")
    assert record(catalog, "zz-good").status == "active"
    assert set(catalog.experts) >= BUILTIN | {"good_one"}


def test_a_hanging_import_is_stopped(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("hanging", "import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass")
    install("zz-good", GOOD)
    monkeypatch.setenv("TOVE_PLUGIN_TIMEOUT", "0.3")
    catalog = discover()
    assert "0.3 s" in record(catalog, "hanging").reason
    assert "good_one" in catalog.experts


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("inf", ["'inf'; give a number of seconds, or 0 for no limit. 20 is used."]),
        ("nan", ["'nan'; give a number"]),
        ("soon", ["'soon'; give a number"]),
        ("1e300", ["'1e300'; 86400, a day, is the most and is used."]),
        ("86400", []),
        ("0", []),
        ("-1", []),
    ],
)
def test_no_limit_whatever_it_is_stops_plugins_that_are_well(
    install: Install, monkeypatch: pytest.MonkeyPatch, value: str, told: list[str]
) -> None:
    install("zz-good", GOOD)
    monkeypatch.setenv("TOVE_PLUGIN_TIMEOUT", value)
    catalog = discover()
    assert {plugin.status for plugin in catalog.plugins} == {"active"}
    notes = [note for note in catalog.notes if "TOVE_PLUGIN_TIMEOUT" in note]
    assert len(notes) == len(told)
    assert all(words in note for words, note in zip(told, notes, strict=True))


@pytest.mark.parametrize("limit", ["0", "-5"])
def test_nothing_or_less_is_no_limit(
    install: Install, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    install("zz-good", "import signal\nTIMER = signal.getitimer(signal.ITIMER_REAL)\n" + GOOD)
    monkeypatch.setenv("TOVE_PLUGIN_TIMEOUT", limit)
    module = record(discover(), "zz-good").module
    assert sys.modules[module].TIMER == (0.0, 0.0)


def test_a_users_interrupt_is_not_swallowed(install: Install) -> None:
    install("interrupted", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_prints_do_not_reach_stdout(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("chatty", "print('hello from chatty')\n" + GOOD)
    catalog = discover()
    assert capsys.readouterr().out == ""
    chatty = record(catalog, "chatty")
    assert chatty.status == "active"
    assert "prints" in chatty.reason
    assert "good_one" in catalog.experts


def test_nothing_is_first_wins(install: Install) -> None:
    install("first-dist", GOOD.replace("good_one", "tiny_depth") + "    yield spec('mine')\n")
    catalog = discover()
    assert "tiny_depth" not in catalog.experts
    assert {"tiny_dino", "mine"} <= set(catalog.experts)
    for distribution in ("tove_plugins", "first-dist"):
        claimant = record(catalog, distribution)
        assert claimant.status == "conflict"
        assert "tove_plugins" in claimant.reason
        assert "first-dist 1.0" in claimant.reason
    with pytest.raises(ExpertNotAvailable, match=r"first-dist 1\.0.*TOVE_BLOCK_PLUGINS="):
        catalog.get("tiny_depth")


def test_what_an_upgrade_left_behind_does_not_conflict_with_the_plugin(
    install: Install, tmp_path: Path
) -> None:
    """Its folder is not named as pip names them now, so importlib takes it for another one."""
    for version, form in (("1.9", "Upgraded-Dist"), ("1.10", "upgraded_dist")):
        install("upgraded-dist", GOOD, version=version)
        written = tmp_path / f"site/upgraded_dist-{version}.dist-info"
        written.rename(written.with_name(f"{form}-{version}.dist-info"))
    catalog = discover()
    assert catalog.get("good_one").version == "1.10"
    assert [r.status for r in catalog.plugins if r.distribution == "upgraded-dist"] == ["active"]
    (note,) = [note for note in catalog.notes if "upgraded-dist" in note]
    assert "upgraded-dist 1.9 was left behind by 1.10" in note
    assert f"delete its .dist-info folder in {tmp_path / 'site'}" in note


def test_one_version_that_is_told_twice_is_one_plugin(install: Install, tmp_path: Path) -> None:
    install("told-twice", GOOD)
    info = tmp_path / "site/told_twice-1.0.dist-info"
    shutil.copytree(info, info.with_name("Told-Twice-1.0.dist-info"))
    assert discover().get("good_one").distribution == "told-twice"


def test_blocking_settles_a_conflict(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("first-dist", GOOD.replace("good_one", "tiny_depth"))
    monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "First_Dist")
    catalog = discover()
    assert catalog.get("tiny_depth").distribution == "tove_plugins"
    assert record(catalog, "first-dist").status == "blocked"


def test_a_blocked_plugin_is_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install("evil", GOOD)
    monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "evil")
    assert "good_one" not in discover().experts
    assert module not in sys.modules


def test_the_allow_list_leaves_all_others_out(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("zz-good", GOOD)
    monkeypatch.setenv("TOVE_LOAD_PLUGINS", "zz-good, nobody")
    catalog = discover()
    assert set(catalog.experts) == {"good_one"}
    assert record(catalog, "tove_plugins").status == "blocked"
    assert any("'nobody'" in note for note in catalog.notes)


def test_a_plugin_that_needs_a_newer_sdk_is_incompatible(install: Install) -> None:
    install(
        "from-the-future",
        "from tove_plugins import hologram",
        requires=("tove_plugins>=99", "numpy"),
    )
    future = record(discover(), "from-the-future")
    assert future.status == "incompatible"
    assert "pip install -U 'tove_plugins>=99'" in future.reason


def test_an_unknown_name_gets_close_matches_and_what_did_not_load(install: Install) -> None:
    install("broken-thing", "raise ValueError('no licence server')")
    with pytest.raises(ExpertNotAvailable) as caught:
        discover().get("tiny-depth")
    message = str(caught.value)
    assert "Did you mean 'tiny_depth'?" in message
    assert "of broken-thing 1.0, which did not load [error]" in message
    assert "ValueError: no licence server. Try pip install -U broken-thing." in message


def test_asked_for_an_expert_that_failed_its_own_plugin_is_told_first(install: Install) -> None:
    for number in range(4):
        install(f"broken-{number}", "raise ValueError")
    install("newer-api", GOOD.replace('"good_one"', '"good_one", api=2'))
    with pytest.raises(ExpertNotAvailable) as caught:
        discover().get("good_one")
    message = str(caught.value)
    assert message.index("newer-api 1.0, which did not load [incompatible]") < message.index(
        "broken-0 1.0"
    )
    assert "pip install -U tove_plugins" in message
    assert "Nor did 'broken_2' [error], 'broken_3' [error]." in message


SUBPROCESS = """
import json, sys
from tove_plugins import discover
catalog = discover()
heavy = {"torch", "numpy", "mmengine", "transformers", "tove_experts.tiny", "tove"}
print(json.dumps([sorted(catalog.experts), sorted(heavy & set(sys.modules))]))
"""


def test_import_and_discovery_import_no_framework() -> None:
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{SUBPROCESS}"],
        capture_output=True,
        text=True,
        check=True,
    )
    names, heavy = json.loads(done.stdout)
    assert set(names) >= BUILTIN
    assert heavy == []
