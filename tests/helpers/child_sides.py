"""Sides for `measuring.in_subprocesses` whose module loads at once, so that their processes start quickly."""


def counting(first):
    """A side that counts, without TensorFlow."""

    def work():
        yield from range(first, first + 1000)

    return {"counting": work}


def adding():
    """A side that calls TensorFlow."""
    import tensorflow as tf

    def work():
        while True:
            yield float(tf.add(1.0, 1.0))

    return {"adding": work}
