"""What the networks have in common as Keras models: their state in saved files, and quantization."""

import re
import warnings
from collections.abc import Callable
from collections.abc import Sequence

import keras


def resolve_dtype(dtype) -> str | dict:
    """Returns the dtype policy of a network in a form that JSON can hold.

    Args:
      dtype: a Keras dtype or dtype policy, or None for the global policy at this moment. A saved network keeps it,
        whatever the global policy is when it is loaded.

    Returns:
      The name of the policy; or its configuration if the name does not determine it.
    """
    policy = keras.dtype_policies.get(dtype)
    if policy.quantization_mode is None and not isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        return policy.name
    return keras.dtype_policies.serialize(policy)


class Network(keras.Model):
    """The base class of the networks: functional models that are saved as the arguments of their constructor.

    A subclass stores these in ``self._arguments``. A saved file has in addition which layers are frozen and which are
    quantized.
    """

    @property
    def training_layers(self) -> list[keras.layers.Layer]:
        """All layers that ``training=True`` computes, which may be more than `layers`."""
        return self.layers

    def get_config(self):
        config = dict(self._arguments)
        if not self.trainable:
            config["trainable"] = False
        if frozen := [layer.name for layer in self.layers if not layer.trainable]:
            config["frozen_layers"] = frozen
        if quantized := {layer.name: layer.dtype_policy.name for layer in self.layers if layer.quantization_mode}:
            config["quantized_layers"] = quantized
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        trainable = config.pop("trainable", True)
        frozen = config.pop("frozen_layers", ())
        quantized = config.pop("quantized_layers", {})
        network = cls(**config)
        for name, policy in quantized.items():
            # Quantizes the layer, so that it has the variables of the saved one.
            network.get_layer(name).dtype_policy = policy
        if not trainable:
            network.trainable = False
            for layer in network.layers:
                layer.trainable = True
        for name in frozen:
            network.get_layer(name).trainable = False
        return network

    def quantize(
        self,
        mode: str | None = None,
        config=None,
        filters: str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None = None,
        **kwargs,
    ):
        """Quantizes the fully connected layers, and warns which layers keep their precision.

        Keras has no quantized convolution. The fully connected layers have 58.6 of AlexNet's 61 million parameters.

        Args:
          mode, config, filters, **kwargs: as in ``keras.Model.quantize``.
        """

        def is_chosen(layer):
            return type(layer).quantize is not keras.layers.Layer.quantize and _is_selected(layer, filters)

        super().quantize(mode, config=config, filters=is_chosen, **kwargs)
        with_weights = [layer for layer in self.layers if layer.count_params()]
        done = [layer.name for layer in with_weights if layer.quantization_mode]
        kept = [layer.name for layer in with_weights if not layer.quantization_mode]
        if kept:
            warnings.warn(
                f"{self.name} is quantized to {mode} in {', '.join(done) or 'no layer'}. "
                f"Layers that keep their precision: {', '.join(kept)}.",
                stacklevel=3,
            )


def _is_selected(layer, filters):
    """Returns whether the filters of ``keras.Model.quantize`` select a layer."""
    if callable(filters):
        return filters(layer)
    patterns = [filters] if isinstance(filters, str) else filters
    return patterns is None or any(re.search(pattern, layer.name) for pattern in patterns)
