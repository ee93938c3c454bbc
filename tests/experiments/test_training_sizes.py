"""Errors by the number of training images, from results."""

import importlib.util

import forks
import pytest
import small_experiments as small

from alexnet_tf.experiments import plan
from alexnet_tf.experiments import runner
from alexnet_tf.experiments import training_sizes
from alexnet_tf.utils import files


@pytest.fixture
def part(tmp_path, flagfile):
    """An experiment on a quarter of the images, for more epochs."""
    return small.write_variant(tmp_path / "part.flags", flagfile, epochs=6, training_images=25)


def test_errors_are_collected_by_number_of_images_and_seed(flagfile, variant, part, directories, evaluator):
    runs = plan.plan([flagfile, variant, part], [0, 1])
    training_sizes.check_plan(runs)
    errors = [(0.30, 0.10), (0.34, 0.12), (0.36, 0.16), (0.36, 0.16), (0.60, 0.30), (0.50, 0.30)]
    statuses = small.leave_results(directories, runs, errors)
    (found,) = training_sizes.collect(statuses)
    # The variant differs in dropout, too.
    assert found.name == "small" and not found.is_imagenet
    assert found.held_out == {25: [60.0, 50.0], 100: pytest.approx([30.0, 34.0])}
    assert list(found.held_out) == [25, 100]
    # The errors of the last epoch, as long as a single result lacks those of the trained network.
    assert found.training == {25: [30.0, 30.0], 100: [50.0, 50.0]}
    partly = runner.add_training_errors(statuses[:1], directories, evaluator, 20, log=lambda line: None)
    assert training_sizes.collect([*partly, *statuses[1:]])[0].training == found.training
    assert list(training_sizes.labeled([found])) == [
        "test, small",
        "training, with dropout and augmentation, small",
    ]
    statuses = runner.add_training_errors(statuses, directories, evaluator, 20, log=lambda line: None)
    (found,) = training_sizes.collect(statuses)
    assert found.training == {25: [10.0, 10.0], 100: [10.0, 10.0]}
    assert list(training_sizes.labeled([found]).values()) == [found.held_out, found.training]
    assert "without dropout" in list(training_sizes.labeled([found]))[1]


def test_sizes_without_results_are_omitted_and_one_is_not_enough(flagfile, variant, part, directories):
    runs = plan.plan([flagfile, variant, part], [0, 1])
    some = [runs[0], runs[2], runs[5]]
    small.leave_results(directories, some, [(0.30, 0.10), (0.36, 0.16), (0.50, 0.30)])
    statuses = runner.collect_all(runs, directories)
    (found,) = training_sizes.collect(statuses)
    assert {size: len(errors) for size, errors in found.held_out.items()} == {25: 1, 100: 1}
    for remaining, received in ((statuses[:4], "100, 100"), (statuses[5:], "25"), (statuses[3:5], "none")):
        with pytest.raises(ValueError, match=f"--size_figure. Received: {received}$"):
            training_sizes.collect(remaining)
    with pytest.raises(ValueError, match="Received: small, variant$"):
        training_sizes.check_plan(runs[:4])


def test_results_of_two_precisions_are_joined_if_the_machine_chooses_it(flagfile, part, directories):
    flagfile.write_text(f"{flagfile.read_text()}--precision=auto\n")
    statuses = small.leave_results(directories, plan.plan([flagfile, part], [0]), [(0.30, 0.10), (0.50, 0.30)])
    for status, used in zip(statuses, ("float32", "bfloat16")):
        status.result["configuration"]["precision"] = used
        files.write_json(directories.result(status.run), status.result)
    (found,) = training_sizes.collect(statuses)
    assert list(found.held_out) == [25, 100]
    # Neither result is one of another configuration.
    assert [runner.run_status(status.run, directories).status for status in statuses] == ["done", "done"]


def test_results_of_two_precisions_are_not_joined_otherwise(tmp_path, flagfile, directories):
    other = small.write_variant(tmp_path / "part.flags", flagfile, epochs=6, training_images=25, precision="bfloat16")
    statuses = small.leave_results(directories, plan.plan([flagfile, other], [0]), [(0.30, 0.10), (0.50, 0.30)])
    with pytest.raises(ValueError, match="Received: 100, 25$"):
        training_sizes.collect(statuses)


def test_experiments_on_other_test_images_are_not_joined(flagfile, part, directories, tmp_path):
    whole, few = plan.plan([flagfile, part], [0])
    statuses = small.leave_results(directories, [whole, few], [(0.30, 0.10), (0.50, 0.30)])
    result = statuses[1].result
    images = {**result["data"]["images"], "test": 21}
    other = statuses[1]._replace(result={**result, "data": {**result["data"], "images": images}})
    with pytest.raises(ValueError, match="Received: 100, 25$"):
        training_sizes.collect([statuses[0], other])


def test_published_errors_are_shown_for_classes_of_imagenet(flagfile, part, directories):
    for path in (flagfile, part):
        path.write_text(path.read_text().replace("Data: pictures", "Data: tiny_imagenet"))
    statuses = small.leave_results(directories, plan.plan([flagfile, part], [0]), [(0.30, 0.10), (0.50, 0.30)])
    found = training_sizes.collect(statuses)
    ((label, study),) = training_sizes.references(found).items()
    assert "Mishkin" in label
    # Its accuracies with 200,000 and with all images are 0.305 and 0.471.
    assert study[200_000] == pytest.approx(100 - 30.5) and study[1_200_000] == pytest.approx(100 - 47.1)
    assert training_sizes.references([found[0]._replace(is_imagenet=False)]) == {}


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs matplotlib: pip install -e '.[figures]'")
def test_program_draws_the_errors_of_existing_results(flagfile, part, directories, tmp_path):
    small.leave_results(directories, plan.plan([flagfile, part], [0]), [(0.30, 0.10), (0.50, 0.30)])
    figure = tmp_path / "sizes.png"
    places = [f"--workdir={directories.workdir}", f"--results={directories.results}", f"--size_figure={figure}"]
    done = forks.run("experiments", f"--flagfiles={flagfile},{part}", "--seeds=0,1", "--collect", *places)
    assert done.returncode == 0, done.stderr
    assert figure.read_bytes().startswith(b"\x89PNG") and done.stdout.endswith(f"size_figure {figure}\n")
    # The table is written even if there are too few results for the figure.
    figure.unlink()
    done = forks.run("experiments", f"--flagfiles={flagfile},{part}", "--seeds=1", "--collect", *places)
    assert (done.returncode, figure.exists()) == (1, False)
    assert "| small |" in done.stdout
    assert done.stderr == (
        "experiments.py: Expected experiments with results that differ in training_images, and otherwise at most in "
        "epochs, for --size_figure. Received: none\n"
    )
