"""tools/compare.py: runs side by side, named by what differs, pooled over seeds."""

import csv
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from PIL import Image

from tove.cli import compare
from tove.errors import ConfigError
from tove.report.compare.aggregate import Entry, choose_metric, entries_of, remarks
from tove.report.compare.figure import cost_against_gain
from tove.report.compare.runs import Run, read_run, settings_of
from tove.report.theme import LIGHT

SCRIPT = Path(__file__).resolve().parents[3] / "tools/compare.py"
METRIC = "vsr/accuracy"
EXPERTS = {"depth": {"type": "tiny_depth"}, "dino": {"type": "tiny_dino"}}
STAGES = [
    {"type": "TrainStage", "name": "baseline"},
    {"type": "TrainStage", "name": "transfer"},
    {"type": "DetachStage", "name": "detach"},
    {"type": "MergeStage", "name": "merge"},
]


def part(milliseconds: float) -> dict[str, Any]:
    costs = {"trainable_parameters": 1, "total_parameters": 20, "flops": 3000}
    return {**costs, "forward_ms": milliseconds, "peak_memory_mb": 5.0}


def row(name: str, stage: str, score: float, experts: tuple[str, ...] = ()) -> dict[str, Any]:
    gain = {"value": score - 0.6, "low": score - 0.65, "high": score - 0.55}
    return {
        "name": name,
        "stage": stage,
        "experts": list(experts),
        "metrics": {METRIC: {"value": score, "low": score - 0.02, "high": score + 0.02}},
        "gain": {} if name == "baseline" else {"over": "baseline", METRIC: gain},
        **part(1.0 + len(experts)),
        "cost": {
            "device": "cpu",
            "encoder": part(0.5),
            "experts": {slot: part(1.0) for slot in experts},
            "fusion": part(0.5),
            "language": {"trainable_parameters": 1, "total_parameters": 7},
        },
    }


def rows(score: float, first: str = "depth") -> list[dict[str, Any]]:
    """Give the rows of a run in which the expert `first` is detached first."""
    (last,) = set(EXPERTS) - {first}
    return [
        row("baseline", "baseline", 0.6),
        row("tove", "transfer", score, ("depth", "dino")),
        row(f"tove-{first}", "detach", score - 0.1, (last,)),
        row(f"tove-{last}", "detach", 0.6),
        row("merged", "merge", score - 0.05),
    ]


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Write the work folder of a run."""

    def write(name: str, found: list[dict[str, Any]], seed: int = 0, **settings: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        given = {"seed": seed, "stages": STAGES, "model": {"experts": EXPERTS}, **settings}
        Config({**given, "work_dir": str(folder)}).dump(folder / "config.py")
        text = json.dumps([{**entry, "seed": seed} for entry in found])
        (folder / "results.json").write_text(text)
        return folder

    return write


def compared(*folders: Path) -> dict[tuple[str, str], Entry]:
    """Give the entries by setting and row."""
    settings = settings_of(read_run(folder) for folder in folders)
    return {(entry.setting, entry.row): entry for entry in entries_of(settings, METRIC)}


def labels(*configs: dict[str, Any]) -> list[str]:
    runs = [Run(Path(str(i)), cfg, [row("tove", "transfer", 0.8)]) for i, cfg in enumerate(configs)]
    return [setting.label for setting in settings_of(runs)]


def experts(**slots: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"experts": slots}}


def test_seeds_are_pooled_and_gains_keep_their_own_spread(write_run: Callable[..., Path]):
    found = compared(write_run("a", rows(0.8)), write_run("b", rows(0.9), seed=1))
    tove = found["a", "tove"]
    assert tove.seeds == (0, 1)
    assert tove.score.value == pytest.approx(0.85)
    assert tove.score.show() == "0.850 ± 0.071"
    assert tove.gain is not None
    assert tove.gain.show("+") == "+0.250 ± 0.071"


def test_one_run_has_the_interval_of_its_score(write_run: Callable[..., Path]):
    found = compared(write_run("a", rows(0.8)))
    assert found["a", "tove"].score.show() == "0.800 [0.78, 0.82]"
    assert found["a", "baseline"].gain is None


def test_removals_are_matched_by_the_experts_left(write_run: Callable[..., Path]):
    one = write_run("a", rows(0.8, first="depth"))
    other = write_run("b", rows(0.8, first="dino"), seed=1)
    runs = {name: len(entry.seeds) for (_, name), entry in compared(one, other).items()}
    assert runs == {
        "baseline": 2,
        "tove": 2,
        "detach, left: dino": 1,
        "detach, left: depth": 1,
        "detach, left: no expert": 2,
        "merged": 2,
    }
    assert list(runs)[-2:] == ["detach, left: no expert", "merged"]


def test_removals_are_matched_whatever_the_order_of_the_experts(write_run: Callable[..., Path]):
    """Seeds may list what is left in another order; it is the same model."""
    slots = {name: {"type": f"tiny_{name}"} for name in ("depth", "dino", "edges")}
    left = [("depth", "dino"), ("dino", "depth")]
    folders = [
        write_run(
            str(seed), [row("tove-edges", "detach", 0.7, names)], seed, model={"experts": slots}
        )
        for seed, names in enumerate(left)
    ]
    found = {name: entry.seeds for (_, name), entry in compared(*folders).items()}
    assert found == {"detach, left: depth, dino": (0, 1)}


def test_costs_are_given_in_all_and_of_each_expert(write_run: Callable[..., Path]):
    entry = compared(write_run("a", rows(0.8)))["a", "tove"]
    assert entry.costs["forward_ms"] == 3.0
    assert list(entry.parts) == ["encoder", "expert depth", "expert dino", "fusion", "language"]
    assert entry.parts["expert dino"]["flops"] == 3000
    assert entry.types == {"depth": "tiny_depth", "dino": "tiny_dino"}


def test_another_expert_names_the_setting(write_run: Callable[..., Path]):
    swapped = {**EXPERTS, "depth": {"type": "tiny_detection"}}
    one = write_run("a", rows(0.8))
    other = write_run("b", rows(0.9), model={"experts": swapped})
    found = compared(one, other)
    assert {setting for setting, _ in found} == {"depth=tiny_depth", "depth=tiny_detection"}


@pytest.mark.parametrize(
    ("configs", "told"),
    [
        (
            [experts(d={"type": "a", "layer": 1}), experts(d={"type": "a", "layer": 2})],
            ["d.layer=1", "d.layer=2"],
        ),
        (
            [experts(d={"type": "a", "layer": 1}), experts(d={"type": "b", "arch": "x"})],
            ["d=a", "d=b"],
        ),
        ([experts(d={"type": "a"}), experts()], ["d=a", "no d"]),
        (
            [{"schedule": {"lr": 1, "steps": 9}}, {"schedule": {"lr": 2, "steps": 9}}],
            ["schedule.lr=1", "schedule.lr=2"],
        ),
        (
            [{"stages": STAGES}, {"stages": STAGES[:3]}],
            ["stage merge=MergeStage", "no stage merge"],
        ),
        (
            [experts(d={"type": "a", "device": "cuda:1"}), experts(d={"type": "a"})],
            ["0"],  # where an expert runs changes nothing
        ),
    ],
)
def test_a_setting_is_named_by_what_sets_it_apart(configs: list[dict], told: list[str]):
    assert labels(*configs) == told


def test_names_given_by_the_user_are_pooled_over(write_run: Callable[..., Path]):
    one = write_run("a", rows(0.8), data_root="/one", scenes={"seed": 1})
    other = write_run("b", rows(0.9), seed=1, data_root="/two", scenes={"seed": 2})
    runs = [read_run(one), read_run(other)]
    assert len(settings_of(runs)) == 2
    assert len(settings_of(runs, pool=["data_root", "scenes"])) == 1
    with pytest.raises(ConfigError, match=r"--pool names 'data_rot', .* Did you mean 'data_root'"):
        settings_of(runs, pool=["data_rot"])


def test_one_seed_twice_is_remarked(write_run: Callable[..., Path]):
    runs = [read_run(write_run(name, rows(0.8))) for name in "ab"]
    assert any("same seed" in remark for remark in remarks(settings_of(runs), METRIC))


def test_one_answer_to_everything_is_remarked(write_run: Callable[..., Path]):
    constant = rows(0.8)
    constant[0]["metrics"]["vsr/top_answer_share"] = {"value": 1.0, "n": 50}
    settings = settings_of([read_run(write_run("a", constant))])
    (remark,) = remarks(settings, METRIC)
    assert remark.startswith("a: baseline gave one answer to everything")
    assert not remarks(settings, "caption/CIDEr")


def test_the_metric_is_the_tables_first_unless_given(write_run: Callable[..., Path]):
    run = read_run(write_run("a", rows(0.8)))
    assert choose_metric([run]) == METRIC
    with pytest.raises(ConfigError, match="Did you mean 'vsr/accuracy'"):
        choose_metric([run], "vsr/acuracy")


def points(entries: list[Entry]) -> list[list[tuple[float, float]]]:
    """Give what a picture draws as points, by panel."""
    figure = cost_against_gain(LIGHT, entries, METRIC)
    marks = [[line for line in a.lines if line.get_marker() in ("o", "D")] for a in figure.axes]
    return [[(float(m.get_xdata()[0]), float(m.get_ydata()[0])) for m in panel] for panel in marks]


def test_the_picture_has_a_point_per_gain_in_each_panel(write_run: Callable[..., Path]):
    entries = list(compared(write_run("a", rows(0.8))).values())
    panels = points(entries)
    assert [len(panel) for panel in panels] == [4, 4, 4]  # the baseline is the line at zero
    assert panels[0][0] == (3.0, pytest.approx(20.0))


def test_without_a_baseline_the_picture_shows_scores(write_run: Callable[..., Path]):
    alone = [{**entry, "gain": {}} for entry in rows(0.8)]
    panels = points(list(compared(write_run("a", alone)).values()))
    assert [len(panel) for panel in panels] == [5, 5, 5]
    assert panels[0][1] == (3.0, pytest.approx(80.0))


def test_the_command_shows_all_and_leaves_out_what_is_no_run(
    write_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = write_run("a", rows(0.8))
    parse = runpy.run_path(str(SCRIPT))["parse_args"]
    files = [tmp_path / name for name in ("a.png", "a.json", "a.csv")]
    names = ("--plot", "--json", "--csv")
    options = [word for name, file in zip(names, files, strict=True) for word in (name, str(file))]
    assert compare(parse([str(folder), str(tmp_path / "nowhere"), *options])) == 0
    said = capsys.readouterr()
    assert "nowhere has no results.json" in said.err
    for text in ("+0.200 [+0.15, +0.25]", "expert depth", "tiny_dino", "detach, left: no expert"):
        assert text in said.out
    assert Image.open(files[0]).width > 1000
    written = json.loads(files[1].read_text())
    assert [entry["row"] for entry in written][:2] == ["baseline", "tove"]
    assert written[1]["metric"] == METRIC
    with files[2].open() as stream:
        lines = [line for line in csv.DictReader(stream) if line["row"] == "tove"]
    assert [line["part"] for line in lines][:2] == ["total", "encoder"]
    assert float(lines[0]["gain_low"]) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "results.json").unlink(), "no results.json"),
        (lambda folder: (folder / "results.json").write_text("[]"), "no row"),
        (lambda folder: (folder / "results.json").write_text("[{}]"), "rows without experts"),
        (lambda folder: (folder / "results.json").write_text("["), "cannot be read"),
        (lambda folder: (folder / "config.py").write_text("("), "cannot be read"),
    ],
)
def test_nothing_to_read_is_an_error_that_says_why(
    spoil: Callable[[Path], Any],
    told: str,
    write_run: Callable[..., Path],
    capsys: pytest.CaptureFixture,
):
    folder = write_run("a", rows(0.8))
    spoil(folder)
    parse = runpy.run_path(str(SCRIPT))["parse_args"]
    assert compare(parse([str(folder)])) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert told in lines[0]
    assert lines[-1].startswith("error: None of the folders")


@pytest.mark.parametrize("flipped", [('"stage"', '"stbge"'), ('"transfer"', '"transfdr"')])
def test_a_row_that_no_stage_of_the_run_has_is_refused(
    write_run: Callable[..., Path], flipped: tuple[str, str]
):
    folder = write_run("run", rows(0.8))
    found = read_run(folder).rows
    for stage in {row["stage"] for row in found}:
        (folder / stage).mkdir()
        (folder / stage / "done.json").write_text("{}")
        own = [row for row in found if row["stage"] == stage]
        (folder / stage / "rows.json").write_text(json.dumps(own))
    assert read_run(folder).rows == found
    results = folder / "results.json"
    results.write_text(results.read_text().replace(*flipped))
    with pytest.raises(ConfigError, match=r"differ in the row"):
        read_run(folder)
