"""Phase and layer of names as they occur in executed graphs."""

import pytest

from alexnet_tf.profiling import operation_names


@pytest.mark.parametrize(
    "name, kind, phase, layer",
    [
        ("alexnet_1/conv1_a_1/convolution", "Conv2D", "forward", "conv1_a"),
        ("gradient_tape/alexnet_1/conv1_a_1/convolution/Conv2DBackpropFilter", "Conv2D", "backward", "conv1_a"),
        ("ConstantFolding/gradient_tape/alexnet/fc6_b/MatMul", "MatMul", "backward", "fc6_b"),
        ("update/StatefulPartitionedCall", "StatefulPartitionedCall", "update", "update"),
        ("preprocess/sub", "Sub", "other", "preprocess"),
        # The scope of version 0.1.
        ("prepare/sub", "Sub", "other", "prepare"),
        ("loss/Mean", "Mean", "other", "loss"),
        ("AddN_3", "AddN", "other", ""),
        ("MatMul", "MatMul", "forward", ""),
    ],
)
def test_phase_and_layer_of_names(name, kind, phase, layer):
    assert operation_names.phase_of_name(name, kind) == phase
    assert operation_names.layer_of_name(name) == layer


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("Conv2D", "Conv2D"),
        ("_FusedConv2D", "Conv2D"),
        ("_MklNativeFusedConv2D", "Conv2D"),
        ("_MklNativeConv2DBackpropFilterWithBias", "Conv2DBackpropFilterWithBias"),
        ("_MklNativePadWithConv2D", "Conv2D"),
        ("MatMul", "MatMul"),
        ("BatchMatMulV2", None),
        ("Relu", None),
    ],
)
def test_products_are_recognized(kind, expected):
    assert operation_names.product_kind(kind) == expected
    assert operation_names.is_product(kind) == (expected is not None)


def test_scopes_of_preprocessing_are_input():
    assert [operation_names.is_input_scope(scope) for scope in ("preprocess", "prepare", "loss")] == [True, True, False]
