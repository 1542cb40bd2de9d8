"""The numbers of what each expert adds, as the report writes them."""

import pytest

from tove.report.sections.contribution import _added


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0425, "+4.2"), (-0.0425, "-4.2"), (-0.0004, "+0.0"), (0.0, "+0.0")],
)
def test_a_share_is_written_in_points_with_its_sign_and_nothing_has_none_below(
    value: float, written: str
):
    assert _added("vsr/accuracy", {"value": value}) == written
