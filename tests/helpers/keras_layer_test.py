"""Keras's own test of a layer, which is not part of its public API."""

import pytest


def run_layer_test(layer_class, arguments, **options):
    """Runs it, or skips the calling test where Keras has none.

    It builds, calls, trains and saves the layer, plain and under mixed precision, without `custom_objects`.
    """
    testing = pytest.importorskip("keras.src.testing")

    class Case(testing.TestCase):
        def runTest(self):
            """Required by unittest."""

    Case("runTest").run_layer_test(layer_class, arguments, **options)
