"""The orientation of a photograph against Pillow, in every place where it may be and in places where it is not."""

import io
import pathlib
import warnings

import numpy as np
import oriented
import PIL.Image
import PIL.ImageOps
import pytest
import tensorflow as tf

from alexnet_tf.data import loading
from alexnet_tf.data import orientation
from alexnet_tf.data import photograph
from alexnet_tf.data import prepare
from alexnet_tf.data import prepared
from alexnet_tf.data import sources


def by_pillow(encoded):
    """Returns the upright pixels and the orientation from 1 to 8."""
    # Pillow warns of damaged entries.
    with warnings.catch_warnings(action="ignore"):
        image = PIL.Image.open(io.BytesIO(encoded))
        image.load()
        value = image.getexif().get(0x0112, 1)
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB")), value if value in range(1, 9) else 1


@pytest.mark.parametrize("name", oriented.FILES)
def test_orientation_is_pillows(name):
    encoded = oriented.FILES[name]
    upright, expected = by_pillow(encoded)
    assert orientation.declared(encoded) == expected
    decoded = photograph.decode(tf.constant(encoded)).numpy()
    assert decoded.shape == upright.shape
    # Lossless formats give the same pixels; JPEG is decoded by a fast cosine transform.
    assert np.abs(decoded.astype(int) - upright).max() <= (3 if name in oriented.JPEGS else 0)


def test_the_files_have_every_orientation():
    for files, least in (
        (oriented.JPEGS, {1, 3, 5, 6, 7, 8}),
        (oriented.PNGS, {1, 5, 6, 7, 8}),
        (oriented.WEBPS, {1, 3, 6, 8}),
    ):
        assert {by_pillow(encoded)[1] for encoded in files.values()} >= least


@pytest.mark.parametrize("cut", [3, 20, 30, 40, 60])
def test_a_cut_file_is_upright(cut):
    assert orientation.declared(oriented.jpeg(oriented.exif())[:cut]) in (1, 6)


@pytest.mark.parametrize(
    "encoded",
    [
        oriented.jpeg(*[oriented.segment(b"", b"\xfe")] * 100_000, oriented.exif()),
        oriented.jpeg(oriented.exif(b"no TIFF")),
    ],
    ids=["segments without end", "no tiff"],
)
def test_metadata_that_cannot_be_parsed_are_upright(encoded):
    assert orientation.declared(encoded) == 1


def test_training_and_preparation_turn_the_same_photographs(tmp_path):
    names = ("thumbnail only", "after a profile", "big", "png", "png, after the pixels", "webp")
    for place, name in enumerate(names):
        folder = tmp_path / "photographs" / "train" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        # The ending says nothing about the format.
        (folder / f"{place}.jpg").write_bytes(oriented.FILES[name])
    source = sources.folder(tmp_path / "photographs")
    split = source.splits["train"]
    files = [pathlib.Path(split.name_of(place)).read_bytes() for place in range(len(names))]
    expected = [photograph.to_square(by_pillow(file)[0]).numpy() for file in files]
    examples, skipped, _ = loading.load(split)
    assert not skipped
    for image, other in zip(examples.images(range(len(names))), expected, strict=True):
        # Three of decoding, and one of enlarging.
        assert np.abs(image.astype(int) - other).max() <= 4
    prepare.prepare(source, tmp_path / "made", prepare.Options(storage="raw"))
    made = prepared.open_data_dir(tmp_path / "made")[0].splits["train"]
    stored, training = (each.images(range(len(names))) for each in (loading.load(made)[0], examples))
    assert {image.tobytes() for image in stored} == {image.tobytes() for image in training}
