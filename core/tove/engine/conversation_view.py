"""How a run's conversations show an image."""

from mmengine.config import Config

from tove.config.data_sets import by_use
from tove.data.conversations import LlavaConversations
from tove.data.views import View, build_view
from tove.registry import DATASETS

__all__ = ["conversation_view"]


def conversation_view(cfg: Config) -> View | None:
    """Return the view of the run's conversations, those tested on first; None where it has none."""
    for _, dataset in by_use(cfg):
        if issubclass(DATASETS.get(dataset["type"]), LlavaConversations):
            return build_view(dataset.get("view", "crop"), dataset["image_size"])
    return None
