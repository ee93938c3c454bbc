"""Figures as blocks of a page."""

import os
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from alexnet_tf.reporting import figures
from alexnet_tf.reporting import pages

# Subdirectory of the page's directory.
FOLDER = "figures"


def blocks(directory: str | os.PathLike, name: str, draw: Callable[[], Any], caption: str) -> Iterator[pages.Block]:
    """Draws a figure and yields it, or without matplotlib a paragraph that says what is missing.

    Args:
      directory: of the page, with the subdirectory `FOLDER`.
      name: of the PNG file.
      draw: returns a ``matplotlib.figure.Figure``.
      caption: the text below it.

    Raises:
      OSError: if the file cannot be written.
    """
    try:
        figures.require_matplotlib("this picture")
    except ModuleNotFoundError as error:
        yield pages.Paragraph(str(error))
        return
    path = os.path.join(FOLDER, name)
    figures.save_figure(draw(), os.path.join(directory, path))
    yield pages.Picture(path, caption)
