"""Prepared data sets for the tests of the benchmark."""

import numpy as np
import PIL.Image
import pytest

from alexnet_tf.data import prepare
from alexnet_tf.data import sources

IMAGES = 6


@pytest.fixture(scope="module")
def data_dirs(tmp_path_factory):
    """The same six images as JPEG records and as raw records, two directories."""
    root = tmp_path_factory.mktemp("benchmarks")
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        path = root / "photographs" / "train" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, [32, 32, 3], dtype=np.uint8)
        PIL.Image.fromarray(coarse).resize([256, 256], PIL.Image.Resampling.BICUBIC).save(path)
    source = sources.open_source(f"folder:{root / 'photographs'}")
    for storage in prepare.STORAGES:
        prepare.prepare(source, root / storage, prepare.Options(storage))
    return tuple(str(root / storage) for storage in prepare.STORAGES)
