"""The words of classes that are named by WordNet identifiers, from the data set to the terminal and the report."""

import json

import small_runs
import small_tiny_imagenet

from alexnet_tf.runs import restore
from alexnet_tf.runs import train


def test_words_are_shown_next_to_identifiers_and_recorded(tmp_path, capsys):
    folder = small_tiny_imagenet.write(tmp_path / "tiny", validation_images=6)
    workdir = tmp_path / "run"
    run_config = small_runs.make_config("", source=f"tiny_imagenet:{folder}", epochs=1.0)
    train.train(run_config, str(workdir))
    assert json.loads((workdir / "data.json").read_text())["classes"] == list(small_tiny_imagenet.IDENTIFIERS)
    assert restore.read_class_words(workdir) == small_tiny_imagenet.WORDS
    # After one step, some photographs are misclassified.
    (true, predicted, *_), *_ = json.loads((workdir / "train.json").read_text())["evaluation"]["validation"][
        "confusions"
    ]
    words = {name: words.split(",")[0] for name, words in small_tiny_imagenet.WORDS.items()}
    out, report = capsys.readouterr().out, (workdir / "report.md").read_text()
    assert f"{words[true]} ({true}) classified as {words[predicted]} ({predicted})" in out
    assert f"| {words[true]} ({true}) | {words[predicted]} ({predicted}) |" in report
    assert "goldfish (n01443537), Egyptian cat (n02124075), reel (n04067472)" in report
    assert "data: Tiny ImageNet (Stanford CS231n)" in out
