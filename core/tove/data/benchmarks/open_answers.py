"""Benchmarks with open answers: VQAv2, OK-VQA, TextVQA, VizWiz (ten people's answers) and GQA."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tove.data.annotations import read_json, text_of
from tove.data.benchmarks.files import Files, Question, listed, make_each
from tove.data.joins import pair_by_id

__all__ = ["gqa", "textvqa", "vizwiz", "vqa"]


def vqa(files: Files) -> list[Question]:
    """Read VQA's two files (Goyal et al., arXiv 1612.00837), which OK-VQA (1906.00067) shares.

    A split whose names have no annotations is one for the server.
    """
    path, content = files["questions"], files.content("questions")
    entries = listed(path, content, "questions")
    what = "a VQA question with an annotation: it needs question_id, image_id and question, "
    what += "the file a data_subtype"
    ids = make_each(path, entries, what, lambda entry: _id(entry["question_id"]))
    answered, kinds = _annotations(files, ids) if "annotations" in files.names else (None, {})

    def make(entry: Mapping[str, Any]) -> Question:
        folder = text_of(content, "data_subtype").replace("-dev", "")  # test-dev is part of test
        image = f"{folder}/COCO_{folder}_{int(entry['image_id']):012d}.jpg"
        asked = Question(image, entry["question_id"], text_of(dict(entry), "question"))
        if answered is None:
            return asked
        found = answered[asked.id]
        references = [str(answer["answer"]) for answer in found["answers"]]
        kind = str(found["question_type"])
        return Question(
            image,
            asked.id,
            asked.text,
            target=_agreed(references),
            references=references,
            groups=(f"answer_type/{found['answer_type']}", f"kind/{kinds.get(kind, kind)}"),
        )

    return make_each(path, entries, what, make)


def _id(value: Any) -> int | str:  # noqa: ANN401
    if type(value) not in (int, str):
        raise TypeError(f"question_id is {value!r}")
    return value


def _annotations(
    files: Files, ids: Sequence[int | str]
) -> tuple[dict[Any, Mapping[str, Any]], Mapping[str, str]]:
    """Return the annotations by question, and the names of kinds that the file abbreviates."""
    what = "a VQA annotation: it needs question_id, question_type, answer_type and answers"
    keys = ("question_id", "question_type", "answer_type", "answers")
    path, content = files["annotations"], files.content("annotations")
    entries = listed(path, content, "annotations")
    made = make_each(path, entries, what, lambda entry: {key: entry[key] for key in keys})
    owners = make_each(path, made, what, lambda entry: _id(entry["question_id"]))
    places = pair_by_id(path, "questions", ids, owners)
    return {key: made[place] for key, place in places.items()}, content.get("question_types", {})


def textvqa(files: Files) -> list[Question]:
    """Read TextVQA (Singh et al., arXiv 1904.08920), 0.5.1; its test split has no answers."""
    folder = "test_images" if files.split == "test" else "train_images"

    def make(entry: dict[str, Any]) -> Question:
        references = [str(answer) for answer in entry.get("answers", ())]
        return Question(
            f"{folder}/{text_of(entry, 'image_id')}.jpg",
            entry["question_id"],
            text_of(entry, "question"),
            target=_agreed(references),
            references=references,
        )

    what = "a TextVQA question: it needs image_id, question_id and question"
    path = files["questions"]
    return make_each(path, listed(path, files.content("questions"), "data"), what, make)


def vizwiz(files: Files) -> list[Question]:
    """Read VizWiz (Gurari et al., arXiv 1802.08218); its test split has no answers."""

    def make(entry: dict[str, Any]) -> Question:
        references = [str(answer["answer"]) for answer in entry.get("answers", ())]
        name = text_of(entry, "image")
        return Question(
            f"{files.split}/{name}",
            name,
            text_of(entry, "question"),
            target=_agreed(references),
            references=references,
            groups=(f"answer_type/{entry['answer_type']}",) if "answer_type" in entry else (),
        )

    what = "a VizWiz question: it needs image and question"
    path = files["questions"]
    return make_each(path, listed(path, read_json(path, "VizWiz's file")), what, make)


def gqa(files: Files) -> list[Question]:
    """Read GQA (Hudson and Manning, arXiv 1902.09506); its test splits have no answers.

    Where the split's file of choices is there, its path goes along for validity and plausibility.
    """
    choices = files["choices"] if os.path.isfile(files["choices"]) else None

    def make(pair: tuple[str, dict[str, Any]]) -> Question:
        number, entry = pair
        asked = Question(
            f"images/{text_of(entry, 'imageId')}.jpg", number, text_of(entry, "question")
        )
        if "answer" not in entry:
            return asked
        kinds = entry["types"]
        form = "open" if kinds["structural"] == "query" else "binary"
        return Question(
            asked.image,
            number,
            asked.text,
            target=text_of(entry, "answer"),
            groups=(
                f"form/{form}",
                f"structural/{kinds['structural']}",
                f"semantic/{kinds['semantic']}",
            ),
            about=dict(
                balanced=bool(entry["isBalanced"]),
                entailed=[other for other in entry["entailed"] if other != number],
                group=entry["groups"]["global"],
                common="Common" in kinds["detailed"],
                choices=choices,
            ),
        )

    what = "a GQA question: it needs imageId, question and, with an answer, types, groups, "
    what += "entailed and isBalanced"
    return make_each(files["questions"], _gqa_questions(files).items(), what, make)


def _gqa_questions(files: Files) -> dict[str, Any]:
    """Read the questions by number; those of train_all are released as a folder of ten files."""
    folder = files.names["questions"].removesuffix(".json")
    whole = os.path.join(files.root, folder)
    if os.path.isfile(files["questions"]) or not os.path.isdir(whole):
        return files.content("questions")
    found: dict[str, Any] = {}
    for name in sorted(os.listdir(whole)):
        part = replace(files, names={"questions": os.path.join(folder, name)})
        found |= part.content("questions")
    return found


def _agreed(answers: Sequence[str]) -> str:
    """Return the answer most people gave, the first of those given as often; "" for none."""
    counts = Counter(answer.strip() for answer in answers)
    return max(counts, key=counts.__getitem__) if counts else ""
