"""Models that the tests share: small ones made here, real ones from the folder PODA_TEST_MODELS."""

import os
import pathlib
import sys

# `python -m pytest` in python/ puts that folder first, where the package lies without its compiled module: the installed one is
# meant.
SOURCE = pathlib.Path(__file__).parents[1]
sys.path[:] = [path for path in sys.path if pathlib.Path(path or ".").resolve() != SOURCE]

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def model_of(nodes, inputs, outputs, weights=()):
    """The bytes of an ONNX model; inputs and outputs are (name, type, shape)."""
    values = [[helper.make_tensor_value_info(*port) for port in ports] for ports in (inputs, outputs)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "made", *values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


WEIGHTS = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)


@pytest.fixture(scope="session")
def product():
    """`y = max(x · W, 0)`, [batch, 64] to [batch, 32], as bytes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    ports = [("x", TensorProto.FLOAT, ["batch", 64])], [("y", TensorProto.FLOAT, ["batch", 32])]
    return model_of(nodes, *ports, [("w", WEIGHTS)])


@pytest.fixture
def path(product, tmp_path):
    """The same, as a file."""
    path = tmp_path / "product.onnx"
    path.write_bytes(product)
    return path


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)


@pytest.fixture
def real():
    """The path of a real model by its name; the test is skipped, by that name, where it is not there."""

    def find(name):
        folder = os.environ.get("PODA_TEST_MODELS")
        found = pathlib.Path(folder or ".") / f"{name}.onnx"
        if folder and found.exists():
            return found
        if os.environ.get("CI") and name not in unavailable():
            pytest.fail(f"{name} is not there; tests/run.sh fetches it")
        pytest.skip(f"{name} is not there; tests/run.sh fetches it")

    return find


def unavailable():
    """Names that tests/models/unavailable.txt lists."""
    listed = pathlib.Path(__file__).parents[2] / "tests/models/unavailable.txt"
    return {line.split()[0].removesuffix(".onnx") for line in listed.read_text().splitlines() if line.strip("# ")}
