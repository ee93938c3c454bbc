"""The network in inference, against textbook networks (row forward)."""

import functools
from collections.abc import Sequence

import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import network_peers
from alexnet_tf.benchmarks import sides

BATCHES = (1, 32, 128)


def keras_inference(sizes: Sequence[int]) -> dict[str, measuring.Side]:
    """Sides for another process: the Keras network, one for each batch size."""
    model = network_peers.keras_alexnet()
    images = {size: tf.constant(sides.images_and_labels(size)[0]) for size in sizes}
    return {f"{sides.KERAS}, {size}": sides.repeat(size, model.predict_on_batch, images[size]) for size in sizes}


def torch_inference(sizes: Sequence[int]) -> dict[str, measuring.Side]:
    """Sides for another process: the torch network, one for each batch size."""
    import torch

    from alexnet_tf.benchmarks import torch_alexnet

    device = torch_alexnet.device()
    model = torch_alexnet.build().eval().to(device)

    def predict(images):
        with torch.inference_mode():
            # The copy to the CPU waits for a GPU.
            return model(images).cpu()

    def images_of(size):
        return torch.from_numpy(sides.images_and_labels(size)[0].transpose(0, 3, 1, 2).copy()).to(device)

    images = {size: images_of(size) for size in sizes}
    return {f"{sides.TORCH}, {size}": sides.repeat(size, predict, images[size]) for size in sizes}


def forward(request: measuring.Request) -> measuring.Result:
    """Images per second in inference, ours and the textbooks', in batches of 1, 32 and 128.

    Args:
      request: `measuring.Request`; no batch is larger than the configuration's.

    Returns:
      `measuring.Result` without targets.
    """
    run_config = request.config.resolved()
    sizes = sorted({min(size, run_config.batch_size) for size in BATCHES})
    predict = tf.function(functools.partial(sides.shared_trainer(run_config).model, training=False))

    def ours(size):
        images = tf.constant(sides.images_and_labels(size, run_config.crop_size)[0])
        return sides.repeat(size, predict, images)

    measured = {f"{sides.OURS}, {size}": ours(size) for size in sizes}
    ratios = [measuring.Ratio(f"{sides.OURS}, {size}", f"{sides.KERAS}, {size}") for size in sizes]
    notes = []
    torch_builds = sides.torch_builds(notes, torch_inference, sizes)
    if torch_builds:
        ratios += [measuring.Ratio(f"{sides.OURS}, {size}", f"{sides.TORCH}, {size}") for size in sizes]
    with measuring.in_subprocesses((keras_inference, sizes), *torch_builds) as theirs:
        rates = sides.interleave(request, measured | theirs)
    return measuring.Result("inference by batch size", "images/s", rates, ratios, notes)
