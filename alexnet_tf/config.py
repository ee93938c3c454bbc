"""Every hyperparameter once: type, default, range, what it does and where it comes from.

A `Config` is an immutable value. `flagfiles` turns it into flags and flagfiles and back.
"""

import dataclasses
import math
import zlib

from alexnet_tf.models import registry

# What differs between the recipes outside the network itself (for that, `alexnet.RECIPES`).
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
}


def _option(section, default, text, source, *, kind=None, choices=None, low=None, high=None, may_change=False):
    """A field of `Config`: `kind` is its type where the default does not tell; `low` and `high` are inclusive."""
    metadata = {
        "section": section,
        "help": text,
        "source": source,
        "kind": kind or type(default),
        "choices": choices,
        "low": low,
        "high": high,
        "may_change": may_change,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters of one run; `alexnet-tf train --help` prints them as a table.

    A value of None stands for what the recipe says (`resolved`).

    Raises:
      ValueError: for a value of another type or outside its range, naming field and range.
    """

    network: str = _option(
        "network",
        "alexnet",
        "the paper's, or one of its authors' smaller nets for CIFAR-10, named by its test error in percent",
        "paper; original: example-layers",
        choices=tuple(registry.NETWORKS),
    )
    recipe: str = _option(
        "network",
        "paper",
        "what the paper's text says, or what the authors' released code did",
        "paper; original #145",
        choices=("paper", "original"),
    )
    devices: tuple = _option(
        "network",
        ("auto",),
        "homes of the two towers, such as /GPU:0,/GPU:1; empty for one device; auto: two GPUs if there are two",
        "paper 3.2: two GPUs",
        kind=tuple,
        may_change=True,
    )
    towers: str = _option(
        "network",
        "two",
        "two; one of the width of both; half: one tower alone, its conv5 and fully connected layers as wide as both",
        "paper 3.5; original #145, #145-half",
        choices=("two", "one", "half"),
    )
    communication: str = _option(
        "network",
        "paper",
        "where two towers meet: before conv3, fc6, fc7 and fc8, or before fc8 alone, with wider conv2 and fc6",
        "paper 3.5; original #150: fc8",
        choices=("paper", "fc8"),
    )
    activation: str = _option(
        "network",
        "relu",
        "of every layer but the last",
        "paper 3.1",
        choices=("relu", "tanh"),
    )
    normalization: str = _option(
        "network",
        "response",
        "response; first: after layer 1 alone; none; or in its places what came later",
        "paper 3.3; original #167: first, #148: none",
        choices=("response", "first", "none", "batch", "group", "layer"),
    )
    pooling: str = _option(
        "network",
        "overlapping",
        "windows of 3 x 3, or of 2 x 2, either 2 apart",
        "paper 3.4; original #147: 2 x 2",
        choices=("overlapping", "nonoverlapping"),
    )
    removed_layer: str = _option(
        "network",
        "none",
        "a convolutional layer that is not there; the one behind it reads both towers where it would have",
        "paper 7",
        choices=("none", "conv3", "conv4", "conv5"),
    )
    sixth_convolution: bool = _option(
        "network",
        False,
        "one more convolutional layer of 2 x 128 kernels of 3 x 3 over both towers, behind the last pooling",
        "paper 6; original #146",
    )
    bottleneck: int = _option(
        "network",
        0,
        "units of a linear layer before the last, half in each tower; 0 for none",
        "original #146 for 21,843 classes: 2048",
        low=0,
        high=65536,
    )
    dropout: float = _option(
        "network",
        0.5,
        "share of the outputs of fc6 and fc7 that a training step leaves out",
        "paper 4.2",
        low=0,
        high=0.99,
    )
    initialization: str = _option(
        "network",
        "recipe",
        "initial weights: the recipe's, or N(0, 2 / inputs) with biases 0",
        "paper 5; he: He et al. 2015",
        choices=("recipe", "he"),
    )
    conv1_stddev: float | None = _option(
        "network",
        None,
        "standard deviation of conv1's initial kernels, in place of what recipe and initialization say",
        "ours; paper 5: 0.01",
        kind=float,
        low=0.0001,
        high=1,
    )
    initialize_from: str = _option(
        "network",
        "",
        "work directory of a run from whose weights to start, but for new_layers",
        "paper 6; original #146",
    )
    new_layers: tuple = _option(
        "network",
        ("fc8",),
        "with initialize_from: layers that start anew, such as fc6,fc7,fc8",
        "original #146",
        kind=tuple,
    )
    precision: str = _option(
        "network",
        "float32",
        "of convolutions and products; weights, LRN's sums, softmax and loss are float32 either way",
        "paper: float32",
        choices=("float32", "bfloat16"),
    )

    source: str = _option(
        "data",
        "",
        "where the photographs are: elpv, folder:DIR, tfds:NAME, imagenet2012:DIR, ilsvrc2010:DIR or synthetic",
        "paper 2: ILSVRC-2010 and 2012",
        may_change=True,
    )
    data_dir: str = _option(
        "data",
        "",
        "a data set that tools/prepare.py made, in place of a source",
        "ours",
        may_change=True,
    )
    validation_fraction: float = _option(
        "data",
        0.1,
        "share of each class held out where the data have no validation set; 0: none, the test set is watched",
        "ours",
        low=0,
        high=0.9,
    )
    split_seed: int = _option("data", 0, "seed of that draw", "ours", low=0)
    image_size: int = _option(
        "data",
        256,
        "side of the squares that photographs are scaled to",
        "paper 2",
        low=8,
        high=256,
    )
    cache: str = _option(
        "data",
        "auto",
        "keep decoded images in memory (196,608 bytes for 256 x 256): auto if all fit half of what is free, not raw",
        "ours",
        choices=("auto", "memory", "none"),
        may_change=True,
    )

    crop_size: int = _option(
        "augmentation",
        224,
        "side of the part of an image that the network sees; AlexNet's is 224, or 32 for the same layers in small",
        "paper 4.1",
        low=8,
        high=256,
    )
    crops: str = _option(
        "augmentation",
        "random",
        "any position, 33 x 33 for 224 x 224 of 256 x 256, or the central one",
        "paper 4.1; original #145",
        choices=("random", "center"),
    )
    flips: str = _option(
        "augmentation",
        "horizontal",
        "mirror half of the images; both: upside down too, each with probability one half",
        "paper 4.1",
        choices=("none", "horizontal", "both"),
    )
    color_noise: float = _option(
        "augmentation",
        0.1,
        "standard deviation of the colour noise in units of the principal components'; 0 for none",
        "paper 4.1",
        low=0,
        high=10,
    )
    color_noise_epochs: float = _option(
        "augmentation",
        0.0,
        "epochs after which the colour noise is turned off; 0 for never",
        "original #145: 67",
        low=0,
        high=100000,
    )
    images_per_draw: int | None = _option(
        "augmentation",
        None,
        "images in a row that share one draw of crop and mirroring",
        "paper 4.1: 1; original #145: 32",
        kind=int,
        low=1,
        high=65536,
    )
    mean_crop: str | None = _option(
        "augmentation",
        None,
        "which part of the mean image is subtracted: that of the crop, or always the central one",
        "paper 2; original #145",
        kind=str,
        choices=("aligned", "center"),
    )
    input_divisor: float | None = _option(
        "augmentation",
        None,
        "what the prepared image is divided by, in training only",
        "original #145: 1.1",
        kind=float,
        low=0.01,
        high=1000,
    )
    input_scale: float = _option(
        "augmentation",
        1.0,
        "what the prepared image is multiplied by, in training and evaluation",
        "ours; paper: grey levels as they are",
        low=0.0001,
        high=1000,
    )

    batch_size: int = _option(
        "learning", 128, "examples a step, over all replicas and workers together", "paper 5", low=1, high=65536
    )
    epochs: float = _option(
        "learning", 90.0, "passes over the training set", "paper 5", low=0, high=100000, may_change=True
    )
    reshuffle: bool | None = _option(
        "learning",
        None,
        "a new order of the images in every epoch",
        "paper: not said; original #145: no",
        kind=bool,
    )
    learning_rate: float = _option("learning", 0.01, "of the weights, at the start", "paper 5", low=0, high=10)
    learning_rate_scaling: str = _option(
        "learning",
        "none",
        "multiply the rate by batch_size / base_batch_size, or by its square root",
        "ours; linear: Goyal et al. 2017, square_root: Krizhevsky 2014",
        choices=("none", "linear", "square_root"),
    )
    base_batch_size: int = _option(
        "learning",
        128,
        "with learning_rate_scaling: the batch that learning_rate is meant for",
        "paper 5: 128",
        low=1,
        high=65536,
    )
    bias_learning_rate_factor: float | None = _option(
        "learning",
        None,
        "the biases' learning rate over the weights'",
        "paper 5: 1; original #145: 2",
        kind=float,
        low=0,
        high=100,
    )
    momentum: float = _option("learning", 0.9, "of the update rule", "paper 5", low=0, high=0.9999)
    weight_decay: float = _option("learning", 0.0005, "of the weights", "paper 5", low=0, high=1)
    bias_weight_decay: float | None = _option(
        "learning",
        None,
        "of the biases",
        "paper 5: 0.0005; original #145: 0",
        kind=float,
        low=0,
        high=1,
    )
    dense_weight_decay: float | None = _option(
        "learning",
        None,
        "of the weights of fully connected layers, where it is another",
        "original: example-layers, 0.03 to 3",
        kind=float,
        low=0,
        high=100,
    )
    conv1_slow_epoch: float = _option(
        "learning",
        0.0,
        "epochs after which conv1's weights learn at a tenth of the others' rate; 0 for never",
        "original #145: 67",
        low=0,
        high=100000,
    )
    conv1_frozen_epoch: float = _option(
        "learning",
        0.0,
        "epochs after which conv1 learns no more; 0 for never",
        "original #145: 72",
        low=0,
        high=100000,
    )
    new_layers_rate_factor: float = _option(
        "learning",
        1.0,
        "with initialize_from: the new layers' rate over the others', of weights",
        "original #146: 10",
        low=0,
        high=1000,
    )
    new_layers_rate_epochs: float = _option(
        "learning",
        0.0,
        "epochs after which the new layers learn at the others' rate; 0 for never",
        "original #146: 6",
        low=0,
        high=100000,
    )
    schedule: str = _option(
        "learning",
        "plateau",
        "drop the rate when the validation error stops falling, at drop_epochs, in equal steps, or linearly to 0",
        "paper 5: plateau; #145: epochs; #170: exponential_steps",
        choices=("plateau", "epochs", "exponential_steps", "linear"),
    )
    drop_factor: float = _option(
        "learning", 0.1, "what a drop multiplies the rate by", "paper 5", low=0.0001, high=0.9999
    )
    drop_epochs: tuple = _option(
        "learning",
        (),
        "for schedule=epochs: epochs completed at each drop, such as 25,51,79",
        "original #145",
        kind=list,
    )
    patience: int = _option(
        "learning",
        4,
        "for schedule=plateau: epochs in a row without a lower validation error before a drop",
        "ours; paper 5: by hand",
        low=1,
        high=1000,
    )
    rate_steps: int = _option(
        "learning",
        4,
        "for schedule=exponential_steps: rates in equal parts of the run, each the same factor below the one before",
        "original #170",
        low=2,
        high=1000,
    )
    rate_span: float = _option(
        "learning",
        250.0,
        "for schedule=exponential_steps: the first rate over the last",
        "original #170",
        low=1,
        high=1000000,
    )
    bias_rate_steps: int = _option("learning", 2, "as rate_steps, of the biases", "original #170", low=2, high=1000)
    bias_rate_span: float = _option(
        "learning", 10.0, "as rate_span, of the biases", "original #170", low=1, high=1000000
    )
    max_drops: int = _option(
        "learning", 3, "for schedule=plateau: how often the rate drops", "paper 5", low=0, high=100
    )
    max_bias_drops: int | None = _option(
        "learning",
        None,
        "how often the biases' rate drops with the weights'",
        "paper 5: 3; original #145: 1",
        kind=int,
        low=0,
        high=100,
    )

    distribute: str = _option(
        "distribution",
        "none",
        "replicas that share each batch: none, on all of this process's GPUs, or in several processes",
        "ours",
        choices=("none", "mirrored", "multiworker"),
        may_change=True,
    )
    reduce_precision: str = _option(
        "distribution",
        "float32",
        "of gradients on their way from replica to replica",
        "ours",
        choices=("float32", "bfloat16"),
    )
    data_service: str = _option(
        "distribution",
        "",
        "address of a tf.data service that reads a prepared data_dir, such as grpc://HOST:5050",
        "ours",
        may_change=True,
    )

    seed: int = _option(
        "run",
        0,
        "of initial weights, order, crops, flips, noise and dropout",
        "ours",
        low=0,
        high=2**31 - 1,
    )
    report_steps: int = _option("run", 20, "steps between reports to terminal and logs", "ours", low=1, may_change=True)
    summary_epochs: float = _option(
        "run",
        1.0,
        "epochs between histograms, sizes of updates and pictures in TensorBoard, from the first report on; 0 for none",
        "ours",
        low=0,
        high=100000,
        may_change=True,
    )
    checkpoint_steps: int = _option(
        "run",
        1000,
        "steps between checkpoints, which are saved at the first report from then on and at each epoch's end",
        "ours",
        low=1,
        may_change=True,
    )
    keep_checkpoints: int = _option("run", 2, "newest checkpoints kept", "ours", low=1, may_change=True)
    deterministic: bool = _option(
        "run",
        True,
        "use only operations that give the same bits every time",
        "ours",
        may_change=True,
    )
    intra_op_threads: int = _option(
        "run",
        0,
        "CPU threads within an operation; 0 chooses: 1 where two cores can take a tower each",
        "ours",
        low=0,
        high=1024,
        may_change=True,
    )
    inter_op_threads: int = _option(
        "run",
        0,
        "CPU operations at the same time; 0 chooses: one for each core",
        "ours",
        low=0,
        high=1024,
        may_change=True,
    )
    tf32: bool = _option(
        "run",
        True,
        "on GPUs that have it, multiply float32 with 10 bits of mantissa",
        "ours; paper's GPUs: float32",
        may_change=True,
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if self.schedule == "epochs" and list(self.drop_epochs) != sorted(self.drop_epochs):
            raise ValueError(f"Expected drop_epochs to rise. Received: {self.drop_epochs}")
        if self.devices not in ((), ("auto",)) and len(self.devices) != 2:
            raise ValueError(f"Expected devices to be auto, empty or two. Received: {','.join(self.devices)}")
        if self.towers != "two" and self.devices not in ((), ("auto",)):
            raise ValueError(f"Expected towers=two for two devices. Received: towers={self.towers}")
        if self.towers != "two" and self.communication != "paper":
            raise ValueError(f"Expected towers=two for communication=fc8. Received: towers={self.towers}")
        if self.distribute != "none" and self.devices not in ((), ("auto",)):
            raise ValueError(
                f"Expected devices to be auto or empty for distribute={self.distribute}. "
                f"Received: {','.join(self.devices)}"
            )
        if self.data_service and not self.data_dir:
            raise ValueError("Expected data_dir, which the data service reads. Received: data_service without it")
        if self.bottleneck % 2:
            raise ValueError(f"Expected bottleneck to be even. Received: {self.bottleneck}")
        if self.schedule in ("linear", "exponential_steps") and not self.epochs:
            raise ValueError(f"Expected epochs above 0 for schedule={self.schedule}. Received: 0")
        if self.crop_size > self.image_size:
            raise ValueError(
                f"Expected crop_size to be at most image_size, {self.image_size}. Received: {self.crop_size}"
            )
        self._check_network()
        if self.schedule == "plateau" and not self.validation_fraction:
            raise ValueError(
                "Expected a schedule that does not look at errors, such as epochs, where validation_fraction is 0. "
                "Received: schedule=plateau"
            )

    def _check_network(self):
        """Raises an error for a crop size or an option that the network does not accept."""
        network = registry.find(self.network)
        if self.crop_size not in network.crop_sizes:
            raise ValueError(
                f"Expected crop_size to be {registry.crop_sizes_text(network)} for network={self.network}. "
                f"Received: {self.crop_size}"
            )
        refused = registry.refused_options(self.network)
        for field in dataclasses.fields(self):
            if field.name in refused and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"Expected network={' or '.join(registry.networks_with(field.name))} for "
                    f"{field.name}={getattr(self, field.name)}. Received: network={self.network}"
                )

    def resolved(self):
        """This configuration with every None replaced by what the recipe says."""
        changes = {name: value for name, value in RECIPE_DEFAULTS[self.recipe].items() if getattr(self, name) is None}
        return dataclasses.replace(self, **changes)

    def differences(self, other):
        """Names of the fields that may not change within a run and differ between two configurations."""
        return [
            field.name
            for field in dataclasses.fields(self)
            if not field.metadata["may_change"] and getattr(self, field.name) != getattr(other, field.name)
        ]

    def fingerprint(self):
        """An int below 2 ** 32 that is the same for configurations that differ in nothing but what may change."""
        fixed = [field.name for field in dataclasses.fields(self) if not field.metadata["may_change"]]
        return zlib.crc32(repr([(name, getattr(self, name)) for name in fixed]).encode())


def describe_range(field):
    """The values a field may take, for messages and the help."""
    facts = field.metadata
    if facts["choices"]:
        return " | ".join(facts["choices"])
    if facts["kind"] is bool:
        return "true | false"
    if facts["low"] is None:
        return {str: "text", tuple: "names", list: "numbers"}[facts["kind"]]
    high = "" if facts["high"] is None else f" to {facts['high']}"
    return f"{facts['low']}{high or ' or more'}"


def _check(field, value):
    facts = field.metadata
    if value is None and field.default is None:
        return
    kinds = {float: (int, float), tuple: (tuple,), list: (tuple,)}.get(facts["kind"], (facts["kind"],))
    fits = isinstance(value, kinds) and (facts["kind"] is bool or not isinstance(value, bool))
    if fits and facts["choices"]:
        fits = value in facts["choices"]
    if fits and facts["low"] is not None:
        fits = value >= facts["low"] and (facts["high"] is None or value <= facts["high"])
    if fits and facts["kind"] is tuple:
        fits = all(isinstance(item, str) for item in value)
    if fits and facts["kind"] is list:
        fits = all(isinstance(item, (int, float)) and math.isfinite(item) for item in value)
    if not fits:
        raise ValueError(f"Expected {field.name} to be {describe_range(field)}. Received: {value!r}")
