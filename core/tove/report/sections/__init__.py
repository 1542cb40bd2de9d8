"""The sections of a report's page: functions in SECTIONS, which methods add theirs to.

    section(material, settings) -> Section, or None where it has nothing to say

They come in the order of their `order`; ours lie ten apart.
"""

from tove.report.sections import (
    answers,
    contribution,
    experts,
    part_times,
    provenance,
    retrieval,
    scores,
)

__all__ = ["answers", "contribution", "experts", "part_times", "provenance", "retrieval", "scores"]
