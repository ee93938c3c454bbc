"""How training batches are drawn from a data set: order, crops, mirroring and color noise as one immutable value."""

import dataclasses
from typing import Any
from typing import NamedTuple

from alexnet_tf.data import augmentation
from alexnet_tf.data import draws

CROPS = ("random", "center", "area")


class Position(NamedTuple):
    """Where one worker's part of a batch lies in its epoch; ints, or scalar int64 tensors."""

    epoch: Any  # counted from 0
    first: Any  # position of the part's first image in the epoch
    order_epoch: Any  # epoch whose order is read
    order_first: Any  # first place in that order; the order repeats after its end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options for drawing training batches.

    All randomness follows from the seed, the epoch and the position in the epoch (see `draws`). A run can therefore
    resume at any step, and several workers together read the batches that one worker would.

    Args:
      batch_size: int, the number of images in a batch over all workers.
      seed: int of at least 0. Determines the order and all draws.
      first_step: int, the number of steps already taken: the first batch is that of step `first_step` + 1.
      steps: int, the number of the last step.
      crop_size: int, the side of a crop in pixels; at most that of the images.
      pad: int, how many pixels "random" crops may extend past each edge of an image.
      crops: "random", any position (33 x 33 for 224 of 256); "center"; or "area", of random area, shape and position,
        which batches have as entire images with the crops' offsets and sizes.
      flips: "none", "horizontal" or "both" (also upside down), each with probability one half.
      images_per_draw: int, the number of consecutive images that share a crop position and mirroring (original #145:
        32).
      reshuffle: bool. True draws a new order for every epoch. False always uses that of the first (original #145);
        each epoch then continues where the one before ended, so no image is left out for good.
      balanced: bool, whether an epoch draws each class equally often (`draws.balanced_order`) instead of each image
        once. It has as many steps either way.
      noise_epochs: float, the epoch from which on the color noise is 0; None keeps the noise to the end.
      worker: pair of ints, (index, count): which of `count` equal parts of each batch to read.

    Raises:
      ValueError: if `crops` or `flips` is unknown, `batch_size` is not a multiple of the workers, or `balanced` is
        True without `reshuffle`.
    """

    batch_size: int
    seed: int
    first_step: int
    steps: int
    crop_size: int = augmentation.CROP_SIZE
    pad: int = 0
    crops: str = "random"
    flips: str = "horizontal"
    images_per_draw: int = 1
    reshuffle: bool = True
    balanced: bool = False
    noise_epochs: float | None = None
    worker: tuple[int, int] = (0, 1)

    def __post_init__(self):
        for name, value, allowed in (("crops", self.crops, CROPS), ("flips", self.flips, tuple(draws.FLIPS))):
            if value not in allowed:
                raise ValueError(f"Expected {name} to be one of {', '.join(allowed)}. Received: {name}={value!r}")
        if self.balanced and not self.reshuffle:
            raise ValueError("Expected reshuffle to be True for balanced=True. Received: reshuffle=False")
        workers = self.worker[1]
        if self.batch_size % workers:
            raise ValueError(
                f"Expected batch_size to be a multiple of the {workers} workers. Received: batch_size={self.batch_size}"
            )

    def read_size(self, image_size: int) -> int:
        """Returns the side of the squares that batches have: the crops, or the entire images."""
        return image_size if self.has_areas else self.crop_size

    @property
    def has_areas(self) -> bool:
        """Whether crops are rectangles of random area."""
        return self.crops == "area"

    @property
    def images_per_worker(self) -> int:
        """The number of images in one worker's part of a batch."""
        return self.batch_size // self.worker[1]

    def draw_options(self, image_size: int) -> dict[str, Any]:
        """Returns the keyword arguments of `draws.draw` for images with sides of `image_size` pixels."""
        return {
            "margin": image_size - self.crop_size,
            "pad": self.pad,
            # Rectangles have draws of their own.
            "crops": "center" if self.has_areas else self.crops,
            "flips": self.flips,
            "images_per_draw": self.images_per_draw,
        }

    def area_options(self, image_size: int) -> dict[str, Any]:
        """Returns the keyword arguments of `draws.areas` for images with sides of `image_size` pixels."""
        return {"side": image_size, "images_per_draw": self.images_per_draw}

    def position(self, step: Any, steps_per_epoch: int) -> Position:
        """Returns the `Position` of the batch after `step` steps, an int or a scalar int64 tensor."""
        epoch = step // steps_per_epoch
        first = step % steps_per_epoch * self.batch_size + self.worker[0] * self.images_per_worker
        if self.reshuffle:
            return Position(epoch, first, epoch, first)
        return Position(epoch, first, 0 * epoch, epoch * steps_per_epoch * self.batch_size + first)

    def has_noise(self, step: Any, steps_per_epoch: int) -> Any:
        """Returns whether the batch after `step` steps gets color noise: a bool, or a scalar bool tensor."""
        return self.noise_epochs is None or step / steps_per_epoch < self.noise_epochs


def batches_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of full batches in an epoch.

    Raises:
      ValueError: if there is none.
    """
    if num_examples < batch_size:
        raise ValueError(
            f"Expected batch_size to be at most the {num_examples} training images. Received: batch_size={batch_size}"
        )
    return num_examples // batch_size
