"""The machine's own speed, and how much of it a training step uses (rows machine, P6 and P6b)."""

import dataclasses

import numpy as np
import tensorflow as tf

from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import sides
from alexnet_tf.runs import devices

# Of convolutions and matrix products, 2 x multiply-adds: 1.4488 forward and twice that backward, without the gradient
# with respect to the images.
GFLOP_PER_IMAGE = 4.1356
MATRIX_SIDE = 3072
COPIED_BYTES = 1 << 28


def matrix_product(gflop: float = 1.0, dtype: str = "float32") -> dict[str, measuring.Side]:
    """Sides for another process: TensorFlow's product of two matrices.

    Args:
      gflop: arithmetic of one unit of work, such as that of an image; 1 for a rate in GFLOP/s.
      dtype: of the matrices.
    """
    generator = tf.random.Generator.from_seed(0)
    matrices = [tf.cast(generator.normal([MATRIX_SIDE, MATRIX_SIDE]), dtype) for _ in range(2)]
    return {"tf.matmul": sides.repeat(2e-9 * MATRIX_SIDE**3 / gflop, tf.matmul, *matrices)}


def machine(request: measuring.Request) -> measuring.Result:
    """Products of large matrices, and memory copied by one thread.

    Args:
      request: `measuring.Request`.

    Returns:
      `measuring.Result` without targets.
    """
    source = np.ones(COPIED_BYTES // 4, np.float32)
    copy = sides.repeat(1e-9 * COPIED_BYTES, np.copyto, np.zeros_like(source), source)
    with measuring.in_subprocesses((matrix_product,)) as measured:
        rates = sides.interleave(request, measured | {"copy": copy})
    products, copies = (float(np.median(rates[name])) for name in rates)
    values = [
        measuring.Value(f"tf.matmul, {sides.product(MATRIX_SIDE, MATRIX_SIDE)}, float32", products, "GFLOP/s"),
        measuring.Value("memory copied by one thread", copies, "GB/s"),
    ]
    # The rates have different units, so they are reported as values only.
    return measuring.Result("the machine", "", {}, [], values=values)


def utilization(request: measuring.Request) -> measuring.Result:
    """P6: arithmetic per second of a training step and of a product of large matrices, both in float32.

    Args:
      request: `measuring.Request`; its precision is ignored.

    Returns:
      `measuring.Result`.
    """
    return _utilization(request, "float32", sides.shared_trainer, 0.85)


def bfloat16_utilization(request: measuring.Request) -> measuring.Result:
    """P6b: the same as P6, both in bfloat16.

    Raises:
      NotRunError: if the processor has no bfloat16 instructions.
    """
    require_bfloat16()
    return _utilization(request, "bfloat16", sides.build_trainer, 0.6)


def _utilization(request, precision, build_trainer, target):
    run_config = dataclasses.replace(request.config, precision=precision).resolved()
    amount = GFLOP_PER_IMAGE * run_config.batch_size
    ours = {sides.OURS: sides.training_step(run_config, build_trainer(run_config), amount)}
    with measuring.in_subprocesses((matrix_product, 1.0, precision)) as theirs:
        rates = sides.interleave(request, ours | theirs)
    notes = [
        f"{GFLOP_PER_IMAGE} GFLOP per image; tf.matmul of {sides.product(MATRIX_SIDE, MATRIX_SIDE)}, {precision}",
        "the ratio is the model FLOP utilization relative to tf.matmul",
    ]
    description = f"training steps, batches of {run_config.batch_size}, {precision}"
    ratios = [measuring.Ratio(sides.OURS, "tf.matmul", target)]
    return measuring.Result(description, "GFLOP/s", rates, ratios, notes)


def require_bfloat16() -> None:
    """Raises `measuring.NotRunError` on a machine without bfloat16 instructions."""
    if not devices.has_bfloat16():
        raise measuring.NotRunError("needs a processor with bfloat16 (avx512_bf16, amx_bf16) or a GPU from Ampere on")
