"""One-line messages of Python's and TensorFlow's errors, and commands in messages."""

import ast
import re
import sys

import pytest
import source_code
import tensorflow as tf

from alexnet_tf.utils import messages

UNKNOWN = "Unknown image file format. One of JPEG, PNG, GIF, BMP required."


@pytest.mark.parametrize(
    "text, expected",
    [
        ("the reason", "the reason"),
        ("\n  the reason\nand more", "the reason"),
        (f"{{{{function_node __inference_f_783}}}} {UNKNOWN}\n\t [[{{{{node map}}}}]] [Op:__inference_f_783]", UNKNOWN),
        (f"{UNKNOWN} [Op:DecodeImage] name: ", UNKNOWN),
        (f"{UNKNOWN} [[{{{{node DecodeImage}}}}]]", UNKNOWN),
        # From a loaded SavedModel, a session, and a graph of this process.
        (
            "Graph execution error:\n\nDetected at node map/DecodeImage defined at (most recent call last):\n"
            f"<stack traces unavailable>\n{UNKNOWN}\n\t [[{{{{node map/DecodeImage}}}}]] [Op:__inference_f_783]",
            UNKNOWN,
        ),
        (f"Graph execution error:\n\n{UNKNOWN}\n\t [[{{{{node map/DecodeImage}}}}]]", UNKNOWN),
        (
            "Graph execution error:\n\nDetected at node f defined at (most recent call last):\n"
            '  File "/a.py", line 3, in f\n\n2 root error(s) found.\n'
            f"  (0) INVALID_ARGUMENT:  {UNKNOWN}\n\t [[{{{{node f}}}}]]\n0 successful operations.",
            UNKNOWN,
        ),
        ("ValueError: the reason\nTraceback (most recent call last):\n", "the reason"),
        ("Graph execution error:", "Graph execution error:"),
    ],
)
def test_first_line_is_the_informative_one(text, expected):
    assert messages.first_line(ValueError(text)) == expected
    assert messages.first_line(tf.errors.InvalidArgumentError(None, None, text)) == expected


def test_error_without_a_message_is_named_by_its_class():
    assert messages.first_line(KeyError()) == "KeyError"
    assert messages.first_line(ValueError("\n ")) == "ValueError"


@pytest.mark.parametrize(
    "value, text",
    [(99.8, "99.8"), (99.97, "100"), (100, "100"), (6.6667, "6.67"), (1234.5, "1,230"), (0.01234, "0.0123"), (0, "0")],
)
def test_numbers_have_three_significant_digits_and_no_exponent(value, text):
    assert messages.significant(value) == text


def test_different_values_are_listed_by_name():
    message = messages.different_values(
        "runs/a was trained", ["seed", "epochs"], {"seed": 0, "epochs": 3}, {"seed": 1}, "workdir"
    )
    assert message == (
        "runs/a was trained with different values: seed=0 (not 1), epochs=3 (not None); "
        "use the previous values or a new --workdir"
    )


@pytest.mark.parametrize("folder", ["tools", "./tools", "../{name}/tools", "{root}/tools"])
def test_programs_of_a_checkout_are_named_as_they_are_started(folder, monkeypatch):
    monkeypatch.chdir(source_code.ROOT)
    folder = folder.format(root=source_code.ROOT, name=source_code.ROOT.name)
    monkeypatch.setattr(sys, "argv", [f"{folder}/train.py"])
    assert messages.program("evaluate") == f"python {folder}/evaluate.py"


@pytest.mark.parametrize("started", ["/usr/bin/alexnet-tf", "alexnet-tf", "", "train.py", "tools/train.py"])
def test_programs_elsewhere_are_those_of_the_console_command(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [started])
    assert messages.program("evaluate") == "alexnet-tf evaluate"


def test_no_message_names_a_file_that_only_a_checkout_has():
    found = [
        f"{path}:{node.lineno}"
        for path in source_code.FILES
        if path.startswith("alexnet_tf/") and path != "alexnet_tf/utils/messages.py"
        for node in ast.walk(ast.parse((source_code.ROOT / path).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"tools/\w+\.py", node.value)
    ]
    assert not found
