"""A report of a run."""

from alexnet_tf.training import loop


def progress_at(step, **changes):
    values = {
        "step": step,
        "epoch": step / 10,
        "learning_rate": 0.01,
        "train_loss": 0.5,
        "train_error": 0.25,
        "train_top5_error": 0.125,
        "examples": 64,
        "images_per_second": 12.5,
        "input_wait": 0.0625,
        "epoch_ended": False,
    }
    return loop.Progress(**{**values, **changes})
