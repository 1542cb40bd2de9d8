"""The benchmarks of questions, one reader for all: what differs is in a table of formats.

Files are read as they are downloaded; `docs/benchmarks-vl.md` lists which lie where.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tove.config.validation import Range
from tove.data.annotations import read_json
from tove.data.benchmarks import choices, open_answers
from tove.data.benchmarks.files import Files, Question, pick
from tove.data.image_dataset import ImageDataset
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["FORMATS", "BenchmarkQuestions", "Format"]


@dataclass(frozen=True, slots=True)
class Format:
    """How a benchmark is published.

    Attributes:
        read: its questions from the files of a split.
        splits: the names of each split's files, by what they are.
    """

    read: Callable[[Files], list[Question]]
    splits: Mapping[str, Mapping[str, str]]


def _vqa(prefix: str, annotated: Sequence[str], others: Sequence[str] = ()) -> Format:
    def of(year: str) -> dict[str, str]:
        return dict(questions=f"{prefix}OpenEnded_mscoco_{year}_questions.json")

    years = {year.rstrip("0123456789"): year for year in (*annotated, *others)}
    both = {
        split: of(year) | dict(annotations=f"{prefix}mscoco_{year}_annotations.json")
        for split, year in years.items()
        if year in annotated
    }
    return Format(open_answers.vqa, {split: of(year) for split, year in years.items()} | both)


def _named(read: Callable[[Files], list[Question]], listed: str, /, **names: str) -> Format:
    """Return the format of files whose names have their split's in place of {split}."""
    of = {
        split: {what: name.replace("{split}", split) for what, name in names.items()}
        for split in listed.split()
    }
    return Format(read, of)


FORMATS: dict[str, Format] = {
    "vqav2": _vqa("v2_", ("train2014", "val2014"), ("test2015", "test-dev2015")),
    "okvqa": _vqa("", ("train2014", "val2014")),
    "textvqa": _named(
        open_answers.textvqa, "train val test", questions="TextVQA_0.5.1_{split}.json"
    ),
    "vizwiz": _named(open_answers.vizwiz, "train val test", questions="Annotations/{split}.json"),
    "gqa": _named(
        open_answers.gqa,
        "train_balanced train_all val_balanced val_all testdev_balanced testdev_all test_balanced "
        "test_all submission_all challenge_balanced challenge_all",
        questions="{split}_questions.json",
        choices="{split}_choices.json",
    ),
    "pope": _named(choices.pope, "random popular adversarial", questions="coco_pope_{split}.json"),
    "mme": _named(choices.mme, "test"),
    "scienceqa": _named(
        choices.scienceqa,
        "train val test minitrain minival minitest",
        problems="problems.json",
        splits="pid_splits.json",
    ),
    "cvbench": _named(choices.cvbench, "2d 3d", questions="test_{split}.jsonl"),
}


@DATASETS.register_module()
class BenchmarkQuestions(ImageDataset):
    """The questions of one split of a benchmark, in the order of its file.

    Where a benchmark has answers to choose from, or `answers` gives some, they are ranked;
    elsewhere the model says what it likes.

    Args:
        benchmark: its name, see `FORMATS`.
        split: the benchmark's own name of the split.
        files: names of files within `data_root` that differ from those of the release.
        img_dir: folder within `data_root` in which the release's folders of images lie.
        prompt: template of what the language model reads, with the field {question} and, where
            wanted, {choices} and {hint}.
        answers: to rank for every open question: a list, a JSON file of one within `data_root`, or
            a split of this benchmark whose answers make it up, the most frequent first.
        max_answers: the first ones of the list; None for all.
        **options: arguments of `ImageDataset`.

    Raises:
        ConfigError: besides those of `ImageDataset`, an unknown benchmark or split, a file with
            something else in it, a template without its field, training without answers.
    """

    def __init__(
        self,
        *,
        benchmark: str,
        split: str,
        files: Mapping[str, str] | None = None,
        img_dir: str = "",
        prompt: str = "{question}",
        answers: Sequence[str] | str | None = None,
        max_answers: Annotated[int, Range(1)] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.benchmark, self.split = benchmark, split
        self.format: Format = pick(FORMATS, benchmark, "benchmark of questions")
        self.files = pick(self.format.splits, split, f"split of {benchmark}") | (files or {})
        if "{question}" not in prompt:
            raise ConfigError(
                f"The prompt {prompt!r} of BenchmarkQuestions lacks the field {{question}}, so the "
                "language model would never see the question; add it."
            )
        self.prompt, self.answers, self.max_answers = prompt, answers, max_answers
        self.candidates: list[str] | None = None
        super().__init__(img_dir=img_dir, **options)

    def read_samples(self) -> list[dict[str, Any]]:
        """Read the questions, in the order of the file."""
        questions = self.format.read(Files(self.data_root, self.split, self.files))
        self.candidates = self._candidates()
        places = {answer: place for place, answer in enumerate(self.candidates or ())}
        if not self.test_mode and not all(question.target for question in questions):
            raise ConfigError(
                f"The split '{self.split}' of {self.benchmark} has questions without an answer, so "
                "nothing can be trained on it; take another, or set test_mode=True."
            )
        return [self._sample(question, places) for question in questions]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Give a sample, with the list of answers where all share one."""
        info: dict[str, Any] = super().get_data_info(idx)
        return info if self.candidates is None else info | {"candidates": self.candidates}

    def _sample(self, question: Question, places: Mapping[str, int]) -> dict[str, Any]:
        own = question.candidates
        sample = dict(
            task="open_question" if own is None and self.candidates is None else "question",
            image_path=os.path.join(self.data_prefix["img"], question.image),
            source_id=f"{self.split} {question.id}",
            prompt=self._prompt(question),
            target=question.target,
            relation=question.groups[0].partition("/")[2] if question.groups else "unknown",
            benchmark=self.benchmark,
            split=self.split,
            question_id=question.id,
            question=question.text,
            references=list(question.references),
            groups=list(question.groups),
            about=dict(question.about),
        )
        if own is not None:
            sample["candidates"] = list(own)
            places = {answer: place for place, answer in reversed([*enumerate(own)])}
        if own is not None or self.candidates is not None:
            sample["label"] = places.get(question.target, -1)
        return sample

    def _prompt(self, question: Question) -> str:
        fields = dict(
            choices=", ".join(question.candidates or ()),
            hint=str(question.about.get("hint", "")),
            question=" ".join(question.text.split()),
        )
        text = self.prompt
        for name, value in fields.items():
            text = text.replace(f"{{{name}}}", value)
        return text.strip()

    def _candidates(self) -> list[str] | None:
        """Give the answers to rank for open questions; None where there are none."""
        given = self.answers
        if given is None:
            return None
        if isinstance(given, str) and given in self.format.splits:
            files = Files(self.data_root, given, self.format.splits[given])
            counts = Counter(question.target for question in self.format.read(files))
            given = sorted(counts, key=lambda answer: (-counts[answer], answer))
        elif isinstance(given, str):
            path = os.path.join(self.data_root, given)
            given = read_json(path, "a list of answers")
        candidates = [str(answer) for answer in given][: self.max_answers]
        if not candidates:
            raise ConfigError("The list of answers of BenchmarkQuestions is empty; give `answers`.")
        return candidates
