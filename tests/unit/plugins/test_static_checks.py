"""The checks that build nothing: of specs, and of what listing imports."""

from collections.abc import Callable

import pytest

from tove_plugins.testing import check_expert

PLUGIN = """
{top}
@hookimpl
def tove_experts():
    yield spec("e", {arguments})
"""
UNKNOWN_DATA = 'weights=Weights("/weights.pt", licence="MIT")'
UNKNOWN_LICENCE = 'weights=Weights("/weights.pt", trained_on="ImageNet-1k")'


@pytest.mark.parametrize(
    ("check", "top", "arguments", "words"),
    [
        ("spec_complete", "", UNKNOWN_DATA, "Weights.trained_on is not told"),
        ("spec_complete", "", UNKNOWN_LICENCE, "Weights.licence is not told"),
        ("plain_options", "", 'options={"kind": Weights}', "ExpertSpec.options holds"),
        ("plain_options", "", 'tiny={"kind": Weights}', "ExpertSpec.tiny holds"),
        ("light_listing", "import torch", "", "imports torch"),
        ("light_listing", "", 'factory=__name__ + ":spec"', "imports fake_plugin_"),
        ("offline_build", "", 'factory="torch.nn:NoSuch"', "NoSuch"),
    ],
)
def test_each_fault_is_named(
    install: Callable[..., str], check: str, top: str, arguments: str, words: str
) -> None:
    install("somebodys-expert", PLUGIN.format(top=top, arguments=arguments))
    others = ("spec_complete", "plain_options", "light_listing")
    results = check_expert("e", checks={check, *others}, raise_on_failure=False)
    failed = {result.name: result.message for result in results if result.outcome == "failed"}
    assert list(failed) == [check]
    assert words in failed[check]


def test_a_plugin_that_prints_or_fails_beside_it_is_no_matter(install: Callable[..., str]) -> None:
    install("loud-expert", PLUGIN.format(top="print('hello')", arguments=""))
    install("broken-expert", "raise RuntimeError('broken')")
    check_expert("e", checks=["light_listing"])
