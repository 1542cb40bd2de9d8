"""Every registered expert passes every check of the conformance kit."""

from collections.abc import Callable

import pytest

from tove_plugins import discover, find_weights
from tove_plugins.testing import Subject, check_expert, parametrize_with_expert_checks


@parametrize_with_expert_checks(sorted(discover().experts))
def test_expert(expert: Subject, check: Callable[[Subject], None]) -> None:
    check(expert)


@pytest.mark.parametrize("name", sorted(discover().experts))
def test_trained_weights_load_and_keep_the_contract(name: str) -> None:
    weights = discover().get(name).spec.weights
    if weights is None or weights.source.startswith(("hub:", "https:")):
        pytest.skip("Its weights do not come with it.")
    try:
        find_weights(weights.source)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    assert weights.sha256, "weights that come with an expert have a digest"
    check_expert(name, real=True)
