"""Pages of text, tables and images, as Markdown and as one self-contained HTML file."""

import base64
import os
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from alexnet_tf.utils import escaping

_STYLE = """\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #8884; }
figure { margin: 1rem 0; }
figcaption { font-size: 0.9rem; opacity: 0.8; }
img { max-width: 100%; height: auto; background: white; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #8884; text-align: left; }
pre { overflow-x: auto; padding: 0.7rem; background: #8882; font-size: 0.85rem; }
"""


class Heading(NamedTuple):
    """The title of a section."""

    text: str


class Paragraph(NamedTuple):
    """A paragraph of text."""

    text: str


class Table(NamedTuple):
    """A table; all rows are as long as the header, and cells are formatted by ``str``."""

    header: Sequence[Any]
    rows: Sequence[Sequence[Any]]


class Picture(NamedTuple):
    """A PNG file with a caption; its path is relative to the directory of the page."""

    path: str
    caption: str


class Listing(NamedTuple):
    """Preformatted lines."""

    text: str


Block = Heading | Paragraph | Table | Picture | Listing


def markdown(title: str, blocks: Sequence[Block]) -> str:
    """Returns a page in Markdown, with links to the files of its pictures.

    Args:
      title: str.
      blocks: list of `Heading`, `Paragraph`, `Table`, `Picture` and `Listing`.
    """
    return "\n\n".join([f"# {escaping.for_markdown(title)}", *map(_block_to_markdown, blocks)]) + "\n"


def _block_to_markdown(block):
    escape = escaping.for_markdown
    if isinstance(block, Heading):
        return f"## {escape(block.text)}"
    if isinstance(block, Table):
        rows = [list(map(escaping.for_markdown_cell, row)) for row in (block.header, *block.rows)]
        rows.insert(1, ["---"] * len(block.header))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    if isinstance(block, Picture):
        caption = escape(block.caption)
        return f"![{caption}]({block.path})\n\n*{caption}*"
    if isinstance(block, Listing):
        return escaping.markdown_listing(block.text)
    return escape(block.text)


def html(title: str, blocks: Sequence[Block], directory: str | os.PathLike) -> str:
    """Returns a page in HTML that contains its pictures and style, for large and small screens.

    Args:
      title, blocks: as in `markdown`.
      directory: the directory of the pictures.

    Raises:
      OSError: for a picture that cannot be read.
    """
    body = "\n".join(_block_to_html(block, directory) for block in blocks)
    title = escaping.for_html(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )


def _block_to_html(block, directory):
    escape = escaping.for_html
    if isinstance(block, Heading):
        return f"<h2>{escape(block.text)}</h2>"
    if isinstance(block, Table):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
        rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
        return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'
    if isinstance(block, Picture):
        with open(os.path.join(directory, block.path), "rb") as file:
            content = base64.b64encode(file.read()).decode()
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{content}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    if isinstance(block, Listing):
        # Lines break only where they do in the text, which may be copied.
        return f"<pre>{escaping.for_html(block.text.rstrip())}</pre>"
    return f"<p>{escape(block.text)}</p>"
