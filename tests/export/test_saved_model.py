"""Exports: written whole or not at all, and the same answers by every loader there is."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import full_disk
import numpy as np
import pytest
import serving_models as small
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from alexnet_tf.export import deployment
from alexnet_tf.export import saved_model as export
from alexnet_tf.serving import protocol

HERE = pathlib.Path(__file__).parent
CARD = {"run": "runs/some", "step": 7, "errors": {"validation": {"centre_crop": {"top1_error": 0.25}}}}
# TensorFlow is a shared library of its package; a compiler is not everywhere.
TENSORFLOW = pathlib.Path(tf.__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def write(export_dir, seed=0, **options):
    return export.export(
        small.network(seed), small.preparation(), small.CLASS_NAMES, CARD, export_dir, export.Options(**options)
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """The path of an export of the small network."""
    return write(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def saved_model(version):
    """The export's description, a ``MetaGraphDef``."""
    return small.read_saved_model(version)


def photographs():
    """Two photographs as files, and what the small network says of them."""
    encoded = [small.encoded(small.pixels(50, 70)), small.encoded(small.pixels(45, 31, seed=1), "PNG")]
    return encoded, small.served().classify_bytes(tf.constant(encoded))


def prepared_pictures():
    """Two prepared pictures, uint8, and what the small network says of them."""
    pictures = np.stack([small.pixels(small.IMAGE_SIZE, small.IMAGE_SIZE, seed) for seed in (1, 2)])
    return pictures, small.served().classify_images(tf.constant(pictures))["probabilities"].numpy()


def tensor_name(saved_model, signature, kind, name):
    return getattr(saved_model.signature_def[signature], kind)[name].name


def test_versions_follow_each_other(tmp_path):
    assert write(tmp_path) == str(tmp_path / "1")
    assert write(tmp_path) == str(tmp_path / "2")
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "notes").mkdir()
    (tmp_path / "7").mkdir()
    assert write(tmp_path) == str(tmp_path / "8")
    assert export.versions(tmp_path) == [2, 7, 8]


def test_each_version_answers_by_its_own_weights(tmp_path):
    loaded = [tf.saved_model.load(write(tmp_path, seed)).signatures["images"] for seed in (0, 1)]
    pictures, expected = prepared_pictures()
    first, second = (function(images=tf.constant(pictures))["probabilities"].numpy() for function in loaded)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert np.abs(second - expected).max() > 1e-3


def test_what_fails_leaves_nothing(tmp_path, monkeypatch):
    write(tmp_path)
    before = sorted(os.listdir(tmp_path))

    def fail(*unused):
        raise OSError("no")

    monkeypatch.setattr(deployment, "write_card", fail)
    with pytest.raises(OSError, match="^no$"):
        write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("most_bytes", [1_000, 20_000])
def test_full_disk_leaves_no_version(tmp_path, most_bytes):
    with full_disk.full_disk(most_bytes), pytest.raises(OSError) as caught:
        write(tmp_path)
    assert str(caught.value).startswith(f"Expected room for an export in {tmp_path}. Received: ")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [".lock"]


def test_a_killed_export_is_no_version_and_its_rest_goes_with_the_next(tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(HERE)!r})
        import serving_models as small
        from alexnet_tf.serving import companions, export
        companions.write_card = lambda *unused: os.kill(os.getpid(), signal.SIGKILL)
        export.export(small.network(), small.preparation(), small.CLASS_NAMES, {{}}, {str(tmp_path)!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=120)
    assert done.returncode == -9
    rest = [name for name in os.listdir(tmp_path) if name != ".lock"]
    assert len(rest) == 1 and not rest[0].isdecimal() and os.path.exists(tmp_path / rest[0] / "saved_model.pb")
    assert export.versions(tmp_path) == []
    assert write(tmp_path) == str(tmp_path / "1")
    assert not os.path.exists(tmp_path / rest[0])


def test_one_export_at_a_time(tmp_path):
    with export.files.exclusive_lock(tmp_path / ".lock", "it"), pytest.raises(BlockingIOError) as caught:
        write(tmp_path)
    assert str(caught.value) == f"Another process is using {tmp_path}; wait for it to finish, or use another directory"


@pytest.mark.parametrize("name", ["", "two words", "../up", "a/b", ".hidden"])
def test_a_name_that_no_server_could_have_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="^Expected name to be letters, digits"):
        write(tmp_path, name=name)
    assert not os.listdir(tmp_path)


def test_classes_must_be_the_networks(tmp_path):
    with pytest.raises(ValueError) as caught:
        export.export(small.network(), small.preparation(), ["a", "b"], {}, tmp_path)
    assert str(caught.value) == "Expected 3 class_names. Received: 2"


def test_signatures_are_as_promised(saved_model):
    described = {}
    for name, signature in saved_model.signature_def.items():
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
    answer = {"probabilities": ("float32", [-1, 3]), "classes": ("string", [-1, 3]), "scores": ("float32", [-1, 3])}
    said = {"errors": ("string", [-1])}
    size = small.IMAGE_SIZE
    assert described == {
        "serving_default": [{"image_bytes": ("string", [-1])}, answer | said],
        "images": [{"images": ("uint8", [-1, size, size, 3])}, answer],
        "images_float": [{"images": ("float32", [-1, size, size, 3])}, answer],
        "frames": [{"frames": ("uint8", [-1, -1, -1, 3])}, answer],
        "features": [{"image_bytes": ("string", [-1])}, {"features": ("float32", [-1, 6])} | said],
    }


def test_nothing_in_the_graph_needs_a_device_python_or_xla(saved_model):
    assert small.demands(saved_model) == []


def test_a_graph_that_needs_them_is_noticed(tmp_path):
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
    found = " ".join(small.demands(small.read_saved_model(tmp_path)))
    for what in ("/device:GPU:0", "PyFunc", "_XlaMustCompile"):
        assert what in found


def test_labels_are_an_asset(version):
    text = (pathlib.Path(version) / "assets" / "labels.txt").read_text(encoding="utf-8")
    assert text.splitlines() == small.CLASS_NAMES


def test_labels_stay_one_to_a_line(tmp_path):
    names = ["first", "a name\nof two lines", "third"]
    path = export.export(small.network(), small.preparation(), names, {}, tmp_path)
    answer = tf.saved_model.load(path).signatures["images"](images=tf.constant(prepared_pictures()[0]))
    assert set(small.strings(answer["classes"])) == {"first", "a name of two lines", "third"}


def test_loaded_answers_are_the_live_ones(version):
    files, expected = photographs()
    loaded = tf.saved_model.load(version).signatures
    answer = loaded["serving_default"](image_bytes=tf.constant([*files, b"bad"]))
    np.testing.assert_allclose(answer["probabilities"][:2], expected["probabilities"], atol=1e-6)
    assert small.strings(answer["classes"][:2]) == small.strings(expected["classes"])
    assert small.strings(answer["errors"]) == ["", "", "Expected a JPEG or PNG. Received: 3 bytes of something else"]
    np.testing.assert_allclose(
        loaded["features"](image_bytes=tf.constant(files))["features"],
        small.served().features(tf.constant(files))["features"],
        atol=1e-6,
    )


def test_warmup_asks_every_signature_for_the_usual_batch_sizes(version):
    path = os.path.join(version, "assets.extra", "tf_serving_warmup_requests")
    loaded = tf.saved_model.load(version).signatures
    asked = {}
    for record in tf.data.TFRecordDataset(path):
        request = protocol.warmup_request(record.numpy())
        assert request.model_spec.name == "alexnet"
        inputs = {name: tf.constant(value) for name, value in protocol.arrays(request.inputs).items()}
        answer = loaded[request.model_spec.signature_name](**inputs)
        assert not any(small.strings(answer.get("errors", tf.constant(""))))
        asked.setdefault(request.model_spec.signature_name, []).append(len(answer[next(iter(answer))]))
    names = ["serving_default", "images", "images_float", "frames", "features"]
    assert asked == {name: [1, 8, 32] for name in names}


def test_the_card_says_where_the_model_is_from(version):
    card = json.loads((pathlib.Path(version) / "model_card.json").read_text(encoding="utf-8"))
    assert card | CARD == card
    assert card["classes"] == small.CLASS_NAMES
    assert card["preprocessing"]["crop_size"] == small.CROP_SIZE
    text = (pathlib.Path(version) / "model_card.md").read_text(encoding="utf-8")
    for part in ("- run: runs/some", "top1 error: 0.25", "Bläßhuhn", "images: uint8 [batch, 40, 40, 3]"):
        assert part in text


@pytest.fixture(scope="module")
def c_program(tmp_path_factory):
    """The C program beside this file, compiled."""
    program = tmp_path_factory.mktemp("c") / "load_saved_model"
    libraries = [f"-L{TENSORFLOW}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    options = ["-Wall", "-Werror", f"-I{TENSORFLOW / 'include'}", *libraries, f"-Wl,-rpath,{TENSORFLOW}"]
    subprocess.run(["cc", HERE / "load_saved_model.c", *options, "-o", program], check=True, timeout=120)
    return program


def ask_by_c(c_program, saved_model, version, signature, path, height, width, outputs):
    """The lines that the C program prints."""
    (name,) = saved_model.signature_def[signature].inputs
    names = [tensor_name(saved_model, signature, "outputs", output) for output in outputs]
    arguments = [version, tensor_name(saved_model, signature, "inputs", name), path, height, width, *names]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [c_program, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_compiler
def test_c_interface_answers_for_bytes(c_program, saved_model, version, tmp_path):
    files, expected = photographs()
    for place, content in enumerate(files):
        path = tmp_path / "photograph"
        path.write_bytes(content)
        outputs = ["probabilities", "classes", "errors"]
        lines = ask_by_c(c_program, saved_model, version, "serving_default", path, 0, 0, outputs)
        np.testing.assert_allclose(
            [float(value) for value in lines[0].split()], expected["probabilities"][place], atol=1e-5
        )
        assert lines[1].strip() == " ".join(small.strings(expected["classes"][place]))
        assert lines[2].strip() == ""


@needs_compiler
def test_c_interface_answers_for_pixels(c_program, saved_model, version, tmp_path):
    pictures, expected = prepared_pictures()
    path = tmp_path / "pixels"
    path.write_bytes(pictures[0].tobytes())
    size = small.IMAGE_SIZE
    (line,) = ask_by_c(c_program, saved_model, version, "images", path, size, size, ["probabilities"])
    np.testing.assert_allclose([float(value) for value in line.split()], expected[0], atol=1e-5)


@needs_compiler
def test_c_interface_is_told_of_a_bad_file(c_program, saved_model, version, tmp_path):
    path = tmp_path / "bad"
    path.write_bytes(small.damaged())
    (line,) = ask_by_c(c_program, saved_model, version, "serving_default", path, 0, 0, ["errors"])
    assert line.startswith("Expected a whole JPEG or PNG. Received: ")


def test_saved_model_cli_runs_it(version, tmp_path):
    pictures, expected = prepared_pictures()
    np.save(tmp_path / "pictures.npy", pictures)
    program = pathlib.Path(sys.executable).with_name("saved_model_cli")
    arguments = ["--tag_set", "serve", "--signature_def", "images", "--inputs", f"images={tmp_path}/pictures.npy"]
    command = [sys.executable, program, "run", "--dir", version, *arguments, "--outdir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), expected, atol=1e-5)


def test_it_loads_where_this_package_is_not(version, tmp_path):
    files, expected = photographs()
    (tmp_path / "photograph").write_bytes(files[0])
    code = f"""
        import json, sys
        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "alexnet_tf":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Absent())
        import tensorflow as tf
        assert len(tf.config.list_logical_devices()) == 1
        function = tf.saved_model.load({version!r}).signatures["serving_default"]
        answer = function(image_bytes=tf.constant([open("photograph", "rb").read()]))
        assert "alexnet_tf" not in sys.modules
        print(json.dumps(answer["probabilities"].numpy().tolist()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=180, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), expected["probabilities"][:1], atol=1e-6)


def test_openvino_answers_by_its_own_kernels(version, saved_model, tmp_path):
    openvino = pytest.importorskip("openvino")
    shutil.copytree(version, tmp_path / "alone")
    # It reads whatever is the default signature, and knows no operations on strings: the one of pixels is left.
    alone = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    graph = alone.meta_graphs.add()
    graph.CopyFrom(saved_model)
    signature = graph.signature_def["images"]
    for name in ("classes", "scores"):
        del signature.outputs[name]
    graph.signature_def.clear()
    graph.signature_def["serving_default"].CopyFrom(signature)
    (tmp_path / "alone" / "saved_model.pb").write_bytes(alone.SerializeToString())
    model = openvino.convert_model(tmp_path / "alone")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    pictures, expected = prepared_pictures()
    (answer,) = openvino.Core().compile_model(model, "CPU", exact)(pictures).values()
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_companions_are_written_beside_the_versions(tmp_path):
    write(tmp_path, name="birds-2")
    assert "birds-2" in (tmp_path / "models.config").read_text(encoding="utf-8")
    assert (tmp_path / "request.py").exists()
