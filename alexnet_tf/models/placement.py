"""Placement of layers, forward and backward, on devices.

TensorFlow places an operation by the innermost ``tf.device`` scope at its creation. For Keras and gradient tapes this
has two consequences, which are the reason for this module:

* ``with tf.device(d):`` around the *construction* of a functional model places the variables only. The operations are
  created later, when the model is called.
* A scope inside ``call`` places the forward operations only. A tape creates the gradient operations when
  ``tape.gradient`` runs, outside that scope, so the entire backward pass is placed on the first device.

`run_on_device` therefore gives a function a custom gradient that enters the device scope again. `on_device` derives
Keras layers that run this way and have their variables on the device too.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf


def device_scope(device: str | None) -> contextlib.AbstractContextManager:
    """Returns the scope ``tf.device(device)``, or a scope without effect if `device` is None."""
    return contextlib.nullcontext() if device is None else tf.device(device)


def choose_devices(devices: Sequence[str]) -> tuple[str, str] | None:
    """Returns the devices of the two towers.

    Args:
      devices: the `devices` of a configuration: ``("auto",)``, two names, or empty for a single device.

    Returns:
      Two names, or None for a single device. "auto" stands for two GPUs if this process has two, and for a single
      device otherwise.

    Raises:
      ValueError: As in `check_devices`.
    """
    if tuple(devices) != ("auto",):
        return check_devices(devices) if devices else None
    return ("/GPU:0", "/GPU:1") if len(tf.config.list_logical_devices("GPU")) >= 2 else None


def input_device(devices: Sequence[str] | None) -> str | None:
    """Returns the device to which batches are copied in advance.

    Args:
      devices: the result of `choose_devices`.

    Returns:
      The device of tower a, or the first GPU for a single device; None for a CPU, which needs no copy.
    """
    if devices:
        return devices[0] if "GPU" in devices[0] else None
    return "/GPU:0" if tf.config.list_logical_devices("GPU") else None


def check_devices(devices: Sequence[str]) -> tuple[str, str]:
    """Checks that `devices` are two devices of this process.

    Args:
      devices: two TensorFlow device names, such as ``("/GPU:0", "/GPU:1")``, which may be equal.

    Returns:
      The two names as a tuple.

    Raises:
      ValueError: If the number of devices is not two, or this process does not have one of them.
    """
    if isinstance(devices, str) or len(devices) != 2:
        raise ValueError(f"Expected devices to be None or two device names. Received: {devices=}")
    present = [f"/{device.device_type}:{index}" for device, index in _logical_devices()]
    missing = [device for device in devices if device not in present]
    if missing:
        received = ", ".join(map(str, missing))
        raise ValueError(f"Expected devices that are present: {', '.join(present)}. Received: {received}")
    return tuple(devices)


def present_device(device: str | None) -> str | None:
    """Returns the device of a saved layer if this process has it; otherwise warns and returns None.

    A model that was saved where there are two GPUs can thus be loaded anywhere.
    """
    if device is None:
        return None
    wanted = tf.DeviceSpec.from_string(device)
    for present, index in _logical_devices():
        if wanted.device_type in (None, present.device_type) and wanted.device_index in (None, index):
            return device
    message = f"The model was saved with layers on {device}, which is not present; TensorFlow places them."
    warnings.warn(message, stacklevel=2)
    return None


def _logical_devices():
    """Yields each logical CPU and GPU of this process with its number."""
    for kind in ("CPU", "GPU"):
        for index, device in enumerate(tf.config.list_logical_devices(kind)):
            yield device, index


def run_on_device(
    device: str | None,
    function: Callable[[tf.Tensor | list[tf.Tensor]], tf.Tensor | list[tf.Tensor]],
    inputs: tf.Tensor | list[tf.Tensor],
) -> tf.Tensor | list[tf.Tensor]:
    """Calls ``function(inputs)`` with its operations, and those of its gradient, on a device.

    Args:
      device: a TensorFlow device name, such as ``"/GPU:1"``; None to call `function` without placement.
      function: maps `inputs` to a tensor or a list of tensors. It may read variables.
      inputs: a tensor or a list of tensors.

    Returns:
      The result of `function`. The forward pass runs once, and the gradient reuses its activations.
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


@functools.cache
def on_device(layer_class: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
    """Derives a layer class with an argument for the device of its layers.

    The class is registered with Keras under a name of its own, so that a model of any such layers can be saved and
    loaded. Its ``__name__`` is that of `layer_class`, because Keras names layers and saved weights by it.

    Args:
      layer_class: a subclass of ``keras.layers.Layer`` whose ``call`` takes a tensor or a list of tensors first.

    Returns:
      A subclass with an additional keyword argument, ``device``: the name of the TensorFlow device for the layer's
      variables, forward operations and backward operations; or None to leave placement to TensorFlow. Names and results
      do not depend on it. A layer on a device does not support XLA, which would compile the layers of all devices into
      one function of a single device.
    """

    class Placed(layer_class):
        def __init__(self, *args, device=None, **kwargs):
            super().__init__(*args, **kwargs)
            self.device = device
            if device is not None:
                self.supports_jit = False

        @functools.wraps(layer_class.build)
        def build(self, *args, **kwargs):
            with device_scope(self.device):
                layer_class.build(self, *args, **kwargs)

        @functools.wraps(layer_class.call)
        def call(self, inputs, *args, **kwargs):
            return run_on_device(self.device, lambda x: layer_class.call(self, x, *args, **kwargs), inputs)

        def get_config(self):
            return {**super().get_config(), "device": self.device}

        @classmethod
        def from_config(cls, config, *args, **kwargs):
            config = {**config, "device": present_device(config.get("device"))}
            return super().from_config(config, *args, **kwargs)

    if layer_class.quantize is not keras.layers.Layer.quantize:
        _place_quantization(Placed, layer_class)
    for attribute in ("__name__", "__qualname__", "__doc__"):
        setattr(Placed, attribute, getattr(layer_class, attribute))
    name = f"Placed({keras.saving.get_registered_name(layer_class)})"
    return keras.saving.register_keras_serializable(package="alexnet_tf", name=name)(Placed)


def _place_quantization(placed_class, layer_class):
    """Gives a placed class the methods that quantize it on its device. Keras's own refuse subclasses."""

    def quantize(self, mode=None, type_check=True, config=None):
        with device_scope(self.device):
            layer_class.quantize(self, mode=mode, type_check=False, config=config)

    def quantized_call(self, inputs, *args, **kwargs):
        return run_on_device(self.device, lambda x: layer_class.quantized_call(self, x, *args, **kwargs), inputs)

    placed_class.quantize = quantize
    placed_class.quantized_call = quantized_call


@keras.saving.register_keras_serializable(package="alexnet_tf")
class FanOut(keras.layers.Layer):
    """Copies a tensor for several readers.

    Without this layer, a tape sums the gradients of the readers wherever it runs. With a placed `FanOut`, they are
    summed on the device of the tensor, and the gradient of each reader is transferred once.

    Args:
      readers: int, the number of copies.
      **kwargs: arguments of ``keras.layers.Layer``.

    Input: any tensor.

    Output: a list of `readers` tensors equal to the input.

    Raises:
      ValueError: If `readers` is not an int of at least 1.
    """

    def __init__(self, readers: int, **kwargs):
        if isinstance(readers, bool) or not (isinstance(readers, int) and readers >= 1):
            raise ValueError(f"Expected readers to be an int of at least 1. Received: {readers=}")
        super().__init__(**kwargs)
        self.readers = readers

    def call(self, inputs):
        return [tf.identity(inputs) for _ in range(self.readers)]

    def compute_output_shape(self, input_shape):
        return [input_shape] * self.readers

    def get_config(self):
        return {**super().get_config(), "readers": self.readers}
