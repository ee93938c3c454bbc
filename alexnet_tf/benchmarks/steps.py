"""How fast the network learns and answers, against textbook networks, the machine and itself (rows P1 to P8, P11, P13).

Our sides run in this process, with its settings of threads and devices; other libraries' run in processes of their own,
with theirs (`measuring.elsewhere`). A step of ours begins with grey levels, as in training.
"""

import dataclasses
import functools
import importlib.util
import pathlib
import re
import resource
import sys

import keras
import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import feeding
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.models import layers
from alexnet_tf.models import placement
from alexnet_tf.profiling import placement_report
from alexnet_tf.runs import builders
from alexnet_tf.training import loop

OURS, KERAS, TORCH, TENSORFLOW = "ours", "Keras textbook", "torch", "TensorFlow"
NUM_CLASSES = network_peers.NUM_CLASSES
# Pieces of work at the start of a turn: the first brings a side's memory back into the processor's cache.
WARM_UP = 1

# Of convolutions and products, 2 x multiply-adds: 1.4488 forward, twice that backward, but none towards the images.
GFLOP_AN_IMAGE = 4.1356
PARAMETERS = 60_965_224
MATRIX_SIDE = 3072
COPIED_BYTES = 1 << 28
LRN_SHAPES = ((55, 55, 96), (27, 27, 256))
LRN_BATCH = 32
INFERENCE_BATCHES = (1, 32, 128)
# Beside the input, at the paper's batch; what crosses grows with the batch.
MOST_CROSSING_BYTES = 63e6
CROSSING_BATCH = 128


def build_trainer(config, change=lambda model: model):
    """Our training step of a resolved configuration, of the network that `change` makes of ours."""
    model = change(builders.build_model(config, NUM_CLASSES))
    return builders.build_trainer(config, model, builders.blank_statistics())


# Compiling the step takes seconds and its variables half a gigabyte, and rows in a row need the same.
_our_trainer = functools.lru_cache(maxsize=1)(build_trainer)


def training_side(config, trainer, amount=None):
    """A side, as `measuring.interleave` takes it, of training steps on one batch of noise.

    Args:
      config: a resolved `config.Config`.
      trainer: a `trainer.Trainer`.
      amount: what a step yields; its images by default.
    """
    batch = feeding.synthetic_batch(config.batch_size, NUM_CLASSES, config.seed)
    rates = builders.initial_rates(config)

    def work():
        while True:
            # The loss is waited for, or a device's queue would be measured.
            trainer.step(batch, rates).loss.numpy()
            yield config.batch_size if amount is None else amount

    return work


def repeating(amount, function, *arguments):
    """A side that calls a function again and again, and waits for the devices; `amount` is done in a call."""

    def work():
        while True:
            function(*arguments)
            tf.test.experimental.sync_devices()
            yield amount

    return work


def interleave(request, sides):
    """`measuring.interleave` as a request wants it."""
    return measuring.interleave(sides, rounds=request.rounds, seconds=request.seconds, warm_up=WARM_UP)


def _images_and_labels(batch_size):
    generator = np.random.default_rng(0)
    images = 60 * generator.standard_normal([batch_size, 224, 224, 3], np.float32)
    return images, generator.integers(0, NUM_CLASSES, batch_size)


def keras_training(batch_size):
    """Sides in a process of their own: Keras's own training step."""
    model = network_peers.keras_alexnet()
    # On a GPU, if there is one, as ours are.
    images, labels = map(tf.constant, _images_and_labels(batch_size))
    return {KERAS: repeating(batch_size, model.train_on_batch, images, labels)}


def torch_training(batch_size):
    """Sides in a process of their own: a training step of torch."""
    import torch

    device = network_peers.torch_device()
    images, labels = _images_and_labels(batch_size)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    step = network_peers.torch_train_step(network_peers.torch_alexnet().to(device))
    return {TORCH: repeating(batch_size, step, images, torch.from_numpy(labels).to(device))}


def _torch_builds(notes, build, *arguments):
    """What `measuring.elsewhere` is given for torch's sides: nothing, and a note, where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        notes.append(f"{TORCH}: not installed")
        return []
    return [(build, *arguments)]


def textbooks(request):
    """P1 and P2: our training step, and that of the textbook network in Keras and in torch.

    Args:
      request: `measuring.Request`; the batch size is the configuration's.

    Returns:
      `measuring.Result`.
    """
    config = request.config.resolved()
    sides = {OURS: training_side(config, _our_trainer(config))}
    ratios = [measuring.Ratio(OURS, KERAS, 4.0)]
    notes = ["ours prepares images from grey levels in the step; the others get them ready"]
    torch_builds = _torch_builds(notes, torch_training, config.batch_size)
    if torch_builds:
        ratios.append(measuring.Ratio(OURS, TORCH, 3.0))
    with measuring.elsewhere((keras_training, config.batch_size), *torch_builds) as theirs:
        rates = interleave(request, sides | theirs)
    what = f"training steps of the whole network, batches of {config.batch_size}, {config.precision}"
    return measuring.Result(what, "images/s", rates, ratios, notes)


def without_normalization(model):
    """A network like `model` with new weights, whose response normalisations do nothing.

    Args:
      model: an `AlexNet`.

    Returns:
      A ``keras.Model``.
    """

    def clone(layer):
        if isinstance(layer, layers.LocalResponseNormalization):
            return keras.layers.Activation("linear", name=layer.name, dtype=layer.dtype_policy)
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def normalization_share(request):
    """P3: our training step without local response normalisation and with it.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    config = request.config.resolved()
    bare = build_trainer(config, without_normalization)
    sides = {
        "without LRN": training_side(config, bare),
        OURS: training_side(config, _our_trainer(config)),
    }
    ratios = [measuring.Ratio("without LRN", OURS, 1.15, measuring.AT_MOST)]
    what = f"training steps, batches of {config.batch_size}, {config.precision}"
    return measuring.Result(what, "images/s", interleave(request, sides), ratios)


def _normalization_sides(name, normalize, batch_size):
    """Sides of a normalisation forward and backward, compiled as part of a graph, one for each of `LRN_SHAPES`."""

    @tf.function
    def forward_and_backward(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = normalize(x)
        return y, tape.gradient(y, x, output_gradients=upstream)

    sides = {}
    for shape in LRN_SHAPES:
        generator = tf.random.Generator.from_seed(0)
        x, upstream = (generator.normal([batch_size, *shape], stddev=20.0) for _ in range(2))
        sides[f"{name} {_times(batch_size, *shape)}"] = repeating(batch_size, forward_and_backward, x, upstream)
    return sides


def _times(*sizes):
    return "x".join(map(str, sizes))


def tensorflow_normalization(batch_size):
    """Sides in a process of their own: TensorFlow's response normalisation."""
    normalize = functools.partial(tf.nn.local_response_normalization, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75)
    return _normalization_sides(TENSORFLOW, normalize, batch_size)


def our_normalization(batch_size):
    """Sides in a process of their own: our response normalisation, alone on all cores as TensorFlow's is."""
    return _normalization_sides(OURS, layers.LocalResponseNormalization(), batch_size)


def normalization(request):
    """P4: local response normalisation and its gradient, TensorFlow's and ours, in float32, with all cores either way.

    Args:
      request: `measuring.Request`; batches are of 32 images, or of the configuration's size if that is smaller.

    Returns:
      `measuring.Result`.
    """
    batch_size = min(LRN_BATCH, request.config.batch_size)
    with measuring.elsewhere((our_normalization, batch_size), (tensorflow_normalization, batch_size)) as sides:
        rates = interleave(request, sides)
    names = list(sides)
    count = len(LRN_SHAPES)
    ratios = [measuring.Ratio(our, their, 4.0) for our, their in zip(names[:count], names[count:])]
    return measuring.Result("LRN, forward and backward, float32", "images/s", rates, ratios)


def matrix_product():
    """Sides in a process of their own: TensorFlow's product of two float32 matrices, in GFLOP."""
    generator = tf.random.Generator.from_seed(0)
    matrices = [generator.normal([MATRIX_SIDE, MATRIX_SIDE]) for _ in range(2)]
    return {"tf.matmul": repeating(2e-9 * MATRIX_SIDE**3, tf.matmul, *matrices)}


def utilization(request):
    """P6: the arithmetic of a training step a second, and that of a product of large matrices.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    config = request.config.resolved()
    sides = {OURS: training_side(config, _our_trainer(config), GFLOP_AN_IMAGE * config.batch_size)}
    with measuring.elsewhere((matrix_product,)) as theirs:
        rates = interleave(request, sides | theirs)
    notes = [
        f"{GFLOP_AN_IMAGE} GFLOP an image; tf.matmul of {_times(MATRIX_SIDE, MATRIX_SIDE)}, float32",
        "the ratio is the model FLOP utilisation, with tf.matmul's speed taken for the peak",
    ]
    what = f"training steps, batches of {config.batch_size}, {config.precision}"
    return measuring.Result(what, "GFLOP/s", rates, [measuring.Ratio(OURS, "tf.matmul", 1.2)], notes)


def processor_flags():
    """The instructions that the processor has, a set of str; empty where the system does not tell."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def precisions(request):
    """P7: our training step in float32 and with bfloat16 products.

    Args:
      request: `measuring.Request`; its precision does not count.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: where the processor has no instructions for bfloat16.
    """
    if not processor_flags() & {"avx512_bf16", "amx_bf16"} and not tf.config.list_physical_devices("GPU"):
        raise measuring.NotRunError("needs a processor with bfloat16 (avx512_bf16 or amx_bf16), or a GPU")
    names = ("bfloat16", "float32")
    configs = {name: dataclasses.replace(request.config, precision=name).resolved() for name in names}
    sides = {
        "bfloat16": training_side(configs["bfloat16"], build_trainer(configs["bfloat16"])),
        "float32": training_side(configs["float32"], _our_trainer(configs["float32"])),
    }
    what = f"training steps, batches of {request.config.batch_size}"
    ratios = [measuring.Ratio(*names, 1.4)]
    return measuring.Result(what, "images/s", interleave(request, sides), ratios)


def two_devices(request):
    """P8: our training step on two devices and on one, what crosses between the two, and what each does.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.

    Raises:
      NotRunError: in a process, or of a configuration, with one device.
    """
    config = request.config.resolved()
    if not placement.choose_devices(config.devices):
        raise measuring.NotRunError("needs two devices, such as --devices=/CPU:0,/CPU:1")
    trainer = build_trainer(config)
    batch = feeding.synthetic_batch(config.batch_size, NUM_CLASSES, config.seed)
    rates = builders.initial_rates(config)
    # Before any other step is taken: only a first run can be observed.
    report = placement_report.placement_report(trainer.step, batch, rates)
    alone = dataclasses.replace(config, devices=())
    sides = {
        "one device": training_side(alone, _our_trainer(alone)),
        "two devices": training_side(config, trainer),
    }
    ratios = [measuring.Ratio("one device", "two devices", 1.10, measuring.AT_MOST)]
    what = f"training steps, batches of {config.batch_size}, {config.precision}"
    notes = [f"devices {', '.join(config.devices)}"]
    return measuring.Result(what, "images/s", interleave(request, sides), ratios, notes, _shares(config, report))


def _shares(config, report):
    """What crosses, and the first device's share of what grows with the network, fc8 aside: it lives there alone."""
    reach = MOST_CROSSING_BYTES / 1e6 * config.batch_size / CROSSING_BATCH
    crossing = placement_report.transferred_bytes(report, is_input=False) / 1e6
    figures = [measuring.Figure("crosses a step, beside the input", crossing, "MB", reach, measuring.AT_MOST)]
    device = report.devices[0]
    for what, quantity, only in (
        ("FLOP forward", "flops", {"phase": "forward"}),
        ("FLOP backward", "flops", {"phase": "backward"}),
        ("parameters updated", "parameters", {}),
    ):
        whole = placement_report.total(report, quantity, exclude=("fc8",), **only)
        share = 100 * placement_report.total(report, quantity, exclude=("fc8",), device=device, **only) / whole
        figures.append(
            measuring.Figure(f"{what} on {device}, fc8 aside", share, "%", 50.0, measuring.EXACTLY),
        )
    return figures


def keras_update():
    """Sides in a process of their own: the update of all parameters by Keras's optimiser."""
    variables = network_peers.keras_alexnet().trainable_variables
    optimizer = network_peers.keras_optimizer()
    optimizer.build(variables)

    @tf.function
    def update(*gradients):
        optimizer.apply(gradients, variables)

    return {KERAS: repeating(1, update, *_gradients(variables))}


def _gradients(variables):
    generator = tf.random.Generator.from_seed(0)
    return [generator.normal(variable.shape, stddev=1e-3) for variable in variables]


def update(request):
    """P11: the update of all 61 million parameters with momentum and weight decay, Keras's and ours.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`.
    """
    config = request.config.resolved()
    optimizer = _our_trainer(config).optimizer
    rates = builders.initial_rates(config)

    @tf.function
    def our_update(rates, *gradients):
        optimizer.apply(gradients, rates)

    sides = {OURS: repeating(1, our_update, rates, *_gradients(optimizer.variables))}
    with measuring.elsewhere((keras_update,)) as theirs:
        rates_found = interleave(request, sides | theirs)
    ratios = [measuring.Ratio(OURS, KERAS, 1.5)]
    return measuring.Result("updates of all parameters, float32", "updates/s", rates_found, ratios)


def traces(request):
    """P13: how often TensorFlow traces the training step while the learning rate drops.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`, without rates.
    """
    config = dataclasses.replace(
        request.config, schedule="epochs", drop_epochs=(1.0, 2.0), batch_size=min(8, request.config.batch_size)
    ).resolved()
    trainer = build_trainer(config)
    schedule = builders.build_schedule(config)
    batch = feeding.synthetic_batch(config.batch_size, NUM_CLASSES, config.seed)
    taken = loop.train(
        trainer,
        [batch] * 4,
        steps=4,
        steps_per_epoch=1,
        learning_rates=lambda progress: builders.learning_rates(config, schedule, progress),
    )
    figures = [measuring.Figure("traces of the step", trainer.traces, "", 1.0, measuring.EXACTLY)]
    what = f"{taken} steps, between which the learning rate drops twice"
    return measuring.Result(what, "", {}, [], figures=figures)


def _inference_batches(largest):
    return sorted({min(size, largest) for size in INFERENCE_BATCHES})


def keras_inference(sizes):
    """Sides in a process of their own: Keras's own network in use."""
    model = network_peers.keras_alexnet()
    images = {size: tf.constant(_images_and_labels(size)[0]) for size in sizes}
    return {f"{KERAS}, {size}": repeating(size, model.predict_on_batch, images[size]) for size in sizes}


def torch_inference(sizes):
    """Sides in a process of their own: torch's network in use."""
    import torch

    device = network_peers.torch_device()
    model = network_peers.torch_alexnet().eval().to(device)

    def answer(images):
        with torch.inference_mode():
            # Copied back, which waits for a GPU.
            return model(images).cpu()

    def images_of(size):
        return torch.from_numpy(_images_and_labels(size)[0].transpose(0, 3, 1, 2).copy()).to(device)

    images = {size: images_of(size) for size in sizes}
    return {f"{TORCH}, {size}": repeating(size, answer, images[size]) for size in sizes}


def forward(request):
    """Images a second in use, ours and the textbooks', in batches of 1, 32 and 128 as far as the batch size goes.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`; nothing is claimed.
    """
    config = request.config.resolved()
    sizes = _inference_batches(config.batch_size)
    model = _our_trainer(config).model
    answer = tf.function(functools.partial(model, training=False))
    sides = {f"{OURS}, {size}": repeating(size, answer, tf.constant(_images_and_labels(size)[0])) for size in sizes}
    ratios = [measuring.Ratio(f"{OURS}, {size}", f"{KERAS}, {size}") for size in sizes]
    notes = []
    torch_builds = _torch_builds(notes, torch_inference, sizes)
    if torch_builds:
        ratios += [measuring.Ratio(f"{OURS}, {size}", f"{TORCH}, {size}") for size in sizes]
    with measuring.elsewhere((keras_inference, sizes), *torch_builds) as theirs:
        rates = interleave(request, sides | theirs)
    return measuring.Result("the network in use, by batch size", "images/s", rates, ratios, notes)


def growth(request):
    """The speed of a training step and the most memory that this process has held, at one batch size.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`, of which those of other batch sizes can be put together.
    """
    config = request.config.resolved()
    size = config.batch_size
    rates = interleave(request, {f"batch {size}": training_side(config, _our_trainer(config))})
    seconds = size / float(np.median(rates[f"batch {size}"]))
    figures = [
        measuring.Figure(f"step, batch {size}", seconds, "s"),
        measuring.Figure(f"peak memory, batch {size}", peak_memory() / 1e6, "MB"),
    ]
    what = f"training steps of the whole network by batch size, {config.precision}"
    return measuring.Result(what, "images/s", rates, [], figures=figures)


def peak_memory():
    """The most bytes of main memory that this process has held."""
    try:
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        # What Linux says here counts the process that began this one too.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1024)
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1])


def machine(request):
    """What the machine can do: products of large matrices, and copies in memory by one thread.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result`; nothing is claimed.
    """
    source = np.ones(COPIED_BYTES // 4, np.float32)
    copy = repeating(1e-9 * COPIED_BYTES, np.copyto, np.zeros_like(source), source)
    with measuring.elsewhere((matrix_product,)) as sides:
        rates = interleave(request, sides | {"copy": copy})
    products, copies = (float(np.median(rates[name])) for name in rates)
    figures = [
        measuring.Figure(f"tf.matmul, {_times(MATRIX_SIDE, MATRIX_SIDE)}, float32", products, "GFLOP/s"),
        measuring.Figure("memory copied by one thread", copies, "GB/s"),
    ]
    # Rates of two units: the figures say them.
    return measuring.Result("the machine", "", {}, [], figures=figures)
