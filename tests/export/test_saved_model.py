"""Exports are written atomically, and every loader returns the same outputs."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import full_disk
import numpy as np
import pytest
import serving_models as small
import tensorflow as tf

from alexnet_tf.export import deployment
from alexnet_tf.export import litert
from alexnet_tf.export import saved_model
from alexnet_tf.serving import client
from alexnet_tf.serving import protocol
from alexnet_tf.utils import files
from alexnet_tf.utils import standard_error

HERE = pathlib.Path(__file__).parent
CARD = {"run": "runs/some", "step": 7, "errors": {"validation": {"centre_crop": {"top1_error": 0.25}}}}
# The package tensorflow contains its C library. A compiler may be missing.
TENSORFLOW = pathlib.Path(tf.__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def write(export_dir, seed=0, class_names=small.CLASS_NAMES, **options):
    network, preprocessing = small.network(seed), small.preprocessing()
    return saved_model.export(network, preprocessing, class_names, CARD, export_dir, saved_model.Options(**options))


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """The path of an export of the small network. A class name has a line break."""
    names = [name.replace(" ", "\n", 1) for name in small.CLASS_NAMES]
    return write(tmp_path_factory.mktemp("served"), class_names=names)


@pytest.fixture(scope="module")
def loaded(version):
    """The signatures of the export, loaded. Converters need the model, which holds the variables."""
    model = tf.saved_model.load(version)
    yield model.signatures
    del model


@pytest.fixture(scope="module")
def meta_graph(version):
    return small.read_saved_model(version)


@pytest.fixture(scope="module")
def served():
    """The network before it was exported."""
    return small.served()


@pytest.fixture(scope="module")
def photographs(served):
    """Two image files, and the network's outputs for them."""
    encoded = [small.encoded(small.pixels(50, 70)), small.encoded(small.pixels(45, 31, seed=1), "PNG")]
    return encoded, served.classify_bytes(tf.constant(encoded))


@pytest.fixture(scope="module")
def pictures(served):
    """Two cropped and resized images, uint8, and the network's probabilities for them."""
    images = np.stack([small.pixels(small.IMAGE_SIZE, small.IMAGE_SIZE, seed) for seed in (1, 2)])
    return images, served.classify_images(tf.constant(images))["probabilities"].numpy()


@pytest.fixture
def without_tracing(monkeypatch):
    """Writes exports whose SavedModel is a single file, without tracing the network."""

    def write_saved_model(served, directory):
        pathlib.Path(directory, "saved_model.pb").write_bytes(b"saved")

    monkeypatch.setattr(saved_model, "_write_saved_model", write_saved_model)


def tensor_name(meta_graph, signature, kind, name):
    return getattr(meta_graph.signature_def[signature], kind)[name].name


def test_versions_are_numbered_consecutively(tmp_path, without_tracing):
    assert write(tmp_path) == str(tmp_path / "1")
    assert write(tmp_path) == str(tmp_path / "2")
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").mkdir()
    (tmp_path / "9").write_text("a file")
    assert write(tmp_path) == str(tmp_path / "8")
    assert protocol.versions(tmp_path) == {number: str(tmp_path / str(number)) for number in (2, 7, 8)}


def test_each_version_has_its_own_weights(tmp_path, version, pictures):
    shutil.copytree(version, tmp_path / "1")
    assert write(tmp_path, seed=1) == str(tmp_path / "2")
    images, expected = pictures
    first, second = (
        tf.saved_model.load(tmp_path / name).signatures["images"](images=tf.constant(images))["probabilities"].numpy()
        for name in ("1", "2")
    )
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert np.abs(second - expected).max() > 1e-3


def fail(*unused):
    raise OSError("no")


def test_a_failed_export_leaves_nothing(tmp_path, without_tracing, monkeypatch):
    write(tmp_path)
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(deployment, "write_card", fail)
    with pytest.raises(OSError, match="^no$"):
        write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 0, 300])
def test_mean_image_that_no_images_have_is_not_exported(tmp_path, value):
    preprocessing = small.preprocessing()
    mean_image = np.full_like(preprocessing.mean_image, value)
    with pytest.raises(ValueError, match=r"^Expected a mean image in \[0, 255\], .* Received: values from "):
        saved_model.export(
            small.network(), preprocessing._replace(mean_image=mean_image), small.CLASS_NAMES, CARD, tmp_path / "served"
        )
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_not_exported(tmp_path, value):
    network = small.network()
    kernel = network.layers[1].kernel
    kernel.assign(tf.tensor_scatter_nd_update(kernel.value, [[0, 0, 0, 0]], [value]))
    with pytest.raises(ValueError, match="^Expected finite weights. Received: NaN or infinity in conv/kernel; "):
        saved_model.export(network, small.preprocessing(), small.CLASS_NAMES, CARD, tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_files_of_a_version_are_on_disk_before_it_gets_its_name(tmp_path, without_tracing, monkeypatch):
    synced = []

    def sync(paths):
        (directory,) = paths
        assert (pathlib.Path(directory) / "model_card.json").exists()
        assert [name for name in os.listdir(tmp_path) if name.isdigit()] == []
        synced.append(directory)

    monkeypatch.setattr(files, "sync", sync)
    write(tmp_path)
    assert len(synced) == 1 and (tmp_path / "1").is_dir()


def test_link_with_a_temporary_name_is_not_followed(tmp_path, without_tracing):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / ".writing-link").symlink_to(outside)
    write(tmp_path / "served")
    assert outside.is_dir()


@pytest.mark.parametrize("max_bytes", [pytest.param(1_000, marks=pytest.mark.slow), 20_000])
def test_full_disk_leaves_no_version(tmp_path, max_bytes):
    with full_disk.full_disk(max_bytes), pytest.raises(OSError) as caught:
        write(tmp_path)
    assert str(caught.value).startswith(f"Cannot write the export to {tmp_path}: ")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [".lock"]


def test_a_killed_export_leaves_no_version_and_the_next_one_cleans_up(tmp_path, without_tracing, monkeypatch):
    # A killed process ends at some point without running any cleanup.
    with monkeypatch.context() as killed:
        killed.setattr(deployment, "write_card", fail)
        killed.setattr(shutil, "rmtree", lambda *unused, **ignored: None)
        with pytest.raises(OSError, match="^no$"):
            write(tmp_path)
    left = [name for name in os.listdir(tmp_path) if name != ".lock"]
    assert len(left) == 1 and not left[0].isdecimal() and os.path.exists(tmp_path / left[0] / "saved_model.pb")
    assert protocol.versions(tmp_path) == {}
    assert write(tmp_path) == str(tmp_path / "1")
    assert not os.path.exists(tmp_path / left[0])


def test_concurrent_exports_are_rejected(tmp_path):
    with files.exclusive_lock(tmp_path / ".lock", "it"), pytest.raises(BlockingIOError) as caught:
        write(tmp_path)
    assert str(caught.value) == f"Another process is using {tmp_path}; wait for it to finish, or use another directory"


@pytest.mark.parametrize("name", ["", "two words", "../up", "a/b", ".hidden"])
def test_invalid_model_names_are_rejected(tmp_path, name):
    with pytest.raises(ValueError, match="^Expected name to consist of letters, digits"):
        write(tmp_path, name=name)
    assert not os.listdir(tmp_path)


def test_number_of_classes_must_match_the_network(tmp_path):
    with pytest.raises(ValueError) as caught:
        write(tmp_path, class_names=["a", "b"])
    assert str(caught.value) == "Expected 3 class_names. Received: 2"


@pytest.mark.parametrize("name", ["saved_model.pb", "assets/labels.txt", "checksums.json"])
@pytest.mark.parametrize("damage", ["zero", "remove", "empty"])
def test_damage_that_tensorflow_would_not_notice_is_reported(version, tmp_path, name, damage):
    client.check(version)
    copy = pathlib.Path(shutil.copytree(version, tmp_path / "1"))
    content = (copy / name).read_bytes()
    if damage == "remove":
        (copy / name).unlink()
    else:
        # Where four zeros change something.
        half = next(place for place in range(len(content) // 2, len(content)) if any(content[place : place + 4]))
        (copy / name).write_bytes(content[:half] + bytes(4) + content[half + 4 :] if damage == "zero" else b"")
    if (name, damage) == ("checksums.json", "remove"):
        # As in an export of version 0.1.
        client.check(copy)
        return
    with pytest.raises(
        ValueError, match="^Expected the files of an export in .* Received: .*; export the run again$"
    ) as caught:
        client.check(copy)
    assert "\n" not in str(caught.value)


def test_signatures_have_the_documented_inputs_and_outputs(meta_graph):
    described = {}
    for name, signature in meta_graph.signature_def.items():
        if name.startswith("__"):
            continue
        sides = []
        for tensors in (signature.inputs, signature.outputs):
            sides.append(
                {
                    key: (tf.dtypes.as_dtype(tensor.dtype).name, [dim.size for dim in tensor.tensor_shape.dim])
                    for key, tensor in tensors.items()
                }
            )
        described[name] = sides
    outputs = {"probabilities": ("float32", [-1, 3]), "classes": ("string", [-1, 3]), "scores": ("float32", [-1, 3])}
    errors = {"errors": ("string", [-1])}
    size = small.IMAGE_SIZE
    assert described == {
        "serving_default": [{"image_bytes": ("string", [-1])}, outputs | errors],
        "images": [{"images": ("uint8", [-1, size, size, 3])}, outputs],
        "images_float": [{"images": ("float32", [-1, size, size, 3])}, outputs | errors],
        "probabilities": [{"images": ("float32", [-1, size, size, 3])}, {"probabilities": outputs["probabilities"]}],
        "frames": [{"frames": ("uint8", [-1, -1, -1, 3])}, outputs],
        "features": [{"image_bytes": ("string", [-1])}, {"features": ("float32", [-1, 6])} | errors],
    }


def test_graph_requires_no_device_python_or_xla(meta_graph):
    assert small.requirements(meta_graph) == []


def test_graph_that_requires_them_is_detected(tmp_path):
    class Needy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([2])])
        def device(self, x):
            with tf.device("/GPU:0"):
                return x + 1

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def python(self, x):
            return tf.numpy_function(np.sin, [x], tf.float32)

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def xla(self, x):
            return tf.function(tf.sin, jit_compile=True)(x)

    module = Needy()
    tf.saved_model.save(module, tmp_path, {name: getattr(module, name) for name in ("device", "python", "xla")})
    found = " ".join(small.requirements(small.read_saved_model(tmp_path)))
    for what in ("/device:GPU:0", "PyFunc", "_XlaMustCompile"):
        assert what in found


def test_labels_are_an_asset_with_one_class_per_line(version):
    text = (pathlib.Path(version) / "assets" / "labels.txt").read_text(encoding="utf-8")
    assert text.splitlines() == small.CLASS_NAMES


def test_loaded_model_returns_the_same_outputs(loaded, served, photographs):
    files, expected = photographs
    outputs = loaded["serving_default"](image_bytes=tf.constant([*files, b"bad"]))
    np.testing.assert_allclose(outputs["probabilities"][:2], expected["probabilities"], atol=1e-6)
    assert small.strings(outputs["classes"][:2]) == small.strings(expected["classes"])
    assert set(small.strings(outputs["classes"][:2])) == set(small.CLASS_NAMES)
    assert small.strings(outputs["errors"]) == [
        "",
        "",
        "Expected a JPEG, PNG, GIF, BMP or WebP. Received: 3 bytes of another format",
    ]
    np.testing.assert_allclose(
        loaded["features"](image_bytes=tf.constant(files))["features"],
        served.features(tf.constant(files))["features"],
        atol=1e-6,
    )


def test_warmup_requests_run_every_signature_with_typical_batch_sizes(version, loaded):
    path = os.path.join(version, protocol.WARMUP_REQUESTS)
    counts = {}
    for record in tf.data.TFRecordDataset(path):
        request = protocol.warmup_request(record.numpy())
        assert request.model_spec.name == "alexnet"
        inputs = {name: tf.constant(value) for name, value in protocol.arrays(request.inputs).items()}
        outputs = loaded[request.model_spec.signature_name](**inputs)
        assert not any(small.strings(outputs.get("errors", tf.constant(""))))
        counts.setdefault(request.model_spec.signature_name, []).append(len(outputs[next(iter(outputs))]))
    names = ["serving_default", "images", "images_float", "probabilities", "frames", "features"]
    assert counts == {name: [1, 8, 32] for name in names}


def test_model_card_contains_the_metadata(version):
    card = json.loads((pathlib.Path(version) / "model_card.json").read_text(encoding="utf-8"))
    assert card | CARD == card
    assert [" ".join(name.split()) for name in card["classes"]] == small.CLASS_NAMES
    assert card["preprocessing"]["crop_size"] == small.CROP_SIZE
    assert card["preprocessing"]["views"] == "center"
    text = (pathlib.Path(version) / "model_card.md").read_text(encoding="utf-8")
    for part in ("- run: runs/some", "top1 error: 0.25", "Bläßhuhn", "images: uint8 [batch, 40, 40, 3]"):
        assert part in text


@pytest.fixture(scope="module")
def c_program(tmp_path_factory):
    """The compiled program load_saved_model.c.

    It is linked with a stub that has the name and symbols of TensorFlow's library, in which the linker would spend
    several seconds; the real library is loaded when the program starts.
    """
    directory = tmp_path_factory.mktemp("c")
    program, source, stub = directory / "load_saved_model", HERE / "load_saved_model.c", directory / "stub.so"
    functions = sorted(set(re.findall(r"\bTF_\w+(?=\()", source.read_text(encoding="utf-8"))))
    (directory / "stub.c").write_text("".join(f"void {name}(void) {{}}\n" for name in functions))
    library = ["-shared", "-fPIC", "-Wl,-soname,libtensorflow_cc.so.2"]
    subprocess.run(["cc", directory / "stub.c", *library, "-o", stub], check=True, timeout=120)
    options = ["-Wall", "-Werror", f"-I{TENSORFLOW / 'include'}", stub, f"-Wl,-rpath,{TENSORFLOW}"]
    subprocess.run(["cc", source, *options, "-o", program], check=True, timeout=120)
    return program


def run_c(c_program, meta_graph, version, signature, path, height, width, outputs):
    """Returns the lines that the C program prints."""
    (name,) = meta_graph.signature_def[signature].inputs
    names = [tensor_name(meta_graph, signature, "outputs", output) for output in outputs]
    arguments = [version, tensor_name(meta_graph, signature, "inputs", name), path, height, width, *names]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [c_program, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_compiler
def test_c_api_classifies_files(c_program, meta_graph, version, photographs, tmp_path):
    files, expected = photographs
    for place, content in enumerate(files):
        path = tmp_path / "photograph"
        path.write_bytes(content)
        outputs = ["probabilities", "classes", "errors"]
        lines = run_c(c_program, meta_graph, version, "serving_default", path, 0, 0, outputs)
        np.testing.assert_allclose(
            [float(value) for value in lines[0].split()], expected["probabilities"][place], atol=1e-5
        )
        assert lines[1].strip() == " ".join(small.strings(expected["classes"][place]))
        assert lines[2].strip() == ""


@needs_compiler
def test_c_api_classifies_pixels(c_program, meta_graph, version, pictures, tmp_path):
    images, expected = pictures
    path = tmp_path / "pixels"
    path.write_bytes(images[0].tobytes())
    size = small.IMAGE_SIZE
    (line,) = run_c(c_program, meta_graph, version, "images", path, size, size, ["probabilities"])
    np.testing.assert_allclose([float(value) for value in line.split()], expected[0], atol=1e-5)


@needs_compiler
def test_c_api_returns_the_error_of_a_bad_file(c_program, meta_graph, version, tmp_path):
    path = tmp_path / "bad"
    path.write_bytes(small.damaged())
    (line,) = run_c(c_program, meta_graph, version, "serving_default", path, 0, 0, ["errors"])
    assert line.startswith("Expected a complete JPEG, PNG, GIF, BMP or WebP. Received: ")


def test_saved_model_runs_without_this_package(version, photographs, pictures, tmp_path):
    """Loads it in a process that cannot import this package, by TensorFlow and by saved_model_cli."""
    files, by_files = photographs
    images, by_pixels = pictures
    (tmp_path / "photograph").write_bytes(files[0])
    np.save(tmp_path / "pictures.npy", images)
    program = str(pathlib.Path(sys.executable).with_name("saved_model_cli"))
    arguments = ["--tag_set", "serve", "--signature_def", "images", "--inputs", "images=pictures.npy"]
    command = [program, "run", "--dir", version, *arguments, "--outdir", "."]
    code = f"""
        import json, runpy, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "alexnet_tf":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        import tensorflow as tf
        assert len(tf.config.list_logical_devices()) == 1
        function = tf.saved_model.load({version!r}).signatures["serving_default"]
        outputs = function(image_bytes=tf.constant([open("photograph", "rb").read()]))
        with open("probabilities.json", "w") as file:
            json.dump(outputs["probabilities"].numpy().tolist(), file)
        sys.argv = {command!r}
        try:
            runpy.run_path({program!r}, run_name="__main__")
        finally:
            assert "alexnet_tf" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=180, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    probabilities = json.loads((tmp_path / "probabilities.json").read_text())
    np.testing.assert_allclose(probabilities, by_files["probabilities"][:1], atol=1e-6)
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), by_pixels, atol=1e-5)


def test_openvino_opens_the_signature_of_probabilities(loaded, pictures, monkeypatch):
    pytest.importorskip("openvino_telemetry")
    # It would send each use over the network, from a fork of this process.
    monkeypatch.setattr("openvino_telemetry.utils.sender.TelemetrySender.send", lambda *unused: None)
    openvino = pytest.importorskip("openvino")
    model = openvino.convert_model(loaded["probabilities"])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    images, expected = pictures
    outputs = openvino.Core().compile_model(model, "CPU", exact)({"images": images.astype(np.float32)})
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)


def test_litert_opens_the_signature_of_probabilities(version, pictures):
    converter = tf.lite.TFLiteConverter.from_saved_model(version, signature_keys=["probabilities"])
    with standard_error.suppressed():
        model = converter.convert()
    images, expected = pictures
    found = litert.run(model, images.astype(np.float32), "probabilities")["probabilities"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_deployment_files_are_written_next_to_the_versions(tmp_path, without_tracing):
    write(tmp_path, name="birds-2")
    assert "birds-2" in (tmp_path / "models.config").read_text(encoding="utf-8")
    assert (tmp_path / "request.py").exists()
