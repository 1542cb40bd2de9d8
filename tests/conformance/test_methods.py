"""The methods that come with tove keep the contract of methods, as a third party's must."""

import pytest

from tove.registry import MODELS
from tove.testing import METHOD_CHECKS, MethodSubject
from tove_plugins import MethodEntry, MethodSpec
from tove_plugins.testing import Check, SkipCheck

# Settings of the small build that have no default.
TINY = {
    "MoVEKD": {"mole": {"num_experts": 2, "rank": 2}},
    "SingleExpert": {"expert": "fine"},
    "PrismerResampler": {"resampler": {"num_queries": 4, "num_heads": 2}},
}
BUILT = [check for check in METHOD_CHECKS.every() if check.stage == "built"]


def own_methods() -> list[str]:
    """Name the models that a config's `model.type` can have: those with experts' slots to tell."""
    MODELS.import_from_location()
    return sorted(n for n, kind in MODELS.module_dict.items() if hasattr(kind, "experts_of"))


def test_there_are_methods() -> None:
    assert {"ToVE", "PlainCLIP", "MatchedBaseline"} <= set(own_methods())


@pytest.mark.parametrize("check", BUILT, ids=lambda check: check.name)
@pytest.mark.parametrize("kind", own_methods())
def test_a_method_keeps_the_contract(kind: str, check: Check) -> None:
    module = MODELS.get(kind).__module__
    spec = MethodSpec("own", module, (f"MODELS.{kind}",), tiny=TINY.get(kind, {}))
    try:
        check(MethodSubject(MethodEntry(spec, "tove_plugins", "0", "builtin")))
    except SkipCheck as reason:
        pytest.skip(str(reason))
