"""Input pipelines as users of other libraries write them, which do the same work as ours.

Each reads a folder of 256 x 256 JPEG files, ``CLASS/FILE.jpg``, in a new order every epoch, and yields (images,
labels) without end: random 224 x 224 crops, half of them mirrored, with a mean color subtracted and the color noise of
`alexnet_tf.data.augmentation.color_shift` added. Differences favor the peers: a mean color costs less than a mean
image.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

CROP_SIZE = 224
IMAGE_SIZE = 256


def files_and_labels(folder: str | pathlib.Path) -> tuple[list[str], np.ndarray]:
    """Returns the sorted paths of the files of a folder of class folders, and their labels, int64 ``[files]``."""
    paths = sorted(pathlib.Path(folder).glob("*/*.jpg"))
    names = sorted({path.parent.name for path in paths})
    labels = {name: label for label, name in enumerate(names)}
    return [str(path) for path in paths], np.array([labels[path.parent.name] for path in paths], np.int64)


def tf_data(
    folder: str | pathlib.Path,
    *,
    batch_size: int,
    mean_color: np.ndarray,
    components: np.ndarray,
    color_noise: float = 0.1,
) -> tf.data.Dataset:
    """Builds the textbook tf.data pipeline: one parallel map for everything, batch, prefetch.

    Args:
      folder: folder of class folders.
      batch_size: int.
      mean_color: float32 ``[3]``, in [0, 255].
      components: float32 ``[3, 3]``, the principal components of the colors in rows, each scaled by its standard
        deviation.
      color_noise: float, standard deviation of the noise along each component.

    Returns:
      A ``tf.data.Dataset`` of (float32 ``[batch, 224, 224, 3]``, int64 ``[batch]``).
    """

    def load(path, label):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.random_crop(image, [CROP_SIZE, CROP_SIZE, 3])
        image = tf.image.random_flip_left_right(image)
        draws = tf.random.normal([3, 1], stddev=color_noise)
        shift = tf.reduce_sum(draws * components, axis=0)
        return tf.cast(image, tf.float32) - mean_color + shift, label

    paths, labels = files_and_labels(folder)
    dataset = tf.data.Dataset.from_tensor_slices((paths, labels))
    dataset = dataset.shuffle(len(paths)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def keras_layers(
    folder: str | pathlib.Path,
    *,
    batch_size: int,
    mean_color: np.ndarray,
    components: np.ndarray,
    color_noise: float = 0.1,
) -> tf.data.Dataset:
    """Builds Keras's pipeline: `image_dataset_from_directory`, preprocessing layers on batches, and color noise.

    Keras's `RandomCrop` draws one crop per batch, which is less work than one per image.

    Args:
      folder, batch_size, mean_color, components, color_noise: as in `tf_data`.

    Returns:
      A ``tf.data.Dataset`` of (float32 ``[batch, 224, 224, 3]``, int32 ``[batch]``).
    """
    augment = keras.Sequential(
        [
            keras.layers.RandomCrop(CROP_SIZE, CROP_SIZE),
            keras.layers.RandomFlip("horizontal"),
            keras.layers.Normalization(mean=mean_color, variance=np.ones(3, np.float32)),
        ]
    )

    def preprocess(images, labels):
        draws = tf.random.normal([batch_size, 3, 1], stddev=color_noise)
        shifts = tf.reduce_sum(draws * components, axis=1)
        return augment(images, training=True) + shifts[:, None, None, :], labels

    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(IMAGE_SIZE, IMAGE_SIZE), batch_size=None, verbose=False
    )
    dataset = dataset.repeat().batch(batch_size, drop_remainder=True)
    return dataset.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


class TorchDataset:
    """A data set for torch's `DataLoader`: Pillow decodes, crops and mirrors; torch does the arithmetic.

    Args:
      folder, mean_color, components, color_noise: as in `tf_data`.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        mean_color: np.ndarray,
        components: np.ndarray,
        color_noise: float = 0.1,
    ):
        import PIL.Image
        import torch

        self._pillow, self._torch = PIL.Image, torch
        self._paths, self._labels = files_and_labels(folder)
        self._mean = torch.from_numpy(np.asarray(mean_color, np.float32))
        self._components = torch.from_numpy(np.asarray(components, np.float32))
        self._color_noise = color_noise

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        """Returns an image, float32 ``[3, 224, 224]``, and its label."""
        torch = self._torch
        with self._pillow.open(self._paths[index]) as file:
            image = file.convert("RGB")
        top, left = torch.randint(IMAGE_SIZE - CROP_SIZE + 1, [2]).tolist()
        image = image.crop((left, top, left + CROP_SIZE, top + CROP_SIZE))
        if torch.rand([]) < 0.5:
            image = image.transpose(self._pillow.Transpose.FLIP_LEFT_RIGHT)
        shift = self._color_noise * torch.randn(3) @ self._components
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return pixels.float() + (shift - self._mean)[:, None, None], int(self._labels[index])


def torch_loader(
    folder: str | pathlib.Path, *, batch_size: int, workers: int = 0, **options: Any
) -> Iterator[tuple[Any, Any]]:
    """Iterates over torch's `DataLoader` of `TorchDataset` without end.

    Args:
      folder: folder of class folders.
      batch_size: int.
      workers: int, number of processes in addition to this one.
      **options: other arguments of `TorchDataset`.

    Returns:
      An iterator of (float32 ``[batch, 3, 224, 224]``, int64 ``[batch]``), tensors of torch.

    Raises:
      ModuleNotFoundError: without torch.
    """
    import torch.utils.data

    loader = torch.utils.data.DataLoader(
        TorchDataset(folder, **options),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader
