"""Fixtures: models, target directories and servers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper, load_model_from_string

from loader.transfer.journal import PIECE_SIZE
from tests.integration.loader.fault_server import FaultServer, StoredObject, fault_server
from tests.integration.loader.running import Target

BUCKET = "models"
MODEL = "iris/1/model.onnx"
LABELS = "iris/1/label.json"

Pair = tuple[bytes, bytes]


def make_model(size: int) -> bytes:
    """Return an ONNX model with `size` random bytes of weights."""
    weights = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[size])
    weights.raw_data = os.urandom(size)
    output = helper.make_tensor_value_info("y", TensorProto.UINT8, [size])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [weights])
    model: bytes = helper.make_model(graph).SerializeToString()
    return model


def with_external_data(location: str) -> bytes:
    """Return a model with two tensors in one external data file."""
    model = load_model_from_string(make_model(10))
    del model.graph.initializer[:]
    for name in "uw":
        tensor = model.graph.initializer.add(name=name, data_type=TensorProto.UINT8, dims=[2000])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="2000")
    content: bytes = model.SerializeToString()
    return content


def make_labels(*names: str) -> bytes:
    return json.dumps(dict(enumerate(names))).encode()


@pytest.fixture(scope="session")
def pair() -> Pair:
    """A small model and its labels."""
    return make_model(2000), make_labels("setosa", "versicolor", "virginica")


@pytest.fixture(scope="session")
def large_model() -> bytes:
    """A model that takes more than one request, with an incomplete last piece."""
    return make_model(9 * PIECE_SIZE + 12345)


@pytest.fixture
def server(pair: Pair) -> Iterator[FaultServer]:
    """A fault server with the small pair."""
    with fault_server() as running:
        running.objects |= {MODEL: StoredObject(pair[0]), LABELS: StoredObject(pair[1])}
        yield running


@pytest.fixture
def target(tmp_path: Path, server: FaultServer) -> Target:
    """An empty target directory for loads from the fault server."""
    directory = tmp_path / "workdir"
    directory.mkdir()
    settings = {"GCS_BUCKET": BUCKET, "GCS_MODEL_BLOB": MODEL, "STORAGE_EMULATOR_HOST": server.url}
    return Target(directory, settings)
