"""Paths on command lines: ``~``, characters of patterns, and names that are not UTF-8."""

import os
import pathlib
import re

import forks
import pytest
import small_runs
import stand_in

from alexnet_tf import flagfiles
from alexnet_tf.commands import __main__ as console_command
from alexnet_tf.commands import experiments
from alexnet_tf.commands import program
from alexnet_tf.serving import client
from alexnet_tf.serving import stub_server

PROGRAMS = console_command.PROGRAMS
ABOUT_PATHS = re.compile(r"\b(file|files|directory|folder|an export|flagfiles|DIR)\b")
# Flags whose help mentions directories or files that they do not name.
OTHERS = {"checkpoint_steps", "recipe", "channels"}


def parse(module, *arguments):
    own_flags = module.FLAGS
    return program.parse(["test", *arguments], "", own_flags, fields=program.ALL_FIELDS, arguments="IMAGE...")


@pytest.mark.parametrize("name", PROGRAMS)
def test_home_directory_is_expanded_in_every_flag_of_a_path(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    module = PROGRAMS[name]
    if set(module.FLAGS) & set(program.ALL_FIELDS):
        # These programs have no flags of the configuration.
        values = program.parse(["test", "image"], "", module.FLAGS, arguments="IMAGE...").flag_values
        fields = ()
    else:
        values = parse(module, "image").flag_values
        fields = program.ALL_FIELDS
    texts = [flag for flag in (*module.FLAGS, *fields) if values[flag].flag_type() not in ("bool", "int", "float")]
    for flag in {flag for flag in texts if ABOUT_PATHS.search(values[flag].help)} - OTHERS:
        parsed = program.parse(
            ["test", f"--{flag}=~/a b", "image"], "", module.FLAGS, fields=fields, arguments="IMAGE..."
        )
        value = parsed.flag_values[flag].value
        assert value in ("/home/someone/a b", ["/home/someone/a b"]), flag


def test_home_directory_is_expanded_in_sources_and_flagfiles(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.flags").write_text("--source=folder:~/d\n--initialize_from=~/run\n")
    (tmp_path / "b.flags").write_text("--flagfile=~/a.flags\n--batch_size=3\n")
    read = flagfiles.from_flags(parse(PROGRAMS["train"], "--flagfile=~/b.flags", "image").flag_values)
    assert (read.source, read.initialize_from, read.batch_size) == (f"folder:{tmp_path}/d", f"{tmp_path}/run", 3)
    assert flagfiles.read_flagfile(tmp_path / "b.flags") == read
    assert f"--source=folder:{tmp_path}/d\n" in flagfiles.to_text(read)


@pytest.mark.parametrize(
    "value, expected",
    [
        ("a,b.jpg", ["a,b.jpg"]),
        ("c.jpg,a,b.jpg, c.jpg", ["c.jpg", "a,b.jpg", "c.jpg"]),
        ("c.jpg,d.jpg", ["c.jpg", "d.jpg"]),
        ("a,x.jpg", ["a", "x.jpg"]),
        ('"c.jpg,d.jpg",a', ["c.jpg,d.jpg", "a"]),
        ("c.jpg", ["c.jpg"]),
        ("", []),
    ],
)
def test_commas_in_names_of_files(value, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.jpg", "c.jpg", "d.jpg", "c.jpg,d.jpg"):
        pathlib.Path(name).write_text("")
    parsed = parse(PROGRAMS["neighbours"], f"--image={value}", "image").flag_values
    assert parsed["image"].value == expected
    # As it is written in a line that repeats the command.
    assert parse(PROGRAMS["neighbours"], parsed["image"].serialize(), "image").flag_values["image"].value == expected


def test_flagfiles_of_experiments_are_names_before_they_are_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[b].flags", "ab.flags", "ac.flags"):
        pathlib.Path(name).write_text("")
    assert experiments._find_flagfiles("a[b].flags") == ["a[b].flags"]
    assert experiments._find_flagfiles("a?.flags") == ["ab.flags", "ac.flags"]
    assert experiments._find_flagfiles("a[bc].flags") == ["ab.flags", "ac.flags"]


@pytest.mark.parametrize("arguments", [["--workdir={}"], ["--workdir", "{}"], ["--source=folder:{}"]])
def test_arguments_that_are_not_utf_8_are_rejected(arguments, capsys):
    odd = os.fsdecode(b"/tmp/caf\xe9")
    with pytest.raises(SystemExit) as caught:
        PROGRAMS["train"].main(["train", *(each.format(odd) for each in arguments)])
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("train: Expected arguments in UTF-8. Received: ") and "/tmp/caf\\xe9; rename the file" in line
    )
    assert line.count("\n") == 1


def test_image_whose_name_is_not_utf_8_is_classified(tmp_path):
    stand_in.save(tmp_path / "export")
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(path, "wb") as file:
        file.write(stand_in.png(10, 20, 70))
    done = forks.run("predict", f"--saved_model={tmp_path}/export", os.fsdecode(path))
    assert done.returncode == 0 and "70.00%" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["e[0]", "e*", "back\\slash"])
def test_export_in_a_directory_with_characters_of_patterns_is_served(tmp_path, name):
    stand_in.save(tmp_path / name)
    image = stand_in.png(10, 20, 70)
    here = client.SavedModel(tmp_path / name).predict([image])
    with stub_server.serve(tmp_path / name) as server:
        with client.open_server(f"127.0.0.1:{server.port}", timeout=30) as remote:
            assert remote.predict([image])["scores"].tolist() == here["scores"].tolist()


@pytest.mark.slow
def test_run_in_a_directory_with_brackets_trains_resumes_and_is_exported(tmp_path):
    folder = small_runs.make_pictures(tmp_path / "d[1]*")
    workdir, served = tmp_path / "runs" / "b[lr=0.01]", tmp_path / "served[0]"
    train = small_runs.flags(small_runs.make_config(folder, epochs=1, drop_epochs=()))
    for end in ("report.html", "resumed from"):
        done = forks.run("train", *train, f"--workdir={workdir}", report=end == "report.html")
        assert done.returncode == 0 and end in done.stdout, done.stdout + done.stderr
        assert "b[lr=0.01]" in done.stdout
    done = forks.run("evaluate", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    other = forks.run(
        "train",
        *train,
        f"--initialize_from={workdir}",
        "--new_layers=fc10",
        f"--workdir={tmp_path}/other[]",
        report=False,
    )
    assert other.returncode == 0 and f"but fc10 from {workdir}/checkpoints/ckpt-3" in other.stdout, other.stderr
    done = forks.run("export", f"--workdir={workdir}", f"--export_dir={served}")
    assert done.returncode == 0, done.stderr
    picture = next((folder / "test" / "dark").iterdir())
    done = forks.run("predict", f"--saved_model={served}", str(picture))
    assert done.returncode == 0 and "%" in done.stdout, done.stderr


def rename(folder, name, odd):
    os.rename(os.path.join(os.fsencode(folder), name), os.path.join(os.fsencode(folder), odd))


@pytest.mark.slow
def test_photographs_whose_names_are_not_utf_8_are_used_and_named(tmp_path):
    folder = small_runs.make_pictures(tmp_path / "d")
    rename(folder / "test" / "dark", b"0.png", b"caf\xe9.png")
    rename(folder / "train" / "bright", b"0.png", b"b\xe9.png")
    (folder / "train" / "bright" / "1.png").write_bytes(b"not an image")
    rename(folder / "train" / "bright", b"1.png", b"bad\xe9.png")
    workdir, prepared = tmp_path / "run", tmp_path / "prepared[0]*"
    done = forks.run(
        "train", *small_runs.flags(small_runs.make_config(folder, epochs=1, drop_epochs=())), f"--workdir={workdir}"
    )
    assert done.returncode == 0 and "bright/bad\\xe9.png" in done.stdout, done.stdout + done.stderr
    assert "train: 23 images" in done.stdout and "test: 10 images" in done.stdout
    done = forks.run("neighbours", f"--workdir={workdir}", "--query=9", "--k=2")
    assert done.returncode == 0 and "dark/caf\\xe9.png: dark" in done.stdout, done.stdout + done.stderr
    done = forks.run("prepare", f"--source=folder:{folder}", f"--data_dir={prepared}", "--validation_fraction=0.2")
    assert done.returncode == 0 and "bad\\xe9.png" in done.stdout + done.stderr, done.stdout + done.stderr
    done = forks.run("prepare", "--verify", f"--data_dir={prepared}")
    assert done.returncode == 0 and "33 images are undamaged" in done.stdout, done.stdout + done.stderr
