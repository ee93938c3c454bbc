"""The warning about a flat loss, and the progress bar."""

import io
import math
import re

import pytest
import rich.console
import small_progress

from alexnet_tf.training import actions
from alexnet_tf.utils import output


def flat_loss_warnings(losses, num_classes=10, after=3):
    warnings = []
    action = actions.FlatLoss(num_classes, lambda progress, chance: warnings.append(chance), after=after)
    counts = []
    for step, loss in enumerate(losses):
        action(small_progress.progress_at(step, train_loss=loss))
        counts.append(len(warnings))
    return warnings, counts


CHANCE = math.log(10)


def test_flat_loss_is_reported_once():
    warnings, counts = flat_loss_warnings([CHANCE + 0.01, CHANCE, CHANCE - 0.01, CHANCE, CHANCE, CHANCE, CHANCE])
    assert counts == [0, 0, 1, 1, 1, 1, 1]
    assert warnings == [CHANCE]


def test_flat_loss_is_reported_once_even_if_it_returns():
    _, counts = flat_loss_warnings([*[CHANCE] * 3, 1.0, *[CHANCE] * 6])
    assert counts[-1] == 1


@pytest.mark.parametrize(
    "losses",
    [
        [CHANCE, CHANCE],
        [CHANCE, CHANCE, 2.2, CHANCE, CHANCE],
        [CHANCE * 0.98] * 9,
        [CHANCE * 1.02] * 9,
        [0.1] * 9,
        [math.log(1000)] * 9,
    ],
)
def test_loss_that_is_not_flat_for_long_is_not_reported(losses):
    assert flat_loss_warnings(losses)[0] == []


class Screen:
    """A terminal with a clock that the test sets."""

    def __init__(self, width=120):
        self.now = 0.0
        self._file = io.StringIO()
        self.console = rich.console.Console(
            file=self._file, force_terminal=True, width=width, get_time=lambda: self.now, color_system=None
        )

    def text(self):
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self._file.getvalue())


def last_bar(screen):
    return [line for line in re.split(r"[\r\n]", screen.text()) if "images/s" in line][-1]


# On a slow machine minutes pass between two reports.
@pytest.mark.parametrize("seconds, left", [(10, "0:00:30"), (400, "0:20:00")])
def test_bar_shows_step_loss_speed_and_time_left(seconds, left):
    screen = Screen()
    with actions.Terminal(100, 20, 50, console=screen.console) as terminal:
        for step in (30, 40, 50, 60, 70):
            screen.now += seconds
            terminal(
                small_progress.progress_at(
                    step, epoch=step / 50, train_loss=0.6875, images_per_second=10 * 16 / seconds
                )
            )
    bar = last_bar(screen)
    assert bar.startswith("epoch 1.40/2 loss 0.688")
    assert f"70/100 steps, {160 / seconds:.1f} images/s" in bar
    assert bar.rstrip().endswith(left)


def test_lines_stay_above_the_bar():
    screen = Screen()
    with actions.Terminal(100, 0, 50, console=screen.console) as terminal:
        terminal(small_progress.progress_at(50))
        terminal.print("epoch 1: [bold]validation[/bold] error 3.10%")
    # Brackets are printed unchanged, as class names may contain them.
    assert "epoch 1: [bold]validation[/bold] error 3.10%\n" in screen.text()


def test_lines_go_to_standard_output_and_no_bar_where_that_is_a_file(capsys):
    with actions.Terminal(100, 0, 50) as terminal:
        for step in (10, 20):
            terminal(small_progress.progress_at(step))
        terminal.print("epoch 1: " + "a long line that no terminal may break " * 5)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines == ["epoch 1: " + "a long line that no terminal may break " * 5]


def test_a_file_gets_a_line_each_minute():
    now, file = 0.0, io.StringIO()
    console = output.Console(file=file, get_time=lambda: now)
    with actions.Terminal(1000, 100, 50, console=console) as terminal:
        # A report every 25 seconds, of 10 steps of 16 images.
        for number in range(1, 9):
            now += 25
            step = 100 + 10 * number
            values = {"epoch": step / 50, "train_loss": 5 - number / 8, "images_per_second": 160 / 25}
            terminal(small_progress.progress_at(step, **values))
    lines = [line for line in file.getvalue().splitlines() if line]
    assert lines == [
        "epoch 2.60/20 loss 4.625: 130 of 1000 steps, 6.4 images/s, 0:36:15 left",
        "epoch 3.20/20 loss 4.250: 160 of 1000 steps, 6.4 images/s, 0:35:00 left",
    ]
