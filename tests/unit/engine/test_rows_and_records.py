import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from tove.atomic_io import atomic_writer, remove_unfinished, temporary_folder
from tove.config.overlay import flatten
from tove.engine.rows import (
    gives_one_answer,
    make_console,
    nested_metrics,
    read_rows,
    results_table,
    show_cost,
    write_rows,
)
from tove.engine.stages.state import StageRecord
from tove.errors import ConfigError

ROW = {
    "name": "tove",
    "experts": ["depth"],
    "metrics": {"vsr/accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}},
    "trainable_parameters": 1234,
    "total_parameters": 5_678_900,
    "flops": 2_500_000_000,
    "forward_ms": 1.5,
    "peak_memory_mb": 12.345,
    "training_images": 12,
    "steps": 300,
}


def test_bounds_and_counts_join_their_metric():
    flat = {
        "vsr/accuracy": 0.5,
        "vsr/accuracy_low": 0.4,
        "vsr/accuracy_high": 0.6,
        "vsr/num_statements": 9,
        "vsr/relation/left": 0.25,
        "caption/BLEU_4": 0.1,
    }
    assert nested_metrics(flat) == {
        "vsr/accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9},
        "vsr/relation/left": {"value": 0.25},
        "caption/BLEU_4": {"value": 0.1},
    }


@pytest.mark.parametrize(
    ("share", "told"),
    [
        ({"value": 1.0, "n": 2}, True),
        ({"value": 1.0, "n": 1}, False),  # one item has one answer
        ({"value": 0.99, "n": 500}, True),
        ({"value": 0.98, "n": 500}, False),
        ({"value": 1.0}, True),  # rows of before had no number
    ],
)
def test_a_row_that_answers_the_same_to_nearly_all_items_is_known(share: dict, told: bool):
    row = {"metrics": {"vsr/accuracy": {"value": 0.5}, "vsr/top_answer_share": share}}
    assert gives_one_answer(row, "vsr/accuracy") is told
    assert not gives_one_answer(row, "caption/CIDEr")


def test_rows_survive_the_file_and_a_missing_file_has_none(tmp_path: Path):
    write_rows(tmp_path / "rows.json", [ROW])
    assert read_rows(tmp_path / "rows.json") == [ROW]
    assert read_rows(tmp_path / "none.json") == []


def test_the_table_shows_scores_with_intervals_and_costs():
    console = make_console()
    with console.capture() as capture:
        console.print(results_table([ROW], ["vsr/accuracy", "caption/CIDEr"]))
    text = capture.get()
    costs = ("1.23k", "5.68M", "2.5G", "1.50", "12.3")
    for part in ("tove", "0.500 [0.40, 0.60]", *costs, "300"):
        assert part in text
    assert "CIDEr" not in text


def test_rows_of_before_flops_were_counted_are_shown_as_well():
    old = {k: v for k, v in ROW.items() if k not in ("flops", "peak_memory_mb")}
    console = make_console()
    with console.capture() as capture:
        console.print(results_table([old], ["vsr/accuracy"]))
    line = next(line for line in capture.get().splitlines() if line.strip().startswith("tove"))
    assert line.split()[-6:] == ["-", "1.50", "-", "-", "12", "300"]


def record(folder: Path, **settings: object) -> StageRecord:
    return StageRecord(folder / "transfer", "transfer", settings)


def test_a_stage_is_finished_only_after_its_rows_are_stored(tmp_path: Path):
    first = record(tmp_path, lr=0.1)
    assert not first.started
    first.begin(afresh=True)
    assert first.started
    assert not first.finished
    kept = tmp_path / "transfer" / "model.pth"
    kept.write_text("x")
    first.finish([ROW], 1.0, {kept: "weights", tmp_path / "gone": "was removed"})
    again = record(tmp_path, lr=0.1)
    again.check()
    assert again.finished
    assert again.rows() == [ROW]
    assert again.files() == {kept: "weights"}


def test_a_changed_setting_is_named_with_both_values(tmp_path: Path):
    record(tmp_path, schedule={"steps": 3}, lr=0.1).begin(afresh=True)
    with pytest.raises(ConfigError, match=r"began with other settings \(schedule\.steps: 3 -> 4\)"):
        record(tmp_path, schedule={"steps": 4}, lr=0.1).check()


def test_what_changes_only_how_a_stage_runs_does_not_count():
    assert flatten({"a": {"num_workers": 2, "log_interval": 5}, "b": [1, {"c": None}]}) == {
        "b.0": 1,
        "b.1.c": None,
    }


def test_a_fresh_start_removes_only_what_a_stage_wrote(tmp_path: Path):
    stage = record(tmp_path, lr=0.1)
    stage.begin(afresh=True)
    folder = tmp_path / "transfer"
    for name in ("iter_3.pth", "done.json", "notes.txt"):
        (folder / name).write_text("{}")
    stage.begin(afresh=True)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "notes.txt"]


def _die_while_writing(path: Path) -> None:
    with atomic_writer(path) as stream:
        stream.write(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def _die_while_filling(path: Path) -> None:
    with temporary_folder(path) as folder:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _killed(work: Callable[[Path], None], path: Path) -> None:
    process = get_context("fork").Process(target=work, args=(path,))
    process.start()
    process.join()


def test_what_a_killed_run_had_half_written_goes(tmp_path: Path):
    for name in ("config.py", "transfer/iter_3.pth", "transfer/items/tove.json", "cache/0.shard"):
        _killed(_die_while_writing, tmp_path / name)
    for name in ("rehearsal", "transfer/export"):
        _killed(_die_while_filling, tmp_path / name)
    (tmp_path / "transfer/.notes.tmp").write_text("the user's own")
    assert len(list(tmp_path.rglob(".*.tmp"))) == 7
    remove_unfinished(tmp_path, ["transfer", "not_begun"])
    left = [path.name for path in tmp_path.rglob(".*.tmp")]
    assert ".notes.tmp" in left
    assert {name.partition(".shard")[0] for name in left} == {".notes.tmp", ".0"}  # another's


def test_a_folder_begun_again_removes_its_own_leftovers_only(tmp_path: Path):
    for name in ("export", "export[1]", "export.old"):
        _killed(_die_while_filling, tmp_path / name)
    with temporary_folder(tmp_path / "export[1]") as folder:
        folder.rename(tmp_path / "export[1]")
    names = sorted(path.name.rpartition(".")[0][:-9] for path in tmp_path.glob(".*"))
    assert names == [".export", ".export.old"]
    assert (tmp_path / "export[1]").is_dir()


def test_a_stage_knows_when_the_model_it_took_has_been_replaced(tmp_path):
    source = tmp_path / "model.pth"
    stage = record(tmp_path / "detach", lr=0.1)
    stage.begin(afresh=True, source=source)
    assert not stage.is_of_another_model(source)
    source.write_bytes(b"first")
    assert not stage.is_of_another_model(source)  # it noted none
    stage.begin(afresh=True, source=source)
    assert not stage.check()
    assert not stage.is_of_another_model(source)
    source.write_bytes(b"other")
    assert stage.is_of_another_model(source)
    source.unlink()
    assert not stage.is_of_another_model(source)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("forward_ms", "1.50"),
        ("peak_memory_mb", "12.3"),
        ("total_parameters", "5.68M"),
        ("steps", "300"),
        ("vision_tokens", "-"),
    ],
)
def test_costs_are_short_and_what_was_not_measured_is_a_dash(name: str, shown: str):
    assert show_cost(ROW, name) == shown
