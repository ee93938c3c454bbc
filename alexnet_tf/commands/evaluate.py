"""Evaluates a run, or several and their ensemble: top-1 and top-5 errors.

alexnet-tf evaluate --workdir=runs/quickstart
alexnet-tf evaluate --workdir=runs/first,runs/second,runs/third

Errors are measured with the center crop and with ten views. With --split=train, the trained network
is evaluated without dropout and augmentation; --images=10000 evaluates a part of the split.
Each run is evaluated with its own configuration; set --source or --data_dir only if its data set
has moved.

For a single run, evaluation.json also has precision, recall and F1 of each class, the confusion
matrix and the calibration error. --fit_temperature and --sensitivity choose on the monitored split,
usually validation, and apply what they chose to --split.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_paths(
    "workdir", [], "directory of a trained run, or of several, separated by commas", flag_values=FLAGS
)
_SPLIT = flags.DEFINE_string(
    "split",
    "",
    "train, validation or test; defaults to the monitored split: validation, or test if there is none",
    flag_values=FLAGS,
)
_IMAGES = flags.DEFINE_integer(
    "images",
    0,
    "number of images of the split to evaluate, the same fraction of each class, by a hash of their names; 0: all",
    lower_bound=0,
    flag_values=FLAGS,
)
_SEARCH_FRACTION = flags.DEFINE_float(
    "search_fraction",
    0.5,
    "fraction of each class used to search for the weights of an ensemble",
    flag_values=FLAGS,
)
_SEARCH_SEED = flags.DEFINE_integer(
    "search_seed", 0, "seed of the choice of that fraction", lower_bound=0, flag_values=FLAGS
)
_CLASSES_CSV = flagfiles.define_path(
    "classes_csv", "", "write precision, recall, F1 and number of images of each class to this file", flag_values=FLAGS
)
_CONFUSION_CSV = flagfiles.define_path(
    "confusion_csv", "", "write the confusion matrix to this file: true classes in rows", flag_values=FLAGS
)
_PREDICTIONS = flagfiles.define_path(
    "predictions",
    "",
    "write the name, true class and most probable classes of each image to this file",
    flag_values=FLAGS,
)
_TOP = flags.DEFINE_integer("top", 5, "number of classes per image in --predictions", lower_bound=1, flag_values=FLAGS)
_FIT_TEMPERATURE = flags.DEFINE_boolean(
    "fit_temperature", False, "fit the temperature that calibrates the probabilities, for an export", flag_values=FLAGS
)
_SENSITIVITY = flags.DEFINE_float(
    "sensitivity",
    None,
    "with two classes, choose the threshold of the probability of --positive_class at which this share of its images "
    "is found, such as 0.95",
    flag_values=FLAGS,
)
_POSITIVE_CLASS = flags.DEFINE_string("positive_class", "", "name of the class of --sensitivity", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run(_evaluate, argv, __doc__, FLAGS, fields=program.RUN_FIELDS, required=[_WORKDIR])


def _evaluate(run_config):
    from alexnet_tf.runs import evaluate

    if len(_WORKDIR.value) == 1:
        program.report_unused([_SEARCH_FRACTION, _SEARCH_SEED], "with a single --workdir")
    evaluate.evaluate(
        _WORKDIR.value,
        _SPLIT.value,
        images=_IMAGES.value,
        source=run_config.source,
        data_dir=run_config.data_dir,
        checkpoint=run_config.checkpoint,
        search_fraction=_SEARCH_FRACTION.value,
        search_seed=_SEARCH_SEED.value,
        options=evaluate.Options(
            fit_temperature=_FIT_TEMPERATURE.value,
            sensitivity=_SENSITIVITY.value,
            positive_class=_POSITIVE_CLASS.value,
            classes_csv=_CLASSES_CSV.value,
            confusion_csv=_CONFUSION_CSV.value,
            predictions_csv=_PREDICTIONS.value,
            top=_TOP.value,
        ),
    )
