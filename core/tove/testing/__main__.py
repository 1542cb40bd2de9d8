"""`python -m tove.testing`: the checks as docs/publish-a-method.md tells them, in Markdown."""

from tove.testing import METHOD_CHECKS

__all__ = ["describe"]


def describe() -> str:
    """Return a table row for every check: its name, what it protects, how to mend what it finds."""
    rows = [f"| `{c.name}` | {c.protects} | {c.mend} |" for c in METHOD_CHECKS.every()]
    return "\n".join(["| check | what it protects | mend |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(describe())
