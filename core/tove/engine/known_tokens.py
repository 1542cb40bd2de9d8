"""Between a model's cache and its data sets: views are named by pixels, known ones not decoded."""

from typing import Any

from torch import Tensor

from tove.backbones.feature_cache.files import AllKnown, FileViews
from tove.data.known_views import KnownViews, each_image_dataset
from tove.errors import ConfigError
from tove.modules.view_key import view_digest

__all__ = ["check_still", "name_views", "skip_known_views"]

_ASKED = 8  # samples; a flip at random is the same twice in all of them in one run of 256


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

    Raises:
        ConfigError: see `check_still`.
    """
    cache = getattr(model, "cache", None)
    if cache is None:
        return
    leaves = each_image_dataset(dataset) if cache.disk else []
    for leaf in leaves:
        leaf.names_views = True
    check_still(dataset, model)
    if cache.disk is None:
        return
    slots = ["clip", *model.hub.attached]
    reads = all(cache.mode_of(slot) in ("read", "read-through") for slot in slots)
    files = FileViews(cache.folder)
    for leaf in leaves:
        if reads and len(files.table) and not getattr(model, "needs_pixels", True):
            opened = [
                cache.open(model.sources[slot], model.encoder.grid, leaf.image_size)
                for slot in slots
            ]
            leaf.known_views = KnownViews(files, AllKnown(opened))


def check_still(dataset: Any, model: Any) -> None:  # noqa: ANN401 - mmengine's wrappers, a method
    """Look at some samples twice: an image of which tokens are kept is to be the same each time.

    Args:
        dataset: of a training.
        model: whose cache keeps tokens, or nothing.

    Raises:
        ConfigError: the data set's views are not those that tokens would be kept of.
    """
    if getattr(model, "cache", None) is None:
        return
    step = max(1, len(dataset) // _ASKED)
    for index in range(0, len(dataset), step)[:_ASKED]:
        first, second = dataset[index], dataset[index]
        pixels, sample = _pixels(first), first["sample"]
        if not pixels.equal(_pixels(second)):
            why = "is another one each time that it is read"
        elif "view_key" in sample and view_digest(pixels) != sample["view_key"]:
            why = "was changed after it was named"
        else:
            continue
        raise ConfigError(
            f"The image of sample {index} of the training data ({type(dataset).__name__}, "
            f"{sample['image_id']}) {why}, so the tokens that model.token_cache keeps of it would "
            "be those of another view; take the random step out and draw views by `augment` of the "
            "data set, which gives each a name, or set model.token_cache=None."
        )


def _pixels(item: dict[str, Any]) -> Tensor:
    pixels: Tensor = item["images"] if "images" in item else item["image"]
    return pixels
