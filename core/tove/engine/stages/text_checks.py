"""Texts and views of images, looked at before a training spends hours on them."""

import logging
from collections.abc import Iterator
from typing import Any

from mmengine.logging import print_log

from tove.data.wrappers import inner_data_sets
from tove.engine.stages.context import StageContext
from tove.errors import ConfigError
from tove.protocols import Sample

__all__ = ["check_lengths", "check_texts", "check_views", "warn_of_unknown_words"]

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
    known: list[str] = []  # questions share their list of answers, which may be of thousands
    longest = 0
    for part, each in _parts(context.evaluation_loader(loader).dataset, model):
        for index in range(len(part)):
            sample = part.get_data_info(index)
            room = language.room(each * _num_images(sample))
            prompt, answers = sample.get("prompt"), sample.get("candidates") or [""]
            if answers is not known and answers != known:
                known, longest = answers, max(len(answer.encode()) for answer in answers)
            if prompt is not None and len(prompt.encode()) + longest + _SPECIAL <= room:
                continue
            needed = language.num_tokens(sample)
            if needed > room:
                raise ConfigError(
                    f"{loader} has a text of {needed} tokens, {_begin_of(sample)!r}..., about "
                    f"{sample['image_id']}, and the language model has room for {room}; shorten it "
                    "in the annotation file, or use a model with more positions."
                )


def check_views(model: Any, dataset: Any) -> None:  # noqa: ANN401 - mmengine's wrappers
    """Ask a method whether it can train on how conversations show their images.

    Raises:
        ConfigError: it cannot.
    """
    for part in inner_data_sets(dataset):
        kind = getattr(getattr(part, "view", None), "kind", None)
        if kind is not None:
            model.check_view(kind)


def check_lengths(model: Any, dataset: Any) -> None:  # noqa: ANN401 - mmengine's wrappers
    """Look at the lengths of what conversations train on, and tell how many are cut.

    Raises:
        ConfigError: an image leaves no room for words, or the language model reads no
            conversations.
    """
    language: Any = model.language
    if not hasattr(language, "num_tokens"):
        return  # research code
    for part, each in _parts(dataset, model):
        if "conversations" not in part.get_data_info(0):
            continue
        language.num_tokens(part.get_data_info(0))
        language.check_images(each)
        samples = _some_of(part)
        lengths = [language.num_tokens(s) + each * _num_images(s) for s in samples]
        longer = sum(length > language.max_tokens for length in lengths)
        if longer:
            print_log(
                f"{longer} of {len(lengths)} conversations looked at have more than "
                f"language.max_tokens={language.max_tokens} tokens (up to {max(lengths)}, images "
                "included) and are cut in training.",
                logger="current",
                level=logging.WARNING,
            )


def _parts(dataset: Any, model: Any) -> Iterator[tuple[Any, int]]:  # noqa: ANN401
    """Yield the data sets inside wrappers, with the most tokens that an image has in each."""
    rows, columns = grid = model.encoder.grid
    for part in inner_data_sets(dataset):
        most = getattr(getattr(part, "view", None), "most_tokens", None)
        yield part, most(grid) if most else rows * columns


def _num_images(sample: Sample) -> int:
    return len(sample["image_paths"]) if "conversations" in sample else 1


def _begin_of(sample: Sample) -> str:
    text = sample["conversations"][0]["value"] if "conversations" in sample else sample["prompt"]
    return str(text[:60])


def _some_of(dataset: Any) -> list[Sample]:  # noqa: ANN401 - any data set
    places = range(0, len(dataset), max(1, len(dataset) // _LOOKED_AT))
    return [dataset.get_data_info(place) for place in places]


def warn_of_unknown_words(model: Any, dataset: Any) -> None:  # noqa: ANN401 - mmengine's wrappers
    """Warn where the language model's vocabulary lacks much of what it is to learn.

    Captions of photographs under the tiny world's language model train without a word, and mean
    nothing.
    """
    language: Any = model.language
    if not hasattr(language, "unknown_share"):
        return  # research code
    samples = [s for s in _some_of(dataset) if "prompt" in s]
    share = language.unknown_share([f"{s['prompt']} {s['target']}" for s in samples])
    if share > _MUCH_UNKNOWN:
        print_log(
            f"{100 * share:.0f} % of the words to train on are unknown to the language model, "
            "which sees one sign for all of them; docs/data.md tells how to put another there.",
            logger="current",
            level=logging.WARNING,
        )
