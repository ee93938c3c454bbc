"""Progress in a terminal and in a file."""

import io

import pytest
import rich.progress

from alexnet_tf.runs import dataset
from alexnet_tf.utils import output


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def shown(clock, seconds, steps=8, **options):
    """Returns what a bar shows if each of eight steps takes some seconds."""
    file = io.StringIO()
    console = output.Console(file=file, get_time=clock, width=120, color_system=None, **options)
    with dataset.progress_bar(console) as bar:
        task = bar.add_task("reading 80 train images", total=80)
        for step in range(1, steps + 1):
            clock.now += seconds
            bar.update(task, completed=10 * step)
    return file.getvalue()


def test_a_file_gets_a_line_each_minute():
    lines = [line for line in shown(Clock(), 20).splitlines() if line]
    assert lines == [
        "reading 80 train images: 30 of 80, 0:01:40 left",
        "reading 80 train images: 60 of 80, 0:00:40 left",
    ]


def test_what_takes_less_than_a_minute_has_no_line_in_a_file():
    assert not shown(Clock(), 7).strip()


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_terminal_has_a_bar_instead_of_lines_unless_it_is_dumb(terminal):
    text = shown(Clock(), 20, force_terminal=True, _environ={"TERM": terminal})
    assert ("30 of 80" in text) == (terminal == "dumb")


def test_a_disabled_bar_prints_nothing(capsys, monkeypatch):
    monkeypatch.setattr(output.Progress, "LINE_SECONDS", 0.0)
    with dataset.progress_bar(None) as bar:
        bar.update(bar.add_task("reading", total=2), completed=1)
    assert capsys.readouterr().out == ""


def test_the_time_left_is_unknown_at_first():
    file, clock = io.StringIO(), Clock()
    columns = rich.progress.TextColumn("{task.description}", markup=False)
    with output.Progress(columns, console=output.Console(file=file, get_time=clock)) as bar:
        clock.now = 90
        bar.update(bar.add_task("[b]reading[/b]", total=2), completed=1)
    assert "[b]reading[/b]: 1 of 2\n" in file.getvalue()
