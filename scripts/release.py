"""Make the tree that a release is tagged on: version set, changelog.d gathered into CHANGELOG.md.

    python scripts/release.py 0.2.0

It commits nothing. Look at what it changed, commit, tag `v0.2.0` and push the tag: the workflow
.github/workflows/release.yml builds the wheel from it.
"""

import argparse
import re
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"removed": "Removed", "changed": "Changed", "added": "Added", "fixed": "Fixed"}
_VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")


def gather(root: Path, version: str, day: str) -> int:
    """Move the fragments of a tree into its CHANGELOG.md and set its version.

    Args:
        root: of the tree.
        version: as PEP 440 writes a release or its candidate.
        day: of the release, 2026-01-31 say.

    Returns:
        The number of fragments.

    Raises:
        ValueError: there is no fragment, one is of no kind, or the version is none.
    """
    fragments = sorted(f for f in (root / "changelog.d").glob("*.md") if f.name != "README.md")
    stray = [file.name for file in fragments if file.stem.rpartition(".")[2] not in KINDS]
    if not _VERSION.fullmatch(version) or not fragments or stray:
        raise ValueError(
            f"{version!r} cannot be released: give a version such as 0.2.0, and fragments in "
            f"changelog.d whose names end in .{', .'.join(KINDS)} and .md, not {stray}."
        )
    lines = [f"## {version} ({day})", ""]
    for kind, title in KINDS.items():
        own = [file for file in fragments if file.stem.endswith(f".{kind}")]
        entries = [f"- {' '.join(file.read_text('utf-8').split())}" for file in own]
        lines += [f"### {title}", "", *entries, ""] if own else []
    _put_first(root / "CHANGELOG.md", "\n".join(lines))
    project = root / "pyproject.toml"
    text = project.read_text("utf-8")
    project.write_text(re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', text, count=1))
    for file in fragments:
        file.unlink()
    return len(fragments)


def _put_first(changelog: Path, entry: str) -> None:
    """Put a release before the ones before it."""
    head, mark, rest = changelog.read_text("utf-8").partition("\n## ")
    changelog.write_text(f"{head.rstrip()}\n\n{entry.rstrip()}\n{mark}{rest}", "utf-8")


def main() -> None:
    """Gather for the version that the command line names."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("version", help="such as 0.2.0")
    version = parser.parse_args().version
    number = gather(ROOT, version, f"{datetime.now(UTC):%Y-%m-%d}")
    print(f"{version}: {number} fragments are in CHANGELOG.md; commit, then: git tag v{version}")


if __name__ == "__main__":
    main()
