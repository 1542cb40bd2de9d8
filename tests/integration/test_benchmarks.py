"""Each benchmark in its short form: it runs, and writes what the page is made of."""

import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
HELPERS = {"frame", "bench", "gpu_check"}
# Experiments that take hours, about scores and not speed.
EXPERIMENTS = {"spatial_check", "token_scale"}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FOLDER)


def names() -> list[str]:
    found = {file.stem for file in FOLDER.glob("*.py")}
    return sorted(found - HELPERS - EXPERIMENTS)


def test_all_of_them_are_run_by_make_bench():
    assert sorted(importlib.import_module("bench").NAMES) == names()


LONG = {"start_up", "processes"}  # start trainings


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.heavy] * (n in LONG)) for n in names()]
)
def test_a_benchmark_runs(name: str, tmp_path: Path):
    importlib.import_module(name).main(["--short", "--out", str(tmp_path)])
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert result["name"] == name
    assert result["short"]
    assert result["claims"]
    for claim in result["claims"]:
        assert claim["low"] <= claim["median"] <= claim["high"]
        assert (claim["holds"] is None) == (claim["goal"] is None)


def test_the_page_says_what_holds_and_by_how_much_the_rest_misses(tmp_path: Path):
    frame, bench = map(importlib.import_module, ("frame", "bench"))
    args = frame.parser("").parse_args(["--out", str(tmp_path)])
    claims = [
        frame.Claim("quick", [0.9, 1.0, 1.01, 1.1, 1.2], 1.03),
        frame.Claim("slow", [2.0], 1.5, unit="s", why="it sleeps"),
        frame.Claim("wide", [1.2], 3, at_least=True),
        frame.Claim("watched", [7.0]),
    ]
    frame.write("ranking", "the title", claims, args)
    page = tmp_path / "page.md"
    assert bench.main(["--render", "--out", str(tmp_path), "--page", str(page)]) == 0
    text = page.read_text()
    assert "## The title" in text
    assert "| quick | 1.01 (0.950 to 1.15) | at most 1.03 | holds |" in text
    assert "| slow | 2.00 s | at most 1.50 s | missed by 0.500 s: it sleeps |" in text
    assert "| wide | 1.20 | at least 3.00 | missed by 1.80 |" in text
    assert "| watched | 7.00 |  |  |" in text


def test_works_take_turns_and_a_ratio_is_of_one_round():
    frame = importlib.import_module("frame")
    now, order = [0.0], []

    def work(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds * len(order)  # a machine that slows down

    works = {"a": lambda: work("a", 2.0), "b": lambda: work("b", 1.0)}
    times = frame.in_turns(works, 200, clock=lambda: now[0], warm_up=1)
    assert sorted(order[:2]) == sorted(order[2:4]) == ["a", "b"]
    assert [len(values) for values in times.values()] == [200, 200]
    assert frame.Claim("a / b", frame.over(times["a"], times["b"])).median == pytest.approx(2, 0.05)
