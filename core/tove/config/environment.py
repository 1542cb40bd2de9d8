"""Guards against environments that fail late and obscurely.

An upstream mm* distribution and its maintained fork install the same import package; whichever came
last overwrote some of the other's files, without a word from pip.
"""

import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from tove.errors import ConfigError

__all__ = ["check_environment", "commit", "doubled_installs", "origin_of", "versions"]

# Import package: (upstream distributions, the maintained fork).
_FORKS = {
    "mmengine": (("mmengine", "mmengine-lite"), "onedl-mmengine"),
    "mmcv": (("mmcv", "mmcv-full", "mmcv-lite"), "onedl-mmcv"),
    "mmpretrain": (("mmpretrain", "mmcls"), "onedl-mmpretrain"),
    "mmdet": (("mmdet",), "onedl-mmdetection"),
    "mim": (("openmim",), "onedl-mim"),
}
_REPORTED = (
    "tove_plugins",
    "torch",
    "torchvision",
    "onedl-mmengine",
    "transformers",
    "open_clip_torch",
    "timm",
)

Lookup = Callable[[str], str]


def _installed(name: str, lookup: Lookup) -> bool:
    try:
        lookup(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def doubled_installs(lookup: Lookup = metadata.version) -> list[str]:
    """Find forks installed together with the upstream they replace.

    Args:
        lookup: gives a distribution's version or raises PackageNotFoundError.

    Returns:
        One sentence per pair, with the command that mends it.
    """
    found = []
    for package, (upstreams, fork) in _FORKS.items():
        if not _installed(fork, lookup):
            continue
        for upstream in upstreams:
            if _installed(upstream, lookup):
                found.append(
                    f"Both {upstream} and {fork} are installed and overwrite each other's files in "
                    f"the package '{package}'; run `pip uninstall -y {upstream} {fork}` and then "
                    f"`pip install {fork}`."
                )
    return found


def check_environment(lookup: Lookup = metadata.version) -> None:
    """Stop before training on an environment that is known to break.

    Raises:
        ConfigError: two distributions share an import package, or mmengine cannot resume here.
    """
    problems = doubled_installs(lookup)
    if not _installed("onedl-mmengine", lookup) and _installed("mmengine", lookup):
        problems.append(
            f"mmengine {lookup('mmengine')} cannot resume on torch >= 2.6; run "
            "`pip uninstall -y mmengine` and then `pip install 'onedl-mmengine==0.10.*'`."
        )
    if problems:
        raise ConfigError(" ".join(problems))


def versions(lookup: Lookup = metadata.version) -> dict[str, str]:
    """Give the versions that belong into a checkpoint's provenance."""
    return {name: lookup(name) for name in _REPORTED if _installed(name, lookup)}


def commit() -> str | None:
    """Return the commit that this package runs from, "-dirty" behind it where files differ.

    None for an installed copy: another project's repository around it tells nothing.
    """
    folder = Path(__file__).parent
    tracked = ["ls-files", "--error-unmatch", Path(__file__).name]
    try:
        for command in (tracked, ["describe", "--always", "--dirty"]):
            told = subprocess.run(
                ["git", *command], cwd=folder, capture_output=True, text=True, check=True
            ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.strip()


def origin_of(kind: type) -> dict[str, str]:
    """Give a class by name, and the distributions that its package comes from, with versions.

    A class of a script or of a folder on the path comes from no distribution.
    """
    package = kind.__module__.partition(".")[0]
    ours = package == "tove"  # an editable install lists no packages
    names = ["tove_plugins"] if ours else _distributions().get(package, ())
    known = {name: metadata.version(name) for name in sorted(set(names))}
    return {"type": f"{kind.__module__}.{kind.__qualname__}", **known}


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the distributions of each import package; reading them all takes a moment."""
    return metadata.packages_distributions()
