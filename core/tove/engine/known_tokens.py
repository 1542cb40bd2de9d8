"""Between a model's cache and its data sets: views are named by pixels, known ones not decoded."""

from typing import Any

from tove.backbones.feature_cache.files import AllKnown, FileViews
from tove.data.known_views import KnownViews, each_image_dataset

__all__ = ["name_views", "skip_known_views"]


def name_views(dataset: Any, token_cache: Any) -> None:  # noqa: ANN401 - of a config
    """Let a data set name its views by their pixels, where tokens are kept on disk."""
    if token_cache and token_cache.get("dir"):
        for leaf in each_image_dataset(dataset):
            leaf.names_views = True


def skip_known_views(dataset: Any, model: Any) -> None:  # noqa: ANN401 - mmengine's wrappers, a method
    """Let a training's data set decode no image of which the model's cache has all tokens.

    Args:
        dataset: of the training, before its workers start.
        model: that is trained; one that looks at pixels itself gets them all.
    """
    cache = getattr(model, "cache", None)
    if cache is None or cache.disk is None:
        return
    slots = ["clip", *model.hub.attached]
    reads = all(cache.mode_of(slot) in ("read", "read-through") for slot in slots)
    files = FileViews(cache.folder)
    for leaf in each_image_dataset(dataset):
        leaf.names_views = True
        if reads and len(files.table) and not getattr(model, "needs_pixels", True):
            opened = [
                cache.open(model.sources[slot], model.encoder.grid, leaf.image_size)
                for slot in slots
            ]
            leaf.known_views = KnownViews(files, AllKnown(opened))
