"""ILSVRC-2010 in its archives: images are read byte for byte, and archives that do not fit are refused."""

import gzip
import io
import os
import sys
import tarfile
import zlib

import numpy as np
import pytest
import tar_files
import tensorflow as tf

from alexnet_tf.data import archives
from alexnet_tf.data import ilsvrc2010

scipy_io = pytest.importorskip("scipy.io")

TRAIN, VALIDATION, TEST = ilsvrc2010.TRAINING_IMAGES, ilsvrc2010.VALIDATION_IMAGES, ilsvrc2010.TEST_IMAGES
META, VALIDATION_TRUTH, TEST_TRUTH = ilsvrc2010.META, ilsvrc2010.VALIDATION_TRUTH, ilsvrc2010.TEST_TRUTH
PATCHES, DEVKIT = ilsvrc2010.PATCHES, ilsvrc2010.DEVKIT

# ILSVRC2010_ID: WNID, words, number of training images. IDs and WNIDs are not in the same order.
CLASSES = {
    1: ("n07711080", "french fries, fries, chips", 2),
    2: ("n01484850", "great white shark, man-eater", 3),
    3: ("n13136316", "bean", 1),
    4: ("n02105855", "Shetland sheepdog, Sheltie", 2),
}
WNIDS = ["n01484850", "n02105855", "n07711080", "n13136316"]
NUMBERS = {"n01484850": (10, 2, 333), "n02105855": (5, 40), "n07711080": (1, 2), "n13136316": (9,)}
# Sorted as text: 10 before 2.
TRAINING_NAMES = [
    "n01484850/n01484850_10.JPEG",
    "n01484850/n01484850_2.JPEG",
    "n01484850/n01484850_333.JPEG",
    "n02105855/n02105855_40.JPEG",
    "n02105855/n02105855_5.JPEG",
    "n07711080/n07711080_1.JPEG",
    "n07711080/n07711080_2.JPEG",
    "n13136316/n13136316_9.JPEG",
]
TRAINING_LABELS = [0, 0, 0, 1, 1, 2, 2, 3]


def class_names(wnid):
    return [f"{wnid}_{number}.JPEG" for number in NUMBERS[wnid]]


def class_tars():
    return {wnid: tar_files.images(class_names(wnid)) for wnid in NUMBERS}


def outer(tars):
    """Returns the training archive; its classes are not sorted."""
    return tar_files.pack([(f"{wnid}.tar", content) for wnid, content in reversed(tars.items())])


def meta(classes=CLASSES, **changes):
    """Returns meta.mat: a column of structures, first the classes and then their ancestors."""
    rows = [
        (number, wnid, words, "what it is", 0, np.zeros([0, 0], np.uint8), 0, count)
        for number, (wnid, words, count) in classes.items()
    ]
    root = len(rows) + 1
    rows += [
        (root, "n00001740", "entity", "all there is", 2, np.array([root + 1, 3], np.uint16), 19, 0),
        (root + 1, "n00001930", "physical entity", "what exists", 3, np.array([1, 2, 4], np.uint16), 18, 0),
        (root + 2, "n00002137", "abstraction", "one child alone", 1, np.array([3], np.uint16), 2, 0),
    ]
    fields = ("ILSVRC2010_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    synsets = np.empty([len(rows), 1], [(field, object) for field in (*fields, "num_train_images")])
    for place, row in enumerate(rows):
        synsets[place, 0] = tuple(np.uint16(value) if isinstance(value, int) else value for value in row)
    file = io.BytesIO()
    variables = {"cost_matrix": np.zeros([root - 1, root - 1], np.uint8), "synsets": synsets, **changes}
    scipy_io.savemat(file, variables, do_compression=True)
    return file.getvalue()


def devkit(files):
    return gzip.compress(tar_files.pack([("devkit-1.0/readme.txt", b"read me"), *files.items()]))


def parts():
    """Returns the contents of all published files by path: four classes, five validation and six test images."""
    return {
        TRAIN: outer(class_tars()),
        VALIDATION: tar_files.images([f"val/{name}" for name in reversed(tar_files.numbered("val", 5))]),
        TEST: tar_files.images(tar_files.numbered("test", 6)),
        DEVKIT: devkit({META: meta(), VALIDATION_TRUTH: b"2\n4\n1\n3\n1\n"}),
        TEST_TRUTH: b"3\n3\n2\n1\n4\n2\n",
    }


def write(directory, files):
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def contents(split, **options):
    """Returns what is read at every index, in tf.data."""
    return list(tf.data.Dataset.range(len(split.labels)).map(split.read, **options).as_numpy_iterator())


def names(split):
    return [split.name_of(index) for index in range(len(split.labels))]


def open_with(directory, changes):
    write(directory, {**parts(), **changes})
    return ilsvrc2010.open_archives(directory)


def complaint(directory, changes, kind=ValueError):
    """Returns the error message for the data set with some files changed, or removed where they are None."""
    files = {**parts(), **changes}
    write(directory, {name: content for name, content in files.items() if content is not None})
    return tar_files.refusal(lambda: ilsvrc2010.open_archives(directory), kind)


def test_synthetic_devkit_reads_like_the_real_one():
    synsets = scipy_io.loadmat(io.BytesIO(meta()), squeeze_me=True)["synsets"]
    assert synsets.shape == (7,)
    assert synsets.dtype.names == (
        "ILSVRC2010_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    assert [type(value) for value in synsets[0]] == [int, str, str, str, int, np.ndarray, int, int]
    assert synsets[0]["children"].shape == (0,)
    assert list(synsets[4]["children"]) == [6, 3]
    # A single child is not a vector.
    assert synsets[6]["children"] == 3


def test_data_set_is_read_from_its_archives(tmp_path):
    found = open_with(tmp_path, {})
    assert found.classes == (
        {"wnid": "n01484850", "ilsvrc2010_id": 2, "words": "great white shark, man-eater"},
        {"wnid": "n02105855", "ilsvrc2010_id": 4, "words": "Shetland sheepdog, Sheltie"},
        {"wnid": "n07711080", "ilsvrc2010_id": 1, "words": "french fries, fries, chips"},
        {"wnid": "n13136316", "ilsvrc2010_id": 3, "words": "bean"},
    )
    assert list(found.splits) == ["train", "validation", "test"]
    expected = {
        "train": (TRAINING_LABELS, TRAINING_NAMES),
        "validation": ([0, 1, 2, 3, 2], tar_files.numbered("val", 5)),
        "test": ([3, 3, 0, 2, 1, 0], tar_files.numbered("test", 6)),
    }
    for name, (labels, image_names) in expected.items():
        split = found.splits[name]
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.labels, labels)
        assert names(split) == image_names
        assert contents(split) == [tar_files.image(name) for name in image_names]
        assert split.read(tf.constant(3, tf.int64)).numpy() == tar_files.image(image_names[3])
    # Nothing was unpacked.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(parts())


@pytest.mark.parametrize("folder", ["train/", ""])
def test_class_archives_on_disk_are_the_same_data_set(tmp_path, folder):
    whole = open_with(tmp_path / "whole", {})
    files = parts()
    del files[TRAIN], files[DEVKIT]
    files |= {f"{folder}{wnid}.tar": content for wnid, content in class_tars().items()}
    files |= {META: meta(), VALIDATION_TRUTH: b"2\n4\n1\n3\n1\n", PATCHES: tar_files.pack([])}
    write(tmp_path / "unpacked", files)
    unpacked = ilsvrc2010.open_archives(tmp_path / "unpacked")
    assert unpacked.classes == whole.classes
    for name, split in whole.splits.items():
        np.testing.assert_array_equal(unpacked.splits[name].labels, split.labels)
        assert names(unpacked.splits[name]) == names(split)
        assert contents(unpacked.splits[name]) == contents(split)


def test_no_test_set_without_its_ground_truth(tmp_path):
    files = parts()
    del files[TEST_TRUTH]
    # The archive of patches has patches for it nevertheless.
    write(tmp_path, {**files, PATCHES: tar_files.images([f"patch_images/test/{tar_files.numbered('test', 1)[0]}"])})
    assert list(ilsvrc2010.open_archives(tmp_path).splits) == ["train", "validation"]
    (tmp_path / TEST).unlink()
    assert list(ilsvrc2010.open_archives(tmp_path).splits) == ["train", "validation"]


def test_progress_counts_the_classes(tmp_path):
    write(tmp_path, parts())
    seen = []
    ilsvrc2010.open_archives(tmp_path, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_patches_replace_images_of_their_split(tmp_path):
    new = {"train/n02105855_5.JPEG": b"\xff\xd8a sheepdog\0", "val/ILSVRC2010_val_00000004.JPEG": b"\xff\xd8beans\0"}
    new["test/ILSVRC2010_test_00000006.JPEG"] = b"\xff\xd8a shark"
    packed = {**new, "val/ILSVRC2010_val_00000004.JPEG": gzip.compress(b"\xff\xd8beans\0")}
    plain = open_with(tmp_path / "plain", {})
    archive = tar_files.pack((f"patch_images/{name}", content) for name, content in packed.items())
    patched = open_with(tmp_path / "patched", {PATCHES: archive})
    for split, folder, place in (("train", "train", 4), ("validation", "val", 3), ("test", "test", 5)):
        expected = contents(plain.splits[split])
        name = plain.splits[split].name_of(place)
        expected[place] = new[f"{folder}/{name.rpartition('/')[2]}"]
        assert contents(patched.splits[split]) == expected
        assert names(patched.splits[split]) == names(plain.splits[split])
        np.testing.assert_array_equal(patched.splits[split].labels, plain.splits[split].labels)


@pytest.mark.parametrize(
    "name", ["train/n02105855_6.JPEG", "val/n02105855_5.JPEG", "test/ILSVRC2010_val_00000001.JPEG"]
)
def test_patch_of_a_missing_image_raises(tmp_path, name):
    message = complaint(tmp_path, {PATCHES: tar_files.images([f"patch_images/{name}"])})
    assert message == f"Expected {tmp_path / PATCHES} to have patches of existing images only. Received: {name}"


def zipped(tmp_path, content):
    """Returns the validation set with this content as its second image."""
    entries = [(name, tar_files.image(name)) for name in tar_files.numbered("val", 5)]
    entries[1] = (entries[1][0], content)
    return open_with(tmp_path, {VALIDATION: tar_files.pack(entries)}).splits["validation"]


def test_compressed_image_is_decompressed(tmp_path):
    assert contents(zipped(tmp_path, gzip.compress(b"\xff\xd8 inside\0"))) == [
        b"\xff\xd8 inside\0" if place == 1 else tar_files.image(name)
        for place, name in enumerate(tar_files.numbered("val", 5))
    ]


@pytest.mark.parametrize(
    "content, received",
    [
        (gzip.compress(bytes(1001), mtime=0), "more"),
        (gzip.compress(tar_files.image("cut"), mtime=0)[:-9], "a truncated one"),
        (b"\x1f\x8b\x08\x00 no such thing", "Error -3 while decompressing data"),
    ],
)
def test_truncated_or_too_large_compressed_image_raises(tmp_path, monkeypatch, content, received):
    monkeypatch.setattr(archives, "MAX_DECOMPRESSED_BYTES", 1000)
    split = zipped(tmp_path, content)
    message = tar_files.refusal(lambda: split.read(tf.constant(1, tf.int64)))
    assert message.startswith(
        f"Expected ILSVRC2010_val_00000002.JPEG in {tmp_path / VALIDATION} to be a complete gzip file of at most 1000 "
        f"bytes. Received: {received}"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected ILSVRC2010_val_00000002.JPEG in "):
        contents(split)


def test_compressed_image_may_reach_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_DECOMPRESSED_BYTES", 1000)
    assert contents(zipped(tmp_path, gzip.compress(b"\xff" * 1000)))[1] == b"\xff" * 1000


def test_many_images_are_read_in_parallel(tmp_path):
    generator = np.random.default_rng(0)
    expected = {name: generator.bytes(generator.integers(2000)) for name in tar_files.numbered("val", 500)}
    split = open_with(
        tmp_path,
        {
            VALIDATION: tar_files.pack(
                (name, expected[name]) for name in generator.permutation(list(expected)).tolist()
            ),
            DEVKIT: devkit({META: meta(), VALIDATION_TRUTH: b"1\n" * 500}),
        },
    ).splits["validation"]
    opened = len(os.listdir("/dev/fd"))
    dataset = tf.data.Dataset.range(500).map(split.read, num_parallel_calls=8)
    assert dataset.element_spec == tf.TensorSpec([], tf.string)
    assert list(dataset.as_numpy_iterator()) == list(expected.values())
    order = tf.data.Dataset.from_tensor_slices(generator.permutation(500)).map(
        lambda index: (index, split.read(index)), num_parallel_calls=8, deterministic=False
    )
    assert {names(split)[index]: content for index, content in order.as_numpy_iterator()} == expected
    assert len(os.listdir("/dev/fd")) == opened


def test_offsets_may_exceed_32_bits(tmp_path):
    far = tarfile.TarInfo("notes.txt")
    far.size = 5 * 2**30
    write(tmp_path, parts())
    with open(tmp_path / TRAIN, "wb") as file:
        file.write(far.tobuf())
        # A hole, which takes no disk space.
        file.seek(far.size, os.SEEK_CUR)
        file.write(outer(class_tars()))
    train = ilsvrc2010.open_archives(tmp_path).splits["train"]
    assert contents(train) == [tar_files.image(name) for name in TRAINING_NAMES]


def test_archive_truncated_after_opening_is_named(tmp_path):
    split = open_with(tmp_path, {}).splits["validation"]
    # The archive is in reverse order: the first image is its last.
    os.truncate(tmp_path / VALIDATION, 512)
    expected = (
        f"Expected {len(tar_files.image(tar_files.numbered('val', 1)[0]))} bytes of ILSVRC2010_val_00000001.JPEG in "
    )
    expected += f"{tmp_path / VALIDATION}. Received: 0"
    assert tar_files.refusal(lambda: split.read(tf.constant(0, tf.int64))) == expected
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        contents(split, num_parallel_calls=2)


def test_missing_files_are_named(tmp_path):
    train, validation, test, kit, truth = (tmp_path / name for name in (TRAIN, VALIDATION, TEST, DEVKIT, TEST_TRUTH))
    expected = (
        f"Expected ILSVRC-2010 (from image-net.org) as {train} (or its n########.tar in {tmp_path / 'train'} or "
        f"{tmp_path}), {validation}, {kit} (or {tmp_path / META} and {tmp_path / VALIDATION_TRUTH})"
    )
    message = tar_files.refusal(lambda: ilsvrc2010.open_archives(tmp_path), FileNotFoundError)
    assert message == f"{expected}. Received: no {train}, no {validation}, no {kit}"
    # Half of the devkit is not enough, and other archives in the folder are not classes.
    write(tmp_path, {META: meta(), VALIDATION: b"", PATCHES: b"", "train/other.tar": b""})
    assert tar_files.refusal(lambda: ilsvrc2010.open_archives(tmp_path), FileNotFoundError).endswith(
        f". Received: no {train}, no {kit}"
    )
    write(tmp_path, {DEVKIT: b"", TRAIN: b"", TEST_TRUTH: b""})
    message = tar_files.refusal(lambda: ilsvrc2010.open_archives(tmp_path), FileNotFoundError)
    assert message == f"{expected}, {test} (for {truth}). Received: no {test}"


def test_missing_scipy_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path, parts())
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        ilsvrc2010.open_archives(tmp_path)
    assert str(caught.value) == "Expected the package scipy: pip install -e '.[ilsvrc2010]'"


def test_truncated_training_archive_raises(tmp_path):
    whole = parts()[TRAIN]
    # The archive has n13136316, n07711080, n02105855, n01484850.
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        third = archive.getmember("n02105855.tar")
    for cut in (third.offset, third.offset + 100, third.offset_data, third.offset_data + 5000):
        message = complaint(tmp_path, {TRAIN: whole[:cut]})
        assert message == (
            f"Expected {tmp_path / TRAIN} to be a complete, uncompressed tar archive. "
            f"Received: {cut} bytes, truncated or damaged after n07711080.tar; download or copy it again"
        )


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_truncated_class_archive_raises(tmp_path, is_unpacked):
    tars = class_tars()
    with tarfile.open(fileobj=io.BytesIO(tars["n01484850"])) as archive:
        third = archive.getmember("n01484850_333.JPEG")
    for cut in (third.offset, third.offset + 100, third.offset_data + 1):
        tars["n01484850"] = class_tars()["n01484850"][:cut]
        if is_unpacked:
            changes = {TRAIN: None, **{f"train/{wnid}.tar": content for wnid, content in tars.items()}}
            where = tmp_path / "train" / "n01484850.tar"
        else:
            changes, where = {TRAIN: outer(tars)}, f"{tmp_path / TRAIN}: n01484850.tar"
        assert complaint(tmp_path, changes) == (
            f"Expected {where} to be a complete, uncompressed tar archive. "
            f"Received: {cut} bytes, truncated or damaged after n01484850_2.JPEG; download or copy it again"
        )


@pytest.mark.parametrize("name", [VALIDATION, TEST, PATCHES])
def test_other_truncated_archives_raise(tmp_path, name):
    whole = {
        **parts(),
        PATCHES: tar_files.images([f"patch_images/val/{name}" for name in tar_files.numbered("val", 2)]),
    }[name]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        first, *_, last = archive.getmembers()
    message = complaint(tmp_path, {name: whole[: last.offset_data + last.size - 1]})
    assert message.startswith(f"Expected {tmp_path / name} to be a complete, uncompressed tar archive. Received: ")
    assert " bytes, truncated or damaged after " in message
    assert f"after {first.name}" in complaint(
        tmp_path, {name: whole[: first.offset_data + 512 * (first.size // 512 + 1)]}
    )
    assert "without a valid member" in complaint(tmp_path, {name: b"no archive"})


def test_duplicate_names_and_classes_raise(tmp_path):
    val = tar_files.images(["val/ILSVRC2010_val_00000002.JPEG", "ILSVRC2010_val_00000002.JPEG"])
    message = complaint(tmp_path, {VALIDATION: val})
    assert (
        message == f"Expected every name in {tmp_path / VALIDATION} once. Received: ILSVRC2010_val_00000002.JPEG twice"
    )
    tars = class_tars()
    twice = tar_files.pack([(f"{wnid}.tar", tars[wnid]) for wnid in [*WNIDS, "n07711080"]])
    message = complaint(tmp_path, {TRAIN: twice})
    assert message == f"Expected every name in {tmp_path / TRAIN} once. Received: n07711080.tar twice"
    tars["n07711080"] = tar_files.images(["n07711080_1.JPEG", "n07711080_1.JPEG"])
    message = complaint(tmp_path, {TRAIN: outer(tars)})
    where = f"{tmp_path / TRAIN}: n07711080.tar"
    assert message == f"Expected every name in {where} once. Received: n07711080_1.JPEG twice"


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_archives_of_other_classes_raise(tmp_path, is_unpacked):
    def of(wnids):
        tars = {wnid: class_tars().get(wnid, tar_files.pack([])) for wnid in wnids}
        if not is_unpacked:
            return {TRAIN: outer(tars)}
        for path in tmp_path.glob("train/*"):
            path.unlink()
        return {TRAIN: None, **{f"train/{wnid}.tar": content for wnid, content in tars.items()}}

    where = tmp_path if is_unpacked else tmp_path / TRAIN
    expected = f"Expected a tar archive for each of the devkit's 4 classes in {where}. Received: "
    message = complaint(tmp_path, of(["n13136316", "n01484850"]))
    assert message == f"{expected}2 missing, 0 unknown: no n02105855.tar, no n07711080.tar"
    message = complaint(tmp_path, of([*WNIDS, "n99999999", "n00001740"]))
    assert message == f"{expected}0 missing, 2 unknown: n00001740.tar, n99999999.tar"
    more = {number: (f"n{number:08d}", "many", 1) for number in range(1, 9)}
    kit = devkit({META: meta(more), VALIDATION_TRUTH: b"1\n" * 5})
    message = complaint(tmp_path, {**of(["n00000003"]), DEVKIT: kit})
    missing = ", ".join(f"no n{number:08d}.tar" for number in (1, 2, 4, 5, 6))
    assert message == f"{expected.replace('4 classes', '8 classes')}7 missing, 0 unknown: {missing}"


@pytest.mark.parametrize("count", [0, 1])
def test_class_with_missing_images_raises(tmp_path, count):
    tars = class_tars()
    tars["n02105855"] = tar_files.images([*class_names("n02105855")[:count], "n02105855_7.txt"])
    message = complaint(tmp_path, {TRAIN: outer(tars)})
    assert message == f"Expected the class's 2 images in {tmp_path / TRAIN}: n02105855.tar. Received: {count}"


@pytest.mark.parametrize("name, split, count", [(VALIDATION, "val", 4), (TEST, "test", 7)])
def test_ground_truth_of_another_length_raises(tmp_path, name, split, count):
    message = complaint(tmp_path, {name: tar_files.images(tar_files.numbered(split, count))})
    lines = {VALIDATION: 5, TEST: 6}[name]
    assert message == (
        f"Expected an image for each of {lines} lines of ground truth in {tmp_path / name}. Received: {count}"
    )


@pytest.mark.parametrize("line", ["0", "5", "-1", "2.0", "n01484850", "\xff"])
def test_ground_truth_of_an_unknown_class_raises(tmp_path, line):
    truth = b"2\n4\n" + line.encode("latin-1") + b"\n3\n1\n"
    expected = "Expected ILSVRC2010_IDs of 1 to 4 in"
    message = complaint(tmp_path, {DEVKIT: devkit({META: meta(), VALIDATION_TRUTH: truth})})
    assert message.startswith(f"{expected} {tmp_path / DEVKIT}: {VALIDATION_TRUTH}. Received: ")
    assert message.endswith(" in line 3")
    message = complaint(tmp_path, {TEST_TRUTH: truth + b"1\n"})
    assert message.startswith(f"{expected} {tmp_path / TEST_TRUTH}. Received: ")


@pytest.mark.parametrize("keep", [0, 60, 200, -30])
def test_damaged_classes_raise(tmp_path, keep):
    message = complaint(tmp_path, {DEVKIT: devkit({META: meta()[:keep], VALIDATION_TRUTH: b""})})
    assert message.startswith(f"Expected the devkit's synsets in {tmp_path / DEVKIT}: {META}. Received: ")
    message = complaint(tmp_path, {DEVKIT: None, META: meta()[:keep], VALIDATION_TRUTH: b""})
    assert message.startswith(f"Expected the devkit's synsets in {tmp_path / META}. Received: ")


def test_other_variables_in_place_of_classes_raise(tmp_path):
    for synsets in ("text", 7.0, {"WNID": "n01484850"}):
        message = complaint(tmp_path, {META: meta(synsets=synsets), VALIDATION_TRUTH: b""})
        assert message.startswith(f"Expected the devkit's synsets in {tmp_path / META}. Received: ")


@pytest.mark.parametrize(
    "change",
    [
        {4: ("n07711080", "the WNID of another", 2)},
        {4: ("shark", "no WNID", 2)},
        {4: ("n02105855", "no images", 0)},
        {6: ("n02105999", "a gap before it", 2)},
    ],
)
def test_impossible_classes_raise(tmp_path, change):
    table = {**CLASSES, **change}
    message = complaint(tmp_path, {META: meta(table), VALIDATION_TRUTH: b""})
    assert message == (
        f"Expected the classes in {tmp_path / META} to have consecutive ILSVRC2010_IDs from 1, distinct WNIDs and "
        f"images. Received: {len(table)} classes, the first [(1, 'n07711080', 'french fries, fries, chips', 2)]"
    )


def test_no_classes_raise(tmp_path):
    message = complaint(tmp_path, {META: meta({}), VALIDATION_TRUTH: b""})
    assert message.endswith("Received: 0 classes, the first []")


def test_damaged_devkit_raises(tmp_path):
    expected = f"Expected {META} in {tmp_path / DEVKIT}. Received: "
    assert complaint(tmp_path, {DEVKIT: devkit({})}) == f"{expected}an archive without it"
    noise = np.random.default_rng(0).bytes(5000)
    cut = devkit({"devkit-1.0/features": noise, META: meta()})[:4000]
    wrong_checksum = gzip.compress(tar_files.pack([("devkit-1.0/features", noise)])[:3000])[:-8] + bytes(8)
    # An invalid block follows halfway through the file.
    stream = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    halfway = stream.compress(tar_files.pack([(META, noise * 8)])[:20000]) + stream.flush(zlib.Z_FULL_FLUSH)
    for content in (b"", b"no archive", parts()[VALIDATION], cut, wrong_checksum, halfway + b"\xff" * 1000):
        assert complaint(tmp_path, {DEVKIT: content}).startswith(expected)
    # Some programs write the names like this.
    kit = devkit({f"./{META}": meta(), f"./{VALIDATION_TRUTH}": b"1\n" * 5})
    assert len(open_with(tmp_path, {DEVKIT: kit}).classes) == 4
