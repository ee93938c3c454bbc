"""Pages: the same content in both formats, escaped, without external files."""

import base64
import html.parser
import re

import numpy as np
import pytest

from alexnet_tf.reporting import kernels
from alexnet_tf.reporting import pages

AWKWARD = 'a < b & "c" | d'
VOID = {"meta", "img"}


@pytest.fixture
def blocks(tmp_path):
    kernels.save_png(np.zeros([2, 3, 3], np.uint8), tmp_path / "dot.png")
    return [
        pages.Heading(f"Heading {AWKWARD}"),
        pages.Paragraph(f"Paragraph {AWKWARD}"),
        pages.Table(["name", "value"], [[AWKWARD, 0.5], ["second", 7]]),
        pages.Picture("dot.png", f"Caption {AWKWARD}"),
        pages.Listing(f"--flag={AWKWARD}\n  indented\n"),
    ]


class Reader(html.parser.HTMLParser):
    """Collects text by element, and checks that elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.append((self.open[-1], data))


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_html_contains_all_text_unchanged(blocks, tmp_path):
    reader = read(pages.html(f"Title {AWKWARD}", blocks, tmp_path))
    for element, text in (
        ("title", f"Title {AWKWARD}"),
        ("h1", f"Title {AWKWARD}"),
        ("h2", f"Heading {AWKWARD}"),
        ("p", f"Paragraph {AWKWARD}"),
        ("th", "name"),
        ("td", AWKWARD),
        ("td", "0.5"),
        ("figcaption", f"Caption {AWKWARD}"),
        ("pre", f"--flag={AWKWARD}\n  indented"),
    ):
        assert (element, text) in reader.text


def test_html_has_no_external_resources(blocks, tmp_path):
    text = pages.html("Title", blocks, tmp_path)
    (source,) = [value for tag, name, value in read(text).attributes if name == "src"]
    kind, content = source.split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == (tmp_path / "dot.png").read_bytes()
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)


def test_html_fits_a_narrow_screen(blocks, tmp_path):
    text = pages.html("Title", blocks, tmp_path)
    assert 'name="viewport"' in text and "max-width: 100%" in text
    # Tables wider than the screen scroll.
    assert '<div class="wide"><table>' in text


def test_markdown_has_the_same_content(blocks):
    text = pages.markdown("Title", blocks)
    assert text.startswith("# Title\n\n## Heading ")
    assert "| name | value |\n| --- | --- |\n" in text
    assert f"| {AWKWARD.replace('|', '&#124;')} | 0.5 |" in text
    assert f"![Caption {AWKWARD}](dot.png)" in text
    assert f"```\n--flag={AWKWARD}\n  indented\n```" in text


def test_fence_within_a_listing_does_not_end_it():
    text = pages.markdown("Title", [pages.Listing("before\n```\nafter")])
    assert "````\nbefore\n```\nafter\n````" in text


def test_missing_picture_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        pages.html("Title", [pages.Picture("none.png", "")], tmp_path)


def test_markdown_escapes_scripts_in_class_names():
    name = "<script>alert(1)</script>\n| b"
    blocks = [pages.Heading(name), pages.Paragraph(name), pages.Table(["a"], [[name]]), pages.Picture("x.png", name)]
    text = pages.markdown("title", blocks)
    assert "<script" not in text and "</script" not in text
    assert "&lt;script>alert(1)&lt;/script> | b" in text
    assert "| &lt;script>alert(1)&lt;/script> &#124; b |" in text
