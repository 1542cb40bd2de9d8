"""True and false statements about images, in the format of VSR (Liu et al., arXiv 2205.00363).

One JSON object a line:
    {"image": "000001.jpg", "caption": "The cat is behind the sofa.", "label": 1,
     "relation": "behind"}
"""

import os
from typing import Any

from tove.data.annotations import read_rows, text_of, warn
from tove.data.image_dataset import ImageDataset
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["VSRStatements", "plain_statement"]


_LABELS = {0: 0, 1: 1, "0": 0, "1": 1}  # False and True are equal to the numbers, .3 to none


def plain_statement(text: str) -> str:
    """Return a statement as it goes into a prompt: single spaces, no full stop at its end."""
    return " ".join(text.split()).removesuffix(".").rstrip()


@DATASETS.register_module()
class VSRStatements(ImageDataset):
    """Statements to be answered by one of two candidates.

    Args:
        prompt: template of the question, with the field {statement}; the statement's full stop is
            taken off.
        candidates: the answers to false (0) and true (1).
        benchmark: a name that samples have, by which `StatementAccuracy` tells them from others.
        **options: arguments of `ImageDataset`.

    Raises:
        ConfigError: besides those of `ImageDataset`, a template without its field.
    """

    def __init__(
        self,
        *,
        prompt: str = "{statement} is this true ?",
        candidates: tuple[str, str] = ("no", "yes"),
        benchmark: str | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        if "{statement}" not in prompt:
            raise ConfigError(
                f"The prompt {prompt!r} of VSRStatements lacks the field {{statement}}, so the "
                "language model would never see the statement; add it."
            )
        self.prompt, self.candidates = prompt, list(candidates)
        self.named = {} if benchmark is None else {"benchmark": benchmark}
        super().__init__(**options)

    def read_samples(self) -> list[dict[str, Any]]:
        """Read the statements, in the order of the file."""
        what = "a VSR statement: it needs image, caption, and label 0 or 1"
        samples = read_rows(self._annotation_path(), what, self._sample)
        seen: dict[tuple[str, str], set[int]] = {}
        for sample in samples:
            key = (sample["image_path"], sample["statement"])
            seen.setdefault(key, set()).add(sample["label"])
        again = len(samples) - len(seen)
        warn(self.ann_file, again, "statements occur again about the same image; each counts")
        both = sum(len(labels) > 1 for labels in seen.values())
        warn(self.ann_file, both, "statements are labelled true as well as false; both count")
        return samples

    def _sample(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        label = _LABELS.get(row["label"])
        if label is None:
            raise ValueError(f"label is {row['label']!r}")
        statement = plain_statement(text_of(row, "caption"))
        return dict(
            task="statement",
            image_path=os.path.join(self.data_prefix["img"], text_of(row, "image")),
            source_id=number,
            statement=statement,
            prompt=self.prompt.replace("{statement}", statement),
            target=self.candidates[label],
            candidates=self.candidates,
            label=label,
            relation=str(row.get("relation") or "unknown"),
            **self.named,
        )
