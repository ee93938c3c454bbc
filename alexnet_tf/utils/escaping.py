"""Text of others, such as the names of classes and files and the errors of libraries, made safe where it is shown.

One function for each way out: `for_terminal` and `one_line`, `for_markdown` and `markdown_listing`, `for_html`. Escape
sequences, which could change what a terminal shows, and characters that reorder or break lines become visible, as
``\\x1b``.
"""

import html
import re
from collections.abc import Sequence

# Control characters, separators of lines and paragraphs, controls of the writing direction, and halves of characters,
# which stand for the bytes of a file name that is not UTF-8.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What Markdown would read as formatting, a link or an image; and what begins a heading, a list or a quotation where it
# begins a line, which may be at any word.
_FORMATTING = re.compile(
    r"[\\`*]|\](?=[(\[:])|(?<!\S)(#|>|[-+](?=\s)|[-=_~]{3,}(?!\S)|_)|_(?!\S)|(?<!\S)\d+(?=[.)](\s|$))"
)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
# GitHub makes links of these; a viewer asks the server of none, but a click does. A space of no width would change text
# that is copied, so the punctuation becomes an entity.
_ADDRESS = re.compile(r"(?i)(?<=http)(:)(?=//)|(?<=https)(:)(?=//)|(?<=ftp)(:)(?=//)|(?<=www)(\.)|(?<=\w)(@)(?=\w)")
_FENCE = re.compile(r"`{3,}")


def _visible(match):
    return match[0].encode("unicode_escape").decode()


def for_terminal(text: object) -> str:
    """Returns lines of text for a terminal; newlines and tabs stay."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in "\n\t" else _visible(match), str(text))


def one_line(text: object) -> str:
    """Returns text for one line of a terminal or a file."""
    return _UNSAFE.sub(_visible, str(text))


def for_markdown(text: object) -> str:
    """Returns text in one line that Markdown shows as it is: no formatting, link, image or HTML."""
    line = one_line(" ".join(str(text).split()))
    line = _FORMATTING.sub(lambda match: match[0] + "\\" if match[0].isdigit() else "\\" + match[0], line)
    line = _TAG.sub("&lt;", _ENTITY.sub("&amp;", line))
    return _ADDRESS.sub(lambda match: f"&#{ord(match[0])};", line)


def for_markdown_cell(text: object) -> str:
    """Returns text for a cell of a table in Markdown."""
    return for_markdown(text).replace("|", "&#124;")


def markdown_listing(text: object) -> str:
    """Returns a block of Markdown with preformatted lines."""
    text = for_terminal(text).rstrip()
    # Longer than any in the text, which would end the block.
    fence = "`" * (1 + max((len(found) for found in _FENCE.findall(text)), default=2))
    return f"{fence}\n{text}\n{fence}"


def for_html(text: object) -> str:
    """Returns lines of text for HTML, between tags or within a quoted attribute."""
    return html.escape(for_terminal(text))


def check_names(names: Sequence[str], what: str) -> None:
    """Checks that names can be written to a file of one name a line, and shown in a terminal.

    Args:
      names: list of str.
      what: what they name, such as "class", for the message.

    Raises:
      ValueError: for the first name with a control character, such as a newline.
    """
    for number, name in enumerate(names):
        if _UNSAFE.search(name):
            raise ValueError(
                f"Expected the name of a {what} without control characters. Received: number {number}, "
                f"'{one_line(name)}'; rename it"
            )
