"""The page of one evaluation: its scores, its errors, its right answers, with their images.

An answer is an error where its metric gives it less than half; captions, whose CIDEr knows no right
and wrong, are parted at the median.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tove.atomic_io import write_text
from tove.data.image_io import CorruptImage, load_image, shared_view
from tove.engine.rows import TABLE_METRICS, show_score
from tove.engine.stages.evaluate import ANSWERS
from tove.protocols import Row
from tove.report.model_probes import evenly
from tove.report.page import Card, Page, Section, Table, data_uri, png_of, render_page
from tove.report.report_data import ReportSettings

__all__ = ["write_answers_page"]

PAGE = "report.html"
_EXAMPLES = 60  # errors, and as many of the others
_SIDE = 192  # pixels of a picture
_MOST = 5  # different answers of people
_RIGHT = 0.5  # of an answer that some of ten people gave

Answer = Mapping[str, Any]


def write_answers_page(cfg: Config, row: Row, folder: Path) -> Path:
    """Write the page beside the answers, and return its path.

    Args:
        cfg: of the evaluation; its `report.num_examples` says how many errors are shown.
        row: of the evaluation.
        folder: with the answers.
    """
    lines = (folder / ANSWERS).read_text("utf-8").splitlines()
    answers: list[Answer] = [json.loads(line) for line in lines]
    settings = ReportSettings(num_examples=_EXAMPLES).overlaid(cfg.get("report", {}))
    shown = [m for m in cfg.get("table_metrics", TABLE_METRICS) if m in row["metrics"]]
    page = Page(
        title=f"ToVE report: {settings.title or Path(str(cfg.filename)).stem}",
        subtitle=f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, the model of stage "
        f"'{row['stage']}' ({row['model']}), {len(answers):,} answers",
        headline=", ".join(f"{m} {show_score(row['metrics'][m])}" for m in shown)
        or "No scores: nobody outside has the right answers.",
        sections=[_scores(row), *_sections(answers, settings.num_examples)],
    )
    write_text(folder / PAGE, render_page(page))
    return folder / PAGE


def _scores(row: Row) -> Section:
    one = len({name.partition("/")[0] for name in row["metrics"]}) == 1  # which the title says
    rows = [
        (" ".join(name.split("/")[one:]), show_score(score))
        for name, score in row["metrics"].items()
    ]
    table = Table(("score", "value and 95 % interval"), rows, numeric=(1,))
    return Section("scores", "Scores", table=table if rows else None)


def _sections(answers: Sequence[Answer], number: int) -> list[Section]:
    known = sorted((a for a in answers if a["scores"]), key=_score)
    if not known:
        return [_section("answers", "Answers", answers, number)]
    if any(metric.endswith("CIDEr") for metric in known[0]["scores"]):
        half = len(known) // 2
        return [
            _section("lower", "The lower half of the scores", known[:half], number),
            _section("upper", "The upper half", known[half:], number),
        ]
    wrong = [answer for answer in known if _score(answer) < _RIGHT]
    right = known[len(wrong) :]
    return [
        _section("errors", "Errors", wrong, number, judged=True),
        _section("right", "Right answers", right, number, judged=True),
    ]


def _score(answer: Answer) -> float:
    return min(answer["scores"].values())


def _section(
    name: str, title: str, answers: Sequence[Answer], number: int, judged: bool = False
) -> Section:
    chosen = [answers[place] for place in evenly(len(answers), number)]
    intro = f"{len(chosen)} of {len(answers):,}, at equal distances by their score; all are in "
    cards = [_card(answer, judged) for answer in chosen]
    return Section(name, title, [f"{intro}{ANSWERS}." if chosen else "None."], cards=cards)


def _card(answer: Answer, judged: bool) -> Card:
    told = Counter[str](answer["right"]).most_common(_MOST)
    right = " / ".join(text if count == 1 else f"{count} x {text}" for text, count in told)
    parts = ", ".join(part.rpartition("/")[2] for part in answer["parts"])
    name = f"{_score(answer):.2f}" if answer["scores"] else "said"
    return Card(
        _picture(answer),
        answer["asked"],
        f"{right or 'not known'} [{parts}]" if parts else right or "not known",
        [(name, answer["said"] or "(nothing)", _score(answer) >= _RIGHT if judged else None)],
    )


def _picture(answer: Answer) -> str:
    try:
        view = shared_view(load_image(answer["image_path"], _SIDE), _SIDE, answer["view"])
    except CorruptImage:  # moved since, or within a tar
        return ""
    return data_uri(png_of(view.permute(1, 2, 0).numpy()))
