"""Which checkpoint of a run is used: the best, the newest, or the one that the run's configuration states."""

import pytest

from alexnet_tf import config
from alexnet_tf.runs import selection
from alexnet_tf.training import best_checkpoint
from alexnet_tf.utils import files
from alexnet_tf.utils import schema

RECORD = best_checkpoint.Record(12, 3.0, 0.25, 0.7, "validation")


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "checkpoints" / "best").mkdir(parents=True)
    path = tmp_path / "checkpoints" / "best" / "best.json"
    files.write_json(path, schema.sealed(RECORD._asdict()))
    return tmp_path


@pytest.mark.parametrize(
    "stated, requested, name",
    [
        ("auto", "auto", "best"),
        ("newest", "auto", "newest"),
        ("best", "auto", "best"),
        ("newest", "best", "best"),
        ("auto", "newest", "newest"),
    ],
)
def test_a_request_comes_before_the_run_and_the_best_before_the_newest(recorded, stated, requested, name):
    chosen = selection.select(recorded, config.Config(checkpoint=stated), requested)
    path = str(recorded / "checkpoints" / "best" / "ckpt-12")
    assert (chosen.name, chosen.path) == (name, path if name == "best" else None)


@pytest.mark.parametrize("stated", ["auto", "best", "newest"])
def test_a_run_without_a_best_checkpoint_uses_the_newest(tmp_path, stated):
    chosen = selection.select(tmp_path, config.Config(checkpoint=stated))
    assert (chosen.name, chosen.path, chosen.describe()) == ("newest", None, "newest")
    assert chosen.to_json() == {"selected": "newest"}
    with pytest.raises(ValueError, match="Expected a best checkpoint in .* Received: none; use --checkpoint=newest"):
        selection.select(tmp_path, config.Config(), "best")


def test_the_choice_is_said_to_be_optimistic(recorded):
    chosen = selection.select(recorded, config.Config())
    expected = "best, epoch 3: 25.00% error on the validation set, optimistic because the epoch was selected on it"
    assert chosen.describe() == expected
    written = chosen.to_json()
    assert written["selected"] == "best" and written["selection"].items() >= RECORD._asdict().items()
    assert "optimistic" in written["selection"]["note"]


def test_an_unknown_choice_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="Expected checkpoint to be one of auto, best, newest. Received: 'last'"):
        selection.select(tmp_path, config.Config(), "last")
