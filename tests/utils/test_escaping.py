"""Text of others in a terminal, in Markdown and in HTML."""

import io

import pytest

from alexnet_tf.utils import escaping
from alexnet_tf.utils import output

ESCAPES = "a\x1b[31m\x9b2J\r\x07\x08b\x7f"


def test_escape_sequences_become_visible_in_a_terminal():
    assert escaping.for_terminal(f"{ESCAPES}\n\tc") == "a\\x1b[31m\\x9b2J\\r\\x07\\x08b\\x7f\n\tc"
    assert escaping.one_line(f"{ESCAPES}\n\tc").endswith("b\\x7f\\n\\tc")


@pytest.mark.parametrize("text", ["größer", "日本語 の 名前", "🐈", "a\u200db", "100% [of] <all>", "", "a\\b"])
def test_ordinary_text_is_unchanged_in_a_terminal(text):
    assert escaping.for_terminal(text) == escaping.one_line(text) == text


@pytest.mark.parametrize("text", ["\u202eabc", "a\u2028b", "\u2066", "\udcff"])
def test_characters_that_reorder_or_cannot_be_encoded_become_visible(text):
    for function in (escaping.for_terminal, escaping.one_line, escaping.for_markdown, escaping.for_html):
        assert function(text).isprintable() and function(text).encode()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("![t](http://evil/x.png)", r"![t\](http&#58;//evil/x.png)"),
        ("[text](javascript:x)", r"[text\](javascript:x)"),
        ("<img src=x>", "&lt;img src=x>"),
        ("<http://evil>", "&lt;http&#58;//evil>"),
        (
            "HTTPS://evil www.evil.com ftp://evil a@evil.com",
            "HTTPS&#58;//evil www&#46;evil.com ftp&#58;//evil a&#64;evil.com",
        ),
        ("a:b 10:30 x@ www", "a:b 10:30 x@ www"),
        ("a < b & c", "a < b & c"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("`code` *bold* __init__ max_drops", r"\`code\` \*bold\* \__init_\_ max_drops"),
        ("a\n# heading\n- item\n1. first\n---", r"a \# heading \- item 1\. first \---"),
        ("![t][x] [x]: http://evil", r"![t\][x] [x\]: http&#58;//evil"),
        ("[batch, 3] a\\b", r"[batch, 3] a\\b"),
        ("0.5%, -1 to 1.", "0.5%, -1 to 1\\."),
        (ESCAPES[:6], r"a\\x1b[31m"),
    ],
)
def test_markdown_shows_text_as_it_is(text, expected):
    assert escaping.for_markdown(text) == expected


@pytest.mark.parametrize("fence", ["```", "````", "``````", "a ``` b `````"])
def test_listing_is_not_ended_by_a_fence_in_it(fence):
    first, *lines, last = escaping.markdown_listing(f"before\n{fence}\nafter\n").split("\n")
    assert first == last and set(first) == {"`"} and lines == ["before", fence, "after"]
    assert first not in fence


def test_html_is_escaped_in_text_and_in_attributes():
    assert escaping.for_html('<b title="\'">&\x1b\n') == "&lt;b title=&quot;&#x27;&quot;&gt;&amp;\\x1b\n"


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "a\tb", "\x00", "a\u2028b", "\udcff", "\u202eb"])
def test_names_with_control_characters_are_refused(name):
    with pytest.raises(ValueError) as caught:
        escaping.check_names(["cat", name], "class")
    message = str(caught.value)
    assert message.startswith("Expected the name of a class without control characters. Received: number 1, '")
    assert message.endswith("'; rename it") and message.isprintable()
    escaping.check_names(["cat", "größer", "日本語", "a b"], "class")


def test_console_shows_text_without_markup_and_escape_sequences():
    file = io.StringIO()
    console = output.Console(file=file, width=20)
    console.print(f"[red]{ESCAPES}[/red] [/x] :smile:\nsecond", 3)
    assert file.getvalue() == "[red]a\\x1b[31m\\x9b2J\\r\\x07\\x08b\\x7f[/red] [/x] :smile:\nsecond 3\n"
