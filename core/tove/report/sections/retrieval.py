"""What a merge cost the encoder's own zero-shot retrieval."""

from tove.report.page import Section, Table, section
from tove.report.report_data import Material

__all__ = ["retrieval_section"]


@section(55)
def retrieval_section(material: Material) -> Section | None:
    """Set R@1 of the source beside that of each exported format, where it was measured."""
    measured = [row for row in material.rows if row.get("retrieval")]
    if not measured:
        return None
    rows, numbers = [], []
    for row in measured:
        recalls = dict(row["retrieval"])
        numbers.append(recalls.pop("images"))
        rows += [
            [
                f"{row['name']}: {name}",
                f"{recall['image_to_text']:.3f}",
                f"{recall['text_to_image']:.3f}",
                f"{recall['chance']:.3f}",
            ]
            for name, recall in recalls.items()
        ]
    note = (
        f"R@1 of a caption for its image and of an image for its caption, among {max(numbers)} of "
        "the test split. The source is the encoder before the merge, which moves the image tower "
        "and leaves the text tower as it was."
    )
    header = ["encoder", "image to text", "text to image", "chance"]
    return Section("retrieval", "Zero-shot retrieval", [note], Table(header, rows, (1, 2, 3)))
