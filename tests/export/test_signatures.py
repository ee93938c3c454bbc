"""What is served against the same things done one after another, and against files that want to do harm."""

import resource

import numpy as np
import pytest
import serving_models as small
import tensorflow as tf

from alexnet_tf.data import augmentation
from alexnet_tf.data import photograph
from alexnet_tf.export import signatures

WHOLE = [
    small.encoded(small.pixels(50, 70)),
    small.encoded(small.pixels(90, 31, seed=1), "PNG"),
    small.encoded(small.pixels(40, 40, seed=2), "PNG"),
    small.encoded(small.pixels(50, 60, seed=3, channels=1)),
    small.encoded(small.pixels(3, 2, seed=4), "PNG"),
    small.encoded(small.pixels(64, 48, seed=5), progressive=True),
    small.encoded(small.pixels(30, 60, seed=6, channels=4), "PNG"),
]
BAD = {
    "nothing": (b"", "Expected a JPEG or PNG. Received: 0 bytes of something else"),
    "text": (b"hello", "Expected a JPEG or PNG. Received: 5 bytes of something else"),
    "start alone": (b"\xff\xd8\xff", "Expected a whole JPEG or PNG. Received: 3 bytes that cannot be decoded"),
    "start of a PNG": (
        b"\x89PNG\r\n\x1a\n",
        "Expected a whole JPEG or PNG. Received: 8 bytes that cannot be decoded",
    ),
    "no head": (
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        "Expected a whole JPEG or PNG. Received: 48 bytes that cannot be decoded",
    ),
    "half a JPEG": (small.damaged(), None),
    "half a PNG": (small.damaged("PNG"), None),
    "another kind": (small.encoded(small.pixels(), "GIF"), None),
    "large JPEG": (
        small.jpeg_declaring(65500, 65000),
        "Expected a photograph of at most 100000000 pixels. Received: 65000 x 65500",
    ),
    "large PNG": (
        small.png_declaring(20_000, 30_000),
        "Expected a photograph of at most 100000000 pixels. Received: 30000 x 20000",
    ),
    "largest PNG": (
        small.png_declaring(2**32 - 1, 2**32 - 1),
        "Expected a photograph of at most 100000000 pixels. Received: 4294967295 x 4294967295",
    ),
}


def read(files, **options):
    """`signatures.read_photographs` in a graph, as it is served."""
    function = tf.function(lambda files: signatures.read_photographs(files, size=small.IMAGE_SIZE, **options))
    return function(tf.constant(files, tf.string, [len(files)]))


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def test_photographs_are_read_as_preparation_reads_them():
    images, errors = read(WHOLE)
    assert small.strings(errors) == [""] * len(WHOLE)
    for image, file in zip(images, WHOLE):
        expected = photograph.decode_to_square(tf.constant(file), small.IMAGE_SIZE)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_says_why_and_harms_no_other(name):
    file, message = BAD[name]
    alone, _ = read(WHOLE)
    images, errors = read([*WHOLE[:2], file, *WHOLE[2:]])
    np.testing.assert_array_equal(np.delete(images, 2, axis=0), alone)
    np.testing.assert_array_equal(images[2], np.zeros_like(images[2]))
    said = small.strings(errors)
    assert [bool(each) for each in said] == [place == 2 for place in range(len(WHOLE) + 1)]
    if message:
        assert said[2] == message
    else:
        assert str(len(file)) in said[2]


def test_a_batch_of_bad_files_alone_is_answered():
    images, errors = read([file for file, _ in BAD.values()])
    assert not images.numpy().any()
    assert all(small.strings(errors))


def test_no_file_at_all_is_answered():
    images, errors = read([])
    assert images.shape == [0, small.IMAGE_SIZE, small.IMAGE_SIZE, 3]
    assert errors.shape == [0]


def test_pixels_up_to_the_limit_are_read():
    file = small.encoded(small.pixels(30, 40), "PNG")
    assert small.strings(read([file], max_pixels=1200)[1]) == [""]
    assert small.strings(read([file], max_pixels=1199)[1]) == [
        "Expected a photograph of at most 1199 pixels. Received: 40 x 30"
    ]


def test_what_declares_much_takes_no_memory():
    files = [small.jpeg_declaring(65500, 65500), small.png_declaring(60_000, 60_000)] * 4
    read(files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read(files)
    # Each would take more than 10 GB; what is counted is KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_answers_are_those_of_the_same_steps_one_after_another():
    served = small.served(top=2)
    model, preparation = small.network(), small.preparation()
    answer = served.classify_bytes(tf.constant(WHOLE))
    images = tf.stack([photograph.decode_to_square(tf.constant(file), small.IMAGE_SIZE) for file in WHOLE])
    margin = (small.IMAGE_SIZE - small.CROP_SIZE) // 2
    part = slice(margin, margin + small.CROP_SIZE)
    crops = (images.numpy().astype(np.float32) - preparation.mean_image)[:, part, part] * 0.02
    expected = softmax(model.predict(crops, verbose=0))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    order = np.argsort(-expected, axis=1)[:, :2]
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, order, axis=1), atol=1e-6)
    assert small.strings(answer["classes"]) == [small.CLASS_NAMES[place] for place in order.ravel()]
    assert small.strings(answer["errors"]) == [""] * len(WHOLE)


def test_a_bad_file_has_neither_classes_nor_probabilities():
    answer = small.served().classify_bytes(tf.constant([WHOLE[0], b"bad"]))
    assert answer["probabilities"].numpy()[0].sum() == pytest.approx(1, abs=1e-6)
    for name in ("probabilities", "scores"):
        assert not answer[name].numpy()[1].any()
    assert small.strings(answer["classes"][1]) == ["", "", ""]
    assert small.strings(answer["classes"][0]) != ["", "", ""]


@pytest.mark.parametrize("mean_crop", ["aligned", "center"])
def test_ten_views_are_the_mean_of_ten_calls(mean_crop):
    preparation = small.preparation(mean_crop=mean_crop)
    model = small.network()
    served = small.served(model, preparation, views="ten")
    images = tf.stack([photograph.decode_to_square(tf.constant(file), small.IMAGE_SIZE) for file in WHOLE])
    views = augmentation.ten_views(
        images, preparation.mean_image, mean_crop=mean_crop, size=small.CROP_SIZE, scale=preparation.scale
    )
    expected = np.mean([softmax(model(view).numpy()) for view in views], axis=0)
    np.testing.assert_allclose(served.classify_images(images)["probabilities"], expected, atol=1e-6)


def test_all_ways_in_give_the_same_answer():
    served = small.served()
    picture = small.pixels(55, 72)
    by_bytes = served.classify_bytes(tf.constant([small.encoded(picture, "PNG")]))
    by_frame = served.classify_frames(tf.constant(picture[None]))
    prepared = photograph.to_square(tf.constant(picture), small.IMAGE_SIZE)[None]
    by_image = served.classify_images(prepared)
    by_float = served.classify_images(tf.cast(prepared, tf.float32))
    for other in (by_frame, by_image, by_float):
        np.testing.assert_allclose(other["probabilities"], by_bytes["probabilities"], atol=1e-6)
        assert small.strings(other["classes"]) == small.strings(by_bytes["classes"])


def test_features_are_what_the_last_layer_reads():
    served = small.served()
    model = small.network()
    answer = served.features(tf.constant([WHOLE[0], b"bad", WHOLE[1]]))
    assert answer["features"].shape == [3, 6]
    last = model.get_layer("last")
    logits = answer["features"].numpy() @ last.kernel.numpy() + last.bias.numpy()
    expected = served.classify_bytes(tf.constant(WHOLE[:2]))["probabilities"]
    np.testing.assert_allclose(softmax(logits[[0, 2]]), expected, atol=1e-6)
    assert not answer["features"].numpy()[1].any()
    assert [bool(said) for said in small.strings(answer["errors"])] == [False, True, False]


@pytest.mark.parametrize(
    "option, message",
    [
        ({"views": "five"}, "Expected views to be one of center, ten. Received: views='five'"),
        ({"top": 0}, "Expected top to be at least 1. Received: top=0"),
        ({"max_pixels": 0}, "Expected max_pixels from 1 to 100000000. Received: max_pixels=0"),
    ],
)
def test_an_option_outside_its_range_is_refused(option, message):
    with pytest.raises(ValueError) as caught:
        small.served(**option)
    assert str(caught.value) == message
