"""Whole small models, their gradients by another autodiff (JAX), and what they were fed: written once, by

    pip install jax onnx numpy
    python pruner/tests/gradients/reference.py pruner/tests/gradients

which makes NAME.onnx and NAME.npz for each model. The arrays of an .npz are inputs `x` and `labels`, the loss
`loss`, and for each weight its gradient `d/WEIGHT`. Models are written by hand with onnx.helper; the JAX functions
beside them say the same from the definitions, in f64.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import lax
from onnx import TensorProto, helper, numpy_helper

jax.config.update("jax_enable_x64", True)
random = np.random.default_rng(5)


def weight(*shape, scale=0.4):
    return (random.standard_normal(shape) * scale).astype(np.float32)


def write(folder, name, nodes, weights, x, classes, forward, others=()):
    """`forward(weights, x)` gives scores; the loss is their mean cross-entropy with labels."""
    labels = random.integers(0, classes, x.shape[0])
    integer = x.dtype == np.int64
    shape = ["batch", *x.shape[1:]]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, outputs, name=f"n{i}", **attributes) for i, (op, inputs, outputs, attributes) in enumerate(nodes)],
        name,
        [helper.make_tensor_value_info("x", TensorProto.INT64 if integer else TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, key) for key, value in [*weights.items(), *others]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")

    def loss(weights):
        scores = forward(weights, jnp.asarray(x, None if integer else jnp.float64))
        return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(len(labels)), labels])

    value, gradients = jax.value_and_grad(loss)({key: jnp.asarray(w, jnp.float64) for key, w in weights.items()})
    arrays = {"x": x, "labels": labels, "loss": np.float32(value)}
    arrays |= {f"d/{key}": np.asarray(g, np.float32) for key, g in gradients.items()}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    print(name, float(value))


def image(*shape):
    return random.standard_normal(shape).astype(np.float32)


def conv(x, w, strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1):
    return lax.conv_general_dilated(x, w, strides, pads, rhs_dilation=dilations, feature_group_count=groups)


def channel(v):
    return v[None, :, None, None]


def pool(x, kernel, strides, pads, greatest):
    window, stride = (1, 1, *kernel), (1, 1, *strides)
    pads = ((0, 0), (0, 0), *pads)
    if greatest:
        return lax.reduce_window(x, -jnp.inf, lax.max, window, stride, pads)
    total = lax.reduce_window(x, 0.0, lax.add, window, stride, pads)
    return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, window, stride, pads)


def layer_norm(x, scale, bias, epsilon=1e-5):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon) * scale + bias


def gelu(x):
    return 0.5 * x * (1 + jax.scipy.special.erf(x / np.sqrt(2)))


def models(folder):
    w = {"w1": weight(12, 16), "b1": weight(16), "w2": weight(5, 16), "b2": weight(5)}
    write(folder, "mlp", [
        ("Gemm", ["x", "w1", "b1"], ["h"], {}), ("Relu", ["h"], ["r"], {}),
        ("Gemm", ["r", "w2", "b2"], ["y"], {"transB": 1}),
    ], w, image(6, 12), 5, lambda w, x: jax.nn.relu(x @ w["w1"] + w["b1"]) @ w["w2"].T + w["b2"])

    w = {"w1": weight(6, 1, 3, 3), "b1": weight(6), "w2": weight(8, 6, 3, 3), "w3": weight(8, 4)}
    write(folder, "lenet", [
        ("Conv", ["x", "w1", "b1"], ["a"], {"pads": [1, 1, 1, 1]}), ("Tanh", ["a"], ["b"], {}),
        ("MaxPool", ["b"], ["c"], {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Conv", ["c", "w2"], ["d"], {"strides": [2, 2]}), ("Sigmoid", ["d"], ["e"], {}),
        ("AveragePool", ["e"], ["f"], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
        ("GlobalAveragePool", ["f"], ["g"], {}), ("Flatten", ["g"], ["i"], {}), ("MatMul", ["i", "w3"], ["y"], {}),
    ], w, image(4, 1, 11, 11), 4, lambda w, x: pool(jax.nn.sigmoid(conv(
        pool(jnp.tanh(conv(x, w["w1"], pads=((1, 1), (1, 1))) + channel(w["b1"])), (3, 3), (2, 2), ((0, 0), (0, 0)), True),
        w["w2"], (2, 2))), (2, 2), (1, 1), ((1, 0), (1, 0)), False).mean((2, 3)) @ w["w3"])

    w = {"w1": weight(8, 3, 3, 3), "s1": 1 + weight(8), "o1": weight(8), "w2": weight(8, 1, 3, 3), "w3": weight(8, 8, 1, 1), "w4": weight(8, 3)}
    statistics = [("m1", weight(8)), ("v1", (0.5 + random.random(8)).astype(np.float32))]
    mean, variance = (channel(value) for _, value in statistics)
    def mobile(w, x):
        a = conv(x, w["w1"], (2, 2), ((1, 1), (1, 1)))
        a = jnp.clip((a - mean) / jnp.sqrt(variance + 1e-5) * channel(w["s1"]) + channel(w["o1"]), 0, 6)
        return (conv(conv(a, w["w2"], pads=((1, 1), (1, 1)), groups=8), w["w3"]) + a).mean((2, 3)) @ w["w4"]
    write(folder, "mobilenet", [
        ("Conv", ["x", "w1"], ["a"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["a", "s1", "o1", "m1", "v1"], ["b"], {}), ("Clip", ["b", "low", "high"], ["c"], {}),
        ("Conv", ["c", "w2"], ["d"], {"pads": [1, 1, 1, 1], "group": 8}), ("Conv", ["d", "w3"], ["e"], {}),
        ("Add", ["e", "c"], ["f"], {}), ("ReduceMean", ["f", "axes"], ["g"], {"keepdims": 0}), ("MatMul", ["g", "w4"], ["y"], {}),
    ], w, image(3, 3, 9, 9), 3, mobile,
        [*statistics, ("low", np.float32(0)), ("high", np.float32(6)), ("axes", np.array([2, 3]))])

    w = {"w1": weight(6, 2, 3, 3), "w2": weight(6, 3)}
    write(folder, "dilated", [
        ("Conv", ["x", "w1"], ["a"], {"group": 2, "dilations": [2, 2], "pads": [2, 1, 2, 1]}), ("Elu", ["a"], ["b"], {}),
        ("GlobalMaxPool", ["b"], ["c"], {}), ("Flatten", ["c"], ["d"], {}), ("MatMul", ["d", "w2"], ["y"], {}),
    ], w, image(3, 4, 8, 7), 3, lambda w, x: jax.nn.elu(conv(
        x, w["w1"], pads=((2, 2), (1, 1)), dilations=(2, 2), groups=2)).max((2, 3)) @ w["w2"])

    w = {"w1": weight(2, 4, 3, 3), "w2": weight(4, 2, 4, 4), "w3": weight(2, 3)}
    def decoder(w, x):
        a = jax.nn.softplus(up(x, w["w1"], 2, (1, 1), 1))
        return up(a, w["w2"], 2, (1, 1), 0).mean((2, 3)) @ w["w3"]
    def up(x, w, stride, pads, more):
        k = w.shape[2] - 1
        return lax.conv_general_dilated(x, jnp.swapaxes(w[:, :, ::-1, ::-1], 0, 1), (1, 1), [(k - pads[0], k - pads[1] + more)] * 2, lhs_dilation=(stride, stride))
    write(folder, "decoder", [
        ("ConvTranspose", ["x", "w1"], ["a"], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ("Softplus", ["a"], ["b"], {}), ("ConvTranspose", ["b", "w2"], ["c"], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("GlobalAveragePool", ["c"], ["d"], {}), ("Flatten", ["d"], ["e"], {}), ("MatMul", ["e", "w3"], ["y"], {}),
    ], w, image(3, 2, 4, 4), 3, decoder)

    d, heads = 8, 2
    w = {"table": weight(11, d), "s0": 1 + weight(d), "o0": weight(d), "wq": weight(d, d), "wk": weight(d, d), "wv": weight(d, d), "wo": weight(d, d), "bo": weight(d),
         "s1": 1 + weight(d), "o1": weight(d), "f1": weight(d, 16), "c1": weight(16), "f2": weight(16, d), "head": weight(d, 4)}
    def split(v):
        return v.reshape(v.shape[0], -1, heads, d // heads).transpose(0, 2, 1, 3)
    def transformer(w, x):
        h = layer_norm(w["table"][x], w["s0"], w["o0"])
        q, k, v = (split(h @ w[name]) for name in ("wq", "wk", "wv"))
        a = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) * 0.5) @ v
        h = layer_norm(h + a.transpose(0, 2, 1, 3).reshape(h.shape) @ w["wo"] + w["bo"], w["s1"], w["o1"])
        h = h + gelu(h @ w["f1"] + w["c1"]) @ w["f2"]
        return h[:, 0] @ w["head"]
    part = lambda name: [("MatMul", ["h", f"w{name}"], [f"{name}0"], {}), ("Reshape", [f"{name}0", "split"], [f"{name}1"], {}), ("Transpose", [f"{name}1"], [f"{name}2"], {"perm": [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]})]
    write(folder, "transformer", [
        ("Gather", ["table", "x"], ["e"], {}), ("LayerNormalization", ["e", "s0", "o0"], ["h"], {}), *part("q"), *part("k"), *part("v"),
        ("MatMul", ["q2", "k2"], ["s"], {}), ("Mul", ["s", "half"], ["t"], {}), ("Softmax", ["t"], ["p"], {}), ("MatMul", ["p", "v2"], ["m"], {}),
        ("Transpose", ["m"], ["m1"], {"perm": [0, 2, 1, 3]}), ("Reshape", ["m1", "join"], ["m2"], {}), ("MatMul", ["m2", "wo"], ["o"], {}), ("Add", ["o", "bo"], ["oo"], {}),
        ("Add", ["h", "oo"], ["r"], {}), ("LayerNormalization", ["r", "s1", "o1"], ["n"], {}), ("MatMul", ["n", "f1"], ["f"], {}), ("Add", ["f", "c1"], ["g"], {}),
        ("Gelu", ["g"], ["u"], {}), ("MatMul", ["u", "f2"], ["z"], {}), ("Add", ["n", "z"], ["l"], {}), ("Gather", ["l", "zero"], ["cls"], {"axis": 1}), ("MatMul", ["cls", "head"], ["y"], {}),
    ], w, random.integers(0, 11, (3, 6)), 4, transformer,
        [("split", np.array([0, 0, heads, d // heads])), ("join", np.array([0, 0, d])), ("half", np.float32(0.5)), ("zero", np.array(0))])

    hidden = 5
    def gru(w, x):
        h = jnp.zeros((x.shape[1], hidden))
        for t in range(x.shape[0]):
            a, r = x[t] @ w["w"][0].T + w["b"][0, :15], h @ w["r"][0].T + w["b"][0, 15:]
            z, reset = jax.nn.sigmoid(a[:, :5] + r[:, :5]), jax.nn.sigmoid(a[:, 5:10] + r[:, 5:10])
            h = (1 - z) * jnp.tanh(a[:, 10:] + reset * r[:, 10:]) + z * h
        return h @ w["head"]
    def lstm(w, x):
        h = c = jnp.zeros((x.shape[1], hidden))
        for t in range(x.shape[0]):
            i, o, f, g = jnp.split(x[t] @ w["w"][0].T + h @ w["r"][0].T + w["b"][0, :20] + w["b"][0, 20:], 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h @ w["head"]
    for name, op, gates, function, attributes in [("gru", "GRU", 3, gru, {"linear_before_reset": 1}), ("lstm", "LSTM", 4, lstm, {})]:
        w = {"w": weight(1, gates * hidden, 4), "r": weight(1, gates * hidden, hidden), "b": weight(1, 2 * gates * hidden), "head": weight(hidden, 3)}
        write(folder, name, [
            ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}), (op, ["t", "w", "r", "b"], ["", "last"], {"hidden_size": hidden, **attributes}),
            ("Squeeze", ["last", "axis"], ["h"], {}), ("MatMul", ["h", "head"], ["y"], {}),
        ], w, image(4, 6, 4), 3, lambda w, x, function=function: function(w, x.transpose(1, 0, 2)), [("axis", np.array([0]))])

    w = {"w1": weight(4, 3, 1, 1), "s": 1 + weight(4), "o": weight(4), "w2": weight(4, 4, 3, 3), "w3": weight(8, 3)}
    def unet(w, x):
        a = conv(x, w["w1"]).reshape(x.shape[0], 2, -1)
        a = ((a - a.mean(-1, keepdims=True)) / jnp.sqrt(a.var(-1, keepdims=True) + 1e-5)).reshape(x.shape[0], 4, 6, 6)
        a = jax.nn.silu(a * channel(w["s"]) + channel(w["o"]))
        b = pool(a, (2, 2), (2, 2), ((0, 0), (0, 0)), True)
        b = jnp.repeat(jnp.repeat(conv(b, w["w2"], pads=((1, 1), (1, 1))), 2, axis=2), 2, axis=3)
        return jnp.concatenate([a, b], 1).mean((2, 3)) @ w["w3"]
    write(folder, "unet", [
        ("Conv", ["x", "w1"], ["a"], {}), ("Reshape", ["a", "groups"], ["a1"], {}), ("InstanceNormalization", ["a1", "one", "none"], ["a2"], {}), ("Reshape", ["a2", "whole"], ["a3"], {}),
        ("Unsqueeze", ["s", "places"], ["s1"], {}), ("Unsqueeze", ["o", "places"], ["o1"], {}), ("Mul", ["a3", "s1"], ["a4"], {}), ("Add", ["a4", "o1"], ["a5"], {}),
        ("Sigmoid", ["a5"], ["g"], {}), ("Mul", ["a5", "g"], ["h"], {}), ("MaxPool", ["h"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["p", "w2"], ["q"], {"pads": [1, 1, 1, 1]}), ("Resize", ["q", "", "scales"], ["u"], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
        ("Concat", ["h", "u"], ["c"], {"axis": 1}), ("GlobalAveragePool", ["c"], ["d"], {}), ("Flatten", ["d"], ["e"], {}), ("MatMul", ["e", "w3"], ["y"], {}),
    ], w, image(2, 3, 6, 6), 3, unet,
        [("groups", np.array([0, 2, -1])), ("whole", np.array([-1, 4, 6, 6])), ("one", np.ones(2, np.float32)), ("none", np.zeros(2, np.float32)), ("places", np.array([1, 2])), ("scales", np.array([1, 1, 2, 2], np.float32))])

    w = {"table": weight(7, 6), "w1": weight(6, 9), "w2": weight(3, 4)}
    def gated(w, x):
        h = w["table"][x]
        h = h / jnp.sqrt((h ** 2).mean(-1, keepdims=True) + 1e-6)
        a, b, c = jnp.split(h @ w["w1"], 3, axis=-1)
        return jnp.einsum("bti,btj->bij", a * jax.nn.sigmoid(b), c).sum(1) @ w["w2"]
    write(folder, "gated", [
        ("Gather", ["table", "x"], ["e"], {}), ("Pow", ["e", "two"], ["p"], {}), ("ReduceMean", ["p", "last"], ["m"], {}), ("Add", ["m", "tiny"], ["m1"], {}),
        ("Sqrt", ["m1"], ["r"], {}), ("Div", ["e", "r"], ["h"], {}), ("MatMul", ["h", "w1"], ["f"], {}), ("Split", ["f"], ["a", "b", "c"], {"axis": -1, "num_outputs": 3}),
        ("Sigmoid", ["b"], ["s"], {}), ("Mul", ["a", "s"], ["g"], {}), ("Einsum", ["g", "c"], ["o"], {"equation": "bti,btj->bij"}), ("ReduceSum", ["o", "first"], ["v"], {"keepdims": 0}), ("MatMul", ["v", "w2"], ["y"], {}),
    ], w, random.integers(0, 7, (4, 5)), 4, gated, [("two", np.float32(2)), ("last", np.array([-1])), ("tiny", np.float32(1e-6)), ("first", np.array([1]))])

    w = {"w1": weight(4, 2, 3), "s": np.array([0.1, 0.3, 0.2, 0.4], np.float32).reshape(4, 1), "w2": weight(12, 3)}
    def signal(w, x):
        a = lax.conv_general_dilated(jnp.pad(x, ((0, 0), (0, 0), (2, 1)), mode="edge"), w["w1"], (2,), ((0, 0),))
        a = jnp.where(a >= 0, a, a * w["s"])
        b = jnp.concatenate([a.max(-1), jnp.sqrt((a ** 2).sum(-1)), jax.nn.logsumexp(a, -1)], -1)
        return jnp.tanh(b) @ w["w2"]
    write(folder, "signal", [
        ("Pad", ["x", "pads"], ["p"], {"mode": "edge"}), ("Conv", ["p", "w1"], ["a"], {"strides": [2]}), ("PRelu", ["a", "s"], ["b"], {}),
        ("ReduceMax", ["b", "last"], ["c"], {"keepdims": 0}), ("ReduceL2", ["b", "last"], ["d"], {"keepdims": 0}), ("ReduceLogSumExp", ["b", "last"], ["e"], {"keepdims": 0}),
        ("Concat", ["c", "d", "e"], ["f"], {"axis": -1}), ("Tanh", ["f"], ["g"], {}), ("MatMul", ["g", "w2"], ["y"], {}),
    ], w, image(3, 2, 10), 3, signal, [("pads", np.array([0, 0, 2, 0, 0, 1])), ("last", np.array([-1]))])

    w = {"w1": weight(6, 8), "s": 1 + weight(8), "o": weight(8), "w2": weight(8, 3)}
    write(folder, "decomposed", [
        ("MatMul", ["x", "w1"], ["h"], {}), ("ReduceMean", ["h", "last"], ["m"], {}), ("Sub", ["h", "m"], ["c"], {}), ("Mul", ["c", "c"], ["q"], {}), ("ReduceMean", ["q", "last"], ["v"], {}),
        ("Add", ["v", "tiny"], ["v1"], {}), ("Sqrt", ["v1"], ["d"], {}), ("Div", ["c", "d"], ["n"], {}), ("Mul", ["n", "s"], ["n1"], {}), ("Add", ["n1", "o"], ["n2"], {}),
        ("Div", ["n2", "root"], ["e"], {}), ("Erf", ["e"], ["e1"], {}), ("Add", ["e1", "one"], ["e2"], {}), ("Mul", ["n2", "e2"], ["u"], {}), ("Mul", ["u", "half"], ["g"], {}), ("MatMul", ["g", "w2"], ["y"], {}),
    ], w, image(5, 6), 3, lambda w, x: gelu(layer_norm(x @ w["w1"], w["s"], w["o"])) @ w["w2"],
        [("last", np.array([-1])), ("tiny", np.float32(1e-5)), ("root", np.float32(np.sqrt(2))), ("one", np.float32(1)), ("half", np.float32(0.5))])


if __name__ == "__main__":
    models(Path(sys.argv[1]))
