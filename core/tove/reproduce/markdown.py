"""Tables as Markdown."""

from collections.abc import Sequence

__all__ = ["table"]


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table of cells; its first line is the head."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))
