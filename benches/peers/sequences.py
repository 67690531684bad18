"""Networks over sequences with the shapes of well-known ones and random weights: what depends on shapes only, speed, is the same.

`write(name, path)` makes one; run as a program, it writes NAME to PATH: `sequences.py denoiser out.onnx`.
"""

import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Network:
    """A graph that grows node by node; methods take and give names of values."""

    def __init__(self):
        self.random = numpy.random.default_rng(0)
        self.nodes, self.weights = [], []

    def node(self, op, *inputs, outputs=1, **attributes):
        name = f"{op.lower()}_{len(self.nodes)}"
        names = [name] + [f"{name}.{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        return name

    def constant(self, array):
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(numpy.asarray(array), name))
        return name

    def uniform(self, shape, bound):
        """As PyTorch starts its layers."""
        return self.constant(self.random.uniform(-bound, bound, shape).astype(numpy.float32))

    def linear(self, x, inputs, outputs, activation=None):
        """A MatMul and an Add, as exporters write linear layers over sequences."""
        bound = inputs**-0.5
        y = self.node("MatMul", x, self.uniform([inputs, outputs], bound))
        y = self.node("Add", y, self.uniform([outputs], bound))
        return self.node(activation, y) if activation else y

    def recurrent(self, op, x, inputs, hidden, direction="forward", **attributes):
        """`[sequence, batch, inputs]` to `[sequence, batch, directions · hidden]`."""
        gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
        directions = 2 if direction == "bidirectional" else 1
        bound = hidden**-0.5
        w = self.uniform([directions, gates * hidden, inputs], bound)
        r = self.uniform([directions, gates * hidden, hidden], bound)
        b = self.uniform([directions, 2 * gates * hidden], bound)
        y = self.node(op, x, w, r, b, hidden_size=hidden, direction=direction, **attributes)
        if directions == 1:
            return self.node("Squeeze", y, self.constant(numpy.array([1], numpy.int64)))
        y = self.node("Transpose", y, perm=[0, 2, 1, 3])
        return self.node("Reshape", y, self.constant(numpy.array([0, 0, -1], numpy.int64)))

    def conv(self, x, inputs, outputs, kernel=3, padding=1):
        w = self.uniform([outputs, inputs, kernel, kernel], (inputs * kernel * kernel / 6) ** -0.5)
        y = self.node("Conv", x, w, self.uniform([outputs], 0.05), kernel_shape=[kernel] * 2, pads=[padding] * 4)
        return self.node("Relu", y)

    def pool(self, x, height, width):
        return self.node("MaxPool", x, kernel_shape=[height, width], strides=[height, width])

    def model(self, name, shape, output):
        given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * 3)
        graph = helper.make_graph(self.nodes, name, [given], [value], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def denoiser():
    """Speech: a mask for each of 513 frequencies of each frame, by two GRUs between linear layers."""
    n = Network()
    y = n.linear("x", 513, 600)
    y = n.node("Transpose", y, perm=[1, 0, 2])
    for _ in range(2):
        y = n.recurrent("GRU", y, 600, 600, linear_before_reset=1)
    y = n.node("Transpose", y, perm=[1, 0, 2])
    y = n.linear(y, 600, 800, "Relu")
    y = n.linear(y, 800, 800, "Relu")
    return n.model("denoiser", ["batch", "frames", 513], n.linear(y, 800, 513, "Sigmoid"))


def recogniser():
    """Text in an image of 32 rows: convolutions down to one row, two bidirectional LSTMs over its columns."""
    n = Network()
    y = n.pool(n.conv("x", 1, 64), 2, 2)
    y = n.pool(n.conv(y, 64, 128), 2, 2)
    y = n.conv(n.conv(y, 128, 256), 256, 256)
    y = n.pool(y, 2, 1)
    y = n.conv(n.conv(y, 256, 512), 512, 512)
    y = n.pool(y, 2, 1)
    y = n.conv(y, 512, 512, 2, 0)
    y = n.node("Squeeze", y, n.constant(numpy.array([2], numpy.int64)))
    y = n.node("Transpose", y, perm=[2, 0, 1])
    for inputs in (512, 512):
        y = n.recurrent("LSTM", y, inputs, 256, "bidirectional")
    return n.model("recogniser", ["batch", 1, 32, "width"], n.linear(y, 512, 97))


# The function that makes each, and the shapes of its inputs.
NETWORKS = {
    "denoiser": (denoiser, {"x": [1, 40, 513]}),
    "recogniser": (recogniser, {"x": [1, 1, 32, 100]}),
}


def write(name, path):
    """Makes a network and writes it to `path`."""
    model = NETWORKS[name][0]()
    onnx.checker.check_model(model)
    onnx.save(model, path)


if __name__ == "__main__":
    write(*sys.argv[1:])
