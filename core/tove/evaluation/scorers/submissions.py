"""Answers in the formats that the benchmarks' servers and scripts take."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tove.atomic_io import write_text
from tove.evaluation.scorers.answers import Answer
from tove.evaluation.scorers.gqa import gqa_answer

__all__ = ["SUBMISSIONS"]

Rows = Sequence[Answer]


def _vqa(path: Path, answers: Rows) -> None:
    _write(path, [{"question_id": a.id, "answer": a.said} for a in answers])


def _vizwiz(path: Path, answers: Rows) -> None:
    _write(path, [{"image": a.id, "answer": a.said} for a in answers])


def _gqa(path: Path, answers: Rows) -> None:
    _write(path, [{"questionId": a.id, "prediction": gqa_answer(a.said)} for a in answers])


def _pope(path: Path, answers: Rows) -> None:
    """Write a file of JSON lines for each split into a folder."""
    for split in sorted({answer.split for answer in answers}):
        rows = [
            json.dumps({"question_id": a.id, "question": a.question, "answer": a.said})
            for a in answers
            if a.split == split
        ]
        write_text(path / f"coco_pope_{split}_answers.json", "\n".join(rows) + "\n")


def _mme(path: Path, answers: Rows) -> None:
    """Write a text for each subtask into a folder: image, question, right answer, answer."""
    for group in sorted({answer.groups[0] for answer in answers}):
        lines = [
            "\t".join((a.image, a.question, a.target.capitalize(), " ".join(a.said.split())))
            for a in answers
            if a.groups[0] == group
        ]
        write_text(path / f"{group.partition('/')[2]}.txt", "\n".join(lines) + "\n")


def _scienceqa(path: Path, answers: Rows) -> None:
    _write(path, {"results": {a.id: a.place for a in answers}})


def _cvbench(path: Path, answers: Rows) -> None:
    rows = [
        {"idx": int(a.id.partition("/")[2]), "type": a.split.upper(), "answer": f"({_letter(a)})"}
        for a in answers
    ]
    _write(path, rows)


def _letter(answer: Answer) -> str:
    return "ABCDEFGH"[answer.place or 0]


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")


SUBMISSIONS: dict[str, Callable[[Path, Rows], None]] = {
    "vqav2": _vqa,
    "okvqa": _vqa,
    "textvqa": _vqa,
    "vizwiz": _vizwiz,
    "gqa": _gqa,
    "pope": _pope,
    "mme": _mme,
    "scienceqa": _scienceqa,
    "cvbench": _cvbench,
}
