"""Networks with the shapes of well-known ones and random weights, for what only depends on shapes: speed.

`write(name, path)` makes one with an open batch. Weights are scaled as for training from scratch, so that activations neither
vanish nor grow, whatever is pruned.
"""

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Network:
    """A graph that grows node by node; methods take and give names of values."""

    def __init__(self, shape, dtype=TensorProto.FLOAT, name="x"):
        self.random = numpy.random.default_rng(0)
        self.nodes, self.weights = [], []
        self.inputs = []
        self.input(name, shape, dtype)

    def input(self, name, shape, dtype=TensorProto.FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, dtype, ["batch", *shape]))
        return name

    def node(self, op, *inputs, **attributes):
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def constant(self, array):
        name = f"constant_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(numpy.asarray(array), name))
        return name

    def normal(self, shape, scale, mean=0.0):
        return self.constant((mean + scale * self.random.standard_normal(shape)).astype(numpy.float32))

    def weight(self, shape):
        """`[out, in, …]`, scaled by the number of inputs."""
        return self.normal(shape, (2 / numpy.prod(shape[1:])) ** 0.5)

    def ints(self, *values):
        return self.constant(numpy.array(values, numpy.int64))

    def scalar(self, value):
        return self.constant(numpy.array(value, numpy.float32))

    def product(self, x, inputs, outputs):
        """With a weight, over the last axis."""
        return self.node("MatMul", x, self.normal([inputs, outputs], inputs**-0.5))

    def linear(self, x, inputs, outputs, activation=None):
        """Over the last axis, as exporters write it over sequences."""
        y = self.product(x, inputs, outputs)
        return self.activation(self.node("Add", self.normal([outputs], 0.05), y), activation)

    def head_major(self, x, heads, size):
        """`[batch, sequence, heads · size]` to `[batch, heads, sequence, size]`."""
        return self.node("Transpose", self.node("Reshape", x, self.ints(0, 0, heads, size)), perm=[0, 2, 1, 3])

    def recurrent(self, op, x, inputs, hidden, directions=1, **attributes):
        """A GRU or LSTM over `[sequence, batch, inputs]`; gives `[sequence, batch, directions · hidden]`."""
        rows = {"GRU": 3, "LSTM": 4}[op] * hidden
        weights = [self.normal([directions, rows, size], hidden**-0.5 / 2) for size in (inputs, hidden)]
        direction = "bidirectional" if directions == 2 else "forward"
        bias = self.normal([directions, 2 * rows], 0.05)
        y = self.node(op, x, *weights, bias, hidden_size=hidden, direction=direction, **attributes)
        return self.node("Reshape", self.node("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))

    def conv(self, x, channels, kernel=(1, 1), stride=1, group=1, activation="Relu"):
        """A convolution of `channels = (in, out)` that keeps the size, with bias and activation."""
        inputs, outputs = channels
        w = self.weight([outputs, inputs // group, *kernel])
        pads = [k // 2 for k in kernel] * 2
        y = self.node(
            "Conv", x, w, self.normal([outputs], 0.05), kernel_shape=kernel, pads=pads,
            strides=[stride] * len(kernel), group=group,
        )  # fmt: skip
        return self.activation(y, activation)

    def activation(self, x, activation):
        match activation:
            case None:
                return x
            case "Silu":
                return self.node("Mul", x, self.node("Sigmoid", x))
            case "Relu6":
                return self.node("Clip", x, self.scalar(0), self.scalar(6))
            case _:
                return self.node(activation, x)

    def classify(self, x, channels, classes=1000):
        """The mean over the image, and a linear layer."""
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.node("Gemm", x, self.weight([classes, channels]), self.normal([classes], 0.05), transB=1)

    def model(self, *outputs):
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", self.inputs, values, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


# Channels inside of a block, blocks and stride of each stage of ResNet-50.
RESNET50 = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]


def resnet50():
    """As torchvision exports it: batch norms are folded, the 3×3 convolution of a block has the stride."""
    net = Network([3, 224, 224])
    x = net.conv("x", (3, 64), (7, 7), 2)
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = 64
    for width, blocks, first in RESNET50:
        for stride in [first] + [1] * (blocks - 1):
            y = net.conv(x, (inputs, width))
            y = net.conv(y, (width, width), (3, 3), stride)
            y = net.conv(y, (width, 4 * width), activation=None)
            if inputs != 4 * width:
                x = net.conv(x, (inputs, 4 * width), stride=stride, activation=None)
            x, inputs = net.node("Relu", net.node("Add", y, x)), 4 * width
    return net.model(net.classify(x, inputs))


def resnet50_tensorflow():
    """As a converter writes a TensorFlow model that computes channels last: transposes around each convolution, pads apart where
    they are not even, and batch norms spelled out."""
    net = Network([224, 224, 3])

    def batch_norm(x, channels):
        centred = net.node("Sub", x, net.normal([channels], 0.05))
        scaled = net.node("Mul", centred, net.normal([channels], 0.05, 0.9))
        return net.node("Add", scaled, net.normal([channels], 0.05))

    def conv(x, inputs, outputs, kernel=1, stride=1, activation=True):
        w = net.weight([outputs, inputs, kernel, kernel])
        if stride > 1 and kernel > 1:
            before, after = (kernel - 1) // 2, kernel // 2
            x = net.node("Pad", x, net.ints(0, before, before, 0, 0, after, after, 0))
        pads = [0 if stride > 1 else kernel // 2] * 4
        x = net.node("Transpose", x, perm=[0, 3, 1, 2])
        x = net.node("Conv", x, w, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)
        x = batch_norm(net.node("Transpose", x, perm=[0, 2, 3, 1]), outputs)
        return net.node("Relu", x) if activation else x

    x = conv("x", 3, 64, 7, 2)
    x = net.node("Pad", x, net.ints(0, 1, 1, 0, 0, 1, 1, 0))
    x = net.node("Transpose", x, perm=[0, 3, 1, 2])
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    inputs = 64
    for width, blocks, first in RESNET50:
        for stride in [first] + [1] * (blocks - 1):
            y = conv(x, inputs, width, 1, stride)
            y = conv(y, width, width, 3)
            y = conv(y, width, 4 * width, activation=False)
            if inputs != 4 * width:
                x = conv(x, inputs, 4 * width, 1, stride, activation=False)
            x, inputs = net.node("Relu", net.node("Add", x, y)), 4 * width
    x = net.node("ReduceMean", x, axes=[1, 2], keepdims=0)
    x = net.node("MatMul", x, net.normal([inputs, 1000], inputs**-0.5))
    return net.model(net.node("Softmax", net.node("Add", x, net.normal([1000], 0.05)), axis=-1))


def mobilenet_v1():
    net = Network([3, 224, 224])
    x = net.conv("x", (3, 32), (3, 3), 2)
    inputs = 32
    for outputs, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        x = net.conv(x, (inputs, inputs), (3, 3), stride, inputs)
        x, inputs = net.conv(x, (inputs, outputs)), outputs
    return net.model(net.classify(x, inputs))


def mobilenet_v2():
    net = Network([3, 224, 224])
    x = net.conv("x", (3, 32), (3, 3), 2, activation="Relu6")
    inputs = 32
    # Expansion, channels, blocks, stride.
    for expand, outputs, blocks, first in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:  # fmt: skip
        for stride in [first] + [1] * (blocks - 1):
            inner, y = expand * inputs, x
            if expand > 1:
                y = net.conv(y, (inputs, inner), activation="Relu6")
            y = net.conv(y, (inner, inner), (3, 3), stride, inner, activation="Relu6")
            y = net.conv(y, (inner, outputs), activation=None)
            x = net.node("Add", x, y) if stride == 1 and inputs == outputs else y
            inputs = outputs
    x = net.conv(x, (inputs, 1280), activation="Relu6")
    return net.model(net.classify(x, 1280))


def detector():
    """Of the kind of YOLO: 3×3 convolutions and SiLU, blocks of two halves, three resolutions."""
    net = Network([3, 320, 320])

    def block(x, channels, depth):
        half = channels // 2
        kept, y = net.conv(x, (channels, half), activation="Silu"), net.conv(x, (channels, half), activation="Silu")
        for _ in range(depth):
            inner = net.conv(y, (half, half), (3, 3), activation="Silu")
            y = net.node("Add", y, net.conv(inner, (half, half), (3, 3), activation="Silu"))
        return net.conv(net.node("Concat", kept, y, axis=1), (channels, channels), activation="Silu")

    x = net.conv("x", (3, 32), (3, 3), 2, activation="Silu")
    maps, inputs = [], 32
    for channels, depth in [(64, 1), (128, 2), (256, 2), (512, 1)]:
        x = block(net.conv(x, (inputs, channels), (3, 3), 2, activation="Silu"), channels, depth)
        maps, inputs = [*maps, x], channels
    outputs = []
    for x, channels in zip(maps[1:], (128, 256, 512), strict=True):
        x = net.conv(x, (channels, 64), (3, 3), activation="Silu")
        x = net.conv(net.conv(x, (64, 64), (3, 3), activation="Silu"), (64, 84), activation=None)
        outputs.append(net.node("Reshape", x, net.ints(0, 84, -1)))
    return net.model(net.node("Concat", *outputs, axis=2))


def bytes_cnn():
    """Text by bytes: an embedding and one-dimensional convolutions."""
    net = Network([512], TensorProto.INT64, "bytes")
    x = net.node("Gather", net.normal([256, 64], 1.0), "bytes")
    x, inputs = net.node("Transpose", x, perm=[0, 2, 1]), 64
    for outputs, kernel, stride in [(256, 7, 1), (256, 7, 1), (256, 3, 2), (256, 3, 1), (512, 3, 2), (512, 3, 1)]:
        x, inputs = net.conv(x, (inputs, outputs), (kernel,), stride), outputs
    return net.model(net.classify(x, inputs, 10))


def bert_base():
    """As PyTorch exports it, attention and GELU spelled out; of a thousand tokens, which change no time but that of reading the file."""
    hidden, heads, inner, layers, longest = 768, 12, 3072, 12, 512
    net = Network(["length"], TensorProto.INT64, "input_ids")

    def norm(x):
        return net.node("LayerNormalization", x, net.normal([hidden], 0.05, 1.0), net.normal([hidden], 0.05), axis=-1)

    places = net.node("Gather", net.node("Shape", "input_ids"), net.constant(numpy.array(1, numpy.int64)))
    places = net.node("Slice", net.normal([longest, hidden], 1.0), net.ints(0), net.node("Unsqueeze", places, net.ints(0)))
    x = norm(net.node("Add", net.node("Gather", net.normal([1000, hidden], 1.0), "input_ids"), places))
    for _ in range(layers):
        q, k, v = (net.head_major(net.linear(x, hidden, hidden), heads, hidden // heads) for _ in range(3))
        scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
        weights = net.node("Softmax", net.node("Div", scores, net.scalar((hidden // heads) ** 0.5)), axis=-1)
        seen = net.node("Transpose", net.node("MatMul", weights, v), perm=[0, 2, 1, 3])
        seen = net.node("Reshape", seen, net.ints(0, 0, hidden))
        x = norm(net.node("Add", net.linear(seen, hidden, hidden), x))
        y = net.linear(x, hidden, inner)
        erf = net.node("Add", net.node("Erf", net.node("Div", y, net.scalar(2**0.5))), net.scalar(1))
        y = net.node("Mul", net.node("Mul", y, erf), net.scalar(0.5))
        x = norm(net.node("Add", net.linear(y, inner, hidden), x))
    return net.model(x)


def llama_step():
    """One token of a decoder of the shape of Llama with 8 layers of 2048, 128 tokens seen before: keys and values come in."""
    hidden, heads, inner, layers, seen = 2048, 16, 5632, 8, 128
    size = hidden // heads
    net = Network([1, hidden])
    cos, sin = net.input("cos", [1, 1, size]), net.input("sin", [1, 1, size])

    def norm(x):
        squares = net.node("ReduceMean", net.node("Mul", x, x), axes=[-1])
        deviation = net.node("Sqrt", net.node("Add", squares, net.scalar(1e-5)))
        return net.node("Mul", net.node("Div", x, deviation), net.normal([hidden], 0.05, 1.0))

    def half(x, start):
        return net.node("Slice", x, net.ints(start), net.ints(start + size // 2), net.ints(3))

    def rotated(x):
        turned = net.node("Concat", net.node("Neg", half(x, size // 2)), half(x, 0), axis=3)
        return net.node("Add", net.node("Mul", x, cos), net.node("Mul", turned, sin))

    x = "x"
    for layer in range(layers):
        y = norm(x)
        q, k, v = (net.head_major(net.product(y, hidden, hidden), heads, size) for _ in range(3))
        past = [net.input(f"past_{kind}_{layer}", [heads, seen, size]) for kind in ("k", "v")]
        keys = net.node("Concat", past[0], rotated(k), axis=2)
        values = net.node("Concat", past[1], v, axis=2)
        scores = net.node("MatMul", rotated(q), net.node("Transpose", keys, perm=[0, 1, 3, 2]))
        weights = net.node("Softmax", net.node("Div", scores, net.scalar(size**0.5)), axis=-1)
        y = net.node("Transpose", net.node("MatMul", weights, values), perm=[0, 2, 1, 3])
        x = net.node("Add", x, net.product(net.node("Reshape", y, net.ints(0, 0, hidden)), hidden, hidden))
        y = norm(x)
        gate = net.activation(net.product(y, hidden, inner), "Silu")
        x = net.node("Add", x, net.product(net.node("Mul", gate, net.product(y, hidden, inner)), inner, hidden))
    return net.model(norm(x))


def denoiser():
    """Speech: a mask for each of 513 frequencies of each frame, by two GRUs between linear layers."""
    net = Network(["frames", 513])
    x = net.node("Transpose", net.linear("x", 513, 600), perm=[1, 0, 2])
    for _ in range(2):
        x = net.recurrent("GRU", x, 600, 600, linear_before_reset=1)
    x = net.node("Transpose", x, perm=[1, 0, 2])
    x = net.linear(net.linear(x, 600, 800, "Relu"), 800, 800, "Relu")
    return net.model(net.linear(x, 800, 513, "Sigmoid"))


def text_recogniser():
    """Text in an image of 32 rows: convolutions down to one row, two bidirectional LSTMs over its columns."""
    net = Network([1, 32, "width"])

    def pool(x, height, width):
        return net.node("MaxPool", x, kernel_shape=[height, width], strides=[height, width])

    x, inputs = "x", 1
    for outputs, pooled in [(64, 2), (128, 2), (256, 0), (256, 1), (512, 0), (512, 1)]:
        x, inputs = net.conv(x, (inputs, outputs), (3, 3)), outputs
        if pooled:
            x = pool(x, 2, pooled)
    x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[1, 1])
    x = net.node("Transpose", net.node("Squeeze", x, net.ints(2)), perm=[2, 0, 1])
    for _ in range(2):
        x = net.recurrent("LSTM", x, 512, 256, directions=2)
    return net.model(net.linear(x, 512, 97))


def lenet_300_100():
    net = Network([784])
    x = "x"
    for inputs, outputs, activation in [(784, 300, "Relu"), (300, 100, "Relu"), (100, 10, None)]:
        x = net.node("Gemm", x, net.weight([outputs, inputs]), net.normal([outputs], 0.05), transB=1)
        x = net.activation(x, activation)
    return net.model(x)


NETWORKS = {
    builder.__name__: builder
    for builder in (
        resnet50, resnet50_tensorflow, mobilenet_v1, mobilenet_v2, detector, bytes_cnn, bert_base, llama_step, lenet_300_100,
        denoiser, text_recogniser,
    )  # fmt: skip
}


def write(name, path):
    onnx.save(NETWORKS[name](), path)
