"""`python -m tove_plugins list`."""

import json
from collections.abc import Callable

import pytest

from tove_plugins._cli import main


def test_table_has_a_row_per_expert_and_a_line_per_remark(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("broken-thing", "raise ValueError('no luck')")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "TASK", "TOKENS"]
    row = next(line for line in lines if line.startswith("tiny_depth"))
    assert "8x8x64 features" in row
    assert row.endswith("active")
    assert any("broken-thing 1.0 [error]" in line and "no luck" in line for line in lines)


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
    assert experts["tiny_dino"]["tokens"] == {"width": 64, "grid": [8, 8], "kind": "features"}
    assert experts["e"]["distribution"] == "chatty"
    assert {plugin["status"] for plugin in listing["plugins"]} == {"active"}


def test_a_run_without_a_command_is_told_the_commands() -> None:
    with pytest.raises(SystemExit):
        main([])
