"""The files next to an export, run and read as their users would."""

import json
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import google.protobuf.text_format
import pytest
import stand_in

from alexnet_tf.export import deployment
from alexnet_tf.serving import client
from alexnet_tf.serving import stub_server


@pytest.fixture(scope="module")
def export_dir(tmp_path_factory):
    """An export of the stand-in network with the deployment files, and an image."""
    directory = tmp_path_factory.mktemp("two words")
    stand_in.save(directory)
    deployment.write(directory, "alexnet")
    (directory / "image.png").write_bytes(stand_in.png(10, 20, 70))
    return directory


def test_files_contain_the_model_name_and_ports(tmp_path):
    paths = deployment.write(tmp_path, "birds-2")
    assert {pathlib.Path(path).name for path in paths} == {entry.name for entry in tmp_path.iterdir()}
    for path in paths:
        text = pathlib.Path(path).read_text(encoding="utf-8")
        assert "birds-2" in text or path.endswith("batching.config")
        assert not re.search(r"NAME|_PORT", text)


def test_model_config_is_parsed_by_tensorflow_serving(export_dir):
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    read = google.protobuf.text_format.Parse((export_dir / "models.config").read_text(), config.ModelServerConfig())
    (model,) = read.model_config_list.config
    assert (model.name, model.base_path) == ("alexnet", "/models/alexnet")
    assert model.model_platform == "tensorflow"


def test_batching_config_has_the_fields_of_tensorflow_serving(export_dir):
    # No package contains the message; these are fields of tensorflow.serving.BatchingParameters.
    lines = [line for line in (export_dir / "batching.config").read_text().splitlines() if not line.startswith("#")]
    fields = dict(re.fullmatch(r"(\w+) \{ value: (\d+) \}", line).groups() for line in lines)
    assert fields == {"max_batch_size": "32", "batch_timeout_micros": "2000", "max_enqueued_batches": "100"}


def test_server_is_started_with_these_files(export_dir, tmp_path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", export_dir / "serve.sh"], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=30
    )
    assert done.returncode == 0, done.stderr
    arguments = done.stdout.splitlines()
    assert arguments[:2] == ["run", "--rm"]
    assert f"{export_dir}:/models/alexnet:ro" in arguments
    assert arguments[arguments.index("tensorflow/serving") + 1 :] == [
        "--model_config_file=/models/alexnet/models.config",
        "--enable_batching",
        "--batching_parameters_file=/models/alexnet/batching.config",
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_rest_request_gets_a_response(export_dir):
    with client.SavedModel(export_dir) as saved_model:
        server = stand_in.start(stand_in.Rest, model=saved_model, requests=[])
        try:
            command = ["sh", export_dir / "request.sh", export_dir / "image.png"]
            address = f"127.0.0.1:{server.server_port}"
            done = subprocess.run([*command, address], capture_output=True, text=True, timeout=60)
        finally:
            stand_in.stop(server)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    assert outputs["classes"] == [["blue", stand_in.CLASSES[1]]]
    assert outputs["errors"] == [""]


def test_rest_request_without_a_readable_image_is_not_sent(export_dir):
    for arguments, received in ([], "none"), (["/no/such/file"], "/no/such/file"):
        command = ["sh", export_dir / "request.sh", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert done.stderr == f"Expected the path of a readable image. Received: {received}\n"


def request_here(monkeypatch, export_dir, *arguments):
    """Runs request.py in this process; returns the text with which it exits, None at its end."""
    monkeypatch.setattr(sys, "argv", ["request.py", *map(str, arguments)])
    try:
        runpy.run_path(str(export_dir / "request.py"), run_name="__main__")
    except SystemExit as error:
        return error.code


def test_grpc_request_without_a_server_ends_with_one_line(export_dir, monkeypatch):
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    # Nothing listens on port 1.
    said = request_here(monkeypatch, export_dir, export_dir / "image.png", "127.0.0.1:1")
    assert said.startswith("The request to 127.0.0.1:1 failed: UNAVAILABLE (") and "\n" not in said


def test_grpc_request_gets_a_response(export_dir, monkeypatch):
    pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    (export_dir / "bad").write_bytes(stand_in.BAD)
    with stub_server.serve(export_dir) as server:
        address = f"127.0.0.1:{server.port}"
        command = [sys.executable, export_dir / "request.py", export_dir / "image.png", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        said = request_here(monkeypatch, export_dir, export_dir / "bad", address)
    assert done.returncode == 0 and "70.00%  blue" in done.stdout, done.stderr
    assert said.endswith(f"bad: {stand_in.ERROR}")
