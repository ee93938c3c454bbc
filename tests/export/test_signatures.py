"""Served functions, compared with the same steps applied one by one, and given damaged and hostile files."""

import functools
import resource

import numpy as np
import oriented
import pytest
import serving_models as small
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import photograph
from alexnet_tf.evaluation import calibration
from alexnet_tf.export import signatures

GOOD = [
    small.encoded(small.pixels(50, 70)),
    small.encoded(small.pixels(90, 31, seed=1), "PNG"),
    small.encoded(small.pixels(40, 40, seed=2), "PNG"),
    small.encoded(small.pixels(50, 60, seed=3, channels=1)),
    small.encoded(small.pixels(3, 2, seed=4), "PNG"),
    small.encoded(small.pixels(64, 48, seed=5), progressive=True),
    small.encoded(small.pixels(30, 60, seed=6, channels=4), "PNG"),
    small.encoded(small.pixels(30, 60, seed=7), "GIF"),
    small.encoded(small.pixels(30, 60, seed=8), "BMP"),
    small.encoded(small.pixels(30, 60, seed=9), "WEBP"),
]
BAD = {
    "nothing": (b"", "Expected a JPEG, PNG, GIF, BMP or WebP. Received: an empty file"),
    "text": (b"hello", "Expected a JPEG, PNG, GIF, BMP or WebP. Received: 5 bytes of another format"),
    "start alone": (
        b"\xff\xd8\xff",
        "Expected a complete JPEG, PNG, GIF, BMP or WebP. Received: 3 bytes that cannot be decoded",
    ),
    "start of a PNG": (
        b"\x89PNG\r\n\x1a\n",
        "Expected a complete JPEG, PNG, GIF, BMP or WebP. Received: 8 bytes that cannot be decoded",
    ),
    "no head": (
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        "Expected a complete JPEG, PNG, GIF, BMP or WebP. Received: 48 bytes that cannot be decoded",
    ),
    "half a JPEG": (small.damaged(), None),
    "half a PNG": (small.damaged("PNG"), None),
    "another format": (small.encoded(small.pixels(), "TIFF"), None),
    "large JPEG": (
        small.jpeg_declaring(65500, 65000),
        "Expected an image of at most 100000000 pixels. Received: 65000 x 65500",
    ),
    "large PNG": (
        small.png_declaring(20_000, 30_000),
        "Expected an image of at most 100000000 pixels. Received: 30000 x 20000",
    ),
    "largest PNG": (
        small.png_declaring(2**32 - 1, 2**32 - 1),
        "Expected an image of at most 100000000 pixels. Received: 4294967295 x 4294967295",
    ),
}


@functools.cache
def decoder(max_pixels=signatures.MAX_PIXELS):
    """Returns `signatures.decode_images` as a graph, as it is served."""
    decode = functools.partial(signatures.decode_images, size=small.IMAGE_SIZE, max_pixels=max_pixels)
    return tf.function(decode, input_signature=[tf.TensorSpec([None], tf.string)])


def decode(files, **options):
    return decoder(**options)(tf.constant(files, tf.string, [len(files)]))


@pytest.fixture(scope="module")
def images():
    """The good files, decoded one by one as in training."""
    return tf.stack([photograph.decode_to_square(tf.constant(file), small.IMAGE_SIZE) for file in GOOD])


@pytest.fixture(scope="module")
def served():
    return small.served(top=2)


@pytest.fixture(scope="module")
def classify_bytes(served):
    """`Signatures.classify_bytes` as a graph, traced once."""
    return tf.function(served.classify_bytes, input_signature=[tf.TensorSpec([None], tf.string)])


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def test_images_are_decoded_as_in_training(images):
    decoded, errors = decode(GOOD)
    assert small.strings(errors) == [""] * len(GOOD)
    np.testing.assert_array_equal(decoded, images)


def test_images_are_turned_and_refused_as_in_training():
    files = [*oriented.FILES.values(), b"\xff\x0a" + bytes(80), small.encoded(small.pixels(), "TIFF")]
    decoded, errors = decode(files)
    for image, error, file in zip(decoded, small.strings(errors), files, strict=True):
        try:
            expected, reason = photograph.decode_to_square(tf.constant(file), small.IMAGE_SIZE), ""
        except tf.errors.InvalidArgumentError as refusal:
            expected, reason = tf.zeros_like(image), refusal.message
        np.testing.assert_array_equal(image, expected)
        assert error == reason


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_reports_its_error_and_does_not_affect_others(name):
    file, message = BAD[name]
    alone, _ = decode(GOOD)
    images, errors = decode([*GOOD[:2], file, *GOOD[2:]])
    np.testing.assert_array_equal(np.delete(images, 2, axis=0), alone)
    np.testing.assert_array_equal(images[2], np.zeros_like(images[2]))
    reported = small.strings(errors)
    assert [bool(each) for each in reported] == [place == 2 for place in range(len(GOOD) + 1)]
    if message:
        assert reported[2] == message
    else:
        assert str(len(file)) in reported[2]


def test_a_batch_of_bad_files_gets_a_response():
    images, errors = decode([file for file, _ in BAD.values()])
    assert not images.numpy().any()
    assert all(small.strings(errors))


def test_an_empty_batch_gets_a_response():
    images, errors = decode([])
    assert images.shape == [0, small.IMAGE_SIZE, small.IMAGE_SIZE, 3]
    assert errors.shape == [0]


def test_images_up_to_the_limit_are_decoded():
    files = [small.encoded(small.pixels(height, width), "PNG") for height, width in ((30, 40), (1201, 1))]
    assert small.strings(decode(files, max_pixels=1200)[1]) == [
        "",
        "Expected an image of at most 1200 pixels. Received: 1 x 1201",
    ]


def test_files_that_declare_many_pixels_take_no_memory():
    files = [small.jpeg_declaring(65500, 65500), small.png_declaring(60_000, 60_000)] * 4
    decode(files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decode(files)
    # Each would take more than 10 GB; ru_maxrss is in KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_outputs_equal_the_same_steps_applied_one_by_one(classify_bytes, images):
    model, preprocessing = small.network(), small.preprocessing()
    outputs = classify_bytes(tf.constant(GOOD))
    margin = (small.IMAGE_SIZE - small.CROP_SIZE) // 2
    part = slice(margin, margin + small.CROP_SIZE)
    crops = (images.numpy().astype(np.float32) - preprocessing.mean_image)[:, part, part] * 0.02
    expected = softmax(model.predict(crops, verbose=0))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
    order = np.argsort(-expected, axis=1)[:, :2]
    np.testing.assert_allclose(outputs["scores"], np.take_along_axis(expected, order, axis=1), atol=1e-6)
    assert small.strings(outputs["classes"]) == [small.CLASS_NAMES[place] for place in order.ravel()]
    assert small.strings(outputs["errors"]) == [""] * len(GOOD)


def test_a_bad_file_has_no_classes_and_zero_probabilities(classify_bytes):
    outputs = classify_bytes(tf.constant([GOOD[0], b"bad"]))
    assert outputs["probabilities"].numpy()[0].sum() == pytest.approx(1, abs=1e-6)
    for name in ("probabilities", "scores"):
        assert not outputs[name].numpy()[1].any()
    assert small.strings(outputs["classes"][1]) == ["", ""]
    assert all(small.strings(outputs["classes"][0]))


@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
def test_ten_views_are_the_mean_of_ten_calls(images, mean_crop):
    preprocessing = small.preprocessing(mean_crop=mean_crop)
    model = small.network()
    served = small.served(model, preprocessing, views="ten")
    views = augmentation.ten_views(
        images, preprocessing.mean_image, mean_crop=mean_crop, size=small.CROP_SIZE, scale=preprocessing.scale
    )
    expected = np.mean([softmax(model(view).numpy()) for view in views], axis=0)
    np.testing.assert_allclose(served.classify_images(images)["probabilities"], expected, atol=1e-6)


@pytest.mark.parametrize("views", ["center", "ten"])
def test_temperature_is_that_of_the_evaluation(images, views):
    expected, found = (
        small.served(views=views, temperature=temperature).classify_images(images)["probabilities"].numpy()
        for temperature in (1.0, 2.5)
    )
    assert np.abs(found - expected).max() > 0.01
    np.testing.assert_allclose(found, calibration.apply_temperature(expected, 2.5), atol=1e-6)


def test_float32_network_computes_probabilities_with_the_weights_of_the_network(images):
    expected = small.served(small.network(seed=1)).classify_images(images)["probabilities"]
    float32_network = signatures.with_features(small.network(seed=2))
    served = small.served(small.network(seed=1), float32_network=float32_network)
    np.testing.assert_allclose(served.probabilities(images)["probabilities"], expected, atol=1e-6)


def test_files_frames_and_pixels_give_the_same_outputs(served, classify_bytes):
    picture = small.pixels(55, 72)
    by_bytes = classify_bytes(tf.constant([small.encoded(picture, "PNG")]))
    by_frame = served.classify_frames(tf.constant(picture[None]))
    square = photograph.to_square(tf.constant(picture), small.IMAGE_SIZE)[None]
    by_image = served.classify_images(square)
    by_float = served.classify_images(tf.cast(square, tf.float32))
    for other in (by_frame, by_image, by_float):
        np.testing.assert_allclose(other["probabilities"], by_bytes["probabilities"], atol=1e-6)
        assert small.strings(other["classes"]) == small.strings(by_bytes["classes"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_numbers_that_are_not_pixels_get_an_error_and_do_not_affect_others(served, value):
    good = np.random.default_rng(0).uniform(-3, 258, [3, small.IMAGE_SIZE, small.IMAGE_SIZE, 3]).astype(np.float32)
    bad = good.copy()
    bad[1, 3, 4, 0] = value
    expected = served.classify_floats(tf.constant(good))
    outputs = served.classify_floats(tf.constant(bad))
    assert expected["errors"].numpy().tolist() == [b""] * 3
    for name in ("probabilities", "classes", "scores", "errors"):
        for place in (0, 2):
            np.testing.assert_array_equal(outputs[name][place], expected[name][place])
    assert outputs["errors"][1].numpy().startswith(b"Expected RGB values in [0, 255]. Received: NaN, infinity or")
    assert not outputs["probabilities"].numpy()[1].any() and not outputs["scores"].numpy()[1].any()
    assert set(outputs["classes"][1].numpy().tolist()) == {b""}


def test_features_are_the_input_of_the_last_layer(served, classify_bytes):
    model = small.network()
    outputs = served.features(tf.constant([GOOD[0], b"bad", GOOD[1]]))
    assert outputs["features"].shape == [3, 6]
    last = model.get_layer("last")
    logits = outputs["features"].numpy() @ last.kernel.numpy() + last.bias.numpy()
    expected = classify_bytes(tf.constant(GOOD[:2]))["probabilities"]
    np.testing.assert_allclose(softmax(logits[[0, 2]]), expected, atol=1e-6)
    assert not outputs["features"].numpy()[1].any()
    assert [bool(error) for error in small.strings(outputs["errors"])] == [False, True, False]


@pytest.mark.parametrize(
    "option, message",
    [
        ({"views": "five"}, "Expected views to be one of center, ten. Received: views='five'"),
        ({"top": 0}, "Expected top to be at least 1. Received: top=0"),
        ({"temperature": 0.0}, "Expected temperature to be a positive number. Received: temperature=0"),
        ({"temperature": np.nan}, "Expected temperature to be a positive number. Received: temperature=nan"),
        ({"max_pixels": 0}, "Expected max_pixels to be from 1 to 100000000. Received: max_pixels=0"),
    ],
)
def test_options_out_of_range_are_rejected(option, message):
    with pytest.raises(ValueError) as caught:
        small.served(**option)
    assert str(caught.value) == message


def test_old_spelling_of_the_central_view_is_accepted():
    assert small.served(views="centre").views == "center"
