import re
from functools import partial
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from tove.report.page import Card, Page, Section, Table, render_page
from tove.report.theme import Picture, draw

NASTY = "<script>alert('x')</script> & \"q\""
VOID = {"meta", "img", "source", "br", "link", "wbr"}


class Balanced(HTMLParser):
    """Follows the open tags and gathers addresses."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "srcset", "href", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(html):
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    return parser


def page_full_of(text):
    section = Section(
        "all",
        text,
        [text],
        Table([text, "b"], [[text, "1"]], (1,), (0,)),
        [Picture("p", text, text, b"light", b"dark")],
        [Card("data:image/png;base64,AA", text, text, [(text, text, True), ("m", text, None)])],
        [(text, text)],
    )
    return Page(text, text, text, [text], [section, Section("none", "Missing", ["Not run."])])


def test_names_from_users_and_plugins_are_escaped_everywhere():
    html = render_page(page_full_of(NASTY))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 15
    assert NASTY in parsed(html).text


def test_type_is_of_one_size_in_pictures_of_all_widths():
    def figure(theme, width):
        return Figure(figsize=(width, 1.0))

    drawn = [draw("p", "p", "p", partial(figure, width=width)) for width in (2.5, 5.0, 6.2)]
    html = render_page(Page("t", "s", "h", sections=[Section("p", "p", pictures=drawn)]))
    shown = re.findall(r'<figure style="flex-basis: ([\d.]+)rem">', html)
    assert [float(width) / picture.inches for width, picture in zip(shown, drawn, strict=True)] == [
        pytest.approx(6.3, abs=0.05)
    ] * 3
    (rule,) = re.findall(r"\nfigure \{[^}]*\}", html)
    assert "flex: 0 1" in rule  # none grows into the space that is left beside it


def test_a_long_name_over_a_column_may_break_and_is_escaped_all_the_same():
    table = Table(("vsr/top_answer_share", "<b>"), [["1", "2"]])
    html = render_page(Page("t", "s", "h", sections=[Section("p", "p", table=table)]))
    assert '<th scope="col">vsr/<wbr>top_<wbr>answer_<wbr>share</th>' in html
    assert "&lt;b&gt;" in html


def test_the_page_fetches_nothing():
    html = render_page(page_full_of("x"))
    addresses = parsed(html).addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?://|@import|url\(|<script|<link", html)


def test_light_and_dark_pictures_and_a_phone_s_width_are_there():
    html = render_page(page_full_of("x"))
    assert html.count("prefers-color-scheme: dark") == 2
    assert 'name="viewport"' in html


def test_a_section_without_content_is_its_sentence():
    html = render_page(page_full_of("x"))
    assert "Not run." in parsed(html).text
