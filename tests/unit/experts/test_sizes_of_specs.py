"""What a spec says of an architecture makes a network as large as its weights' file."""

from importlib import import_module

import pytest
import torch

from tove_plugins import discover
from tove_plugins._frozen import thaw

# Of the file, which may have a head or a decoder that makes no token, and 4 bytes a number.
SHARES = {
    "depth_anything": 0.99,
    "dinov": 0.99,
    "dpt": 0.98,
    "rtdetr": 0.79,
    "sam": 0.95,
    "segformer": 0.99,
}
EXPERTS = [name for name in sorted(discover().experts) if name.startswith(tuple(SHARES))]


@pytest.mark.parametrize("name", EXPERTS)
def test_the_spec_alone_makes_a_network_of_the_weights_size(name: str):
    spec = discover().get(name).spec
    module, _, factory = spec.factory.partition(":")
    with torch.device("meta"):
        make = getattr(import_module(module), factory)
        expert = make(spec=spec, weights=None, **thaw(spec.options))
    share = next(share for start, share in SHARES.items() if name.startswith(start))
    size = 4 * sum(parameter.numel() for parameter in expert.parameters())
    assert spec.weights is not None
    assert share - 0.02 < size / (spec.weights.size_mb * 1e6) < share + 0.02
