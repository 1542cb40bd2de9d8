"""A small data set to spoil."""

import json

import pytest
from PIL import Image

from tove.registry import DATASETS


@pytest.fixture
def photos(tmp_path):
    """Four images, and a function that builds a data set of given annotations over them."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / f"images/{number}.png")

    def build(content, kind="CocoCaptions", **options):
        rows = isinstance(content, list)
        text = "\n".join(map(json.dumps, content)) if rows else json.dumps(content)
        path = tmp_path / "annotations.json"
        path.write_text(content if isinstance(content, str) else text)
        settings = dict(ann_file=path.name, data_root=str(tmp_path), image_size=16)
        return DATASETS.build(dict(type=kind, **{**settings, **options}))

    return build
