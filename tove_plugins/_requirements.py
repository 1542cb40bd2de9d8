"""Check requirements as pip writes them against what is installed.

`packaging` is imported where it is used: a listing reads no requirement unless a plugin failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["distribution_asks_for_newer_sdk", "unmet_requirements"]

SDK_DISTRIBUTION = "tove-plugins"


def unmet_requirements(requirements: Iterable[str]) -> list[tuple[str, str]]:
    """Give (requirement, what is wrong with it) for each one that does not hold."""
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            unmet.append((text, "it is not a requirement that pip can read"))
            continue
        problem = _problem(requirement)
        if problem:
            unmet.append((text, problem))
    return unmet


def _problem(requirement: Requirement) -> str:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "it is not installed"
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"version {installed} is installed"


def distribution_asks_for_newer_sdk(entry_point: EntryPoint) -> str:
    """Give the plugin's own requirement on the SDK where this SDK is older, or ""."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        requirements = (entry_point.dist.requires or []) if entry_point.dist else []
        ours = [
            text
            for text in requirements
            if canonicalize_name(Requirement(text).name) == SDK_DISTRIBUTION
        ]
    except Exception:  # a stranger's metadata; the plugin is reported as an error then
        return ""
    unmet = unmet_requirements(ours)
    return unmet[0][0] if unmet and unmet[0][1].startswith("version") else ""
