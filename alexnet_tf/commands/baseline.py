"""Trains the method before AlexNet: SIFT, Fisher vectors, a linear classifier.

alexnet-tf baseline --source=folder:photographs
alexnet-tf baseline --source=elpv --validation_fraction=0.25 --json=baseline.json

No network is involved. Descriptors are computed on a grid of the images, scaled to 256 x 256 like
those of a network. Requires the extra baseline: OpenCV, scikit-image and scikit-learn.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_SPLIT = flags.DEFINE_string(
    "split", "", "split to evaluate; defaults to test, or validation if there is none", flag_values=FLAGS
)
_PENALTY = flags.DEFINE_float(
    "penalty", 1.0, "C of the support vector machine: the weight of errors", lower_bound=1e-6, flag_values=FLAGS
)
_MODES = flags.DEFINE_integer("modes", 64, "modes of the Gaussian mixture", lower_bound=1, flag_values=FLAGS)
_JSON = flagfiles.define_path("json", "", "write the result to this file", flag_values=FLAGS)

# Of a configuration, only the data set and the seed matter.
FIELDS = (
    *("source", "data_dir", "validation_fraction", "split_seed", "split_rule", "training_images"),
    *("image_size", "cache", "seed"),
    *program.PROCESS_FIELDS,
)


def main(argv: Sequence[str]) -> None:
    program.run(_run, argv, __doc__, FLAGS, fields=FIELDS)


def _run(run_config):
    try:
        from alexnet_tf.runs import baseline
    except ModuleNotFoundError as error:
        if error.name not in ("cv2", "skimage", "sklearn"):
            raise
        raise ModuleNotFoundError(
            f"Expected the packages of the extra baseline: pip install -e '.[baseline]'. Received: no {error.name}"
        ) from None
    baseline.run(run_config, split=_SPLIT.value, penalty=_PENALTY.value, modes=_MODES.value, json_path=_JSON.value)
