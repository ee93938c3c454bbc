"""The console that programs print to, and how progress is shown in a terminal and in a file."""

from typing import Any

import rich.console
import rich.progress

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


class Progress(rich.progress.Progress):
    """Progress bars in a terminal; elsewhere, as in a file, a line every minute.

    Args:
      *columns: of ``rich.progress.Progress``. Elsewhere, a line has the task's description, how much is completed, the
        field `speed` if it has one, and the time left.
      console: of ``rich.progress.Progress``.
      **options: of ``rich.progress.Progress``.
    """

    LINE_SECONDS = 60.0

    def __init__(self, *columns: Any, console: rich.console.Console, **options: Any):
        super().__init__(*columns, console=console, **options)
        # Where a bar is not drawn: in a file, and in a terminal that cannot move its cursor.
        self._needs_lines = not (console.is_terminal and not console.is_dumb_terminal) and not self.disable
        self._last_line = self.get_time()

    def update(self, task_id: rich.progress.TaskID, **changes: Any) -> None:
        """Updates a task as ``rich.progress.Progress.update`` does, and prints a line if one is due."""
        super().update(task_id, **changes)
        if self._needs_lines and self.get_time() - self._last_line >= self.LINE_SECONDS:
            self._last_line = self.get_time()
            task = next(each for each in self.tasks if each.id == task_id)
            self.console.print(_line(task), markup=False)


def _line(task):
    """Returns a line about a task, as "training: 1200 of 9372 steps, 840.0 images/s, 0:20:26 left"."""
    parts = [f"{task.description}: {task.completed:.0f} of {task.total:.0f} {task.fields.get('speed', '')}".rstrip()]
    if task.time_remaining is not None:
        minutes, seconds = divmod(round(task.time_remaining), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return ", ".join(parts)
