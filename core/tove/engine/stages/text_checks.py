"""Texts, looked at before a training spends hours on them."""

import logging
from typing import Any

from mmengine.logging import print_log

from tove.engine.stages.context import StageContext
from tove.errors import ConfigError

__all__ = ["check_texts", "warn_of_unknown_words"]

_LOOKED_AT = 500  # samples of the training data
_MUCH_UNKNOWN = 0.1  # share of the words
_SPECIAL = 4  # tokens that are no text: of the start, of the end, of a space before the first word


def check_texts(context: StageContext, model: Any, loader: str) -> None:  # noqa: ANN401
    """Check that the language model has room for each prompt of a loader and its answers.

    A text has no more tokens than bytes, so only long ones are given to the tokenizer.

    Raises:
        ConfigError: it has not; the first such text is named.
    """
    language: Any = model.language
    if not hasattr(language, "num_tokens"):
        return  # research code
    rows, columns = model.encoder.grid
    room = language.room(rows * columns)
    dataset: Any = context.evaluation_loader(loader).dataset
    known: list[str] = []  # questions share their list of answers, which may be of thousands
    longest = 0
    for index in range(len(dataset)):
        sample = dataset.get_data_info(index)
        prompt, answers = sample["prompt"], sample.get("candidates") or [""]
        if answers is not known and answers != known:
            known, longest = answers, max(len(answer.encode()) for answer in answers)
        if len(prompt.encode()) + longest + _SPECIAL <= room:
            continue
        needed = max(language.num_tokens(prompt, answer) for answer in answers)
        if needed > room:
            raise ConfigError(
                f"{loader} has a text of {needed} tokens, {prompt[:60]!r}..., about "
                f"{sample['image_id']}, and the language model has room for {room}; shorten it in "
                "the annotation file, or use a model with more positions."
            )


def warn_of_unknown_words(model: Any, dataset: Any) -> None:  # noqa: ANN401 - mmengine's wrappers
    """Warn where the language model's vocabulary lacks much of what it is to learn.

    Captions of photographs under the tiny world's language model train without a word, and mean
    nothing.
    """
    language: Any = model.language
    if not hasattr(language, "unknown_share"):
        return  # research code
    places = range(0, len(dataset), max(1, len(dataset) // _LOOKED_AT))
    samples = [dataset.get_data_info(place) for place in places]
    share = language.unknown_share([f"{s['prompt']} {s['target']}" for s in samples])
    if share > _MUCH_UNKNOWN:
        print_log(
            f"{100 * share:.0f} % of the words to train on are unknown to the language model, "
            "which sees one sign for all of them; docs/data.md tells how to put another there.",
            logger="current",
            level=logging.WARNING,
        )
