"""`python -m tove_plugins.testing`: the checks as docs/checks.md tells them, in Markdown."""

from tove_plugins.testing._registry import all_checks

__all__ = ["describe"]

HEADINGS = {
    "static": "## Of the spec, nothing is built",
    "built": "## Of the built expert",
}


def describe() -> str:
    """Give every check's name, what it protects, what it does, and how to mend what it finds."""
    lines: list[str] = []
    for check in all_checks():
        if HEADINGS[check.stage] not in lines:
            lines += [HEADINGS[check.stage], ""]
        lines += [f"### {check.name}", "", f"*{check.protects}*", ""]
        lines += [f"{check.does}", "", f"**Mend:** {check.mend}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
