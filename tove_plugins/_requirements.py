"""Check requirements as pip writes them against what is installed.

`packaging` is imported where it is used: a listing needs it for unusual requirements only, and
where a plugin failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["distribution_asks_for_newer_sdk", "is_requirement", "unmet_requirements"]

SDK_DISTRIBUTION = "tove-plugins"
# "timm", "timm>=1.0", "timm[extra]>=1.0,<2": what nearly all are, read without `packaging`.
_USUAL = re.compile(
    r"[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*(\[[A-Za-z0-9]+(-[A-Za-z0-9]+)*\])?"
    r"(VERSION(,VERSION)*)?".replace("VERSION", r"(==|!=|<=|>=|<|>)[0-9]+(\.[0-9]+)*")
)


def is_requirement(text: str) -> bool:
    """Tell whether pip can read a requirement."""
    if _USUAL.fullmatch(text):
        return True
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        Requirement(text)
    except InvalidRequirement:
        return False
    return True


def unmet_requirements(requirements: Iterable[str]) -> list[tuple[str, str]]:
    """Give (requirement, what is wrong with it) for each one that does not hold."""
    from packaging.requirements import Requirement

    unmet = []
    for text in requirements:
        problem = _problem(Requirement(text))
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
