"""What the commands print: lines that fit the terminal, and tables that do.

Much of it was written by strangers, so nothing of it may stop the printing of the rest.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

__all__ = ["fit_table", "line_width", "print_lines", "safe_repr", "wrap"]

UNLIMITED = 10_000
GAP = "  "


def line_width() -> int:
    """Give the number of columns to fill; what goes to a file or a pipe is not cut."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return UNLIMITED


def print_lines(lines: Sequence[str]) -> None:
    """Print lines; signs that stdout cannot encode are written by their number."""
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding))


def safe_repr(value: object) -> str:
    """Give the repr of a stranger's value, or its type where that fails."""
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def wrap(text: str, indent: str = "", first: str | None = None) -> str:
    """Break a paragraph into lines of the terminal's width.

    Args:
        text: The paragraph.
        indent: What its lines begin with.
        first: What the first line begins with; `indent` if None.
    """
    return textwrap.fill(
        text,
        width=line_width(),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def fit_table(
    rows: Sequence[Mapping[str, str]],
    width: int,
    shortest: Mapping[str, int],
    droppable: Sequence[str],
) -> list[str]:
    """Lay rows out in columns, cutting cells and leaving columns out where they do not fit.

    Args:
        rows: Cells by the column's name, the same columns in each.
        width: Of a line.
        shortest: For the columns whose cells may be cut, how many signs must stay.
        droppable: Columns that may be left out, the first to go first.

    Returns:
        The lines, the columns' names being the first.
    """
    columns = list(rows[0])
    for dropped in [None, *droppable]:
        columns = [column for column in columns if column != dropped]
        natural = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
        widths = _shrunk(natural, width - len(GAP) * (len(columns) - 1), shortest)
        if widths is not None:
            break
    return [
        GAP.join(_cut(row[c], (widths or natural)[c]) for c in columns).rstrip()
        for row in [{c: c for c in columns}, *rows]
    ]


def _shrunk(
    natural: Mapping[str, int], room: int, shortest: Mapping[str, int]
) -> dict[str, int] | None:
    """Take from the widest column until all fit into the room; None where they cannot."""
    widths = dict(natural)
    while sum(widths.values()) > room:
        long = [column for column, least in shortest.items() if widths.get(column, 0) > least]
        if not long:
            return None
        widths[max(long, key=lambda column: widths[column])] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
