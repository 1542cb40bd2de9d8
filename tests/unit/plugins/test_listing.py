"""`python -m tove_plugins list`."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tove_plugins._cli import main

PLAIN = "@hookimpl\ndef tove_experts():\n    yield spec({name!r}, {more})"


@pytest.fixture
def in_a_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    """Run `python ARGUMENTS...` with the plugins that the test installed."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False
        )

    return run


def test_table_has_a_row_per_expert_and_a_line_per_remark(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken-thing", "raise ValueError('no luck')")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "TASK", "TOKENS"]
    row = next(line for line in lines if line.startswith("tiny_depth"))
    assert "8x8x64" in row
    assert row.endswith("active")
    assert any("broken-thing 1.0 [error]" in line and "no luck" in line for line in lines)


def test_a_conflict_is_told_of_the_name_that_two_claim_and_of_no_other(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("rival", PLAIN.format(name="tiny_depth", more=""))
    assert main(["list", "--json"]) == 0
    experts = json.loads(capsys.readouterr().out)["experts"]
    states = [
        (e["name"], e["distribution"], e["status"])
        for e in experts
        if e["name"].startswith("tiny_")
    ]
    assert states == [
        ("tiny_depth", "tove_plugins", "conflict"),
        ("tiny_depth", "rival", "conflict"),
        ("tiny_detection", "tove_plugins", "active"),
        ("tiny_dino", "tove_plugins", "active"),
        ("tiny_segmentation", "tove_plugins", "active"),
    ]
    assert main(["show", "tiny_dino"]) == 0
    assert "status    active" in capsys.readouterr().out


def test_json_is_whole_and_alone_on_stdout(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "chatty",
        "print('{')\n@hookimpl\ndef tove_experts():\n    yield spec('e', options={'o': object()})",
    )
    assert main(["list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    experts = {expert["name"]: expert for expert in listing["experts"]}
    tokens = {"width": 64, "grid": [8, 8], "kind": "features", "mirrors": False}
    assert experts["tiny_dino"]["tokens"] == tokens
    assert experts["e"]["distribution"] == "chatty"
    assert {plugin["status"] for plugin in listing["plugins"]} == {"active"}


class Clock:
    """One that a plugin sets forward, for a busy machine would make any plugin slow."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_a_plugin_that_takes_long_to_load_is_named_and_the_builtin_one_is_not(
    install: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tove_plugins._discovery.time", Clock())
    late = "from tove_plugins import _discovery\n_discovery.time.now += {seconds}\n"
    for name, seconds in (("heavy", 1.3), ("light", 0.1)):
        install(name, late.format(seconds=seconds) + PLAIN.format(name=f"{name}_one", more=""))
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert "plugin 'heavy' of heavy 1.0 took 1.3 s to load" in told
    assert told.count("s to load") == 1
    assert main(["list", "--json"]) == 0
    records = {p["name"]: p for p in json.loads(capsys.readouterr().out)["plugins"]}
    assert [records[name]["seconds"] for name in ("builtin", "heavy", "light")] == [0.0, 1.3, 0.1]
    monkeypatch.setattr("tove_plugins._commands._list.LONG", -1.0)
    assert main(["list"]) == 0
    told = capsys.readouterr().out
    assert "plugin 'light'" in told
    assert "plugin 'builtin'" not in told


def test_json_is_alone_even_where_a_plugin_writes_past_python(
    install: Callable[..., str], in_a_process: Callable[..., subprocess.CompletedProcess]
) -> None:
    install(
        "loud",
        "import os\nos.write(1, b'from C')\nos.system('echo from a child')\n"
        + PLAIN.format(name="loud_one", more=""),
    )
    done = in_a_process("-m", "tove_plugins", "list", "--json")
    names = [expert["name"] for expert in json.loads(done.stdout)["experts"]]
    assert "loud_one" in names
    assert "from C" in done.stderr
    assert "from a child" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--task", "Depth"], {"tiny_depth"}),
        (["tiny", "DINO"], {"tiny_dino"}),
        (["self-distillation"], {"tiny_dino"}),
    ],
)
def test_the_list_is_narrowed_by_words_and_by_task(
    arguments: list[str], names: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--json", *arguments, "tiny"]) == 0
    found = {expert["name"] for expert in json.loads(capsys.readouterr().out)["experts"]}
    assert found == names


def test_a_word_that_fits_nothing_is_answered_with_the_tasks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list", "holography"]) == 0
    told = capsys.readouterr().out
    assert "No expert" in told
    assert "segmentation" in told


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_the_table_fits_the_terminal(
    install: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    weights = "weights=Weights('p', licence='A-Licence-With-A-Very-Long-Name', size_mb=1234.5)"
    install(
        "a-distribution-with-a-long-name",
        PLAIN.format(name="an_expert_with_a_long_name_too", more=weights),
    )
    install("broken", f"raise ValueError({'many words ' * 20!r})")
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= columns
    row = next(line for line in lines if line.startswith("an_expert_with_a_long_name_too "))
    if columns >= 100:  # the sizes are the first to give way
        assert "1.2 GB" in row
    assert row.endswith(" active")
    assert "(nc)" in row
    assert any("no commercial use" in line for line in lines)


def test_a_run_without_a_command_is_told_the_commands() -> None:
    with pytest.raises(SystemExit):
        main([])


def test_a_reader_that_has_enough_is_no_error(
    in_a_process: Callable[..., subprocess.CompletedProcess],
) -> None:
    code = (
        "import subprocess, sys\n"
        "listing = subprocess.Popen([sys.executable, '-m', 'tove_plugins', 'list', '--json'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "listing.stdout.close()\n"
        "print(listing.stderr.read().decode())"
    )
    assert in_a_process("-c", code).stdout.strip() == ""


@pytest.fixture
def hundred_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred distributions with a plugin each, whose factories must not be imported."""
    site = tmp_path / "site"
    site.mkdir()
    for i in range(100):
        (site / f"bench_{i}.py").write_text(
            "from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, hookimpl\n"
            "@hookimpl\ndef tove_experts():\n"
            f"    yield ExpertSpec('bench_{i}', 'depth', 'bench_heavy_{i}:Expert',"
            " TokenSpec(8, (2, 2)), ImageSpec((16, 16), (0.5,) * 3, (0.5,) * 3))\n"
        )
        (site / f"bench_heavy_{i}.py").write_text("import torch\n")
        info = site / f"bench_{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bench-{i}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tove.experts]\nbench_{i} = bench_{i}\n")
    monkeypatch.syspath_prepend(str(site))


COMMAND_THAT_LOOKS = """
import sys
from tove_plugins._cli import main
main(["list"])
heavy = [m for m in sys.modules if m in ("torch", "numpy") or m.startswith("bench_heavy")]
print("heavy:", heavy)
"""


def test_a_hundred_plugins_are_listed_in_half_a_second_without_their_factories(
    hundred_plugins: None, in_a_process: Callable[..., subprocess.CompletedProcess]
) -> None:
    in_a_process("-m", "tove_plugins", "list")  # compiles them, as an installation does
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = in_a_process("-c", COMMAND_THAT_LOOKS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *listing, heavy = done.stdout.splitlines()
    assert sum(line.startswith("bench_") for line in listing) == 100
    assert heavy == "heavy: []"
    # Processor time, which other programs on the machine do not add to.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
