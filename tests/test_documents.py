"""The documents: every command, link and path in them is valid, and the commands that can run offline run."""

import ast
import functools
import pathlib
import re
import shlex
from typing import NamedTuple

import forks
import numpy as np
import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "RESULTS.md", "BUILD_NOTES.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
NAMES = [document.relative_to(ROOT).as_posix() for document in DOCUMENTS]

PATH = re.compile(r"(?<![\w/.-])(?:(?:tools|flags|alexnet_tf|tests|results|docs|\.ci)/[\w./*-]*\w[\w/*]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|sh|pip|tensorboard|alexnet-tf) [^`\n]+)`")
TOOL = re.compile(r"(?:python tools/|alexnet-tf )(\w+)")


class Command(NamedTuple):
    """A command in a document."""

    document: str
    line: str

    def arguments(self):
        return shlex.split(self.line, comments=True)


def commands():
    """Returns the commands of all documents; those joined by && are separate."""
    found = []
    for document, name in zip(DOCUMENTS, NAMES):
        text = document.read_text(encoding="utf-8")
        lines = [line for block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        lines += INLINE.findall(FENCE.sub("", text))
        found += [Command(name, part.strip()) for line in lines for part in line.split("&&") if part.strip()]
    return found


@functools.lru_cache
def flags_of(tool):
    """Returns the flags in the help of a program, which are the ones that it uses."""
    shown = forks.run(tool, "--help")
    assert shown.returncode == 0, shown.stderr
    return set(re.findall(r"--(?:\[no\])?(\w+)", shown.stdout))


def headings(document):
    """Returns the anchors of a document's headings, as GitHub writes them."""
    lines = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in lines}


def is_placeholder(path):
    """Whether a path has a part such as NAME-SEED or ROOM that stands for others."""
    return bool(re.search(r"(?<![A-Za-z])[A-Z]{2,}(?![A-Za-z]*\.md)", path))


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_exist(document):
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in headings(linked), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_paths_exist(document):
    text = re.sub(r"https?://\S+", "", document.read_text(encoding="utf-8"))
    for path in sorted(set(PATH.findall(text))):
        if not is_placeholder(path):
            assert list(ROOT.glob(path.rstrip("/"))), f"{document.name} names {path}"


def test_placeholders_are_recognized():
    assert is_placeholder("results/NAME-SEED.json") and is_placeholder("tests/ROOM/test_MODULE.py")
    assert not is_placeholder("alexnet_tf/flagfiles.py") and not is_placeholder("docs/README.md")


def test_experiments_without_a_folder_in_the_documents_exist():
    for row in re.findall(
        r"^\| (`\w.*?`) \|", (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8"), re.MULTILINE
    ):
        for name in re.findall(r"`([\w*]+)`", row):
            assert list((ROOT / "flags").glob(f"{name}.flags")), name


@pytest.mark.parametrize("command", commands(), ids=lambda command: f"{command.document}: {command.line[:60]}")
def test_commands_name_existing_tools_and_flags(command):
    tool = TOOL.match(command.line)
    if not tool or is_placeholder(tool[1]):
        return
    assert (ROOT / "tools" / f"{tool[1]}.py").is_file()
    for argument in command.arguments():
        if not argument.startswith("--"):
            continue
        flag, _, value = argument.removeprefix("--").partition("=")
        known = flags_of(tool[1]) | {"help"}
        assert flag in known or flag.removeprefix("no") in known, f"--{flag} is not a flag of tools/{tool[1]}.py"
        if flag in ("flagfile", "flagfiles"):
            for path in value.split(","):
                assert is_placeholder(path) or list(ROOT.glob(path)) or list(ROOT.glob(f"flags/{path}.flags")), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_extras_exist(document):
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extras in re.findall(r"pip install .*'\.\[([\w,]+)\]'", document.read_text(encoding="utf-8")):
        for extra in extras.split(","):
            assert f'"{extra}": [' in setup, f"{document.name} installs the extra {extra}"


def test_flags_in_the_text_exist():
    tools = [path.stem for path in (ROOT / "tools").glob("*.py")]
    known = {"help"}.union(*map(flags_of, tools))
    for document, name in zip(DOCUMENTS, NAMES):
        if name == "CHANGELOG.md":
            # It names old flags, too.
            continue
        for flag in re.findall(r"`--(\w+)", FENCE.sub("", document.read_text(encoding="utf-8"))):
            assert flag in known or flag.removeprefix("no") in known, f"{name} names --{flag}"


@pytest.mark.parametrize("name, lines", [("README.md", 170), ("BUILD_NOTES.md", 250)])
def test_length(name, lines):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= lines


def test_front_page_has_a_picture_and_the_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("![") for line in lines[:29])
    for command in (
        "pip install -e '.[cpu,quickstart]' && "
        "python tools/train.py --flagfile=flags/quickstart.flags --workdir=runs/quickstart",
        "pip install -e '.[cpu,test]' && python -m pytest",
    ):
        assert lines.count(command) == 1


def test_answers_to_where_is_name_existing_definitions():
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.*?) \| `(.*?)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 20
    for question, path, names in rows:
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        defined = {getattr(each, "name", None) for each in body}
        defined |= {getattr(target, "id", None) for each in body for target in getattr(each, "targets", ())}
        for name in re.findall(r"`(\w+)`", names):
            assert name in defined, f"{question} {path} does not define {name}"


def test_map_has_every_module():
    text = (ROOT / "BUILD_NOTES.md").read_text(encoding="utf-8")
    rooms = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", text, re.MULTILINE))
    for path in sorted((ROOT / "alexnet_tf").rglob("*.py")):
        room, stem = path.parent.name, path.stem
        if not stem.startswith("_"):
            assert f"`{stem}`" in rooms[room], f"{room}/{stem} is not in the map of BUILD_NOTES.md"


# Flags that make any documented training small enough for a test.
SMALL = "--network=cifar10_26 --normalization=none --image_size=32 --crop_size=32 --batch_size=4 --epochs=1"
SMALL += " --schedule=linear --dropout=0 --drop_epochs= --color_noise=0 --source=folder:photographs"
SMALL += " --intra_op_threads=1 --report_steps=1 --summary_epochs=0 --initialize_from= --freeze="


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with the repository's tools and flags, photographs, two files and data for the experiments."""
    directory = tmp_path_factory.mktemp("documents")
    for name in ("tools", "flags", "results"):
        (directory / name).symlink_to(ROOT / name)
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for number, name in enumerate(("cat", "dog")):
            folder = directory / "photographs" / split / name
            folder.mkdir(parents=True)
            for image in range(count):
                pixels = generator.integers(100 * number, 100 * number + 100, (48, 64, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{image}.jpg")
                PIL.Image.fromarray(pixels).save(directory / f"{name}.jpg")
    (directory / "dog.jpg").rename(directory / "dog.png")
    return directory


# The documented commands that run here, in this order, each with flags that make it small.
RUNNABLE = {
    "python tools/train.py --flagfile=flags/quickstart.flags": SMALL,
    "python tools/train.py --flagfile=flags/own_pictures.flags --source": SMALL,
    "python tools/evaluate.py --workdir=runs/mine": "",
    "python tools/figures.py --workdir=runs/mine": "",
    "python tools/neighbours.py --workdir=runs/mine": "--random=2 --k=2",
    "python tools/features.py --workdir=runs/mine --layer=fc7,conv5": "--layer=fc64,conv3",
    "python tools/features.py --workdir=runs/mine --layer=fc7 --split=train": "--layer=relu1",
    "python tools/explain.py --workdir=runs/mine cat.jpg": "",
    "python tools/explain.py --workdir=runs/mine --method=occlusion": "--positions=4",
    "python tools/export.py --workdir=runs/mine": "",
    "python tools/predict.py --saved_model=served/mine": "",
    "python tools/prepare.py --source=folder:photographs": "",
    "python tools/prepare.py --verify": "",
    "python tools/train.py --flagfile=flags/own_pictures.flags --data_dir": (
        f"{SMALL} --source= --image_size=256 --workdir=runs/prepared"
    ),
    "python tools/experiments.py --flagfiles=flags/cifar10_26.flags,flags/cifar10_18.flags": "--list --table=",
    "python tools/networks.py": "--figure=networks.png",
}


@pytest.mark.parametrize("beginning", RUNNABLE)
def test_documented_command_runs(directory, beginning):
    documented = [command for command in commands() if command.line.startswith(beginning)]
    assert documented, f"No document has the command {beginning}"
    _, tool, *arguments = documented[0].arguments()
    extra = RUNNABLE[beginning].split()
    # One of the reports is enough.
    report = "--workdir=runs/mine" in documented[0].line
    done = forks.run(pathlib.Path(tool).stem, *arguments, *extra, directory=directory, report=report)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_documented_python_lines_compute_features(directory, monkeypatch):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "features.md").read_text(encoding="utf-8"), re.M | re.S
    )
    assert len(blocks) == 2 and 'layer="fc7"' in blocks[0]
    monkeypatch.chdir(directory)
    # The small network of the commands above has no fc7.
    names = {}
    exec("".join(blocks).replace('"fc7"', '"fc64"'), names)
    assert names["features"].shape == (2, 64) and {each.class_name for each in names["predictions"][1]} == {
        "cat",
        "dog",
    }
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in ('run = alexnet_tf.load("runs/mine")', 'features = run.features(["cat.jpg", "dog.png"], layer="fc7")'):
        assert line in front and line in blocks[0]
