"""What a spec says of an architecture makes a network as large as its weights' file."""

from importlib import import_module

import pytest
import torch

from tove_plugins import discover
from tove_plugins._frozen import thaw

# MB of the file, at most, that are of heads and decoders which make no token.
LEFT_OUT = {"depth_anything": 7, "dinov": 6, "dpt": 8, "rtdetr": 31, "sam": 17, "segformer": 2}
EXPERTS = [name for name in sorted(discover().experts) if name.startswith(tuple(LEFT_OUT))]


@pytest.mark.parametrize("name", EXPERTS)
def test_the_spec_alone_makes_a_network_of_the_weights_size(name: str):
    spec = discover().get(name).spec
    module, _, factory = spec.factory.partition(":")
    with torch.device("meta"):
        make = getattr(import_module(module), factory)
        expert = make(spec=spec, weights=None, **thaw(spec.options))
    most = next(most for start, most in LEFT_OUT.items() if name.startswith(start))
    size = 4 * sum(parameter.numel() for parameter in expert.parameters()) / 1e6
    assert spec.weights is not None
    assert -1 < spec.weights.size_mb - size < most
