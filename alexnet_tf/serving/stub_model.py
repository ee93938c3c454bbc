"""A SavedModel in a session, with the checks of TensorFlow Serving: the model of `stub_server`."""

import os
from collections.abc import Iterable
from collections.abc import Mapping

import google.protobuf.message
import grpc
import numpy as np
import tensorflow as tf

from alexnet_tf.serving import protocol
from alexnet_tf.utils import pathnames


class StatusError(Exception):
    """Why a request is rejected.

    Args:
      status: the gRPC status of the response.
      details: one line.
    """

    def __init__(self, status: grpc.StatusCode, details: str):
        super().__init__(details)
        self.status, self.details = status, details


def _invalid(expected, received):
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, f"Expected {expected}. Received: {received}")


def _listed(names):
    return ", ".join(sorted(names)) or "none"


class Model:
    """A SavedModel in a session.

    Args:
      directory: the directory of one version.
    """

    def __init__(self, directory: str | os.PathLike):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            # TensorFlow Serving's own loader has no Python binding; this one loads the same graph into a session.
            path = pathnames.without_patterns(directory)
            loaded = tf.compat.v1.saved_model.loader.load(self._session, [tf.saved_model.SERVING], path)
        except BaseException:
            self._session.close()
            raise
        self._signatures = dict(loaded.signature_def)
        self._callables = {}

    def close(self) -> None:
        """Frees the variables."""
        self._session.close()

    def checked_inputs(self, request: google.protobuf.message.Message, name: str) -> dict[str, np.ndarray]:
        """Returns the input arrays of a request if they fit a signature.

        Args:
          request: a PredictRequest.
          name: name of the signature.

        Returns:
          A dict from input names to arrays, all of the same length, at least 1.

        Raises:
          StatusError: if they do not fit.
        """
        expected = self._signature(name).inputs
        if request.inputs.keys() != expected.keys():
            raise _invalid(f"the inputs {_listed(expected)} of {name!r}", _listed(request.inputs))
        for key, info in expected.items():
            dtype = request.inputs[key].dtype
            if dtype != info.dtype:
                raise _invalid(f"{key!r} of dtype {_dtype_name(info.dtype)}", _dtype_name(dtype))
        arrays = _arrays(request)
        for key, info in expected.items():
            shape = tf.TensorShape(info.tensor_shape)
            if not arrays[key].ndim or not shape.is_compatible_with(arrays[key].shape):
                raise _invalid(f"{key!r} of shape {shape}", list(arrays[key].shape))
        shapes = [list(array.shape) for array in arrays.values()]
        if len({shape[0] for shape in shapes}) != 1 or any(0 in shape for shape in shapes):
            raise _invalid("inputs of the same length, with sizes of at least 1", f"shapes {shapes}")
        return arrays

    def checked_outputs(self, request: google.protobuf.message.Message, name: str) -> tuple[str, ...]:
        """Returns the names of the requested outputs, sorted; arguments and errors are those of `checked_inputs`."""
        known = self._signature(name).outputs
        unknown = set(request.output_filter) - known.keys()
        if unknown:
            raise _invalid(f"outputs among {_listed(known)} of {name!r}", _listed(unknown))
        return tuple(sorted(set(request.output_filter) or known))

    def _signature(self, name):
        if name not in self._signatures:
            # The status that TensorFlow Serving returns.
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"Expected a signature among {_listed(self._signatures)}. Received: {name!r}",
            )
        return self._signatures[name]

    def run(self, name: str, outputs: Iterable[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
          name: name of the signature.
          outputs: names of the outputs to return.
          inputs: arrays by input name.

        Returns:
          A dict from output names to arrays.
        """
        outputs = tuple(outputs)
        key = (name, outputs, tuple(inputs))
        if key not in self._callables:
            signature = self._signatures[name]
            self._callables[key] = self._session.make_callable(
                [signature.outputs[output].name for output in outputs], [signature.inputs[each].name for each in inputs]
            )
        return dict(zip(outputs, self._callables[key](*inputs.values())))


def _arrays(request):
    try:
        return protocol.arrays(request.inputs)
    except ValueError as error:
        raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None


def _dtype_name(number):
    try:
        return tf.as_dtype(number).name
    except TypeError:
        return f"number {number}"
