"""Reads text files that users write, in the encodings that their editors and shells choose."""

import codecs
import os

# Those of UTF-32 first: the one of UTF-16 is the beginning of one of them.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read(path: str | os.PathLike, what: str, errors: str = "strict") -> str:
    """Returns the text of a file, with ``\\n`` at the end of lines.

    It is UTF-8, or what its byte order mark says, which editors and shells on Windows write.

    Args:
      path: path of the file.
      what: the expected contents, such as "a flagfile", for the message.
      errors: what to do with bytes that are not UTF-8, as in ``bytes.decode``.

    Raises:
      ValueError: if the file cannot be read, or has another encoding.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
        text = content.decode(encoding) if encoding else content.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected {what}. Received: {path} ({error}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected {what}. Received: {path} ({error})") from None
    if "\0" in text:
        # Such as UTF-16 without a byte order mark.
        raise ValueError(f"Expected {what}. Received: {path} with zero bytes; save it as UTF-8")
    # Files that were joined have byte order marks between them.
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
