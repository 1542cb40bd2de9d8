"""Benchmarks with answers to choose from: POPE and MME (yes or no), ScienceQA, CV-Bench."""

import os
from pathlib import Path
from typing import Any

from tove.data.annotations import read_rows, text_of, warn
from tove.data.benchmarks.files import Files, Question, listed, make_each
from tove.errors import ConfigError

__all__ = ["MME_PARTS", "cvbench", "mme", "pope", "scienceqa"]

_YES_NO = ("yes", "no")
MME_PARTS = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": (
        "commonsense_reasoning",
        "numerical_calculation",
        "text_translation",
        "code_reasoning",
    ),
}
_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}


def pope(files: Files) -> list[Question]:
    """Read a split of POPE (Li et al., arXiv 2305.10355): random, popular or adversarial."""

    def make(row: dict[str, Any], number: int) -> Question:
        if row["label"] not in _YES_NO:
            raise ValueError(f"label is {row['label']!r}")
        return Question(
            f"val2014/{text_of(row, 'image')}",
            row["question_id"],
            text_of(row, "text"),
            target=row["label"],
            candidates=_YES_NO,
            groups=(f"split/{files.split}",),
        )

    what = "a POPE question: it needs question_id, image, text, and label yes or no"
    return read_rows(files["questions"], what, make)


def mme(files: Files) -> list[Question]:
    """Read MME (Fu et al., arXiv 2306.13394): a folder for each subtask, two questions an image.

    Raises:
        ConfigError: there is no folder of a subtask, or a line is no question.
    """
    parts = [(part, name) for part, names in MME_PARTS.items() for name in names]
    there = [(part, name) for part, name in parts if os.path.isdir(os.path.join(files.root, name))]
    if not there:
        raise ConfigError(
            f"{files.root!r} has no folder of MME's subtasks, such as {parts[0][1]!r}; set "
            "data_root to the folder of the release that has them."
        )
    warn(files.root, len(parts) - len(there), "of MME's 14 subtasks have no folder")
    return [question for part, name in there for question in _subtask(files.root, part, name)]


def _subtask(root: str, part: str, name: str) -> list[Question]:
    """Read the texts of a subtask, beside its images or in a folder of their own."""
    folder = Path(root, name)
    apart = (folder / "questions_answers_YN").is_dir()
    texts, images = (folder / "questions_answers_YN", folder / "images") if apart else (folder,) * 2
    pictures = {path.stem: path for path in sorted(images.iterdir()) if path.suffix != ".txt"}

    def make(text: Path) -> list[Question]:
        lines = [line for line in text.read_text("utf-8-sig").splitlines() if line.strip()]
        pairs = [line.split("\t") for line in lines]
        image = str(pictures[text.stem].relative_to(root))
        return [
            Question(
                image,
                f"{name}/{text.stem}/{number}",
                question.strip(),
                target=_YES_NO[_YES_NO.index(answer.strip().lower())],
                candidates=_YES_NO,
                groups=(f"{part}/{name}",),
            )
            for number, (question, answer) in enumerate(pairs)
        ]

    what = "a text of MME: lines of a question, a tab and Yes or No, with an image of that name"
    made = make_each(str(texts), sorted(texts.glob("*.txt")), what, make)
    return [question for of_image in made for question in of_image]


def scienceqa(files: Files) -> list[Question]:
    """Read the questions of ScienceQA (Lu et al., arXiv 2209.09513) that have an image."""
    problems = files.content("problems")
    numbers = listed(files["splits"], files.content("splits"), files.split)

    def make(number: str) -> Question | None:
        entry = problems[number]
        if not entry["image"]:
            return None
        choices = [str(choice) for choice in entry["choices"]]
        hint = " ".join(str(entry.get("hint") or "").split())
        grade = int(str(entry["grade"]).removeprefix("grade"))
        return Question(
            f"images/{entry['split']}/{number}/{entry['image']}",
            number,
            text_of(entry, "question"),
            target=choices[entry["answer"]],
            candidates=choices,
            groups=(
                f"subject/{_SUBJECTS[entry['subject']]}",
                "context/IMG",
                *(("context/TXT",) if hint else ()),
                f"grade/{'G1-6' if grade <= 6 else 'G7-12'}",
            ),
            about=dict(hint=hint),
        )

    what = "a problem's number of ScienceQA with question, choices, answer, image, split, subject "
    made = make_each(files["splits"], numbers, f"{what}and grade", make)
    questions = [question for question in made if question is not None]
    warn(files["splits"], len(made) - len(questions), "questions have no image and are left out")
    return questions


def cvbench(files: Files) -> list[Question]:
    """Read a part of CV-Bench (Tong et al., arXiv 2406.16860), 2D or 3D, from its JSON lines."""

    def make(row: dict[str, Any], number: int) -> Question:
        choices = [str(choice) for choice in row["choices"]]
        place = "ABCDEFGH".index(text_of(row, "answer").strip("()"))
        name = text_of(row, "filename")
        return Question(
            name if name.startswith("img/") else f"img/{name}",
            f"{files.split}/{row['idx']}",
            text_of(row, "question"),
            target=choices[place],
            candidates=choices,
            groups=(f"task/{row['task']}", f"type/{row['type']}", f"source/{row['source']}"),
        )

    what = "a CV-Bench question: it needs idx, filename, question, choices, answer as (A), task, "
    return read_rows(files["questions"], f"{what}type and source", make)
