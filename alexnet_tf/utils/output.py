"""The console that programs print to."""

from typing import Any

import rich.console

from alexnet_tf.utils import escaping


class Console(rich.console.Console):
    """A console for lines that may contain text of others: without markup, and without their escape sequences.

    Args:
      **options: of ``rich.console.Console``.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"soft_wrap": True, "highlight": False, "markup": False, "emoji": False, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as ``rich.console.Console.print`` does; strings through `escaping.for_terminal`."""
        safe = [escaping.for_terminal(each) if isinstance(each, str) else each for each in objects]
        super().print(*safe, **options)
