"""Every hyperparameter: its type, default, range, meaning and source.

Sources are sections of the paper (https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks)
and numbered nets of its authors' code (https://github.com/computerhistory/AlexNet-Source-Code); "ours" is in neither.
"""

import dataclasses
import math
import zlib

from alexnet_tf.models import registry

# Differences between the recipes in training; `variants.RECIPES` has those of the network.
_CAFFE_DEFAULTS = {
    "bias_learning_rate_factor": 2.0,
    "bias_weight_decay": 0.0,
    "max_bias_drops": 3,
    "mean_crop": "aligned",
    "input_divisor": 1.0,
    "images_per_draw": 1,
    "reshuffle": False,
}
RECIPE_DEFAULTS = {
    "paper": {
        "bias_learning_rate_factor": 1.0,
        "bias_weight_decay": 0.0005,
        "max_bias_drops": 3,
        "mean_crop": "aligned",
        "input_divisor": 1.0,
        "images_per_draw": 1,
        "reshuffle": True,
    },
    "original": {
        "bias_learning_rate_factor": 2.0,
        "bias_weight_decay": 0.0,
        "max_bias_drops": 1,
        "mean_crop": "center",
        "input_divisor": 1.1,
        "images_per_draw": 32,
        "reshuffle": False,
    },
    "caffe": _CAFFE_DEFAULTS,
    "caffenet": _CAFFE_DEFAULTS,
}

# Fields that are None until a run starts: it takes the value of the run in `initialize_from`, or else this one.
INHERITED_DEFAULTS = {"input_scale": 1.0}
# The value of fields that a run chooses itself when it starts.
AUTO = "auto"
# What ``initialize_from=auto`` stands for: a run of imported weights, as docs/weights.md makes it, or else a network of
# the package.
IMPORTED_CONVOLUTIONS = "runs/imagenet_convolutions"
PACKAGED_CONVOLUTIONS = "pretrained:tiny_imagenet_convolutions"
# Other values that leave a field open until a run starts.
_OPEN = {"split_rule": "auto", "new_layers": None}
# Options of a network that only matter in training.
_TRAINING_OPTIONS = ("dropout", "initialization", "conv1_stddev")
MAX_LAYER_RATE = 1000


def _option(
    section,
    default,
    text,
    source,
    *,
    kind=None,
    choices=None,
    low=None,
    high=None,
    may_change=False,
    is_path=False,
    may_be_auto=False,
):
    """A field of `Config`: `kind` is its type, by default that of `default`; `low` and `high` are inclusive.

    In flags and flagfiles, ``~`` at the start of a path stands for the home directory. A field that `may_be_auto` also
    accepts `AUTO`, or as a tuple ``(AUTO,)``.
    """
    metadata = {
        "section": section,
        "help": text,
        "source": source,
        "kind": kind or type(default),
        "choices": choices,
        "low": low,
        "high": high,
        "may_change": may_change,
        "is_path": is_path,
        "may_be_auto": may_be_auto,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters of a run, which ``alexnet-tf train --help`` lists.

    It is immutable. A value of None stands for the recipe's entry in `RECIPE_DEFAULTS` or the one in
    `INHERITED_DEFAULTS`, if there is one; `resolved` fills it in. A run replaces `AUTO` when it starts.

    Raises:
      ValueError: if a value has the wrong type, is out of range or contradicts another one.
    """

    network: str = _option(
        "network",
        "alexnet",
        "AlexNet; alexnet_owt, its one-tower version in torchvision; one of the authors' smaller networks for "
        "CIFAR-10, named by test error in percent; or a network that came later",
        "paper; alexnet_owt: Krizhevsky 2014; original: example-layers; vgg: Simonyan and Zisserman 2014; googlenet: "
        "Szegedy et al. 2014; plain, resnet: He et al. 2015",
        choices=tuple(registry.NETWORKS),
    )
    recipe: str = _option(
        "network",
        "paper",
        "follow the paper's text, the authors' released code, or one of Caffe's two networks",
        "paper; original #145; caffe: bvlc_alexnet, caffenet: bvlc_reference_caffenet",
        choices=tuple(RECIPE_DEFAULTS),
    )
    devices: tuple = _option(
        "network",
        ("auto",),
        "devices of the two towers, such as /GPU:0,/GPU:1; empty: one device; auto: two GPUs if available",
        "paper 3.2: two GPUs",
        kind=tuple,
        may_change=True,
    )
    towers: str = _option(
        "network",
        "two",
        "two: two towers; one: a tower as wide as both; half: a single tower, with conv5, fc6 and fc7 as wide as both",
        "paper 3.5; original #145, #145-half",
        choices=("two", "one", "half"),
    )
    communication: str = _option(
        "network",
        "paper",
        "where towers exchange outputs: before conv3, fc6, fc7 and fc8, or only before fc8, with wider conv2 and fc6",
        "paper 3.5; original #150: fc8",
        choices=("paper", "fc8"),
    )
    activation: str = _option(
        "network",
        "relu",
        "activation function of all layers but the last",
        "paper 3.1; sigmoid: ours, to show what saturates",
        choices=("relu", "tanh", "sigmoid"),
    )
    normalization: str = _option(
        "network",
        "response",
        "response: after layers 1 and 2; first: after layer 1 only; none; or a later method in the same places",
        "paper 3.3; original #167: first, #148: none",
        choices=("response", "first", "none", "batch", "group", "layer"),
    )
    pooling: str = _option(
        "network",
        "overlapping",
        "3 x 3 (overlapping) or 2 x 2 windows, with stride 2",
        "paper 3.4; original #147: 2 x 2",
        choices=("overlapping", "nonoverlapping"),
    )
    removed_layer: str = _option(
        "network",
        "none",
        "convolutional layer to remove; the next layer receives its input",
        "paper 7",
        choices=("none", "conv3", "conv4", "conv5"),
    )
    sixth_convolution: bool = _option(
        "network",
        False,
        "add a sixth convolutional layer after the last pooling, with 2 x 128 kernels of 3 x 3 that read both towers",
        "paper 6; original #146",
    )
    bottleneck: int = _option(
        "network",
        0,
        "units of a linear layer before the last one, half of them in each tower; 0: none",
        "original #146 for 21,843 classes: 2048",
        low=0,
        high=65536,
    )
    dropout: float = _option(
        "network",
        0.5,
        "fraction of the outputs of fc6 and fc7 to drop in training",
        "paper 4.2",
        low=0,
        high=0.99,
    )
    width: float = _option(
        "network",
        1.0,
        "multiplier of the number of kernels and units of vgg, googlenet, plain and resnet networks",
        "ours",
        low=0.01,
        high=16,
    )
    shortcuts: str | None = _option(
        "network",
        None,
        "shortcuts of residual networks where sizes change: A: zeros for new maps; B: projections; C: projections in "
        "all blocks; defaults to B with 50 layers, otherwise to A",
        "ours; He et al. 2015, table 3",
        kind=str,
        choices=("A", "B", "C"),
    )
    initialization: str = _option(
        "network",
        "recipe",
        "recipe: the recipe's initial weights; he: N(0, 2 / inputs) with zero biases",
        "paper 5; he: He et al. 2015",
        choices=("recipe", "he"),
    )
    conv1_stddev: float | None = _option(
        "network",
        None,
        "standard deviation of conv1's initial kernels; defaults to that of recipe and initialization",
        "ours; paper 5: 0.01",
        kind=float,
        low=0.0001,
        high=1,
    )
    initialize_from: str = _option(
        "network",
        "",
        "work directory of a run to initialize the weights from, except for new_layers; or pretrained:NAME; auto: "
        "imported convolutions in runs/imagenet_convolutions, otherwise those of the package, and their network",
        "paper 6; original #146",
        is_path=True,
        may_be_auto=True,
    )
    new_layers: tuple | None = _option(
        "network",
        None,
        "layers to reinitialize when using initialize_from, such as fc6,fc7,fc8; defaults to the last layer, "
        "and to those of the auxiliary heads",
        "original #146",
        kind=tuple,
    )
    freeze: tuple = _option(
        "network",
        (),
        "layers that are not trained, such as conv1,conv2, each with its normalization; auto: conv1 to conv5 with few "
        "training images, otherwise conv1, with initialize_from",
        "ours",
        kind=tuple,
        may_be_auto=True,
    )
    precision: str = _option(
        "network",
        "float32",
        "precision of convolutions and matrix products; weights, LRN sums, softmax and loss are always float32; auto: "
        "bfloat16 where the devices have instructions for it",
        "paper: float32",
        choices=("float32", "bfloat16", AUTO),
        may_be_auto=True,
    )

    source: str = _option(
        "data",
        "",
        "image source: elpv, folder:DIR, csv:FILE, tfds:NAME, imagenet2012:DIR, ilsvrc2010:DIR, tiny_imagenet:DIR or "
        "synthetic",
        "paper 2: ILSVRC-2010 and 2012",
        may_change=True,
        is_path=True,
    )
    nested_folders: bool = _option(
        "data",
        False,
        "with source=folder:DIR, read the images in folders inside class folders, too, as images of that class",
        "ours",
    )
    data_dir: str = _option(
        "data",
        "",
        "prepared data set, written by the program prepare, to use instead of a source",
        "ours",
        may_change=True,
        is_path=True,
    )
    validation_fraction: float = _option(
        "data",
        0.1,
        "fraction of each class to hold out if there is no validation set; 0: none, and the test set is monitored",
        "ours",
        low=0,
        high=0.9,
    )
    split_seed: int = _option("data", 0, "seed of the validation split", "ours", low=0)
    split_rule: str = _option(
        "data",
        "auto",
        "hash: hold out images by a hash of their names; shuffle: draw them from the list of all, as version 0.1 did; "
        "auto: hash for a new run or data set, otherwise the rule that it was made with",
        "ours",
        choices=("auto", "hash", "shuffle"),
    )
    training_images: int = _option(
        "data",
        0,
        "number of images to train on, the same fraction of each class, chosen by a hash of their names and "
        "split_seed; 0: all that are not held out",
        "ours",
        low=0,
    )
    image_size: int = _option(
        "data",
        256,
        "height and width to which images are scaled",
        "paper 2",
        low=8,
        high=256,
    )
    cache: str = _option(
        "data",
        "auto",
        "cache decoded images in memory, 196,608 bytes each at 256 x 256; auto: if they fit in half of the free memory",
        "ours",
        choices=("auto", "memory", "none"),
        may_change=True,
    )

    crop_size: int = _option(
        "augmentation",
        224,
        "height and width of the network's input; for AlexNet 224, 227 with Caffe's recipes, 56 or 32 for small images",
        "paper 4.1",
        low=8,
        high=256,
    )
    crops: str = _option(
        "augmentation",
        "random",
        "training crops: random (33 x 33 positions for 224-pixel crops of 256-pixel images); center; or area: "
        "rectangles of 8% to 100% of the area, 3:4 to 4:3, scaled to crop_size",
        "paper 4.1; original #145; area: Szegedy et al. 2014",
        choices=("random", "center", "area"),
    )
    pad: int = _option(
        "augmentation",
        0,
        "number of pixels that random crops may extend past each edge of the image; they are zero after mean "
        "subtraction",
        "ours; He et al. 2015 on CIFAR-10: 4",
        low=0,
        high=128,
    )
    flips: str = _option(
        "augmentation",
        "horizontal",
        "random flips of training images, each with probability 1/2; both: horizontal and vertical",
        "paper 4.1",
        choices=("none", "horizontal", "both"),
    )
    color_noise: float = _option(
        "augmentation",
        0.1,
        "standard deviation of the color noise, relative to that of the principal components; 0: none",
        "paper 4.1",
        low=0,
        high=10,
    )
    color_noise_epochs: float = _option(
        "augmentation",
        0.0,
        "epoch after which color noise is turned off; 0: never",
        "original #145: 67",
        low=0,
        high=100000,
    )
    images_per_draw: int | None = _option(
        "augmentation",
        None,
        "number of consecutive images that share the same random crop and flip",
        "paper 4.1: 1; original #145: 32",
        kind=int,
        low=1,
        high=65536,
    )
    mean_crop: str | None = _option(
        "augmentation",
        None,
        "part of the mean image to subtract: aligned with the crop, or always the center",
        "paper 2; original #145",
        kind=str,
        choices=("aligned", "center"),
    )
    input_divisor: float | None = _option(
        "augmentation",
        None,
        "value that mean-subtracted images are divided by, in training only",
        "original #145: 1.1",
        kind=float,
        low=0.01,
        high=1000,
    )
    mean_image: str = _option(
        "augmentation",
        "data",
        "mean image to subtract: that of the training images, or that of the run in initialize_from",
        "paper 2; initialize_from: ours",
        choices=("data", "initialize_from"),
    )
    input_scale: float | None = _option(
        "augmentation",
        None,
        "value that mean-subtracted images are multiplied by, in training and evaluation; defaults to that of the run "
        "in initialize_from, or to 1",
        "ours; paper: gray levels unscaled",
        kind=float,
        low=0.0001,
        high=1000,
    )

    batch_size: int | str = _option(
        "training",
        128,
        "examples per step, over all replicas and workers; auto: 16 to 128, by the number of training images",
        "paper 5",
        low=1,
        high=65536,
        may_be_auto=True,
    )
    epochs: float | str = _option(
        "training",
        90.0,
        "passes over the training set; auto: by the number of training images",
        "paper 5",
        low=0,
        high=100000,
        may_change=True,
        may_be_auto=True,
    )
    reshuffle: bool | None = _option(
        "training",
        None,
        "reshuffle the images every epoch",
        "paper: not stated; original #145: no",
        kind=bool,
    )
    sampling: str = _option(
        "training",
        "uniform",
        "images of an epoch: uniform: each once; balanced: as many in all, each class equally often",
        "ours; paper: not stated",
        choices=("uniform", "balanced"),
    )
    class_weights: str = _option(
        "training",
        "none",
        "weights of the classes in the training loss: none; balanced: the same total for each class; or a CSV or JSON "
        "file of class names and weights; scaled to a mean of 1 over the images drawn",
        "ours; paper: none",
        is_path=True,
    )
    learning_rate: float | str = _option(
        "training",
        0.01,
        "initial learning rate of the weights; auto: by the batch size and the initial weights",
        "paper 5",
        low=0,
        high=10,
        may_be_auto=True,
    )
    learning_rate_scaling: str = _option(
        "training",
        "none",
        "scale the learning rate by batch_size / base_batch_size, or by its square root",
        "ours; linear: Goyal et al. 2017, square_root: Krizhevsky 2014",
        choices=("none", "linear", "square_root"),
    )
    base_batch_size: int = _option(
        "training",
        128,
        "batch size that learning_rate was tuned for, with learning_rate_scaling",
        "paper 5: 128",
        low=1,
        high=65536,
    )
    averaging: str = _option(
        "training",
        "none",
        "polyak: evaluate and export an average of the weights over the steps; none: the last weights",
        "ours; Szegedy et al. 2014: polyak",
        choices=("none", "polyak"),
    )
    averaging_steps: int = _option(
        "training",
        1000,
        "number of steps over which averaging=polyak averages: the mean of all steps up to this number, then an "
        "exponential average",
        "ours",
        low=1,
        high=100000000,
    )
    bias_learning_rate_factor: float | None = _option(
        "training",
        None,
        "learning rate of biases, relative to that of weights",
        "paper 5: 1; original #145: 2",
        kind=float,
        low=0,
        high=100,
    )
    momentum: float = _option("training", 0.9, "momentum of the update rule", "paper 5", low=0, high=0.9999)
    weight_decay: float = _option("training", 0.0005, "weight decay of the weights", "paper 5", low=0, high=1)
    bias_weight_decay: float | None = _option(
        "training",
        None,
        "weight decay of biases",
        "paper 5: 0.0005; original #145: 0",
        kind=float,
        low=0,
        high=1,
    )
    dense_weight_decay: float | None = _option(
        "training",
        None,
        "weight decay of the weights of fully connected layers; defaults to weight_decay",
        "original: example-layers, 0.03 to 3",
        kind=float,
        low=0,
        high=100,
    )
    conv1_slow_epoch: float = _option(
        "training",
        0.0,
        "epoch after which the learning rate of conv1's weights is a tenth of the others'; 0: never",
        "original #145: 67",
        low=0,
        high=100000,
    )
    conv1_frozen_epoch: float = _option(
        "training",
        0.0,
        "epoch after which conv1 is frozen; 0: never",
        "original #145: 72",
        low=0,
        high=100000,
    )
    new_layers_rate_factor: float = _option(
        "training",
        1.0,
        "learning rate of new layers' weights, relative to the others', with initialize_from",
        "original #146: 10",
        low=0,
        high=1000,
    )
    new_layers_rate_epochs: float = _option(
        "training",
        0.0,
        "epoch after which new layers have the learning rate of the others; 0: never",
        "original #146: 6",
        low=0,
        high=100000,
    )
    layer_rates: tuple = _option(
        "training",
        (),
        "factors of the learning rates of layers, such as conv1:0.1,conv2:0.1, each layer with its normalization",
        "ours",
        kind=tuple,
    )
    schedule: str = _option(
        "training",
        "plateau",
        "drop the rate when the validation error plateaus, at drop_epochs, at drop_steps or in equal steps; or decay "
        "it linearly to 0",
        "paper 5: plateau; #145: epochs; #170: exponential_steps",
        choices=("plateau", "epochs", "steps", "exponential_steps", "linear"),
    )
    drop_factor: float = _option(
        "training", 0.1, "factor applied to the learning rate at each drop", "paper 5", low=0.0001, high=0.9999
    )
    drop_epochs: tuple = _option(
        "training",
        (),
        "epochs at which the rate drops with schedule=epochs, such as 25,51,79",
        "original #145",
        kind=list,
    )
    drop_steps: tuple = _option(
        "training",
        (),
        "numbers of steps after which the rate drops with schedule=steps, such as 32000,48000",
        "ours; He et al. 2015 on CIFAR-10",
        kind=list,
    )
    warmup_epochs: float = _option(
        "training",
        0.0,
        "epochs in which the learning rates rise linearly to what they would be otherwise; 0: none",
        "ours; Goyal et al. 2017: 5",
        low=0,
        high=100000,
    )
    warmup_start: float = _option(
        "training",
        0.1,
        "factor of the learning rates at the start of warmup_epochs",
        "ours; He et al. 2015: 0.1",
        low=0,
        high=1,
    )
    patience: int = _option(
        "training",
        4,
        "epochs without a lower validation error before a drop with schedule=plateau",
        "ours; paper 5: by hand",
        low=1,
        high=1000,
    )
    rate_steps: int = _option(
        "training",
        4,
        "number of learning rates with schedule=exponential_steps, for equal parts of the run, with a constant ratio",
        "original #170",
        low=2,
        high=1000,
    )
    rate_span: float = _option(
        "training",
        250.0,
        "ratio of the first to the last rate with schedule=exponential_steps",
        "original #170",
        low=1,
        high=1000000,
    )
    bias_rate_steps: int = _option("training", 2, "rate_steps for biases", "original #170", low=2, high=1000)
    bias_rate_span: float = _option("training", 10.0, "rate_span for biases", "original #170", low=1, high=1000000)
    max_drops: int = _option("training", 3, "maximum number of drops with schedule=plateau", "paper 5", low=0, high=100)
    max_bias_drops: int | None = _option(
        "training",
        None,
        "maximum number of drops of the biases' learning rate",
        "paper 5: 3; original #145: 1",
        kind=int,
        low=0,
        high=100,
    )

    distribute: str = _option(
        "distribution",
        "none",
        "share each batch among replicas: none; mirrored: one per GPU of this process; multiworker: across processes",
        "ours",
        choices=("none", "mirrored", "multiworker"),
        may_change=True,
    )
    reduce_precision: str = _option(
        "distribution",
        "float32",
        "precision of gradients that replicas exchange",
        "ours",
        choices=("float32", "bfloat16"),
    )
    data_service: str = _option(
        "distribution",
        "",
        "address of a tf.data service that reads data_dir, such as grpc://HOST:5050",
        "ours",
        may_change=True,
    )

    seed: int = _option(
        "run",
        0,
        "seed of initial weights, order, crops, flips, noise and dropout",
        "ours",
        low=0,
        high=2**31 - 1,
    )
    report_steps: int = _option(
        "run", 20, "steps between reports in the terminal and logs", "ours", low=1, may_change=True
    )
    steps_per_call: int = _option(
        "run",
        1,
        "steps that the device takes without returning to Python, fewer just before a report or the end of an epoch; "
        "needs memory for as many batches; not measured on a GPU",
        "ours",
        low=1,
        high=1000,
        may_change=True,
    )
    compile: str = _option(
        "run",
        "auto",
        "what XLA compiles: step, the training step as one program on one device; islands, preprocessing, "
        "normalizations and update separately; auto, the step on a single GPU, islands elsewhere. Results differ by "
        "rounding. Compiling the step was not measured on a GPU, and makes it slower on a CPU",
        "ours",
        choices=("auto", "step", "islands"),
        may_change=True,
    )
    summary_epochs: float = _option(
        "run",
        1.0,
        "epochs between histograms, update sizes and images in TensorBoard, each at the next report; 0: none",
        "ours",
        low=0,
        high=100000,
        may_change=True,
    )
    checkpoint_steps: int = _option(
        "run",
        1000,
        "minimum steps between checkpoints, saved at the next report; another is saved after each epoch",
        "ours",
        low=1,
        may_change=True,
    )
    keep_checkpoints: int = _option("run", 2, "number of newest checkpoints to keep", "ours", low=1, may_change=True)
    stop_after: int = _option(
        "run",
        0,
        "end training after this many epochs without a lower error on the validation set; 0: never",
        "ours",
        low=0,
        high=100000,
        may_change=True,
    )
    checkpoint: str = _option(
        "run",
        "auto",
        "checkpoint to evaluate: best: lowest validation error, which is then optimistic; newest; auto: the run's own "
        "setting, by default best if there is one",
        "ours; paper: not stated",
        choices=("auto", "best", "newest"),
        may_change=True,
    )
    deterministic: bool = _option(
        "run",
        True,
        "use only deterministic operations",
        "ours",
        may_change=True,
    )
    intra_op_threads: int = _option(
        "run",
        0,
        "CPU threads within an operation; 0: automatic, which is 1 if each tower can have one of two cores",
        "ours",
        low=0,
        high=1024,
        may_change=True,
    )
    inter_op_threads: int = _option(
        "run",
        0,
        "CPU operations in parallel; 0: automatic, one per core",
        "ours",
        low=0,
        high=1024,
        may_change=True,
    )
    tf32: bool = _option(
        "run",
        True,
        "use TF32, with 10 bits of mantissa, for float32 products on GPUs that have it",
        "ours; paper's GPUs: float32",
        may_change=True,
    )

    def __post_init__(self):
        _check(self)

    def layer_rate_factors(self) -> dict[str, float]:
        """Returns the factors of `layer_rates` by layer."""
        factors = {}
        for item in self.layer_rates:
            name, _, text = item.partition(":")
            factor = _to_number(text)
            if not name or name in factors or not 0 < factor <= MAX_LAYER_RATE:
                raise ValueError(
                    f"Expected layer_rates to be a LAYER:FACTOR for each layer, with a factor above 0 and at most "
                    f"{MAX_LAYER_RATE}; to stop a layer, name it in freeze. Received: {','.join(self.layer_rates)}"
                )
            factors[name] = factor
        return factors

    def resolved(self, *, before_start: bool = False) -> "Config":
        """Returns this configuration with every None that has an entry in `RECIPE_DEFAULTS` replaced by it.

        Args:
          before_start: whether to leave open what a run chooses when it starts: `AUTO`, and with ``initialize_from``
            what it takes from that run (`INHERITED_DEFAULTS`). Otherwise the defaults for other runs are filled in too.
        """
        if not before_start and (names := self.auto_fields()):
            fields = {field.name: field.default for field in dataclasses.fields(self)}
            return dataclasses.replace(self, **{name: fields[name] for name in names}).resolved()
        defaults = dict(RECIPE_DEFAULTS[self.recipe])
        if self.initialize_from:
            defaults["new_layers"] = self.initialized_layers()
        if not (before_start and self.initialize_from):
            defaults |= INHERITED_DEFAULTS
        changes = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **changes)

    def initialized_layers(self) -> tuple[str, ...]:
        """Returns the names of the layers that ``initialize_from`` does not initialize."""
        return registry.find(self.network).output_layers if self.new_layers is None else self.new_layers

    def auto_fields(self) -> list[str]:
        """Returns the names of the fields that a run chooses when it starts, as they are `AUTO`."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if field.metadata["may_be_auto"] and getattr(self, field.name) in (AUTO, (AUTO,))
        ]

    def open_fields(self) -> list[str]:
        """Returns the names of the fields that a run which has started takes from its record."""
        return self.auto_fields() + [name for name, value in _OPEN.items() if getattr(self, name) == value]

    def with_record(self, recorded: "Config") -> "Config":
        """Returns this configuration with the values of a run that has started in place of what is left open."""
        names = self.open_fields()
        if self.initialize_from == AUTO:
            default = Config()
            names += [name for name in recorded.network_fields() if getattr(self, name) == getattr(default, name)]
        return dataclasses.replace(self, **{name: getattr(recorded, name) for name in names})

    def network_fields(self) -> list[str]:
        """Returns the names of the fields that describe what the network computes with given weights."""
        names = ["network", *registry.find(self.network).options, "crop_size"]
        return [name for name in names if name not in _TRAINING_OPTIONS]

    def differences(self, other: "Config") -> list[str]:
        """Returns the names of the fields that differ and must not change within a run.

        A value that is left open until a run starts does not differ from any other.
        """
        names = [
            field.name
            for field in dataclasses.fields(self)
            if not field.metadata["may_change"] and getattr(self, field.name) != getattr(other, field.name)
        ]
        return [name for name in names if not (self._is_open(name) or other._is_open(name))]

    def _is_open(self, name):
        return name in self.open_fields() or (name in INHERITED_DEFAULTS and getattr(self, name) is None)

    def fingerprint(self) -> int:
        """Returns a number below 2 ** 32 that is equal for configurations without `differences`."""
        fixed = [field.name for field in dataclasses.fields(self) if not field.metadata["may_change"]]
        return zlib.crc32(repr([(name, getattr(self, name)) for name in fixed]).encode())


def describe_range(field: dataclasses.Field) -> str:
    """Returns the values that a field may have, as text for messages and the help."""
    metadata = field.metadata
    if metadata["choices"]:
        return " | ".join(metadata["choices"])
    if metadata["kind"] is bool:
        return "true | false"
    if metadata["low"] is None:
        return {str: "text", tuple: "names", list: "numbers"}[metadata["kind"]]
    high = "" if metadata["high"] is None else f" to {metadata['high']}"
    return f"{metadata['low']}{high or ' or more'}" + (f" or {AUTO}" if metadata["may_be_auto"] else "")


def _check(run_config):
    """Raises a ValueError if a field is out of its range, or if fields contradict each other."""
    for field in dataclasses.fields(run_config):
        _check_range(field, getattr(run_config, field.name))
    _check_schedule(run_config)
    _check_augmentation(run_config)
    _check_devices(run_config)
    _check_data(run_config)
    _check_network(run_config)
    _check_fine_tuning(run_config)
    _check_imbalance(run_config)


def _check_schedule(run_config):
    """Raises an error for a schedule without what it depends on, and for an epoch that nothing may choose."""
    for name in ("drop_epochs", "drop_steps"):
        values = getattr(run_config, name)
        if name == f"drop_{run_config.schedule}" and list(values) != sorted(values):
            raise ValueError(f"Expected {name} to increase. Received: {values}")
    if run_config.schedule in ("linear", "exponential_steps") and not run_config.epochs:
        raise ValueError(f"Expected epochs above 0 for schedule={run_config.schedule}. Received: 0")
    if run_config.validation_fraction:
        return
    if run_config.schedule == "plateau":
        raise ValueError(
            "Expected a schedule that does not depend on the validation error, such as epochs, for "
            "validation_fraction=0. Received: schedule=plateau"
        )
    if run_config.stop_after or run_config.checkpoint == "best":
        received = f"stop_after={run_config.stop_after}" if run_config.stop_after else "checkpoint=best"
        raise ValueError(
            "Expected validation_fraction above 0 to choose an epoch, as the test set must not be used for that. "
            f"Received: 0 with {received}"
        )


def _check_augmentation(run_config):
    """Raises an error for crops that do not fit the images, their padding or the mean image."""
    if run_config.crop_size > run_config.image_size:
        raise ValueError(
            f"Expected crop_size to be at most image_size, {run_config.image_size}. Received: {run_config.crop_size}"
        )
    if run_config.pad and run_config.crops != "random":
        raise ValueError(f"Expected crops=random for pad={run_config.pad}. Received: crops={run_config.crops}")
    if run_config.crops == "area" and run_config.mean_crop == "center":
        raise ValueError(
            "Expected mean_crop=aligned for crops=area, which subtracts the part of the mean image that it crops. "
            "Received: mean_crop=center"
        )


def _check_devices(run_config):
    """Raises an error for devices, towers and replicas that exclude each other."""
    devices, towers = ",".join(run_config.devices), run_config.towers
    is_single = run_config.devices in ((), ("auto",))
    if not is_single and len(run_config.devices) != 2:
        raise ValueError(f"Expected devices to be auto, empty or two devices. Received: {devices}")
    if towers != "two" and not is_single:
        raise ValueError(f"Expected towers=two for two devices. Received: towers={towers}")
    if towers != "two" and run_config.communication != "paper":
        raise ValueError(f"Expected towers=two for communication=fc8. Received: towers={towers}")
    if run_config.compile == "step" and not is_single:
        raise ValueError(f"Expected compile to be auto or islands for two devices. Received: step, {devices=}")
    if run_config.distribute == "none":
        return
    if run_config.compile == "step":
        raise ValueError(
            f"Expected compile to be auto or islands for distribute={run_config.distribute}. Received: step"
        )
    if run_config.steps_per_call > 1:
        raise ValueError(
            f"Expected steps_per_call to be 1 for distribute={run_config.distribute}. "
            f"Received: {run_config.steps_per_call}"
        )
    if not is_single:
        raise ValueError(
            f"Expected devices to be auto or empty for distribute={run_config.distribute}. Received: {devices}"
        )


def _check_data(run_config):
    """Raises an error for options of the data that a data service does not know."""
    if not run_config.data_service:
        return
    if not run_config.data_dir:
        raise ValueError("Expected data_dir for data_service, which reads it. Received: data_service without data_dir")
    if run_config.training_images:
        raise ValueError(
            "Expected no data_service for training_images, as it draws from all training images. "
            f"Received: data_service={run_config.data_service}"
        )


def _check_network(run_config):
    """Raises an error for a crop size or an option that the network does not accept."""
    if run_config.bottleneck % 2:
        raise ValueError(f"Expected bottleneck to be even. Received: {run_config.bottleneck}")
    network = registry.find(run_config.network)
    if run_config.crop_size not in network.crop_sizes:
        raise ValueError(
            f"Expected crop_size to be {registry.crop_sizes_text(network.crop_sizes)} for "
            f"network={run_config.network}. Received: {run_config.crop_size}"
        )
    sizes = registry.recipe_crop_sizes(run_config.recipe, network)
    if "recipe" in network.options and run_config.crop_size not in sizes:
        raise ValueError(
            f"Expected crop_size to be {registry.crop_sizes_text(sizes)} for recipe={run_config.recipe}. "
            f"Received: {run_config.crop_size}"
        )
    refused = registry.refused_options(run_config.network)
    for field in dataclasses.fields(run_config):
        if field.name in refused and getattr(run_config, field.name) != field.default:
            raise ValueError(
                f"Expected network={' or '.join(registry.networks_with(field.name))} for "
                f"{field.name}={getattr(run_config, field.name)}. Received: network={run_config.network}"
            )


def _check_fine_tuning(run_config):
    """Raises an error for frozen layers that another option trains, and for a missing run to start from."""
    if run_config.mean_image == "initialize_from" and not run_config.initialize_from:
        raise ValueError("Expected initialize_from for mean_image=initialize_from. Received: none")
    if "learning_rate" in run_config.auto_fields() and run_config.learning_rate_scaling != "none":
        raise ValueError(
            "Expected learning_rate_scaling=none for learning_rate=auto, which depends on the batch size already. "
            f"Received: learning_rate_scaling={run_config.learning_rate_scaling}"
        )
    for option, names in (
        ("new_layers", run_config.initialized_layers() if run_config.initialize_from else ()),
        ("layer_rates", run_config.layer_rate_factors()),
    ):
        both = [name for name in run_config.freeze if name in names]
        if both:
            raise ValueError(
                f"Expected freeze and {option} to name different layers, as frozen layers are not trained. "
                f"Received: {', '.join(both)} in both"
            )


def _check_imbalance(run_config):
    """Raises an error for options against imbalance that contradict each other or the order of the images."""
    if not run_config.class_weights:
        raise ValueError("Expected class_weights to be none, balanced or a file. Received: an empty name")
    if run_config.sampling != "balanced":
        return
    if run_config.class_weights == "balanced":
        raise ValueError(
            "Expected either sampling=balanced or class_weights=balanced, as each alone balances the classes. "
            "Received: both"
        )
    if run_config.reshuffle is False:
        raise ValueError(
            "Expected reshuffle=true for sampling=balanced, which draws a new order for each epoch. "
            "Received: reshuffle=false"
        )
    if run_config.data_service:
        raise ValueError(
            "Expected no data_service for sampling=balanced, which it does not support. "
            f"Received: data_service={run_config.data_service}"
        )


def _check_range(field, value):
    """Raises an error for a value of another type or out of range."""
    metadata = field.metadata
    if (value is None and field.default is None) or (value == AUTO and metadata["may_be_auto"]):
        return
    kinds = {float: (int, float), tuple: (tuple,), list: (tuple,)}.get(metadata["kind"], (metadata["kind"],))
    fits = isinstance(value, kinds) and (metadata["kind"] is bool or not isinstance(value, bool))
    if fits and metadata["choices"]:
        fits = value in metadata["choices"]
    if fits and metadata["low"] is not None:
        fits = value >= metadata["low"] and (metadata["high"] is None or value <= metadata["high"])
    if fits and metadata["kind"] is tuple:
        fits = all(isinstance(item, str) for item in value)
    if fits and metadata["kind"] is list:
        fits = all(isinstance(item, (int, float)) and math.isfinite(item) for item in value)
    if not fits:
        raise ValueError(f"Expected {field.name} to be {describe_range(field)}. Received: {value!r}")


def _to_number(text):
    """Returns the number that a text is, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan
