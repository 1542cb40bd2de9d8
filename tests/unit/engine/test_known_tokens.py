"""What a training's data set is held to where tokens are kept of its images."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import ConcatDataset
from torch.utils.data import Dataset

from tove.backbones.feature_cache.token_cache import TokenCache
from tove.engine.known_tokens import skip_known_views
from tove.errors import ConfigError
from tove.registry import DATASETS


class Changed(Dataset):
    """A wrapper of somebody's that does something to each image."""

    def __init__(self, dataset, change) -> None:
        self.dataset, self.change = dataset, change

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        item = self.dataset[index]
        return {**item, "image": self.change(item["image"])}


@pytest.fixture
def photos(miniature):
    """Data sets of the miniature run's photos, one with crops and mirrored images."""

    def build(augment=None):
        own = dict(type="UnlabelledImages", data_root=str(miniature / "data"), image_size=16)
        return DATASETS.build(dict(own, img_dir="unlabelled", augment=augment))

    return ConcatDataset([build(), build(dict(views=3, flip=0.5))])


def model(**cache):
    return SimpleNamespace(
        cache=TokenCache(**cache) if cache else None, hub=None, needs_pixels=True
    )


def sometimes_mirrored(pixels):
    return pixels.flip(-1) if torch.rand(()) < 0.5 else pixels


def test_views_that_are_drawn_anew_are_refused_where_tokens_are_kept(photos, tmp_path):
    torch.manual_seed(0)
    drawn = Changed(photos, sometimes_mirrored)
    skip_known_views(drawn, model())  # nothing is kept
    with pytest.raises(ConfigError, match=r"another one each time.*`augment` of the data set"):
        skip_known_views(drawn, model(max_gb=0.1))
    with pytest.raises(ConfigError, match=r"another one each time|was changed after it was"):
        skip_known_views(drawn, model(dir=str(tmp_path)))
    skip_known_views(photos, model(max_gb=0.1))


def test_views_that_are_not_those_of_their_names_are_refused(photos, tmp_path):
    darker = Changed(photos, lambda pixels: pixels // 2)
    skip_known_views(darker, model(max_gb=0.1))  # always the same: kept by the image's name
    hub = SimpleNamespace(attached=())
    kept = SimpleNamespace(cache=TokenCache(dir=str(tmp_path)), hub=hub, needs_pixels=True)
    with pytest.raises(ConfigError, match="was changed after it was named"):
        skip_known_views(darker, kept)
    skip_known_views(photos, kept)
