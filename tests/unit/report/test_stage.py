"""The report stage over a real run in miniature, and over a folder that has nothing."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mmengine.config import Config

from tove.config.data_sets import fill_in
from tove.engine.pipeline import StagedRunner
from tove.engine.rows import show_cost
from tove.errors import ConfigError
from tove.report.stage import ReportStage

REPORT = {"type": "ReportStage", "name": "report", "num_images": 4, "num_maps": 3}


def run(settings, work_dir: Path, **options) -> str:
    """Run the config's stages and give the page."""
    cfg = Config({**settings, "work_dir": str(work_dir)})
    fill_in(cfg)
    StagedRunner(cfg, **options).run()
    return (work_dir / "report.html").read_text()


@pytest.fixture(scope="module")
def short_run(make_settings, tmp_path_factory):
    """Plain CLIP, ToVE and its detachment, hardly trained, then the report."""
    settings = make_settings()
    settings["schedule"]["steps"] = 3
    wanted = ("plain_clip", "transfer", "detach")
    settings["stages"] = [s for s in settings["stages"] if s["name"] in wanted] + [REPORT]
    work_dir = tmp_path_factory.mktemp("report") / "work"
    return settings, work_dir, run(settings, work_dir)


def test_a_run_leaves_a_page_with_everything_that_ran(short_run):
    settings, _, html = short_run
    for slot, expert in settings["model"]["experts"].items():
        assert slot in html
        assert expert["type"] in html
    for words in ("not distinguishable", "Removed in this order", "right answer", "seed"):
        assert words in html
    widths = re.findall(r'<figure style="flex-basis: ([\d.]+)rem">', html)
    assert len(widths) == html.count("<picture>") == 9
    assert max(map(float, widths)) <= (66 - 1.5) / 2  # two side by side
    assert "http://" not in html


class Tables(HTMLParser):
    """Gathers every table as its rows of cells."""

    def __init__(self):
        super().__init__()
        self.found, self.inside = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.found.append([])
        elif tag == "tr" and self.found:
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self.found[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.found[-1][-1][-1] += data


def table_with(html: str, column: str) -> list[dict[str, str]]:
    """Give the rows of the page's table that has a column."""
    tables = Tables()
    tables.feed(html)
    head, *rows = next(table for table in tables.found if column in table[0])
    return [dict(zip(head, cells, strict=True)) for cells in rows]


def test_the_table_has_each_number_in_its_column(short_run):
    _, work_dir, html = short_run
    rows = json.loads((work_dir / "results.json").read_text())
    shown = {cells["row"]: cells for cells in table_with(html, "trained parameters")}
    assert list(shown) == [row["name"] for row in rows]
    columns = {
        "trained parameters": "trainable_parameters",
        "all parameters": "total_parameters",
        "images": "training_images",
        "steps": "steps",
    }
    for row in rows:
        told = {column: int(shown[row["name"]][column].replace(",", "")) for column in columns}
        assert told == {column: row[key] for column, key in columns.items()}
        assert float(shown[row["name"]]["forward ms"]) == pytest.approx(row["forward_ms"], abs=0.01)
        assert shown[row["name"]]["FLOPs"] == show_cost(row, "flops")
        assert shown[row["name"]]["MB"] == show_cost(row, "peak_memory_mb")
    assert "plain_clip: frozen CLIP alone in front of the language model" in html
    tove = shown["tove"]
    assert tove["trained parameters"] != tove["all parameters"]


def test_relations_are_in_the_order_of_the_gain_over_the_baseline(short_run, tmp_path):
    settings, work_dir, _ = short_run
    work = tmp_path / "work"
    shutil.copytree(work_dir, work)
    scores = {"left": (0.5, 0.6), "behind": (0.4, 0.8), "above": (0.9, 0.2), "on": (0.3, 0.5)}
    parts = (("plain_clip", "baseline", "baseline"), ("transfer", "tove", "method"))
    for side, (stage, name, role) in enumerate(parts):
        rows = json.loads((work / stage / "rows.json").read_text())
        rows[0] |= {"name": name, "role": role, "model": "Ours"}
        given = {f"vsr/relation/{key}": {"value": pair[side]} for key, pair in scores.items()}
        rows[0]["metrics"] = {"vsr/accuracy": rows[0]["metrics"]["vsr/accuracy"], **given}
        (work / stage / "rows.json").write_text(json.dumps(rows))
        done = json.loads((work / stage / "done.json").read_text())
        done["digests"] = {}  # what is set here by hand is not what the stage wrote
        (work / stage / "done.json").write_text(json.dumps(done))
    html = run(settings, work, only="report")
    told = [cells["relation"] for cells in table_with(html, "relation")]
    assert told[:4] == ["behind", "on", "left", "above"]
    assert "Ordered by how much more Ours has right than the baseline" in html


def test_the_pictures_are_files_and_in_tensorboard(short_run):
    _, work_dir, _ = short_run
    names = {path.stem for path in (work_dir / "report").glob("*.png")}
    assert names == {
        "relations",
        "gate_maps",
        "gate_maps_by_expert",
        "gate_means",
        "gate_by_height",
        "detachment_vsr_accuracy",
        "detachment_caption_CIDEr",
        "curve_loss_lm",
        "curve_loss_balance",
    }
    events = list((work_dir / "report/vis_data").glob("events.out.tfevents*"))
    assert events
    assert b"report/gate_maps" in events[0].read_bytes()


def test_stages_that_did_not_run_are_sentences(settings, tmp_path):
    settings["stages"] = [*settings["stages"], REPORT]
    html = run(settings, tmp_path / "work", only="report")
    for words in (
        "no row of a method yet",
        "No stage has measured anything yet",
        "No stage has trained a method yet",
        "No detach stage has run",
        "No stage has left a model",
        "No stage has written a loss curve",
    ):
        assert words in html
    assert "<picture>" not in html


def test_a_report_of_a_moved_data_set_is_still_written(short_run, tmp_path):
    settings, work_dir, _ = short_run
    moved = {**settings, "data_root": str(tmp_path / "gone"), "report": {"title": "<moved>"}}
    html = run(moved, work_dir, only="report")
    assert "The test split cannot be read" in html
    assert "&lt;moved&gt;" in html
    assert "Removed in this order" in html


def test_the_order_in_a_folder_of_version_0_1_is_told(short_run, tmp_path):
    settings, finished, _ = short_run
    work_dir = tmp_path / "work"
    shutil.copytree(finished, work_dir)
    ranking = work_dir / "detach/ranking.json"
    slots = [entry["slot"] for entry in json.loads(ranking.read_text())]
    ranking.write_text(json.dumps([{"slot": s, "mean_gate_weight": 0.125} for s in slots]))
    ended = work_dir / "detach/done.json"
    done = json.loads(ended.read_text())
    del done["digests"]  # it noted none
    ended.write_text(json.dumps(done))
    html = run({**settings, "data_root": str(tmp_path / "gone")}, work_dir, only="report")
    words = "the lowest mean gate weight on the validation split (in brackets) first"
    assert f"{words}: {slots[0]} (0.125)" in html


def test_a_setting_that_no_report_has_is_refused():
    with pytest.raises(ConfigError, match=r"report\.num_map .*Did you mean 'num_maps'"):
        ReportStage("report", num_map=3)
