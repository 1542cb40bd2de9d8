"""Questions with one right answer among a list, such as VQA's after its answers are normalised.

One JSON object a line:
    {"image": "000001.jpg", "question": "How many boxes are there?", "answer": "two",
     "relation": "count"}
The answer is found by ranking a list, as Prismer does for VQA (arXiv 2303.02506, section 4).
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

from tove.config.validation import Range
from tove.data.annotations import read_rows, text_of
from tove.data.image_dataset import ImageDataset
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["Questions"]


@DATASETS.register_module()
class Questions(ImageDataset):
    """Questions to be answered by one of a list of answers, the same for all.

    Args:
        prompt: template of the question, with the field {question}.
        answers: the list, or the file inside `data_root` whose answers make it up (the training
            split's, for any split); None takes this file's own.
        max_answers: the most frequent ones of a file; None for all.
        **options: arguments of `ImageDataset`.

    A question whose answer is not on the list stays, and counts as answered wrong.

    Raises:
        ConfigError: besides those of `ImageDataset`, a template without its field, an empty list.
    """

    def __init__(
        self,
        *,
        prompt: str = "{question}",
        answers: Sequence[str] | str | None = None,
        max_answers: Annotated[int, Range(1)] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if "{question}" not in prompt:
            raise ConfigError(
                f"The prompt {prompt!r} of Questions lacks the field {{question}}, so the language "
                "model would never see the question; add it."
            )
        self.prompt, self.answers, self.max_answers = prompt, answers, max_answers
        self.candidates: list[str] = []
        super().__init__(**options)

    def read_samples(self) -> list[dict[str, Any]]:
        """Read the questions, in the order of the file."""
        path = self._annotation_path()
        rows = _rows(path)
        self.candidates = self._candidates([row["answer"] for row in rows])
        places = {answer: place for place, answer in enumerate(self.candidates)}
        return [
            dict(
                task="question",
                image_path=os.path.join(self.data_prefix["img"], row["image"]),
                source_id=number,
                prompt=self.prompt.replace("{question}", row["question"]),
                target=row["answer"],
                label=places.get(row["answer"], -1),
                relation=str(row.get("relation") or "unknown"),
            )
            for number, row in enumerate(rows, start=1)
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Give a sample with the list, which is not kept anew with each of 200,000 questions."""
        info: dict[str, Any] = super().get_data_info(idx)
        return info | {"candidates": self.candidates}

    def _candidates(self, own: Sequence[str]) -> list[str]:
        """Give the answers to rank; those of a file by how often they occur, then by name."""
        if self.answers is not None and not isinstance(self.answers, str):
            candidates = list(self.answers)
        else:
            if self.answers is not None:
                own = [row["answer"] for row in _rows(os.path.join(self.data_root, self.answers))]
            counts = Counter(own)
            candidates = sorted(counts, key=lambda answer: (-counts[answer], answer))
            candidates = candidates[: self.max_answers]
        if not candidates:
            raise ConfigError("The list of answers of Questions is empty; give `answers`.")
        return candidates


def _rows(path: str) -> list[dict[str, Any]]:
    """Return the lines of a file of questions, their words separated by single spaces."""
    return read_rows(path, "a question: it needs image, question and answer", _row)


def _row(row: dict[str, Any], number: int) -> dict[str, Any]:
    texts = {key: " ".join(text_of(row, key).split()) for key in ("question", "answer")}
    return {**row, "image": text_of(row, "image"), **texts}
