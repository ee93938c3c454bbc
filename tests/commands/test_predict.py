"""Tests of tools/predict.py from the command line."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import forks
import pytest
import stand_in

from alexnet_tf.serving import stub_server

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    stand_in.save(directory)
    return directory


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "predict.py"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        cwd=ROOT,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


def ends_with_one_line(done, status, message):
    assert done.returncode == status, done.stderr
    assert message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    return True


def test_saved_model_classifies_images_and_reports_unreadable_files(export_dir, tmp_path):
    paths = stand_in.write_images(tmp_path, [stand_in.png(10, 20, 70), stand_in.BAD, stand_in.png(0, 200, 0)])
    done = forks.run("predict", f"--saved_model={export_dir}", "--batch_size=2", *paths, tmp_path / "none.png")
    assert ends_with_one_line(done, 1, f"2 of 4 images could not be classified, the first {paths[1]}: {stand_in.ERROR}")
    lines = done.stdout.splitlines()
    assert [lines[place] for place in (0, 3, 5, 8)] == [*paths, str(tmp_path / "none.png")]
    assert lines[1].split() == ["blue", "70.00%", "█" * 14]
    assert lines[2].split() == ["größtes", "Grün", "20.00%", "█" * 4]
    assert lines[4] == f"  {stand_in.ERROR}"
    assert lines[6].split() == ["größtes", "Grün", "100.00%", "█" * 20]
    assert lines[9] == "  Cannot read the file: No such file or directory"


def test_server_answers_in_json_on_an_ascii_terminal(export_dir, tmp_path):
    paths = stand_in.write_images(tmp_path, [stand_in.png(10, 70, 20), stand_in.BAD])
    with stub_server.serve(export_dir, model_name="flowers") as server:
        options = [f"--server=127.0.0.1:{server.port}", "--model_name=flowers", "--timeout=60", "--top=1", "--json"]
        done = forks.run("predict", *options, *paths, encoding="ascii")
    assert ends_with_one_line(done, 1, "1 of 2 images could not be classified")
    answers = json.loads(done.stdout)
    assert answers[0].pop("scores") == pytest.approx([0.7])
    assert answers == [
        {"path": paths[0], "classes": ["größtes Grün"]},
        {"path": paths[1], "error": stand_in.ERROR},
    ]


def test_ascii_terminals_get_names_without_bars(export_dir, tmp_path):
    (path,) = stand_in.write_images(tmp_path, [stand_in.png(10, 20, 70)])
    done = run(f"--saved_model={export_dir / '1'}", path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "blue" in done.stdout and "gr??tes Gr?n" in done.stdout and "70.00%" in done.stdout


def test_folders_patterns_and_lists_are_written_to_a_table(export_dir, tmp_path):
    folder = tmp_path / "photographs"
    (folder / "a, b").mkdir(parents=True)
    paths = stand_in.write_images(folder / "a, b", [stand_in.png(10, 20, 70), stand_in.png(0, 200, 0)])
    (tmp_path / "list.txt").write_text(f"{paths[1]}\n{tmp_path / 'none.png'}\n")
    arguments = [str(folder), f"{folder}/*/*", str(tmp_path / "list.txt"), paths[0]]
    done = forks.run("predict", f"--saved_model={export_dir}", f"--csv={tmp_path / 'p.csv'}", *arguments)
    message = f"1 of 7 images could not be classified, the first {tmp_path / 'none.png'}: Cannot read the file"
    assert ends_with_one_line(done, 1, message)
    assert "6 of 7 images classified" in done.stdout
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:3] == ["file", "class_1", "probability_1"] and header[-1] == "error"
    assert [row[0] for row in rows] == [*paths, *paths, paths[1], str(tmp_path / "none.png"), paths[0]]
    assert [row[1] for row in rows] == ["blue", "größtes Grün"] * 2 + ["größtes Grün", "", "blue"]


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (
            ["--saved_model=a", "--csv=b.csv", "--json", "c.png"],
            2,
            "Expected at most one of --csv and --json. Received: both",
        ),
        (
            ["--saved_model=a", "--csv=/none/b.csv", "c.png"],
            1,
            "Expected a CSV file in an existing directory. Received: ",
        ),
        (["image.png"], 2, "Expected exactly one of --model, --saved_model and --server. Received: none"),
        (["--saved_model=a", "--server=b:1", "image.png"], 2, "Received: --saved_model and --server"),
        (["--saved_model=a"], 2, "Expected at least one IMAGE. Received: none"),
        (["--server=a:1", "--protocol=http", "image.png"], 2, "protocol"),
        (
            ["--server=127.0.0.1:1", str(ROOT / "README.md")],
            1,
            "Expected a gRPC model server at 127.0.0.1:1. Received:",
        ),
    ],
)
def test_invalid_usage_and_servers_are_reported_in_one_line(arguments, status, message):
    done = forks.run("predict", *arguments)
    assert ends_with_one_line(done, status, message)
    assert not done.stdout


def test_help_lists_the_flags():
    done = run("--help")
    assert done.returncode == 0 and not done.stderr
    for words in ("IMAGE...", "--saved_model", "--server", "--protocol", "--top", "--json", "--batch_size"):
        assert words in done.stdout
