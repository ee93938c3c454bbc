"""Photographs in tar archives: what is found, read byte for byte, and what is said of archives that are not whole."""

import gzip
import io
import os
import sys
import tarfile
import zlib

import numpy as np
import pytest
import tensorflow as tf

from alexnet_tf.data import archives

scipy_io = pytest.importorskip("scipy.io")

TRAIN, VALIDATION, TEST = archives.TRAINING_IMAGES, archives.VALIDATION_IMAGES, archives.TEST_IMAGES
META, VALIDATION_TRUTH, TEST_TRUTH = archives.META, archives.VALIDATION_TRUTH, archives.TEST_TRUTH
PATCHES, DEVKIT = archives.PATCHES, archives.DEVKIT

# ILSVRC2010_ID: WNID, words, number of training images. The order of one is not that of the other.
CLASSES = {
    1: ("n07711080", "french fries, fries, chips", 2),
    2: ("n01484850", "great white shark, man-eater", 3),
    3: ("n13136316", "bean", 1),
    4: ("n02105855", "Shetland sheepdog, Sheltie", 2),
}
WNIDS = ["n01484850", "n02105855", "n07711080", "n13136316"]
NUMBERS = {"n01484850": (10, 2, 333), "n02105855": (5, 40), "n07711080": (1, 2), "n13136316": (9,)}
# As text is sorted: 10 before 2.
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


def image(name):
    """Bytes that only this image has; the zeros at the end belong to it."""
    name = name.rpartition("/")[2]
    return b"\xff\xd8" + f"{name} ".encode() * (1 + sum(name.encode()) % 90) + b"\0\0\0"


def pack(entries, **options):
    """A tar archive of (name or TarInfo, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for info, content in entries:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def images(names, **options):
    return pack([(name, image(name)) for name in names], **options)


def class_names(wnid):
    return [f"{wnid}_{number}.JPEG" for number in NUMBERS[wnid]]


def class_tars():
    return {wnid: images(class_names(wnid)) for wnid in NUMBERS}


def outer(tars):
    """The training archive; the classes stand in it as they come."""
    return pack([(f"{wnid}.tar", content) for wnid, content in reversed(tars.items())])


def numbered(split, count):
    return [f"ILSVRC2010_{split}_{number:08d}.JPEG" for number in range(1, count + 1)]


def meta(classes=CLASSES, **changes):
    """meta.mat: a column of structures, of the classes and then of their ancestors."""
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
    return gzip.compress(pack([("devkit-1.0/readme.txt", b"read me"), *files.items()]))


def parts():
    """Path to content of all that is given out: four classes, five images for validation and six for testing."""
    return {
        TRAIN: outer(class_tars()),
        VALIDATION: images([f"val/{name}" for name in reversed(numbered("val", 5))]),
        TEST: images(numbered("test", 6)),
        DEVKIT: devkit({META: meta(), VALIDATION_TRUTH: b"2\n4\n1\n3\n1\n"}),
        TEST_TRUTH: b"3\n3\n2\n1\n4\n2\n",
    }


def write(directory, files):
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def contents(split, **options):
    """What is read at every index, in tf.data."""
    return list(tf.data.Dataset.range(len(split.labels)).map(split.read, **options).as_numpy_iterator())


def names(split):
    return [split.name_of(index) for index in range(len(split.labels))]


def open_with(directory, changes):
    write(directory, {**parts(), **changes})
    return archives.ilsvrc2010(directory)


def complaint(directory, changes, kind=ValueError):
    """What is said of the data set with some files changed, or left out where they are None."""
    files = {**parts(), **changes}
    write(directory, {name: content for name, content in files.items() if content is not None})
    return refusal(lambda: archives.ilsvrc2010(directory), kind)


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert " Received: " in message
    assert "\n" not in message
    return message


def test_the_devkit_made_here_reads_like_the_true_one():
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
    # An only child is no vector.
    assert synsets[6]["children"] == 3


def test_ilsvrc2010_is_read_from_its_archives(tmp_path):
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
        "validation": ([0, 1, 2, 3, 2], numbered("val", 5)),
        "test": ([3, 3, 0, 2, 1, 0], numbered("test", 6)),
    }
    for name, (labels, image_names) in expected.items():
        split = found.splits[name]
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.labels, labels)
        assert names(split) == image_names
        assert contents(split) == [image(name) for name in image_names]
        assert split.read(tf.constant(3, tf.int64)).numpy() == image(image_names[3])
    # Nothing was unpacked beside them.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(parts())


@pytest.mark.parametrize("folder", ["train/", ""])
def test_archives_that_were_unpacked_once_are_the_same_data_set(tmp_path, folder):
    whole = open_with(tmp_path / "whole", {})
    files = parts()
    del files[TRAIN], files[DEVKIT]
    files |= {f"{folder}{wnid}.tar": content for wnid, content in class_tars().items()}
    files |= {META: meta(), VALIDATION_TRUTH: b"2\n4\n1\n3\n1\n", PATCHES: pack([])}
    write(tmp_path / "unpacked", files)
    unpacked = archives.ilsvrc2010(tmp_path / "unpacked")
    assert unpacked.classes == whole.classes
    for name, split in whole.splits.items():
        np.testing.assert_array_equal(unpacked.splits[name].labels, split.labels)
        assert names(unpacked.splits[name]) == names(split)
        assert contents(unpacked.splits[name]) == contents(split)


def test_without_its_ground_truth_there_is_no_test_set(tmp_path):
    files = parts()
    del files[TEST_TRUTH]
    # The archive of patches has some for it all the same.
    write(tmp_path, {**files, PATCHES: images([f"patch_images/test/{numbered('test', 1)[0]}"])})
    assert list(archives.ilsvrc2010(tmp_path).splits) == ["train", "validation"]
    (tmp_path / TEST).unlink()
    assert list(archives.ilsvrc2010(tmp_path).splits) == ["train", "validation"]


def test_progress_counts_the_classes(tmp_path):
    write(tmp_path, parts())
    seen = []
    archives.ilsvrc2010(tmp_path, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_patches_replace_images_of_their_split(tmp_path):
    new = {"train/n02105855_5.JPEG": b"\xff\xd8a sheepdog\0", "val/ILSVRC2010_val_00000004.JPEG": b"\xff\xd8beans\0"}
    new["test/ILSVRC2010_test_00000006.JPEG"] = b"\xff\xd8a shark"
    packed = {**new, "val/ILSVRC2010_val_00000004.JPEG": gzip.compress(b"\xff\xd8beans\0")}
    plain = open_with(tmp_path / "plain", {})
    archive = pack((f"patch_images/{name}", content) for name, content in packed.items())
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
def test_a_patch_of_an_image_that_is_not_there(tmp_path, name):
    message = complaint(tmp_path, {PATCHES: images([f"patch_images/{name}"])})
    assert message == f"Expected in {tmp_path / PATCHES} patches of images that are there. Received: {name}"


def zipped(tmp_path, content):
    """The validation set, whose second image has this content."""
    entries = [(name, image(name)) for name in numbered("val", 5)]
    entries[1] = (entries[1][0], content)
    return open_with(tmp_path, {VALIDATION: pack(entries)}).splits["validation"]


def test_an_image_that_was_compressed_is_decompressed(tmp_path):
    assert contents(zipped(tmp_path, gzip.compress(b"\xff\xd8 inside\0"))) == [
        b"\xff\xd8 inside\0" if place == 1 else image(name) for place, name in enumerate(numbered("val", 5))
    ]


@pytest.mark.parametrize(
    "content, received",
    [
        (gzip.compress(bytes(1001), mtime=0), "more"),
        (gzip.compress(image("cut"), mtime=0)[:-9], "the beginning of one"),
        (b"\x1f\x8b\x08\x00 no such thing", "Error -3 while decompressing data"),
    ],
)
def test_a_compressed_image_is_whole_and_not_too_large(tmp_path, monkeypatch, content, received):
    monkeypatch.setattr(archives, "MAX_DECOMPRESSED_BYTES", 1000)
    split = zipped(tmp_path, content)
    message = refusal(lambda: split.read(tf.constant(1, tf.int64)))
    assert message.startswith(
        f"Expected ILSVRC2010_val_00000002.JPEG in {tmp_path / VALIDATION} to be a whole gzip file of at most 1000 "
        f"bytes. Received: {received}"
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expected ILSVRC2010_val_00000002.JPEG in "):
        contents(split)


def test_a_compressed_image_may_be_as_large_as_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_DECOMPRESSED_BYTES", 1000)
    assert contents(zipped(tmp_path, gzip.compress(b"\xff" * 1000)))[1] == b"\xff" * 1000


def test_many_images_are_read_at_a_time(tmp_path):
    generator = np.random.default_rng(0)
    expected = {name: generator.bytes(generator.integers(2000)) for name in numbered("val", 500)}
    split = open_with(
        tmp_path,
        {
            VALIDATION: pack((name, expected[name]) for name in generator.permutation(list(expected)).tolist()),
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


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_tarfile_reads_them(tmp_path, format):
    # The longer names have headers of their own but in the oldest format.
    folder = "a/" * 30 + "b" * 60
    entries = [f"{folder}/two.JPEG", "one.jpeg", "three.Jpeg", "empty.JPEG", "./four.JPEG"]
    packed = {name: b"" if name == "empty.JPEG" else image(name) * 5 for name in entries}
    path = tmp_path / "images.tar"
    path.write_bytes(b"before" + pack(packed.items(), format=format) + b"behind")
    size = path.stat().st_size - 12
    found = archives.members(path, suffix=".jpeg", start=6, size=size)
    assert found.names == ["empty.JPEG", "./four.JPEG", "one.jpeg", "three.Jpeg", f"{folder}/two.JPEG"]
    assert found.offsets.dtype == found.sizes.dtype == np.int64
    content = path.read_bytes()
    for name, offset, size in zip(*found):
        assert content[offset : offset + size] == packed[name]


def test_what_is_no_file_of_the_kind_is_passed_over(tmp_path):
    special = []
    for kind, name in ((tarfile.SYMTYPE, "s"), (tarfile.LNKTYPE, "l"), (tarfile.DIRTYPE, "d"), (tarfile.FIFOTYPE, "f")):
        info = tarfile.TarInfo(f"{name}.JPEG")
        info.type, info.linkname = kind, "/etc/passwd"
        special.append((info, b""))
    with_hole = tarfile.TarInfo("hole.JPEG")
    with_hole.size = 4
    with_hole.pax_headers = {"GNU.sparse.map": "0,4", "GNU.sparse.size": "900"}
    special += [(with_hole, b"data"), ("._one.JPEG", b"resource"), ("val/.two.JPEG", b""), ("list.txt", b"")]
    (tmp_path / "images.tar").write_bytes(pack([*special, ("one.JPEG", b"1")], format=tarfile.PAX_FORMAT))
    assert archives.members(tmp_path / "images.tar", suffix=".jpeg").names == ["one.JPEG"]


def test_little_is_kept_of_what_was_looked_through(tmp_path, monkeypatch):
    kept = []
    following = tarfile.TarFile.next

    def spy(archive):
        member = following(archive)
        kept.append(len(archive.members))
        return member

    monkeypatch.setattr(tarfile.TarFile, "next", spy)
    (tmp_path / "images.tar").write_bytes(images(numbered("val", 30)))
    assert len(archives.members(tmp_path / "images.tar", suffix=".jpeg").names) == 30
    assert max(kept) == 1


def test_classes_that_lie_far_behind(tmp_path):
    far = tarfile.TarInfo("notes.txt")
    far.size = 5 * 2**30
    write(tmp_path, parts())
    with open(tmp_path / TRAIN, "wb") as file:
        file.write(far.tobuf())
        # A hole, which takes no room on the disk.
        file.seek(far.size, os.SEEK_CUR)
        file.write(outer(class_tars()))
    train = archives.ilsvrc2010(tmp_path).splits["train"]
    assert contents(train) == [image(name) for name in TRAINING_NAMES]


def test_an_archive_that_became_shorter_is_named(tmp_path):
    split = open_with(tmp_path, {}).splits["validation"]
    # The names stand in the opposite order in the archive: the first image comes last.
    os.truncate(tmp_path / VALIDATION, 512)
    expected = f"Expected {len(image(numbered('val', 1)[0]))} bytes of ILSVRC2010_val_00000001.JPEG in "
    expected += f"{tmp_path / VALIDATION}. Received: 0"
    assert refusal(lambda: split.read(tf.constant(0, tf.int64))) == expected
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        contents(split, num_parallel_calls=2)


def test_missing_files_are_named(tmp_path):
    train, validation, test, kit, truth = (tmp_path / name for name in (TRAIN, VALIDATION, TEST, DEVKIT, TEST_TRUTH))
    expected = (
        f"Expected ILSVRC-2010 (from image-net.org) as {train} (or its n########.tar in {tmp_path / 'train'} or "
        f"{tmp_path}), {validation}, {kit} (or {tmp_path / META} and {tmp_path / VALIDATION_TRUTH})"
    )
    message = refusal(lambda: archives.ilsvrc2010(tmp_path), FileNotFoundError)
    assert message == f"{expected}. Received: no {train}, no {validation}, no {kit}"
    # Half of the devkit is none, and the archives of a folder are not yet classes.
    write(tmp_path, {META: meta(), VALIDATION: b"", PATCHES: b"", "train/other.tar": b""})
    assert refusal(lambda: archives.ilsvrc2010(tmp_path), FileNotFoundError).endswith(
        f". Received: no {train}, no {kit}"
    )
    write(tmp_path, {DEVKIT: b"", TRAIN: b"", TEST_TRUTH: b""})
    message = refusal(lambda: archives.ilsvrc2010(tmp_path), FileNotFoundError)
    assert message == f"{expected}, {test} (for {truth}). Received: no {test}"


def test_without_scipy_it_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path, parts())
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        archives.ilsvrc2010(tmp_path)
    assert str(caught.value) == "Expected the package scipy: pip install -e '.[ilsvrc2010]'"


def test_wherever_an_archive_is_cut_it_is_noticed(tmp_path):
    whole = images(["a.JPEG", "b.JPEG", "c.JPEG"], format=tarfile.PAX_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for cut in [*range(0, len(whole), 64), *range(511, len(whole), 512), *range(513, len(whole), 512)]:
        # In front of another archive, as in the training archive, and at the end of the file.
        for behind in (b"", images(["d.JPEG"]), bytes(2048)):
            (tmp_path / "cut.tar").write_bytes(whole[:cut] + behind)

            def look(cut=cut):
                return archives.members(tmp_path / "cut.tar", suffix=".jpeg", size=cut)

            # One block of zeros is enough of an end.
            if cut >= end + 512:
                assert look().names == ["a.JPEG", "b.JPEG", "c.JPEG"]
            else:
                assert f"Received: {cut} bytes, " in refusal(look)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"from somewhere else",
        b"x" * 5000,
        gzip.compress(images(["a.JPEG"]), mtime=0),
        images(["a.JPEG"])[:700],
    ],
)
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "no.tar").write_bytes(content)
    message = refusal(lambda: archives.members(tmp_path / "no.tar", suffix=".jpeg"))
    assert message.startswith(
        f"Expected {tmp_path / 'no.tar'} to be a whole, uncompressed tar archive. "
        f"Received: {len(content)} bytes, without a whole member ("
    )


# Another name under the old checksum, and no header at all.
@pytest.mark.parametrize("value", [b"x", b"\1" * 512])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, value):
    whole = images(["a.JPEG", "b.JPEG", "c.JPEG"])
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        start = archive.getmember("c.JPEG").offset
    (tmp_path / "a.tar").write_bytes(whole[:start] + value + whole[start + len(value) :])
    message = refusal(lambda: archives.members(tmp_path / "a.tar", suffix=".jpeg"))
    assert message.endswith(" bytes, cut or damaged after b.JPEG")


@pytest.mark.parametrize(
    "kind, size",
    [(tarfile.REGTYPE, size) for size in (-(2**40), -1, 2**40, 2**80)]
    # Of a header that goes on.
    + [(tarfile.XHDTYPE, size) for size in (-(2**40), 2**80)],
)
def test_an_impossible_size_ends_the_search(tmp_path, kind, size):
    info = tarfile.TarInfo("a.JPEG")
    info.type = kind
    header = bytearray(info.tobuf())
    # Numbers that eight octal digits cannot hold are in base 256.
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] = 0x80 if size > 0 else 0xFF
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + images(["b.JPEG"]))
    assert "without a whole member" in refusal(lambda: archives.members(tmp_path / "a.tar", suffix=".jpeg"))


def test_a_training_archive_that_was_cut(tmp_path):
    whole = parts()[TRAIN]
    # The archive has n13136316, n07711080, n02105855, n01484850.
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        third = archive.getmember("n02105855.tar")
    for cut in (third.offset, third.offset + 100, third.offset_data, third.offset_data + 5000):
        message = complaint(tmp_path, {TRAIN: whole[:cut]})
        assert message == (
            f"Expected {tmp_path / TRAIN} to be a whole, uncompressed tar archive. "
            f"Received: {cut} bytes, cut or damaged after n07711080.tar"
        )


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_a_class_archive_that_was_cut(tmp_path, is_unpacked):
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
            f"Expected {where} to be a whole, uncompressed tar archive. "
            f"Received: {cut} bytes, cut or damaged after n01484850_2.JPEG"
        )


@pytest.mark.parametrize("name", [VALIDATION, TEST, PATCHES])
def test_another_archive_that_was_cut(tmp_path, name):
    whole = {**parts(), PATCHES: images([f"patch_images/val/{name}" for name in numbered("val", 2)])}[name]
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        first, *_, last = archive.getmembers()
    message = complaint(tmp_path, {name: whole[: last.offset_data + last.size - 1]})
    assert message.startswith(f"Expected {tmp_path / name} to be a whole, uncompressed tar archive. Received: ")
    assert " bytes, cut or damaged after " in message
    assert f"after {first.name}" in complaint(
        tmp_path, {name: whole[: first.offset_data + 512 * (first.size // 512 + 1)]}
    )
    assert "without a whole member" in complaint(tmp_path, {name: b"no archive"})


def test_a_name_or_class_that_comes_twice(tmp_path):
    val = images(["val/ILSVRC2010_val_00000002.JPEG", "ILSVRC2010_val_00000002.JPEG"])
    message = complaint(tmp_path, {VALIDATION: val})
    assert (
        message == f"Expected every name in {tmp_path / VALIDATION} once. Received: ILSVRC2010_val_00000002.JPEG twice"
    )
    tars = class_tars()
    twice = pack([(f"{wnid}.tar", tars[wnid]) for wnid in [*WNIDS, "n07711080"]])
    message = complaint(tmp_path, {TRAIN: twice})
    assert message == f"Expected every name in {tmp_path / TRAIN} once. Received: n07711080.tar twice"
    tars["n07711080"] = images(["n07711080_1.JPEG", "n07711080_1.JPEG"])
    message = complaint(tmp_path, {TRAIN: outer(tars)})
    where = f"{tmp_path / TRAIN}: n07711080.tar"
    assert message == f"Expected every name in {where} once. Received: n07711080_1.JPEG twice"


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_archives_of_other_classes(tmp_path, is_unpacked):
    def of(wnids):
        tars = {wnid: class_tars().get(wnid, pack([])) for wnid in wnids}
        if not is_unpacked:
            return {TRAIN: outer(tars)}
        for path in tmp_path.glob("train/*"):
            path.unlink()
        return {TRAIN: None, **{f"train/{wnid}.tar": content for wnid, content in tars.items()}}

    where = tmp_path if is_unpacked else tmp_path / TRAIN
    expected = f"Expected in {where} a tar archive for each of the devkit's 4 classes. Received: "
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
def test_a_class_without_all_its_images(tmp_path, count):
    tars = class_tars()
    tars["n02105855"] = images([*class_names("n02105855")[:count], "n02105855_7.txt"])
    message = complaint(tmp_path, {TRAIN: outer(tars)})
    assert message == f"Expected in {tmp_path / TRAIN}: n02105855.tar the class's 2 images. Received: {count}"


@pytest.mark.parametrize("name, split, count", [(VALIDATION, "val", 4), (TEST, "test", 7)])
def test_another_number_of_images_than_lines_of_ground_truth(tmp_path, name, split, count):
    message = complaint(tmp_path, {name: images(numbered(split, count))})
    lines = {VALIDATION: 5, TEST: 6}[name]
    assert message == (
        f"Expected in {tmp_path / name} an image for each of {lines} lines of ground truth. Received: {count}"
    )


@pytest.mark.parametrize("line", ["0", "5", "-1", "2.0", "n01484850", "\xff"])
def test_ground_truth_of_no_class(tmp_path, line):
    truth = b"2\n4\n" + line.encode("latin-1") + b"\n3\n1\n"
    expected = "the ILSVRC2010_IDs 1 to 4. Received: "
    message = complaint(tmp_path, {DEVKIT: devkit({META: meta(), VALIDATION_TRUTH: truth})})
    assert message.startswith(f"Expected in {tmp_path / DEVKIT}: {VALIDATION_TRUTH} {expected}")
    assert message.endswith(" in line 3")
    message = complaint(tmp_path, {TEST_TRUTH: truth + b"1\n"})
    assert message.startswith(f"Expected in {tmp_path / TEST_TRUTH} {expected}")


@pytest.mark.parametrize("keep", [0, 60, 200, -30])
def test_a_damaged_table_of_classes(tmp_path, keep):
    message = complaint(tmp_path, {DEVKIT: devkit({META: meta()[:keep], VALIDATION_TRUTH: b""})})
    assert message.startswith(f"Expected the devkit's synsets in {tmp_path / DEVKIT}: {META}. Received: ")
    message = complaint(tmp_path, {DEVKIT: None, META: meta()[:keep], VALIDATION_TRUTH: b""})
    assert message.startswith(f"Expected the devkit's synsets in {tmp_path / META}. Received: ")


def test_a_table_of_something_else(tmp_path):
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
def test_a_table_of_impossible_classes(tmp_path, change):
    table = {**CLASSES, **change}
    message = complaint(tmp_path, {META: meta(table), VALIDATION_TRUTH: b""})
    assert message == (
        f"Expected the classes in {tmp_path / META} to have ILSVRC2010_IDs from 1 on, WNIDs of their own and images. "
        f"Received: {len(table)} classes, the first [(1, 'n07711080', 'french fries, fries, chips', 2)]"
    )


def test_a_table_without_classes(tmp_path):
    message = complaint(tmp_path, {META: meta({}), VALIDATION_TRUTH: b""})
    assert message.endswith("Received: 0 classes, the first []")


def test_a_devkit_that_is_damaged_or_another(tmp_path):
    expected = f"Expected {META} in {tmp_path / DEVKIT}. Received: "
    assert complaint(tmp_path, {DEVKIT: devkit({})}) == f"{expected}an archive without it"
    noise = np.random.default_rng(0).bytes(5000)
    cut = devkit({"devkit-1.0/features": noise, META: meta()})[:4000]
    wrong_checksum = gzip.compress(pack([("devkit-1.0/features", noise)])[:3000])[:-8] + bytes(8)
    # Halfway through the file there follows a block of a kind that does not exist.
    stream = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    halfway = stream.compress(pack([(META, noise * 8)])[:20000]) + stream.flush(zlib.Z_FULL_FLUSH)
    for content in (b"", b"no archive", parts()[VALIDATION], cut, wrong_checksum, halfway + b"\xff" * 1000):
        assert complaint(tmp_path, {DEVKIT: content}).startswith(expected)
    # Another program wrote the same names so.
    kit = devkit({f"./{META}": meta(), f"./{VALIDATION_TRUTH}": b"1\n" * 5})
    assert len(open_with(tmp_path, {DEVKIT: kit}).classes) == 4
