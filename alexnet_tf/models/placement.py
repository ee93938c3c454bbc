"""A layer, forward and backward, on one device.

TensorFlow places an operation by the innermost ``tf.device`` scope that is open when the operation is
created. Two facts follow for Keras and gradient tapes, and this module exists because of them:

* ``with tf.device(d):`` around the *construction* of a functional model places only the variables: the
  operations are created later, when the model is called;
* a scope inside ``call`` places the forward operations, but a tape creates the gradient operations when
  ``tape.gradient`` runs, outside every scope, so the whole backward pass lands on the first device.

`run_on_device` therefore gives a function a gradient of its own that re-enters the device, and `on_device`
makes Keras layers that run so, with their variables there too.
"""

import contextlib
import functools

import keras
import tensorflow as tf


def device_scope(device):
    """An explicit ``tf.device(device)`` scope, or one that does nothing where `device` is None."""
    return contextlib.nullcontext() if device is None else tf.device(device)


def choose_devices(devices):
    """The homes of the two towers.

    Args:
      devices: as a configuration has them: ``("auto",)``, two names, or nothing.

    Returns:
      The two names; or None for one device, which "auto" gives where this process has fewer than two GPUs.

    Raises:
      ValueError: as `check_devices`.
    """
    if tuple(devices) != ("auto",):
        return check_devices(devices) if devices else None
    return ("/GPU:0", "/GPU:1") if len(tf.config.list_logical_devices("GPU")) >= 2 else None


def input_device(devices):
    """Where batches are to be copied ahead of their step.

    Args:
      devices: of `choose_devices`.

    Returns:
      The device of the first tower, or the first GPU for one device; None for a CPU, where they are.
    """
    if devices:
        return devices[0] if "GPU" in devices[0] else None
    return "/GPU:0" if tf.config.list_logical_devices("GPU") else None


def check_devices(devices):
    """Checks that two devices are named and there.

    Args:
      devices: two TensorFlow device names, such as ``("/GPU:0", "/GPU:1")``; the same one twice is allowed.

    Returns:
      The two names as a tuple.

    Raises:
      ValueError: for another number of devices, or for one that this process does not have.
    """
    if isinstance(devices, str) or len(devices) != 2:
        raise ValueError(f"Expected devices to be None or two device names. Received: {devices=}")
    present = [f"/{device.device_type}:{index}" for device, index in _logical_devices()]
    missing = [device for device in devices if device not in present]
    if missing:
        received = ", ".join(map(str, missing))
        raise ValueError(f"Expected devices that are present: {', '.join(present)}. Received: {received}")
    return tuple(devices)


def _logical_devices():
    """Each logical CPU and GPU of this process with its number."""
    for kind in ("CPU", "GPU"):
        for index, device in enumerate(tf.config.list_logical_devices(kind)):
            yield device, index


def run_on_device(device, function, inputs):
    """Calls ``function(inputs)`` so that its operations and those of its gradient run on `device`.

    Args:
      device: a TensorFlow device name such as ``"/GPU:1"``; None calls `function` and nothing else.
      function: maps `inputs` to a tensor or a list of tensors. It may read variables.
      inputs: a tensor or a list of tensors.

    Returns:
      What `function` returns. The forward pass runs once: the gradient reuses its activations.
    """
    if device is None:
        return function(inputs)

    @tf.custom_gradient
    def placed(*flat_inputs):
        packed = tf.nest.pack_sequence_as(inputs, flat_inputs)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(flat_inputs)
            outputs = function(packed)

        def gradient(*output_gradients, variables=()):
            targets = tf.nest.flatten(outputs)
            with tf.device(device):
                gradients = tape.gradient(
                    targets,
                    [*flat_inputs, *variables],
                    output_gradients=list(output_gradients),
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
            input_gradients = gradients[: len(flat_inputs)]
            variable_gradients = gradients[len(flat_inputs) :]
            return (input_gradients, variable_gradients) if variables else input_gradients

        return outputs, gradient

    with tf.device(device):
        return placed(*tf.nest.flatten(inputs))


def on_device(layer_class):
    """Makes of a Keras layer class one whose layers live on a device.

    Args:
      layer_class: a subclass of ``keras.layers.Layer`` whose ``call`` takes a tensor or a list of tensors first.

    Returns:
      A subclass with one more keyword argument, ``device``: a TensorFlow device name that gets the layer's
      variables, its forward and its backward operations; or None, for a layer placed like any other. Names and
      numbers do not depend on it.
    """

    class Placed(layer_class):
        def __init__(self, *args, device=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.device = device

        @functools.wraps(layer_class.build)
        def build(self, *args, **kwargs):
            with device_scope(self.device):
                layer_class.build(self, *args, **kwargs)

        @functools.wraps(layer_class.call)
        def call(self, inputs, *args, **kwargs):
            return run_on_device(self.device, lambda x: layer_class.call(self, x, *args, **kwargs), inputs)

        def get_config(self):
            return {**super().get_config(), "device": self.device}

    for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(Placed, attribute, getattr(layer_class, attribute))
    return Placed


class FanOut(keras.layers.Layer):
    """Hands one tensor to several readers.

    Without it a tape would sum the readers' gradients wherever it runs; with it (placed) they are summed on the
    device of the tensor, and each reader's gradient crosses once.

    Args:
      readers: int, how many.

    Input: any tensor. Output: a list of `readers` tensors like it.
    """

    def __init__(self, readers, **kwargs):
        super().__init__(**kwargs)
        self.readers = readers

    def call(self, inputs):
        return [tf.identity(inputs) for _ in range(self.readers)]

    def compute_output_shape(self, input_shape):
        return [input_shape] * self.readers

    def get_config(self):
        return {**super().get_config(), "readers": self.readers}
