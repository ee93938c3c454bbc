"""An export of the stand-in network, and the three ways to query it."""

import pytest
import stand_in

from alexnet_tf.serving import client
from alexnet_tf.serving import stub_server


@pytest.fixture(scope="session")
def export_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("export")
    stand_in.save(directory)
    return directory


@pytest.fixture(scope="session")
def saved_model(export_dir):
    return client.SavedModel(export_dir)


@pytest.fixture(scope="module")
def grpc_address(export_dir):
    with stub_server.serve(export_dir) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def rest_server(saved_model):
    server = stand_in.start(stand_in.Rest, model=saved_model, requests=[])
    yield server
    stand_in.stop(server)


@pytest.fixture
def rest_address(rest_server):
    return f"127.0.0.1:{rest_server.server_port}"


@pytest.fixture(params=["saved_model", "grpc", "rest"])
def backend(request):
    if request.param == "saved_model":
        yield request.getfixturevalue("saved_model")
    else:
        address = request.getfixturevalue(f"{request.param}_address")
        with client.open_server(address, request.param, timeout=30) as server:
            yield server
