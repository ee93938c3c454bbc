"""What the readers of weight files return: arrays by name and, where the file has it, the order of computation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


class FormatError(ValueError):
    """A weight file is damaged, or it contains what no weight file needs. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of the network that a file describes.

    Attributes:
      kind: "convolution", "dense", "relu", "lrn", "max_pool", "average_pool", "dropout", "batch_normalization",
        "softmax", or the file's own word for any other operation.
      name: the name of the operation in the file.
      parameters: names in `Contents.arrays`: of the kernel, and of the bias if there is one.
      attributes: numbers as in the file, under these names where they apply: "groups", "kernel_size" and
        "strides" (``[vertical, horizontal]``), "padding" (pixels on each side, ``[top, left, bottom, right]``),
        "transposed" (whether a dense kernel is ``[out, in]``), "size" (of LRN's window), "alpha", "beta",
        "bias" (LRN's k), "rate" (of dropout). LRN's alpha is the factor of the sum, not divided by the window's size:
        readers divide it where their framework does.
    """

    kind: str
    name: str
    parameters: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Contents:
    """The contents of a weight file, with nothing converted.

    Attributes:
      format: the name of the format, such as "Caffe model" or "PyTorch state_dict".
      arrays: numeric arrays by name, in the file's own order, axes and dtype. Names are the file's: "conv1/0" for the
        first blob of a Caffe layer, "features.0.weight" in a PyTorch file.
      operations: in the order of computation; empty if the file has arrays only.
      metadata: other statements of the file, such as "class_names" (list of str), "mean" (array, in the channel order
        of the file's network), "producer" (str).
    """

    format: str
    arrays: Mapping[str, np.ndarray]
    operations: tuple[Operation, ...] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
