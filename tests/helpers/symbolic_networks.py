"""Builds networks without allocating their variables, which have only names and shapes."""

import keras


def build(make, *args, **kwargs):
    """Returns the network that `make` returns for arguments; it cannot compute anything."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            return make(*args, **kwargs)
    finally:
        # Keras would initialize the variables when the next scope of this kind ends.
        keras.utils.clear_session()


def depth(model):
    """Returns the largest number of layers with kernels on a path from the input to the output."""
    depths = {}
    for layer in model.layers:
        is_input = isinstance(layer, keras.layers.InputLayer)
        before = 0 if is_input else max(depths[id(tensor)] for tensor in keras.tree.flatten(layer.input))
        for tensor in keras.tree.flatten(layer.output):
            depths[id(tensor)] = before + (getattr(layer, "kernel", None) is not None)
    return depths[id(model.outputs[0])]
