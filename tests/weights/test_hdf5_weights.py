import io

import damaged_weights
import h5py
import keras
import numpy as np
import pytest

from alexnet_tf.weights import hdf5_weights
from alexnet_tf.weights import matconvnet

RANDOM = np.random.default_rng(0)
# Keras 1 with Theano: two layers for a convolution of two groups.
ARRAYS = {
    "conv_1/conv_1_W": RANDOM.normal(0, 3, [8, 3, 5, 5]).astype(np.float32),
    "conv_1/conv_1_b": RANDOM.normal(0, 3, [8]).astype(np.float32),
    "conv_2_1/conv_2_1_W": RANDOM.normal(0, 3, [3, 4, 3, 3]).astype(np.float32),
    "conv_2_1/conv_2_1_b": np.zeros([3], np.float32),
    "dense_1/dense_1_W": RANDOM.normal(0, 3, [6, 7]).astype(np.float32),
    "dense_1/dense_1_b": np.zeros([7], np.float32),
}
# h5py sorts by name otherwise.
ORDER = ["dense_1", "conv_2_1", "pool_1", "conv_1"]


def make(fill, **options):
    """Returns the bytes of a file that `fill` has filled."""
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        fill(root)
    return file.getvalue()


def keras1(root):
    root.attrs["layer_names"] = np.array(ORDER, "S")
    root.create_group("pool_1").attrs["weight_names"] = np.zeros([0], "S1")
    for name, array in ARRAYS.items():
        root[name] = array
    for layer in ("conv_1", "conv_2_1", "dense_1"):
        root[layer].attrs["weight_names"] = np.array([f"{layer}_W", f"{layer}_b"], "S")


def write(tmp_path, content, name="weights.h5"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_weights_of_keras_1_are_read_to_the_bit(tmp_path):
    found = hdf5_weights.read(write(tmp_path, make(keras1)))
    assert found.format == "HDF5 weights" and found.operations == () and found.metadata == {}
    layers = [name.split("/")[0] for name in found.arrays]
    assert layers == ["dense_1", "dense_1", "conv_2_1", "conv_2_1", "conv_1", "conv_1"]
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == np.float32
        np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.h5"])
def test_weights_of_todays_keras(tmp_path, name):
    model = keras.Sequential(
        [keras.Input([8, 8, 3]), keras.layers.Conv2D(4, 3, name="conv1"), keras.layers.Dense(2, name="fc8")]
    )
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / name
    with pytest.MonkeyPatch.context() as patch:
        # It warns that this format is old.
        patch.setattr("absl.logging.warning", lambda *_: None)
        model.save_weights(path) if name == "a.weights.h5" else model.save(path)
    found = hdf5_weights.read(path)
    assert len(found.arrays) == 4 and not any("optimizer" in name for name in found.arrays)
    for variable in model.weights:
        (array,) = [array for array in found.arrays.values() if array.shape == tuple(variable.shape)]
        np.testing.assert_array_equal(array, variable.numpy())


def test_packed_weights_and_other_numbers(tmp_path):
    def fill(root):
        root.create_dataset("a", data=ARRAYS["conv_1/conv_1_W"], compression="gzip", shuffle=True, fletcher32=True)
        root["group/half"] = np.float16([1, 2])
        root["group/scalar"] = 3
        root["group/big"] = np.arange(4, dtype=">f8")

    found = hdf5_weights.read(write(tmp_path, make(fill)))
    np.testing.assert_array_equal(found.arrays["a"], ARRAYS["conv_1/conv_1_W"])
    np.testing.assert_array_equal(found.arrays["group/big"], np.arange(4))
    assert found.arrays["group/scalar"] == 3 and found.arrays["group/half"].dtype == np.float16


def test_matlabs_version_7_3_is_hdf5(tmp_path):
    path = write(tmp_path, make(lambda root: root.update(a=np.ones(3)), userblock_size=512), "net.mat")
    assert matconvnet.read(path).format == "HDF5 weights"


def hostile(fill):
    def add(root):
        keras1(root)
        fill(root)

    return fill.__name__, make(add)


def soft_link(root):
    root["link"] = h5py.SoftLink("/conv_1")


def external_link(root):
    root["link"] = h5py.ExternalLink("/etc/passwd", "/")


def cycle(root):
    root["conv_1/again"] = root


def external_data(root):
    root.create_dataset("a", [4], "u1", external=[("/etc/passwd", 0, 4)])


def virtual_data(root):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (4,))
    root.create_virtual_dataset("a", layout)


def references(root):
    root.create_dataset("a", data=[root.ref], dtype=h5py.ref_dtype)


def compound(root):
    root["a"] = np.zeros(3, [("x", "f4"), ("y", "i4")])


def texts(root):
    root["a"] = ["text"]


def lists(root):
    root.create_dataset("a", [2], h5py.vlen_dtype(np.float32))


def opaque(root):
    root["a"] = np.zeros(3, "V5")


def stored_type(root):
    root["a"] = np.dtype("f4")


def unwritten(root):
    root.create_dataset("a", [2**20, 2**20], "f4")


def unwritten_parts(root):
    root.create_dataset("a", [2**20, 2**20], "f4", chunks=(8, 8), compression="gzip")


def bomb(root):
    root.create_dataset("a", data=np.zeros(20_000_000, np.float32), chunks=(2**20,), compression="gzip")


def large_parts(root):
    root.create_dataset("a", [4], "f4", chunks=(2**28,), maxshape=(None,), compression="gzip")


def other_filter(root):
    root.create_dataset("a", data=np.zeros(100), compression="lzf")


def deep(root):
    root["/".join(["g"] * 40)] = np.ones(3)


@pytest.mark.parametrize(
    "fill, message",
    [
        (soft_link, "a link to another place"),
        (external_link, "a link to another place"),
        (cycle, "two names of one object|more than 32 deep"),
        (external_data, "in another file"),
        (virtual_data, "in another file"),
        (references, "an array of references"),
        (compound, "an array of compound values"),
        (texts, "an array of texts"),
        (lists, "an array of lists"),
        (opaque, "an array of opaque values"),
        (stored_type, "a type in the place of an array"),
        (unwritten, "that are 0 in the file"),
        (unwritten_parts, "that are 0 in the file"),
        (bomb, "an array of 80,000,000 bytes"),
        (large_parts, "larger than itself"),
        (other_filter, "filter 32000.*h5repack"),
        (deep, "more than 32 deep"),
    ],
)
def test_hostile_files_are_refused(tmp_path, fill, message):
    name, content = hostile(fill)
    damaged_weights.check_refused(hdf5_weights.read, tmp_path / f"{name}.h5", content, message)


def test_files_that_are_not_hdf5_are_refused(tmp_path):
    for content in (b"", b"text", hdf5_weights.SIGNATURE, hdf5_weights.SIGNATURE + bytes(5000)):
        damaged_weights.check_refused(hdf5_weights.read, tmp_path / "other.h5", content)
    damaged_weights.check_refused(hdf5_weights.read, tmp_path / "empty.h5", make(lambda root: None), "without arrays")


def test_damaged_files_are_refused_or_read(tmp_path):
    content = make(keras1)
    assert damaged_weights.check_mutations(hdf5_weights.read, tmp_path / "damaged.h5", content, 100) > 20
    # Structure without weights.
    content = make(lambda root: root.update({name: array.ravel()[:1] for name, array in ARRAYS.items()}))
    assert damaged_weights.check_mutations(hdf5_weights.read, tmp_path / "damaged.h5", content, 100) > 20
