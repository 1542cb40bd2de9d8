"""The page: sections of words, tables and pictures, laid out by one template into one file.

Everything that a user or a plugin has named is escaped by the template, and nothing on the page is
fetched from anywhere: pictures are data URIs.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tove.registry import SECTIONS
from tove.report.theme import Picture

__all__ = [
    "Card",
    "Page",
    "Section",
    "Table",
    "data_uri",
    "order_of",
    "png_of",
    "render_page",
    "section",
]


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        header: the columns.
        rows: as many cells each, as text; the first names the row.
        numeric: columns that are set to the right.
        emphasised: positions of rows that matter most.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()
    emphasised: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Card:
    """One test image with what was asked and what each model answered.

    Attributes:
        image: a data URI; empty where nothing is seen.
        question: the statement or the prompt.
        truth: the right answer, or a reference.
        answers: (model, answer, right or wrong or None where a caption is).
    """

    image: str
    question: str
    truth: str
    answers: Sequence[tuple[str, str, bool | None]]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        name: its anchor.
        title: its heading.
        paragraphs: sentences above everything else; the only content where a stage is missing.
        table: under the pictures.
        pictures: under the paragraphs.
        cards: under the table.
        folded: (summary, text) that the reader may open.
    """

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    cards: Sequence[Card] = ()
    folded: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The report.

    Attributes:
        title: of the run.
        subtitle: when, from what.
        headline: the result in one sentence.
        findings: the sentences under it.
        sections: in order.
    """

    title: str
    subtitle: str
    headline: str
    findings: Sequence[str] = ()
    sections: Sequence[Section] = field(default=())


MakeSection = Callable[[Any], Section | None]


def section(order: int) -> Callable[[MakeSection], MakeSection]:
    """Register a function of the report's material as the section at a place of the page."""

    def register(make: MakeSection) -> MakeSection:
        make.order = order  # type: ignore[attr-defined]
        SECTIONS.register_module(name=f"{make.__module__}.{make.__qualname__}", module=make)
        return make

    return register


def order_of(make: MakeSection) -> int:
    """Return the place of a section on the page."""
    order: int = getattr(make, "order", 1000)
    return order


def data_uri(png: bytes) -> str:
    """Turn a PNG into an address that needs no fetching."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def png_of(pixels_SS3: NDArray[np.uint8]) -> bytes:
    """Encode pixels [S, S, 3] as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_SS3).save(buffer, format="png")
    return buffer.getvalue()


def render_page(page: Page) -> str:
    """Lay the page out as HTML."""
    import jinja2

    source = resources.files("tove.report").joinpath("template.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = data_uri
    return environment.from_string(source).render(page=page)
