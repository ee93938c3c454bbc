"""Information in the name and type of an operation: phase of the step, layer, and whether it is a product.

Names of a training step start with a scope of `trainer.Trainer` ("preprocess", "loss", "errors", "update"), that of a
gradient tape, or that of the model. TensorFlow's graph rewriting adds prefixes of its own.
"""

import re

PHASES = ("forward", "backward", "update", "other")

# Profiles of version 0.1 have the second.
_INPUT_SCOPES = ("preprocess", "prepare")
_NOT_A_MODEL = (*_INPUT_SCOPES, "loss", "errors", "update")
_PRODUCT = re.compile(
    r"_?(?:Mkl)?(?:Native)?(?:PadWith)?(?:Fused)?"
    r"(Conv2D|Conv2DBackpropInput|Conv2DBackpropFilter(?:WithBias)?|MatMul)"
)
_GRADIENT = re.compile(r"(^|/)gradient(s|_tape)(_\d+)?/")
_PREFIXES = re.compile(r"^((gradient(s|_tape)(_\d+)?|ConstantFolding|\w+Optimizer)/)+")


def scopes_of_name(name: str) -> list[str]:
    """Returns the parts of a name, without prefixes of gradient tapes and graph rewriting.

    Numbers that make scopes unique are removed too: Keras opens the scope of a layer twice in a call, so that each has
    such a number.
    """
    *scopes, last = _PREFIXES.sub("", name).split("/")
    return [*(re.sub(r"_\d+$", "", scope) for scope in scopes), last]


def layer_of_name(name: str) -> str:
    """Returns the layer in "model/layer/operation", the scope in "scope/operation", and otherwise ""."""
    *scopes, _ = scopes_of_name(name)
    return scopes[1] if len(scopes) > 1 and scopes[0] not in _NOT_A_MODEL else "".join(scopes[:1])


def phase_of_name(name: str, kind: str) -> str:
    """Returns the phase, one of `PHASES`; "other" for an operation without a scope, whatever it reads.

    Args:
      name: such as "alexnet/conv1_a/convolution".
      kind: the operation's type, such as "Conv2D".
    """
    scopes = scopes_of_name(name)
    if len(scopes) > 1 and scopes[0] == "update":
        return "update"
    if _GRADIENT.search(name):
        return "backward"
    if scopes[0] in _NOT_A_MODEL or (len(scopes) == 1 and product_kind(kind) is None):
        return "other"
    return "forward"


def is_input_scope(scope: str) -> bool:
    """Returns whether a scope is that of the images' preprocessing."""
    return scope in _INPUT_SCOPES


def product_kind(kind: str) -> str | None:
    """Returns the plain type of a convolution or matrix product, in either pass; None for any other operation.

    Args:
      kind: an operation's type, perhaps fused or replaced by oneDNN's, such as "_MklNativeFusedConv2D".

    Returns:
      "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "Conv2DBackpropFilterWithBias" or "MatMul".
    """
    match = _PRODUCT.fullmatch(kind)
    return match and match[1]


def is_product(kind: str) -> bool:
    """Returns whether operations of a type are convolutions or matrix products, in either pass."""
    return product_kind(kind) is not None
