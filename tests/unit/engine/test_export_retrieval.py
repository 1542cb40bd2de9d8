"""What is not measured of an export: retrieval without captions, or without a text tower."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from tove.backbones.clip.encoder import TransformersCLIP
from tove.engine.stages.export import measure_retrieval


class Samples(list):
    """A data set of samples, none of whose images may be asked for."""

    get_data_info = list.__getitem__

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("no image is needed")


@pytest.mark.parametrize("captions", [False, True])
def test_there_is_no_retrieval_without_captions_or_an_encoder_that_knows_texts(
    captions: bool, miniature: Path, tmp_path: Path
):
    task = "caption" if captions else "statement"
    samples = Samples([{"task": task, "image_id": "a.png"}])
    loader = SimpleNamespace(dataset=samples)
    context: Any = SimpleNamespace(evaluation_loader=lambda name: loader)
    encoder = nn.Identity() if captions else TransformersCLIP(str(miniature / "clip"))
    model = SimpleNamespace(plain_encoder=lambda: encoder)
    assert measure_retrieval(context, model, tmp_path) == {}
