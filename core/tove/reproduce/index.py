"""The page of all claims, RESULTS/README.md: those that nobody has measured too."""

from pathlib import Path

from tove.atomic_io import write_text
from tove.data.annotations import read_json
from tove.reproduce.claim import find_claims, read_claim
from tove.reproduce.markdown import table

__all__ = ["write_index"]


def write_index(claims: Path, folder: Path) -> None:
    """Write the page of all claims.

    Args:
        claims: folder of their files.
        folder: of the results.
    """
    lines = [["claim", "question", "answer", "seeds", "commit"]]
    for name in find_claims(claims):
        path = folder / f"{name}.json"
        told = read_json(str(path), "what `reproduce` wrote; delete it") if path.is_file() else None
        question = read_claim(name, claims).question
        if told:
            found = [told["answer"], str(told["seeds"]), told["commit"]]
            lines.append([f"[{name}]({name}.md)", question, *found])
        else:
            lines.append([name, question, "not measured", "", ""])
    parts = [
        "# The claims, and what the miniature says",
        "Written by `reproduce`; what a claim is and how one is added: "
        "[reproduce.md](../reproduce.md).",
        table(lines),
    ]
    write_text(folder / "README.md", "\n\n".join(parts) + "\n")
